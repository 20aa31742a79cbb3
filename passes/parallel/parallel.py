"""The pass ``parallel``: the program of one device of a system that shares a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.errors import PipelineError
from costgraph.graph import Graph
from costgraph.hardware.systems import System
from costgraph.links import Hop
from costgraph.passes.parallel.experts import Spread
from costgraph.passes.parallel.places import UnevenError
from costgraph.passes.parallel.stages import staged
from costgraph.passes.parallel.tensor import Group, shard
from costgraph.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.program import Phase, Program
from costgraph.symbols import B

ONE = Integer(1)
#: Degrees in the order in which devices are numbered, the nearest first.
DEGREES = ("tp", "dp", "pp")
ASSUMPTIONS = (
    "parallel: all devices do the same at the same time; exchanges take the fewest steps and "
    "bytes that any algorithm needs, and wait for nobody",
)


@dataclass(frozen=True)
class Parallelize(Pass):
    """The devices of a system share one model; the program becomes that of one of them.

    ``B`` stays the batch of the whole system. Devices are numbered so that tensor-parallel
    ranks are neighbours, then replicas, then stages.
    """

    name: ClassVar[str] = "parallel"
    title: ClassVar[str] = "share a model among devices: tensors, experts, layers, batches"
    formula: ClassVar[str] = (
        "weights, heads and widths /tp with an all-reduce after each row-split product; "
        "experts /ep with two all-to-alls; layers /pp in stages; B/dp sequences a replica"
    )
    source: ClassVar[str] = (
        "Shoeybi et al., arXiv 1909.08053; Korthikanti et al., arXiv 2205.05198; Lepikhin et "
        "al., arXiv 2006.16668; Huang et al., arXiv 1811.06965"
    )
    stage: ClassVar[Stage] = Stage.PLACEMENT

    tp: Expr = option("integer", ONE, "devices that split every tensor", minimum=1)
    pp: Expr = option("integer", ONE, "stages of layers", minimum=1)
    dp: Expr = option("integer", ONE, "replicas, each with its part of the batch", minimum=1)
    ep: Expr = option("integer", ONE, "devices that share the experts whole", minimum=1)
    micro: Expr = option(
        "integer", ONE, "groups that a batch is cut into, to fill the stages", minimum=1
    )
    sequence: bool = option("flag", False, "between products, each device has a part of the tokens")

    def run(self, program: Program, system: System) -> Outcome:
        plan = self._plan(system, program)
        if plan.devices == 1:
            miss = Miss(self.name, program.name, "every degree is one: one device has it all")
            return Outcome(program, (), (miss,))
        misses: dict[Miss, None] = {}
        made = program.rewritten(partial(plan.placed, program, misses))
        phases = tuple(self._phase(p, plan) for p in made.phases)
        made = replace(made, phases=phases, devices=plan.devices, stages=plan.stages)
        hits = tuple(f"{name}={getattr(plan, name)}" for name in plan.shown)
        return Outcome(made.assuming(*plan.assumptions), hits, tuple(misses))

    def _plan(self, system: System, program: Program) -> Plan:
        dp = self.dp
        if self.ep != 1 and self.tp == dp == 1:
            dp = self.ep  # experts alone: every device has sequences of its own
        devices = Mul(self.tp, dp, self.pp)
        if devices.is_number and int(devices) != system.devices:
            raise PipelineError(_misfit(system, devices))
        if not self.pp.is_Integer:
            raise PipelineError("pp: the number of stages is a number, not a symbol")
        if self.micro != 1 and self.pp == 1:
            raise PipelineError("micro: groups fill stages, and there is one: give pp")
        spread = None
        if self.ep != 1:
            spread = self._spread(system, dp)
        hops = system.hops(self.tp)
        group = Group(self.tp, hops, self.sequence, spread, self.name)
        reach = Mul(self.tp, dp)
        sends = tuple(_between(system, reach, i) for i in range(int(self.pp) - 1))
        return Plan(group, dp, int(self.pp), self.micro, devices, sends)

    def _spread(self, system: System, dp: Expr) -> Spread:
        group = Mul(self.tp, dp)
        if self.ep != group:
            raise PipelineError(
                f"ep={self.ep}: experts are shared among all devices of a stage, which are "
                f"tp·dp = {group}: give ep={group}, or leave it out to split every expert"
            )
        return Spread(self.ep, system.hops(self.ep), self.tp, dp)

    def _phase(self, phase: Phase, plan: Plan) -> Phase:
        parts = plan.replicas * plan.micro
        bound = phase if parts == 1 else phase.with_binding(B, B / parts)
        return replace(bound, rounds=plan.micro)


@dataclass(frozen=True)
class Plan:
    """Degrees that fit the system, and the links that they use.

    Attributes:
        group: the tensor-parallel devices, with their experts.
        replicas, stages, micro: degrees.
        devices: all of them together.
        sends: the link behind each stage but the last.
    """

    group: Group
    replicas: Expr
    stages: int
    micro: Expr
    devices: Expr
    sends: tuple[Hop, ...] = field(default=())

    @property
    def shown(self) -> tuple[str, ...]:
        """What to say of the plan."""
        return ("devices",)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that the results rest on."""
        found = list(ASSUMPTIONS)
        if self.group.spread is not None and self.group.spread.exchanges:
            found.append(
                "experts over devices: a token goes once to each device that has any of its "
                "experts; all devices have equally many rows, on average"
            )
        if self.micro != 1:
            found.append(
                "stages: the groups of a batch take equally long; a stage works on one at a time"
            )
        return tuple(found)

    def placed(self, program: Program, misses: dict[Miss, None], graph: Graph) -> Graph:
        """A graph of the program on one device, or on one device of every stage."""
        made = graph
        main = graph in (p.graph for p in program.phases if p.tokens != 0)
        if self.group.degree != 1 or self.group.spread is not None:
            try:
                made, missed = shard(graph, self.group)
                misses.update(dict.fromkeys(missed))
            except (UnevenError, PipelineError) as error:
                if main or len(program.phases) == 1:
                    raise
                # Beside the model proper (an encoder of images): every device has all of it.
                misses[Miss("split", graph.name, f"whole on every device: {error}")] = None
        if self.stages > 1:
            made = staged(made, self.stages, self.sends, Parallelize.name)
        return made


def _misfit(system: System, devices: Expr) -> str:
    count, has = int(devices), system.devices
    if count > has:
        return (
            f"{system.name} has {has} device{'s' if has > 1 else ''}: not the {count} that the "
            f"degrees multiply to; on a system of {count}, write --on {count}x{system.device.name}"
        )
    rest = has // count
    hint = f"dp={rest} more would use all" if has % count == 0 else f"use {has} in all"
    return f"the degrees use {count} of the {has} devices of {system.name}: {hint}"


def _between(system: System, reach: Expr, stage: int) -> Hop:
    """The link from a stage of ``reach`` devices to the next one."""
    last = (stage + 1) * int(reach) - 1  # a device of the stage; its peer is ``reach`` further
    same_node = last // system.per_node == (last + int(reach)) // system.per_node
    levels = (
        system.hops(Integer(2), reach)
        if same_node
        else system.hops(Integer(2), Integer(system.per_node))
    )
    return levels[-1]
