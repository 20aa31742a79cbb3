"""Regimes: where which arm of each maximum is the largest, along one symbol.

On each interval the formula is one polynomial (or rational) expression. The
breakpoints are exact: rational, algebraic, or closed forms in other symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Add, Expr, Integer, Piecewise, Poly, Rational, Symbol, oo
from sympy.core.relational import Relational

from costgraph.errors import InputError, clip
from costgraph.formula.isolate import sign_changes
from costgraph.formula.kinks import kink
from costgraph.formula.signs import Judge, UndecidedError, tightest
from costgraph.formula.terms import Arm, Term
from costgraph.symbols import SIZES, symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class Regime:
    """An interval of a symbol on which no maximum changes its largest arm.

    Attributes:
        lower, upper: exact ends; ``oo`` for no upper end.
        expr: the formula on the interval, without maxima.
        bound: operations by the resource that bounds them there.
    """

    lower: Expr
    upper: Expr
    expr: Expr
    bound: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Regimes:
    """A formula along one symbol: ordered regimes, and what their order rests on.

    Attributes:
        symbol: the symbol that varies.
        name, unit: of the formula.
        pieces: regimes in order; neighbours share an end, where both agree.
        conditions: inequalities among other symbols that hold at the reference
            point and decide the order; empty when everything is proved.
    """

    symbol: Symbol
    name: str
    unit: str
    pieces: tuple[Regime, ...]
    conditions: tuple[Relational, ...] = ()

    def __iter__(self) -> Iterator[Regime]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def breakpoints(self) -> tuple[Expr, ...]:
        """Ends between neighbouring regimes, in order."""
        return tuple(p.upper for p in self.pieces[:-1])

    def piecewise(self) -> Piecewise:
        """The formula as a sympy ``Piecewise``."""
        parts = [(p.expr, self.symbol < p.upper) for p in self.pieces[:-1]]
        return Piecewise(*parts, (self.pieces[-1].expr, True))

    def derivative(self) -> Regimes:
        """The derivative in each regime; at a breakpoint it jumps."""
        return self._changed(f"d {self.name} / d {self.symbol}", "", lambda e: e.diff(self.symbol))

    def elasticity(self) -> Regimes:
        """``d log f / d log x`` in each regime: per cent of change per per cent."""
        x = self.symbol
        return self._changed(
            f"elasticity of {self.name} in {x}", "1", lambda e: _quotient(x * e.diff(x), e)
        )

    def _changed(self, name: str, unit: str, f: Callable[[Expr], Expr]) -> Regimes:
        pieces = tuple(replace(p, expr=f(p.expr)) for p in self.pieces)
        unit = unit or f"{self.unit} per {self.symbol}"
        return replace(self, name=name, unit=unit, pieces=pieces)

    def at(self, value: Any) -> Regime:
        """The regime that a number falls in (the upper one at a breakpoint)."""
        for piece in self.pieces:
            if piece.upper == oo or bool(value < piece.upper):
                return piece
        return self.pieces[-1]

    def __str__(self) -> str:
        from costgraph.export.regimes import regimes_text

        return regimes_text(self)

    def _repr_html_(self) -> str:
        from costgraph.export.notebook import regimes_html

        return regimes_html(self)


@dataclass(frozen=True)
class Crossover:
    """Where operations change what bounds them.

    Attributes:
        ops: the operations.
        value: the symbol's value there, in closed form.
        below, above: the bounding resource on either side.
    """

    ops: tuple[str, ...]
    value: Expr
    below: str
    above: str


@dataclass(frozen=True)
class _Ladder:
    """One term along the symbol: the largest arm from each breakpoint on."""

    term: Term
    cuts: tuple[Expr, ...]
    arms: tuple[Arm, ...]


def regimes(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> Regimes:
    """The regimes of ``formula`` along the symbol ``over``, to infinity.

    Sizes (batch, tokens, dimensions) start at one, as everywhere; other symbols
    (rates, probabilities) at zero.

    Args:
        formula: any formula without remaining sums over contexts.
        over: the symbol to vary.
        at: reference values for symbols that stay symbolic. They decide orders
            that cannot be proved; the inequalities used are the result's
            ``conditions``.
        values: numbers for other symbols, substituted.

    Raises:
        UndecidedError: the order of breakpoints depends on symbols without value.
        InputError: the formula is not piecewise polynomial in the symbol.
    """
    x, bound, judge = _prepared(formula, over, at, values)
    if any(t.norm is not None and len(t.arms) > 1 for t in bound.terms):
        raise InputError(
            f"{formula.name} is calibrated: its arms combine by a norm, which is smooth and has "
            "no regimes; ask for its crossovers, or compile with fidelity='ideal'"
        )
    ladders = [_ladder(t, x, judge) for t in bound.terms]
    cuts = ordered({c for ladder in ladders for c in ladder.cuts}, judge)
    ends = [start_of(x), *cuts, oo]
    position = {cut: i for i, cut in enumerate(cuts)}
    pieces = []
    for index, (lower, upper) in enumerate(pairwise(ends)):
        parts: list[Expr] = []
        groups: dict[str, list[str]] = {}
        for ladder in ladders:
            passed = sum(1 for cut in ladder.cuts if position[cut] < index)
            arm = ladder.arms[passed]
            parts.append(ladder.term.count * arm.expr)
            groups.setdefault(arm.resource, []).extend(ladder.term.ops)
        total = sympy.expand(Add(*parts))
        if bound.numerator is not None:
            total = bound.numerator / total
        pieces.append(Regime(lower, upper, total, {k: tuple(v) for k, v in groups.items()}))
    return Regimes(x, formula.name, formula.unit, tuple(pieces), tightest(judge.conditions))


def crossovers(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> tuple[Crossover, ...]:
    """Where each group of operations changes its bound, in order; see :func:`regimes`."""
    x, bound, judge = _prepared(formula, over, at, values)
    found = []
    for term in bound.terms:
        ladder = _ladder(term, x, judge)
        for index, cut in enumerate(ladder.cuts):
            below, above = ladder.arms[index].resource, ladder.arms[index + 1].resource
            if below == above:  # only the form changes: a clipped length
                continue
            found.append(Crossover(term.ops, cut, below, above))
    order = {cut: i for i, cut in enumerate(ordered({c.value for c in found}, judge))}
    return tuple(sorted(found, key=lambda c: order[c.value]))


def _prepared(
    formula: Formula, over: str, at: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> tuple[Symbol, Formula, Judge]:
    from costgraph.formula.formula import exact

    names = {s.name for s in formula.symbols}
    known = {k: v for k, v in values.items() if k in names}
    formula._reject_unknown(values)
    if over not in names:
        raise InputError(f"{formula.name} does not depend on {over}")
    point = {symbol(k): exact(v) for k, v in (at or {}).items()}
    return symbol(over), formula.bind(**known), Judge(point)


def _quotient(top: Expr, bottom: Expr) -> Expr:
    """``top / bottom`` in lowest terms; where there are powers of symbols as it stands."""
    if any(p.exp.free_symbols for p in bottom.atoms(sympy.Pow)):
        return sympy.expand(top) / bottom
    return sympy.cancel(top / bottom)


def _ladder(term: Term, x: Symbol, judge: Judge) -> _Ladder:
    """The term's largest arms upwards from the start, and where they change.

    Where a clipped length stops growing the arms themselves change form.
    """
    if term.span is not None:
        raise InputError("a sum over contexts has no regimes: bind N and S, or use a step's time")
    cuts: list[Expr] = []
    chosen: list[Arm] = []
    for lower, upper, arms in _unkinked(term.arms, x, start_of(x), oo, judge):
        if chosen:
            cuts.append(lower)
        _climb(arms, x, lower, upper, judge, cuts, chosen)
    return _Ladder(term, tuple(cuts), tuple(chosen))


def _unkinked(
    arms: tuple[Arm, ...], x: Symbol, lower: Expr, upper: Expr, judge: Judge
) -> Iterator[tuple[Expr, Expr, tuple[Arm, ...]]]:
    """Intervals on which no minimum or maximum inside the arms changes."""
    found = kink(arms, x)
    if found is None:
        yield lower, upper, arms
        return
    at, low, high = found

    def replaced(values: dict[Expr, Expr]) -> tuple[Arm, ...]:
        return tuple(Arm(a.expr.xreplace(values), a.resource) for a in arms)

    if judge.sign(at - lower) > 0:
        top = at if upper == oo or judge.sign(at - upper) < 0 else upper
        yield from _unkinked(replaced(low), x, lower, top, judge)
        lower = top
    if lower != upper:
        yield from _unkinked(replaced(high), x, lower, upper, judge)


def _climb(
    arms: tuple[Arm, ...],
    x: Symbol,
    lower: Expr,
    upper: Expr,
    judge: Judge,
    cuts: list[Expr],
    chosen: list[Arm],
) -> None:
    """Sweeps polynomial arms upwards, hopping at each crossing below ``upper``."""
    if len(arms) == 1:
        chosen.append(arms[0])
        return
    try:
        polys = as_polys([a.expr for a in arms], x)
    except InputError:
        _climb_smooth(arms, x, lower, upper, cuts, chosen)
        return
    start = lower
    current = _largest_from(polys, start, judge)
    chosen.append(arms[current])
    while True:
        step = _next_crossing(polys, current, start, judge)
        if step is None or (upper != oo and judge.sign(step[0] - upper) >= 0):
            return
        start, current = step
        cuts.append(start)
        chosen.append(arms[current])


def _climb_smooth(
    arms: tuple[Arm, ...],
    x: Symbol,
    lower: Expr,
    upper: Expr,
    cuts: list[Expr],
    chosen: list[Arm],
) -> None:
    """Arms with powers such as ``(31/32)**B``: crossings enclosed, not solved."""
    found: set[Expr] = set()
    for a, b in combinations(arms, 2):
        found.update(sign_changes(sympy.expand(a.expr - b.expr), x, lower))
    inner = [r for r in sorted(found) if upper == oo or r < upper]
    for left, right in pairwise([lower, *inner, upper]):
        at = {x: inside(left, right)}
        best = max(arms, key=lambda arm: number_key(arm.expr.xreplace(at)))
        if chosen and left != lower:
            if chosen[-1] is best:
                continue
            cuts.append(left)
        chosen.append(best)


def as_polys(exprs: Sequence[Expr], x: Symbol) -> list[Poly]:
    """Polynomials in ``x`` of the same signs and crossings.

    Powers of ``1/x`` (rates in a denominator) are multiplied out, by the same
    power everywhere; ``x`` is positive.

    Raises:
        InputError: an expression is not a polynomial in ``x`` and ``1/x``.
    """
    for power in range(4):
        scaled = exprs if power == 0 else [sympy.expand(e * x**power) for e in exprs]
        found = [_poly(e, x) for e in scaled]
        if all(p is not None for p in found):
            return [p for p in found if p is not None]
    bad = next(e for e in exprs if _poly(e, x) is None)
    raise InputError(f"{clip(str(bad), 120)} is not a polynomial in {x}")


def as_poly(expr: Expr, x: Symbol) -> Poly:
    """One expression as :func:`as_polys` takes it."""
    return as_polys([expr], x)[0]


def _poly(expr: Expr, x: Symbol) -> Poly | None:
    try:
        poly = Poly(expr, x)
    except sympy.PolynomialError:
        return None
    return None if any(c.has(x) for c in poly.coeffs()) else poly


def _coefficients(poly: Poly) -> list[Expr]:
    """From the constant upwards."""
    return list(reversed(poly.all_coeffs()))


def start_of(x: Symbol) -> Expr:
    """Where a symbol's values begin: one for sizes, zero otherwise."""
    return ONE if x.name in SIZES else ZERO


