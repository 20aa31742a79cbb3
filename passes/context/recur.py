"""Segments with what was kept of those before (Transformer-XL, Segatron, Compressive)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.models.blocks.relative import apart, distances
from costgraph.ops import AttentionScores
from costgraph.ops.bias import ScoreBias
from costgraph.ops.pattern import Compressed, Pattern, Segments
from costgraph.passes.context.adding import Added, projected_from, renamed
from costgraph.passes.context.seeing import changed, keeping, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import T, q

MEASURED = (
    "recur: Transformer-XL's term for distances is added to the positions that the model has; its "
    "table is projected anew in each step, as published"
)
SQUEEZED = (
    "recur: what is compressed are keys and values, by kernels of their own: of states, as "
    "published, the mean is the same"
)
#: What queries find the distances of a layer under.
TABLE = "distances"


@dataclass(frozen=True)
class Recur(Pass):
    """A position sees its own segment up to itself, and whole segments in front of it.

    What was computed of those is kept and not computed again: the states of a layer, as the
    keys and values that they become. With ``memory=0`` segments do not see each other.
    ``compressed`` segments behind those are seen as a row for each ``ratio`` positions.
    """

    name: ClassVar[str] = "recur"
    title: ClassVar[str] = "read in segments, with whole ones in front as a memory"
    formula: ClassVar[str] = (
        "position p sees p - segment·max(ceil(p/segment) - 1 - memory, 0); cache = "
        "Min(T, segment·(memory + 1)) rows; behind them segment/ratio rows for each of the last "
        "compressed segments"
    )
    source: ClassVar[str] = (
        "Dai et al., Transformer-XL, arXiv 1901.02860; Bai et al., Segatron, arXiv 2004.14996; "
        "Rae et al., Compressive Transformer, arXiv 1911.05507"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "what leaves the memory is lost: what the model answers changes, and no quality is counted",
        "positions are those that the model has, at no other cost where they count sentences and "
        "paragraphs (Segatron)",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    segment: Expr = option("integer", Integer(512), "positions of a segment", minimum=1)
    memory: Expr = option("integer", Integer(1), "segments in front that are seen", minimum=0)
    compressed: Expr = option(
        "integer", Integer(0), "segments behind those that are kept compressed", minimum=0
    )
    ratio: Expr = option(
        "integer", Integer(4), "positions that become one row", minimum=1, under=("compressed!=0",)
    )
    by: str = option(
        "word", "conv", "how they do", choices=("conv", "mean", "max"), under=("compressed!=0",)
    )
    distances: bool = option("flag", False, "scores have Transformer-XL's term for distances")

    @property
    def pattern(self) -> Pattern:
        """What a position sees."""
        if self.compressed == 0:
            return Segments(self.segment, self.memory)
        return Compressed(
            self.segment, self.memory, older=self.compressed, share=self.ratio, by=self.by
        )

    def run(self, program: Program, system: System) -> Outcome:
        parts = self.segment / self.ratio
        if self.compressed != 0 and parts.is_number and not parts.is_Integer:
            raise PipelineError(
                f"recur: ratio: segments of {self.segment} do not divide into {self.ratio}"
            )
        made, seen = changed(program, self.name, self._layer)
        if seen.hits and self.distances:
            made = made.rewritten(_supplied).assuming(MEASURED)
        if seen.hits and self.compressed != 0:
            made = made.assuming(SQUEEZED)
        return told(self.name, program, made, seen)

    def _layer(self, graph: Graph) -> Graph | str:
        made = keeping(graph, self.pattern)
        return _measured(made, self.pattern) if self.distances else made


def _measured(graph: Graph, pattern: Pattern) -> Graph | str:
    """The layer with a term for distances on its scores."""
    scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
    if len(scores) != 1 or len(scores[0].inputs) != 2:
        return "it attends more than once, or keys are in parts"
    (node,) = scores
    query, x = graph.tensors[node.inputs[0]], projected_from(graph, node)
    if x is None:
        return "no projection leads to its queries"
    assert isinstance(node.op, AttentionScores)
    g = Added(graph, x)
    table = g.source(distances(pattern.seen(q, T), x.shape[-1], g.style, TABLE))
    content, terms = apart(g, query.name, node.outputs[0].shape[3], table, node.op.pattern)
    before = len(g.nodes)
    total = g.add("distance_add", ScoreBias(node.op.pattern), node.output, *terms)
    place = graph.nodes.index(node)
    behind_it = (renamed(n, node.output, total) for n in graph.nodes[place + 1 :])
    attends = replace(node, inputs=(content, node.inputs[1]))
    return replace(
        graph,
        sources=(*graph.sources, *g.sources),
        nodes=(
            *graph.nodes[:place], *g.nodes[:before], attends, *g.nodes[before:], *behind_it,
        ),
    )  # fmt: skip


def _supplied(graph: Graph) -> Graph:
    """The graph whose layers are given the table of distances that they ask for."""
    nodes, table = [], None
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            body = _supplied(node.op.body)
            node = replace(node, op=replace(node.op, body=body))
            wanted = [t for t in body.inputs if t.name == TABLE]
            if wanted and len(node.inputs) < len(body.inputs):
                (table,) = wanted
                node = replace(node, inputs=(*node.inputs, TABLE))
        nodes.append(node)
    sources = graph.sources if table is None else (*graph.sources, table)
    return rebuild(replace(graph, sources=sources, nodes=tuple(nodes)))
