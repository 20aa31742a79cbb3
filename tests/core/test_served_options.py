"""Options of servers that tell nothing, and sizes that none has: refused, by name."""

from __future__ import annotations

from functools import cached_property

import pytest

import costgraph as cg
from costgraph.asking.serving import (
    POLICIES,
    DecodeOnly,
    Lengths,
    Pool,
    StepTimes,
    poisson,
    simulate,
)  # fmt: skip
from costgraph.asking.serving.policies import Budgeted
from costgraph.cli import main
from costgraph.errors import InputError


@pytest.fixture(scope="module")
def times():
    return StepTimes(cg.compile("llama-3.2-1b", "h100", "fuse"), 1000)


@pytest.fixture(scope="module")
def serving():
    return cg.Serving(cg.compile("llama-3.2-1b", "h100", "fuse", fidelity="calibrated@vllm"))


@pytest.mark.parametrize("name", POLICIES)
def test_looks_for_requests_tell_or_are_refused(name, times):
    kind = POLICIES[name]
    policy = kind(8, 256) if issubclass(kind, Budgeted) else kind(8)
    asked = poisson(200, 12, Lengths(100), Lengths(40), seed=1)
    if policy.holds:
        with pytest.raises(InputError, match="polls"):
            Pool(times, policy, polls=30)
        return
    often, seldom = (Pool(times, policy, polls=n) for n in (1, 30))
    assert simulate(asked, often).ttft.mean() < simulate(asked, seldom).ttft.mean()
    for apart in ({"closed": 4}, {"decode": Pool(times, DecodeOnly(8))}):
        with pytest.raises(InputError, match="polls"):
            simulate(asked, seldom, **apart)


@pytest.mark.parametrize("given", ["S=4", "N=4"])
def test_lengths_of_requests_have_options_of_their_own(given, tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp,input,output\n0,100,5\n1,100,5\n")
    plain = ["serve-simulate", "llama-3.2-1b", "--on", "h100", "--set", given]
    for load, said in (["--trace", str(trace)], "says that itself"), (["--rate", "1"], "is needed"):
        with pytest.raises(SystemExit):
            main([*plain, *load])
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, -1, float("nan"), 0.5, "x"])
def test_a_server_has_a_request_in_flight(value, serving):
    names = [n for n, x in vars(cg.Serving).items() if isinstance(x, cached_property)]
    assert {"ttft", "tpot", "prefill", "ttft_served"} <= set(names)
    for name in names:
        with pytest.raises(InputError, match=r"\bc\b"):
            getattr(serving, name)(c=value, S=100, N=20)
        assert getattr(serving, name)(c=2, S=100, N=20) > 0
    assert serving.ttft(S=100) == serving.ttft(c=7, S=100)


@pytest.mark.parametrize("model", ["bert-base", "dit-xl-2", "whisper-small"])
def test_models_without_steps_are_told_so_before_positions(model):
    with pytest.raises(InputError) as told:
        StepTimes.of(cg.compile(model, "h100"), 10_000)
    assert "positions" not in str(told.value).partition("(")[0]


def test_a_size_that_is_missing_is_named_with_its_option():
    made = StepTimes.of(cg.compile("llama-3.2-11b-vision", "h100"), 1000)
    with pytest.raises(InputError, match=r"--set G=….*G=…"):
        made.room(1000)
