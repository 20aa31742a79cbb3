"""Lengths that round along a symbol: signs, regimes, maps and wins against every whole value."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer, Max, Min, Rational, ceiling, floor, oo

import costgraph as cg
from costgraph.errors import InputError, UnboundSymbolError
from costgraph.formula.envelope import dominates
from costgraph.formula.formula import Formula
from costgraph.formula.ladder import STAIRS
from costgraph.formula.rounded import ends, sign_stretches, stairs
from costgraph.formula.terms import Arm, make_term
from costgraph.formula.wins import wins
from costgraph.symbols import B, S, T, symbol

I = Integer  # noqa: E741
small, whole = st.integers(-6, 6), st.integers(0, 12)
REACH = 60


@st.composite
def rounded(draw: st.DrawFn) -> Expr:
    """A polynomial in ``T`` and up to three of its stairs."""
    atoms = [T]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from([ceiling, floor]))
        line = (draw(st.sampled_from([1, 1, 3])) * T + draw(small)) / draw(st.integers(2, 9))
        atoms.append(kind(line))
    found = I(draw(st.integers(-40, 40)))
    for _ in range(draw(st.integers(1, 4))):
        found += draw(small) * draw(st.sampled_from(atoms)) * draw(st.sampled_from([I(1), *atoms]))
    if draw(st.booleans()):
        found = draw(st.sampled_from([Min, Max]))(found, draw(small) * T + draw(small))
    return found


def sign(value: Expr) -> int:
    return int(bool(value > 0)) - int(bool(value < 0))


@settings(max_examples=25, deadline=None)
@given(expr=rounded(), lower=st.integers(1, 9), most=st.sampled_from([3, 64]),
       end=st.sampled_from([oo, I(70)]))  # fmt: skip
def test_signs_hold_at_every_whole_value(expr, lower, most, end):
    found = list(sign_stretches(expr, T, I(lower), end, most))
    assert (found[0].lower, found[-1].upper) == (lower, end)
    for a, b in itertools.pairwise(found):
        assert a.upper == b.lower
        assert a.sign != b.sign
    for at in range(lower, REACH if end == oo else int(end)):
        (part,) = (p for p in found if p.lower <= at < p.upper)
        value = sign(expr.xreplace({T: I(at)}))
        assert part.sign in (None, value) or (value == 0 and at == part.lower)


@settings(max_examples=20, deadline=None)
@given(expr=rounded())
def test_an_expression_lies_between_its_ends(expr):
    if expr.has(Min, Max):
        return
    found = ends(expr, T)
    assert not any(stairs(e, T) for e in found)
    for at in (1, 2, 3, 7, 20, 61):
        value = expr.xreplace({T: I(at)})
        sides = [e.xreplace({T: I(at)}) for e in found]
        assert min(sides) <= value <= max(sides)


@settings(max_examples=20, deadline=None)
@given(expr=rounded(), other=rounded())
def test_what_is_proved_to_be_larger_is_larger(expr, other):
    if dominates(expr, other):
        for at in range(1, 60):
            assert expr.xreplace({T: I(at)}) >= other.xreplace({T: I(at)})


def test_a_chunk_is_proved_to_hold_a_row_at_least_and_itself_at_most():
    own = T - 64 * ceiling(T / 64) + 64
    assert dominates(own, I(1))
    assert dominates(I(64), own)
    assert not dominates(own, I(2))
    assert not dominates(I(63), own)


def of(*terms: tuple[int, tuple[Expr, ...]]) -> Formula:
    made = (
        make_term(I(count), [Arm(a, f"r{i}") for i, a in enumerate(arms)], (f"op{n}",))
        for n, (count, arms) in enumerate(terms)
    )
    return Formula("t", "s", tuple(t for t in made if t is not None))


@settings(max_examples=8, deadline=None)
@given(exprs=st.lists(rounded(), min_size=2, max_size=3), line=st.tuples(whole, whole))
def test_regimes_are_the_formula_at_whole_values(exprs, line):
    f = of((1, tuple(exprs)), (2, (line[0] * T + line[1] + 1,)))
    if T not in f.symbols:
        return
    found = f.regimes("T")
    for at in range(1, REACH):
        piece = found.at(I(at))
        values = [a.expr.xreplace({T: I(at)}) for a in f.terms[0].arms]
        assert piece.expr.xreplace({T: I(at)}) == f.expr.xreplace({T: I(at)})
        if STAIRS not in piece.bound and len(values) > 1:
            (name,) = (r for r, ops in piece.bound.items() if "op0" in ops)
            largest = {a.resource for a, v in zip(f.terms[0].arms, values, strict=True)
                       if v == max(values)}  # fmt: skip
            assert name in largest


@settings(max_examples=8, deadline=None)
@given(a=rounded(), b=rounded())
def test_what_wins_wins_at_every_whole_value(a, b):
    one, two = of((1, (a, T)), (3, (T,))), of((1, (b, I(9))), (3, (T,)))
    if not (two - one).terms or T not in (two - one).symbols:
        return
    found = wins(one, two, "T")
    for at in range(1, REACH):
        value = (two.expr - one.expr).xreplace({T: I(at)})
        known = [w for w in found if w.lower <= at < w.upper]
        if any(w.partly for w in known):
            continue
        if value < 0:
            assert known
        else:
            assert not known or (value == 0 and known[0].lower == at)


MODELS = {
    "chunks": ("llama-4-scout", "fuse"),
    "no tiles": ("llama-3.2-1b", "fuse{reuse=none}"),
    "pages": ("llama-3.2-1b", "fuse,page-kv"),
    "blocks": ("llama-3.2-1b", "fuse,select"),
}
POINTS = [(1, 1), (1, 63), (3, 64), (8, 65), (40, 8192), (40, 8193), (300, 30000), (7, 10**6)]


@pytest.mark.parametrize(
    ("name", "metric", "over"),
    [(n, "ttft", "S") for n in ("chunks", "no tiles")]
    + [(n, "tpot", "T") for n in ("chunks", "pages", "blocks")],
)
def test_models_that_round_have_regimes_and_maps(name, metric, over):
    """Exact at whole values, along either symbol and over the plane, to a million of tokens."""
    model, passes = MODELS[name]
    f = getattr(cg.compile(model, "h200", passes), metric)
    found = f.region_map("B", over)
    for batch, length in POINTS:
        value = f.evaluate(**{"B": batch, over: length})
        at = {B: I(batch), symbol(over): I(length)}
        region = found.at(batch, length).expr.xreplace(at)
        assert float(region.evalf(30)) == pytest.approx(value, rel=1e-9)
    along = f.regimes(over, B=3)
    for _, length in POINTS:
        piece = along.at(I(length)).expr.xreplace({symbol(over): I(length)})
        assert float(piece.evalf(30)) == pytest.approx(
            f.evaluate(**{"B": 3, over: length}), rel=1e-9
        )


def test_a_chunk_that_alternates_is_said():
    """Between chunk ends the larger of two arms changes for good: the first stairs, then said."""
    own = T - 64 * ceiling(T / 64) + 64
    found = of((1, (own, I(32)))).regimes("T")
    assert found.pieces[0].bound == {"r1": ("op0",)}
    assert found.pieces[1].bound == {"r0": ("op0",)}
    assert [p.lower for p in found.pieces[:4]] == [1, 32, 65, 96]
    last = found.pieces[-1]
    assert (last.bound, last.upper) == ({STAIRS: ("op0",)}, oo)
    assert last.expr.xreplace({T: I(10**6 + 1)}) == Max(I(32), (10**6 + 1) % 64)
    with pytest.raises(InputError, match="stairs of T decide"):
        found.elasticity()
    (always, sometimes) = wins(of((1, (I(50), I(1)))), of((1, (own, I(32)))), "T")[-2:]
    assert not always.partly
    assert sometimes.partly
    assert "on some stairs" in str(sometimes)
    assert of((1, (own, I(32)))).solve_for("T", budget=50).tried


def test_slopes_are_those_of_a_stair_and_asymptotes_of_all():
    f = cg.compile("llama-4-scout", "h200", "fuse").tpot
    found = f.regimes("T", B=1)
    (slope,) = found.derivative().pieces
    assert slope.expr == Rational(2, 48828125)
    far = f.asymptote("T", B=1)
    assert (far.order, far.leading) == (1, slope.expr / 4)  # one layer in four sees all
    with pytest.raises(InputError, match="rises and falls with every stair"):
        of((1, (T - 64 * ceiling(T / 64) + 64,))).asymptote("T")


def test_what_rounds_in_other_symbols_names_them():
    with pytest.raises(UnboundSymbolError, match="bind F"):
        list(sign_stretches(ceiling(S / 16) - symbol("F") * S, S, I(1), oo))
