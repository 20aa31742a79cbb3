"""Which calibrated parameters a metric's time hangs on, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.asking.critical import Question
from costgraph.formula.terms import Term


@dataclass(frozen=True)
class Timed:
    """Operations that take one fit, and their share of the metric's time.

    Attributes:
        fit: whose parameters and how good, as in ``breakdown`` (:meth:`.Fit.trust`).
        share: of what all operations take, one after the other.
        ops: names, over all phases of the metric.
    """

    fit: str
    share: float
    ops: tuple[str, ...]


def timed(asked: Question) -> tuple[Timed, ...]:
    """The fits that a metric takes, the one with the largest share first; none of the ideal."""
    timing = asked.compiled.timing
    if timing is None:
        return ()
    terms: dict[str, dict[str, list[Term]]] = {}
    ops: dict[str, dict[str, None]] = {}
    phases = {phase.name: phase for phase in asked.phases}
    for phase in phases.values():
        for row in asked.compiled.rows[phase.name]:
            made = tuple(timing.terms(phase, row, asked.machine))
            if made:
                fit = timing.trust(phase, row)
                terms.setdefault(fit, {}).setdefault(phase.name, []).extend(made)
                ops.setdefault(fit, {})[row.name] = None

    def seconds(found: dict[str, list[Term]]) -> float:
        return sum(asked.seconds(phases[name], listed) for name, listed in found.items())

    times = {fit: seconds(found) for fit, found in terms.items()}
    total = sum(times.values())
    largest = sorted(times, key=lambda fit: -times[fit])
    return tuple(Timed(fit, times[fit] / total, tuple(ops[fit])) for fit in largest)
