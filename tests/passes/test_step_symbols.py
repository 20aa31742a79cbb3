"""Tables of a step, and pictures of it, at symbols of passes: as with the number itself."""

from __future__ import annotations

from fractions import Fraction

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.compiling.breakdown import kept_step
from costgraph.compiling.steps import step_of

SMALL, HOSTED = "llama-3.2-1b", "rtx-4090+i9-13900k"
DRAFT = f"speculative{{gamma=3,alpha=0.7,draft={SMALL}}}"
#: A model, a system, a pipeline with a place for a number, the number, a phase, its sizes.
CASES = [
    (SMALL, HOSTED, "fuse,offload{weights=host:%s}", "0.3", "decode", {"T": 64}),
    (SMALL, HOSTED, "fuse,offload{caches=host:%s}", "0.25", "prefill", {"S": 64}),
    ("opt-6.7b", HOSTED, "fuse,active{neurons=%s}", "0.1", "decode", {"T": 64}),
    ("opt-6.7b", HOSTED, "fuse,active{neurons=0.1,hot=%s}", "0.3", "decode", {"T": 64}),
    ("vgg-16", "edge-3x-gtx-1080-ti", "split-rows{pace=%s}", "0.5", "forward", {}),
    (SMALL, HOSTED, f"offload{{weights=host:%s}},{DRAFT}", "0.5", "draft", {"T": 64}),
    ("opt-6.7b", HOSTED, "offload{weights=host,blocks=%s}", "2", "decode", {"T": 64}),
    (SMALL, "4xipu-gc200", "chain{groups=%s}", "2", "decode", {"T": 64}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[2])
def test_a_step_at_a_symbol_is_that_of_the_number(case):
    model, system, passes, number, phase, sizes = case
    plain, open_ = (cg.compile(model, system, passes % x) for x in (number, "x"))
    value = Fraction(number)
    at = {"B": 2, **sizes}
    expected, found = plain.breakdown(phase, **at), open_.breakdown(phase, **at, x=value)
    for key, total in expected.totals.items():
        assert found.totals[key] == pytest.approx(total, rel=1e-9), key
    # The table says what it is of.
    assert dict(found.setting.fixed)["x"] == str(value)
    formula = open_.time(phase)
    known = {s.name for s in formula.symbols}
    seconds = formula.evaluate(**{k: v for k, v in {**at, "x": value}.items() if k in known})
    assert found.totals["seconds"] == pytest.approx(seconds, rel=1e-9)


def test_what_is_kept_of_a_step_says_the_same():
    made = cg.compile("opt-6.7b", "h100", "fuse,active{neurons=x}")
    at = {"B": 2, "T": 64, "x": Fraction(1, 10)}
    kept = step_of(kept_step(made, "decode"), at)
    found = made.breakdown("decode", **at)
    assert kept.totals == pytest.approx(found.totals)
    assert kept.setting.fixed == found.setting.fixed


def test_what_counts_something_stays_whole():
    made = cg.compile(SMALL, "h100", f"speculative{{alpha=0.5,gamma=g,draft={SMALL}}}")
    with pytest.raises(cg.CostgraphError, match="g must be a whole number"):
        made.breakdown("verify", B=1, T=64, g=Fraction(5, 2))
    with pytest.raises(cg.CostgraphError, match="B must be a whole number"):
        made.breakdown("verify", B=Fraction(5, 2), T=64, g=2)
    case = kept_step(made, "verify")
    assert case is None or step_of(case, {"B": 1, "T": 64, "g": Fraction(5, 2)}) is None
    away = cg.compile(SMALL, HOSTED, "offload{weights=host:x}")
    for wrong in (-1, Fraction(3, 2)):
        with pytest.raises(cg.CostgraphError):
            away.breakdown("decode", B=1, T=64, x=wrong)


PASSES = "fuse,offload{weights=host:x}"
COMMANDS = [
    ("analyze", "-T", "64"),
    ("draw", "-T", "64", "-o", "a.dot"),
    ("draw", "-T", "64", "--level", "model", "-o", "a.dot"),
    ("plot", "breakdown", "-T", "64", "-o", "a.svg"),
    ("plot", "roofline", "-T", "64", "-o", "a.svg"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_a_step_takes_a_share(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kind = 2 if words[0] == "plot" else 1
    line = [*words[:kind], SMALL, "--on", HOSTED, "--passes", PASSES, *words[kind:]]
    assert main([*line, "--set", "x=0.5"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out + "".join(p.read_text() for p in tmp_path.iterdir())
    assert any(said in told for said in ("x=0.5", "x=1/2"))
