"""Regimes: where which arm of each maximum is the largest, along one symbol.

On each interval the formula is one polynomial (or rational) expression. The
breakpoints are exact: rational, algebraic, or closed forms in other symbols.

A calibrated formula is smooth: its norms keep their form, and regimes say what
bounds the operations. Breakpoints are where two arms of a norm, or an arm and the
floor of the operations, are equal; they are as exact as above, since fitted
parameters are rational numbers. Only the exponent ``p`` stands as a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Add, Dummy, Expr, Max, Min, Piecewise, Symbol, oo
from sympy.core.relational import Relational

from costgraph.errors import InputError, clip, independent
from costgraph.formula.ladder import Rung, bounds, joined, ladder, ordered
from costgraph.formula.limits import domain_of
from costgraph.formula.powers import has_norm
from costgraph.formula.rounded import stairs
from costgraph.formula.signs import Judge, tightest
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting


@dataclass(frozen=True)
class Regime:
    """An interval of a symbol on which no maximum or norm changes its largest arm.

    Attributes:
        lower, upper: exact ends; ``oo`` for no upper end. The upper end of the last
            regime, where it is a number, is the largest value that the model has.
        expr: the formula on the interval, without maxima; norms stand as
            ``(aᵖ + bᵖ)^(1/p)``, lengths that round as ``⌈T/m⌉``, and what is bound by
            ``stairs`` as a maximum.
        bound: operations by the resource that bounds them there: that of their
            largest arm, or ``latency`` where their floor exceeds every arm, or
            ``hidden`` where another body that runs at the same time takes longer, or
            ``stairs`` where that changes from stair to stair of a length that rounds.
    """

    lower: Expr
    upper: Expr
    expr: Expr
    bound: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Regimes:
    """A formula along one symbol: ordered regimes, and what their order rests on.

    Where lengths round (chunks of attention, blocks, pages) forms hold at whole values, and
    a regime that a stair ends, ends at the first whole value of the next.

    Attributes:
        symbol: the symbol that varies.
        name, unit: of the formula.
        pieces: regimes in order; neighbours share an end, where both agree.
        conditions: inequalities among other symbols that hold at the reference
            point and decide the order; empty when everything is proved.
        setting: what the formula is about.
    """

    symbol: Symbol
    name: str
    unit: str
    pieces: tuple[Regime, ...]
    conditions: tuple[Relational, ...] = ()
    setting: Setting | None = field(default=None, compare=False)

    def __iter__(self) -> Iterator[Regime]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def breakpoints(self) -> tuple[Expr, ...]:
        """Ends between neighbouring regimes, in order."""
        return tuple(p.upper for p in self.pieces[:-1])

    def piecewise(self) -> Piecewise:
        """The formula as a sympy ``Piecewise``; neighbours of one form are one case."""
        forms = [p for p, q in pairwise(self.pieces) if p.expr != q.expr]
        parts = [(p.expr, self.symbol < p.upper) for p in forms]
        return Piecewise(*parts, (self.pieces[-1].expr, True))

    def derivative(self) -> Regimes:
        """The derivative in each regime; at a breakpoint it jumps, unless its form stays.

        On a stair it is that of the stair: a rounded length stays, until it jumps.
        """
        return self._changed(f"d {self.name} / d {self.symbol}", "", self._slope)

    def elasticity(self) -> Regimes:
        """``d log f / d log x`` in each regime: per cent of change per per cent."""
        x = self.symbol
        return self._changed(
            f"elasticity of {self.name} in {x}", "1", lambda e: _quotient(x * self._slope(e), e)
        )

    def _slope(self, expr: Expr) -> Expr:
        flat = {a: Dummy() for a in stairs(expr, self.symbol)}
        made = expr.xreplace(flat)
        if made.has(Max, Min):
            raise InputError(
                f"{self.name} has no one slope where stairs of {self.symbol} decide what bounds "
                "it: use local at a point"
            )
        return made.diff(self.symbol).xreplace({name: a for a, name in flat.items()})

    def _changed(self, name: str, unit: str, f: Callable[[Expr], Expr]) -> Regimes:
        pieces = tuple(replace(p, expr=f(p.expr)) for p in self.pieces)
        unit = unit or f"{self.unit} per {self.symbol}"
        return replace(self, name=name, unit=unit, pieces=pieces)

    def at(self, value: Any) -> Regime:
        """The regime that a number falls in (the upper one at a breakpoint).

        Raises:
            InputError: the symbol has no such value.
        """
        first, last = self.pieces[0].lower, self.pieces[-1].upper
        if bool(value < first) or bool(value > last):
            ends = " to ".join(view_text("end_text", end) for end in (first, last))
            raise InputError(f"{self.name}: {self.symbol} goes from {ends}: not {clip(value)}")
        for piece in self.pieces:
            if piece.upper == oo or bool(value < piece.upper):
                return piece
        return self.pieces[-1]

    def __repr__(self) -> str:
        return f"<Regimes of {self.name} along {self.symbol}: {len(self)}>"

    def __str__(self) -> str:
        return view_text("regimes_text", self)

    def _repr_html_(self) -> str:
        return view_text("regimes_html", self)


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

    def __repr__(self) -> str:
        more = f" +{len(self.ops) - 1}" if len(self.ops) > 1 else ""
        at = view_text("end_text", self.value)
        return f"<Crossover at {at}: {self.ops[0]}{more} from {self.below} to {self.above}>"


def regimes(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> Regimes:
    """The regimes of ``formula`` along the symbol ``over``, to infinity or to its limit.

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
        InputError: the arms are not piecewise polynomial in the symbol.
    """
    x, bound, judge = _prepared(formula, over, at, values)
    first, last = domain_of(bound, x)
    ladders = [ladder(t, x, judge, first, last) for t in bound.terms]
    pieces: list[Regime] = []
    # What a term adds in one of its intervals, written out once for all pieces there.
    known: dict[tuple[int, Expr], Expr] = {}

    def part(index: int, rung: Rung) -> Expr:
        if (index, rung.lower) not in known:
            term = bound.terms[index]
            added = term.count * rung.expr
            known[index, rung.lower] = added if term.any_smooth else sympy.expand(added)
        return known[index, rung.lower]

    for lower, upper, rungs in joined(ladders, x, judge, first, last):
        parts = (part(i, rung) for i, rung in enumerate(rungs))
        total = Add(*parts)
        if bound.numerator is not None:
            total = bound.numerator / total
        bound_by = bounds(pair for rung in rungs for pair in rung.found)
        if pieces and (pieces[-1].expr, pieces[-1].bound) == (total, bound_by):
            pieces[-1] = replace(pieces[-1], upper=upper)
            continue
        pieces.append(Regime(lower, upper, total, bound_by))
    return Regimes(
        x, formula.name, formula.unit, tuple(pieces), tightest(judge.conditions), bound.open_in(x)
    )


def crossovers(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> tuple[Crossover, ...]:
    """Where each group of operations changes its bound, in order; see :func:`regimes`."""
    x, bound, judge = _prepared(formula, over, at, values)
    first, last = domain_of(bound, x)
    found = []
    for term in bound.terms:
        for before, after in pairwise(ladder(term, x, judge, first, last).rungs):
            for (below, above), ops in _changed(before, after).items():
                found.append(Crossover(ops, after.lower, below, above))
    found = [
        c
        for c in found
        if judge.sign(c.value - first) >= 0 and (last is None or judge.sign(c.value - last) <= 0)
    ]
    order = {cut: i for i, cut in enumerate(ordered({c.value for c in found}, judge))}
    return tuple(sorted(found, key=lambda c: order[c.value]))


def _changed(before: Rung, after: Rung) -> dict[tuple[str, str], tuple[str, ...]]:
    """Operations by what bounds them below and above a cut, where that changes.

    Where only the form changes (a clipped length) there are none.
    """
    sides = [
        {op: r for r, ops in bounds(rung.found).items() for op in ops} for rung in (before, after)
    ]
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for op, below in sides[0].items():
        above = sides[1].get(op, below)
        if above != below:
            found[below, above] = (*found.get((below, above), ()), op)
    return found


def askable(formula: Formula, over: str, values: Mapping[str, Any]) -> None:
    """Refuses a question along a symbol at values of others that means nothing.

    Raises:
        InputError: a value of an unknown symbol or of the one that varies, or the formula
            does not depend on that one.
    """
    formula.reject_unknown(values)
    refuse_given(over, values)
    names = {s.name for s in formula.symbols}
    if over not in names:
        raise independent(formula.name, over, names)


def refuse_given(over: str, values: Mapping[str, Any]) -> None:
    """Refuses a value of the symbol that varies.

    Raises:
        InputError: there is one.
    """
    if over in values:
        raise InputError(
            f"{over} = {clip(str(values[over]))[1:-1]} is given, and what varies is {over}: leave "
            "the number out, or vary another symbol"
        )


def _prepared(
    formula: Formula, over: str, at: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> tuple[Symbol, Formula, Judge]:
    from costgraph.formula.formula import exact

    askable(formula, over, values)
    point = {symbol(k): exact(v) for k, v in (at or {}).items()}
    # All of them: a floor may hold a symbol that cancels out of the formula.
    bound = formula.given({symbol(k): exact(v) for k, v in values.items()})
    return symbol(over), bound, Judge(point)


def _quotient(top: Expr, bottom: Expr) -> Expr:
    """``top / bottom`` in lowest terms; where there are powers of symbols as it stands."""
    if has_norm(bottom):
        return top / bottom
    if any(p.exp.free_symbols for p in bottom.atoms(sympy.Pow)):
        return sympy.expand(top) / bottom
    return sympy.cancel(top / bottom)
