"""The pass ``parallel``: the program of one device of a system that shares a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.parallel.plan import Degrees, planned
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ONE = Integer(1)


@dataclass(frozen=True)
class Parallelize(Pass):
    """The devices of a system share one model; the program becomes that of one of them.

    ``B`` stays the batch of the whole system. Experts alone (``ep`` without other degrees)
    stand beside as many replicas of the rest: every device has sequences of its own.
    """

    name: ClassVar[str] = "parallel"
    title: ClassVar[str] = "share a model among devices: tensors, experts, layers, batches"
    formula: ClassVar[str] = (
        "weights, heads and widths /tp with an all-reduce after each row-split product; "
        "experts /ep with two all-to-alls; layers /pp in stages; positions /cp; B/dp a replica"
    )
    source: ClassVar[str] = (
        "Shoeybi et al., arXiv 1909.08053; Korthikanti et al., arXiv 2205.05198; Lepikhin et "
        "al., arXiv 2006.16668; Huang et al., arXiv 1811.06965; Liu et al., arXiv 2310.01889"
    )
    stage: ClassVar[Stage] = Stage.PLACEMENT

    tp: Expr = option("integer", ONE, "devices that split every tensor", minimum=1)
    pp: Expr = option("integer", ONE, "stages of layers", minimum=1)
    dp: Expr = option("integer", ONE, "replicas, each with its part of the batch", minimum=1)
    ep: Expr = option("integer", ONE, "devices that share the experts whole", minimum=1)
    cp: Expr = option("integer", ONE, "devices that split a sequence's positions", minimum=1)
    micro: Expr = option(
        "integer", ONE, "groups that a batch is cut into, to fill the stages", minimum=1
    )
    sequence: bool = option("flag", False, "between products, each device has a part of the tokens")
    load: str = option(
        "word", "mean", "rows at the experts of a device: on average, or the most of any device",
        choices=("mean", "busiest"),
    )  # fmt: skip

    @property
    def degrees(self) -> Degrees:
        """In how many parts the model is shared."""
        alone = self.ep != 1 and self.tp == self.dp == 1
        return Degrees(self.tp, self.cp, self.ep if alone else self.dp, self.pp, self.ep)

    def run(self, program: Program, system: System) -> Outcome:
        if program.devices != 1:
            raise PipelineError("the model is shared among devices already: give all degrees once")
        plan = planned(self.degrees, system, self.micro, self.sequence, self.load)
        if plan.degrees.devices == 1:
            miss = Miss(self.name, program.name, "every degree is one: one device has it all")
            return Outcome(program, (), (miss,))
        made, misses = plan.program(program)
        return Outcome(made, (f"{self.name}: {plan.degrees}",), misses)
