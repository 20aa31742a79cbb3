"""Which resource bounds how much of a formula's value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from costgraph.formula.evaluate import compile_expr
from costgraph.formula.runtime import norm

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula


def bound_shares(formula: Formula, values: Mapping[str, Any]) -> dict[str, float]:
    """Share of the value by the resource whose arm is the largest in each term.

    Args:
        formula: a formula without sums over contexts (``ttft``, ``tpot``).
        values: a number per free symbol, by name.

    Returns:
        Resource (``memory``, ``tensor:bf16`` …) to its share; shares add up to 1.
    """
    formula.evaluate(**values)  # reports missing and unsuitable values
    symbols = formula.symbols
    given = [values[s.name] for s in symbols]
    totals: dict[str, float] = {}
    for term in formula.terms:
        count = float(compile_expr(term.count, symbols)(*given))
        sizes = [(float(compile_expr(a.expr, symbols)(*given)), a.resource) for a in term.arms]
        size, resource = max(sizes)
        if term.norm is not None:
            size = norm(float(term.norm), *(s for s, _ in sizes))
        totals[resource] = totals.get(resource, 0.0) + count * size
    whole = sum(totals.values()) or 1.0
    return {resource: value / whole for resource, value in totals.items()}
