"""Structured formulas: sums of ``count × Max(arms)``, kept as such.

Names are resolved on first use: what computes kept formulas needs no sympy.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from costgraph.formula.formula import Formula
    from costgraph.formula.terms import Arm, Span, Term

__all__ = ["Arm", "Formula", "Span", "Term"]

_HOMES = {"Arm": "terms", "Formula": "formula", "Span": "terms", "Term": "terms"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
