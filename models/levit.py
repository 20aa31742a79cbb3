"""LeViT (Graham et al., arXiv 2104.01136): a transformer that shrinks, all norms over a batch."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.image import batch_norm, conv
from costgraph.models.blocks.stack import run
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence, RelativeBias, Scale
from costgraph.ops.image import MeanPool, Rearrange
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice
from costgraph.symbols import B

ONE = Integer(1)


def normed(m: Maker, name: str, x: str, out: Expr) -> str:
    """Adds a product without bias and a batch norm; rows ``(B, n, d)`` in and out."""
    batch, count, d = m.shape(x)
    x = m.linear(name, x, out, d)
    x = m.add(f"{name}_flat", Reshape((batch * count, out)), x)
    x = batch_norm(m, f"{name}_norm", x)
    return m.add(f"{name}_rows", Reshape((batch, count, out)), x)


def bent(m: Maker, name: str, x: str) -> str:
    """Adds the activation that is everywhere."""
    return m.add(name, Map("hard_swish"), x)


def fed(m: Maker, x: str, ratio: int, prefix: str = "") -> str:
    """Adds a feed-forward block and what it is added to."""
    d = m.shape(x)[2]
    y = bent(m, f"{prefix}mlp_act", normed(m, f"{prefix}up_proj", x, ratio * d))
    return m.add(f"{prefix}mlp_add", Add(), normed(m, f"{prefix}down_proj", y, d), x)


@dataclass(frozen=True)
class Heads:
    """Heads whose values are ``ratio`` times as wide as their keys of ``wide`` each.

    ``offsets``: rows of a table of biases by the distance of two places.
    """

    count: int
    wide: int
    ratio: int
    offsets: int

    def add(self, m: Maker, x: str, out: Expr, asked: str = "", prefix: str = "") -> str:
        """Adds the attention of ``asked``, or of the rows themselves, to rows ``x``."""
        queries = 0 if asked else self.wide
        each = queries + self.wide * (1 + self.ratio)
        packed = self._split(m, f"{prefix}qkv_proj", x, each)
        places = (queries, queries + self.wide, each)
        key, value = (
            m.add(f"{prefix}{name}", Slice(3, Integer(start), Integer(end - start)), packed)
            for name, start, end in (("k", *places[:2]), ("v", *places[1:]))
        )
        if asked:
            query = self._split(m, f"{prefix}q_proj", asked, self.wide)
        else:
            query = m.add(f"{prefix}q", Slice(3, length=Integer(self.wide)), packed)
        table = m.vector(f"{prefix}place_bias.weight", Integer(self.offsets), Integer(self.count))
        batch, count = m.shape(query)[:2]
        bias = m.add(f"{prefix}place_bias", RelativeBias(count, m.shape(x)[1]), table)
        y = attended(m, query, key, value, FULL, bias, prefix)
        y = m.add(
            f"{prefix}heads",
            Reshape((batch, count, Integer(self.count * self.wide * self.ratio))),
            y,
        )
        return normed(m, f"{prefix}o_proj", bent(m, f"{prefix}attn_act", y), out)

    def _split(self, m: Maker, name: str, x: str, each: int) -> str:
        heads = Integer(self.count)
        y = normed(m, name, x, heads * each)
        return m.add(f"{name}_heads", Reshape((*m.shape(x)[:2], heads, Integer(each))), y)


@dataclass(frozen=True)
class LevitLayer:
    """Attention and a feed-forward block over ``length`` rows of width ``d``."""

    length: Expr
    d: Expr
    at: Heads
    ratio: int

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.length, self.d), style.acts))
        x = m.add("attn_add", Add(), self.at.add(m, x, self.d), x)
        return m.build(fed(m, x, self.ratio))


@dataclass(frozen=True)
class LevitStage:
    """Layers of one width, and the heads that shrink what they made, or None.

    Attributes:
        width, depth: of the layers, and how many.
        at, ratio: heads, and how much wider feed-forward blocks are.
        shrink: heads of fewer queries, behind the layers.
        stride, wider: how many rows they skip, and the ratio of the block behind them.
    """

    width: int
    depth: int
    at: Heads
    ratio: int
    shrink: Heads | None
    stride: int = 2
    wider: int = 2


@dataclass(frozen=True)
class Levit(Pyramid):
    """The network.

    Attributes:
        kernel, stride, padding: of each of the four convolutions.
        stages: of layers.
        taught: a second classifier, whose answer is averaged with the first.
    """

    kernel: int
    stride: int
    padding: int
    stages: tuple[LevitStage, ...]
    taught: bool

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        if style.image not in (None, self.size):
            raise InputError(
                f"image: this network has a table for pictures of {self.size[0]} x {self.size[1]}"
            )
        x = self._stem(m)
        for index, stage in enumerate(self.stages):
            part, d = f"stage{index + 1}", Integer(stage.width)
            layer = LevitLayer(m.shape(x)[1], d, stage.at, stage.ratio)
            x = run(m, (Segment(part, layer, Integer(stage.depth)),), x)
            if stage.shrink is not None:
                x = self._shrunk(m, f"{part}_shrink_", x, stage, self.stages[index + 1].width)
        mean = m.add("pool", MeanPool(sequence=True), x)
        if self.classes is None:
            return m.build(x, mean)
        kinds = [self._classified(m, name, mean) for name in ("", "second_")[: 1 + self.taught]]
        if not self.taught:
            return m.build(*kinds)
        return m.build(m.add("half", Scale(), m.add("both", Add(), *kinds)))

    def _stem(self, m: Maker) -> str:
        x, taps = self.start(m), (self.kernel, self.stride, self.padding)
        for index in range(4):
            width = Integer(self.stages[0].width // 2 ** (3 - index))
            x = bent(m, f"stem{index - 1}_act", x) if index else x
            x = conv(m, f"stem{index}", x, width, *taps, bias=False)
            x = batch_norm(m, f"stem{index}_norm", x)
        return m.add("rows", AsSequence(), x)

    def _shrunk(self, m: Maker, name: str, x: str, stage: LevitStage, out: int) -> str:
        """Adds attention of every other row and column to all, and a feed-forward block."""
        assert stage.shrink is not None
        batch, count, d = m.shape(x)
        side, step = Integer(int(count**0.5)), Integer(stage.stride)
        short = (side - 1) // step + 1
        y = m.add(f"{name}grid", Reshape((batch, side, side, d)), x)
        for axis in (1, 2):
            y = m.add(f"{name}every{axis}", Slice(axis, length=short, step=step), y)
        y = m.add(f"{name}rows", Rearrange((batch, short**2, d)), y)
        x = stage.shrink.add(m, x, Integer(out), y, name)
        return fed(m, x, stage.wider, name)

    def _classified(self, m: Maker, name: str, x: str) -> str:
        assert self.classes is not None
        x = batch_norm(m, f"{name}classifier_norm", x)
        return m.linear(f"{name}classifier", x, self.classes, m.shape(x)[1], True)
