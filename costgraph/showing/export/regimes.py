"""Regimes as plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer, Mul, StrictLessThan, oo, sstr

from costgraph.errors import many
from costgraph.showing.export.atoms import number_text
from costgraph.showing.export.table import value_text
from costgraph.showing.export.text import expr_text, norm_text, ratio_text
from costgraph.symbols import symbol
from costgraph.units import apart

if TYPE_CHECKING:
    from sympy.core.relational import Relational

    from costgraph.formula.regimes import Regimes
    from costgraph.formula.region_map import RegionMap
    from costgraph.formula.solve import Solution
    from costgraph.setting import Setting

#: Digits of a breakpoint, where its neighbours differ in them.
DIGITS = 6


def end_text(value: Expr, digits: int = DIGITS) -> str:
    """An end of an interval: exact where short, with its decimal otherwise."""
    if value == oo:
        return "∞"
    if not value.is_number:
        return ratio_text(value)
    exact = str(sstr(value))
    if value.is_Integer or len(exact) <= 12:
        return exact
    return f"{float(value):.{digits}g}"


def end_texts(ends: Iterable[Expr]) -> dict[Expr, str]:
    """The ends of intervals along one symbol, numbers so that neighbours are told apart."""
    every = set(ends)
    numbers = {e for e in every if e.is_number and e != oo}
    return {e: end_text(e) for e in every - numbers} | apart(numbers, end_text, DIGITS)


def regimes_text(regimes: Regimes) -> str:
    """One block per regime: interval, closed form, operations by their bound."""
    x = regimes.symbol.name
    lines = about_lines(regimes.setting)
    lines.append(f"{regimes.name} [{regimes.unit}] along {x}: {many(len(regimes), 'regime')}")
    form: Expr | None = None
    ends = end_texts(e for piece in regimes.pieces for e in (piece.lower, piece.upper))
    for piece in regimes.pieces:
        # The last regime holds at its end as well, where it has one.
        sign = "<=" if piece is regimes.pieces[-1] and piece.upper != oo else "<"
        lines.append(f"  {ends[piece.lower]} <= {x} {sign} {ends[piece.upper]}")
        # Norms keep their form where only the bound changes.
        lines.append("      as above" if piece.expr == form else f"      {form_text(piece.expr)}")
        form = piece.expr
        for resource, ops in sorted(piece.bound.items()):
            shown = ", ".join(ops[:6]) + (f", … ({len(ops)})" if len(ops) > 6 else "")
            lines.append(f"      {resource}: {shown}")
    if regimes.conditions:
        lines.append("  while")
        lines.extend(f"      {condition_text(c)}" for c in regimes.conditions)
    return "\n".join([*lines, *foot_lines(regimes.setting)])


def about_lines(setting: Setting | None) -> list[str]:
    """What a result is about; nothing where that is not known."""
    return [] if setting is None else setting.lines()


def foot_lines(setting: Setting | None) -> list[str]:
    """What a result rests on; nothing where that is not known."""
    return [] if setting is None else setting.foot()


def setting_object(setting: Setting | None, *more: str) -> dict[str, Any]:
    """What a result is about, as plain values; nothing where that is not known.

    ``more`` must be said of it, see :meth:`.Setting.to_dict`.
    """
    return {} if setting is None else setting.to_dict(*more)


def form_text(expr: Expr) -> str:
    """A closed form; norms as ``‖a, b‖ₚ`` with short coefficients."""
    bare, found = without_norms(expr)
    text = expr_text(bare)
    # From the last: the name of the first begins the name of the eleventh.
    for name, (arms, exponent) in reversed(found.items()):
        shown = f"‖{', '.join(map(expr_text, arms))}‖{norm_text(exponent)}"
        text = text.replace(name, shown)
    return text


def without_norms(expr: Expr) -> tuple[Expr, dict[str, tuple[tuple[Expr, ...], Expr]]]:
    """A closed form with a symbol for each norm; by its name, the norm's arms and exponent."""
    found: dict[str, tuple[tuple[Expr, ...], Expr]] = {}

    def named(e: Expr) -> Expr:
        name = f"norm_{len(found)}"
        found[name] = _arms(e), 1 / e.exp
        return symbol(name)

    return expr.replace(lambda e: bool(_arms(e)), named), found


def _arms(e: Expr) -> tuple[Expr, ...]:
    """The arms of a norm ``(aᵖ + bᵖ)^(1/p)``; none where it is something else."""
    if not (e.is_Pow and e.exp.is_Float and e.base.is_Add and e.exp > 0):
        return ()
    if not any(_undone(f, e.exp) for part in e.base.args for f in Mul.make_args(part)):
        return ()
    return tuple(Mul(*(_root(f, e.exp) for f in Mul.make_args(part))) for part in e.base.args)


def _undone(factor: Expr, exponent: Expr) -> bool:
    """Whether a root undoes a power."""
    return factor.is_Pow and not factor.is_number and _whole(factor.exp * exponent).is_Integer


def _root(factor: Expr, exponent: Expr) -> Expr:
    """``factor**exponent``, where powers and the root undo each other without rounding."""
    if factor.is_Pow and not factor.is_number:
        power = factor.exp * exponent
        scale, rest = power.as_coeff_Mul()
        return factor.base ** (_whole(scale) * rest)
    return factor**exponent


def _whole(value: Expr) -> Expr:
    near = Integer(round(value)) if value.is_number else value
    return near if value.is_number and abs(value - near) < 1e-9 else value


