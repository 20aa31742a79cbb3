"""The best batch of one compiled model under limits.

Metrics along the batch are growing where a proof is found: then limits cut the
range at one place each, and bisection over whole batches is exact. A metric
without proof is evaluated at every batch that the others leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sympy import Expr, Integer, Poly
from sympy.polys.polyerrors import PolynomialError

from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.envelope import dominates
from costgraph.formula.vector import compile_vector
from costgraph.symbols import B
from costgraph.units import apart, format_quantity

#: Most batches that are tried one by one.
TRIED = 2**16

#: First and last batch, both included.
Range = tuple[int, int]


@dataclass(frozen=True)
class Line:
    """A metric along the batch, all other symbols bound.

    Attributes:
        formula: the metric.
        values: numbers for every symbol but ``B``.
        larger_is_better: of the metric.
    """

    formula: Formula
    values: Mapping[str, float]
    larger_is_better: bool = False

    @classmethod
    def along(cls, formula: Formula, values: Mapping[str, float], up: bool) -> Line:
        """The line of a formula at a workload that may know more symbols than it has."""
        own = {s.name: values[s.name] for s in formula.symbols if s.name != "B"}
        return cls(formula, own, up)

    def at(self, batch: int) -> float:
        """The metric at a batch."""
        with_batch = {"B": batch} if B in self.formula.symbols else {}
        return float(self.formula.evaluate(**self.values, **with_batch))

    def over(self, batches: Range) -> npt.NDArray[np.float64]:
        """The metric at every batch of a range."""
        function = compile_vector([self.formula])
        numbers = np.arange(batches[0], batches[1] + 1, dtype=np.float64)
        given: dict[str, Any] = {n: np.float64(v) for n, v in self.values.items()}
        (found,) = function(**{n: numbers if n == "B" else given[n] for n in function.names})
        return np.array(np.broadcast_to(found, numbers.shape), dtype=np.float64)

    @cached_property
    def grows(self) -> bool:
        """True if the metric provably never falls as the batch grows."""
        return growing(self.formula, self.values)

    def shown(self, value: float, digits: int = 4) -> str:
        """A value with its unit, to some significant digits."""
        unit = {"byte": "B"}.get(self.formula.unit, self.formula.unit)
        if unit == "token/s":  # no ktoken/s
            return f"{value:.{digits}g} {unit}" if value < 10**digits else f"{value:,.0f} {unit}"
        return format_quantity(value, unit, digits)


@dataclass(frozen=True)
class Bound:
    """A limit: ``line`` at most ``value``, or at least where larger is better."""

    line: Line
    value: float

    def kept(self, value: Any) -> Any:
        """Whether values keep the limit; elementwise for arrays."""
        return value >= self.value if self.line.larger_is_better else value <= self.value

    def keeps(self, batch: int, wanted: bool) -> bool:
        """Whether keeping the limit at a batch is as ``wanted``."""
        return bool(self.kept(self.line.at(batch))) is wanted

    def broken_at(self, batch: int) -> str | None:
        """How the limit is broken at a batch, or None."""
        value = self.line.at(batch)
        if self.kept(value):
            return None
        sign = "<" if self.line.larger_is_better else ">"
        shown = apart((value, self.value), self.line.shown, 4)
        got, end = shown[value], shown[self.value]
        return f"{self.line.formula.name} {got} {sign} {end} at B={batch}"


@dataclass(frozen=True)
class Best:
    """The best batch, None if there is none; what binds it; how it was found."""

    batch: int | None
    binding: tuple[str, ...]
    exact: str


def growing(formula: Formula, values: Mapping[str, float]) -> bool:
    """True if ``formula`` provably never falls as ``B`` grows from one.

    Sufficient, not necessary. Sums of maxima grow if every count and arm is a
    polynomial in ``B`` with non-negative coefficients. A rate ``k·B / Σ terms``
    grows if, besides, no count has ``B`` and no arm more than its first power:
    then ``Σ terms / B`` never grows.
    """
    by_name = {s.name: s for s in formula.symbols}
    bound = formula.bind(**{n: v for n, v in values.items() if n in by_name})
    highest: int | None = None
    if bound.numerator is not None:
        degree = _degree(bound.numerator)
        if degree is None:
            return False
        if degree == 0:  # nothing over a growing time falls
            return not any(B in t.symbols for t in bound.terms)
        if degree != 1 or bound.numerator.xreplace({B: Integer(0)}) != 0:
            return False
        highest = 1
    for term in bound.terms:
        if (
            term.span is not None
            and B in term.span.lower.free_symbols | term.span.upper.free_symbols
        ):
            return False
        count = _degree(term.count)
        if count is None or (highest is not None and count > 0):
            return False
        for arm in term.arms:
            degree = _degree(arm.expr)
            if degree is None or (highest is not None and degree > highest):
                return False
    return True


def _degree(expr: Expr) -> int | None:
    """The degree in ``B`` of a polynomial with non-negative coefficients; None if it is none."""
    try:
        poly = Poly(expr, B)
    except PolynomialError:
        return None
    if any(B in c.free_symbols or not dominates(c, Integer(0)) for c in poly.coeffs()):
        return None
    return int(poly.degree()) if not poly.is_zero else 0


def narrowed(bounds: Sequence[Bound], batches: Range) -> tuple[Range | None, list[Bound]]:
    """The batches that keep every limit whose metric grows, and the limits left to try."""
    low, high = batches
    left: list[Bound] = []
    for bound in bounds:
        if not bound.line.grows:
            left.append(bound)
            continue
        if bound.line.larger_is_better:
            first = _first(partial(bound.keeps, wanted=True), low, high)
            if first is None:
                return None, left
            low = first
        else:
            after = _first(partial(bound.keeps, wanted=False), low, high)
            if after == low:
                return None, left
            high = high if after is None else after - 1
    return (low, high), left


def _first(test: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first whole number of the range that passes a test which, once passed, stays so."""
    if test(low):
        return low
    if not test(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle, high)
    return high


