"""Comparisons as text and HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from costgraph.ir.workload import shown
from costgraph.showing.export.table import foot_html, html_table, plain_table, seconds, si

if TYPE_CHECKING:
    from costgraph.asking.compared import Column, Comparison, Effect
    from costgraph.formula.even import Even

    _Cell = tuple[str, Callable[[Column], str | None]]


def _too_large(column: Column) -> str:
    """What is said beside the device's memory: that it is too small, or that another one is."""
    farther = [name for name in column.full if " of " in name]
    own = ["too large"] if len(farther) < len(column.full) else []
    said = (*own, *(f"too large for {name.split(' of ')[0]}" for name in farther))
    return f" ({', '.join(said)})" if said else ""


def _rate(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.4g}" if value < 9999.5 else si(value)


#: (heading, text of a column) in order; what no column has is left out.
_CELLS: tuple[_Cell, ...] = (
    ("pipeline", lambda c: c.passes),
    ("ttft", lambda c: None if c.ttft is None else seconds(c.ttft)),
    ("tpot", lambda c: None if c.tpot is None else seconds(c.tpot)),
    ("latency", lambda c: seconds(c.latency)),
    ("token/s", lambda c: None if c.throughput is None else _rate(c.throughput)),
    ("memory", lambda c: f"{si(c.memory)}B" + _too_large(c)),
    ("speed-up", lambda c: f"{c.speedup:.2f}x"),
    ("decode bound by", lambda c: c.tpot_bound),
    ("bound by", lambda c: c.latency_bound),
)


#: What several models are told apart by, in front of the others.
_MODELS: tuple[_Cell, ...] = (
    ("model", lambda c: c.model),
    ("lengths", lambda c: ", ".join(f"{k}={v}" for k, v in c.lengths.items()) or None),
    (
        "parameters",
        lambda c: None if c.parameters is None else _parameters(c),
    ),
)
#: And behind them.
_EVEN: tuple[_Cell, ...] = (
    ("memory ratio", lambda c: f"{c.memory_ratio:.2f}x"),
    ("N at equal latency", lambda c: None if c.even_length is None else f"{c.even_length}"),
)


def _parameters(column: Column) -> str:
    whose = f" {column.parameters_on}" if column.parameters_on else ""
    return si(column.parameters or 0) + whose + _times(column.parameter_ratio)


def _times(ratio: float | None) -> str:
    return "" if ratio is None or ratio == 1 else f" ({ratio:.2f}x)"


#: Columns that may be left out where there is little room, the first ones first.
_LESS = ("ttft", "token/s", "decode bound by", "memory ratio", "tpot")


def cells(table: Comparison) -> tuple[list[str], list[tuple[str, ...]]]:
    """The headings, and one row of text per pipeline and device."""
    wanted = list(_CELLS)
    if len(table.models) > 1:
        wanted = [*_MODELS, *wanted, *_EVEN]
    if len(table.devices) > 1:
        wanted.insert(0, ("device", lambda c: c.hardware))
    made = [(name, [text(c) for c in table.columns]) for name, text in wanted]
    kept = [(name, column) for name, column in made if any(cell is not None for cell in column)]
    rows = zip(*([cell or "–" for cell in column] for _, column in kept), strict=True)
    return [name for name, _ in kept], list(rows)


def caption(table: Comparison) -> str:
    """A line saying what is compared, and what must be said of all."""
    return "\n".join(table.setting.lines(shown(table.bindings), without=("passes",)))


def steps(table: Comparison) -> list[str]:
    """One line saying which steps the times per token are of, if there are any."""
    return [] if table.tpot_of is None else [f"tpot: {table.tpot_of}"]


def _effects(effects: tuple[Effect, ...], words: str, refused: str) -> list[str]:
    lines = []
    for effect in effects:
        if effect.latency is None:
            told = f"{refused}: {effect.refused}"
        elif effect.change is None:
            told = f"{words} {seconds(effect.latency)} (from what is refused)"
        else:
            sign = "+" if effect.change >= 0 else "-"
            told = f"{words} {seconds(effect.latency)} ({sign}{seconds(abs(effect.change))})"
        lines.append(f"    {effect.name}: {told}")
    return lines


def _evens(table: Comparison) -> list[str]:
    """Lengths at equal latency as formulas in the length of the first model."""
    first = table.columns[0]
    lines = []
    for column, even in zip(table.columns, table.evens, strict=True):
        if even is None:
            continue
        on = f" on {column.hardware}" if len(table.devices) > 1 else ""
        lines.append(f"    {column.model}{on}, {column.passes}: {even_text(even)}")
    head = f"N at the latency of {first.model}, {first.passes}"
    return ["", head, *lines] if lines else []


def even_text(even: Even) -> str:
    """A formula with a root as text, and where it holds."""
    from sympy import Pow, Rational, oo

    from costgraph.showing.export.regimes import end_text
    from costgraph.showing.export.text import expr_text

    roots = [p for p in even.expr.atoms(Pow) if p.exp == Rational(1, 2)]
    shown = expr_text(even.expr)
    if len(roots) == 1:
        rest = even.expr - roots[0]
        if rest.is_number:
            sign = "-" if rest < 0 else "+"
            shown = f"√({expr_text(roots[0].base)}) {sign} {expr_text(abs(rest))}"
    ends = [f"{end_text(even.lower)} <= "] if even.lower > 1 else []
    over = f" <= {end_text(even.upper)}" if even.upper != oo else ""
    where = f" for {''.join(ends)}{even.over}{over}" if ends or over else ""
    return f"{shown}{where}"


def comparison_text(table: Comparison, width: int | None = None) -> str:
    """Table, waterfall and ablation of every pipeline with more than one pass, and the foot.

    The table fits a line of ``width`` characters, if one is given.
    """
    lines = [caption(table), *steps(table), "", plain_table(*cells(table), width, _LESS)]
    lines += _evens(table)
    named = (
        *(("hardware",) if len(table.devices) > 1 else ()),
        *(("model",) if len(table.models) > 1 else ()),
    )
    for column, fall, ablation in zip(
        table.columns, table.waterfalls, table.ablations, strict=True
    ):
        if len(fall) > 1:
            where = "".join(f"{getattr(column, name)}: " for name in named)
            lines += [
                "",
                f"{where}{column.passes}",
                "  waterfall (latency after each pass, in order)",
            ]
            lines += _effects(fall, "to", "refused so far")
            lines += ["  ablation (latency without each pass)"]
            lines += _effects(ablation, "without it", "refused without it")
    foot = table.setting.foot()
    return "\n".join([*lines, *(["", *foot] if foot else [])])


def comparison_html(table: Comparison) -> str:
    """The table as HTML for notebooks."""
    return html_table(*cells(table), "\n".join([caption(table), *steps(table)])) + foot_html(
        table.setting.foot()
    )
