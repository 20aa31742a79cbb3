"""Recognition: the operators of a traced graph become the operations of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.machine import Machine, Memory
from costgraph.hardware.systems import System, alone
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import same
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.models.recognition.attention import (
    Batched,
    FlatProduct,
    Grouped,
    HeadsIn,
    HeadsOut,
    RopeLayout,
    TurnedTwice,
    WeightMatrix,
)
from costgraph.models.recognition.experts import (
    ExpertBias,
    GatheredExperts,
    SortedExperts,
    WeightedSum,
)
from costgraph.models.recognition.fold import Fold
from costgraph.models.recognition.pieces import Bias, Gate, Gelu, Norms, Rotary, Silu
from costgraph.models.recognition.scores import Scores
from costgraph.ops.views import Reshape, Transpose
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import Rule, live, rewrite_graph

#: Above this many operations repeated layers are folded before anything else.
LARGE = 1500


@dataclass(frozen=True)
class Recognise(Pass):
    """Finds attention, experts, norms, rotary embedding and gates in traced graphs."""

    name: ClassVar[str] = "recognise"
    title: ClassVar[str] = "find attention, experts, norms and rotary embedding in imported graphs"
    formula: ClassVar[str] = "the same products; element-wise work counted as one operation"
    source: ClassVar[str] = "patterns of published model code and of exporters' decompositions"
    stage: ClassVar[Stage] = Stage.RECOGNITION

    mask: str = option("word", "skip", "how causal attention counts", choices=("skip", "compute"))

    def run(self, program: Program, system: System) -> Outcome:
        hits: list[str] = []
        misses: list[Miss] = []

        def new(graph: Graph) -> Graph:
            made, found, missed = recognised_graph(graph, self.rules(), system.device)
            hits.extend(found)
            misses.extend(missed)
            return made

        return Outcome(program.rewritten(new), tuple(hits), tuple(misses))

    def rules(self) -> tuple[tuple[Rule, ...], ...]:
        """The rules in stages; views are tidied up between them."""
        return (
            (FlatProduct(), WeightMatrix(), TurnedTwice(), Batched()),
            (Bias(), Gelu(), Silu(), Norms(), Rotary()),
            (GatheredExperts(), ExpertBias()),
            (SortedExperts(), WeightedSum()),
            (Scores(),),
            (Grouped(),),
            (RopeLayout(),),
            (HeadsIn(), HeadsOut(), Gate()),
        )


def recognised(program: Program, mask: str = "skip") -> Outcome:
    """The program recognised, its repeated layers folded; what was found, and what nearly was."""
    # Importing knows no machine, and no rule asks for one.
    nothing = alone(Machine("none", "no machine", {}, Memory(Integer(1))))
    hits: list[str] = []
    misses: tuple[Miss, ...] = ()
    large = len(program.graph.nodes) > LARGE
    for step in (*([Fold()] if large else []), Recognise(mask), Fold()):
        done = step.run(program, nothing)
        program = done.program
        hits.extend(done.hits)
        misses = (*misses, *done.misses) if isinstance(step, Recognise) else misses
    return Outcome(program, tuple(hits), misses)


def recognised_graph(
    graph: Graph, stages: tuple[tuple[Rule, ...], ...], machine: Machine
) -> tuple[Graph, tuple[str, ...], tuple[Miss, ...]]:
    """The graph after all stages, what applied, and what nearly did."""
    hits: list[str] = []
    misses: dict[tuple[str, str], Miss] = {}
    for stage in stages:
        graph, found, missed = rewrite_graph(graph, stage, machine, Recognise.name)
        hits.extend(found)
        misses.update({(m.rule, m.node): m for m in missed})
        graph = tidy(graph)
    return graph, tuple(hits), tuple(misses.values())


def tidy(graph: Graph) -> Graph:
    """Views of views become one view; those that change nothing, or stand twice, disappear."""
    renamed: dict[str, str] = {}
    views: dict[object, tuple[str, ...]] = {}
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    results = set(graph.outputs)
    for given in graph.nodes:
        node = replace(given, inputs=tuple(renamed.get(i, i) for i in given.inputs))
        if isinstance(node.op, Repeat):
            node = replace(node, op=replace(node.op, body=tidy(node.op.body)))
        while isinstance(node.op, (Transpose, Reshape)):
            before = made.get(node.inputs[0])
            if before is None or type(before.op) is not type(node.op):
                break
            op: Transpose | Reshape = node.op
            if isinstance(op, Transpose) and isinstance(before.op, Transpose):
                op = Transpose(tuple(before.op.axes[a] for a in op.axes))
            elif not _changes_nothing(op, graph.tensors[before.inputs[0]].shape):
                break  # views between two shapes tell rules what axes mean
            node = replace(node, op=op, inputs=before.inputs)
        if isinstance(node.op, (Transpose, Reshape)) and node.output not in results:
            base = graph.tensors[node.inputs[0]]
            if _changes_nothing(node.op, base.shape):
                renamed[node.output] = base.name
                continue
        names = tuple(t.name for t in node.outputs)
        if node.op.is_view and results.isdisjoint(names):
            first = views.setdefault((node.op, node.inputs), names)
            if first != names:
                renamed.update(zip(names, first, strict=True))
                continue
        nodes.append(node)
        made.update((t.name, node) for t in node.outputs)
    tidied = live(replace(graph, nodes=tuple(nodes)))
    # Operands handed in stay, used or not.
    kept = {t.name for t in (*tidied.sources, *graph.inputs)}
    return replace(tidied, sources=tuple(t for t in graph.sources if t.name in kept))


def _changes_nothing(op: Transpose | Reshape, shape: tuple[Expr, ...]) -> bool:
    if isinstance(op, Transpose):
        return op.axes == tuple(range(len(op.axes)))
    return len(op.shape) == len(shape) and all(
        same(a, b) for a, b in zip(op.shape, shape, strict=True)
    )
