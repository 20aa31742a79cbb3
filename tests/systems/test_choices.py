"""Degrees that are decided by search equal the best of all that are written out."""

from __future__ import annotations

from itertools import product

import pytest

import costgraph as cg
from costgraph.errors import CostgraphError, PipelineError

USUAL = {"B": 1, "S": 1024, "N": 256}


def explicit(devices: int, names: tuple[str, ...]) -> list[str]:
    """Every pipeline of degrees that multiply to the devices."""
    ways = [d for d in range(1, devices + 1) if devices % d == 0]
    found = []
    for chosen in product(ways, repeat=len(names)):
        total = 1
        for d in chosen:
            total *= d
        if total == devices:
            options = ",".join(f"{n}={d}" for n, d in zip(names, chosen, strict=True) if d != 1)
            found.append(f"fuse,parallel{{{options}}}")
    return found


def fits(made: cg.Compiled, values: dict[str, int]) -> bool:
    return made.memory.evaluate(**values) <= float(made.machine.memory.room)


@pytest.mark.parametrize(
    ("model", "system", "names"),
    [
        ("llama-3-8b", "4xh100", ("tp", "pp")),
        ("llama-3-8b", "4xrtx-4090", ("tp", "pp")),
        ("llama-3-70b", "8xh100", ("tp", "pp", "cp")),
        ("gpt2", "2xa6000", ("tp", "pp")),
    ],
)
def test_the_least_latency_is_that_of_all_written_out(model, system, names):
    auto = ",".join(f"{n}=auto" for n in names)
    made = cg.compile(model, system, f"fuse,parallel{{{auto}}}")
    reached = {}
    for text in explicit(cg.load_system(system).devices, names):
        try:
            other = cg.compile(model, system, text)
            # gpt2 has 1024 positions: sizes that nobody gave are halved.
            at = {"B": 1, "S": 512, "N": 128} if model == "gpt2" else USUAL
            if fits(other, at):
                reached[text] = other.latency.evaluate(**at)
        except CostgraphError:
            continue
    best = min(reached, key=lambda text: reached[text])
    chosen = made.setting.passes
    assert reached[best] == pytest.approx(made.latency.evaluate(**at))
    assert cg.compile(model, system, chosen).latency.evaluate(**at) == pytest.approx(reached[best])
    assert any("decided for latency at B = 1" in text for text in made.assumptions)
    assert "auto" not in chosen


def test_throughput_takes_the_best_batch_within_limits():
    text = "parallel{tp=auto,dp=auto,objective=throughput,max-tpot=20ms}"
    made = cg.compile("llama-3-8b", "4xh100", f"fuse,{text}")
    options = explicit(4, ("tp", "dp"))
    found = cg.search("llama-3-8b", "4xh100", options, limits={"tpot": "20ms"})
    assert found.best is not None
    assert made.setting.passes == found.best.passes
    tighter = cg.search("llama-3-8b", "4xh100", options, limits={"tpot": "3ms"})
    made = cg.compile("llama-3-8b", "4xh100", f"fuse,{text.replace('20ms', '3ms')}")
    assert tighter.best is not None
    assert made.setting.passes == tighter.best.passes


def test_a_search_ranks_every_way_to_share():
    result = cg.search(
        "llama-3-8b",
        ["2xh100", "4xh100"],
        "fuse,parallel{tp=auto,dp=auto}",
        limits={"tpot": "20ms"},
        pareto=("tpot", "throughput_per_device"),
        B=(1, 64),
    )
    written = {(s, t) for s, n in (("2xh100", 2), ("4xh100", 4)) for t in explicit(n, ("tp", "dp"))}
    assert {(c.hardware, c.passes) for c in result.candidates} == written
    for c in result.candidates:
        devices = int(c.hardware[0])
        assert c.values["throughput_per_device"] == pytest.approx(c.values["throughput"] / devices)
    for point in result.front:
        made = cg.compile("llama-3-8b", point.hardware, point.passes)
        assert made.tpot.evaluate(B=point.batch, T=1279) == pytest.approx(point.values[0])
        rate = made.throughput.evaluate(B=point.batch, S=1024, N=256)
        assert point.values[1] == pytest.approx(rate / int(point.hardware[0]))


def test_the_command_opens_degrees(capsys):
    from costgraph.cli import main

    options = ["--on", "2xh100", "--passes", "fuse", "--degrees", "tp,pp", "-B", "1:64"]
    assert main(["search", "llama-3-8b", *options]) == 0
    out = capsys.readouterr().out
    assert "fuse,parallel{tp=2}" in out
    assert "fuse,parallel{pp=2}" in out
    with pytest.raises(SystemExit):
        main(["search", "llama-3-8b", "--on", "2xh100", "--degrees", "tq"])
    assert "unknown option 'tq'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("passes", "degrees", "shown"),
    [
        ("fuse", "tp,pp", ("{pp=2,micro=4}", "{pp=2,micro=2}", "{pp=2}", "{tp=2}")),
        ("fuse,parallel{micro=4}", "tp,pp", ("{pp=2,micro=4}", "{tp=2}")),
        ("parallel{sequence=true},fuse", "tp,pp", ("{tp=2,sequence=true}", "{pp=2,micro=2}")),
    ],
)
def test_the_command_opens_groups_with_stages(capsys, passes, degrees, shown):
    """And leaves what counts beside some degrees only out of the others."""
    from costgraph.cli import main

    options = ["--on", "2xh100", "--passes", passes, "--degrees", degrees, "-B", "1:64"]
    assert main(["search", "llama-3-8b", *options]) == 0
    out = capsys.readouterr().out
    assert all(f"parallel{text}" in out for text in shown)
    assert "sequence=true,pp" not in out
    with pytest.raises(SystemExit):
        main(["search", "llama-3-8b", *options[:3], "parallel{tp=2}", "--degrees", "tp"])
    assert "--degrees tp: the pipeline gives it" in capsys.readouterr().err


def test_replicas_never_have_less_than_a_sequence():
    result = cg.search("llama-3-8b", "4xh100", "parallel{dp=4}", objective="latency")
    assert result.best is not None
    assert result.best.batch == 4
    none = cg.search("llama-3-8b", "4xh100", "parallel{dp=4}", B=(1, 3), objective="latency")
    assert none.best is None
    assert "less than one sequence" in none.candidates[0].binding[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parallel{tp=4,objective=throughput}", "none is open"),
        ("parallel{tp=auto,max-tpot=fast}", "max-tpot"),
        ("parallel{tp=auto,max-tpot=1ns}", "no degrees that use the 4 devices"),
        ("parallel{tp=auto,at-prompt=0}", "at-prompt must be at least 1"),
    ],
)
def test_what_cannot_be_decided_is_said(text, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile("llama-3-8b", "4xh100", text)


def test_experts_are_among_the_choices():
    made = cg.compile("mixtral-8x7b", "4xh200", "fuse,parallel{tp=auto,ep=auto,at-batch=64}")
    reached = {}
    for options in ("tp=4", "ep=4", "tp=4,ep=4"):
        other = cg.compile("mixtral-8x7b", "4xh200", f"fuse,parallel{{{options}}}")
        reached[other.setting.passes] = other.latency.evaluate(B=64, S=1024, N=256)
    assert made.setting.passes == min(reached, key=lambda text: reached[text])
