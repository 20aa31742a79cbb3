"""The pass ``chain``: a model in the memory of a row of chips, each token through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Add, Expr, Integer, ceiling

from costgraph.counting.footprint import cache_bytes
from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Spread, Tensor
from costgraph.ops.transfer import Relay
from costgraph.passes.placement.streaming import layers_of, mapped
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import B
from costgraph.units import format_quantity

ONE = Integer(1)
ALL = "all"


@dataclass(frozen=True)
class Chain(Pass):
    """Weights and caches stay in the memories of many chips, which stand in a row.

    Every chip holds an equal part of the layers, in their order. A token passes all chips, one
    after the other; meanwhile other groups of sequences are at work on other chips, at most as
    many as there are chips.
    """

    name: ClassVar[str] = "chain"
    title: ClassVar[str] = "keep a model in the memories of a row of chips; tokens pass them all"
    formula: ClassVar[str] = (
        "t_token = Σ over chips bytes/BW + (C − 1)·(alpha + row/BW_link); "
        "C >= (weights + caches)/memory of a chip; groups in flight <= C"
    )
    source: ClassVar[str] = (
        "arXiv 2402.16363, section on spatial architectures; Abts et al., A Software-defined "
        "Tensor Streaming Multiprocessor, ISCA 2022"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "chain: chips hold equal parts of the bytes, layers cut anywhere; from chip to chip goes "
        "the row that layers hand on, and no more where a cut lies inside a layer; a prompt passes "
        "as one piece; what a chip computes for other groups does not delay it",
    )
    stage: ClassVar[Stage] = Stage.PLACEMENT
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    chips: Expr | str = option(
        "integer", ALL, "chips in the row: all of the system, or so many", choices=(ALL,),
        minimum=1, symbolic=False,
    )  # fmt: skip
    groups: Expr = option(
        "integer", ONE, "groups of sequences that are in flight at once", minimum=1
    )

    def run(self, program: Program, system: System) -> Outcome:
        if program.devices != 1:
            raise PipelineError("chain: the model is shared among devices already: give one")
        chips = Integer(system.devices) if isinstance(self.chips, str) else self.chips
        if chips > system.devices:
            raise PipelineError(f"chain: chips={chips}: {system.name} has {system.devices} devices")
        groups = self.groups
        if groups.is_number and groups > chips:
            raise PipelineError(
                f"chain: groups={groups}: a chip works on one group, and there are {chips} chips"
            )
        held = _held(program)
        needed = self._needed(program, system, chips, held)
        if chips == 1:
            miss = Miss(self.name, program.name, "one chip is no row")
            return Outcome(program, (), (miss,))
        if not any(any(layers_of(phase.graph)) for phase in program.phases):
            miss = Miss(self.name, program.name, "no region of layers: write fold in front of it")
            return Outcome(program, (), (miss,))
        ways = tuple(_ways(system, int(chips)))
        hits: list[str] = []

        def rewritten(graph: Graph) -> Graph:
            made, name = _relayed(_dealt(graph, chips, groups), ways, self.name)
            hits.extend(name)
            return made

        made = program.rewritten(rewritten)
        if groups != 1:
            # Graphs are those of one group of the batch.
            phases = tuple(p.with_binding(B, B / groups) for p in made.phases)
            made = replace(made, phases=phases)
        limits = (
            *((Limit(ONE, B, "each group needs a sequence"),) if groups != 1 else ()),
            *((Limit(groups, chips, "a chip for each group"),) if not groups.is_number else ()),
        )
        made = replace(made, devices=chips, groups=groups, limits=(*made.limits, *limits)).assuming(
            needed
        )
        return Outcome(made, (f"{chips} chips", *dict.fromkeys(hits)))

    def _needed(
        self, program: Program, system: System, chips: Expr, held: tuple[Expr, Expr]
    ) -> str:
        """How many chips the model needs, as a sentence.

        Raises:
            PipelineError: its weights alone need more than there are.
        """
        weights, caches = held
        room = system.device.memory.room
        if room is None or not room.is_number or not weights.is_number:
            return "chain: how much a chip holds is not known: what fits is not checked"
        least = ceiling(weights / room)
        if least > chips:
            raise PipelineError(
                f"chain: {program.name} needs {least} of {system.device.name}: its weights are "
                f"{format_quantity(float(weights), 'B')}, a chip holds "
                f"{format_quantity(float(room), 'B')}, and the row has {chips}"
            )
        grown = f" + {caches}" if caches != 0 else ""
        return (
            f"chain: the model needs ceil(({weights}{grown})/{room}) chips of {chips}, "
            f"{least} for its weights"
        )


def _held(program: Program) -> tuple[Expr, Expr]:
    """Bytes of weights, and of caches at the longest context; the most over the phases."""
    weights = Add(*(n * t.kept for t, n in program.weights()))
    last = program.phases[-1]
    return weights, last.at_end(last.bind(cache_bytes(last.graph)))


def _dealt(graph: Graph, chips: Expr, groups: Expr) -> Graph:
    """The graph with weights and caches of which every chip holds its part.

    Raises:
        PipelineError: something is kept elsewhere already.
    """
    parts = {Role.WEIGHT: ONE / chips, Role.KV: groups / chips, Role.STATE: groups / chips}

    def placed(tensor: Tensor, own: bool) -> Tensor:
        if tensor.role not in parts:
            return tensor
        if tensor.spread is not None:
            raise PipelineError(f"chain: {tensor.name} is kept elsewhere already")
        return replace(tensor, spread=Spread((), parts[tensor.role]))

    return mapped(graph, placed)


def _ways(system: System, chips: int) -> Iterator[tuple[str, Expr, Expr]]:
    """The links between neighbours of a row, how often each is crossed, and what part counts."""
    nodes = -(-chips // system.per_node)
    if chips > nodes:
        (hop,) = system.hops(Integer(2))
        yield hop.link, Integer(chips - nodes), hop.share
    if nodes > 1:
        (hop,) = system.hops(Integer(2), Integer(system.per_node))
        yield hop.link, Integer(nodes - 1), hop.share


def _relayed(
    graph: Graph, ways: tuple[tuple[str, Expr, Expr], ...], made_by: str
) -> tuple[Graph, tuple[str, ...]]:
    """The graph whose last layers hand on what every chip passes to the next."""
    if not any(layers_of(graph)):
        return graph, ()
    last = [n for n in graph.nodes if isinstance(n.op, Repeat) and n.op.rounds == "layers"][-1]
    result = last.outputs[0]
    end = result.renamed(f"{result.name}.relayed")
    node = Node("relay", Relay(ways), (result.name,), (end,), Origin(made_by=made_by))
    place = 1 + graph.nodes.index(last)
    after = (
        replace(n, inputs=tuple(end.name if i == result.name else i for i in n.inputs))
        for n in graph.nodes[place:]
    )
    nodes = (*graph.nodes[:place], node, *after)
    outputs = tuple(end.name if o == result.name else o for o in graph.outputs)
    return replace(graph, nodes=nodes, outputs=outputs), (last.name,)
