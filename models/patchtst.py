"""PatchTST (arXiv 2211.14730): layers over the patches of each channel of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program, single_pass
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import batch_norm
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.waves import as_channels
from costgraph.ops import Activation, Add, AsSequence, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B

ONE = Integer(1)
#: What is made of the positions of a channel.
MEAN, MOST, FIRST, ALL = "mean", "max", "first", "all"


@dataclass(frozen=True)
class PatchLayer:
    """A layer over ``(batch, length, d)`` whose norms may be batch norms.

    Attributes:
        batch, length: sequences and positions of each.
        at, feed: heads and feed-forward block.
        over_batch: norms are batch norms.
        first: norms stand in front of the blocks, or behind the sums.
    """

    batch: Expr
    length: Expr
    at: Heads
    feed: FeedForward
    over_batch: bool
    first: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (self.batch, self.length, self.at.d), style.acts))
        for name in ("attn", "mlp"):
            read = self._norm(m, f"{name}_norm", x) if self.first else x
            made = self._mixed(m, read) if name == "attn" else self.feed.add(m, read)
            x = m.add(f"{name}_add", Add(), made, x)
            if not self.first:
                x = self._norm(m, f"{name}_norm", x)
        return m.build(x)

    def _mixed(self, m: Maker, x: str) -> str:
        query, key, value = self.at.all(m, x)
        return self.at.out(m, attended(m, query, key, value, FULL))

    def _norm(self, m: Maker, name: str, x: str) -> str:
        if not self.over_batch:
            return m.norm(name, x, self.at.d, LAYER_NORM)
        x = batch_norm(m, name, as_channels(m, f"{name}_channels", x))
        return m.add(f"{name}_rows", AsSequence(), x)


@dataclass(frozen=True)
class PatchHead:
    """What a class makes of the last hidden states.

    Attributes:
        pooled: of the positions of a channel: their mean, the most, the first, or all of them.
        outs: widths of the products, each with bias: of a forecast, or of each parameter of its
            distribution.
        joined: channels of a series are read side by side.
        bounded: the answer passes a sigmoid and is scaled.
    """

    pooled: str
    outs: tuple[Expr, ...]
    joined: bool
    bounded: bool = False

    def add(self, m: Maker, x: str, channels: Expr) -> tuple[str, ...]:
        """Adds it; ``x (B·channels, n, d)``."""
        rows, count, d = m.shape(x)
        if self.pooled == FIRST:
            x = m.add("first_position", SelectLast(ONE), x)
        elif self.pooled != ALL:
            x = m.add("pooled", Reduce(self.pooled, (1,)), x)
        wide = d * count if self.pooled == ALL else d
        shape = (rows / channels, channels * wide) if self.joined else (rows, wide)
        x = m.add("flat", Reshape(shape), x)
        made = [
            m.linear(f"answer{n}", x, out, shape[1], True) for n, out in enumerate(self.outs, 1)
        ]
        if self.bounded:
            made = [m.add("answer_bounded", Activation("sigmoid"), y) for y in made]
        return tuple(made)


@dataclass(frozen=True)
class PatchMaskHead:
    """Values of each patch, made of its position (the class that is trained on masked ones)."""

    patch: Expr
    classed: bool

    def add(self, m: Maker, x: str, channels: Expr) -> tuple[str, ...]:
        """Adds it; ``x (B·channels, n, d)``."""
        _, count, d = m.shape(x)
        x = m.linear("answer", x, self.patch, d, True)
        return (m.add("without_class", Slice(1, ONE, count - 1), x) if self.classed else x,)


@dataclass(frozen=True)
class PatchSeries:
    """Layers over patches of series, each channel by itself.

    Attributes:
        channels, patches, patch: of a series, of a channel, and values of each.
        layer, layers: the layers.
        classed: a learned position stands in front of the patches.
        head: what its class makes of them, or None.
    """

    channels: Expr
    patches: Expr
    patch: Expr
    layer: PatchLayer
    layers: Expr
    classed: bool
    head: PatchHead | PatchMaskHead | None

    @property
    def limits(self) -> tuple[Limit, ...]:
        """None."""
        return ()

    def symbolic(self) -> NoReturn:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError("models of series of one length keep no symbolic dimensions")

    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B`` series."""
        m, d = Maker(name, style), self.layer.at.d
        rows = B * self.channels
        x = m.source(Tensor("patches", (rows, self.patches, self.patch), style.acts))
        x = m.linear("patch_proj", x, d, self.patch, True)
        if self.classed:
            first = m.add("class_rows", Expand((rows, ONE, d)), m.vector("class", ONE, ONE, d))
            x = m.add("classed", Join(1), first, x)
        table = m.vector("positions", m.shape(x)[1], d)
        x = run(
            m,
            (Segment("layers", self.layer, self.layers),),
            m.add("position_add", Add(), x, table),
        )
        return m.build(*(self.head.add(m, x, self.channels) if self.head else (x,)))

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``forward``."""
        return single_pass(name, self.graph(name, style))
