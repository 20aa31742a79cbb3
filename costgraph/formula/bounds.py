"""Which resource bounds how much of a formula's value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sympy import Expr, Symbol

from costgraph.formula.evaluate import compile_expr
from costgraph.formula.runtime import norm

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.formula.terms import Term


def bound_shares(formula: Formula, values: Mapping[str, Any]) -> dict[str, float]:
    """Share of the value by the resource whose arm is the largest in each term.

    Args:
        formula: a time; what is summed over contexts counts as at the middle one.
        values: a number per free symbol, by name.

    Returns:
        Resource (``memory``, ``tensor:bf16`` …) to its share; shares add up to 1.
    """
    formula.evaluate(**values)  # reports missing and unsuitable values
    symbols = formula.symbols
    given = [values[s.name] for s in symbols]
    totals: dict[str, float] = {}
    for term in formula.terms:
        for resource, value in _bounded(term, symbols, given):
            totals[resource] = totals.get(resource, 0.0) + value
    whole = sum(totals.values()) or 1.0
    return {resource: value / whole for resource, value in totals.items()}


def _bounded(
    term: Term, symbols: Sequence[Symbol], given: Sequence[Any]
) -> Iterator[tuple[str, float]]:
    """The value of a term by resource; of a chain, that of each of its terms."""

    def value(expr: Expr) -> float:
        return float(compile_expr(expr, symbols)(*given))

    if term.span is not None:
        span = term.span
        middle = {span.symbol: (span.lower + span.upper) / 2}
        steps = term.count * (span.upper - span.lower + 1)
        term = replace(term, span=None).mapped(lambda e: e.xreplace(middle))
        term = replace(term, count=steps)
    count = value(term.count)
    sizes = [value(a.expr) for a in term.arms]
    size, arm = max(zip(sizes, term.arms, strict=True), key=lambda p: (p[0], p[1].resource))
    for inner in arm.chain:
        for resource, part in _bounded(inner, symbols, given):
            yield resource, count * part
    if not arm.chain:
        yield arm.resource, count * (size if term.norm is None else norm(float(term.norm), *sizes))
