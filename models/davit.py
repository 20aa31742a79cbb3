"""DaViT (arXiv 2204.03645): attention in windows, then of channels with one another."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import WHOLE, Eyes, together
from costgraph.models.blocks.image import by_axes, channel_norm, conv, picture
from costgraph.models.blocks.pictures import Seen, Shown, Whole
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence, Split
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage, Rearrange
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class DualLayer:
    """A block in windows and a block of channels, each behind and around depthwise convolutions.

    Attributes:
        batch, size: images, height and width of the grid.
        at, feed: heads of windows, feed-forward block.
        groups: groups in which channels see one another.
        window: side of a window.
        bias: of queries, keys and values.
    """

    batch: Expr
    size: tuple[int, int]
    at: Heads
    feed: FeedForward
    groups: Expr
    window: int
    bias: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m = Maker("layer", style)
        size = tuple(map(Integer, self.size))
        x = m.source(Tensor("hidden", (self.batch, self.at.d, *size), style.acts))
        for name, mixed in (("window", self._windows), ("channel", self._channels)):
            x = self._around(m, f"{name}_first", x)
            rows = m.add(f"{name}_rows", AsSequence(), x)
            y = mixed(m, m.norm(f"{name}_attn_norm", rows, self.at.d, LAYER_NORM))
            rows = m.add(f"{name}_attn_add", Add(), y, rows)
            x = self._around(m, f"{name}_second", m.add(f"{name}_grid", AsImage(size), rows))
            rows = m.add(f"{name}_mlp_rows", AsSequence(), x)
            y = m.norm(f"{name}_mlp_norm", rows, self.at.d, LAYER_NORM)
            rows = m.add(f"{name}_mlp_add", Add(), self.feed.add(m, y, f"{name}_"), rows)
            x = m.add(f"{name}_out", AsImage(size), rows)
        return m.build(x)

    def _around(self, m: Maker, name: str, x: str) -> str:
        """Adds a depthwise convolution and the residual."""
        d = self.at.d
        return m.add(f"{name}_add", Add(), conv(m, f"{name}_conv", x, d, 3, 1, 1, d), x)

    def _windows(self, m: Maker, x: str) -> str:
        d, side = self.at.d, self.window
        tall, wide = (-(-n // side) for n in self.size)
        whole = (self.batch, Integer(tall * wide * side**2), d)
        start = m.shape(x)
        padded = whole != start
        x = m.add("pad", Resize(whole), x) if padded else x
        x = m.add("windows", Rearrange((self.batch * tall * wide, Integer(side**2), d)), x)
        query, key, value = self.at.all(m, x)
        x = self.at.out(m, attended(m, query, key, value, FULL))
        x = m.add("whole", Rearrange(whole), x)
        return m.add("crop", Resize(start), x) if padded else x

    def _channels(self, m: Maker, x: str) -> str:
        d, groups = self.at.d, self.groups
        split = (groups, d / groups)
        packed = m.linear("channel_qkv_proj", x, 3 * d, d, self.bias)
        parts = m.add_many("channel_qkv_split", Split((split,) * 3), packed)
        query, key, value = (
            m.add(f"channel_{n}", Transpose((0, 3, 2, 1)), part)
            for n, part in zip("qkv", parts, strict=True)
        )
        mixed = attended(m, query, key, value, FULL, prefix="channel_")
        mixed = m.add("channel_back", Transpose((0, 3, 2, 1)), mixed)
        return m.linear("channel_o_proj", mixed, d, d, True, contract=2)


@dataclass(frozen=True)
class Stage:
    """A stage: a convolution with a norm in front or behind, and its layers.

    Attributes:
        width, depth, heads, groups: channels, layers, heads of windows, groups of channels.
        patch, stride, padding: of the convolution.
        first: the norm stands in front of it.
    """

    width: int
    depth: int
    heads: int
    groups: int
    patch: int
    stride: int
    padding: int
    first: bool


@dataclass(frozen=True)
class DualEyes(Eyes):
    """Florence-2's tower (arXiv 2311.06242): DaViT, places down and across, a product, a norm.

    A token is the mean of all patches, the others are the patches.

    Attributes:
        channels, size: of the image.
        stages: from large to small.
        window, ratio, bias, activation: of the layers.
        places: rows of the tables of places down and across.
        out: width of the language model.
    """

    channels: Expr
    size: int
    stages: tuple[Stage, ...]
    window: int
    ratio: Expr
    bias: bool
    activation: str
    places: int
    out: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images of a size."""
        return (
            f"{WHOLE}, scaled to {self.size} x {self.size} pixels as the published processor does",
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the grid of each stage."""
        found, side = [], self.size
        for stage in self.stages:
            side = (side + 2 * stage.padding - stage.patch) // stage.stride + 1
            found.append(side)
        return tuple(found)

    @property
    def tokens(self) -> int:
        """Tokens of one image."""
        return self.sides[-1] ** 2 + 1

    def positions(self, style: Style) -> Expr:
        """Patches of all images of a sequence."""
        return G / self.tokens * self.sides[-1] ** 2

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[DualEyes, Seen]:
        """Any pictures: each is scaled to the tower's size."""
        return self, together(Whole(self.tokens), shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and projector: rows."""
        batch = B * G / self.tokens
        side = Integer(self.size)
        x = picture(m, batch, self.channels, (side, side))
        for index, (stage, n) in enumerate(zip(self.stages, self.sides, strict=True), start=1):
            d = Integer(stage.width)
            x = channel_norm(m, f"stage{index}_norm", x) if stage.first else x
            x = conv(m, f"stage{index}_embed", x, d, stage.patch, stage.stride, stage.padding)
            x = x if stage.first else channel_norm(m, f"stage{index}_norm", x)
            at = Heads(d, Integer(stage.heads), d / stage.heads, self.bias, self.bias, True, True)
            feed = FeedForward(d, self.ratio * d, self.activation, gated=False, bias=True)
            layer = DualLayer(
                batch, (n, n), at, feed, Integer(stage.groups), self.window, self.bias
            )
            x = run(m, (Segment(f"stage{index}", layer, Integer(stage.depth)),), x)
        return (self._projected(m, m.add("patches", AsSequence(), x), Integer(self.sides[-1])),)

    def _projected(self, m: Maker, x: str, n: Expr) -> str:
        """Adds places and the projector; ``x (batch, n², d)``."""
        d = m.shape(x)[2]
        places = by_axes(m, n, n, Integer(self.places), d)
        x = m.add("places_add", Add(), x, places)
        row = m.source(Tensor("frame_row", (d,), m.style.acts))
        x = m.add("frame_add", Add(), x, row)
        mean = m.add("mean", Reduce("mean", (1,), keep=True), x)
        x = m.add("mean_and_patches", Join(1), mean, x)
        x = m.linear("projector", x, self.out, d)
        x = m.norm("projector_norm", x, self.out, LAYER_NORM)
        return m.add("image_rows", Reshape((B, G, self.out)), x)
