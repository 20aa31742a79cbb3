"""What each pass of a pipeline did, as text: where it applied, and where and why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costgraph.rewriting.pipeline import Step, Trace

#: Places listed before they are only counted.
_MOST = 8


def step_lines(step: Step) -> list[str]:
    """One pass: its places, then what it passed over and the reason."""
    lines = [step.made_by.spec()]
    if step.hits:
        shown = ", ".join(step.hits[:_MOST])
        more = f" and {len(step.hits) - _MOST} more" if len(step.hits) > _MOST else ""
        lines.append(f"    applied: {shown}{more}")
    reasons: dict[tuple[str, str], list[str]] = {}
    for miss in step.misses:
        reasons.setdefault((miss.rule, miss.reason), []).append(miss.node)
    for (rule, reason), nodes in reasons.items():
        shown = ", ".join(nodes[:_MOST]) + ("" if len(nodes) <= _MOST else ", …")
        lines.append(f"    {rule} did not apply at {shown}: {reason}")
    if len(lines) == 1:
        lines.append("    changed nothing" if step.before == step.after else "    applied")
    return lines


def trace_text(trace: Trace) -> str:
    """Every pass in order."""
    return "\n".join(line for step in trace.steps for line in step_lines(step)) or "no passes"
