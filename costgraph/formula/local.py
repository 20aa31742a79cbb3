"""A formula near a point: which arms are the largest there, and how it responds.

At a point every maximum is decided, so around it the formula is one smooth
expression: its derivatives and elasticities are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy
from sympy import Add, Expr, Integer, Symbol

from costgraph.errors import InputError, clip, independent, unbound
from costgraph.formula.evaluate import compile_expr
from costgraph.formula.limits import check
from costgraph.formula.powers import placed
from costgraph.formula.sums import lines, power_sum
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
        others = {s: v for s, v in self.point.items() if s != x}
        # Of one symbol: derivatives of large expressions in many symbols take long.
        slope = float(placed(placed(self._smooth, others).diff(x), {x: self.point[x]}))
        return slope * float(self.point[x]) / self.value

    def elasticities(self) -> dict[str, float]:
        """:meth:`elasticity` for every symbol, the strongest first."""
        found = {s.name: self.elasticity(s.name) for s in self.point}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def _known(self, by: str) -> Symbol:
        x = symbol(by)
        if x not in self.point:
            raise independent(self.name, by, (s.name for s in self.point))
        return x


def local(formula: Formula, **values: Any) -> Local:
    """The formula around a point.

    Args:
        formula: any formula.
        values: a positive number for every symbol, or zero of a share that may be.

    Raises:
        UnboundSymbolError: a symbol has no value.
        InputError: an unknown symbol, or a sum over contexts whose summands are
            neither affine nor polynomial in the context.
    """
    from costgraph.formula.formula import exact

    formula.reject_unknown(values)
    missing = [s.name for s in formula.symbols if s.name not in values]
    if missing:
        raise unbound(formula.name, missing, formula.meanings)
    point = {s: exact(values[s.name]) for s in formula.symbols}
    check(formula, point)
    groups: dict[str, list[Part]] = {}
    for term in formula.terms:
        for part in active(term, point):
            groups.setdefault(part.resource, []).append(part)
    parts = tuple(
        Part(
            resource,
            Add(*(p.expr for p in found)),
            tuple(dict.fromkeys(op for p in found for op in p.ops)),
        )
        for resource, found in groups.items()
    )
    total = Add(*(p.expr for p in parts))
    expr = total if formula.numerator is None else formula.numerator / total
    return Local(formula.name, formula.unit, point, expr, parts)


def active(term: Term, point: Mapping[Symbol, Expr]) -> Iterator[Part]:
    """What a term consists of around a point: its largest arms, chains opened.

    Raises:
        InputError: a sum over contexts has no closed form; see :func:`local`.
    """
    for arm, span in _largest_over(term, point):
        for part in _parts(term, arm, span, point):
            yield replace(part, expr=term.count * part.expr)


def _largest_over(term: Term, point: Mapping[Symbol, Expr]) -> Iterable[tuple[Arm, Span | None]]:
    """The largest arms, each with the range on which it is."""
    if term.span is None:
        return ((_largest(term, point), None),)
    return _over(term, term.span, point)


def _largest(term: Term, point: Mapping[Symbol, Expr]) -> Arm:
    """The largest arm at the point; all of a norm under the name of its largest arm."""
    at = dict(point)
    arm = max(term.arms, key=lambda a: _number(placed(a.expr, at)))
    return replace(arm, expr=term.value) if term.is_smooth else arm


def _parts(term: Term, arm: Arm, span: Span | None, point: Mapping[Symbol, Expr]) -> Iterator[Part]:
    """An arm without its term's count, over a range where there is one."""
    if arm.chain:
        for inner in arm.chain:
            yield from active(replace(inner, span=span), point)
        return
    expr = arm.expr if span is None else power_sum(arm.expr, span)
    if expr is None:
        raise InputError(
            f"{clip(str(arm.expr), 120)}: no closed form over contexts; take tpot at a context "
            "instead"
        )
    yield Part(arm.resource, expr, term.ops)


