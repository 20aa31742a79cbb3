"""Native sparse attention: rows of blocks, the best blocks, and a window, each with a gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.errors import PipelineError
from costgraph.formula.least import least
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.tensor import Tensor
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    KVAppend,
    Rope,
    RowScale,
    Softmax,
)
from costgraph.ops.compress import Compress, Importance
from costgraph.ops.index import Choose
from costgraph.ops.pattern import Pattern, SelectedBlocks, Summaries, Unfinished, Window
from costgraph.passes.context.adding import Added, attending, projected_from, renamed
from costgraph.passes.context.seeing import changed, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import T, q

ONE = Integer(1)
BRANCHES = ("compressed", "selected", "window")


@dataclass(frozen=True)
class Nsa(Pass):
    """Three kinds of attention beside each other, added up by gates.

    *compressed*: a row for each ``block`` positions, one every ``stride``, made by a network
    of two matrices (``hidden`` between them). *selected*: the ``blocks`` best blocks of
    ``select-block`` positions, its own among them; which they are says what the compressed
    rows were looked at. *window*: the last ``window`` positions. Every kind has keys and
    values of its own, as published; a gate per head and kind is projected from the layer's
    input. Query heads that share keys choose together.
    """

    name: ClassVar[str] = "nsa"
    title: ClassVar[str] = "native sparse attention: rows of blocks, the best blocks, a window"
    formula: ClassVar[str] = (
        "per layer and query: n = floor((T - block)/stride) + 1 compressed rows, then "
        "Min(T, blocks·select-block) selected ones, then Min(T, window); the cache holds T, n and "
        "Min(T, window) rows of keys and values"
    )
    source: ClassVar[str] = (
        "Yuan et al., Native Sparse Attention, arXiv 2502.11089: blocks of 32 every 16, 16 "
        "blocks of 64 (the first and two of its own place among them), a window of 512"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "the network that compresses is two matrices with a ReLU, one for keys and one for values, "
        "shared by heads: its size is not published; its matrices are read in every step",
        "compressed keys are not rotated: they have positions inside their block; a gate is one "
        "matrix and a sigmoid",
        "queries of one step that choose apart read at most as many blocks as they choose, each "
        "once; probabilities over compressed rows leave their kernel",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    block: Expr = option("integer", Integer(32), "positions of a compressed row", minimum=2)
    stride: Expr = option("integer", Integer(16), "from one compressed row to the next", minimum=1)
    select_block: Expr = option("integer", Integer(64), "rows of a block that is chosen", minimum=1)
    blocks: Expr = option("integer", Integer(16), "blocks that a query attends", minimum=1)
    window: Expr = option("integer", Integer(512), "last rows that a query attends", minimum=1)
    hidden: Expr = option(
        "integer", Integer(0), "width inside the network that compresses; 0: that of a head",
        minimum=0,
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        for wide, named in ((self.block, "block"), (self.select_block, "select-block")):
            if (wide / self.stride).is_number and not (wide / self.stride).is_integer:
                raise PipelineError(
                    f"nsa: {named} = {wide} is no multiple of stride = {self.stride}"
                )
        return told(self.name, program, *changed(program, self.name, self._sparse))

    @property
    def _rows(self) -> Summaries:
        return Summaries(self.block, stride=self.stride)

    def _sparse(self, graph: Graph) -> Graph | str:
        scores = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        if len(scores) != 1 or len(scores[0].inputs) != 2:
            return "it attends more than once, or keys are in parts"
        node = scores[0]
        values = next(n for n in graph.nodes if isinstance(n.op, AttentionValues))
        key, value = (graph.producer.get(n.inputs[1]) for n in (node, values))
        if key is None or value is None:
            return "its keys or values come from elsewhere"
        found = [projected_from(graph, n) for n in (key, value)]
        x = found[0]
        if not (isinstance(key.op, KVAppend) and isinstance(value.op, KVAppend)) or x is None:
            return "what its keys are projected from is not found"
        g = Added(graph, x)
        new = (graph.tensors[key.inputs[1]], graph.tensors[value.inputs[1]])
        query = node.inputs[0]
        compressed, index = self._compressed(g, x, query, new)
        window = self._window(g, graph, x, query, new)
        heads = graph.tensors[query].shape[2]
        gates = [g.heads(f"nsa_gate_{b}", x, heads, ONE) for b in BRANCHES]
        gates = [g.add(f"{gate}_sigmoid", Activation("sigmoid"), gate) for gate in gates]
        place = graph.nodes.index(node)
        nodes = [*graph.nodes[:place], *g.nodes, *graph.nodes[place:]]
        made = len(g.nodes)
        pattern = SelectedBlocks(self.select_block, self.blocks)
        nodes[place + made :] = [attending(n, pattern, index) for n in nodes[place + made :]]
        behind = graph.nodes.index(values) + made + 1
        parts = [
            g.add(f"nsa_{b}_gated", RowScale(), part, gate)
            for b, part, gate in zip(
                BRANCHES, (compressed, values.output, window), gates, strict=True
            )
        ]
        total = g.add("nsa_sum", Add(), g.add("nsa_sum_two", Add(), *parts[:2]), parts[2])
        after = [renamed(n, values.output, total) for n in nodes[behind:]]
        return replace(
            graph,
            sources=(*graph.sources, *g.sources),
            nodes=(*nodes[:behind], *g.nodes[made:], *after),
        )

    def _compressed(
        self, g: Added, x: Tensor, query: str, new: tuple[Tensor, Tensor]
    ) -> tuple[str, str]:
        """What attention to compressed rows mixes, and the blocks that it speaks for."""
        rows, made = self._rows, []
        for part, like in zip(("k", "v"), new, strict=True):
            made.append(self._rows_of(g, f"nsa_{part}", x, like))
        keys, values = made
        probabilities = _softmax(g, "nsa_compressed", rows, query, keys)
        mixed = g.add("nsa_compressed_sv", AttentionValues(rows), probabilities, values)
        pages = Summaries(self.select_block, begun=True)
        groups = new[0].shape[2]
        scores = g.add("nsa_importance", Importance.of(groups, rows, pages), probabilities)
        most = ceiling(least(T, self.blocks * self.select_block) / self.select_block)
        return mixed, g.add("nsa_choose", Choose(self.blocks, pages, most), scores)

    def _rows_of(self, g: Added, name: str, x: Tensor, like: Tensor) -> str:
        """Compressed keys or values: a projection, what is not in a block yet, the rows."""
        heads, dh = like.shape[2:]
        hidden = dh if self.hidden == 0 else self.hidden
        rest = Unfinished(self._rows)
        row = g.heads(f"{name}_proj", x, heads, dh)
        waiting = g.cache(f"{name}_open", heads, dh, rest)
        row = g.add(f"{name}_open_append", KVAppend(rest), waiting, row)
        cache = g.rows(f"{name}_cache", self._rows.rows(T - q), heads, dh)
        shapes = ((self.block, dh), (hidden, self.block * dh), (dh, hidden))
        weights = [
            g.weight(f"{name}_{part}.weight", *shape)
            for part, shape in zip(("places", "wide", "narrow"), shapes, strict=True)
        ]
        return g.add(f"{name}_compress", Compress(self._rows), cache, row, *weights)

    def _window(
        self, g: Added, graph: Graph, x: Tensor, query: str, new: tuple[Tensor, Tensor]
    ) -> str:
        """What attention to the last positions mixes."""
        keeps = Window(self.window)
        rope = next((n for n in graph.nodes if isinstance(n.op, Rope)), None)
        made = []
        for part, like in zip(("k", "v"), new, strict=True):
            heads, dh = like.shape[2:]
            row = g.heads(f"nsa_near_{part}_proj", x, heads, dh)
            if part == "k" and rope is not None:
                row = g.add("nsa_near_k_rope", Rope(), row, rope.inputs[1])
            cache = g.cache(f"nsa_near_{part}_cache", heads, dh, keeps)
            made.append(g.add(f"nsa_near_{part}_append", KVAppend(keeps), cache, row))
        probabilities = _softmax(g, "nsa_near", keeps, query, made[0])
        return g.add("nsa_near_sv", AttentionValues(keeps), probabilities, made[1])


def _softmax(g: Added, name: str, pattern: Pattern, query: str, keys: str) -> str:
    scores = g.add(f"{name}_qk", AttentionScores(pattern), query, keys)
    return g.add(f"{name}_softmax", Softmax(pattern), scores)
