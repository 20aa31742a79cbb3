"""Tokens of a vision transformer that are merged layer by layer (ToMe)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ops import Add, AttentionScores
from costgraph.ops.index import MergeRows
from costgraph.ops.pattern import FULL
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild

ONE = Integer(1)


@dataclass(frozen=True)
class MergeTokens(Pass):
    """Every layer merges ``count`` tokens into others, between its attention and its feed-forward.

    Tokens in two halves: each of one half is compared with all of the other by its key, and
    the pairs that are most alike become one. No layer merges more than half of what it has; the
    class token stays.
    """

    name: ClassVar[str] = "merge-tokens"
    title: ClassVar[str] = "layers of a vision transformer merge tokens that are alike"
    formula: ClassVar[str] = (
        "n_next = n - min(count, floor((n - 1)/2)); a layer attends n and feeds n_next; matching "
        "2·ceil(n/2)·floor(n/2)·dh FLOP"
    )
    source: ClassVar[str] = "Bolya et al., Token Merging, arXiv 2210.09461"
    assumptions: ClassVar[tuple[str, ...]] = (
        "merge-tokens: attention in proportion to the sizes of tokens (one addition per score) is "
        "not counted, and no quality is",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    count: Expr = option(
        "integer", Integer(8), "tokens that a layer merges into others", minimum=0, symbolic=False
    )

    def run(self, program: Program, system: System) -> Outcome:
        if [p.name for p in program.phases] != ["forward"]:
            raise PipelineError(
                f"merge-tokens: {program.name} is no vision transformer by itself: the tower of a "
                "language model would make fewer image tokens than that knows of"
            )
        if self.count == 0:
            return Outcome(program, (), (Miss(self.name, program.name, "nothing is merged"),))
        hits: list[str] = []

        def new(graph: Graph) -> Graph:
            nodes: list[Node] = []
            for node in graph.nodes:
                many = _positions(node)
                if many is None:
                    nodes.append(node)
                    continue
                hits.append(node.name)
                nodes += self._layers(node, many)
            return rebuild(replace(graph, nodes=tuple(nodes)))

        made = program.rewritten(new)
        if not hits:
            reason = "no layers of a vision transformer, whose positions all see one another"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        return Outcome(made, tuple(hits))

    def _layers(self, node: Node, many: int) -> Iterator[Node]:
        """A region of equal layers as regions of one layer each, over fewer and fewer positions."""
        region = node.op
        assert isinstance(region, Repeat)
        state, last = node.inputs[0], int(region.count) - 1
        for index in range(last + 1):
            merged = min(int(self.count), (many - 1) // 2)
            body = _merging(region.body, many, merged)
            name = node.name if index == last else f"{node.name}_{index}"
            (result,) = node.outputs
            out = replace(result, name=result.name if index == last else f"{result.name}_{index}")
            op = replace(region, body=body, count=ONE, carried=0)
            yield Node(name, op, (state, *node.inputs[1:]), (out,), Origin((node.name,), self.name))
            state, many = out.name, many - merged


def _positions(node: Node) -> int | None:
    """How many positions the layers of a vision transformer have; None for other nodes."""
    op = node.op
    if not (isinstance(op, Repeat) and op.rounds == "layers" and op.count.is_Integer):
        return None
    if op.carried != 1 or len(node.outputs) != 1 or len(node.inputs) != 1:
        return None
    scores = [n for n in op.body.nodes if isinstance(n.op, AttentionScores)]
    length = op.body.inputs[0].shape[1] if len(op.body.inputs[0].shape) == 3 else None
    plain = len(scores) == 1 and scores[0].op.pattern == FULL  # type: ignore[attr-defined]
    if length is None or not length.is_Integer or not plain:
        return None
    return int(length) if scores[0].outputs[0].shape[2] == length else None


def _merging(body: Graph, many: int, merged: int) -> Graph:
    """A layer over ``many`` positions that merges some behind its attention."""
    (hidden,) = body.inputs
    b, _, d = hidden.shape
    sources = tuple(
        replace(t, shape=(b, Integer(many), d)) if t.name == hidden.name else t
        for t in body.sources
    )
    keys = next(n.inputs[1] for n in body.nodes if isinstance(n.op, AttentionScores))
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in body.nodes:
        nodes.append(replace(node, inputs=tuple(renamed.get(i, i) for i in node.inputs)))
        if not renamed and isinstance(node.op, Add) and hidden.name in node.inputs and merged:
            (x,) = node.outputs
            name, op = f"{x.name}_merged", MergeRows(Integer(merged))
            nodes.append(
                Node(name, op, (x.name, keys), (x.renamed(name),), Origin((), "merge-tokens"))
            )
            renamed[x.name] = name
    made = replace(body, sources=sources, nodes=tuple(nodes))
    return rebuild(made)
