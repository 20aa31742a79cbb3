"""Pairs of passes that no other test puts together: numbers that can be, or a refusal in one line.

Passes of the same stage as well, drawn anew wherever the seed changes. A pair changes
the parameters as one of the two does alone, or not at all.
"""

from __future__ import annotations

import math
import random
from functools import cache
from itertools import combinations

import pytest

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError
from costgraph.models import load_model
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import parse

SEED, COUNT = 7, 3
DEVICE = "2xh100+epyc-9654"
SIZES = {"B": 4, "S": 64, "N": 8, "T": 72}
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 256, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
MODELS = {
    "dense": LLAMA,
    "experts": {
        **LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2,
    },
    "encoder-decoder": {
        "model_type": "t5", "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4,
        "num_layers": 4, "num_decoder_layers": 4, "vocab_size": 256,
        "feed_forward_proj": "relu", "relative_attention_num_buckets": 8,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
#: How passes are written that need options, or small ones, here; others by their name.
WRITTEN = {
    "active": "active{neurons=0.1,heads=0.5,rank=8}",
    "chain": "chain{chips=2}",
    "disaggregate": "disaggregate{link=nvlink}",
    "evict": "evict{most=40}",
    "index": "index{top=16}",
    "landmark": "landmark{block=8}",
    "low-rank": "low-rank{rank=16}",
    "memory-slots": "memory-slots{segment=8,slots=3}",
    "memory-tokens": "memory-tokens{segment=8,tokens=2}",
    "offload": "offload{weights=host:1/2,caches=host:1/2}",
    "page-kv": "page-kv{block=8}",
    "parallel": "parallel{tp=2}",
    "place": "place{attention=host}",
    "prefix-cache": "prefix-cache{share=1/4}",
    "prune": "prune{sparsity=0.7}",
    "quantize": "quantize{preset=w8a8kv8}",
    "recur": "recur{segment=40}",
    "retrieve": "retrieve{documents=1000,passages=2,length=8}",
    "samples": "samples{count=3}",
    "select": "select{blocks=2,block=8}",
    "share-prefix": "share-prefix{tokens=9}",
    "shrink": "shrink{heads=1/2,ffn=1/2}",
    "snap-kv": "snap-kv{keep=16}",
    "speculative": "speculative{draft=heads,gamma=2}",
    "turns": "turns{count=2}",
    "window": "window{size=24}",
}
#: Searches try many programs; their results are those of other passes.
LEFT = {"search-subnet", "transformer-engine"}
PAIRS = random.Random(SEED).sample(
    list(combinations(sorted(set(PASSES) - LEFT), 2)), COUNT * len(MODELS)
)
CASES = [(kind, *PAIRS[i]) for i, kind in enumerate(list(MODELS) * COUNT)]


@cache
def compiled(kind: str, *names: str) -> Compiled | str:
    """What the passes make of a model, or why they are refused."""
    text = ",".join(WRITTEN.get(name, name) for name in names)
    try:
        return cg.compile(load_model(MODELS[kind]), DEVICE, text)
    except CostgraphError as error:
        return str(error)


@pytest.mark.parametrize("name", WRITTEN)
def test_passes_are_written_as_they_are(name):
    """A mistake in the text would pass for a refusal of the pair."""
    (made,) = parse(WRITTEN[name], PASSES)
    assert made.name == name


@pytest.mark.parametrize(("kind", "first", "second"), CASES)
def test_a_pair_gives_what_can_be_or_says_why_not(kind, first, second):
    both = compiled(kind, first, second)
    if isinstance(both, str):
        assert 0 < len(both) < 400
        assert "\n" not in both
        return
    for metric in ("latency", "memory", "flops"):
        formula = getattr(both, metric)
        value = formula.evaluate(**{s.name: SIZES.get(s.name, 2) for s in formula.symbols})
        assert 0 < value < math.inf
    for phase in both.program.phases:
        try:
            step = both.breakdown(phase.name, B=4, S=64, T=72)
        except CostgraphError:  # phases of other sizes
            continue
        assert all(r.flops >= 0 and r.bytes >= 0 and r.seconds >= 0 for r in step.rows)
    alone = [compiled(kind, name) for name in (first, second)]
    counts = {made.parameters for made in alone if isinstance(made, Compiled)}
    plain = compiled(kind)
    assert isinstance(plain, Compiled)
    if all(isinstance(made, Compiled) for made in alone) and plain.parameters in counts:
        assert both.parameters in counts
