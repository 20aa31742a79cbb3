"""Conditional DETR (Meng et al., arXiv 2108.06152): queries look from where their boxes are."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.deformable import moved, shared_products
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.detecting import Detr, products
from costgraph.ops import Activation, Add, Concat, Multiply
from costgraph.ops.arrays import Fill
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B

ONE, TWO, FOUR = Integer(1), Integer(2), Integer(4)


@dataclass(frozen=True)
class ConditionalDetr(Detr):
    """DETR whose queries and keys have contents and places side by side."""

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        x, places = self._seen(m)
        asked, image = self.queries, self._everywhere(m, places)
        own = m.add("query_row", Reshape((ONE, asked, d)), m.vector("queries.weight", asked, d))
        own = m.add("query_places", Expand((B, asked, d)), own)
        centre = products(m, "centre", own, (d, TWO), "relu")
        centre = m.add("centre_bent", Activation("sigmoid"), centre)
        waves = self._waves(m, centre)
        y = m.add("empty", Fill((B, asked, d), style.acts))
        for index in range(int(self.count)):
            scaled = self._scaled(m, index, y, waves)
            y = self._layer(m, index, y, (own, scaled), (x, image))
        y = m.norm("decoder_norm", y, d, LAYER_NORM)
        if self.labels is None:
            return m.build(y, x)
        boxes = moved(m, "", products(m, "box", y, (d, d, FOUR), "relu"), centre)
        return m.build(m.linear("classifier", y, self.labels, d, True), boxes)

    def _everywhere(self, m: Maker, places: str) -> str:
        """Adds the places of the image ``(n, d)`` for each of a batch."""
        n, d = m.shape(places)
        row = m.add("image_row", Reshape((ONE, n, d)), places)
        return m.add("image_places", Expand((B, n, d)), row)

    def _scaled(self, m: Maker, index: int, x: str, waves: str) -> str:
        """Adds waves times what all layers but the first make of their rows."""
        if not index:
            return waves
        d, name = self.at.d, f"layer{index}_"
        scale = shared_products(m, f"{name}scale", "scale", x, (d, d))
        return m.add(f"{name}scaled_waves", Multiply(), waves, scale)

    def _waves(self, m: Maker, centre: str) -> str:
        """Adds sines of where queries look: ``(B, queries, d)``."""
        half, asked = self.at.d / 2, self.queries
        angles = m.add(
            "angles", Reshape((B, asked, TWO, ONE)), m.add("turns", Map("scale"), centre)
        )
        lengths = m.source(Tensor("wave_lengths", (half,), m.style.acts))
        waves = m.add("waves", Map("sin"), m.add("phases", Map("div"), angles, lengths))
        return m.add("wave_rows", Reshape((B, asked, self.at.d)), waves)

    def _layer(
        self, m: Maker, index: int, x: str, asked: tuple[str, str], image: tuple[str, str]
    ) -> str:
        """Adds a layer of the decoder; only the first adds places to contents of both."""
        name, d = f"layer{index}_", self.at.d
        own, waves = asked
        query, key = (
            m.add(
                f"{name}{part}_sum",
                Add(),
                m.linear(f"{name}{part}_content", x, d, d, True),
                m.linear(f"{name}{part}_place", own, d, d, True),
            )
            for part in "qk"
        )
        y = self._attended(m, name, query, key, m.linear(f"{name}v_proj", x, d, d, True))
        x = self._added(m, f"{name}attn", y, x)
        rows, places = image
        cross = f"{name}cross_"
        query = m.linear(f"{cross}q_content", x, d, d, True)
        key = m.linear(f"{cross}k_content", rows, d, d, True)
        value = m.linear(f"{cross}v_proj", rows, d, d, True)
        there = m.linear(f"{cross}k_place", places, d, d, True)
        if not index:
            where = m.linear(f"{cross}q_place", own, d, d, True)
            query = m.add(f"{cross}q_sum", Add(), query, where)
            key = m.add(f"{cross}k_sum", Add(), key, there)
        where = m.linear(f"{cross}q_wave", waves, d, d, True)
        query, key = (
            m.add(
                f"{cross}{part}_beside",
                Concat(),
                *(
                    m.add(f"{cross}{part}_heads{i}", self._split(m, p), p)
                    for i, p in enumerate(pair)
                ),
            )
            for part, pair in (("q", (query, where)), ("k", (key, there)))
        )
        y = self._attended(m, cross, query, key, value)
        x = self._added(m, f"{name}cross", y, x)
        return self._added(m, f"{name}mlp", self.fed.add(m, x, name), x)

    def _split(self, m: Maker, x: str) -> Reshape:
        return Reshape((*m.shape(x)[:2], self.own.heads, self.own.head_dim))

    def _attended(self, m: Maker, prefix: str, query: str, key: str, value: str) -> str:
        """Adds attention over rows, or over what is split into heads already."""
        query, key, value = (
            m.add(f"{prefix}{name}_heads", self._split(m, x), x) if len(m.shape(x)) == 3 else x
            for name, x in (("q", query), ("k", key), ("v", value))
        )
        mixed = attended(m, query, key, value, FULL, prefix=prefix)
        return self.own.out(m, mixed, prefix)

    def _added(self, m: Maker, name: str, made: str, x: str) -> str:
        return m.norm(f"{name}_norm", m.add(f"{name}_add", Add(), made, x), self.at.d, LAYER_NORM)
