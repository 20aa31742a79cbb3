"""Formulas as plain values, for JSON. Expressions are exact text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sympy import sstr

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.formula.terms import Arm, Term


def formula_object(formula: Formula) -> dict[str, Any]:
    """A formula with its terms, as JSON-ready values."""
    return {
        **({} if formula.setting is None else formula.setting.to_dict()),
        "metric": formula.name,
        "unit": formula.unit,
        "symbols": {s.name: formula.meanings.get(s.name, "") for s in formula.symbols},
        "numerator": None if formula.numerator is None else sstr(formula.numerator),
        "terms": [_term(t) for t in formula.terms],
        "expr": sstr(formula.expr),
        "latex": formula.latex(),
        "limits": [
            {"expr": sstr(x.expr), "bound": sstr(x.bound), "why": x.why} for x in formula.limits
        ],
    }


def _term(term: Term) -> dict[str, Any]:
    return {
        "count": sstr(term.count),
        "arms": [_arm(a) for a in term.arms],
        "norm": None if term.norm is None else float(term.norm),
        "sum": None
        if term.span is None
        else {
            "symbol": term.span.symbol.name,
            "lower": sstr(term.span.lower),
            "upper": sstr(term.span.upper),
        },
        "ops": list(term.ops),
    }


def _arm(arm: Arm) -> dict[str, Any]:
    """An arm: a resource's time, or a body with its terms in series."""
    if arm.chain:
        return {"body": arm.resource, "terms": [_term(t) for t in arm.chain]}
    return {"resource": arm.resource, "expr": sstr(arm.expr)}
