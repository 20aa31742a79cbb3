"""A lightning indexer in front of attention (DeepSeek Sparse Attention)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.models.blocks.indexed import lightning_index
from costgraph.ops import AttentionScores, KVAppend, Rope
from costgraph.ops.pattern import Selected
from costgraph.passes.context.adding import Added, choosing, projected_from
from costgraph.passes.context.seeing import changed, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option


@dataclass(frozen=True)
class Index(Pass):
    """Every query attends the ``top`` rows that an indexer scores highest.

    The indexer has ``heads`` query heads of ``width`` and one key of ``width`` per position
    in a cache of its own; a position's score is the weighted sum over heads of clipped
    products. Its queries are projected from what the layer's own queries are projected
    from, keys and weights from the layer's input. The main cache keeps all rows.
    """

    name: ClassVar[str] = "index"
    title: ClassVar[str] = "attend the rows that a small indexer scores highest"
    formula: ClassVar[str] = (
        "per layer and query: (2·heads·width + 3·heads + 1)·T FLOP and width·T elements read to "
        "choose, then Min(T, top) rows attended"
    )
    source: ClassVar[str] = (
        "DeepSeek-AI, DeepSeek-V3.2-Exp; 64 heads of 128 and 2048 rows are its configuration's "
        "index_n_heads, index_head_dim and index_topk"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "queries of one step that choose apart read at most as many rows as they choose, each "
        "once; the chosen rows are read at the full bandwidth",
        "the indexer's matrices have the format of activations; a Hadamard transform of its "
        "queries and keys is left out",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    top: Expr = option("integer", Integer(2048), "rows that a query attends", minimum=1)
    heads: Expr = option("integer", Integer(64), "query heads of the indexer", minimum=1)
    width: Expr = option("integer", Integer(128), "width of its queries and keys", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        return told(self.name, program, *changed(program, self.name, self._indexed))

    def _indexed(self, graph: Graph) -> Graph | str:
        scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        if len(scores) != 1:
            return "it attends more than once"
        (node,) = scores
        keys = node.inputs[len(node.inputs) // 2 :]
        appends = [graph.producer.get(k) for k in keys]
        for append in appends:
            if append is None or not isinstance(append.op, KVAppend):
                raise PipelineError(
                    f"index: {node.name!r} makes keys of all positions before any is chosen: load "
                    "the model with mla=absorbed"
                )
        query = projected_from(graph, graph.producer.get(node.inputs[0]))
        (first, *_) = (a for a in appends if a is not None)
        key = projected_from(graph, graph.producer.get(first.inputs[1]))
        if query is None or key is None:
            return "what its queries and keys are projected from is not found"
        added = Added(graph, key)
        rope = next((n for n in graph.nodes if isinstance(n.op, Rope)), None)
        table = None if rope is None else rope.inputs[1]
        index = lightning_index(
            added, query.name, key.name, self.heads, self.width, table, self.top
        )
        return choosing(graph, node, added, Selected(self.top), index)
