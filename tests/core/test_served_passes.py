"""Passes on caches in servers: which are answered, and which are refused, with the reason."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.asking.serving import Lengths, PrefillFirst, StepTimes
from costgraph.asking.serving.many import Case, run
from costgraph.errors import InputError

PROMPT, KEEP = 384, 256


def times(passes, prompt=None):
    return StepTimes.of(cg.compile("llama-3.2-1b", "h100", passes), 512, prompt)


def test_rows_that_stay_of_a_prompt_are_the_context_of_a_server():
    """Prompts of one length: a step is that of as many rows without the pass."""
    snap, plain = times(f"snap-kv{{keep={KEEP}}}", PROMPT), times("")
    gone = PROMPT - KEEP
    for c, context in ((1, 385), (24, 500)):
        assert snap.decode(c, context) == pytest.approx(plain.decode(c, context - gone), rel=1e-12)
    assert snap.room(500) == pytest.approx(plain.room(500 - gone), rel=1e-3)
    assert not plain.memories.asks_prompt
    # A case knows that all of its prompts are as long.
    passes = f"snap-kv{{keep={KEEP}}}"
    fixed = Case("llama-3.2-1b", "h100", passes, PrefillFirst(8), Lengths(PROMPT), Lengths(64),
                 closed=4, requests=8)  # fmt: skip
    assert run(fixed)["steps"] >= 2 * 63
    drawn = Case("llama-3.2-1b", "h100", passes, PrefillFirst(8), Lengths(PROMPT, "uniform", 0.2),
                 Lengths(64), closed=4, requests=8)  # fmt: skip
    with pytest.raises(InputError, match="where all prompts are equally long"):
        run(drawn)
    # Whoever moves caches is told the same.
    unknown = times(passes)
    for size in (unknown.room, unknown.caches, lambda _: unknown.position()):
        with pytest.raises(InputError, match="where all prompts are equally long"):
            size(500)


@pytest.mark.parametrize(
    "passes", ["window", "evict", "select", "index", "share-kv", "page-kv", "quantize{kv=int8}"]
)
def test_caches_that_servers_follow(passes):
    """A step of equal sequences is the decode step that the pass has."""
    made = cg.compile("llama-3.2-1b", "h100", passes)
    own = StepTimes.of(made, 512)
    assert own.decode(4, 500) == pytest.approx(made.tpot(B=4, T=500), rel=1e-9)
    assert own.room(500) > 1
    assert not own.unmixed


@pytest.mark.parametrize(
    ("passes", "why"),
    [
        (
            "prefix-cache{share=0.5}",
            r"cached in part.*serve-simulate --prefix-hits, or a trace's column cached",
        ),
        (
            "share-prefix{tokens=128}",
            r"cached in part.*serve-simulate --prefix-hits, or a trace's column cached",
        ),
        ("landmark", "not of one token a position"),
        ("samples", "not of one token a position"),
        ("refine", "one phase of prompts and one of decode steps, not the phases prefill, refine"),
    ],
)
def test_caches_that_servers_do_not_follow_say_why(passes, why):
    with pytest.raises(InputError, match=why):
        times(passes).room(500)
