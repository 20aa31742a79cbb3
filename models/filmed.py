"""V-JEPA 2 (Assran et al., arXiv 2506.09985): tubes of a video, and a guess at those left out."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.vision import OnePass, Tower
from costgraph.ops import Add
from costgraph.ops.arrays import Join
from costgraph.ops.features import TakeRows
from costgraph.ops.image import Cut
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class Guessing:
    """What guesses rows of patches from those that are seen.

    Attributes:
        at, feed, layers: of its transformer.
        masks: learned tokens, of which one stands for every patch that is guessed.
    """

    at: Heads
    feed: FeedForward
    layers: Expr
    masks: Expr

    def add(self, m: Maker, x: str) -> str:
        """Adds the guess of all patches ``x (B, n, d)`` from all of them."""
        _, count, wide = m.shape(x)
        d = self.at.d
        x = m.linear("guess_in", x, d, wide, True)
        tokens = m.add(
            "mask_token", Slice(0, ONE, ONE), m.vector("mask_tokens", self.masks, ONE, d)
        )
        x = m.add("guess_rows", Join(1), x, m.add("mask_rows", Expand((B, count, d)), tokens))
        x = self._ordered(m, "sorted", x)
        layer = TowerLayer(B, 2 * count, self.at, self.feed)
        # The table that rotates has other positions than the encoder's.
        given = {t.name: m.source(Tensor(f"guess_{t.name}", t.shape, t.dtype))
                 for t in layer.operands(m.style)}  # fmt: skip
        x = run(m, (Segment("guess_layers", layer, self.layers),), x, **given)
        x = self._ordered(m, "unsorted", m.norm("guess_norm", x, d, LAYER_NORM))
        x = m.add_many("guess_parts", Cut((count, count)), x)[1]
        return m.linear("guess_out", x, wide, d, True)

    def _ordered(self, m: Maker, name: str, x: str) -> str:
        """Adds all rows in another order."""
        batch, count, _ = m.shape(x)
        places = m.source(Tensor(f"{name}_places", (batch, count), INT64))
        return m.add(f"{name}_rows", TakeRows(count), x, places)

    def rest(self, m: Maker, wide: Expr) -> None:
        """All its weights, where nothing is guessed."""
        d, inner = self.at.d, self.feed.width
        layer = (4 * d + 2 * inner) * d + (9 if self.at.k_bias else 6) * d + inner
        m.weight("guess_layers.weight", self.layers, layer)
        m.vector("guess_ends.weight", 2 * wide * d + wide + (3 + self.masks) * d)


@dataclass(frozen=True)
class Attentive:
    """A query that attends to the rows behind a few more layers, in front of a classifier."""

    at: Heads
    feed: FeedForward
    layers: Expr

    def add(self, m: Maker, x: str) -> str:
        """Adds layers and query; ``x (B, n, d)`` to ``(B, d)``."""
        _, count, d = m.shape(x)
        layer = TowerLayer(B, count, self.at, self.feed)
        x = run(m, (Segment("pool_layers", layer, self.layers),), x)
        rows = m.norm("pool_rows_norm", x, d, LAYER_NORM)
        asked = m.add("query_rows", Expand((B, ONE, d)), m.vector("query_tokens", ONE, ONE, d))
        query = self.at.project(m, "q", asked, "pool_")
        key, value = (self.at.project(m, name, rows, "pool_") for name in "kv")
        y = attended(m, query, key, value, FULL, prefix="pool_")
        y = m.add("pool_row", Reshape((B, ONE, d)), y)
        x = m.add("pool_add", Add(), y, asked)
        y = self.feed.add(m, m.norm("pool_norm", x, d, LAYER_NORM), "pool_")
        return m.add("pooled", Reshape((B, d)), m.add("pool_mlp_add", Add(), y, x))


@dataclass(frozen=True)
class VJepa(OnePass):
    """V-JEPA 2.

    Attributes:
        tower: over the tubes of a video.
        guess: what guesses rows, which classifiers keep and do not run.
        pool, classes: of a classifier; None for the bare model.
    """

    tower: Tower
    guess: Guessing
    pool: Attentive | None
    classes: Expr | None

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.tower.at.d
        x = m.norm("final_norm", self.tower.add(m), d, LAYER_NORM)
        if self.pool is None or self.classes is None:
            return m.build(x, self.guess.add(m, x))
        self.guess.rest(m, d)
        return m.build(m.linear("classifier", self.pool.add(m, x), self.classes, d, True))