def condition_text(condition: Relational) -> str:
    """An inequality; of two terms as one ratio: ``BW / F < 0.0065``."""
    sign = "<" if isinstance(condition, StrictLessThan) else ">"
    parts = condition.lhs.expand().as_coefficients_dict()
    if len(parts) == 2:
        (above, p), (below, n) = sorted(parts.items(), key=lambda item: bool(item[1] < 0))
        if p > 0 > n:
            return f"{ratio_text(above / below)} {sign} {number_text(-n / p)}"
    return f"{expr_text(condition.lhs)} {sign} 0"


def _last(ends: Iterable[Expr]) -> Expr | None:
    """The largest number among ends of cells; None where they go on for ever."""
    numbers = [e for e in ends if e.is_number]
    last = max(numbers, key=float, default=oo)
    return None if last == oo else last


def region_map_text(found: RegionMap) -> str:
    """One block per region: its cells, closed form and operations by bound."""
    x, y = found.x.name, found.y.name
    lines = about_lines(found.setting)
    lines.append(f"{found.name} [{found.unit}] over {x} and {y}: {many(len(found), 'region')}")
    form: Expr | None = None
    cells = [cell for region in found.regions for cell in region.cells]
    ends = end_texts(e for cell in cells for e in (cell.left, cell.right))
    edges = end_texts(e for cell in cells for e in (cell.bottom, cell.top))
    right, top = _last(cell.right for cell in cells), _last(cell.top for cell in cells)
    for region in found.regions:
        for cell in region.cells:
            # The last cells hold at their end as well, where it has one.
            across, up = ("<=" if e else "<" for e in (cell.right == right, cell.top == top))
            lines.append(
                f"  {ends[cell.left]} <= {x} {across} {ends[cell.right]}, "
                f"{edges[cell.bottom]} <= {y} {up} {edges[cell.top]}"
            )
        lines.append("      as above" if region.expr == form else f"      {form_text(region.expr)}")
        form = region.expr
        for resource, ops in sorted(region.bound.items()):
            shown = ", ".join(ops[:6]) + (f", … ({len(ops)})" if len(ops) > 6 else "")
            lines.append(f"      {resource}: {shown}")
    return "\n".join([*lines, *foot_lines(found.setting)])


def regimes_object(regimes: Regimes) -> dict[str, Any]:
    """Regimes as plain values; expressions are exact text."""
    return {
        **setting_object(regimes.setting),
        "metric": regimes.name,
        "unit": regimes.unit,
        "over": regimes.symbol.name,
        "regimes": [
            {
                "from": str(sstr(p.lower)),
                "to": str(sstr(p.upper)),
                "expr": str(sstr(p.expr)),
                "bound": {k: list(v) for k, v in p.bound.items()},
            }
            for p in regimes
        ],
        "conditions": [str(sstr(c)) for c in regimes.conditions],
    }


def region_map_object(found: RegionMap) -> dict[str, Any]:
    """A region map as plain values; expressions are exact text."""
    return {
        **setting_object(found.setting),
        "metric": found.name,
        "unit": found.unit,
        "over": [found.x.name, found.y.name],
        "regions": [
            {
                "cells": [
                    {k: str(sstr(getattr(c, k))) for k in ("left", "right", "bottom", "top")}
                    for c in region.cells
                ],
                "expr": str(sstr(region.expr)),
                "bound": {k: list(v) for k, v in region.bound.items()},
            }
            for region in found.regions
        ],
    }


def solution_object(found: Solution) -> dict[str, Any]:
    """A solution as plain values."""
    asked = found.question
    return {
        **setting_object(asked.setting),
        "metric": asked.metric,
        "unit": asked.unit,
        "over": asked.over,
        "budget": float(asked.budget),
        "at_least": asked.at_least,
        "intervals": [[str(sstr(a)), str(sstr(b))] for a, b in found.intervals],
        "largest": found.largest,
        "certified": None if found.certified is None else [list(c) for c in found.certified],
        "tried": found.tried or None,
    }


def solution_text(found: Solution) -> str:
    """A solution in a few lines."""
    asked = found.question
    over, sign = asked.over, ">=" if asked.at_least else "<="
    lines = about_lines(asked.setting)
    lines.append(f"{asked.metric} {sign} {value_text(float(asked.budget), asked.unit)}")
    if not asked.whole:
        lines.extend(() if found.intervals else [f"  no {over} keeps within the budget"])
    elif found.smallest is not None:
        lines.append(f"  smallest whole {over}: {found.smallest}; none above is too large")
    elif found.largest is None:
        lines.append(f"  no largest {over}: the budget holds however large it is")
    elif found.largest == 0:
        lines.append(f"  no whole {over} keeps within the budget")
    else:
        lines.append(f"  largest whole {over}: {found.largest}")
    lines.extend(f"  {text}" for text in interval_lines(found))
    if found.certified is not None and found.largest != 0:
        for value, result in found.certified:
            lines.append(f"  at {over} = {value}: {result:.6g} {asked.unit}")
    if found.tried:
        lines.append(f"  {found.tried}")
    return "\n".join([*lines, *foot_lines(asked.setting)])


def interval_lines(found: Solution) -> list[str]:
    """The intervals of a solution, one a line."""
    return [between(lower, upper, found.question.over) for lower, upper in found.intervals]


def between(lower: Expr, upper: Expr, over: str) -> str:
    """An interval as an inequality."""
    ends = end_texts((lower, upper))
    closing = f" <= {ends[upper]}" if upper != oo else ""
    return f"{ends[lower]} <= {over}{closing}"
