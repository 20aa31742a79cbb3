"""A memory of keys and values that queries look the nearest up in (Memorizing Transformer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import InputError, PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ops import Add, AttentionScores, AttentionValues, KVAppend, Softmax
from costgraph.ops.index import Nearest
from costgraph.ops.maps import Map
from costgraph.ops.pattern import Selected, Window
from costgraph.passes.context.adding import Added, renamed
from costgraph.passes.context.seeing import Seen, in_all_phases, keeping, told, walked
from costgraph.passes.precision.layers import cut
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild

ONE = Integer(1)


@dataclass(frozen=True)
class KnnMemory(Pass):
    """Layers attend their last ``local`` positions; one of them a memory besides.

    The memory keeps keys and values of the last ``size`` positions. Each head of each query
    looks the ``top`` nearest keys up, all compared (``share=1``) or a share of them, as an
    approximate index does; it attends them apart from what is near. A number per head, learned
    and the same for all positions, says how both are mixed.
    """

    name: ClassVar[str] = "knn-memory"
    title: ClassVar[str] = "attend what is near, and in one layer the nearest of a long memory"
    formula: ClassVar[str] = (
        "per layer and query Min(T, local) rows; in one layer besides share·Min(T, size) keys "
        "compared, then Min(T, top) rows attended; its cache grows by Min(T, size) rows"
    )
    source: ClassVar[str] = (
        "Wu et al., Memorizing Transformers, arXiv 2203.08913: 32 nearest of up to 262,144 keys, "
        "beside 512 positions, in the ninth of twelve layers"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "what is neither near nor looked up is lost: what the model answers changes, and no "
        "quality is counted",
        "the memory holds new positions at once, and keys as the model turns them; building an "
        "approximate index is not counted",
        "heads and queries look up apart: a step reads at most as many rows as all of them find, "
        "each once",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    local: Expr = option(
        "integer", Integer(512), "last positions that all layers attend", minimum=1
    )
    size: Expr = option("integer", Integer(262_144), "positions that the memory keeps", minimum=1)
    top: Expr = option("integer", Integer(32), "rows that a head looks up for a query", minimum=1)
    share: Expr = option(
        "number", ONE, "share of the memory that a query is compared with", minimum=0, maximum=1
    )
    layer: Expr = option(
        "integer", Integer(0), "the layer with the memory, from 1; 0: three quarters of the way",
        minimum=0, symbolic=False,
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        if self.share == 0:
            raise PipelineError("knn-memory: share: a memory that is not looked at finds nothing")
        if self.size.is_number and self.local.is_number and self.size <= self.local:
            raise PipelineError(
                f"knn-memory: size: a memory of {self.size} holds nothing that the last "
                f"{self.local} positions do not show"
            )

        def done(program: Program, seen: Seen) -> Program:
            return program.rewritten(lambda graph: rebuild(self._layers(graph, seen)))

        return told(self.name, program, *in_all_phases(program, done))

    def _layers(self, graph: Graph, seen: Seen) -> Graph:
        """The graph with its layers cut at the one with the memory."""
        total = sum((n.op.count for n in graph.nodes if isinstance(n.op, Repeat)), Integer(0))
        if not total.is_Integer or total == 0:
            return walked(graph, self.name, self._near, seen)
        place = int(self.layer) if self.layer else int(total) * 3 // 4
        place = max(place, 1)
        if place > total:
            raise PipelineError(f"knn-memory: layer: {place} of {total} layers")
        try:
            whole, ranges = cut(
                graph, self.name, (), first=Integer(place - 1), last=Integer(int(total) - place)
            )
        except InputError as error:
            raise PipelineError(f"knn-memory: {error}") from None
        nodes: list[Node] = []
        for node in whole.nodes:
            if isinstance(node.op, Repeat):
                found = ranges.get(node.name)
                here = total == 1 or (found is not None and found.start == place - 1)
                change = self._remembering if here else self._near
                inner = [
                    walked(g, self.name, change, seen, f"{node.name}.{number}/")
                    for number, g in enumerate(node.op.graphs)
                ]
                node = replace(node, op=node.op.with_graphs(inner))
            nodes.append(node)
        return replace(whole, nodes=tuple(nodes))

    def _near(self, graph: Graph) -> Graph:
        return keeping(graph, Window(self.local))

    def _remembering(self, graph: Graph) -> Graph | str:
        scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        values = [n for n in graph.nodes if isinstance(n.op, AttentionValues)]
        if len(scores) != 1 or len(values) != 1 or len(scores[0].inputs) != 2:
            return "it attends more than once, or keys are in parts"
        (attends,), (mixes,) = scores, values
        kept = [graph.producer.get(n.inputs[1]) for n in (attends, mixes)]
        if any(n is None or not isinstance(n.op, KVAppend) for n in kept):
            return "its keys or values do not come from a cache"
        query, keys = (graph.tensors[name] for name in attends.inputs)
        chosen = Selected(self.top, query.shape[2] / keys.shape[2])
        g, memory = Added(graph), Window(self.size)
        rows = []
        for part, append in zip("kv", (n for n in kept if n is not None), strict=True):
            new = graph.tensors[append.inputs[1]]
            cache = g.cache(f"memory_{part}", new.shape[2], new.shape[3], memory)
            rows.append(g.add(f"memory_{part}_append", KVAppend(memory), cache, new.name))
        find = Nearest(self.top, memory, self.share)
        index = g.add("memory_nearest", find, query.name, rows[0])
        found = g.add("memory_qk", AttentionScores(chosen), query.name, rows[0], index)
        found = g.add("memory_softmax", Softmax(chosen), found)
        found = g.add("memory_sv", AttentionValues(chosen), found, rows[1], index)
        # The same for all positions: its sigmoid is taken once, when the model is loaded.
        gate = g.vector("memory_gate", ONE, ONE, query.shape[2], ONE)
        near = g.add("memory_near", Map("sub"), mixes.output, found)
        near = g.add("memory_near_gated", Map("mul"), near, gate)
        total = g.add("memory_mixed", Add(), near, found)
        made = keeping(graph, Window(self.local))
        place = 1 + next(i for i, n in enumerate(made.nodes) if n.name == mixes.name)
        after = (renamed(n, mixes.output, total) for n in made.nodes[place:])
        return replace(
            made,
            sources=(*made.sources, *g.sources),
            nodes=(*made.nodes[:place], *g.nodes, *after),
        )
