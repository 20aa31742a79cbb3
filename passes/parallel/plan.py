"""Plans: degrees that fit a system, the links that they use, and graphs made by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial

from sympy import Expr, Integer, Mul, Symbol

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.links import Hop
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.passes.parallel.experts import Spread
from costgraph.passes.parallel.places import UnevenError
from costgraph.passes.parallel.stages import staged
from costgraph.passes.parallel.tensor import Group, shard
from costgraph.rewriting.pipeline import Miss
from costgraph.symbols import B

ONE = Integer(1)
ASSUMPTIONS = (
    "parallel: all devices do the same at the same time; exchanges take the fewest steps and "
    "bytes that any algorithm needs, and wait for nobody",
)


@dataclass(frozen=True)
class Degrees:
    """In how many parts a model is shared: tensors, positions, replicas, stages, experts."""

    tp: Expr = ONE
    cp: Expr = ONE
    dp: Expr = ONE
    pp: Expr = ONE
    ep: Expr = ONE

    def at(self, **changes: Expr) -> Degrees:
        """The degrees with some of them changed."""
        return replace(self, **changes)

    def mapped(self, values: Mapping[Symbol, Expr]) -> Degrees:
        """The degrees with values for symbols."""
        return Degrees(*(getattr(self, f.name).xreplace(dict(values)) for f in fields(self)))

    @property
    def devices(self) -> Expr:
        """All of them together; experts are shared among devices that are counted already."""
        return Mul(self.tp, self.cp, self.dp, self.pp)

    def __str__(self) -> str:
        named = ((n, getattr(self, n)) for n in ("tp", "cp", "dp", "pp", "ep"))
        return ", ".join(f"{name}={value}" for name, value in named if value != 1) or "tp=1"


@dataclass(frozen=True)
class Plan:
    """Degrees that fit the system, and the links that they use.

    Devices are numbered so that the ranks that exchange most are neighbours: tensor-parallel
    ranks, then those that share experts, then those with parts of the positions, then
    other replicas, then stages.

    Attributes:
        degrees: how many of each.
        group: the tensor-parallel devices, with their experts.
        context: devices among which positions are split, or None.
        micro: groups that a replica's batch is cut into.
        sends: the link behind each stage but the last.
    """

    degrees: Degrees
    group: Group
    context: Group | None
    micro: Expr
    sends: tuple[Hop, ...] = field(default=())

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return int(self.degrees.pp)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that the results rest on."""
        found = list(ASSUMPTIONS)
        if self.group.spread is not None:
            found.extend(self.group.spread.assumptions)
        if self.context is not None:
            found.append(
                "positions over devices: each has equally many pairs of queries and keys, from "
                "both ends of a prompt"
            )
        if self.degrees.dp != 1:
            found.append(
                "replicas: formulas take a batch that they do not divide as their mean, not as the "
                "fullest"
            )
        if self.micro != 1:
            found.append(
                "stages: the groups of a batch take equally long; a stage works on one at a time"
            )
        elif self.stages > 1:
            found.append(
                "stages: a batch is one group (micro=1), so that one stage works at a time and "
                "the others wait; micro=m cuts it into m that fill them"
            )
        return tuple(found)

    def program(self, program: Program) -> tuple[Program, tuple[Miss, ...]]:
        """The program of one device, or of one device of every stage."""
        misses: dict[Miss, None] = {}
        done: dict[tuple[int, bool], Graph] = {}

        def placed(graph: Graph, decodes: bool) -> Graph:
            key = (id(graph), decodes and self.context is not None)
            if key not in done:
                done[key] = self._placed(program, misses, graph, decodes)
            return done[key]

        phases = tuple(
            self._phase(p.rewritten(partial(placed, decodes=_decodes(p)))) for p in program.phases
        )
        made = replace(
            program,
            phases=phases,
            devices=self.degrees.devices,
            stages=self.stages,
            replicas=self.degrees.dp,
            limits=(*program.limits, *self._limits),
        ).assuming(*self.assumptions)
        return made, tuple(misses)

    @property
    def _limits(self) -> tuple[Limit, ...]:
        """``B`` of a phase is that of one group of one replica."""
        if self.degrees.dp * self.micro == 1:
            return ()
        return (Limit(Integer(1), B, "each group of each replica needs a sequence"),)

    def _phase(self, phase: Phase) -> Phase:
        parts = self.degrees.dp * self.micro
        bound = phase if parts == 1 else phase.with_binding(B, B / parts)
        return replace(bound, rounds=self.micro)

    def _placed(
        self, program: Program, misses: dict[Miss, None], graph: Graph, decodes: bool
    ) -> Graph:
        made = graph
        main = any(graph is p.graph for p in program.phases if p.tokens != 0)
        groups = [self.group] if self.group.splits else []
        if self.context is not None:
            groups.append(replace(self.context, decoding=decodes))
        for group in groups:
            try:
                made, missed = shard(made, group)
                misses.update(dict.fromkeys(missed))
            except (UnevenError, PipelineError) as error:
                if main or len(program.phases) == 1:
                    raise
                # Beside the model proper (an encoder of images): every device has all of it.
                misses[Miss("split", graph.name, f"whole on every device: {error}")] = None
        if self.stages > 1:
            made = staged(made, self.stages, self.sends, self.group.made_by)
        return made


def _decodes(phase: Phase) -> bool:
    """Whether the phase's steps go on from what is cached, and make tokens."""
    return phase.span is not None and phase.tokens != 0


def planned(
    degrees: Degrees, system: System, micro: Expr = ONE, sequence: bool = False, load: str = "mean"
) -> Plan:
    """The degrees on a system.

    Raises:
        PipelineError: they do not go together, or on the system.
    """
    if not degrees.pp.is_Integer:
        raise PipelineError("pp: the number of stages is a number, not a symbol")
    if micro != 1 and degrees.pp == 1:
        raise PipelineError("micro: groups fill stages, and there is one: give pp")
    if sequence and degrees.tp == 1:
        raise PipelineError(
            "sequence: devices that split tensors keep tokens apart, and there is one: give tp"
        )
    spread, reach = None, degrees.tp
    if degrees.ep != 1:
        spread = _spread(degrees, system, load)
        reach = degrees.ep
    elif load != "mean":
        raise PipelineError("load: it differs between devices that share experts: give ep")
    group = Group(degrees.tp, system.hops(degrees.tp), sequence, spread)
    context = None
    if degrees.cp != 1:
        hops = system.hops(degrees.cp, reach)
        context = Group(ONE, hops, context=degrees.cp)
    every = Mul(degrees.tp, degrees.cp, degrees.dp)
    if degrees.pp != 1 and not every.is_Integer:
        raise PipelineError(
            f"pp: stages are balanced by bytes, so the other degrees are numbers, not {every}"
        )
    sends = tuple(_between(system, every, i) for i in range(int(degrees.pp) - 1))
    return Plan(degrees, group, context, micro, sends)


def _spread(degrees: Degrees, system: System, load: str) -> Spread:
    group = Mul(degrees.tp, degrees.dp)
    if degrees.ep != group:
        raise PipelineError(
            f"ep={degrees.ep}: experts are shared among all devices of a stage, which are "
            f"tp·dp = {group}: give ep={group}, or leave it out to split every expert"
        )
    return Spread(degrees.ep, system.hops(degrees.ep), degrees.tp, degrees.dp, load == "busiest")


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
