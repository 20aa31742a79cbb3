"""Answers about formulas as tables of a paper: intervals and closed forms as mathematics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, Float, expand, oo

from costgraph.showing.export.atoms import cancelling
from costgraph.showing.export.breaking import broken
from costgraph.showing.export.escaping import Tex, text_latex
from costgraph.showing.export.explanation import explanation_lines
from costgraph.showing.export.layout import Name, Node, Norm, of_expr, to_latex
from costgraph.showing.export.regimes import DIGITS, condition_text, end_texts, without_norms
from costgraph.showing.export.table import value_text

if TYPE_CHECKING:
    from costgraph.asking.explaining import Explanation
    from costgraph.formula.regimes import Regimes
    from costgraph.formula.region_map import RegionMap
    from costgraph.formula.solve import Solution
    from costgraph.formula.wins import Interval

    #: Headings, rows and lines below.
    Cells = tuple[list[str], list[tuple[str, ...]], list[str]]

#: Points that a closed form may be wide in a table.
FORM = 300.0
#: Denominators up to it stand as such.
LARGE = 64
#: Characters of fractions that can be read in a line.
_SHORT = 6


def form_latex(expr: Expr, room: float = FORM) -> Tex:
    """A closed form in lines of ``room`` points, norms as such."""
    lines = broken(_form(expr), room, room)
    if len(lines) == 1:
        return Tex(f"${lines[0]}$")
    body = r" \\ {}".join(lines)
    return Tex(rf"$\begin{{array}}[t]{{@{{}}l@{{}}}} {body} \end{{array}}$")


def _form(expr: Expr) -> Node:
    bare, norms = without_norms(expr)

    def tree(e: Expr) -> Node:
        return of_expr(_short(expand(e)))

    made: dict[str, Node] = {
        name: Norm(tuple(map(tree, arms)), exponent) for name, (arms, exponent) in norms.items()
    }
    placed: Node = _placed(tree(bare), made)
    return placed


def _short(expr: Expr) -> Expr:
    """A sum whose coefficients are one number each, where four digits of them are enough."""
    parts = [part.as_coeff_Mul() for part in Add.make_args(expr)]
    if cancelling(c for c, _ in parts):
        return expr
    return Add(*(Float(c) * rest if c.is_Rational and c.q > LARGE else c * rest
                 for c, rest in parts))  # fmt: skip


def _placed(node: Any, found: Mapping[str, Node]) -> Any:
    """A tree with others in place of names."""
    if isinstance(node, Name):
        return found.get(node.text, node)
    if isinstance(node, tuple):
        return tuple(_placed(item, found) for item in node)
    if found and is_dataclass(node) and not isinstance(node, type):
        return replace(
            node, **{f.name: _placed(getattr(node, f.name), found) for f in fields(node)}
        )
    return node


def end_latex(end: Expr, text: str) -> str:
    """An end of an interval, as ``text`` shows it where it is a number."""
    if end == oo:
        return r"\infty"
    if not end.is_number:
        return to_latex(of_expr(end))
    top, slash, bottom = text.partition("/")
    if slash and len(text) > _SHORT:
        return f"{float(end):.{DIGITS}g}"
    if slash and bottom.isdigit():
        return rf"\tfrac{{{top}}}{{{bottom}}}"
    mantissa, e, exponent = text.partition("e")
    if e and exponent.lstrip("+-").isdigit():
        return rf"{mantissa}\times10^{{{int(exponent)}}}"
    return (
        text
        if text.replace(".", "").replace("-", "").isdigit()
        else rf"\text{{{text_latex(text)}}}"
    )


def _between(
    lower: Expr, upper: Expr, over: str, texts: Mapping[Expr, str], signs: str = "[]"
) -> Tex:
    """An interval, with its ends or without them (``[)``, ``()``)."""
    first, last = (r"\le" if sign in "[]" else "<" for sign in signs)
    shown = f"{end_latex(lower, texts[lower])} {first} {to_latex(Name(over))}"
    closing = "" if upper == oo else f" {last} {end_latex(upper, texts[upper])}"
    return Tex(f"${shown}{closing}$")


def _counted(bound: Mapping[str, Sequence[str]]) -> str:
    """How many operations each resource bounds."""
    return ", ".join(f"{name} ({len(ops)})" for name, ops in sorted(bound.items()))


def regimes_cells(found: Regimes) -> Cells:
    """A regime a row: interval, closed form, operations by what bounds them."""
    x, last = found.symbol.name, found.pieces[-1]
    ends = end_texts(e for p in found.pieces for e in (p.lower, p.upper))
    before = [None, *(p.expr for p in found.pieces)]
    rows: list[tuple[str, ...]] = [
        (
            _between(p.lower, p.upper, x, ends, "[]" if p is last else "[)"),
            # Norms keep their form where only the bound changes.
            "as above" if p.expr == form else form_latex(p.expr),
            _counted(p.bound),
        )
        for p, form in zip(found.pieces, before, strict=False)
    ]
    foot = [f"while {condition_text(c)}" for c in found.conditions]
    return [x, f"{found.name} [{found.unit}]", "operations bound by"], rows, foot


def region_map_cells(found: RegionMap) -> Cells:
    """A region a row: its cells, closed form, operations by what bounds them."""
    x, y = found.x.name, found.y.name
    cells = [cell for region in found.regions for cell in region.cells]
    across = end_texts(e for cell in cells for e in (cell.left, cell.right))
    up = end_texts(e for cell in cells for e in (cell.bottom, cell.top))
    rows: list[tuple[str, ...]] = []
    for region in found.regions:
        for index, cell in enumerate(region.cells):
            rows.append(
                (
                    _between(cell.left, cell.right, x, across),
                    _between(cell.bottom, cell.top, y, up),
                    "as above" if index else form_latex(region.expr, 2 * FORM / 3),
                    "" if index else _counted(region.bound),
                )
            )
    return [x, y, f"{found.name} [{found.unit}]", "operations bound by"], rows, []


def solution_cells(found: Solution) -> Cells:
    """An interval a row, with the budget and the largest whole value."""
    asked = found.question
    sign = "≥" if asked.at_least else "≤"
    budget = f"{asked.metric} {sign} {value_text(float(asked.budget), asked.unit)}"
    ends = end_texts(e for pair in found.intervals for e in pair)
    best = "none"
    if found.smallest is not None:
        best = f"{found.smallest} (the smallest)"
    elif found.largest is None:
        best = "no largest" if asked.whole else "–"
    elif found.largest:
        best = str(found.largest)
    intervals: list[str] = [
        _between(lower, upper, asked.over, ends) for lower, upper in found.intervals
    ] or ["none"]
    rows: list[tuple[str, ...]] = [
        (budget if not i else "", interval, best if not i else "")
        for i, interval in enumerate(intervals)
    ]
    certified = () if found.certified is None or found.largest == 0 else found.certified
    foot = [f"at {asked.over} = {value}: {result:.6g} {asked.unit}" for value, result in certified]
    head = ["budget", f"kept for {asked.over}", f"largest whole {asked.over}"]
    return head, rows, [*foot, *([found.tried] if found.tried else [])]


def wins_cells(found: Iterable[Interval], over: str, unit: str) -> Cells:
    """A stretch of an interval a row, with the difference on it."""
    rows: list[tuple[str, ...]] = []
    foot: list[str] = []
    for interval in found:
        ends = end_texts(e for p in interval.pieces for e in (p.lower, p.upper))
        for index, piece in enumerate(interval.pieces):
            inner = "[" if index or interval.closed else "("
            outer = "]" if interval.to_end and piece is interval.pieces[-1] else ")"
            where = _between(piece.lower, piece.upper, over, ends, inner + outer)
            said = " (on some stairs)" if interval.partly else ""
            rows.append((Tex(where + said), form_latex(piece.difference)))
        foot += [f"while {condition_text(c)}" for c in interval.conditions]
    return [over, f"difference [{unit}]"], rows or [("nowhere", "–")], list(dict.fromkeys(foot))


def explanation_cells(found: Explanation) -> Cells:
    """A line a row, behind what it is about."""
    rows: list[tuple[str, ...]] = []
    about = ""
    for line in explanation_lines(found):
        if not line.startswith(" "):
            about = line
            continue
        # Names of fused operations are long: they may end a line behind each part.
        rows.append((about, Tex(text_latex(line.strip()).replace("+", r"+\allowbreak{}"))))
        about = ""
    return ["", f"{found.metric}: {value_text(found.value, found.unit)}"], rows, []