def _largest_from(polys: list[Poly], start: Expr, judge: Judge) -> int:
    """Index of the arm that is largest just above ``start``."""
    x = polys[0].gen
    polys = [as_poly(p.as_expr().xreplace({x: x + start}), x) for p in polys]
    best = 0
    for i in range(1, len(polys)):
        difference = polys[i] - polys[best]
        for coefficient in _coefficients(difference):
            sign = judge.sign(coefficient)
            if sign > 0:
                best = i
            if sign != 0:
                break
    return best


def _next_crossing(
    polys: list[Poly], current: int, start: Expr, judge: Judge
) -> tuple[Expr, int] | None:
    """The first crossing above ``start`` at which another arm takes over."""
    best: tuple[Expr, int] | None = None
    for i, poly in enumerate(polys):
        if i == current:
            continue
        difference = poly - polys[current]
        for root in positive_roots(difference, judge):
            if judge.sign(root - start) <= 0 or not _rises(difference, root, judge):
                continue
            if best is None:
                best = (root, i)
                continue
            order = judge.sign(root - best[0])
            if order < 0 or (order == 0 and _steeper(polys[i], polys[best[1]], root, judge)):
                best = (root, i)
            break
    return best


def _rises(difference: Poly, root: Expr, judge: Judge) -> bool:
    """True if the difference turns positive at the root."""
    derivative = difference.diff()
    while not derivative.is_zero:
        sign = judge.sign(sympy.simplify(derivative.as_expr().xreplace({difference.gen: root})))
        if sign != 0:
            return sign > 0
        derivative = derivative.diff()
    return False


