"""Comparisons as text and HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costgraph.export.table import html_table, plain_table, seconds, si
from costgraph.said import Said

if TYPE_CHECKING:
    from costgraph.comparison import Comparison, Effect

HEAD = ("pipeline", "ttft", "tpot", "latency", "token/s", "memory", "speed-up", "decode bound by")


def cells(table: Comparison) -> list[tuple[str, ...]]:
    """One row of text per pipeline."""
    return [
        (
            c.passes,
            seconds(c.ttft),
            seconds(c.tpot),
            seconds(c.latency),
            f"{c.throughput:.4g}",
            f"{si(c.memory)}B" + ("" if c.fits else " (too large)"),
            f"{c.speedup:.2f}x",
            c.tpot_bound,
        )
        for c in table.columns
    ]


def caption(table: Comparison) -> str:
    """One line saying what is compared."""
    values = ", ".join(f"{k}={v}" for k, v in table.bindings.items())
    return f"{table.model} on {table.hardware} ({values}), accounting {table.accounting}"


def _effects(effects: tuple[Effect, ...], words: str) -> list[str]:
    lines = []
    for effect in effects:
        sign = "+" if effect.change >= 0 else "-"
        lines.append(
            f"    {effect.name}: {words} {seconds(effect.latency)} "
            f"({sign}{seconds(abs(effect.change))})"
        )
    return lines


def comparison_text(table: Comparison) -> str:
    """Table, waterfall and ablation of every pipeline with more than one pass, assumptions.

    And what the passes did not do, with the reasons.
    """
    lines = [caption(table), "", plain_table(HEAD, cells(table))]
    for column, fall, ablation in zip(
        table.columns, table.waterfalls, table.ablations, strict=True
    ):
        if len(fall) > 1:
            lines += ["", column.passes, "  waterfall (latency after each pass, in order)"]
            lines += _effects(fall, "to")
            lines += ["  ablation (latency without each pass)"]
            lines += _effects(ablation, "without it")
    said = Said.together(Said(assumed, table.notes) for assumed in table.assumptions).lines()
    lines += ["", *said] if said else []
    undone = dict.fromkeys(line for compiled in table.compiled for line in compiled.undone)
    if undone:
        lines += ["", "not done"]
        lines += [f"    {line}" for line in undone]
    return "\n".join(lines)


def comparison_html(table: Comparison) -> str:
    """The table as HTML for notebooks."""
    return html_table(HEAD, cells(table), caption(table))
