"""Which resource bounds how much of a formula's value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costgraph.formula.runtime import norm

if TYPE_CHECKING:
    from sympy import Expr

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
    from costgraph.formula.evaluate import compile_expr

    formula.evaluate(**values)  # reports missing and unsuitable values
    symbols = formula.symbols
    given = [values[s.name] for s in symbols]

    def value(expr: Expr) -> float:
        return float(compile_expr(expr, symbols)(*given))

    return share_of(map(without_span, formula.terms), value)


def without_span(term: Term) -> Term:
    """What a term that is summed over contexts is at the middle one, as often as there are."""
    if term.span is None:
        return term
    span = term.span
    middle = {span.symbol: (span.lower + span.upper) / 2}
    steps = term.count * (span.upper - span.lower + 1)
    inner = replace(term, span=None).mapped(lambda e: e.xreplace(middle))
    return replace(inner, count=steps)


def share_of(terms: Iterable[Any], value: Callable[[Any], float]) -> dict[str, float]:
    """:func:`bound_shares` of terms, or of their likes with expressions that ``value`` knows."""
    totals: dict[str, float] = {}
    for term in terms:
        for resource, part in _bounded(term, value):
            totals[resource] = totals.get(resource, 0.0) + part
    whole = sum(totals.values()) or 1.0
    return {resource: part / whole for resource, part in totals.items()}


def _bounded(term: Any, value: Callable[[Any], float]) -> Iterator[tuple[str, float]]:
    """The value of a term by resource; of a chain, that of each of its terms."""
    count = value(term.count)
    sizes = [value(a.expr) for a in term.arms]
    size, arm = max(zip(sizes, term.arms, strict=True), key=lambda p: (p[0], p[1].resource))
    for inner in arm.chain:
        for resource, part in _bounded(inner, value):
            yield resource, count * part
    if not arm.chain:
        yield arm.resource, count * (size if term.norm is None else norm(float(term.norm), *sizes))