def allowed(bounds: Sequence[Bound], batches: Range) -> npt.NDArray[np.int64]:
    """Every batch of the range that keeps every limit.

    Raises:
        InputError: more than :data:`TRIED` batches would have to be tried.
    """
    inner, left = narrowed(bounds, batches)
    if inner is None:
        return np.empty(0, dtype=np.int64)
    if inner[1] - inner[0] >= TRIED:
        raise InputError(
            f"{inner[1] - inner[0] + 1} batches keep the limits, more than {TRIED}: give a "
            "narrower range of B"
        )
    mask = np.ones(inner[1] - inner[0] + 1, dtype=bool)
    for bound in left:
        mask &= bound.kept(bound.line.over(inner))
    return np.arange(inner[0], inner[1] + 1)[mask]


def best_batch(objective: Line, bounds: Sequence[Bound], batches: Range) -> Best:
    """The best whole batch of a range under limits.

    Raises:
        InputError: the model's own limits refuse the workload.
    """
    inner, left = narrowed(bounds, batches)
    if inner is None:
        return Best(None, _why_none(bounds, batches), "proved")
    if not left and objective.grows:
        if objective.larger_is_better:
            return Best(inner[1], _next(bounds, inner[1], batches, 1), "proved")
        return Best(inner[0], _next(bounds, inner[0], batches, -1), "proved")
    if inner[1] - inner[0] >= TRIED:
        raise InputError(
            f"{objective.formula.name}: growth with the batch is not proved, and "
            f"{inner[1] - inner[0] + 1} batches are too many to try (at most {TRIED})"
        )
    found = allowed(bounds, inner)
    if not found.size:
        return Best(None, _why_none(bounds, inner), "all batches tried")
    values = objective.over(inner)[found - inner[0]]
    best = int(found[np.argmax(values) if objective.larger_is_better else np.argmin(values)])
    now = objective.at(best)

    def better(batch: int) -> bool:
        if not batches[0] <= batch <= batches[1]:
            return True
        value = objective.at(batch)
        return value > now if objective.larger_is_better else value < now

    steps = [s for s in (1, -1) if better(best + s)]
    binding = tuple(text for s in steps for text in _next(bounds, best, batches, s))
    return Best(best, binding or ("no batch next to it is better",), "all batches tried")


def _next(bounds: Sequence[Bound], batch: int, batches: Range, step: int) -> tuple[str, ...]:
    """What keeps a batch from being one larger or smaller."""
    if not batches[0] <= batch + step <= batches[1]:
        end = "ends" if step > 0 else "starts"
        return (f"the range of batches {end} at B={batch}",)
    return tuple(text for b in bounds if (text := b.broken_at(batch + step)) is not None)


def _why_none(bounds: Sequence[Bound], batches: Range) -> tuple[str, ...]:
    """Limits that no batch keeps together, at the batch that comes closest."""
    upper = [b for b in bounds if not b.line.larger_is_better]
    lower = [b for b in bounds if b.line.larger_is_better]
    at_first = tuple(text for b in upper if (text := b.broken_at(batches[0])) is not None)
    if at_first:
        return at_first
    inner, _ = narrowed(upper, batches)
    largest = batches[1] if inner is None else inner[1]
    texts = [text for b in lower if (text := b.broken_at(largest)) is not None]
    if texts and largest < batches[1]:
        texts += _next(upper, largest, batches, 1)
    return tuple(texts) or (f"no batch from {batches[0]} to {batches[1]} keeps every limit",)
