"""Towers that halve their grid between two of their layers: MiniCPM-V 4.6."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Eyes, together
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, picture
from costgraph.models.blocks.pictures import Seen, Shown
from costgraph.models.blocks.projector import Acted, Beside, Normed, Product, Steps, project
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.ops import Activation, Add, Embedding
from costgraph.ops.image import Rearrange
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

FOUR = Integer(4)


@dataclass(frozen=True)
class HalvingTower(Eyes):
    """One image per sequence, of any size: ``G`` tokens come from ``16·G`` patches, or from
    ``4·G`` where nothing is halved.

    Behind ``first`` layers the patches of each square of two by two see one another, and
    become one row; the other layers see a quarter as many. Squares of two by two of those
    become a token.

    Attributes:
        at, feed: heads and feed-forward block of all layers.
        first, layers: layers in front of the halving, and all.
        channels, patch: channels of the image, side of a patch.
        rows: rows of the table of positions.
        inner: width of the block that makes one row of four.
        out: width of the language model.
        halves: whether it halves at all; the weights of the halving rest in memory otherwise.
    """

    at: Heads
    feed: FeedForward
    first: int
    layers: int
    channels: Expr
    patch: Expr
    rows: Expr
    inner: Expr
    out: Expr
    halves: bool = True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One image."""
        return ("one image per sequence, of G tokens, which the prompt's S tokens include",)

    def positions(self, style: Style) -> Expr:
        """Patches per sequence."""
        return 16 * G if self.halves else 4 * G

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[HalvingTower, Seen]:
        """Refused: how pictures are cut is not known here."""
        return self, together(None, shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows."""
        d, count = self.at.d, self.positions(m.style)
        x = picture(m, B * count, self.channels, (self.patch, self.patch), "patches")
        x = conv(m, "patch_embed", x, d, (self.patch,) * 2, (self.patch,) * 2)
        x = m.add("patch_rows", Reshape((B, count, d)), x)
        ids = m.source(Tensor("place_ids", (B, count), INT64))
        table = m.weight("positions.weight", self.rows, d)
        places = m.add("position_embed", Embedding(result=m.style.acts), ids, table)
        x = m.add("position_add", Add(), x, places)
        x = self._layers(m, "large", x, self.first)
        if self.halves:
            x = self._halved(m, x)
        else:
            m.vector("halving.rows", self._resting)
        x = self._layers(m, "small", x, self.layers - self.first)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        steps: Steps = (
            Beside(FOUR, copied=True),
            Normed(LAYER_NORM),
            Product("1", 4 * d),
            Acted("gelu"),
            Product("2", self.out),
        )
        return (project(m, "merger", x, steps),)

    @property
    def _resting(self) -> Expr:
        """Parameters of the halving: four products of the attention, norms, and a block."""
        d, inner = self.at.d, self.inner
        return 4 * d * (d + 1) + 2 * d + 8 * d + (4 * d + 1) * inner + (inner + 1) * d

    def _layers(self, m: Maker, name: str, x: str, count: int) -> str:
        layer = TowerLayer(B, m.shape(x)[1], self.at, self.feed)
        return run(m, (Segment(f"{name}_vision_layers", layer, Integer(count)),), x) if count else x

    def _halved(self, m: Maker, x: str) -> str:
        """Adds attention inside squares, and the block that makes one row of each."""
        batch, count, d = m.shape(x)
        x = m.add("squares", Rearrange((batch * count / 4, FOUR, d)), x)
        y = m.norm("square_norm", x, d, LAYER_NORM)
        query, key, value = (self.at.project(m, name, y, "square_") for name in "qkv")
        mixed = attended(m, query, key, value, FULL, prefix="square_")
        mixed = self.at.out(m, mixed, "square_")
        x = m.add("square_add", Add(), mixed, x)
        mean = m.add("square_mean", Reduce("mean", (1,)), x)
        flat = m.add("square_rows", Reshape((batch * count / 4, 4 * d)), x)
        flat = m.norm("halving_norm", flat, 4 * d, LAYER_NORM)
        flat = m.linear("halving_1", flat, self.inner, 4 * d, True)
        flat = m.add("halving_act", Activation("gelu_tanh"), flat)
        flat = m.linear("halving_2", flat, d, self.inner, True)
        x = m.add("halving_add", Add(), flat, mean)
        return m.add("halved", Reshape((batch, count / 4, d)), x)
