"""Sums over a range of contexts, as sympy expressions.

With affine arms ``a(t)`` and ``b(t)`` the sum of their maximum is
``Σ b + Σ max(a − b, 0)``; the difference changes sign at most once, so the
second sum is an arithmetic series from a clamped crossing to one end.

A chain of maxima of affine arms is itself a maximum of affine arms: one for each way
of choosing an arm in every maximum that changes with the context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sympy import (
    Add,
    Expr,
    Integer,
    Max,
    Min,
    Poly,
    Rational,
    Sum,
    Symbol,
    bernoulli,
    binomial,
    ceiling,
    expand,
)
from sympy.polys.polyerrors import PolynomialError

from costgraph.formula.staircase import staircase_sum
from costgraph.formula.terms import Arm, Span, Term

ZERO = Integer(0)
#: Lines that a maximum of chains is opened into at the most.
MOST_LINES = 64


def affine(expr: Expr, symbol: Symbol) -> tuple[Expr, Expr] | None:
    """``(a, b)`` with ``expr = a + b·symbol``, or None if it is not affine."""
    if symbol not in expr.free_symbols:
        return expr, Rational(0)
    b = expand(expr).coeff(symbol, 1)
    a = expand(expr - b * symbol)
    if symbol in a.free_symbols or symbol in b.free_symbols:
        return None
    return a, b


def power_sum(expr: Expr, span: Span) -> Expr | None:
    """``Σ expr`` over the span in closed form if ``expr`` is a polynomial or staircase in it."""
    if any(span.symbol in c.free_symbols for c in expr.atoms(ceiling)):
        return staircase_sum(expr, span, _polynomial_sum)
    return _polynomial_sum(expr, span)


def _polynomial_sum(expr: Expr, span: Span) -> Expr | None:
    try:
        poly = Poly(expr, span.symbol)
    except PolynomialError:
        return None
    if span.symbol in set().union(*(c.free_symbols for c in poly.coeffs())):
        return None

    def upto(k: int, n: Expr) -> Expr:
        """Σ t^k for t = 1 … n (Faulhaber)."""
        return sum(
            (
                (-1) ** j * binomial(k + 1, j) * bernoulli(j) * n ** (k + 1 - j)
                if j != 1
                else Rational(k + 1, 2) * n**k
                for j in range(k + 1)
            ),
            Integer(0),
        ) / (k + 1)

    total: Expr = Integer(0)
    for (k,), coefficient in poly.terms():
        total += coefficient * (upto(k, span.upper) - upto(k, span.lower - 1))
    return total


@dataclass(frozen=True)
class Line:
    """``a + b·t`` plus the values of terms that do not change with ``t``."""

    a: Expr = ZERO
    b: Expr = ZERO
    fixed: tuple[Term, ...] = ()

    @property
    def constant(self) -> Expr:
        """All that does not change with ``t``."""
        return Add(self.a, *(t.count * t.value for t in self.fixed))

    def __add__(self, other: Line) -> Line:
        return Line(self.a + other.a, self.b + other.b, (*self.fixed, *other.fixed))


def lines(arms: Iterable[Arm], symbol: Symbol) -> tuple[Line, ...] | None:
    """The affine arms whose maximum is that of ``arms``, chains opened.

    None if an arm is not affine in ``symbol``, a norm changes with it, or there would be
    more than :data:`MOST_LINES`.
    """
    found: list[Line] = []
    for arm in arms:
        opened = _opened(arm, symbol)
        if opened is None or len(found) + len(opened) > MOST_LINES:
            return None
        found.extend(opened)
    return tuple(found)


def _opened(arm: Arm, symbol: Symbol) -> tuple[Line, ...] | None:
    if not arm.chain:
        line = affine(arm.expr, symbol)
        return None if line is None else (Line(*line),)
    found: tuple[Line, ...] = (Line(),)
    for term in arm.chain:
        if symbol not in term.symbols:
            found = tuple(line + Line(fixed=(term,)) for line in found)
            continue
        if term.is_smooth or symbol in term.count.free_symbols:
            return None
        choices = lines(term.arms, symbol)
        if choices is None or len(found) * len(choices) > MOST_LINES:
            return None
        scaled = tuple(_scaled(choice, term.count) for choice in choices)
        found = tuple(line + choice for line in found for choice in scaled)
    return found


def _scaled(line: Line, count: Expr) -> Line:
    fixed = tuple(replace(t, count=t.count * count) for t in line.fixed)
    return Line(line.a * count, line.b * count, fixed)


def span_expr(term: Term) -> Expr:
    """The term's value without its count: its maximum, or the sum of it."""
    if term.span is None:
        return term.value
    span = term.span
    if len(term.arms) == 1:
        closed = power_sum(term.arms[0].expr, span)
        if closed is not None:
            return closed
    elif not term.is_smooth:
        found = lines(term.arms, span.symbol)
        if found is not None and len(found) == 2:
            first, second = ((line.constant, line.b) for line in found)
            closed = two_lines(span, first, second)
            if closed is not None:
                return closed
    return Sum(term.value, (span.symbol, span.lower, span.upper))


def series(lower: Expr, upper: Expr, line: tuple[Expr, Expr]) -> Expr:
    """``Σ (a + b·t)`` for ``t = lower … upper`` (``upper >= lower − 1``)."""
    a, b = line
    n = upper - lower + 1
    return n * a + b * n * (lower + upper) / 2


def two_lines(span: Span, a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> Expr | None:
    """``Σ max(a, b)`` in closed form if the order of the slopes is decided."""
    slope = (a[1] - b[1]).factor()
    if slope.is_negative:
        a, b, slope = b, a, -slope
    if slope.is_zero:
        return series(span.lower, span.upper, (Max(a[0], b[0], evaluate=False), a[1]))
    if not slope.is_positive:
        return None
    # From `start` on, a is the larger one.
    crossing = (b[0] - a[0]) / slope
    start = Min(Max(ceiling(crossing), span.lower), span.upper + 1)
    return series(span.lower, start - 1, b) + series(start, span.upper, a)
