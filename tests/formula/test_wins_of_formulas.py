"""What is no formula is told in one line; intervals say of both ends whether they belong."""

from __future__ import annotations

import random

import pytest
from sympy import Integer, Rational, oo

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.terms import Arm, Limit, make_term
from costgraph.setting import Setting
from costgraph.showing.export.winning import Race
from costgraph.symbols import symbol


@pytest.mark.parametrize("compares", [cg.wins, cg.even])
def test_compiled_models_are_compared_by_their_formulas(compares):
    made = cg.compile("gpt2", "h100")
    for a, b in ((made, made.tpot), (made.tpot, made)):
        with pytest.raises(InputError, match=r"such as compiled\.tpot"):
            compares(a, b, "B")


def _formula(numbers, x, more, limits):
    """Maxima of lines with small whole coefficients, times another symbol or none."""
    lines = [[numbers.randint(0, 4) + numbers.randint(0, 3) * x for _ in "ab"] for _ in "cde"]
    terms = [
        make_term(Integer(numbers.randint(1, 3)), tuple(Arm(e * more, "memory") for e in two))
        for two in lines
    ]
    return Formula("time", "s", tuple(t for t in terms if t is not None), limits=limits)


@pytest.mark.parametrize("free", [False, True], ids=["numbers", "free symbol"])
@pytest.mark.parametrize("last", [oo, 8], ids=["no end", "an end"])
@pytest.mark.parametrize("name", ["B", "acc"], ids=["size", "share"])
def test_each_end_says_whether_it_belongs(name, last, free):
    """Against both formulas at the ends, between them and next to them."""
    numbers = random.Random(f"{name} {last} {free}")
    x, y = symbol(name), symbol("y")
    limits = () if last == oo else (Limit(x, Integer(last), "there are no more"),)
    first = Integer(1 if name == "B" else 0)
    whole = 0
    for _ in range(6):
        a, b = (_formula(numbers, x, y if free else Integer(1), limits) for _ in "ab")
        if x not in {*a.symbols, *b.symbols}:
            continue
        found = cg.wins(a, b, name, at={"y": 3} if free else None)
        ends = {e for i in found for e in (i.lower, i.upper)} - {oo}
        near = {e + d for e in ends for d in (-Rational(1, 99), 0, Rational(1, 99))}
        points = {p for p in {*near, *map(Integer, range(9))} if first <= p <= last}
        for p in points:
            at = {x: p, y: Integer(3)}
            smaller = bool(b.expr.subs(at) < a.expr.subs(at))
            told = [
                i
                for i in found
                if i.lower < p < i.upper
                or (p == i.lower and i.closed)
                or (p == i.upper and i.to_end)
            ]
            assert len(told) == smaller, (a.expr, b.expr, found, p)
        whole += sum(i.closed + i.to_end for i in found)
    assert whole  # some do belong


def test_a_value_of_a_symbol_that_cancels_is_taken_and_an_unknown_one_refused():
    x, y = symbol("B"), symbol("y")
    both = make_term(Integer(1), (Arm(y, "memory"),))
    a = Formula("a", "s", (both, make_term(Integer(2), (Arm(x, "memory"),))))
    b = Formula("b", "s", (both, make_term(Integer(1), (Arm(x, "memory"),))))
    (found,) = cg.wins(a, b, "B", y=3)
    assert found.text == "1 <= B < ∞"
    (found,) = cg.wins(a, b, "y", B=3)
    assert found.text == "0 <= y < ∞"
    for over, other in (("B", {"z": 1}), ("y", {"B": 3, "z": 1})):
        with pytest.raises(InputError, match="'z'"):
            cg.wins(a, b, over, **other)
    with pytest.raises(InputError, match="what varies is y"):
        cg.wins(a, b, "y", y=3)


def test_at_a_rate_of_zero_nothing_is_smaller():
    x = symbol("BW")
    a, b = (
        Formula("time", "s", (make_term(Integer(1), (Arm(n / x, "memory"), Arm(Integer(1), "f"))),))
        for n in (5, 3)
    )
    assert [i.text for i in cg.wins(a, b, "BW")] == ["0 < BW < 5"]


def test_a_warning_about_one_choice_is_said_with_its_name():
    small, large = (
        Setting("m", name, warnings=said) for name, said in (("a", ("x", "y")), ("b", ("y",)))
    )
    assert Race("tpot", "s", "B", (small, large), ()).setting.warnings == ("y", "a: x")
