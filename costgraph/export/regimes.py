"""Regimes as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import Expr, oo, sstr

from costgraph.export.text import expr_text

if TYPE_CHECKING:
    from costgraph.formula.regimes import Regimes


def end_text(value: Expr) -> str:
    """An end of an interval: exact where short, with its decimal otherwise."""
    if value == oo:
        return "∞"
    if not value.is_number:
        return str(sstr(value))
    exact = str(sstr(value))
    if value.is_Integer or len(exact) <= 12:
        return exact
    return f"{float(value):.6g}"


def regimes_text(regimes: Regimes) -> str:
    """One block per regime: interval, closed form, operations by their bound."""
    x = regimes.symbol.name
    lines = [f"{regimes.name} [{regimes.unit}] along {x}: {len(regimes)} regimes"]
    for piece in regimes.pieces:
        lines.append(f"  {end_text(piece.lower)} <= {x} < {end_text(piece.upper)}")
        lines.append(f"      {expr_text(piece.expr)}")
        for resource, ops in sorted(piece.bound.items()):
            shown = ", ".join(ops[:6]) + (f", … ({len(ops)})" if len(ops) > 6 else "")
            lines.append(f"      {resource}: {shown}")
    if regimes.conditions:
        lines.append("  while")
        lines.extend(f"      {sstr(c)}" for c in regimes.conditions)
    return "\n".join(lines)
