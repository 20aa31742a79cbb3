"""Denoising in cycles of exploring and filling in: how many steps an answer takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational, ceiling

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.iterating.cycles import cycle_steps, slow_chances, slow_steps
from costgraph.passes.iterating.steps import in_steps
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import N

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class SlowFast(Pass):
    """An answer takes cycles of slow and fast steps, one region of it after another.

    The number of steps ``K`` is then no input: ``N / region`` cycles of ``slow`` and
    ``fast`` steps each, as measured; or from how likely a step settles the region's end
    (``settled``) and a position is confident (``confident``). A cycle ends when its region is
    full: each step fills in one position at least. A mean that is no whole number is taken
    as one of the two around it.
    """

    name: ClassVar[str] = "slow-fast"
    title: ClassVar[str] = "denoise region by region: explore slowly, then fill in at once"
    formula: ClassVar[str] = "K = N / region · (slow + fast)"
    source: ClassVar[str] = "Wei et al., SlowFast sampling, arXiv 2506.10848"
    assumptions: ClassVar[tuple[str, ...]] = (
        "cycles are alike and counted by their mean; regions share the answer without rest",
    )
    stage: ClassVar[Stage] = Stage.PHASES
    inherited: ClassVar[bool] = False

    region: Expr = option("number", Integer(16), "positions that a cycle fills in, on average")
    slow: Expr = option(
        "number", Integer(3), "slow steps of a cycle, on average", under=("settled=0",)
    )
    fast: Expr = option(
        "number", Integer(4), "fast steps of a cycle, on average", minimum=0, under=("confident=0",)
    )
    settled: Expr = option(
        "probability", ZERO, "chance that a slow step settles the region's end, in place of slow",
        zero=False,
    )  # fmt: skip
    most: Expr = option(
        "integer",
        Integer(8),
        "slow steps at the most, with settled",
        minimum=1,
        under=("settled!=0",),
    )
    each: Expr = option(
        "integer",
        ONE,
        "positions that a slow step fills in",
        minimum=1,
        under=(
            "settled!=0",
            "confident!=0",
        ),
    )
    confident: Expr = option(
        "probability", ZERO, "chance that a position is confident in a fast step, in place of fast"
    )

    def run(self, program: Program, system: System) -> Outcome:
        made = in_steps(program, self.steps, self.name)
        made = replace(made, limits=(*made.limits, *self.limits()))
        return Outcome(made, tuple(p.name for p in made.phases))

    @property
    def steps(self) -> Expr:
        """Steps of an answer of ``N`` positions.

        Raises:
            PipelineError: the options contradict one another.
        """
        if self.confident != 0:
            return N / self.region * self._found()
        steps = self._given()
        if steps.is_number and self.region.is_number and steps > self.region:
            raise PipelineError(
                f"slow-fast: {float(steps):.4g} steps for a region of {self.region}: each fills in "
                "one position at least; give fewer slow or fast ones"
            )
        return N / self.region * steps

    def limits(self) -> tuple[Limit, ...]:
        """What symbols among the options, and the answer's length, may be together."""
        pairs = [(self.region, N, "a region is no longer than the answer")]
        if self.confident == 0:
            pairs.append((self._given(), self.region, "a step fills in one position at least"))
            if self.settled != 0:  # where the most that fill the region are not known
                said = "slow steps fill in no more than the region has"
                pairs.append(((self._most() - 1) * self.each, self.region, said))
        return tuple(Limit(x, y, why) for x, y, why in pairs if not (x - y).is_number)

    def _given(self) -> Expr:
        """Steps of a cycle whose fast ones are given."""
        if self.settled == 0:
            return self.slow + self.fast
        return slow_steps(self.settled, self._most()) + self.fast

    def _most(self) -> Expr:
        """The most slow steps: no more than fill the region, as far as that is known."""
        if not (self.region.is_number and self.most.is_number and self.each.is_number):
            return self.most
        return min(self.most, ceiling(self.region / self.each))

    def _found(self) -> Expr:
        """Steps of a cycle whose fast ones follow from how confident positions are."""
        given = (self.region, self.slow, self.settled, self.most, self.each, self.confident)
        if not all(x.is_number for x in given):
            raise PipelineError("slow-fast: confident: steps can only be found for numbers")
        if self.settled == 0:
            chances = between(self.slow)
        else:
            chances = slow_chances(float(self.settled), int(self._most()))
        each, confident = int(self.each), float(self.confident)
        steps = sum(
            share * cycle_steps(n, chances, each, confident)
            for n, share in enumerate(between(self.region))
            if share
        )
        return Rational(steps).limit_denominator(10**6)


def between(value: Expr) -> list[float]:
    """Chances of 0, 1, 2, … whose mean a number is: it, or the two whole ones around it."""
    low = int(value)
    rest = float(value - low)
    return [0.0] * low + ([1.0] if rest == 0 else [1 - rest, rest])
