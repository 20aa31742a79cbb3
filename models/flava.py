"""FLAVA (Singh et al., arXiv 2112.04482): an image, a text, and layers over both."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.splicing import spliced
from costgraph.models.blocks.stack import positions_end, run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.lxmert import read
from costgraph.models.vision import OnePass, Tower
from costgraph.ops import Activation, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.image import Prepend
from costgraph.ops.views import Reshape
from costgraph.symbols import B, S

ONE = Integer(1)


@dataclass(frozen=True)
class Layers:
    """Heads and feed-forward block of so many equal layers."""

    at: Heads
    feed: FeedForward
    count: int

    def add(self, m: Maker, name: str, x: str) -> tuple[str, str, str]:
        """Adds the layers over ``x (B, n, d)``: rows, rows behind a norm, and a pooled vector."""
        layer = TowerLayer(B, m.shape(x)[1], self.at, self.feed)
        x = run(m, (Segment(f"{name}_layers", layer, Integer(self.count)),), x)
        return (x, *pooled(m, name, x))


def pooled(m: Maker, name: str, x: str) -> tuple[str, str]:
    """Adds the norm behind rows ``(B, n, d)``, and a product and tanh of the first of them."""
    d = m.shape(x)[2]
    y = m.norm(f"{name}_norm", x, d, LAYER_NORM)
    first = m.add(f"{name}_vector", Reshape((B, d)), m.add(f"{name}_first", SelectLast(ONE), y))
    first = m.linear(f"{name}_pooler", first, d, d, True)
    return y, m.add(f"{name}_pooler_act", Activation("tanh"), first)


@dataclass(frozen=True)
class Flava(OnePass):
    """``B`` images, each with a text of ``S`` tokens.

    Attributes:
        tower: of images; ``mask``: a vector for masked patches rests in memory.
        vocab, places, types: rows of the tables of words, of positions and of types.
        words: layers over texts; ``both``: over what is made of both.
        led: a learned token stands in front of both.
        width: of the common space, whose projections rest in memory.
    """

    tower: Tower
    mask: bool
    vocab: Expr
    places: int
    types: Expr
    words: Layers
    both: Layers
    led: bool
    width: Expr

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style) + S + int(self.led)

    @property
    def limits(self) -> tuple[Limit, ...]:
        return positions_end(S, self.places)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.both.at.d
        if self.mask:
            m.vector("mask_token", self.tower.at.d)
        for part, wide in (("image", self.tower.at.d), ("text", self.words.at.d)):
            m.weight(f"{part}_joint.weight", self.width, wide)
            m.vector(f"{part}_joint.bias", self.width)
        m.vector("logit_scale", ONE)
        image = self.tower.add(m)
        made = [*pooled(m, "image", image)]
        (text,) = spliced(m, "text", self._read)
        text, *more = self.words.add(m, "text", text)
        x, y = (
            m.linear(f"{part}_proj", rows, d, m.shape(rows)[2], True)
            for part, rows in (("image", image), ("text", text))
        )
        x = m.add("image_and_text", Join(1), x, y)
        if self.led:
            x = self._led(m, x)
        _, *last = self.both.add(m, "both", x)
        return m.build(*made, *more, *last)

    def _read(self, m: Maker) -> tuple[str, ...]:
        """Adds the words."""
        return (read(m, self.vocab, self.places, self.types, self.words.at.d),)

    def _led(self, m: Maker, x: str) -> str:
        """Adds a learned token in front of rows."""
        d = m.shape(x)[2]
        token = m.add("both_row", Reshape((ONE, d)), m.vector("both_token", d))
        return m.add("both_rows", Prepend(), token, x)
