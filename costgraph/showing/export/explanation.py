"""Explanations as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costgraph.showing.export.table import si, value_text
from costgraph.symbols import LEGEND

if TYPE_CHECKING:
    from costgraph.asking.explaining import Explanation, Next

#: Shares below this are not worth a line.
SMALL = 0.005


def resource_text(name: str) -> str:
    """A resource in words."""
    if name == "memory":
        return "memory bandwidth"
    if name == "latency":
        return "launch latency"
    engine, _, kind = name.partition(":")
    return f"{kind} {'special-function' if engine == 'special' else engine} compute"


def _ops(ops: tuple[str, ...], limit: int = 5) -> str:
    shown = ", ".join(ops[:limit])
    return shown if len(ops) <= limit else f"{shown} and {len(ops) - limit} more"


def figure_text(name: str, value: float) -> str:
    """A symbol's value: whole for sizes, with unit for rates."""
    if name in LEGEND:
        return f"{value:.6g}"
    text = si(value)
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{number} {prefix}{'B/s' if name == 'BW' else 'FLOP/s'}"


def change_text(n: Next) -> str:
    """Where a bound changes, as a sentence."""
    direction = "up" if n.then > n.now else "down"
    times = n.then / n.now if n.then > n.now else n.now / n.then
    turn = "turns" if len(n.ops) == 1 else "turn"
    return (
        f"{n.symbol} {direction} to {figure_text(n.symbol, n.then)} ({times:.3g}× away): "
        f"{_ops(n.ops)} {turn} from {resource_text(n.before)} to {resource_text(n.after)}"
    )


def explanation_text(e: Explanation) -> str:
    """What bounds the metric, its levers, the next bounds and the floors."""
    point = ", ".join(f"{k}={v}" for k, v in e.point.items())
    lines = e.setting.lines(point, warning=e.fit.warning)
    lines += [f"{e.metric}: {value_text(e.value, e.unit)}", "", "bound by"]
    for resource, share in e.bounds.items():
        if share >= SMALL:
            lines.append(f"    {100 * share:5.1f}%  {resource_text(resource)}")
    lines.append("made of")
    for part in e.shares[:6]:
        if part.share >= SMALL:
            text = f"{_ops(part.ops)} ({resource_text(part.resource)})"
            lines.append(f"    {100 * part.share:5.1f}%  {text}")
    lines.append("one per cent more of")
    for name, value in e.levers.items():
        if abs(value) >= SMALL:
            lines.append(f"    {name:<14} changes it by {value:+.2f}%")
    idle = [n for n, v in e.levers.items() if abs(v) < SMALL]
    if idle:
        lines.append(f"    {', '.join(idle)}: nothing to speak of")
    if e.nexts:
        lines.append("what bounds it changes with")
        lines.extend(f"    {change_text(n)}" for n in sorted(e.nexts, key=_distance))
    word = "at most" if e.unit != "s" else "still"
    lines.append("with one rate infinite")
    for floor in e.floors:
        gain = e.value / floor.value if e.unit == "s" else floor.value / e.value
        if gain > 1 + SMALL:
            lines.append(
                f"    {floor.symbol}: {word} {value_text(floor.value, e.unit)} ({gain:.3g}× faster)"
            )
    return "\n".join([*lines, *e.setting.foot()])


def _distance(n: Next) -> float:
    return max(n.then / n.now, n.now / n.then)
