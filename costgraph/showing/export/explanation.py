"""Explanations as sentences."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from costgraph.formula.ladder import HIDDEN
from costgraph.formula.outline import kind_of, link_of, split_level, unit_of
from costgraph.showing.export.table import seconds, si, value_text

if TYPE_CHECKING:
    from costgraph.asking.critical import Body, Exchanged, Race, Relief, Stage
    from costgraph.asking.explaining import Explanation, Next

#: Shares below this are not worth a line.
SMALL = 0.005
#: Regions beyond these are not listed.
MOST = 6


def resource_text(name: str) -> str:
    """A resource in words."""
    unit, kind = unit_of(name), kind_of(name)
    if unit:
        # A direction of a link says itself what it is: "to the host", "into edge 1".
        of = "" if link_of(kind) and unit.startswith(("to ", "into ")) else "of "
        return f"{resource_text(kind)} {of}{unit}"
    level, own = split_level(kind)
    if level:
        return f"{resource_text(own)} of {level}"
    if kind == "memory":
        return "memory bandwidth"
    if kind == "latency":
        return "launch latency"
    if kind == HIDDEN:
        return "nothing: something else takes longer meanwhile"
    if link_of(kind):
        return f"link {link_of(kind)}"
    engine, found, of = kind.partition(":")
    if not found:
        return kind
    return f"{of} {'special-function' if engine == 'special' else engine} compute"


def _ops(ops: tuple[str, ...], limit: int = 5) -> str:
    shown = ", ".join(ops[:limit])
    return shown if len(ops) <= limit else f"{shown} and {len(ops) - limit} more"


def figure_text(name: str, value: float) -> str:
    """A figure of the machine with its unit."""
    if name.startswith("alpha_"):
        return seconds(value)
    text = si(value)
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{number} {prefix}{'FLOP/s' if name.startswith('F_') else 'B/s'}"


def change_text(n: Next, rates: Collection[str]) -> str:
    """Where a bound changes, as a sentence; only ``rates`` of the machine have units."""
    direction = "up" if n.then > n.now else "down"
    away = f" ({_distance(n):.3g}× away)" if n.now else ""
    then = figure_text(n.symbol, n.then) if n.symbol in rates else f"{n.then:.6g}"
    turn = "turns" if len(n.ops) == 1 else "turn"
    return (
        f"{n.symbol} {direction} to {then}{away}: "
        f"{_ops(n.ops)} {turn} from {resource_text(n.before)} to {resource_text(n.after)}"
    )


def explanation_text(e: Explanation) -> str:
    """What bounds the metric, its levers, the next bounds and the floors."""
    lines = [*explanation_about(e), "", *explanation_lines(e)]
    return "\n".join([*lines, *e.setting.foot()])


def explanation_about(e: Explanation) -> list[str]:
    """What is explained, and the value."""
    point = ", ".join(f"{k}={v}" for k, v in e.point.items())
    lines = e.setting.lines(point, warning=e.fit.warning)
    return [*lines, f"{e.metric}: {value_text(e.value, e.unit)}"]


def explanation_lines(e: Explanation) -> list[str]:
    """What :func:`explanation_text` says of the value: lines that stand in, under headings."""
    lines = ["bound by"]
    for resource, share in e.bounds.items():
        if share >= SMALL:
            lines.append(f"    {100 * share:5.1f}%  {resource_text(resource)}")
    lines.append("made of")
    for part in e.shares[:6]:
        if part.share >= SMALL:
            text = f"{_ops(part.ops)} ({resource_text(part.resource)})"
            lines.append(f"    {100 * part.share:5.1f}%  {text}")
    lines.extend(timed_lines(e))
    lines.append("one per cent more of")
    for name, value in e.levers.items():
        if abs(value) >= SMALL:
            lines.append(f"    {name:<14} changes it by {value:+z.2f}%")
    idle = [n for n, v in e.levers.items() if abs(v) < SMALL]
    if idle:
        lines.append(f"    {', '.join(idle)}: nothing to speak of")
    if e.nexts:
        lines.append("what bounds it changes with")
        lines.extend(f"    {change_text(n, e.rates)}" for n in sorted(e.nexts, key=_distance))
    lines.extend(critical_lines(e))
    if e.free:
        lines.append("at no cost")
        lines.extend(f"    {kind}: {told}" for kind, told in e.free)
    word = "at most" if e.unit != "s" else "still"
    lines.append("with one rate infinite, or one latency zero")
    for floor in e.floors:
        gain = e.value / floor.value if e.unit == "s" else floor.value / e.value
        if gain > 1 + SMALL:
            lines.append(
                f"    {floor.symbol}: {word} {value_text(floor.value, e.unit)} ({gain:.3g}× faster)"
            )
    return lines


def timed_lines(e: Explanation) -> list[str]:
    """Which calibrated parameters the time hangs on, by share."""
    lines = ["fit"] if e.timed else []
    return lines + [f"    {100 * x.share:5.1f}%  {x.fit}: {_ops(x.ops)}" for x in e.timed]


def critical_lines(e: Explanation) -> list[str]:
    """What runs at the same time, the stages of a pipeline, and the links."""
    lines = ["at the same time"] if e.races else []
    for race in e.races[:MOST]:
        lines.append(f"    {race_text(race)}")
        lines.extend(f"        {body_text(race, body)}" for body in _named(race))
        lines.extend(f"        {relief_text(relief)}" for relief in race.reliefs)
    if len(e.races) > MOST:
        lines.append(f"    … and {len(e.races) - MOST} more")
    if e.stages:
        lines.append("stages, for one group of sequences")
        lines.extend(f"    {stage_text(stage)}" for stage in e.stages)
    if e.links:
        lines.append("over links, hidden or not")
        lines.extend(f"    {link_text(link)}" for link in e.links)
    return lines


def race_text(race: Race) -> str:
    """Which of several bodies everything waits for, as a sentence."""
    times = "" if race.count == 1 else f", {race.count:.6g} times"
    head = f"{race.phase}, {race.name}{times}: {seconds(race.seconds)}"
    if not race.decided:
        return f"{head}; what takes longest changes with the context: ask tpot at a T"
    if race.contended:
        return f"{head}, decided by what is shared: {resource_text(race.bodies[0].name)}"
    return f"{head}, waiting for {_named(race)[0].name}"


def _named(race: Race) -> list[Body]:
    """Bodies that take equally long as one."""
    found: list[Body] = []
    for body in race.bodies:
        same = found and not found[-1].resource and not body.resource
        if same and abs(found[-1].seconds - body.seconds) <= 1e-9 * body.seconds:
            found[-1] = replace(found[-1], name=f"{found[-1].name}, {body.name}")
        else:
            found.append(body)
    return found


def body_text(race: Race, body: Body) -> str:
    """A body's time, and what it has to spare."""
    what = f"{resource_text(body.name)}, of all together" if body.resource else body.name
    spare = body.slack > 1e-9 * race.seconds
    return f"{seconds(body.seconds):>9}  {what}" + (
        f": {seconds(body.slack)} to spare" if spare else ""
    )


