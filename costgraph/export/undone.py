"""What passes did not do, and why: as lines of text and as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costgraph.pipeline import Trace

#: Places named per reason, and reasons per pass; the rest is counted.
MOST_PLACES, MOST_REASONS = 4, 6


def undone_lines(trace: Trace) -> tuple[str, ...]:
    """One line per pass and reason, in the order in which the passes were written.

    A pass that did nothing says so first. Reasons beyond :data:`MOST_REASONS` are counted;
    :func:`undone_objects` has them all.
    """
    lines: dict[str, None] = {}
    for step in sorted(trace.steps, key=lambda s: s.place):
        name = step.made_by.name
        places: dict[str, list[str]] = {}
        for miss in step.misses:
            found = places.setdefault(miss.reason, [])
            if miss.node not in found:
                found.append(miss.node)
        did = "" if step.hits else " did nothing"
        if not places and did:
            lines[f"{name}{did}: nothing in {step.before.name} is as it needs it"] = None
        for index, (reason, nodes) in enumerate(places.items()):
            if index == MOST_REASONS:
                lines[f"{name}: {len(places) - index} more reasons elsewhere"] = None
                break
            shown = ", ".join(nodes[:MOST_PLACES])
            if len(nodes) > MOST_PLACES:
                shown += f" … ({len(nodes)} places)"
            where = "" if nodes == [step.before.name] else f" at {shown}"
            lines[f"{name}{did}{where}: {reason}"] = None
    return tuple(lines)


def undone_objects(trace: Trace) -> list[dict[str, Any]]:
    """Every reason as plain values, for JSON: pass, whether it did anything, rule, place."""
    return [
        {
            "pass": step.made_by.spec(),
            "did_something": bool(step.hits),
            "rule": miss.rule,
            "at": miss.node,
            "reason": miss.reason,
        }
        for step in sorted(trace.steps, key=lambda s: s.place)
        for miss in step.misses
    ]
