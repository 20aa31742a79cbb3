"""Expected denoising steps of cycles: slow ones that look for an end, fast ones up to it.

A cycle explores until the end of the region that it can fill in has settled, then fills
the region in: every position whose confidence is high enough at once, at least one a
step (SlowFast, Wei et al., arXiv 2506.10848). A cycle ends when the region is full, with
slow steps or with fast ones. Steps and positions are taken as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from sympy import Expr

from costgraph.errors import PipelineError
from costgraph.formula.powers import power

#: Positions of a region for which the steps are found exactly.
LARGEST = 512


def slow_steps(settled: Expr, most: Expr) -> Expr:
    """Expected steps until one finds the end settled, at most ``most``.

    A step does so with probability ``settled``: ``(1 − (1 − p)^most) / p``.
    """
    if settled == 0:
        return most
    return (1 - power(1 - settled, most)) / settled


def slow_chances(settled: float, most: int) -> list[float]:
    """Probability of 0, 1, … ``most`` slow steps."""
    on = [(1 - settled) ** k for k in range(most)]
    return [0.0, *(settled * p for p in on[:-1]), on[-1]]


def fast_steps(positions: int, confident: float) -> list[float]:
    """Expected steps that fill in 0, 1, … ``positions``, each confident at a time or not.

    A step fills in a binomial number of what is left, and one where that is none.

    Raises:
        PipelineError: there are too many positions.
    """
    if positions > LARGEST:
        raise PipelineError(f"confident: more than {LARGEST} positions in a region")
    steps = [0.0]
    for left in range(1, positions + 1):
        chances = [
            comb(left, i) * confident**i * (1 - confident) ** (left - i) for i in range(left + 1)
        ]
        after = (p * steps[left - i] for i, p in enumerate(chances[2:], start=2))
        steps.append(1 + (chances[0] + chances[1]) * steps[left - 1] + sum(after))
    return steps


def cycle_steps(region: int, slow: Sequence[float], each: int, confident: float) -> float:
    """Expected steps of a whole cycle over ``region`` positions.

    ``slow[k]`` is the probability of ``k`` slow steps, which fill in ``each`` positions at a
    time until the region is full; the fast ones fill in what is left.
    """
    fast = fast_steps(region, confident)
    full = -(-region // each)
    return sum(
        p * (min(k, full) + fast[max(region - k * each, 0)]) for k, p in enumerate(slow) if p
    )
