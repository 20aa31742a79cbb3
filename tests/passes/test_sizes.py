"""Where searches are decided: usual sizes as far as a model has room, given ones as they are."""

from __future__ import annotations

import random

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import CostgraphError, PipelineError
from costgraph.formula.limits import fitted
from costgraph.formula.terms import Limit
from costgraph.symbols import symbol

S, N, B = symbol("S"), symbol("N"), symbol("B")
DEVICES = {
    "place": "a100+5xhbm-pim",
    "offload": "rtx-4090+i9-13900k",
    "active": "rtx-4090+i9-13900k",
}
SEARCHES = (
    "transformer-engine",
    "place",
    "offload{policy=optimal}",
    "active{neurons=0.1,hot=fit}",
)
#: Models with less room than searches take where nothing is said: positions in all, of the
#: text alone, behind an encoder; and those without tokens or sizes at all.
SMALL = ("gpt2", "clip-vit-b-32", "bert-base", "whisper-tiny", "mamba-130m", "vgg-16")


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("search", SEARCHES)
def test_no_search_asks_for_sizes_that_nobody_gave_and_a_model_has_no_room_for(model, search):
    on = DEVICES.get(search.split("{")[0], "h100")
    made = cg.compile(model, on, f"fuse,{search}")
    assert not made.passes[-1].needs_tuning


@pytest.mark.parametrize(
    ("model", "passes", "said"),
    [
        ("clip-vit-b-32", "transformer-engine", "at B=1, S=77:"),
        ("whisper-tiny", "place", "at B=1, T=448, S=512:"),
        ("gpt2", "place", "at B=1, T=1024:"),
        ("gpt2", "search-subnet{metric=latency}", "at B=1, S=512, N=128:"),
        ("gpt2", "active{neurons=0.1,hot=fit}", "at B=1, S=512, N=512,"),
        ("bert-base", "search-subnet{metric=latency}", "at B=1, S=512:"),
        ("bert-base", "offload{policy=optimal}", "at B=1, S=512:"),
    ],
)
def test_what_was_decided_says_where(model, passes, said):
    on = DEVICES.get(passes.split("{")[0], "h100")
    made = cg.compile(model, on, passes)
    told = [*made.assumptions, *made.undone]
    assert any(said in text for text in told)


@pytest.mark.parametrize(
    ("model", "passes"),
    [
        ("gpt2", "transformer-engine{at-prompt=2000}"),
        ("gpt2", "place{at-context=1500}"),
        ("gpt2", "offload{policy=optimal,at-prompt=2000}"),
        ("gpt2", "active{neurons=0.1,hot=fit,at-length=1500}"),
        ("gpt2", "search-subnet{metric=latency,at-prompt=2000}"),
    ],
)
def test_sizes_that_are_given_and_have_no_room_are_refused_in_one_line(model, passes):
    on = DEVICES.get(passes.split("{")[0], "h100")
    with pytest.raises(CostgraphError, match="exceeds 1024: the model has no positions beyond"):
        cg.compile(model, on, passes)


@pytest.mark.parametrize(
    ("model", "passes", "what"),
    [
        ("llama-2-7b", "place{at-prompt=100}", "S"),
        ("bert-base", "transformer-engine{at-tokens=100}", "N"),
        ("vgg-16", "transformer-engine{at-prompt=100}", "S"),
        ("bert-base", "offload{policy=optimal,at-tokens=100}", "N"),
        ("bert-base", "search-subnet{metric=latency,at-tokens=100}", "N"),
    ],
)
def test_sizes_that_nothing_depends_on_are_refused(model, passes, what):
    on = DEVICES.get(passes.split("{")[0], "h100")
    with pytest.raises(PipelineError, match=rf"what is compared depends on no {what} \("):
        cg.compile(model, on, passes)


def test_fitted_sizes_keep_their_limits_and_are_as_large_as_these_leave():
    dice = random.Random(3)
    for _ in range(200):
        most, own, least = dice.randint(4, 3000), dice.randint(1, 2000), dice.randint(1, 8)
        limits = (
            Limit(S + N - 1, Integer(most), "positions"),
            Limit(S, Integer(own), "of the text"),
            Limit(Integer(least), B, "a sequence for each"),
        )
        usual = {"S": 1024, "N": 256, "B": 1}
        found = fitted(limits, {}, usual)
        values = {symbol(k): Integer(v) for k, v in found.items()}
        assert all(limit.broken(values) is None for limit in limits)
        assert found["B"] == least
        alone = fitted(limits, {"N": 2}, {"S": 1024})
        assert alone == {"S": min(1024, own, most - 1)}
        if own >= 1024 and most >= 1279:
            assert found == {**usual, "B": least}
    # Nothing left by what is given: the limit stays broken, for whoever asks.
    assert fitted((Limit(S + N - 1, Integer(9), ""),), {"N": 100}, {"S": 4}) == {"S": 1}
