"""What explain says about things that run at the same time: by the formulas themselves."""

from __future__ import annotations

import json
from functools import cache

import pytest

import costgraph as cg
from costgraph.asking.explaining import Explanation
from costgraph.cli import main

MODEL, SYSTEM = "llama-3-8b", "8xh100"
PASSES = {
    "tp": "fuse,parallel{tp=8}",
    "pp": "fuse,parallel{tp=2,pp=4,micro=4}",
    "kernels": "fuse,parallel{tp=8},overlap",
    "halves": "fuse,parallel{tp=8},overlap{by=halves}",
}
POINT = {"B": 16, "T": 2048}


@cache
def explained(case: str, fidelity: str = "ideal") -> Explanation:
    return cg.compile(MODEL, SYSTEM, PASSES[case], fidelity=fidelity).explain("tpot", **POINT)


@cache
def symbolic(case: str) -> cg.Compiled:
    return cg.compile(MODEL, SYSTEM, PASSES[case], symbolic_hardware=True)


def tpot(case: str, **figures: float) -> float:
    """The time per token on the system with other figures."""
    formula, bound = symbolic(case).tpot, symbolic(case).bound
    assert bound is not None
    at = {s.name: v for s, v in bound.bindings().items()} | POINT | figures
    return float(formula.evaluate(**{s.name: at[s.name] for s in formula.symbols}))


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
@pytest.mark.parametrize("case", ["pp", "kernels", "halves"])
def test_slack_is_what_is_left_to_the_longest(case: str, fidelity: str) -> None:
    found = explained(case, fidelity)
    assert found.races
    for race in found.races:
        assert race.decided
        assert race.seconds == pytest.approx(race.bodies[0].seconds)
        for body in race.bodies:
            assert body.slack == pytest.approx(race.seconds - body.seconds, abs=1e-15)
        for relief in race.reliefs:
            assert relief.rules in {b.name for b in race.bodies[1:]}
            better = relief.then < relief.now if "alpha" in relief.symbol else relief.then > 0
            assert better


def test_without_overlap_nothing_runs_at_the_same_time() -> None:
    assert explained("tp").races == ()
    assert explained("tp").stages == ()


def test_halves_share_the_memory() -> None:
    found = explained("halves")
    (race,) = found.races
    assert race.contended
    assert race.bodies[0].name == "memory"
    assert found.value == pytest.approx(race.seconds)
    halves = [b for b in race.bodies if not b.resource]
    assert [b.name for b in halves] == ["first half", "second half"]
    # Twice as many bytes in a second move the critical path as far as the relief says.
    (relief,) = (r for r in race.reliefs if r.symbol == "BW")
    assert tpot("halves", BW=relief.then * 0.99) > tpot("halves", BW=relief.then)
    at_turn = tpot("halves", BW=relief.then)
    other = next(b.seconds for b in race.bodies if b.name == relief.rules)
    if relief.rules.startswith("link:"):  # untouched by the memory's bandwidth
        assert at_turn == pytest.approx(other, rel=1e-6)


def test_a_kernel_hides_its_exchange_until_it_is_fast_enough() -> None:
    found = explained("kernels")
    for race in found.races:
        link = next(b for b in race.bodies if b.name == "link nvlink")
        kernel = next(b for b in race.bodies if b.name == "kernel")
        if race.bodies[0] == kernel:
            # It waits for memory: its time is inversely proportional to the bandwidth.
            (relief,) = (r for r in race.reliefs if r.symbol == "BW")
            assert relief.rules == "link nvlink"
            assert relief.then / relief.now == pytest.approx(kernel.seconds / link.seconds)
            continue
        for relief in race.reliefs:
            assert relief.rules == "kernel"
            if relief.symbol == "alpha_nvlink":  # two messages each
                gained = (relief.now - relief.then) * 2 * race.count
                assert gained == pytest.approx(link.seconds - kernel.seconds)
    assert {r.bodies[0].name for r in found.races} == {"kernel", "link nvlink"}


def test_the_slowest_stage_rules_the_interval() -> None:
    found = explained("pp")
    slowest = max(found.stages, key=lambda s: s.seconds)
    assert slowest.slack == 0
    compiled = cg.compile(MODEL, SYSTEM, PASSES["pp"])
    assert compiled.interval.evaluate(**POINT) == pytest.approx(4 * slowest.seconds)
    through = sum(s.seconds for s in found.stages)
    (race,) = found.races
    names = {b.name: b.seconds for b in race.bodies}
    assert names["one group through all stages"] == pytest.approx(through)
    assert found.value == pytest.approx(max(through, 4 * slowest.seconds))
    assert {s.name for s in found.stages} >= {f"stage {i}" for i in range(1, 5)}
    assert not any(s.name == "device" for s in found.stages)
    whole = compiled.explain("interval", **POINT)
    assert whole.value == pytest.approx(4 * slowest.seconds)


def test_a_link_is_split_into_messages_and_bytes() -> None:
    (link,) = explained("tp").links
    assert link.link == "nvlink"
    assert link.latency is not None
    assert link.wire is not None
    assert link.seconds == pytest.approx(link.latency + link.wire)
    # Every exchange waits for the link here, so its parts are what their figures hide.
    assert tpot("tp") - tpot("tp", alpha_nvlink=1e-30) <= link.latency * (1 + 1e-9)
    floors = {f.symbol: f.value for f in explained("tp").floors}
    assert floors["alpha_nvlink"] < explained("tp").value


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_no_latency_takes_all_that_links_need_but_bytes_and_their_floor(fidelity: str) -> None:
    """What a message without latency saves is part of the link's latency, fitted or not."""
    found = explained("tp", fidelity)
    (link,) = found.links
    saved = found.value - {f.symbol: f.value for f in found.floors}["alpha_nvlink"]
    assert link.latency is not None
    assert 0.02 * found.value < saved <= link.latency * (1 + 1e-9) < link.seconds


@pytest.mark.parametrize("metric", ["ttft", "latency", "throughput"])
def test_other_times_are_explained_too(metric: str) -> None:
    compiled = cg.compile(MODEL, SYSTEM, PASSES["halves"])
    values = {"B": 4, "S": 512} | ({} if metric == "ttft" else {"N": 32})
    found = compiled.explain(metric, **values)
    assert {r.phase for r in found.races} <= {"prefill", "decode"}
    time = found.value if metric != "throughput" else 4 * 32 / found.value
    assert sum(r.seconds for r in found.races) == pytest.approx(time)


@pytest.mark.parametrize("case", sorted(PASSES))
def test_text_json_and_notebooks_say_it(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", MODEL, "--on", SYSTEM, "--passes", PASSES[case], "--at", "B=16,T=2048"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert ("at the same time" in text.splitlines()) == (case != "tp")
    assert ("the slowest" in text) == (case == "pp")
    assert "over links" in text
    assert "nvlink" in text
    assert "FLOP/s" not in "".join(x for x in text.splitlines() if "alpha" in x)
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["races"]) == len(explained(case).races)
    assert shown["links"][0]["link"] == "nvlink"
    assert "nvlink" in explained(case)._repr_html_()
