"""Caches that keep a part of their context: heavy hitters (H2O), merged rows (DMC)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import FP32
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Softmax
from costgraph.ops.index import ScoreBook
from costgraph.ops.pattern import Budget
from costgraph.passes.context.seeing import changed, keeping, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import T, q

#: How the rows that stay are found.
BY = ("scores", "merge")


@dataclass(frozen=True)
class Evict(Pass):
    """Every layer keeps ``keep`` of its context, at most ``most`` rows.

    ``by=scores`` (H2O) keeps the recent half and the rows that attention has looked at
    most: probabilities of each head are added up in a book beside the cache, so they must
    leave the kernel. ``by=merge`` (DMC) adds a new row to the last one instead of storing
    it, as a decision that its projection already makes says: no book. A prompt that is read
    at once attends to all of itself.
    """

    name: ClassVar[str] = "evict"
    title: ClassVar[str] = "keep a part of the cache: what attention looks at most, or merged rows"
    formula: ClassVar[str] = (
        "rows kept = Min(keep·T, most) per head; a decode step attends those of T − 1, and itself"
    )
    source: ClassVar[str] = (
        "Zhang et al., H2O, arXiv 2306.14048; Nawrot et al., Dynamic Memory Compression, arXiv "
        "2403.09636"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "shares of rows are means over heads and steps; what is dropped is lost, and no quality "
        "is counted",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    keep: Expr = option(
        "number", Rational(1, 5), "share of the context that stays", minimum=0, maximum=1
    )
    most: Expr = option("integer", Integer(0), "rows that stay at the most; 0: no bound", minimum=0)
    by: str = option("word", "scores", "how the rows that stay are found", choices=BY)

    def run(self, program: Program, system: System) -> Outcome:
        if self.keep == 0:
            raise PipelineError("evict: keep: a cache that keeps nothing is none")
        pattern = Budget(self.keep, None if self.most == 0 else self.most)

        def change(graph: Graph) -> Graph | str:
            made = keeping(graph, pattern)
            return made if self.by == "merge" else booked(made, pattern)

        made, seen = changed(program, self.name, change)
        if seen.hits and self.by == "merge":
            made = made.assuming(
                "evict: a merged row costs as much as a stored one to write; the decision is a "
                "number that the key's projection holds already"
            )
        return told(self.name, program, made, seen)


def booked(graph: Graph, pattern: Budget) -> Graph | str:
    """The layer with a book of what its heads have looked at."""
    node = next((n for n in graph.nodes if isinstance(n.op, Softmax)), None)
    if node is None:
        return "there are no probabilities to add up"
    batch, heads = node.outputs[0].shape[:2]
    length = pattern.seen(q, T) - q
    book = Tensor("score_book", (batch, length, heads, Integer(1)), FP32, Role.KV)
    op = ScoreBook(pattern)
    (spec,) = op.infer((book, node.outputs[0]))
    new = Node("score_sum", op, (book.name, node.output), (spec.named("score_sum"),))
    place = graph.nodes.index(node) + 1
    nodes = (*graph.nodes[:place], new, *graph.nodes[place:])
    return replace(graph, sources=(*graph.sources, book), nodes=nodes)
