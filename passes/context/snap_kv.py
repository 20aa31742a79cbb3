"""Caches that keep the best rows of a prompt, chosen once (SnapKV)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ops import AttentionScores
from costgraph.ops.index import PromptVotes
from costgraph.ops.pattern import Distilled
from costgraph.passes.context.adding import Added
from costgraph.passes.context.seeing import changed, in_prompts, keeping, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option


@dataclass(frozen=True)
class SnapKV(Pass):
    """Of a prompt the ``keep`` rows stay that its last ``window`` positions look at most.

    The prompt attends to all of itself; then each head of keys votes once, over ``pool``
    neighbours, and the cache is written with what stays. Steps attend that and every row
    that came after the prompt: their time depends on the prompt ``S`` as well as on ``T``.
    """

    name: ClassVar[str] = "snap-kv"
    title: ClassVar[str] = "keep the rows of a prompt that its last positions look at"
    formula: ClassVar[str] = "rows kept = T - Max(Min(T, S) - keep, 0) per head"
    source: ClassVar[str] = "Li et al., SnapKV, arXiv 2404.14469"
    assumptions: ClassVar[tuple[str, ...]] = (
        "heads that share keys vote together, in a kernel of its own that reads all keys again; "
        "what is dropped is lost, and no quality is counted",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    keep: Expr = option("integer", Integer(1024), "rows of the prompt that stay", minimum=1)
    window: Expr = option("integer", Integer(32), "positions whose votes count", minimum=1)
    pool: Expr = option("integer", Integer(7), "neighbours that a vote is taken over", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        pattern = Distilled(self.keep)
        steps, seen = changed(program, self.name, lambda g: keeping(g, pattern))
        front, _ = changed(program, self.name, lambda g: self._voted(keeping(g, pattern), pattern))
        return told(self.name, program, in_prompts(program, steps, front), seen)

    def _voted(self, graph: Graph, pattern: Distilled) -> Graph:
        node = next(n for n in graph.nodes if isinstance(n.op, AttentionScores))
        g = Added(graph)
        op = PromptVotes(self.window, self.pool, pattern)
        half = len(node.inputs) // 2
        for number, (query, keys) in enumerate(
            zip(node.inputs[:half], node.inputs[half:], strict=True)
        ):
            g.add(f"prompt_votes{number or ''}", op, query, keys)
        place = graph.nodes.index(node) + 1
        return replace(graph, nodes=(*graph.nodes[:place], *g.nodes, *graph.nodes[place:]))
