"""Hiera (Ryali et al., arXiv 2306.00989), also as SAM 2 has it (arXiv 2408.00714): a pyramid whose
queries are pooled where a stage begins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, picture, positions_of
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence, Split
from costgraph.ops.arrays import Copy
from costgraph.ops.image import AsImage, Interpolate, Rearrange
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Pool, Resize
from costgraph.ops.views import Reshape

ZERO, ONE, TWO = Integer(0), Integer(1), Integer(2)


@dataclass(frozen=True)
class HieraLayer:
    """A layer over a grid, in windows or whole; the first of a stage may halve the grid.

    Attributes:
        batch, size: images, height and width of the grid.
        source, d: widths in and out.
        heads: of ``d``.
        feed: the feed-forward block.
        window: side of the windows, or None for the whole grid.
        pools: queries are the largest of squares of two by two, and so are the rows beside them.
        ready: rows stand window by window already.
    """

    batch: Expr
    size: tuple[int, int]
    source: Expr
    d: Expr
    heads: Expr
    feed: FeedForward
    window: int | None
    pools: bool = False
    ready: bool = False

    @property
    def after(self) -> tuple[int, int]:
        """The grid behind the layer."""
        return (self.size[0] // 2, self.size[1] // 2) if self.pools else self.size

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        m = Maker("layer", style)
        shape = (self.batch, Integer(self.size[0] * self.size[1]), self.source)
        return m.build(self.add(m, m.source(Tensor("hidden", shape, style.acts))))

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the layer; ``x (batch, n, source)`` to ``(batch, n', d)``."""
        d = self.d
        y = m.norm(f"{prefix}attn_norm", x, self.source, LAYER_NORM)
        if self.source != d:
            x = m.linear(f"{prefix}beside_proj", y, d, self.source, True)
            x = self._pooled(m, f"{prefix}beside", x, self.size) if self.pools else x
        x = m.add(f"{prefix}attn_add", Add(), self._mixed(m, y, prefix), x)
        fed = self.feed.add(m, m.norm(f"{prefix}mlp_norm", x, d, LAYER_NORM), prefix)
        return m.add(f"{prefix}mlp_add", Add(), fed, x)

    def _pooled(self, m: Maker, name: str, x: str, size: tuple[int, int]) -> str:
        """Adds the largest of squares of two by two; ``x (batch, n, d)`` to a quarter."""
        grid = m.add(f"{name}_grid", AsImage(tuple(map(Integer, size))), x)
        grid = m.add(f"{name}_pool", Pool((TWO, TWO), (TWO, TWO), (ZERO, ZERO), (ONE, ONE)), grid)
        return m.add(f"{name}_rows", AsSequence(), grid)

    def _mixed(self, m: Maker, y: str, prefix: str) -> str:
        (height, width), side = self.size, self.window
        near, size, padded = self.batch, self.size, False
        if side is not None:
            tall, wide = -(-height // side), -(-width // side)
            whole = (self.batch, Integer(tall * wide * side**2), self.source)
            padded = whole[1] != height * width
            y = m.add(f"{prefix}pad", Resize(whole), y) if padded else y
            near, size = self.batch * tall * wide, (side, side)
            shape = (near, Integer(side**2), self.source)
            y = m.add(f"{prefix}windows", self._moved(shape), y)
        split = (self.heads, self.d / self.heads)
        packed = m.linear(f"{prefix}qkv_proj", y, 3 * self.d, self.source, True)
        query, key, value = m.add_many(f"{prefix}qkv_split", Split((split,) * 3), packed)
        if self.pools:
            rows = (near, m.shape(query)[1], self.d)
            query = m.add(f"{prefix}q_whole", Reshape(rows), query)
            query = self._pooled(m, f"{prefix}q", query, size)
            query = m.add(f"{prefix}q_heads", Reshape((*m.shape(query)[:2], *split)), query)
        mixed = attended(m, query, key, value, FULL, prefix=prefix)
        mixed = m.linear(f"{prefix}o_proj", mixed, self.d, self.d, True, contract=2)
        if side is None:
            return mixed
        count = Integer(self.after[0] * self.after[1])
        whole = (self.batch, m.shape(mixed)[1] * near / self.batch, self.d)
        mixed = m.add(f"{prefix}whole", self._moved(whole), mixed)
        if not padded:
            return mixed
        return m.add(f"{prefix}crop", Resize((self.batch, count, self.d)), mixed)

    def _moved(self, shape: tuple[Expr, ...]) -> Op:
        """Rows in another order, unless they stand so."""
        return Reshape(shape) if self.ready else Rearrange(shape)


@dataclass(frozen=True)
class HieraStages(ABC):
    """Overlapping patches, positions, and stages of layers.

    Attributes:
        channels, size: of the image.
        kernel, stride, padding: of the convolution in front.
        widths, depths, heads, windows: of each stage.
        whole: layers, counted from zero, that see the whole grid.
        pooling: stages behind the first one that halve the grid.
        ratio: feed-forward width over width.
        activation: of the feed-forward blocks.
    """

    channels: Expr
    size: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    whole: frozenset[int]
    pooling: int
    ratio: Expr
    activation: str

    #: Rows stand window by window.
    ready: ClassVar[bool] = False

    @abstractmethod
    def placed(self, m: Maker, x: str) -> str:
        """Adds positions to the rows of patches ``x``."""

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each stage's grid."""
        first = tuple((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)
        found = [(first[0], first[1])]
        for stage in range(1, len(self.widths)):
            tall, wide = found[-1]
            halves = stage <= self.pooling
            found.append((tall // 2, wide // 2) if halves else (tall, wide))
        return tuple(found)

    def add(self, m: Maker, batch: Expr) -> tuple[str, ...]:
        """Adds the pyramid: what each stage makes, ``(batch, n, d)``."""
        d = Integer(self.widths[0])
        x = picture(m, batch, self.channels, tuple(map(Integer, self.size)))
        x = conv(m, "patch_embed", x, d, self.kernel, self.stride, self.padding)
        x = self.placed(m, m.add("patch_rows", AsSequence(), x))
        made, index = [], 0
        for stage, depth in enumerate(self.depths):
            layers = []
            for place in range(depth):
                layer = self._layer(batch, stage, place, index)
                kind = "whole" if index in self.whole else "window"
                if stage > 0 and place == 0:
                    x = layer.add(m, x, f"stage{stage + 1}_first_")
                else:
                    layers.append((f"stage{stage + 1}_{kind}", layer))
                index += 1
            x = run(m, gathered(layers), x)
            made.append(x)
        return tuple(made)

    def _layer(self, batch: Expr, stage: int, place: int, index: int) -> HieraLayer:
        """Layer ``index``, the one at ``place`` of a stage."""
        begins = stage > 0 and place == 0
        before = stage - 1 if begins else stage
        d = Integer(self.widths[stage])
        window = None if index in self.whole else self.windows[before]
        return HieraLayer(
            batch,
            self.grids[before],
            Integer(self.widths[before]),
            d,
            Integer(self.heads[stage]),
            FeedForward(d, self.ratio * d, self.activation, gated=False, bias=True),
            window,
            begins and stage <= self.pooling,
            self.ready,
        )


@dataclass(frozen=True)
class Hiera(HieraStages):
    """SAM 2's encoder: positions come from two tables.

    Attributes:
        background: rows of the table of positions that is resampled, down and across.
        tile: side of the table that is repeated over the grid.
    """

    background: tuple[int, int]
    tile: int

    def placed(self, m: Maker, x: str) -> str:
        _, count, d = m.shape(x)
        rows = Integer(self.background[0] * self.background[1])
        table = m.weight("positions.weight", rows, d)
        table = m.add("position_resample", Interpolate(count, 16), table)
        tile = m.weight("tile.weight", Integer(self.tile**2), d)
        tile = m.add("tile_copies", Copy((count, d)), tile)
        return m.add("position_add", Add(), x, m.add("tile_add", Add(), table, tile))


@dataclass(frozen=True)
class UnrolledHiera(HieraStages):
    """Hiera as it was published first: one table of ``rows`` positions; rows are ordered once.

    Each stage's rows stand window by window, and what is pooled stands apart.
    """

    rows: Expr

    ready: ClassVar[bool] = True

    def placed(self, m: Maker, x: str) -> str:
        _, count, d = m.shape(x)
        x = m.add("position_add", Add(), x, positions_of(m, self.rows, count, d))
        return m.add("unrolled", Rearrange(m.shape(x)), x)


@dataclass(frozen=True)
class Neck:
    """The pyramid, each stage brought to ``d`` channels, coarser ones added to some of the finer.

    Attributes:
        pyramid: the encoder.
        d: channels.
        down: stages, counted from zero, that what is above them is enlarged and added to.
        levels: how many of the finest stages are taken.
    """

    pyramid: Hiera
    d: Expr
    down: frozenset[int]
    levels: int

    @property
    def size(self) -> int:
        """Side of the image."""
        return self.pyramid.size[0]

    @property
    def side(self) -> int:
        """Side of the coarsest grid that is taken."""
        return self.pyramid.grids[self.levels - 1][0]

    @property
    def out(self) -> Expr:
        """Channels."""
        return self.d

    def maps(self, m: Maker, batch: Expr) -> tuple[str, ...]:
        """Adds pyramid and neck: ``(batch, d, h, w)`` of the levels, the coarsest last."""
        stages = self.pyramid.add(m, batch)
        made: list[str] = []
        above = ""
        for index in reversed(range(len(stages))):
            size = tuple(map(Integer, self.pyramid.grids[index]))
            x = m.add(f"neck{index}_grid", AsImage(size), stages[index])
            x = conv(m, f"neck{index}", x, self.d, 1)
            if above and index in self.down:
                wide = m.add(f"neck{index}_enlarge", Resize(m.shape(x)), above)
                x = m.add(f"neck{index}_add", Add(), wide, x)
            above = x
            made.append(x)
        return tuple(reversed(made))[: self.levels]
