"""Comparing pipelines, differences as formulas, and exact winning intervals."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational, oo

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula
from costgraph.formula.bounds import bound_shares
from costgraph.formula.terms import make_term
from costgraph.symbols import B

PIPELINES = [
    "",
    "quantize{preset=w4a16}",
    "speculative{draft=opt-125m,gamma=4,alpha=0.8}",
    "quantize{preset=w4a16},speculative{draft=opt-125m,gamma=4,alpha=0.8}",
]


@pytest.fixture(scope="module")
def table():
    return cg.compare("opt-13b", "a100", PIPELINES, B=2, S=256, N=64)


def test_columns_agree_with_the_compiled_formulas(table):
    for column, compiled in zip(table.columns, table.compiled, strict=True):
        latency = compiled.latency.evaluate(B=2, S=256, N=64)
        assert column.latency == latency
        assert column.throughput == pytest.approx(128 / latency)
        assert column.tpot == pytest.approx((latency - column.ttft) / 63)
        assert column.speedup == pytest.approx(table.columns[0].latency / latency)
        assert column.fits == (column.memory <= 40e9)


def test_a_waterfall_adds_up_from_the_plain_model_to_the_pipeline(table):
    plain = table.columns[0].latency
    for column, fall in zip(table.columns, table.waterfalls, strict=True):
        assert plain + sum(e.change for e in fall) == pytest.approx(column.latency)


def test_an_ablation_is_the_pipeline_without_the_pass(table):
    whole = table.ablations[3]
    assert whole[0].latency == pytest.approx(table.columns[2].latency)
    assert whole[1].latency == pytest.approx(table.columns[1].latency)


NEEDED = "quantize{weights=int4}"
NEEDING = "lora{merge=zero-points}"


@pytest.mark.parametrize("order", [(NEEDED, NEEDING), (NEEDING, NEEDED)])
def test_passes_that_need_one_another_are_compared(order, capsys):
    pipeline = ",".join(order)
    arguments = ["compare", "llama-3.2-1b", "--on", "h100", "--passes", pipeline]
    assert main([*arguments, "--json"]) == 0
    (column,) = json.loads(capsys.readouterr().out)["pipelines"]
    lacking = column["ablation"][order.index(NEEDED)]
    assert lacking["latency"] is None
    assert lacking["change"] is None
    assert "no zero points" in lacking["refused"]
    assert column["ablation"][order.index(NEEDING)]["refused"] is None
    last = column["waterfall"][-1]
    assert last["latency"] == column["latency"]
    assert (last["change"] is None) == (order[0] == NEEDING)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{NEEDED}: refused without it: lora: " in text
    assert (f"{NEEDING}: refused so far: lora: " in text) == (order[0] == NEEDING)


def test_the_command_prints_the_same_numbers(table, capsys):
    arguments = ["compare", "opt-13b", "--on", "a100", "--batch", "2", "--prompt", "256"]
    for text in PIPELINES:
        arguments += ["--passes", text]
    assert main([*arguments, "--generate", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["latency"] for p in found["pipelines"]] == [c.latency for c in table.columns]
    assert len(found["pipelines"][3]["waterfall"]) == 2
    assert main([*arguments, "--generate", "64"]) == 0
    text = capsys.readouterr().out
    assert "waterfall" in text
    assert "accepted independently" in text


def test_bound_shares_add_up():
    compiled = cg.compile("opt-13b", "a100")
    shares = bound_shares(compiled.tpot, {"B": 1, "T": 100})
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.__getitem__) == "memory"
    crowded = bound_shares(compiled.ttft, {"B": 64, "S": 256})
    assert max(crowded, key=crowded.__getitem__) == "tensor:fp16"


def formula(*lines: tuple[int, int, int, int]) -> Formula:
    terms = [
        make_term(
            Integer(1),
            (Arm(Integer(a) + b * B, "memory"), Arm(Integer(c) + d * B, "tensor:bf16")),
            (f"op{i}",),
        )
        for i, (a, b, c, d) in enumerate(lines)
    ]
    return Formula("f", "s", tuple(t for t in terms if t is not None))


coefficient = st.integers(0, 9)
line = st.tuples(coefficient, coefficient, coefficient, coefficient)


@settings(max_examples=80)
@given(st.lists(line, min_size=1, max_size=3), st.lists(line, min_size=1, max_size=3))
def test_winning_intervals_match_brute_force(first, second):
    a, b = formula(*first), formula(*second)
    if B not in (*a.symbols, *b.symbols):
        return
    intervals = cg.wins(a, b, "B")
    for n in range(1, 60):
        at = Rational(n, 4)
        values = {B: at}
        wins = b.expr.xreplace(values) < a.expr.xreplace(values)
        inside = any(i.lower < at < i.upper for i in intervals)
        on_edge = any(at in (i.lower, i.upper) for i in intervals)
        # Sizes start at one.
        if at >= 1 and not on_edge:
            assert inside == bool(wins)


def test_the_batch_up_to_which_speculation_wins_is_exact():
    plain = cg.compile("llama-2-70b", "h100")
    fast = cg.compile("llama-2-70b", "h100", "speculative{draft=llama-2-7b,gamma=4,alpha=0.7}")
    (interval,) = cg.wins(plain.tpot, fast.tpot, "B", T=2048)
    edge = interval.upper
    assert interval.lower == 1
    assert edge.is_Rational
    difference = (fast.tpot - plain.tpot).bind(T=2048)
    assert difference.expr.xreplace({B: edge}) == 0
    assert difference.evaluate(B=float(edge) * 0.99) < 0 < difference.evaluate(B=float(edge) * 1.01)


def test_one_side_may_win_everywhere_or_nowhere():
    small, large = formula((1, 1, 0, 0)), formula((2, 1, 0, 0))
    (everywhere,) = cg.wins(large, small, "B")
    assert (everywhere.lower, everywhere.upper) == (1, oo)
    assert cg.wins(small, large, "B") == ()
    assert cg.wins(small, small, "B") == ()


def test_missing_values_and_mixed_units_are_refused():
    compiled = cg.compile("gpt2", "a6000")
    with pytest.raises(InputError, match="depends"):
        cg.wins(compiled.tpot, compiled.tpot * 2, "Q")
    with pytest.raises(InputError, match="byte"):
        compiled.tpot - compiled.memory
    with pytest.raises(InputError, match="at least one"):
        cg.compare("gpt2", "a6000", [])


def test_what_passes_did_not_do_is_said_wherever_they_are_compared(capsys):
    table = cg.compare("llama-3-8b", "h100", ["fuse", "fuse,quantize", "quantize{preset=w4a16}"])
    text = str(table)
    said = text[text.index("not done") :]
    assert "quantize did nothing: no format given: state a preset or a format" in said
    assert "quantize at embed.weight, lm_head.weight: in the keep list" in said
    assert said.count("a norm needs whole rows") == 1  # of two pipelines alike
    made = table.to_dict()["pipelines"][1]["not_done"]
    assert {
        "pass": "quantize",
        "did_something": False,
        "rule": "quantize",
        "at": "llama-3-8b",
        "reason": "no format given: state a preset or a format",
    } in made
    # A pass that did nothing rests on nothing.
    assert not any("quantisation" in a for a in table.compiled[1].assumptions)
    assert any("quantisation" in a for a in table.compiled[2].assumptions)
    for command in (
        ["formula", "llama-3-8b"], ["analyze", "llama-3-8b", "--context", "9"],
        ["explain", "llama-3-8b", "--at", "B=1,T=9"], ["solve", "llama-3-8b", "--at", "T=9",
        "--budget", "9 ms"], ["regimes", "llama-3-8b", "--at", "T=9"],
    ):  # fmt: skip
        main([*command, "--on", "h100", "--passes", "quantize"])
        out, err = capsys.readouterr()
        assert out.count("quantize did nothing: no format given") == 1
        assert err == ""


def test_many_reasons_are_counted_rather_than_listed():
    made = cg.compile("sdxl-unet", "h100", "fuse")
    assert len(made.undone) == 7
    assert made.undone[-1].startswith("fuse: ")
    assert made.undone[-1].endswith("more reasons elsewhere")
    made = cg.compile("resnet-50", "h100", "quantize{preset=w8a8}")
    (line,) = made.undone
    assert "stage1_conv2, stage1_conv3 … (20 places): convolutions keep" in line


@pytest.mark.parametrize("generated", [1, 2, 28, 29])
@pytest.mark.parametrize("model", ["llama-2-7b", "t5-base", "deepseek-v2-lite"])
def test_a_time_per_token_says_which_steps_it_is_of(model: str, generated: int) -> None:
    table = cg.compare(model, "h100", [""], S=1000, N=generated)
    shown, tpot = table.to_dict(), table.compiled[0].tpot
    first, last = table.compiled[0].program.contexts(1000, generated)
    words = f"mean of the decode steps at contexts {first} to {last}"
    if first == last:
        words = f"decode step, at context {first}"
    assert shown["tpot_of"] == words
    assert f"\ntpot: {words}\n" in str(table)
    assert f"tpot: {words}" in table._repr_html_()
    assert shown["context"] == (first + last) / 2
    # Linear in the context: the middle, exact, has the mean.
    at = {"B": 1, "S": 1000, "T": Fraction(first + last, 2)}
    value = tpot.evaluate(**{k: v for k, v in at.items() if k in {s.name for s in tpot.symbols}})
    assert float(value) == pytest.approx(shown["pipelines"][0]["tpot"], rel=1e-12)


def test_a_search_says_so_in_the_same_words() -> None:
    for at, words in (
        ({}, "last decode step, at context 1028"),
        ({"T": 9}, "decode step, at context 9"),
    ):
        found = cg.search("llama-2-7b", "h100", B=1, S=1000, N=29, **at)
        assert found.to_dict()["tpot_of"] == words
        assert f"\ntpot: {words}\n" in str(found)
    assert cg.search("mamba-2.8b", "h100", B=1, S=9, N=9).tpot_of is None  # no context, no word
    assert cg.compare("bert-base", "h100", [""], S=9).tpot_of is None


def test_what_idles_and_what_fails_is_said_of_its_pipeline():
    told = str(cg.compare("gpt2", "2xh100", ["fuse", "fuse,parallel{tp=2}"], B=2, S=20, N=4))
    assert "\nfuse: one device of 2xh100 runs the model, the other one idles" in told
    both = str(cg.compare("gpt2", "2xh100", ["", "fuse"], B=2, S=20, N=4))
    assert "\none device of 2xh100 runs the model" in both  # of every pipeline
    with pytest.raises(InputError, match=r"^fuse,parallel\{dp=2\}: latency: B/2"):
        cg.compare("gpt2", "2xh100", ["fuse", "fuse,parallel{dp=2}"], B=1, S=20, N=4)
