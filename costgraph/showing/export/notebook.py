"""What notebooks show (Jupyter, marimo): HTML with MathML; all text from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from sympy import Expr, oo

from costgraph.formula.naming import named
from costgraph.showing.export.explanation import (
    SMALL,
    change_text,
    critical_lines,
    figure_text,
    resource_text,
)
from costgraph.showing.export.layout import of_expr
from costgraph.showing.export.readable import math
from costgraph.showing.export.regimes import condition_text, end_text
from costgraph.showing.export.table import foot_html, graph_html, html_table, value_text
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from costgraph.asking.explaining import Explanation
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.formula.regimes import Regimes
    from costgraph.formula.region_map import RegionMap
    from costgraph.hardware.machine import Machine
    from costgraph.ir.program import Program
    from costgraph.setting import Setting

_MOST = 6


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], caption: str) -> str:
    """A table whose cells are HTML already; head and caption are text."""
    return html_table(head, rows, caption, markup=True)


def _about(setting: Setting | None, text: str) -> str:
    """What something is about, and a line more."""
    return "\n".join([*([] if setting is None else setting.lines()), text])


def _said(setting: Setting | None) -> str:
    """What something rests on."""
    return "" if setting is None else foot_html(setting.foot())


def _names(ops: tuple[str, ...]) -> str:
    shown = escape(", ".join(ops[:_MOST]))
    return shown if len(ops) <= _MOST else f"{shown}, … ({len(ops)})"


def _bounds(bound: Mapping[str, tuple[str, ...]]) -> str:
    lines = (f"<b>{escape(r)}</b>: {_names(ops)}" for r, ops in sorted(bound.items()))
    return "<br>".join(lines)


def _end(value: Expr) -> str:
    return escape(end_text(value)) if value.is_number or value == oo else math(of_expr(value))


def lines_html(lines: Sequence[str]) -> str:
    """What something is about, a line each."""
    return f"<p>{'<br/>'.join(map(escape, lines))}</p>"


def text_html(text: str) -> str:
    """Text in columns, as it is."""
    return f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'


def formula_html(formula: Formula) -> str:
    """A formula in named constants, with its legend."""
    return named(formula, "ops").mathml()


def regimes_html(found: Regimes) -> str:
    """A row per regime: interval, closed form, operations by their bound."""
    x = escape(found.symbol.name)
    rows = [
        (
            f"{_end(p.lower)} &#x2264; {x} &lt; {_end(p.upper)}",
            math(of_expr(p.expr)),
            _bounds(p.bound),
        )
        for p in found.pieces
    ]
    what = f"{found.name} [{found.unit}] along {found.symbol.name}: {len(found)} regimes"
    caption = _about(found.setting, what)
    while_ = "".join(f"<li>{escape(condition_text(c))}</li>" for c in found.conditions)
    shown = _table(("interval", "closed form", "bound by"), rows, caption)
    shown += f"<p>while</p><ul>{while_}</ul>" if while_ else ""
    return shown + _said(found.setting)


def region_map_html(found: RegionMap) -> str:
    """A row per region: its cells, closed form, operations by their bound."""
    x, y = escape(found.x.name), escape(found.y.name)
    rows = []
    for region in found.regions:
        cells = "<br>".join(
            f"{_end(c.left)} &#x2264; {x} &lt; {_end(c.right)}, "
            f"{_end(c.bottom)} &#x2264; {y} &lt; {_end(c.top)}"
            for c in region.cells
        )
        rows.append((cells, math(of_expr(region.expr)), _bounds(region.bound)))
    caption = _about(
        found.setting,
        f"{found.name} [{found.unit}] over {found.x.name} and {found.y.name}: {len(found)} regions",
    )
    return _table(("where", "closed form", "bound by"), rows, caption) + _said(found.setting)


def explanation_html(e: Explanation) -> str:
    """The explanation as short tables."""
    point = ", ".join(f"{k}={v}" for k, v in e.point.items())
    head = lines_html(e.setting.lines(point, warning=e.fit.warning))
    head += f"<p><b>{escape(e.metric)}</b>: <b>{escape(value_text(e.value, e.unit))}</b></p>"
    shares = [
        (f"{100 * part.share:.1f}%", _names(part.ops), escape(resource_text(part.resource)))
        for part in e.shares[:_MOST]
        if part.share >= SMALL
    ]
    levers = [
        (escape(name), f"{value:+z.2f}%") for name, value in e.levers.items() if abs(value) >= SMALL
    ]
    floors = [
        (escape(f.symbol), escape(value_text(f.value, e.unit)))
        for f in e.floors
        if f.value != e.value
    ]
    rates = ", ".join(f"{k} = {figure_text(k, v)}" for k, v in e.rates.items())
    out = head + _table(("share", "operations", "bound by"), shares, "made of")
    if e.timed:
        fits = [(f"{100 * x.share:.1f}%", escape(x.fit), _names(x.ops)) for x in e.timed]
        out += _table(("share", "fit", "operations"), fits, "fit")
    out += _table(("one per cent more of", "changes it by"), levers, "levers")
    if e.nexts:
        items = "".join(f"<li>{escape(change_text(n, e.rates))}</li>" for n in e.nexts)
        out += f"<p>what bounds it changes with</p><ul>{items}</ul>"
    out += _critical_html(e)
    out += _table(("with this rate infinite or latency zero", "at best"), floors, "floors")
    out += f"<p>{escape(rates)}</p>" if rates else ""
    return out + _said(e.setting)


def _critical_html(e: Explanation) -> str:
    """What runs at the same time, stages and links, as lists."""
    lines = critical_lines(e)
    return text_html("\n".join(lines)) if lines else ""


def program_html(program: Program) -> str:
    """The phases of a program, then its first graph."""
    rows = []
    for phase in program.phases:
        bindings = ", ".join(f"{s} = {e}" for s, e in phase.bindings if s != e)
        span = phase.span
        steps = "once" if span is None else f"{span.symbol} = {span.lower} … {span.upper}"
        cells = (phase.name, bindings, steps, str(phase.tokens), phase.graph.name)
        rows.append(tuple(escape(c) for c in cells))
    head = ("phase", "where", "steps", "tokens per step", "graph")
    notes = "".join(f"<li>{escape(a)}</li>" for a in program.assumptions)
    assumed = f"<p>assuming</p><ul>{notes}</ul>" if notes else ""
    return _table(head, rows, program.name) + graph_html(program.graph) + assumed


def machine_html(machine: Machine) -> str:
    """Every figure of a device with its source."""
    rows = [
        (key, format_quantity(float(f.value), f.unit), f.source)
        for key, f in machine.figures.items()
    ]
    return html_table(("figure", "value", "source"), rows, f"{machine.name}: {machine.title}")


def compiled_html(compiled: Compiled) -> str:
    """A compiled model's main formulas, in named constants."""
    from costgraph.errors import CostgraphError

    out = f"<p><b>{escape(repr(compiled))}</b></p>"
    for metric in ("ttft", "tpot", "latency", "memory"):
        try:
            formula = getattr(compiled, metric)
        except CostgraphError:
            continue  # a model that generates nothing has no time per token
        title = f"{metric}({', '.join(s.name for s in formula.symbols)}) [{formula.unit}]"
        opened = ' open="open"' if metric == "tpot" else ""
        out += (
            f"<details{opened}><summary>{escape(title)}</summary>{formula_html(formula)}</details>"
        )
    return out
