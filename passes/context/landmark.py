"""Landmark tokens: one token stands for each block, and says which blocks are attended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ops import AttentionScores, KVAppend
from costgraph.ops.index import Nearest
from costgraph.ops.pattern import SelectedBlocks, Summaries
from costgraph.passes.context.adding import Added, choosing
from costgraph.passes.context.seeing import changed, told, with_longer_prompt
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import T


@dataclass(frozen=True)
class Landmark(Pass):
    """A landmark token behind every ``block`` tokens; a query attends its own block and the best.

    First a query is scored against the landmarks' keys, which lie in the cache; then it
    attends the ``blocks`` blocks whose landmarks it looks at most, and its own up to itself.
    Heads choose apart. A prompt of ``S`` tokens takes ``S + S/block`` positions, all of
    which pass through the model; contexts ``T`` count landmarks.
    """

    name: ClassVar[str] = "landmark"
    title: ClassVar[str] = "landmark tokens choose the blocks of the context that are attended"
    formula: ClassVar[str] = (
        "per layer and query: T/(block + 1) landmarks scored, then at most "
        "(blocks + 1)·(block + 1) rows attended"
    )
    source: ClassVar[str] = (
        "Mohtashami and Jaggi, Landmark Attention, arXiv 2305.16300: blocks of 50 tokens"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "a prompt that does not end with a block has a part of a landmark behind its last token",
        "landmarks of the answer are read in the step of the token behind them and cost nothing "
        "of their own",
        "heads that share keys choose apart: a step reads at most as many blocks as all of them "
        "choose, each once",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    block: Expr = option("integer", Integer(50), "tokens in front of a landmark", minimum=1)
    blocks: Expr = option("integer", Integer(4), "blocks that a query retrieves", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        made, seen = changed(program, self.name, self._chosen)
        if seen.hits:
            made, _ = with_longer_prompt(self.name, made, lambda length: length / self.block)
        return told(self.name, program, made, seen)

    def _chosen(self, graph: Graph) -> Graph | str:
        scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        if len(scores) != 1 or len(scores[0].inputs) != 2:
            return "it attends more than once, or keys are in parts"
        (node,) = scores
        append = graph.producer.get(node.inputs[1])
        if append is None or not isinstance(append.op, KVAppend):
            return "its keys do not come from a cache"
        query, keys = (graph.tensors[i] for i in node.inputs)
        whole, g = self.block + 1, Added(graph)
        rows = Summaries(whole)
        op = Nearest(self.blocks, rows, among=rows.rows(T))
        index = g.add("landmark_choose", op, query.name, keys.name)
        apart = query.shape[2] / keys.shape[2]
        return choosing(graph, node, g, SelectedBlocks(whole, self.blocks + 1, apart), index)
