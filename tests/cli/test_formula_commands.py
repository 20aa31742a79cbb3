"""explain, regimes and solve on the command line."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest

import costgraph as cg
from costgraph.asking.explaining import explain
from costgraph.cli import main
from costgraph.errors import InputError


def out(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_explain_says_what_bounds_and_what_comes_next(capsys):
    text = out(capsys, "explain", "llama-2-7b", "--on", "a6000", "--at", "B=1,T=2048")
    assert "18.64 ms" in text
    assert "100.0%  memory bandwidth" in text
    assert "B up to 213.465 (213× away): lm_head turns" in text


def test_explanation_agrees_with_the_formula_it_explains():
    compiled = cg.compile("llama-3-8b", "h100", "fuse")
    for metric, at in (
        ("tpot", {"B": 300, "T": 500}),
        ("ttft", {"B": 1, "S": 333}),
        ("latency", {"B": 8, "S": 200, "N": 50}),
        ("throughput", {"B": 8, "S": 200, "N": 50}),
    ):
        found = compiled.explain(metric, **at)
        assert found.value == pytest.approx(getattr(compiled, metric).evaluate(**at), rel=1e-12)
        assert sum(found.bounds.values()) == pytest.approx(1)
        assert sum(s.share for s in found.shares) == pytest.approx(1)
        rates = [found.levers[name] for name in found.rates]
        assert sum(rates) == pytest.approx(1 if metric == "throughput" else -1)
        for floor in found.floors:  # nothing gets slower on faster hardware
            assert (
                (floor.value >= found.value)
                if metric == "throughput"
                else (floor.value <= found.value * (1 + 1e-12))
            )


def test_the_next_bound_is_the_nearest_crossover():
    compiled = cg.compile("llama-2-7b", "a6000")
    found = explain(compiled, "tpot", B=100, T=64)
    ahead = [n for n in found.nexts if n.symbol == "B" and n.then > n.now]
    crossings = [c.value for c in compiled.tpot.crossover("B", T=64) if c.value > 100]
    assert ahead[0].then == pytest.approx(float(min(crossings)))


def test_explain_refuses_what_is_no_time():
    with pytest.raises(InputError, match="memory"):
        explain(cg.compile("gpt2", "a6000"), "memory", B=1, S=1, N=1)


def test_regimes_in_one_and_two_symbols(capsys):
    one = out(capsys, "regimes", "llama-2-7b", "--on", "a6000", "--at", "T=2048")
    assert "4 regimes" in one
    two = out(capsys, "regimes", "llama-2-7b", "--on", "a6000", "--metric", "ttft", "--over", "B,S")
    assert "6 regions" in two
    bend = out(
        capsys, "regimes", "gpt2", "--on", "a6000", "--at", "T=8", "--show", "elasticity", "--json"
    )
    assert json.loads(bend)["unit"] == "1"


def test_symbolic_regimes_name_their_conditions(capsys):
    text = out(
        capsys, "regimes", "llama-2-7b", "--on", "a6000", "--at", "T=9", "--symbolic-hardware"
    )
    assert "while" in text
    assert "F_fp16 / (BW - 0.0004883·F_fp16)" in text


@pytest.mark.parametrize(
    ("arguments", "largest"),
    [
        (("--metric", "memory", "--budget", "80 GB", "--at", "S=1000,N=100"), 239),
        (("--metric", "tpot", "--budget", "50 ms", "--at", "T=1000"), 414),
        (("--metric", "tpot", "--budget", "0.05", "--at", "T=1000"), 414),
    ],
)
def test_solve_under_a_budget(capsys, arguments, largest):
    text = out(capsys, "solve", "llama-3-8b", "--on", "a100-80g", *arguments, "--json")
    assert json.loads(text)["largest"] == largest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("explain", "gpt2", "--on", "a6000", "--at", "B=1"), "--at 'T=1024'"),
        (("explain", "gpt2", "--on", "a6000", "--at", "B"), "NAME=NUMBER"),
        (("explain", "gpt2", "--on", "a6000", "--at", "B=1,B=2,T=3"), "twice"),
        (("explain", "gpt2", "--on", "a6000", "--at", "B=__import__,T=3"), "not a positive number"),
        (("explain", "gpt2", "--on", "a6000", "--at", "B=-1,T=3"), "positive"),
        (("regimes", "gpt2", "--on", "a6000", "--over", "Q"), "Q"),
        (("regimes", "gpt2", "--on", "a6000", "--over", "B,T,S"), "one symbol or two"),
        (("regimes", "gpt2", "--on=a6000", "--over=B,T", "--show", "derivative"), "along one"),
        (("regimes", "gpt2", "--on", "a6000", "--at", "X=3"), "no symbol 'X'"),
        (("regimes", "gpt2", "--on", "a6000", "--metric", "latency", "--at", "S=0"), "positive"),
        (("solve", "gpt2", "--on", "a6000", "--budget", "3 kg", "--at", "T=2"), "kg"),
        (("solve", "gpt2", "--on", "a6000", "--budget", "-3", "--at", "T=2"), "positive"),
        (("solve", "gpt2", "--on", "a6000", "--over", "S", "--budget", "1", "--at", "T=2"), "S"),
        (("solve", "gpt2", "--on", "a6000", "--budget", "1 s"), "T"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(capsys, arguments, says):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_details_and_formats(capsys):
    summary = out(capsys, "formula", "gpt2", "--on", "a6000", "--detail", "summary")
    assert "max(t1, t2) <= tpot(B, T)" in summary
    ops = out(capsys, "formula", "gpt2", "--on", "a6000", "--detail", "ops", "--format", "latex")
    assert ops.splitlines()[1] == r"\begin{aligned}"
    page = out(capsys, "formula", "gpt2", "--on", "a6000", "--format", "tex")
    assert page.startswith(r"\documentclass")
    assert "gpt2 on a6000, tpot in s, no passes" in page
    html = out(capsys, "formula", "gpt2", "--on", "a6000", "--format", "html")
    assert html.startswith("<!DOCTYPE html>")  # with its characters' code: units have µ
    assert "<meta charset='utf-8'>" in html
    assert html.count("gpt2 on a6000, tpot in s, no passes") == 2
    assert "<math" in html
    with pytest.raises(SystemExit):
        main(["formula", "gpt2", "--on", "a6000", "--detail", "ops", "--format", "json"])


AT = ("llama-3-8b", "--on", "h100", "--passes", "fuse", "--at", "T=2048")


def test_regimes_and_solve_take_a_fidelity(capsys):
    ideal = json.loads(out(capsys, "regimes", *AT, "--json"))
    fitted = json.loads(out(capsys, "regimes", *AT, "--fidelity", "calibrated", "--json"))
    assert not any("latency" in r["bound"] for r in ideal["regimes"])
    assert "latency" in fitted["regimes"][0]["bound"]
    largest = {
        f: json.loads(out(capsys, "solve", *AT, "--budget", "20 ms", "--fidelity", f, "--json"))
        for f in ("ideal", "low", "calibrated", "high")
    }
    # Nothing is quicker than the bound but the low band, which is a factor of all times.
    assert largest["ideal"]["largest"] >= largest["calibrated"]["largest"]
    sizes = [largest[f]["largest"] for f in ("low", "calibrated", "high")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_explain_takes_a_fidelity(capsys):
    at = ("llama-3-8b", "--on", "h100", "--at", "B=1,T=2048", "--fidelity", "calibrated")
    text = out(capsys, "explain", *at)
    assert "launch latency" in text
    assert "turn from launch latency to memory bandwidth" in text


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_a_growing_rate_passes_its_floor(capsys, fidelity):
    text = out(
        capsys, "solve", "llama-3-8b", "--on", "h100", "--metric", "throughput", "--budget",
        "2000", "--at", "S=1024,N=256", "--fidelity", fidelity,
    )  # fmt: skip
    formula = cg.compile("llama-3-8b", "h100", fidelity=fidelity).throughput
    found = formula.solve_for("B", 2000, at_least=True, S=1024, N=256)
    first = math.ceil(found.intervals[0][0])
    assert f"smallest whole B: {first}" in text
    assert formula(B=first - 1, S=1024, N=256) < 2000 <= formula(B=first, S=1024, N=256)


def test_the_other_commands_take_a_fidelity(capsys, tmp_path):
    grid = ("llama-3-8b", "--on", "h100", "-B", "4", "-S", "512", "-N", "32")
    assert out(capsys, "sweep", *grid) != out(capsys, "sweep", *grid, "--fidelity", "high")
    search = ("search", "llama-3-8b", "--on", "h100", "--limit", "tpot=30ms", "--json")
    plain = json.loads(out(capsys, *search))
    assert plain != json.loads(out(capsys, *search, "--fidelity", "calibrated"))
    pages = []
    for fidelity in ("ideal", "high"):
        pages.append(tmp_path / f"{fidelity}.html")
        out(capsys, "report", "llama-3-8b", "--on", "h100", "--fidelity", fidelity, "-o",
            str(pages[-1]))  # fmt: skip
    assert "fidelity" in pages[1].read_text(encoding="utf-8")
    assert len({p.read_text(encoding="utf-8") for p in pages}) == 2
    with pytest.raises(SystemExit) as error:
        main(
            ["report", "llama-3-8b", "--on", "h100", "--fidelity", "hihg", "-o",
             str(tmp_path / "r.html")]
        )  # fmt: skip
    assert error.value.code == 2
    assert "unknown fidelity 'hihg'; did you mean 'high'?" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_tiles_that_round_have_regimes_and_maps(capsys):
    for fidelity in ("ideal", "calibrated"):
        for over, at in (("S", "B=1"), ("B,S", "")):
            command = ["regimes", "llama-3-8b", "--on", "h100", "--passes", "fuse{reuse=none}",
                       "--metric", "ttft", "--over", over, "--fidelity", fidelity]  # fmt: skip
            assert main([*command, "--at", at] if at else command) == 0
            assert "ceiling(S/32)" in capsys.readouterr().out


def test_a_label_numbers_an_equation(capsys):
    asked = ["formula", "llama-3.2-1b", "--on", "h100", "--label"]
    assert main([*asked, "eq:tpot", "--format", "latex", "--detail", "summary"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("\\begin{equation}\n\\label{eq:tpot}\n\\begin{aligned}") > 0
    assert "\\end{aligned}\n\\end{equation}\n" in shown
    for words, said in (
        (["x}\\input{y", "--format", "latex"], "letters, digits"),
        (["eq:tpot"], "--label is for latex, not text"),
        (["eq:tpot", "--format", "tex"], "--label is for latex, not tex"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*asked, *words])
        assert left.value.code == 2
        assert said in capsys.readouterr().err


SOLVED = {
    "the most": ("--budget", "500 ms", "-T", "10000", "--over", "B"),
    "a request": (
        "--metric",
        "latency",
        "--budget",
        "99 s",
        "-S",
        "9999",
        "-N",
        "99",
    ),
    "a floor": (
        "--metric",
        "throughput",
        "--budget",
        "2000",
        "--at-least",
        "-S",
        "2000",
        "-N",
        "8000",
    ),
    "what fits": ("--budget", "20 ms", "-T", "1000"),
}


@pytest.mark.parametrize("name", SOLVED)
def test_an_answer_that_does_not_fit_the_device_says_so(name, capsys):
    asked = ("solve", "llama-3-8b", "--on", "a100-80g", *SOLVED[name])
    found = json.loads(out(capsys, *asked, "--json"))
    given = {k: int(v) for k, v in found["fixed"].items()}
    answer = found["largest"] or -int(-Fraction(found["intervals"][0][0]) // 1)
    fits = cg.compile("llama-3-8b", "a100-80g").fit(**given, B=answer)
    assert (name == "what fits") == (not fits.full)
    said = f"B={answer} {fits.full}"
    assert found["warnings"] == ([said] if fits.full else [])
    for form in ("text", "csv"):
        assert ("does not fit" in out(capsys, *asked, "--format", form)) == bool(fits.full)


@pytest.mark.parametrize("detail", ["ops", "summary"])
@pytest.mark.parametrize("form", ["text", "html"])
@pytest.mark.parametrize(
    "line",
    ["llama-3-8b --on h100", "llama-3-8b --on 2xh100 --passes parallel{tp=2} --metric ttft"],
)
def test_figures_that_stay_symbols_are_told_like_any_other(capsys, line, form, detail):
    words = ["formula", *line.split(), "--symbolic-hardware"]
    assert main([*words, "--detail", detail, "--format", form]) == 0
    out = capsys.readouterr().out
    assert "memory bandwidth, byte/s" in out
    assert "peak of the tensor engine in bf16, FLOP/s" in out
    assert ("bandwidth of the link nvlink" in out) == ("2xh100" in line)
    assert "F_bf16 = F_bf16" not in out
