"""Bands of whole models: what the operations' errors leave of each other, and what runs add.

Errors of one kind of operation go together: one fit is wrong for all of its shapes alike.
Those of different kinds do not. Four equal kinds (products, attention, experts, exchanges)
add up in quadrature to half of what they would if all were wrong together, so every
operation moves by the square root of its own quantile. A whole model has errors that no
kernel's timing shows as well (what a server does between steps, formats that a run does
not state): a factor of all times, from runs of whole models. The product stays a closed form.
"""

from __future__ import annotations

from collections.abc import Mapping

#: The share of an operation's error, in logarithms, that whole models keep.
KEPT = 0.5
#: Measured over predicted time per token that the moved operations leave, at its quantiles:
#: half of the serving runs on one node, by a hash (``python benchmarks/serving.py``; what
#: the other half makes of it: docs/fidelity.md).
RUNS: Mapping[str, float] = {"q10": 0.90, "q50": 0.99, "q90": 1.04}
#: Measured over the roofline's time of the 2456 exchanges that were timed: the errors of those
#: that nobody timed, which take the roofline's (``benchmarks/data/timings/collectives.csv.gz``).
UNTIMED: Mapping[str, float] = {"q10": 1.70, "q50": 3.66, "q90": 16.4}


def combine(kind: str) -> bool:
    """Whether runs of whole models tell how errors combine on a kind of device: on GPUs alone."""
    return kind == "gpu"


def factor(name: str, quantile: float, kind: str) -> float:
    """By how much an operation's time is multiplied in a band of a whole model.

    Args:
        name: ``q10``, ``q50`` or ``q90``.
        quantile: of measured over predicted time, of the operation's fit.
        kind: of device. Where no run tells how errors combine every operation moves by all of
            its quantile.
    """
    return float(quantile**KEPT * RUNS[name]) if combine(kind) else quantile
