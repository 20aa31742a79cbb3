"""Passes mean the same in every written order, and do to each model what they do to it alone.

Fourteen classes of models, three passes at a time. A draft's part of a program is the
draft compiled alone with the same passes; the target verifies in the graph that it has
alone with logits for every position.
"""

from __future__ import annotations

import json
import random
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError, InputError
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.models import find, load_model
from costgraph.models.torch_export import from_torch, read_traced
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import Stage, parse

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"
TRACED = Path(__file__).parents[1] / "importers" / "data" / "tiny-llama.traced.json"
DEVICE = "4xh100"
SEED = 20

#: Class to a shipped model that stands for it, and what makes a draft of it.
CLASSES = {
    "dense": ("llama-3.2-1b", {"num_hidden_layers": 4, "hidden_size": 1024}),
    "experts": ("mixtral-8x7b", {"num_hidden_layers": 4}),
    "latent": ("deepseek-v2-lite", {"num_hidden_layers": 4}),
    "hybrid": ("jamba-v0.1", {"num_hidden_layers": 8}),
    "state space": ("mamba-130m", {"num_hidden_layers": 3}),
    "multimodal": ("qwen2-vl-7b", {"num_hidden_layers": 3}),
    "encoder-decoder": ("whisper-small", {"decoder_layers": 2, "encoder_layers": 3}),
    "encoder": ("bert-base", {}),
    "diffusion": ("dit-xl-2", {}),
    "vision": ("vit-base-16", {}),
    "windowed": ("gemma-2-2b", {"num_hidden_layers": 4}),
    "text diffusion": ("llada-8b", {}),
    "flow": ("tarflow-cifar", {}),
    "imported": ("", {}),
}
#: Pass to the ways in which it is written here; DRAFT is the path of a draft.
WRITTEN = {
    "recognise": ["recognise"],
    "fold": ["fold"],
    "fuse": ["fuse", "fuse{attention=none,prologue=true}"],
    "quantize": [
        "quantize{preset=w4a16}",
        "quantize{preset=w8a8kv8}",
        "quantize{weights=int8,first=1,keep=none}",
        "quantize{weights=bcq3,kernel=tables,kv=kivi2}",
        "quantize{weights=olaccel4,activations=olaccel4,kv=kvquant3,rotate=online,tile=64}",
    ],
    "prune": ["prune{sparsity=0.7}", "prune{storage=2:4}", "prune{storage=csr,first=1}"],
    "shrink": ["shrink{heads=1/2,ffn=1/2}", "shrink{hidden=1/2}", "shrink{drop=1,ffn=1/2}"],
    "search-subnet": [
        "search-subnet{budget=0.8,spend=0.5,heads=0.5-1,ffn=0.5-1,population=4,generations=1}"
    ],
    "low-rank": ["low-rank{ratio=1/2}", "low-rank{rank=64,on=down_proj|out_proj|o_proj}"],
    "tensor-train": ["tensor-train", "tensor-train{rank=3}"],
    "lora": ["lora{on=all,rank=8}", "lora{on=all,adapters=6,mix=distinct}"],
    "page-kv": ["page-kv", "page-kv{block=8,waste=expected}"],
    "early-exit": [
        "early-exit{p=1/3}",
        "early-exit{p=1/3,confidence=softmax,propagate=project}",
        "early-exit{distribution=uniform,propagate=recompute,together=4}",
    ],
    "parallel": [
        "parallel{tp=2,dp=2}",
        "parallel{tp=2,pp=2,micro=2}",
        "parallel{dp=4}",
        "parallel{cp=4}",
        "chain{chips=4}",
        "chain{chips=3,groups=2}",
    ],
    "overlap": ["overlap", "overlap{by=halves}"],
    # Of one stage.
    "place": [
        "place{attention=host}",
        "place{ffn=host}",
        "place{on=o_proj,at=host}",
        "active{neurons=0.1,heads=0.5,rank=8}",
        "active{neurons=0.1,hot=0.5}",
    ],
    "split-rows": ["split-rows"],
    "host-io": ["host-io"],
    "transformer-engine": ["transformer-engine{products=all}"],
    "offload": [
        "offload{weights=host:1}",
        "offload{weights=host:0.5,caches=host:1,blocks=2}",
    ],
    "prefixes": [
        "prefix-cache{share=1/4,chance=1/2}",
        "share-prefix{tokens=9}",
        "share-prefix{read=each}",
    ],
    "disaggregate": ["disaggregate{link=nvlink}", "disaggregate{link=pcie,overlap=false}"],
    "turns": ["turns{count=2}", "turns{count=2,between=recomputed}"],
    "speculative": [
        "speculative{draft=DRAFT,gamma=2}",
        "speculative{draft=DRAFT,tree=t2|2,draft-passes='fuse,quantize{preset=w8a16}'}",
        "speculative{gamma=2}",
        "speculative{draft=heads,gamma=2}",
    ],
    # Passes of one stage run as they are written: one of each stage stands here.
    "context": [
        "window{size=64}",
        "evict{most=100}",
        "evict{by=merge}",
        "index{top=32}",
        "select{blocks=9}",
        "recur{segment=40,compressed=2,ratio=4,distances=true}",
        "memory-tokens{segment=8,tokens=2}",
        "memory-slots{segment=8,slots=3}",
        "prune-tokens{layer=1}",
        "merge-tokens",
        "nsa",
        "knn-memory",
    ],
    "sharing": ["share-kv", "share-kv{layers=3}", "share-kv{by=half,window=50}", "feedback"],
    "phases": [
        "refine{iterations=3}",
        "blocks{size=8}",
        "feature-cache{prompt=10,response=5}",
        "slow-fast",
        "jacobi",
    ],
    "forking": [
        "beam{width=2,prefix=copied}",
        "samples{count=3}",
        "apar{tree='1(2,2)',prefix=copied}",
        "skeleton{points=3,outline=5,prefix=copied}",
    ],
}


