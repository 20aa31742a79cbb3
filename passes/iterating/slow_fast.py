"""Denoising in cycles of exploring and filling in: how many steps an answer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.iterating.cycles import fast_steps, slow_steps
from costgraph.passes.iterating.steps import in_steps
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import N

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class SlowFast(Pass):
    """An answer takes cycles of slow and fast steps, one region of it after another.

    The number of steps ``K`` is then no input: ``N / region`` cycles of ``slow`` and
    ``fast`` steps each, as measured; or from how likely a step settles the region's end
    (``settled``) and a position is confident (``confident``).
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
    slow: Expr = option("number", Integer(3), "slow steps of a cycle, on average")
    fast: Expr = option("number", Integer(4), "fast steps of a cycle, on average", minimum=0)
    settled: Expr = option(
        "probability", ZERO, "chance that a slow step settles the region's end, in place of slow"
    )
    most: Expr = option("integer", Integer(8), "slow steps at the most, with settled", minimum=1)
    each: Expr = option("integer", ONE, "positions that a slow step fills in", minimum=1)
    confident: Expr = option(
        "probability", ZERO, "chance that a position is confident in a fast step, in place of fast"
    )

    def run(self, program: Program, system: System) -> Outcome:
        made = in_steps(program, self.steps, self.name)
        return Outcome(made, tuple(p.name for p in made.phases))

    @property
    def steps(self) -> Expr:
        """Steps of an answer of ``N`` positions.

        Raises:
            PipelineError: the options contradict one another.
        """
        slow = self.slow if self.settled == 0 else slow_steps(self.settled, self.most)
        if self.confident == 0:
            return N / self.region * (slow + self.fast)
        left = self.region - slow * self.each
        if not (left.is_number and self.confident.is_number):
            raise PipelineError("slow-fast: confident: steps can only be found for numbers")
        if left < 0:
            raise PipelineError("slow-fast: slow steps fill in more than the region has")
        whole = int(left)
        # Between two numbers of positions left the steps are their mean.
        low, high = (fast_steps(n, float(self.confident)) for n in (whole, whole + 1))
        fast = low + float(left - whole) * (high - low)
        return N / self.region * (slow + Rational(fast).limit_denominator(10**6))