def _number(value: Expr) -> Expr:
    return value if value.is_Rational else value.evalf(30)


def _over(term: Term, span: Span, point: Mapping[Symbol, Expr]) -> Iterator[tuple[Arm, Span]]:
    """A sum over contexts, cut where its largest arm changes: arms and their ranges.

    The outer ends stay symbolic; the cuts between arms are numbers, at which
    both arms agree up to one step. Chains are cut again inside.
    """
    at = dict(point)
    lower, upper = (int(placed(e, at)) for e in (span.lower, span.upper))
    if upper < lower:
        return
    if term.is_smooth:
        raise InputError(
            f"{clip(', '.join(term.ops), 120)}: a sum of norms over contexts has no derivative in "
            "closed form; take tpot at a context instead"
        )
    pieces = _by_lines(term, span.symbol, at, lower, upper)
    if pieces is None:
        pieces = _one_by_one(term, span.symbol, at, lower, upper)
    first = span.lower
    for arm, end in pieces:
        yield arm, Span(span.symbol, first, span.upper if end == upper else Integer(end))
        first = Integer(end + 1)


#: Which arm is largest at one context and at those behind it, as far as the last.
_Pieces: TypeAlias = "list[tuple[Arm, int]]"


def _by_lines(
    term: Term, context: Symbol, at: Mapping[Symbol, Expr], lower: int, upper: int
) -> _Pieces | None:
    """The largest arms over a range, where all are lines in the context; else nothing."""
    owners: list[Arm] = []
    found: list[tuple[Expr, Expr]] = []
    for arm in term.arms if len(term.arms) > 1 else ():
        opened = lines((arm.mapped(lambda e: placed(e, at)),), context)
        if opened is None:
            return None
        owners += [arm] * len(opened)
        found += [(line.constant, line.b) for line in opened]
    pieces: _Pieces = []
    start = lower
    while start <= upper:
        index = 0
        if found:
            index = max(
                range(len(found)), key=lambda i: (found[i][0] + found[i][1] * start, found[i][1])
            )
        end = upper
        for line in found:
            if line[1] > found[index][1]:
                cross = (found[index][0] - line[0]) / (line[1] - found[index][1])
                end = min(end, max(start, int(sympy.ceiling(cross)) - 1))
        arm = owners[index] if found else term.arms[0]
        if pieces and pieces[-1][0] is arm:  # another line of the same chain
            pieces[-1] = (arm, end)
        else:
            pieces.append((arm, end))
        start = end + 1
    return pieces


#: Where arms are no lines (pages), as many contexts are looked at one by one.
MOST_CONTEXTS = 10_000
#: Each piece has a closed form of its own.
MOST_PIECES = 200


def _one_by_one(
    term: Term, context: Symbol, at: Mapping[Symbol, Expr], lower: int, upper: int
) -> _Pieces:
    """The largest arms over a range, found at each context.

    Raises:
        InputError: there are too many contexts, or the largest arm changes too often.
    """
    ops = clip(", ".join(term.ops), 120)
    if upper - lower >= MOST_CONTEXTS:
        raise InputError(
            f"{ops}: what {upper - lower + 1} steps wait for is no line in the context, and is "
            f"looked at step by step up to {MOST_CONTEXTS}; take tpot at a context instead"
        )
    values = [compile_expr(placed(arm.expr, at), (context,)) for arm in term.arms]
    pieces: _Pieces = []
    for t in range(lower, upper + 1):
        reached = [value(t) for value in values]
        arm = term.arms[max(range(len(reached)), key=reached.__getitem__)]
        if pieces and pieces[-1][0] is arm:
            pieces[-1] = (arm, t)
        else:
            pieces.append((arm, t))
    if len(pieces) > MOST_PIECES:
        raise InputError(
            f"{ops}: what steps wait for changes {len(pieces)} times over {upper - lower + 1} "
            f"contexts, of {MOST_PIECES} at the most; take tpot at a context instead"
        )
    return pieces
