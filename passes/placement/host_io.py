"""The pass ``host-io``: what a model is given comes from its host, and results go back there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from costgraph.hardware.systems import HOST, System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ops.transfer import Carry
from costgraph.passes.placement.shares import check_levels
from costgraph.rewriting.pipeline import Outcome, Pass, Stage


@dataclass(frozen=True)
class HostIO(Pass):
    """Inputs of every step cross the link to the host, and so do its results.

    Cards behind PCI Express are fed by their host: images go in, classes or logits come out.
    """

    name: ClassVar[str] = "host-io"
    title: ClassVar[str] = "bring inputs from the host and results back, over its link"
    formula: ClassVar[str] = "bytes in/BW_link + t + bytes out/BW_link"
    source: ClassVar[str] = "PCI Express cards: AMD Alveo product selection guide"
    assumptions: ClassVar[tuple[str, ...]] = (
        "host-io: inputs arrive before a step begins, and results leave once it has ended; the "
        "host takes no time to prepare them",
    )
    stage: ClassVar[Stage] = Stage.OFFLOADING
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    def run(self, program: Program, system: System) -> Outcome:
        check_levels(self.name, {HOST: "inputs and results"}, system)
        done: dict[int, Graph] = {}
        hits: dict[str, None] = {}

        def fed(graph: Graph) -> Graph:
            if id(graph) not in done:
                done[id(graph)] = _fed(graph, self.name)
                hits.update(dict.fromkeys(t.name for t in graph.inputs))
            return done[id(graph)]

        phases = tuple(replace(p, graph=fed(p.graph)) for p in program.phases)
        return Outcome(replace(program, phases=phases), tuple(hits))


def _fed(graph: Graph, made_by: str) -> Graph:
    """A graph whose inputs lie with the host, and whose results go there."""

    def carry(name: str, back: bool) -> Node:
        tensor = graph.tensors[name]
        made = tensor.renamed(f"{name} {'in' if back else 'out'}")
        return Node(made.name, Carry(HOST, back), (name,), (made,), Origin((), made_by))

    given = {t.name: carry(t.name, True) for t in graph.inputs if graph.consumers[t.name]}
    nodes = tuple(
        replace(n, inputs=tuple(given[i].output if i in given else i for i in n.inputs))
        for n in graph.nodes
    )
    gone = tuple(carry(o, False) for o in dict.fromkeys(graph.outputs))
    names = {n.inputs[0]: n.output for n in gone}
    outputs = tuple(names[o] for o in graph.outputs)
    return replace(graph, nodes=(*given.values(), *nodes, *gone), outputs=outputs)
