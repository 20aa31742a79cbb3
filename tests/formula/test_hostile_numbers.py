"""Numbers of Python that are no numbers, or beyond any: an answer, or one line."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import numpy as np
import pytest
import sympy

import costgraph as cg
from costgraph.errors import CostgraphError, InputError
from costgraph.formula.vector import compile_vector
from costgraph.number import LARGEST, bounded, is_number, parse_number

VALUES = [
    10**5000, -(10**5000), Fraction(1, 10**400), Fraction(10**400, 3), 1e-320, 1e300, float("nan"),
    float("inf"), -1, 0, "x", "1", None, True, np.int64(5), np.float32(2.5), sympy.oo,
    sympy.sqrt(2), sympy.Integer(3), object(), 10**30, 2**70,
]  # fmt: skip
DENSE = cg.compile("gpt2", "a6000")
EXPERTS = cg.compile("mixtral-8x7b", "h100")
DRAFTED = cg.compile("gpt2", "a6000", "speculative{alpha=a,gamma=g}")
CALLS = {
    "evaluate": lambda v: DENSE.tpot.evaluate(B=v, T=5),
    "flops": lambda v: DENSE.flops.evaluate(B=v, S=5, N=3),
    "tokens": lambda v: EXPERTS.latency.evaluate(B=1, S=2, N=v),
    "memory": lambda v: EXPERTS.memory.evaluate(B=v, S=2, N=3),
    "acceptance": lambda v: DRAFTED.tpot.evaluate(B=1, T=2, a=v, g=4),
    "length": lambda v: DRAFTED.tpot.evaluate(B=1, T=2, a=0.5, g=v),
    "bind": lambda v: EXPERTS.tpot.bind(B=v),
    "regimes": lambda v: EXPERTS.tpot.regimes("T", B=v),
    "budget": lambda v: EXPERTS.tpot.solve_for("B", budget=v, T=5),
    "local": lambda v: EXPERTS.tpot.local(B=v, T=5).elasticities(),
    "explain": lambda v: EXPERTS.explain("tpot", B=v, T=5),
    "breakdown": lambda v: EXPERTS.breakdown("decode", B=v, T=5),
    "search": lambda v: cg.search("gpt2", "h100", S=v, N=3, B=4),
    "search B": lambda v: cg.search("gpt2", "h100", S=3, N=3, B=v),
    "limit": lambda v: cg.search("gpt2", "h100", S=3, N=3, B=4, limits={"tpot": v}),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_any_number_is_used_or_refused(name):
    for value in VALUES:
        with contextlib.suppress(CostgraphError):
            CALLS[name](value)


def test_large_batches_of_experts_answer():
    """Exact powers would have millions of digits."""
    for batch in (10**4, 10**6, 10**12):
        near = EXPERTS.tpot.local(B=batch, T=4096)
        assert near.value == pytest.approx(EXPERTS.tpot.evaluate(B=batch, T=4096), rel=1e-12)
        assert len(EXPERTS.tpot.regimes("T", B=batch)) >= 1
        assert EXPERTS.explain("tpot", B=batch, T=4096).value == pytest.approx(near.value)


@pytest.mark.parametrize("engine", ["one", "numpy", "numba", "regimes", "capacity"])
def test_parts_of_a_size_are_refused(engine):
    """What is proved of formulas rests on sizes of at least one."""
    f = cg.compile("gpt2", "a6000").tpot
    calls = {
        "one": lambda: f.evaluate(B=0.5, T=9),
        "regimes": lambda: f.regimes("T", B=0.5),
        "capacity": lambda: cg.compile("gpt2", "a6000").fit(B=1, T=0.5),
    }
    with pytest.raises(InputError, match=r"[BT] must be at least 1, not (0\.5|1/2)"):
        calls.get(engine, lambda: compile_vector((f,), engine=engine)(B=[1, 0.5], T=9))()
    assert f.evaluate(B=1, T=1.5) > 0  # means of several are


def test_batches_that_are_no_whole_numbers_have_breakpoints():
    """The coefficients are algebraic there: their roots are enclosed."""
    found = cg.compile("mixtral-8x7b", "tpu-v6e", symbolic_hardware=True)
    point = {s.name: v for s, v in found.bound.bindings().items() if s in found.tpot.symbols}
    others = {k: v for k, v in point.items() if k != "BW"}
    assert found.tpot.crossover("BW", B=1.5, T=10**6, **others)


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("+3", 3), ("-2", -2), ("0.1", Fraction(1, 10)), (".5", Fraction(1, 2)),
     ("1.", 1), ("1e6", 10**6), ("2.5E-3", Fraction(1, 400)), ("1/3", Fraction(1, 3)),
     (" 7 ", 7), ("0", 0), ("1e24", 10**24)],
)  # fmt: skip
def test_numbers_are_read_exactly(text, value):
    assert parse_number(text, "x") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "not a number"), ("x", "not a number"), ("1e9999999999", "too large"),
     ("9" * 5000, "too long"), ("1e25", "beyond 1e24"), ("-1e25", "beyond"),
     ("1e-25", "closer to zero"), ("1e-400", "closer to zero"), ("1/0", "divides by zero"),
     ("1/0.0", "divides by zero"), ("nan", "not a number"), ("inf", "not a number"),
     ("0x10", "not a number"), ("1_000", "not a number"), ("\u0967", "not a number"),
     ("1e1/2", "not a number"), ("1/2/3", "not a number"), ("1 2", "not a number")],
)  # fmt: skip
def test_other_texts_are_refused_before_they_are_expanded(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_number(text, "x")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_limits_hold_for_numbers_of_python():
    assert bounded(LARGEST, "x") == LARGEST
    assert bounded(np.float32(0.5), "x") == Fraction(1, 2)
    for bad in (LARGEST + 1, Fraction(1, LARGEST + 1), 1e-320, float("inf"), "1", None, True):
        with pytest.raises(InputError, match="x: "):
            bounded(bad, "x")
    assert not is_number("1e9999")


#: Questions about a prompt with one value put in: for ``B``, or for ``S``.
ABOUT_A_PROMPT = {
    "evaluate": lambda **at: DENSE.ttft.evaluate(**{"B": 2, "S": 5, **at}),
    "bind": lambda **at: DENSE.ttft.bind(**at),
    "local": lambda **at: DENSE.ttft.local(**{"B": 2, "S": 5, **at}),
    "regimes": lambda **at: DENSE.latency.regimes("N", **{"B": 2, "S": 5, **at}),
    "crossovers": lambda **at: DENSE.latency.crossover("N", **{"B": 2, "S": 5, **at}),
    "budget": lambda **at: DENSE.latency.solve_for("N", budget=1, **{"B": 2, "S": 5, **at}),
    "wins": lambda **at: cg.wins(
        DENSE.latency, EXPERTS.latency, "N", **{"B": 2, "S": 5, **at}
    ),
    "fit": lambda **at: DENSE.fit(**{"B": 2, "S": 5, "N": 1, **at}),
}  # fmt: skip


@pytest.mark.parametrize("name", ABOUT_A_PROMPT)
def test_a_point_that_is_none_is_refused_whoever_asks(name):
    ask = ABOUT_A_PROMPT[name]
    for at in ({"B": 0}, {"B": -1}, {"S": 0}):
        with pytest.raises(InputError, match="must be a positive finite number"):
            ask(**at)
    if name != "fit":
        with pytest.raises(InputError, match="S must be a whole number of tokens"):
            ask(S=5.5)


def test_a_question_along_a_symbol_says_what_is_wrong_with_it():
    """Instead of values that were tried, of a symbol that changes nothing."""
    for asks in (
        DENSE.tpot.regimes,
        lambda over, **at: DENSE.tpot.solve_for(over, 1, **at),
        lambda over, **at: DENSE.tpot.region_map(over, "T", **at),
    ):
        for over, at, said in (
            ("S", {"B": 1, "T": 5}, "does not depend on 'S'"),
            ("B", {"B": 3, "T": 5}, "what varies is B"),
            ("B", {"T": 5, "gamma": 4}, "no symbol 'gamma'"),
        ):
            with pytest.raises(InputError, match=said):
                asks(over, **at)
    along = DENSE.tpot.regimes("T", B=1)
    for beyond in (0, 1025):
        with pytest.raises(InputError, match="T goes from 1 to 1024"):
            along.at(beyond)
    with pytest.raises(InputError, match="divided by zero"):
        DENSE.tpot / 0
