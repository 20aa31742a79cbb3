"""Operations that run several times in a step, or for some of its tokens: an average execution.

Where only some of a step's tokens take part, sizes are those that an execution has on average,
and each pays what a form takes besides work and traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sympy import Dummy, Expr, Integer, expand, fraction

from costgraph.counting.count import Row
from costgraph.ir.presence import EVERYONE, Presence
from costgraph.ir.program import Phase
from costgraph.symbols import B
from costgraph.timing.fidelity.forms import Parts, form_of

ZERO = Integer(0)
#: Executions of an operation per step, until they are known to cancel or not.
EXECUTIONS = Dummy("executions", positive=True)


@dataclass(frozen=True)
class Average(Phase):
    """A phase as an average execution of an operation sees it: sizes of who takes part."""

    presence: Presence = EVERYONE

    def bind(self, expr: Expr) -> Expr:
        """A size, the ratio of expectations where it depends on the tokens."""
        top, bottom = fraction(expr)
        if bottom.has(B):
            expr = self.presence.mean(top) / self.presence.mean(bottom)
        elif top.has(B):
            expr = self.presence.share * expr / EXECUTIONS
        return super().bind(expr)


def seen(phase: Phase, row: Row) -> Phase:
    """The phase with the sizes that an execution of ``row`` has on average."""
    if row.presence.is_full:
        return phase
    given = {f.name: getattr(phase, f.name) for f in fields(phase)}
    return Average(**{**given, "presence": row.presence})


def repeated(
    kind: str, features: dict[str, Any], values: dict[str, Any], executions: Expr
) -> Parts:
    """A form's parts where work and traffic are those of several executions, or of part of one.

    Forms are affine in both; what is left without them is paid by each execution.
    """
    parts = form_of(kind).build(features, values)
    if executions == 1:
        return parts
    idle = form_of(kind).build(features | dict.fromkeys("CMXAV", ZERO), values)

    def paid(all_: Expr, once: Expr) -> Expr:
        made = all_ + (EXECUTIONS - 1) * once
        return (expand(made) if made.has(EXECUTIONS) else made).xreplace({EXECUTIONS: executions})

    return Parts(
        paid(parts.floor, parts.floor),
        paid(parts.compute, idle.compute),
        paid(parts.memory, idle.memory),
        parts.norm,
    )