def relief_text(r: Relief) -> str:
    """What would move the critical path, as a sentence."""
    up = r.then > r.now
    times = r.then / r.now if up else r.now / r.then
    direction = "up" if up else "down"
    rules = resource_text(r.rules) if ":" in r.rules or r.rules == "memory" else r.rules
    figure = figure_text(r.symbol, r.then)
    return f"{r.symbol} {direction} to {figure} ({times:.3g}×): then {rules} takes longest"


def stage_text(s: Stage) -> str:
    """A stage's time."""
    slack = f": {seconds(s.slack)} to spare" if s.slack else ", the slowest"
    return f"{seconds(s.seconds):>9}  {s.phase}, {s.name}{slack}"


def link_text(x: Exchanged) -> str:
    """A link's time, split into what messages and what bytes take."""
    parts = ""
    if x.latency == 0:
        parts = ": bytes on the wire alone, no latency counts"
    elif x.latency is not None and x.wire is not None:
        share = 100 * x.latency / x.seconds if x.seconds else 0.0
        parts = f": {share:.3g}% latency, {100 - share:.3g}% bytes on the wire"
    return f"{seconds(x.seconds):>9}  {x.link}{parts}; {_ops(x.ops)}"


def _distance(n: Next) -> float:
    """How many times as large or as small; a share that is zero is nowhere near."""
    return max(n.then / n.now, n.now / n.then) if n.now and n.then else math.inf
