"""Solving a formula for a symbol under a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr, Float, Integer, Rational, Symbol, ceiling, oo

from costgraph.errors import InputError
from costgraph.formula.isolate import PRECISION, sign_at
from costgraph.formula.limits import domain_of, is_whole
from costgraph.formula.powers import has_norm, placed
from costgraph.formula.regimes import Regimes, askable, regimes
from costgraph.formula.rounded import rounds
from costgraph.formula.signs import Judge
from costgraph.formula.stretches import Stretch, is_smooth, stretches
from costgraph.formula.terms import Arm, make_term
from costgraph.formula.trying import LARGEST, tried, tried_real
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting


#: Relative distance within which an enclosed end may be a whole value.
_NEAR = Rational(1, 10**12)


@dataclass(frozen=True)
class Question:
    """What was asked: where ``metric`` keeps within ``budget`` along ``over``.

    ``at_least`` makes the budget a floor; ``setting`` says what the metric is about, ``whole``
    whether the symbol stands for whole numbers.
    """

    metric: str
    unit: str
    over: str
    budget: Expr
    at_least: bool = False
    setting: Setting | None = None
    whole: bool = True


@dataclass(frozen=True)
class Solution:
    """The values of a symbol for which a formula keeps within a budget.

    Attributes:
        intervals: (lower, upper) ends, in order: exact, of powers and norms within
            a relative 1e-14; first and last whole values where these were tried.
        largest: the largest whole value within the budget; 0 if none, None if
            there is no largest, or the symbol is real (an acceptance, a share).
        certified: the two neighbouring whole values between which the budget is
            passed for the last time, with the formula's value at each; None where
            ``intervals`` come from closed forms, or it is never passed.
        tried: what the answer rests on where whole values were tried; else empty.
        question: what was asked.
    """

    intervals: tuple[tuple[Expr, Expr], ...]
    largest: int | None
    certified: tuple[tuple[int, float], tuple[int, float]] | None = None
    tried: str = ""
    question: Question = field(kw_only=True, compare=False)

    @property
    def smallest(self) -> int | None:
        """The smallest whole value within the budget, where there is no largest; None at one."""
        start = self.intervals[0][0] if len(self.intervals) == 1 else oo
        if not self.question.whole or self.largest is not None or not start.is_number:
            return None
        return int(ceiling(start)) if 1 < start < oo else None

    def saying(self, warning: str) -> Solution:
        """The same, with what must be said of its answer where it is shown."""
        setting = self.question.setting
        if setting is None:
            return self
        said = replace(setting, warnings=(*setting.warnings, warning))
        return replace(self, question=replace(self.question, setting=said))

    def __str__(self) -> str:
        return view_text("solution_text", self)

    def __repr__(self) -> str:
        asked = self.question
        return f"<Solution {asked.metric} along {asked.over}: largest {self.largest}>"

    def _repr_html_(self) -> str:
        return view_text("text_html", str(self))


def solve_for(
    formula: Formula,
    over: str,
    budget: Any,
    at: Mapping[str, Any] | None = None,
    at_least: bool = False,
    **values: Any,
) -> Solution:
    """Where ``formula <= budget`` (or ``>=`` with ``at_least``) along a symbol.

    Exact where the formula is piecewise polynomial in the symbol; powers and norms
    (calibrated formulas) are enclosed, so no end is missed. Otherwise (ceilings, sums
    over contexts) values are tried, whole ones where the symbol is whole, see
    :mod:`.trying`; ``tried`` says which.

    Args:
        formula: a time, an amount of memory, or a rate.
        over: the symbol to solve for.
        budget: a number in the formula's unit.
        at: reference values for symbols that stay symbolic.
        at_least: the budget is a floor (for rates).
        values: numbers for other symbols.

    Raises:
        InputError: the budget is not a positive number, the formula does not depend on the
            symbol, or values are missing.
    """
    from costgraph.formula.formula import exact

    limit = exact(budget)
    if not limit > 0:
        raise InputError(f"the budget must be positive, not {budget}")
    askable(formula, over, values)
    whole, setting = is_whole(formula, symbol(over)), formula.along(over, values)
    asked = Question(formula.name, formula.unit, over, limit, at_least, setting, whole)
    try:
        return _exact(formula, asked, at, values)
    except InputError:
        names = {s.name for s in formula.symbols} - {over}
        if names - set(values):
            raise
        apart = next((x for x in formula.limits if x.apart and symbol(over) in x.symbols), None)
        if apart is not None:  # nothing says that it grows between values that stand apart
            raise InputError(
                f"{formula.name} along {over}: evaluate at each: {apart.why}"
            ) from None
        return _tried(formula, asked, values)


def _exact(
    formula: Formula, asked: Question, at: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> Solution:
    from costgraph.formula.formula import exact

    over, x = asked.over, symbol(asked.over)
    excess = _cleared(_excess(formula, asked.budget, asked.at_least), x)
    found = regimes(excess, over, at, **values)
    judge = Judge({symbol(k): exact(v) for k, v in (at or {}).items()})
    inner: list[tuple[Expr, Expr]] = []
    parts = list(stretches(found, judge))
    for part in parts:
        if part.sign is None:
            raise InputError(f"whether the budget holds depends on every stair of {over}")
        if part.sign > 0:
            kept = bool(inner) and inner[-1][1] == part.lower
            if not kept and _touches(part, part.lower, x, judge):
                inner.append((part.lower, part.lower))
            continue
        if inner and inner[-1][1] == part.lower:
            inner[-1] = (inner[-1][0], part.upper)
        else:
            inner.append((part.lower, part.upper))
    last = parts[-1]
    if (last.sign or 0) > 0 and _touches(last, last.upper, x, judge):
        inner.append((last.upper, last.upper))  # the last value keeps it, and none before
    if any(rounds(piece.expr, x) for piece in found):
        inner = [(lower, _last(found, upper)) for lower, upper in inner]
    if asked.whole:
        inner = [(lower, _whole_end(parts, upper, x)) for lower, upper in inner]
    return Solution(tuple(inner), _largest(inner) if asked.whole else None, question=asked)


def _whole_end(parts: Iterable[Stretch], upper: Expr, x: Symbol) -> Expr:
    """An end that is enclosed, on the side of a whole value beside it that keeps the budget."""
    if not upper.is_Rational:
        return upper
    near = Integer(round(upper))
    part = next((part for part in parts if part.upper == upper), None)  # none ends at a touch
    if part is None or abs(upper - near) > _NEAR * near or not is_smooth(part.expr, x):
        return upper
    return near if sign_at(part.expr, x, near) <= 0 else min(upper, near * (1 - PRECISION))


def _touches(part: Stretch, at: Expr, x: Symbol, judge: Judge) -> bool:
    """True if a stretch that breaks the budget keeps it exactly at one of its ends."""
    if not at.is_Rational or has_norm(part.expr):
        return False  # a norm is never known to be exactly the budget
    return judge.sign(placed(part.expr, {x: at})) <= 0


def _last(found: Regimes, upper: Expr) -> Expr:
    """The last value that keeps the budget: where a stair ends it, the one before the next."""
    if not upper.is_Integer:
        return upper
    kept = found.at(upper).expr.xreplace({found.symbol: upper}) <= 0
    return upper if kept else upper - 1


def _excess(formula: Formula, limit: Expr, at_least: bool) -> Formula:
    """A formula that is at most zero exactly where the budget is kept."""
    constant = make_term(Integer(1), (Arm(limit, "budget"),))
    assert constant is not None
    if formula.numerator is None:
        sign = Integer(-1 if at_least else 1)
        terms = [replace(t, count=sign * t.count) for t in formula.terms]
        terms.append(replace(constant, count=-sign))
    else:  # n / t >= m is m·t − n <= 0
        top = make_term(Integer(1), (Arm(formula.numerator, "budget"),))
        assert top is not None
        sign = limit if at_least else -limit
        terms = [replace(t, count=sign * t.count) for t in formula.terms]
        terms.append(replace(top, count=Integer(-1 if at_least else 1)))
    return replace(formula, terms=tuple(terms), numerator=None)


def _cleared(formula: Formula, x: Expr) -> Formula:
    """The formula times the power of ``x`` that clears it from denominators.

    What is compared with zero keeps its sign, since ``x`` is positive; quantities per
    sequence or token (``a + b / B``) become polynomials.
    """
    power = max(
        (-_lowest(t.count, x) - min(_lowest(a.expr, x) for a in t.arms) for t in formula.terms),
        default=0,
    )
    if power <= 0:
        return formula
    factor = x**power
    terms = []
    for t in formula.terms:
        if len(t.arms) == 1 and t.span is None:
            arm = t.arms[0]
            whole = sympy.expand(t.count * arm.expr * factor)
            terms.append(replace(t, count=Integer(1), arms=(replace(arm, expr=whole),)))
        else:
            terms.append(replace(t, count=sympy.expand(t.count * factor)))
    return replace(formula, terms=tuple(terms))


def _lowest(expr: Expr, x: Expr) -> int:
    """The lowest whole power of ``x`` among the summands of ``expr``, at most 0."""
    powers = (
        part.as_powers_dict().get(x, Integer(0)) for part in sympy.Add.make_args(sympy.expand(expr))
    )
    return min((0, *(int(p) for p in powers if p.is_Integer)))


def _largest(intervals: list[tuple[Expr, Expr]]) -> int | None:
    """The largest whole number in closed intervals."""
    for lower, upper in reversed(intervals):
        if upper == oo:
            return None
        if not upper.is_number:
            return None
        best = int(sympy.floor(upper))
        if best >= lower and best >= 1:
            return best
    return 0


def _tried(formula: Formula, asked: Question, values: Mapping[str, Any]) -> Solution:
    names = {s.name for s in formula.symbols}
    given = {k: v for k, v in values.items() if k in names}
    over, limit, sign = asked.over, float(asked.budget), -1 if asked.at_least else 1

    @cache
    def at(x: float) -> float:
        return float(formula.evaluate(**{**given, over: x}))

    begin, end = domain_of(formula.bind(**given), symbol(over))
    if not asked.whole:
        top = None if end is None else float(end)
        known = tried_real(lambda x: sign * (at(x) - limit), float(begin), top)
        basis = (
            f"{known.count} values of {over} tried up to {known.last:g}; between two of them "
            f"{formula.name} is taken to pass the budget once at the most"
        )
        real = tuple((Float(a), oo if b is None else Float(b)) for a, b in known.within)
        return Solution(real, None, None, basis, question=asked)
    start, last = max(1, int(ceiling(begin))), None if end is None else int(end)
    if last is not None and last < start:
        raise InputError(f"{formula.name} has no closed form in {over}, and no whole {over} to try")
    found = tried(lambda n: sign * (at(n) - limit), start, last)
    intervals = tuple((Integer(a), oo if b is None else Integer(b)) for a, b in found.within)
    ends = [] if not found.within else [e for e in found.within[-1] if e is not None]
    passed = [(n, n + 1) for n in ends[1:] if n != last] or [(n - 1, n) for n in ends[:1]]
    certified = next((((a, at(a)), (b, at(b))) for a, b in passed if a >= start), None)
    basis = f"every whole {over} tried"
    if not found.complete:
        reach = "2^60" if found.last == LARGEST else found.last
        basis = (
            f"{found.count} whole {over} tried from {start} to {reach}; between two of them "
            f"{formula.name} is taken to pass the budget once at the most"
        )
    largest = found.within[-1][1] if found.within else 0
    return Solution(intervals, largest, certified, basis, question=asked)
