"""A formula near a point: which arms are the largest there, and how it responds.

At a point every maximum is decided, so around it the formula is one smooth
expression: its derivatives and elasticities are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Add, Expr, Integer, Symbol

from costgraph.errors import InputError, UnboundSymbolError
from costgraph.formula.limits import check
from costgraph.formula.powers import placed
from costgraph.formula.sums import affine, power_sum
from costgraph.formula.terms import Arm, Span, Term
from costgraph.symbols import symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula


@dataclass(frozen=True)
class Part:
    """What one resource bounds at the point: an expression and its operations."""

    resource: str
    expr: Expr
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Local:
    """A formula around a point.

    Attributes:
        name, unit: of the formula.
        point: the value of every symbol.
        expr: the formula without maxima, valid around the point.
        parts: its summands by the resource that bounds them there.
    """

    name: str
    unit: str
    point: Mapping[Symbol, Expr]
    expr: Expr
    parts: tuple[Part, ...]

    def __repr__(self) -> str:
        point = ", ".join(f"{s}={float(v):.6g}" for s, v in self.point.items())
        return f"<Local {self.name} = {self.value:.6g} {self.unit} at {point}>"

    @cached_property
    def value(self) -> float:
        """The formula's value at the point."""
        return float(placed(self.expr, self.point))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the total by resource."""
        values = {p.resource: float(placed(p.expr, self.point)) for p in self.parts}
        total = math.fsum(values.values())
        return {resource: value / total for resource, value in values.items()}

    def derivative(self, by: str) -> Expr:
        """∂f/∂``by`` around the point, as an expression in the formula's symbols.

        Ceilings and floors count with the slope of what they round: the trend
        over a step, not the zero between two of them.

        Raises:
            InputError: the formula does not depend on ``by``.
        """
        return self._smooth.diff(self._known(by))

    @cached_property
    def _smooth(self) -> Expr:
        """``expr`` with roundings as shifts and inner maxima decided at the point."""
        at = dict(self.point)

        def shifted(e: Expr) -> Expr:
            return e.args[0] + (placed(e, at) - placed(e.args[0], at))

        def decided(e: Expr) -> Expr:
            pick = max if isinstance(e, sympy.Max) else min
            return pick(e.args, key=lambda a: _number(placed(a, at)))

        return self.expr.replace(
            lambda e: isinstance(e, (sympy.ceiling, sympy.floor)), shifted
        ).replace(lambda e: isinstance(e, (sympy.Max, sympy.Min)), decided)

    def elasticity(self, by: str) -> float:
        """``∂ log f / ∂ log by`` at the point: per cent per per cent."""
        x = self._known(by)
        slope = float(placed(self._smooth.diff(x), self.point))
        return slope * float(self.point[x]) / self.value

    def elasticities(self) -> dict[str, float]:
        """:meth:`elasticity` for every symbol, the strongest first."""
        found = {s.name: self.elasticity(s.name) for s in self.point}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def _known(self, by: str) -> Symbol:
        x = symbol(by)
        if x not in self.point:
            names = ", ".join(s.name for s in self.point)
            raise InputError(f"{self.name} does not depend on {by}; it has {names}")
        return x


def local(formula: Formula, **values: Any) -> Local:
    """The formula around a point.

    Args:
        formula: any formula.
        values: a positive number for every symbol.

    Raises:
        UnboundSymbolError: a symbol has no value.
        InputError: an unknown symbol, or a sum over contexts whose summands are
            neither affine nor polynomial in the context.
    """
    from costgraph.formula.formula import exact

    formula._reject_unknown(values)
    missing = [s.name for s in formula.symbols if s.name not in values]
    if missing:
        raise UnboundSymbolError(f"{formula.name}: no value for {', '.join(missing)}")
    point = {s: exact(values[s.name]) for s in formula.symbols}
    for s, value in point.items():
        if not value > 0:
            raise InputError(f"{formula.name}: {s} must be positive, not {value}")
    check(formula, point)
    groups: dict[str, list[tuple[Expr, Term]]] = {}
    for term in formula.terms:
        for arm, expr in _active(term, point):
            groups.setdefault(arm.resource, []).append((term.count * expr, term))
    parts = tuple(
        Part(
            resource,
            Add(*(e for e, _ in found)),
            tuple(dict.fromkeys(op for _, t in found for op in t.ops)),
        )
        for resource, found in groups.items()
    )
    total = Add(*(p.expr for p in parts))
    expr = total if formula.numerator is None else formula.numerator / total
    return Local(formula.name, formula.unit, point, expr, parts)


def _active(term: Term, point: Mapping[Symbol, Expr]) -> list[tuple[Arm, Expr]]:
    """The largest arms at the point, each with what it contributes."""
    at = dict(point)
    if term.norm is not None and len(term.arms) > 1:
        return _active_norm(term, at)
    if term.span is None:
        arm = max(term.arms, key=lambda a: _number(placed(a.expr, at)))
        return [(arm, arm.expr)]
    return _active_over(term, term.span, at)


def _active_norm(term: Term, at: dict[Symbol, Expr]) -> list[tuple[Arm, Expr]]:
    """A norm is smooth: all of it, under the name of its largest arm.

    Over a span the largest arm at the middle of the range gives the name.
    """
    point = dict(at)
    if term.span is not None:
        lower, upper = (placed(e, at) for e in (term.span.lower, term.span.upper))
        if upper < lower:
            return []
        point[term.span.symbol] = (lower + upper) / 2
    arm = max(term.arms, key=lambda a: _number(placed(a.expr, point)))
    if term.span is None:
        return [(arm, term.value)]
    raise InputError(
        f"{', '.join(term.ops)}: a sum of norms over contexts has no derivative in closed form; "
        "take tpot at a context instead"
    )


def _number(value: Expr) -> Expr:
    return value if value.is_Rational else value.evalf(30)


def _active_over(term: Term, span: Span, at: dict[Symbol, Expr]) -> list[tuple[Arm, Expr]]:
    """A sum over contexts, cut where its largest arm changes.

    The outer ends stay symbolic; the cuts between arms are numbers, at which
    both arms agree up to one step.
    """
    lower, upper = (int(placed(e, at)) for e in (span.lower, span.upper))
    if upper < lower:
        return []
    lines: list[tuple[Expr, Expr]] = []
    for arm in term.arms if len(term.arms) > 1 else ():
        line = affine(placed(arm.expr, at), span.symbol)
        if line is None:
            raise InputError(f"{', '.join(term.ops)}: no derivative of this sum over contexts")
        lines.append(line)
    cuts = [lower]
    chosen: list[Arm] = []
    start = lower
    while start <= upper:
        index = 0
        if lines:
            index = max(
                range(len(lines)), key=lambda i: (lines[i][0] + lines[i][1] * start, lines[i][1])
            )
        end = upper
        for line in lines:
            if line[1] > lines[index][1]:
                cross = (lines[index][0] - line[0]) / (line[1] - lines[index][1])
                end = min(end, max(start, int(sympy.ceiling(cross)) - 1))
        chosen.append(term.arms[index])
        cuts.append(end + 1)
        start = end + 1
    found = []
    for i, ((first, after), arm) in enumerate(zip(pairwise(cuts), chosen, strict=True)):
        piece = Span(
            span.symbol,
            span.lower if i == 0 else Integer(first),
            span.upper if after == upper + 1 else Integer(after - 1),
        )
        closed = power_sum(arm.expr, piece)
        if closed is None:
            raise InputError(f"{arm.expr}: no closed form over contexts")
        found.append((arm, closed))
    return found
