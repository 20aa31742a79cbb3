"""The pass ``parallel``: the program of one device of a system that shares a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from sympy import Expr, Integer

from costgraph.errors import CostgraphError, PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.parallel.bounds import allowed, assumptions, limits, misfit
from costgraph.passes.parallel.choosing import (
    AUTO,
    OBJECTIVES,
    SHARING,
    best_degrees,
    candidates,
    has_experts,
)
from costgraph.passes.parallel.plan import Degrees, Plan, planned
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ONE, ZERO = Integer(1), Integer(0)
#: Options that only say how open degrees are decided.
DECIDING = ("objective", "max_tpot", "max_ttft", "at_batch", "at_prompt", "at_tokens")
_OPEN: dict[str, Any] = {"minimum": 1, "choices": (AUTO,)}


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

    tp: Expr | str = option("integer", ONE, "devices that split every tensor", **_OPEN)
    pp: Expr | str = option("integer", ONE, "stages of layers", **_OPEN)
    dp: Expr | str = option("integer", ONE, "replicas, each with its part of the batch", **_OPEN)
    ep: Expr | str = option("integer", ONE, "devices that share the experts whole", **_OPEN)
    cp: Expr | str = option("integer", ONE, "devices that split a sequence's positions", **_OPEN)
    micro: Expr | str = option(
        "integer", ONE, "groups that a batch is cut into, to fill the stages", **_OPEN
    )
    spare: Expr = option(
        "integer", ZERO, "devices left to others, such as a draft of its own", minimum=0,
        symbolic=False,
    )  # fmt: skip
    sequence: bool = option("flag", False, "between products, each device has a part of the tokens")
    load: str = option(
        "word", "mean", "rows at the experts of a device: on average, or the most of any device",
        choices=("mean", "busiest"),
    )  # fmt: skip
    objective: str = option(
        "word", "latency", "what 'auto' makes best: the time of a request, token/s, USD per token",
        choices=tuple(OBJECTIVES),
    )  # fmt: skip
    max_tpot: str = option("text", "", "longest time per token that 'auto' allows: 50ms")
    max_ttft: str = option("text", "", "longest time to the first token that 'auto' allows: 2s")
    at_batch: Expr | str = option(
        "integer", AUTO, "batch at which 'auto' is decided; itself 'auto', one for latency, else "
        "the best", minimum=1, symbolic=False, choices=(AUTO,),
    )  # fmt: skip
    at_prompt: Expr | str = option(
        "integer", AUTO, "prompt at which 'auto' is decided: 1024, or less where it has no room",
        minimum=1, symbolic=False, choices=(AUTO,),
    )  # fmt: skip
    at_tokens: Expr | str = option(
        "integer", AUTO, "generated tokens at which 'auto' is decided: 256, or less",
        minimum=1, symbolic=False, choices=(AUTO,),
    )  # fmt: skip

    #: How open degrees were decided; no option, and no part of the text.
    note: str = ""

    @property
    def open(self) -> tuple[str, ...]:
        """Degrees that are to be decided."""
        return tuple(n for n in (*SHARING, "ep", "micro") if getattr(self, n) == AUTO)

    @property
    def needs_tuning(self) -> bool:
        return bool(self.open)

    def choices(self, program: Program, system: System) -> tuple[Parallelize, ...]:
        return tuple(candidates(self, program, system)) if self.open else ()

    def search(self, program: Program, system: System) -> Search:
        if self.spare != 0:
            raise PipelineError("spare: 'auto' uses every device: give the degrees as numbers")
        return best_degrees(self, program, system)

    def decided(self) -> Parallelize:
        """The pass without what only open degrees need."""
        usual: dict[str, Any] = {n: getattr(type(self), n) for n in DECIDING}
        return replace(self, **usual)

    @property
    def degrees(self) -> Degrees:
        """In how many parts the model is shared."""
        tp, cp, dp, pp, ep = (getattr(self, n) for n in ("tp", "cp", "dp", "pp", "ep"))
        alone = ep != 1 and tp == dp == 1
        return Degrees(tp, cp, ep if alone else dp, pp, ep)

    @property
    def shared(self) -> str:
        """The degrees as text."""
        return f"{self.degrees}" + (f", micro={self.micro}" if self.micro != 1 else "")

    def run(self, program: Program, system: System) -> Outcome:
        if program.devices != 1:
            raise PipelineError("the model is shared among devices already: give all degrees once")
        if self.open:
            raise PipelineError(
                f"{self.open[0]}=auto needs a machine to be decided on; use compile"
            )
        idle = [n for n in DECIDING if getattr(self, n) != getattr(type(self), n)]
        if idle:
            raise PipelineError(
                f"{idle[0].replace('_', '-')}: it says how degrees are decided, and none is "
                "open: give tp=auto or leave it out"
            )
        assert isinstance(self.micro, Expr)
        if self.ep != 1 and not has_experts(program):
            instead = f"give dp={self.ep}" if self.tp == self.dp == 1 else "leave ep out"
            raise PipelineError(f"ep: {program.name} has no experts to share: {instead}")
        wrong = misfit(system, self.degrees, partial(self._takes, program), int(self.spare))
        if wrong is not None:
            raise PipelineError(wrong)
        plan = self._plan(self.degrees, system)
        if plan.degrees.devices == 1:
            miss = Miss(self.name, program.name, "every degree is one: one device has it all")
            return Outcome(program, (), (miss,))
        values = allowed(self.degrees, system, partial(self._check, program, system))
        made, misses = plan.program(program)
        bounds = limits(self.degrees, self.micro, system, values, int(self.spare))
        made = replace(made, limits=(*made.limits, *bounds)).assuming(*assumptions(values))
        made = made.assuming(self.note) if self.note else made
        return Outcome(made, (f"{self.name}: {plan.degrees}",), misses)

    def _plan(self, degrees: Degrees, system: System) -> Plan:
        assert isinstance(self.micro, Expr)
        return planned(degrees, system, self.micro, self.sequence, self.load)

    def _check(self, program: Program, system: System, degrees: Degrees) -> None:
        """Refuses degrees that the program does not take."""
        self._plan(degrees, system).program(program)

    def _takes(self, program: Program, degrees: Degrees, system: System) -> bool:
        try:
            self._check(program, system, degrees)
        except CostgraphError:
            return False
        return True
