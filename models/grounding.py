"""Grounding DINO (Liu et al., arXiv 2303.05499): boxes of what a text names."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.deformable import (
    FOUR,
    Points,
    box_waves,
    chosen,
    moved,
    one_width,
    over_maps,
    placed,
    promising,
    shared_products,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import same_norm
from costgraph.models.blocks.splicing import spliced
from costgraph.models.blocks.stack import positions_end
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.detecting import products
from costgraph.models.encoder import Source
from costgraph.models.stages import Maps
from costgraph.models.vision import OnePass
from costgraph.ops import Add, AttentionScores, AttentionValues, Multiply, Softmax
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Transpose
from costgraph.symbols import B, S, q


@dataclass(frozen=True)
class GroundingDino(OnePass):
    """``B`` images, each with one text of ``S`` tokens.

    Attributes:
        stem: the network, and the stages that are read.
        reader: of the text; ``longest``: most tokens.
        levels: maps in all; those beyond the stages halve the last one.
        seen, points, feed: heads, points and feed-forward block of the layers over the maps;
            ``layers``: their number.
        between: heads in which maps and text attend to one another; ``told``, ``telling``: heads
            and feed-forward block of the text in the same layers.
        own, fed: heads and feed-forward block of the decoder; ``looks``: its points; ``count``:
            its layers.
        queries: boxes that are asked for.
        shared: all layers move boxes by the same weights.
        boxes: the class makes boxes; the bare one does not.
        biases: how well rows fit words is scaled, and a learned number added to it: of all layers
            of the decoder one, or one ``each``; empty where there is none (MM Grounding DINO).
    """

    stem: Maps
    reader: Source
    longest: int
    levels: int
    seen: int
    points: int
    feed: FeedForward
    layers: int
    between: Heads
    told: Heads
    telling: FeedForward
    own: Heads
    fed: FeedForward
    looks: int
    count: int
    queries: Expr
    shared: bool
    boxes: bool
    biases: str = ""

    def positions(self, style: Style) -> Expr:
        return S  # those of the text

    @property
    def limits(self) -> tuple[Limit, ...]:
        return positions_end(S, self.longest)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.own.d
        words, *_ = spliced(m, "text", self.reader.features)
        words = start = m.linear("text_proj", words, d, m.shape(words)[2], True)
        maps = one_width(m, self.stem.add(m), d, self.levels)
        x, layer, _ = over_maps(m, maps, self.seen, self.points, self.feed)
        m.source(Tensor("word_places", (q, d), style.acts))
        for index in range(self.layers):
            prefix = f"encoder{index}_"
            x, words = self._together(m, prefix, x, words)
            words = self._text(m, prefix, words)
            x = layer.add(m, x, prefix)
        hidden, boxes, *promised = self._promised(m, x, words, start)
        read = Points(d, int(self.own.heads), self.looks, layer.read.grids)
        made = []
        for index in range(self.count):
            prefix, before = f"layer{index}_", boxes
            hidden = self._layer(m, prefix, hidden, x, words, boxes, read)
            if self.boxes:
                boxes = self._moved(m, index, prefix, hidden, boxes)
            made.append((same_norm(m, f"{prefix}normed", "decoder_norm", hidden), before))
        if not self.boxes:
            return m.build(made[-1][0], x, words, *promised)
        for index, (rows, before) in enumerate(made):
            of = f"head{index}_kind" if self.biases == "each" else "head_kind"
            kinds = self._kinds(m, f"head{index}_kind", rows, words, of)
            boxes = self._moved(m, index, f"head{index}_", rows, before)
        return m.build(kinds, boxes, *promised)

    def _together(self, m: Maker, prefix: str, x: str, words: str) -> tuple[str, str]:
        """Adds attention of maps to the text and of the text to the maps, by the same scores."""
        at, d = self.between, self.own.d
        x = m.norm(f"{prefix}map_norm", x, d, LAYER_NORM)
        words = m.norm(f"{prefix}word_norm", words, d, LAYER_NORM)
        query = at.project(m, "q", x, f"{prefix}map_")
        key = at.project(m, "k", words, f"{prefix}word_")
        values = [at.project(m, "v", y, f"{prefix}{n}_") for y, n in ((words, "word"), (x, "map"))]
        scores = m.add(f"{prefix}both_matmul", AttentionScores(FULL), query, key)
        scores = m.add(f"{prefix}both_less", Map("add_constant"), scores)
        scores = m.add(f"{prefix}both_clip", Map("clip"), scores)
        turned = m.add(f"{prefix}word_scores", Transpose((0, 1, 3, 2)), scores)
        found = []
        for name, one, value, rows in (
            ("map", scores, values[0], x),
            ("word", turned, values[1], words),
        ):
            shares = m.add(f"{prefix}{name}_softmax", Softmax(FULL), one)
            y = m.add(f"{prefix}{name}_matmul", AttentionValues(FULL), shares, value)
            y = at.out(m, y, f"{prefix}{name}_")
            y = m.add(f"{prefix}{name}_scale", Multiply(), y, m.vector(f"{prefix}{name}_scales", d))
            found.append(m.add(f"{prefix}{name}_add", Add(), y, rows))
        return found[0], found[1]

    def _text(self, m: Maker, prefix: str, x: str) -> str:
        """Adds a layer over the text; words see those of their phrase."""
        at, d, name = self.told, self.own.d, f"{prefix}text_"
        y = placed(m, at, x, "word_places", name)
        x = m.norm(f"{name}attn_norm", m.add(f"{name}attn_add", Add(), y, x), d, LAYER_NORM)
        y = self.telling.add(m, x, name)
        return m.norm(f"{name}mlp_norm", m.add(f"{name}mlp_add", Add(), y, x), d, LAYER_NORM)

    def _promised(self, m: Maker, memory: str, words: str, start: str) -> tuple[str, ...]:
        """Adds the choice of places that promise most: rows of queries, and boxes."""
        d, count, x = self.own.d, self.queries, promising(m, memory)
        kinds = self._kinds(m, "promise_kind", x, words, "promise_kind")
        moves = products(m, "promise_box", x, (d, d, FOUR), "relu")
        best = m.add("best_kind", Reduce("max", (2,)), kinds)
        _, boxes = chosen(m, best, moves, count)
        rows = m.vector("queries.weight", count, d)
        rows = m.add("query_rows", Expand((B, count, d)), rows)
        return rows, boxes, self._kinds(m, "query_kind", rows, start, "promise_kind")

    def _layer(
        self, m: Maker, name: str, x: str, memory: str, words: str, boxes: str, read: Points
    ) -> str:
        """Adds a layer of the decoder: rows that attend to one another, the text and the maps."""
        d, at = self.own.d, self.own
        place = box_waves(m, f"{name}place_", boxes, d)
        place = shared_products(m, f"{name}place", "place", place, (d, d))
        for block in ("attn", "text", "cross"):
            prefix = f"{name}{block}_"
            asked = m.add(f"{prefix}place", Add(), x, place)
            if block == "cross":
                y = read.add(m, prefix, asked, memory, boxes)
            else:
                keys, values = (asked, x) if block == "attn" else (words, words)
                query = at.project(m, "q", asked, prefix)
                key, value = at.project(m, "k", keys, prefix), at.project(m, "v", values, prefix)
                y = at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)
            x = m.norm(f"{prefix}norm", m.add(f"{prefix}add", Add(), y, x), d, LAYER_NORM)
        y = self.fed.add(m, x, name)
        return m.norm(f"{name}mlp_norm", m.add(f"{name}mlp_add", Add(), y, x), d, LAYER_NORM)

    def _kinds(self, m: Maker, name: str, x: str, words: str, of: str) -> str:
        """Adds how well rows fit words: ``(B, n, q)``; the learned number is that ``of`` a head."""
        turned = m.add(f"{name}_words", Transpose((0, 2, 1)), words)
        found = m.add(name, MatMul(), x, turned)
        if not self.biases:
            return found
        found = m.add(f"{name}_scale", Map("scale"), found)
        return m.add(f"{name}_add", Map("add"), found, m.vector(f"{of}.bias", Integer(1)))

    def _moved(self, m: Maker, index: int, name: str, x: str, before: str) -> str:
        """Adds boxes: those before, moved."""
        of = "box" if self.shared else f"box{index}_"
        x = shared_products(m, f"{name}box", of, x, (self.own.d, self.own.d, FOUR))
        return moved(m, name, x, before)
