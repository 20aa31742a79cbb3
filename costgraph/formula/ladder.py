"""What bounds one term along a symbol: its largest arms, and where they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key, reduce
from itertools import combinations, pairwise
from typing import TypeAlias

import sympy
from sympy import Expr, Integer, Poly, Pow, Rational, Symbol, fraction, oo, together

from costgraph.errors import InputError, clip
from costgraph.formula.envelope import dominates, pruned
from costgraph.formula.isolate import sign_changes
from costgraph.formula.kinks import kink
from costgraph.formula.limits import start_of
from costgraph.formula.outline import LATENCY, kind_of
from costgraph.formula.polynomials import is_rational, kept_sign, rationalized, roots_above_zero
from costgraph.formula.reals import DIGITS, inside, number_key
from costgraph.formula.rounded import rounds, sign_stretches
from costgraph.formula.signs import Judge, UndecidedError
from costgraph.formula.terms import Arm, Term

ZERO, ONE = Integer(0), Integer(1)
#: What stands for a resource in a body that others outlast.
HIDDEN = "hidden"
#: What stands for a resource where another one bounds an operation on every stair of a length
#: that rounds (chunks, blocks), and stairs are too many to name.
STAIRS = "stairs"
#: Terms and what bounds each.
Found: TypeAlias = "tuple[tuple[Term, str], ...]"


@dataclass(frozen=True)
class Rung:
    """One interval of a term.

    Attributes:
        lower: where it begins.
        expr: the term without its count: its largest arm, or the norm of its arms.
        found: terms and what bounds them: the resource of the term's largest arm, or
            ``latency`` where the floor of its operations exceeds every arm. Of a maximum
            of chains these are the terms of its largest chain; those of the others are
            ``hidden``. Where it changes from stair to stair it is ``stairs``, and ``expr``
            the maximum as it stands.
    """

    lower: Expr
    expr: Expr
    found: Found


@dataclass(frozen=True)
class Ladder:
    """One term along the symbol: intervals in order, to infinity."""

    term: Term
    rungs: tuple[Rung, ...]

    @property
    def cuts(self) -> tuple[Expr, ...]:
        """Where the bound or the form changes."""
        return tuple(r.lower for r in self.rungs[1:])


def candidates(term: Term) -> tuple[Arm, ...]:
    """What may bound the operations of a term: its arms, and their floor as ``latency``.

    The value of a plain maximum is its largest arm: no floor stands beside that.
    """
    if term.floor == 0 or (len(term.arms) > 1 and not term.is_smooth):
        return term.arms
    return (*term.arms, Arm(term.floor, LATENCY))


def bounds(found: Iterable[tuple[Term, str]]) -> dict[str, tuple[str, ...]]:
    """Operations by the resource that bounds them, from terms and their resources.

    An operation with a floor stands once: where its arms and its floor were compared,
    not again with the term in which floors are counted.
    """
    pairs = list(found)
    compared = {op for term, _ in pairs if term.floor != 0 for op in term.ops}
    groups: dict[str, dict[str, None]] = {}
    for term, resource in pairs:
        counts_floors = kind_of(resource) == LATENCY and term.floor == 0
        ops = [op for op in term.ops if not (counts_floors and op in compared)]
        if ops:
            groups.setdefault(resource, {}).update(dict.fromkeys(ops))
    return {resource: tuple(ops) for resource, ops in groups.items()}


def ladder(
    term: Term, x: Symbol, judge: Judge, first: Expr | None = None, last: Expr | None = None
) -> Ladder:
    """The term's largest arms from ``first`` to ``last``, and where they change.

    Without these from where the symbol's values begin, and to infinity.

    Where a clipped length stops growing the arms themselves change form. A norm
    keeps its form where its largest arm changes; only its bound does. The floor of
    the operations is one more candidate for what bounds them.
    """
    if term.span is not None:
        raise InputError("a sum over contexts has no regimes: use a step's time, or solve_for")
    begin, end = start_of(x) if first is None else first, oo if last is None else last
    if term.is_nested:
        return Ladder(term, _nested(term, x, judge, begin, end))
    rungs: list[Rung] = []
    plain = len(term.arms) > 1 and not term.is_smooth
    for lower, upper, found in _unkinked(candidates(term), x, begin, end, judge):
        # Of a maximum the form is its largest arm, else it is one on the whole interval.
        form = None if plain else replace(term, arms=found[: len(term.arms)]).value
        cuts: list[Expr] = []
        chosen: list[Arm] = []
        _climb(found, x, lower, upper, judge, cuts, chosen)
        for start, arm in zip((lower, *cuts), chosen, strict=True):
            made = Rung(start, arm.expr if form is None else form, ((term, arm.resource),))
            _extend(rungs, made)
    return Ladder(term, tuple(rungs))


def _extend(rungs: list[Rung], made: Rung) -> None:
    """Adds a rung, unless it says the same as the one below."""
    if not rungs or (rungs[-1].expr, rungs[-1].found) != (made.expr, made.found):
        rungs.append(made)


def _nested(term: Term, x: Symbol, judge: Judge, first: Expr, last: Expr) -> tuple[Rung, ...]:
    """A maximum of chains: the ladders of what is in them, then of the maximum.

    Between two cuts of any chain each arm is one expression; there the largest is found
    as for a maximum of plain arms.
    """
    inner = [
        tuple(ladder(t, x, judge, first, last) for t in arm.chain or (_alone(term, arm),))
        for arm in term.arms
    ]
    rungs: list[Rung] = []
    flat = [rungs for chain in inner for rungs in chain]
    for lower, upper, chosen in joined(flat, x, judge, first, None if last == oo else last):
        parts = iter(chosen)
        bodies = [tuple(next(parts) for _ in chain) for chain in inner]
        arms = tuple(
            Arm(sympy.expand(_total(chain, body)), str(i))
            for i, (chain, body) in enumerate(zip(inner, bodies, strict=True))
        )
        cuts: list[Expr] = []
        winners: list[Arm] = []
        _climb(arms, x, lower, upper, judge, cuts, winners)
        for begin, arm in zip((lower, *cuts), winners, strict=True):
            if arm.resource == STAIRS:
                every = (f for body in bodies for rung in body for f in rung.found)
                found = tuple(dict.fromkeys((t, STAIRS) for t, _ in every))
                _extend(rungs, Rung(begin, arm.expr, found))
                continue
            at = int(arm.resource)
            found = tuple(f for rung in bodies[at] for f in rung.found)
            if term.arms[at].chain:  # a shared resource bounds every body
                others = (a for i, a in enumerate(term.arms) if i != at)
                found += tuple((t, HIDDEN) for a in others for t in a.chain)
            _extend(rungs, Rung(begin, arm.expr, found))
    return tuple(rungs)


def _alone(term: Term, arm: Arm) -> Term:
    """One arm of a term: a shared resource that bounds all of its operations."""
    return Term(ONE, (arm,), term.ops)


def _total(chain: tuple[Ladder, ...], body: tuple[Rung, ...]) -> Expr:
    return sympy.Add(*(c.term.count * r.expr for c, r in zip(chain, body, strict=True)))


def joined(
    ladders: Sequence[Ladder],
    x: Symbol,
    judge: Judge,
    first: Expr | None = None,
    last: Expr | None = None,
) -> Iterator[tuple[Expr, Expr, tuple[Rung, ...]]]:
    """The intervals between all cuts of several ladders, with the rung of each.

    They begin at ``first`` and end at ``last``, where the symbol has such values.
    """
    cuts = ordered({c for rungs in ladders for c in rungs.cuts}, judge)
    position = {cut: i for i, cut in enumerate(cuts)}
    start = start_of(x) if first is None else first
    below = 0 if first is None else sum(1 for c in cuts if judge.sign(c - start) <= 0)
    inner = (c for c in cuts[below:] if last is None or judge.sign(c - last) < 0)
    ends = [start, *inner, oo if last is None else last]
    for index, (lower, upper) in enumerate(pairwise(ends), below):
        yield (
            lower,
            upper,
            tuple(r.rungs[sum(1 for cut in r.cuts if position[cut] < index)] for r in ladders),
        )


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
    if any(rounds(a.expr, x) for a in arms):
        _climb_stairs(arms, x, lower, upper, cuts, chosen)
        return
    if any(p.exp.has(x) for a in arms for p in a.expr.atoms(Pow)):
        _climb_smooth(arms, x, lower, upper, cuts, chosen)
        return
    try:
        polys = as_polys([a.expr for a in arms], x, lower, upper)
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
        found.update(sign_changes(sympy.expand(a.expr - b.expr), x, lower, upper))
    for left, right in pairwise([lower, *sorted(found), upper]):
        # In digits: exact powers of this size have a million of them.
        at = {x: inside(left, right).evalf(DIGITS)}
        best = max(arms, key=lambda arm: number_key(arm.expr.xreplace(at)))
        if chosen and left != lower:
            if chosen[-1] is best:
                continue
            cuts.append(left)
        chosen.append(best)


def _climb_stairs(
    arms: tuple[Arm, ...],
    x: Symbol,
    lower: Expr,
    upper: Expr,
    cuts: list[Expr],
    chosen: list[Arm],
) -> None:
    """Arms with stairs: each pair by its signs, see :mod:`.rounded`."""
    first: dict[Expr, Arm] = {}  # of equal ones the first stays
    for one in arms:
        first.setdefault(one.expr, one)
    left = [first[expr] for expr in pruned(first)]
    signs = {
        (i, j): tuple(sign_stretches(left[i].expr - left[j].expr, x, lower, upper))
        for i, j in combinations(range(len(left)), 2)
    }
    inner = {s.lower for found in signs.values() for s in found} - {lower}
    for start in [lower, *sorted(inner, key=number_key)]:
        at = {
            pair: next(s.sign for s in reversed(found) if s.lower <= start)
            for pair, found in signs.items()
        }
        arm = _largest_of(left, at)
        if chosen and (chosen[-1].resource, chosen[-1].expr) == (arm.resource, arm.expr):
            continue
        if chosen:
            cuts.append(start)
        chosen.append(arm)


def _largest_of(arms: list[Arm], signs: dict[tuple[int, int], int | None]) -> Arm:
    """The arm that no other exceeds; the maximum of all where stairs decide."""

    def above(i: int, j: int) -> bool:
        sign = signs[min(i, j), max(i, j)]
        return sign is not None and (sign >= 0 if i < j else sign <= 0)

    for i, arm in enumerate(arms):
        if all(above(i, j) for j in range(len(arms)) if j != i):
            return arm
    return Arm(sympy.Max(*(a.expr for a in arms), evaluate=False), STAIRS)


def as_polys(exprs: Sequence[Expr], x: Symbol, lower: Expr = ZERO, upper: Expr = oo) -> list[Poly]:
    """Polynomials in ``x`` of the same signs and crossings between two bounds.

    Powers of ``1/x`` (rates in a denominator) are multiplied out, by the same
    power everywhere; ``x`` is positive. So are other denominators that are proved
    to be positive between the bounds, such as ``x + 10000``, or an expectation over an
    acceptance. Floats are the rational numbers that they are. Irrational coefficients, such as
    those with ``sqrt(log(2))``, are taken to forty digits.

    Raises:
        InputError: an expression is not rational in ``x`` with positive denominators.
    """
    exprs = [rationalized(e) for e in exprs]
    if not any(_is_broken(p, x) for e in exprs for p in e.atoms(Pow)):
        for power in range(4):
            scaled = exprs if power == 0 else [sympy.expand(e * x**power) for e in exprs]
            found = [_poly(e, x) for e in scaled]
            if all(p is not None for p in found):
                return [p for p in found if p is not None]
        whole = _without_denominators(exprs, x, lower, upper)
        if whole is not None:
            return whole
    bad = next(e for e in exprs if _poly(e, x) is None)
    raise InputError(
        f"{clip(str(bad), 120)} is not a polynomial in {x}: use evaluate at values of {x}, "
        "or solve_for"
    )


def _is_broken(power: Pow, x: Symbol) -> bool:
    """Whether a power is no rational function of ``x``, such as that of a norm."""
    return bool(power.has(x) and not power.exp.is_Integer)


def _without_denominators(
    exprs: Sequence[Expr], x: Symbol, lower: Expr, upper: Expr
) -> list[Poly] | None:
    """Rational expressions times a common positive denominator; None if there is none."""
    if any(p.exp.free_symbols for e in exprs for p in e.atoms(Pow)):  # no rational function
        return None
    tops, bottoms = zip(*(fraction(together(e)) for e in exprs), strict=True)
    if not all(_is_positive(e, x, lower, upper) for e in dict.fromkeys(bottoms)):
        return None
    common = reduce(sympy.lcm, bottoms)
    found = [_poly(sympy.cancel(t * common / b), x) for t, b in zip(tops, bottoms, strict=True)]
    known = [p for p in found if p is not None]
    return known if len(known) == len(found) else None


def _is_positive(bottom: Expr, x: Symbol, lower: Expr, upper: Expr) -> bool:
    """Whether a denominator is a polynomial that is positive strictly between two bounds."""
    poly = _poly(bottom, x)
    if poly is None:
        return False
    return dominates(bottom, ZERO) or kept_sign(poly, lower, upper) > 0


def as_poly(expr: Expr, x: Symbol, lower: Expr = ZERO, upper: Expr = oo) -> Poly:
    """One expression as :func:`as_polys` takes it."""
    return as_polys([expr], x, lower, upper)[0]


def _poly(expr: Expr, x: Symbol) -> Poly | None:
    try:
        poly = Poly(expr, x)
    except sympy.PolynomialError:
        return None
    if any(c.has(x) for c in poly.coeffs()):
        return None
    if poly.domain.is_EX and not poly.free_symbols_in_domain:
        # Arithmetic with nested roots and logarithms never ends.
        coefficients = {at: _rational(c) for at, c in poly.terms()}
        return Poly.from_dict(coefficients, x)
    return poly


def _rational(value: Expr) -> Rational:
    """A number as it is where rational, to forty digits otherwise."""
    return value if value.is_Rational else Rational(str(value.evalf(DIGITS)))


def _coefficients(poly: Poly) -> list[Expr]:
    """From the constant upwards."""
    return list(reversed(poly.all_coeffs()))


def _largest_from(polys: list[Poly], start: Expr, judge: Judge) -> int:
    """Index of the arm that is largest just above ``start``."""
    best = 0
    for i in range(1, len(polys)):
        if _above(polys[i] - polys[best], start, judge) > 0:
            best = i
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
    return _above(difference.diff(), root, judge) > 0


def _above(poly: Poly, at: Expr, judge: Judge) -> int:
    """The sign of a polynomial just above a value: that of its first derivative not zero."""
    while not poly.is_zero:
        value = poly.as_expr().xreplace({poly.gen: at})
        sign = judge.sign(value if value.is_number else sympy.cancel(value))
        if sign != 0:
            return sign
        poly = poly.diff()
    return 0


def _steeper(a: Poly, b: Poly, at: Expr, judge: Judge) -> bool:
    return _rises(a - b, at, judge)


def positive_roots(poly: Poly, judge: Judge) -> list[Expr]:
    """Positive real roots in ascending order."""
    if poly.is_zero or poly.degree() == 0:
        return []
    if not poly.free_symbols_in_domain:
        if is_rational(poly):
            return roots_above_zero(poly)
        # Coefficients such as sqrt(3): enclosed, not isolated.
        return list(sign_changes(poly.as_expr(), poly.gen, ZERO))
    coefficients = _coefficients(poly)
    if len(coefficients) == 2:
        constant, slope = coefficients
        if judge.sign(constant) * judge.sign(slope) >= 0:
            return []
        return [sympy.factor(-constant / slope)]
    if coefficients[0] == 0:
        return positive_roots(Poly(poly.as_expr() / poly.gen, poly.gen), judge)
    names = sorted(s.name for s in poly.free_symbols_in_domain)
    raise UndecidedError(
        f"the roots of {clip(str(poly.as_expr()), 120)} are not decided in symbols; bind "
        f"{', '.join(names)}",
        names,
    )


def ordered(cuts: set[Expr], judge: Judge) -> list[Expr]:
    """Distinct breakpoints in ascending order; equal ones of different form are one."""
    if all(c.is_number for c in cuts):
        return sorted(cuts, key=number_key)

    def compare(a: Expr, b: Expr) -> int:
        return judge.sign(a - b)

    return sorted(cuts, key=cmp_to_key(compare))