@pytest.fixture(scope="module")
def drafts(tmp_path_factory) -> dict[str, str]:
    """The draft of each class that has one, as a file."""
    folder = tmp_path_factory.mktemp("drafts")
    made = {}
    for kind, (model, changes) in CLASSES.items():
        if model:
            path = folder / f"{kind.replace(' ', '-')}.json"
            path.write_text(json.dumps({**config(model), **changes}))
            made[kind] = str(path)
    return {**made, "imported": made["dense"]}


def config(model: str) -> dict:
    return json.loads((CONFIGS / f"{find(model)}.json").read_text())


@cache
def model_of(kind: str) -> Program:
    """The model of a class, read once."""
    model = CLASSES[kind][0]
    return load_model(config(model)) if model else from_torch(read_traced(TRACED), recognise=False)


def compiled(model, items, **options) -> Compiled | str:
    """What a pipeline makes, or the reason why it is refused: never a broken graph."""
    try:
        return cg.compile(model, DEVICE, ",".join(items), **options)
    except InputError as error:
        return str(error).partition(": ")[2] if str(error).startswith("pipeline") else str(error)


def facts(program: Program) -> object:
    """All that costs follow from."""
    devices = (program.devices, program.stages)
    return (program.phases, program.limits, devices, frozenset(program.assumptions))


def triples(seed: int, count: int) -> list[tuple[str, ...]]:
    rng = random.Random(seed)
    found = [
        tuple(rng.choice(WRITTEN[name]) for name in names) for names in combinations(WRITTEN, 3)
    ]
    return rng.sample(found, count)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_order_of_three_passes_is_the_same_program(kind, drafts):
    rng = random.Random(SEED)
    model = model_of(kind)
    for chosen in triples(f"{SEED}{kind}", 12):
        items = [item.replace("DRAFT", drafts[kind]) for item in chosen]
        first = compiled(model, items)
        for other in rng.sample([*permutations(items)][1:], 2):
            made = compiled(model, other)
            if isinstance(first, str) or isinstance(made, str):
                assert made == first, (items, other)
                continue
            assert facts(made.program) == facts(first.program), (items, other)
            assert [p.spec() for p in made.passes] == [parse(i, PASSES)[0].spec() for i in other]
            assert [s.made_by.stage for s in made.trace.steps] == sorted(
                s.made_by.stage for s in made.trace.steps
            )


NO_DRAFTS = ("encoder", "diffusion", "text diffusion", "flow", "vision", "imported")
SPECULATING = [k for k in CLASSES if k not in NO_DRAFTS]


@pytest.mark.parametrize("kind", SPECULATING)
@pytest.mark.parametrize(
    ("before", "after"),
    [("fuse", "quantize{preset=w4a16}"), ("quantize{preset=w8a8kv8},page-kv", "fuse")],
)
def test_both_parts_are_what_they_are_alone(kind, before, after, drafts):
    model, path = config(CLASSES[kind][0]), drafts[kind]
    text = f"{before},speculative{{draft={path},gamma=2}},{after}"
    both = cg.compile(model, DEVICE, text).program
    alone = {
        "target": cg.compile(model, DEVICE, f"{before},{after}", logits="all").program,
        "draft": cg.compile(path, DEVICE, f"{before},{after}").program,
    }
    plain = cg.compile(model, DEVICE, f"{before},{after}").program
    names = [p.name for p in plain.phases if p.span is None]
    assert [p.name for p in both.phases] == [
        *(n for name in names for n in (name, f"draft-{name}")), "draft", "verify",
    ]  # fmt: skip
    for name in names:
        assert both.phase(name).graph == plain.phase(name).graph
        assert both.phase(f"draft-{name}").graph == alone["draft"].phase(name).graph
    assert both.phase("draft").graph == alone["draft"].phase("decode").graph
    assert both.phase("verify").graph == alone["target"].phase("decode").graph


