"""The pass ``overlap``: exchanges between devices go on beside computation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Integer

from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Body, Parallel
from costgraph.ir.tensor import Tensor
from costgraph.ops import AttentionScores, AttentionValues, ExpertLinear, Linear, SplitScores
from costgraph.ops.collectives import AllGather, Exchange, Send
from costgraph.ops.flash import FlashAttention
from costgraph.ops.fused import Fused
from costgraph.passes.fusion.fuse import merge
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import Replacement, rewrite_program
from costgraph.symbols import B

TWO = Integer(2)
#: What is worth an exchange's time: matrix products and attention.
HEAVY: tuple[type[Op], ...] = (
    Linear, ExpertLinear, FlashAttention, AttentionScores, SplitScores, AttentionValues,
)  # fmt: skip


@dataclass(frozen=True)
class Overlap(Pass):
    """Exchanges beside the kernels that make or take what they carry, or beside the other half.

    With ``by=kernels`` a product and the exchange of its result are one kernel that sends
    what is ready while it goes on (asynchronous tensor parallelism), and attention starts
    on the keys that have arrived (ring attention). With ``by=halves`` a batch is cut into two
    halves, of which one computes while the other's exchanges are under way: they share the
    device, and each reads the weights.
    """

    name: ClassVar[str] = "overlap"
    title: ClassVar[str] = "hide exchanges between devices behind computation"
    formula: ClassVar[str] = (
        "kernels: Max(product, exchange); halves: Max(one half in series, each resource's total)"
    )
    source: ClassVar[str] = (
        "Wang et al., ASPLOS 2023 (decomposition of collectives); Liu et al., arXiv 2310.01889 "
        "(ring attention); DeepSeek-V3, arXiv 2412.19437, section 3.4 (two micro-batches)"
    )
    stage: ClassVar[Stage] = Stage.OVERLAP

    by: str = option(
        "word", "kernels", "what runs beside an exchange: its kernel, or the batch's other half",
        choices=("kernels", "halves"),
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        if not any(_exchanges(p.graph) for p in program.phases):
            reason = "nothing is exchanged between devices; the pass parallel adds exchanges"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        if self.by == "kernels":
            found = rewrite_program(program, (Beside(),), system.device, self.name)
            made = found[0].assuming(
                "overlap: a kernel and the exchange of its operand or result run at once, in "
                "pieces as small as can be"
            )
            return Outcome(made, *found[1:])
        if program.stages > 1:
            reason = "groups of the batch (parallel{micro=…}) overlap among stages already"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        return Outcome(self._halved(program), ("two halves",))

    def _halved(self, program: Program) -> Program:
        split: dict[int, Graph] = {}

        def half(phase: Phase) -> Phase:
            if not _exchanges(phase.graph):
                return phase
            if id(phase.graph) not in split:
                split[id(phase.graph)] = halves(phase.graph, self.name)
            return replace(phase.with_binding(B, B / TWO), graph=split[id(phase.graph)])

        phases = tuple(half(p) for p in program.phases)
        return replace(program, phases=phases).assuming(
            "overlap: a replica's batch is even, and its halves share the device as well as any "
            "schedule could"
        )


def halves(graph: Graph, made_by: str = "overlap") -> Graph:
    """Two runs of ``graph`` at once, on one set of weights: halves of a batch."""
    names = ("first half", "second half")
    sources: list[Tensor] = []
    bodies: list[Body] = []
    outputs: list[Tensor] = []
    for index, name in enumerate(names, 1):
        places = range(len(sources), len(sources) + len(graph.inputs))
        bodies.append(Body(name, graph, tuple(places)))
        sources.extend(t.renamed(f"{t.name}_{index}") for t in graph.inputs)
        outputs.extend(graph.tensors[o].renamed(f"{o}_{index}") for o in graph.outputs)
    operands = tuple(t.name for t in sources)
    region = Node(
        "halves", Parallel(tuple(bodies), True), operands, tuple(outputs), Origin((), made_by)
    )
    return Graph(graph.name, tuple(sources), (region,), tuple(t.name for t in outputs))


def _exchanges(graph: Graph) -> bool:
    return any(isinstance(n.op, Exchange) for inner in graph.walk() for n in inner.nodes)


@dataclass(frozen=True)
class Beside:
    """An exchange and the kernel that makes its operand, or those that take its result."""

    name: str = "overlap"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        if not isinstance(node.op, Exchange) or isinstance(node.op, Send):
            return None
        users = graph.consumers[node.outputs[0].name]
        if isinstance(node.op, AllGather):
            if len(users) == 1 and _is_heavy(users[0]):
                return merge(graph, (node, *users))
            if users and all(_is_heavy(u) for u in users) and _apart(graph, users):
                return merge(graph, (node, *users))
            return Miss(self.name, node.name, "no product or attention takes its result")
        maker = graph.producer.get(node.inputs[0])
        if maker is None or not _is_heavy(maker):
            return Miss(self.name, node.name, "no product makes its operand")
        if len(graph.consumers[node.inputs[0]]) > 1:
            return Miss(self.name, node.name, "something else uses its operand")
        return merge(graph, (maker, node))


def _apart(graph: Draft, nodes: tuple[Node, ...]) -> bool:
    """Whether nothing leads from one of the nodes to another."""
    made = {t.name for n in nodes for t in n.outputs}
    return not any(graph.made_from(n.inputs, made, nodes[0]) for n in nodes)


def _is_heavy(node: Node) -> bool:
    if isinstance(node.op, Fused):
        return any(_is_heavy(n) for n in node.op.body.nodes)
    return isinstance(node.op, HEAVY)
