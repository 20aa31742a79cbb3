"""Blocks of the cache chosen for each query (Quest, MoBA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.formula.least import least
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ops import AttentionScores, KVAppend
from costgraph.ops.index import Choose, PageAppend, PageScores
from costgraph.ops.pattern import SelectedBlocks
from costgraph.passes.context.adding import Added, choosing
from costgraph.passes.context.seeing import changed, in_prompts, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import T, q


@dataclass(frozen=True)
class Select(Pass):
    """Every query attends ``blocks`` blocks of ``block`` rows: its own, and the best others.

    ``by=bounds`` (Quest): a block is scored by the least and greatest key of each element;
    prompts attend all. ``by=means`` (MoBA): by the mean of its keys; ``prompt=chosen`` has
    prompts choose as well, as the model was trained to. Query heads that share keys choose
    together. The cache keeps all rows.
    """

    name: ClassVar[str] = "select"
    title: ClassVar[str] = "attend the blocks of the cache that look best to a query"
    formula: ClassVar[str] = (
        "per layer and query: ceil(T/block) rows of blocks read and scored, then "
        "Min(T, blocks·block) rows attended"
    )
    source: ClassVar[str] = (
        "Tang et al., Quest, arXiv 2406.10774; Lu et al., MoBA, arXiv 2502.13189"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "queries of one step that choose apart read at most as many blocks as they choose, each "
        "once; query heads that share keys choose together",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    block: Expr = option("integer", Integer(16), "rows of a block", minimum=1)
    blocks: Expr = option("integer", Integer(128), "blocks that a query attends", minimum=1)
    by: str = option("word", "bounds", "what stands for a block", choices=("bounds", "means"))
    prompt: str = option("word", "whole", "what prompts attend", choices=("whole", "chosen"))

    def run(self, program: Program, system: System) -> Outcome:
        if self.prompt == "chosen":
            return told(self.name, program, *changed(program, self.name, self._chosen))
        steps, seen = changed(program, self.name, self._chosen)
        front, _ = changed(program, self.name, self._appended)
        return told(self.name, program, in_prompts(program, steps, front), seen)

    def _appended(self, graph: Graph) -> Graph | str:
        found = self._added(graph)
        if isinstance(found, str):
            return found
        added, _ = found
        (place,) = (i for i, n in enumerate(graph.nodes) if isinstance(n.op, AttentionScores))
        nodes = (*graph.nodes[:place], *added.nodes, *graph.nodes[place:])
        return replace(graph, sources=(*graph.sources, *added.sources), nodes=nodes)

    def _added(self, graph: Graph) -> tuple[Added, str] | str:
        """The rows of blocks of a layer, and their name."""
        scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        if len(scores) != 1 or len(scores[0].inputs) != 2:
            return "it attends more than once, or keys are in parts"
        append = graph.producer.get(scores[0].inputs[1])
        if append is None or not isinstance(append.op, KVAppend):
            return "its keys do not come from a cache"
        new = graph.tensors[append.inputs[1]]
        op, added = PageAppend(self.block), Added(graph)
        wide = new.shape[3] * (2 if self.by == "bounds" else 1)
        cache = added.rows("page_cache", op.pages.rows(T - q), new.shape[2], wide)
        return added, added.add("page_append", op, cache, new.name)

    def _chosen(self, graph: Graph) -> Graph | str:
        found = self._added(graph)
        if isinstance(found, str):
            return found
        added, pages = found
        (node,) = (n for n in graph.nodes if isinstance(n.op, AttentionScores))
        seen = PageAppend(self.block).pages
        scores = added.add("page_scores", PageScores(seen), node.inputs[0], pages)
        most = ceiling(least(T, self.blocks * self.block) / self.block)
        index = added.add("page_choose", Choose(self.blocks, seen, most), scores)
        return choosing(graph, node, added, SelectedBlocks(self.block, self.blocks), index)