def test_a_draft_has_passes_of_its_own_and_only_those_it_should(drafts):
    path, model = drafts["dense"], config("llama-3.2-1b")

    def draft(options: str, passes: str = "fuse,quantize{preset=w4a16}") -> Graph:
        text = f"{passes},speculative{{draft={path},gamma=2{options}}}"
        return cg.compile(model, DEVICE, text).program.phase("draft").graph

    def alone(passes: str) -> Graph:
        return cg.compile(path, DEVICE, passes).program.phase("decode").graph

    assert draft("") == alone("quantize{preset=w4a16},fuse")
    # Of one name, the draft's own takes the place of the inherited one.
    own = ",draft-passes='quantize{preset=w8a8}'"
    assert draft(own) == alone("fuse,quantize{preset=w8a8}")
    assert draft(own, "fuse") == alone("fuse,quantize{preset=w8a8}")
    assert draft(own + ",inherit=none") == alone("quantize{preset=w8a8}")
    assert draft(",inherit=none") == alone("")
    assert draft(",inherit=fuse") == alone("fuse")
    # Exits describe one model: a draft gets its own or none.
    assert draft("", "fuse,early-exit{exit=12}") == alone("fuse")
    exits = ",draft-passes='early-exit{exit=2}'"
    assert draft(exits, "fuse,early-exit{exit=12}") == alone("fuse,early-exit{exit=2}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",inherit=fuse|early-exit", "no draft gets a pass 'early-exit'"),
        (",inherit=fuze", "did you mean 'fuse'"),
        (",layers=2", "only a 'skip' draft"),
        (",draft-passes='speculative{schedule=pearl}'", "not with schedule=pearl"),
        (",draft-passes='fuse,quantise'", "did you mean 'quantize'"),
        (",draft-passes='quantize{weights=int4,keep=down_proj:9}',inherit=none", "past the last"),
    ],
)
def test_what_a_draft_cannot_get_is_refused(options, words, drafts):
    text = f"fuse,speculative{{draft={drafts['dense']},gamma=2{options}}}"
    with pytest.raises(CostgraphError, match=words):
        cg.compile("llama-3.2-1b", DEVICE, text)


def test_a_skipping_draft_is_the_first_layers_of_whatever_the_target_became():
    text = "quantize{weights=int4,first=2},early-exit{exit=4,p=1/2},fuse,speculative{layers=6}"
    program = cg.compile("llama-3.2-1b", DEVICE, text).program
    draft = program.phase("draft").graph
    regions = [n.op for n in draft.nodes if hasattr(n.op, "count")]
    assert [int(r.count) for r in regions] == [2, 2, 2]
    assert all(r.presence.is_full for r in regions)
    wide = [any(t.dtype.bits == 16 and "q_proj" in t.name for t in r.body.sources) for r in regions]
    assert wide == [True, False, False]
    for option in ("draft-passes=fuse", "inherit=none"):
        with pytest.raises(CostgraphError, match="as they are"):
            cg.compile("llama-3.2-1b", DEVICE, f"speculative{{{option}}}")


def test_inheriting_what_is_not_there_is_said_and_compares(drafts):
    text = f"fuse,speculative{{draft={drafts['dense']},gamma=2,inherit=fuse|page-kv}}"
    made = cg.compile("llama-3.2-1b", DEVICE, text)
    assert "speculative at inherit: the pipeline has no page-kv for the draft" in made.undone
    # Taking a pass out for comparison must not make the rest unreadable.
    assert len(cg.compare("llama-3.2-1b", DEVICE, [text]).ablations[0]) == 2


def test_a_compiled_program_takes_further_passes_as_if_all_were_written_together():
    first = cg.compile("llama-3.2-1b", DEVICE, "fuse,speculative{draft=heads,gamma=2}")
    more = cg.compile(first.program, DEVICE, "quantize{preset=w4a16}")
    whole = cg.compile(
        "llama-3.2-1b", DEVICE, "fuse,speculative{draft=heads,gamma=2},quantize{preset=w4a16}"
    )
    assert facts(more.program) == facts(whole.program)
    assert [p.name for p in more.passes] == ["quantize"]
    again = cg.compile(first.program, DEVICE)
    assert again.program.phases is first.program.phases
    # Another machine: what a kernel holds is decided for it.
    moved, fresh = cg.compile(first.program, "v100"), cg.compile(
        "llama-3.2-1b", "v100", "fuse,speculative{draft=heads,gamma=2}"
    )  # fmt: skip
    assert facts(moved.program) == facts(fresh.program)


def test_every_pass_has_a_stage_and_speculation_comes_last():
    stages = {name: cls.stage for name, cls in PASSES.items()}
    assert stages["speculative"] is Stage.DECODING
    later = {name for name, stage in stages.items() if stage > Stage.DECODING}
    # Branches run rounds, too; turns follow one another, whatever each is.
    assert later == {"beam", "samples", "apar", "skeleton", "turns"}