def _steeper(a: Poly, b: Poly, at: Expr, judge: Judge) -> bool:
    return _rises(a - b, at, judge)


def positive_roots(poly: Poly, judge: Judge) -> list[Expr]:
    """Positive real roots in ascending order."""
    if poly.is_zero or poly.degree() == 0:
        return []
    if not poly.free_symbols_in_domain:
        return [r for r in dict.fromkeys(poly.real_roots()) if r > 0]
    coefficients = _coefficients(poly)
    if len(coefficients) == 2:
        constant, slope = coefficients
        if judge.sign(constant) * judge.sign(slope) >= 0:
            return []
        return [sympy.factor(-constant / slope)]
    if coefficients[0] == 0:
        return positive_roots(Poly(poly.as_expr() / poly.gen, poly.gen), judge)
    raise UndecidedError(
        f"the roots of {poly.as_expr()} are not decided in symbols; bind "
        + ", ".join(sorted(s.name for s in poly.free_symbols_in_domain))
    )


def ordered(cuts: set[Expr], judge: Judge) -> list[Expr]:
    """Distinct breakpoints in ascending order; equal ones of different form are one."""
    if all(c.is_number for c in cuts):
        return sorted(cuts, key=number_key)

    def compare(a: Expr, b: Expr) -> int:
        return judge.sign(a - b)

    return sorted(cuts, key=cmp_to_key(compare))


def number_key(value: Expr) -> Expr:
    """What orders exact numbers: themselves where rational, 40 digits otherwise."""
    return value if value.is_Rational else value.evalf(40)


def inside(lower: Expr, upper: Expr) -> Rational:
    """A rational number strictly between two exact numbers."""
    if upper == oo:
        return Rational(sympy.floor(lower) + 1)
    middle = (lower + upper) / 2
    if middle.is_Rational:
        return Rational(middle)
    digits = 20
    while True:
        guess = Rational(str(middle.evalf(digits)))
        if lower < guess < upper:
            return guess
        digits *= 2
