"""Masks of all parts of an image: MaskFormer (arXiv 2107.06278), Mask2Former (arXiv 2112.01527)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.deformable import (
    GROUPS,
    ONE,
    one_width,
    over_maps,
    placed,
    shared_linear,
    shared_products,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv, group_norm, same_norm
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.detecting import PlacedLayer
from costgraph.models.stages import Maps
from costgraph.models.vision import OnePass
from costgraph.ops import Activation, Add, AsSequence, AttentionScores, AttentionValues, Softmax
from costgraph.ops.arrays import Fill, Join
from costgraph.ops.image import AsImage, Cut
from costgraph.ops.maps import Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B


@dataclass(frozen=True)
class Masks(OnePass):
    """A mask and a kind for each query.

    Attributes:
        stem: the network, and the stages that are read.
        fused: channels in which the stages come together.
        pixels: of the image that masks are products with.
        heads, feed: of the queries' layers; ``layers``: their number.
        queries: masks that are asked for.
        labels: kinds of parts and none; None for the bare model.
    """

    stem: Maps
    fused: Expr
    pixels: Expr
    heads: Heads
    feed: FeedForward
    layers: int
    queries: Expr
    labels: Expr | None

    def positions(self, style: Style) -> Expr:
        return self.stem.positions(style)

    @abstractmethod
    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B``."""

    def _side(self, m: Maker, name: str, x: str) -> str:
        """Adds a stage in the common width."""
        return group_norm(m, f"{name}_norm", conv(m, name, x, self.fused, 1, bias=False), GROUPS)

    def _mixed(self, m: Maker, name: str, x: str) -> str:
        """Adds a convolution with norm and activation."""
        x = conv(m, name, x, self.fused, 3, 1, 1, bias=False)
        return act(m, f"{name}_act", group_norm(m, f"{name}_norm", x, GROUPS), "relu")

    def _beneath(self, m: Maker, name: str, x: str, stage: str, mode: str) -> str:
        """Adds the next finer map: a stage, and the coarser map enlarged."""
        side = self._side(m, f"{name}_side", stage)
        larger = m.add(f"{name}_enlarge", Resize(m.shape(side), mode), x)
        return self._mixed(m, f"{name}_mix", m.add(f"{name}_add", Add(), larger, side))

    def _masks(self, m: Maker, name: str, x: str, pixels: str) -> str:
        """Adds masks ``(B, queries, h, w)`` by three products of the rows ``x``."""
        d, (_, wide, tall, across) = self.heads.d, m.shape(pixels)
        x = shared_products(m, f"{name}mask", "mask", x, (d, d, wide))
        flat = m.add(f"{name}pixels", Reshape((B, wide, tall * across)), pixels)
        made = m.add(f"{name}mask_matmul", MatMul(), x, flat)
        return m.add(f"{name}masks", Reshape((B, self.queries, tall, across)), made)


@dataclass(frozen=True)
class MaskFormer(Masks):
    """Queries attend to the coarsest stage, as DETR's do; a pyramid makes the pixels."""

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.heads.d
        *finer, last = self.stem.add(m)
        x = self._mixed(m, "coarse", last)
        for index, stage in enumerate(reversed(finer)):
            x = self._beneath(m, f"fuse{index}", x, stage, "nearest")
        pixels = conv(m, "pixel_proj", x, self.pixels, 3, 1, 1)
        rows = last if m.shape(last)[1] == d else conv(m, "input_proj", last, d, 1)
        count = Mul(*m.shape(rows)[2:])
        given = {
            "places": m.add(
                "query_places",
                Reshape((self.queries, d)),
                m.vector("queries.weight", self.queries, d),
            ),
            "image_rows": m.add("image_rows", AsSequence(), rows),
            "image_places": m.source(Tensor("grid_places", (count, d), style.acts)),
        }
        y = m.add("empty", Fill((B, self.queries, d), style.acts))
        layer = PlacedLayer(self.queries, self.heads, self.feed, count)
        y = run(m, (Segment("decoder", layer, Integer(self.layers)),), y, **given)
        y = m.norm("decoder_norm", y, d, LAYER_NORM)
        if self.labels is None:
            return m.build(y, pixels, last)
        kinds = m.linear("classifier", y, self.labels, d, True)
        return m.build(kinds, self._masks(m, "", y, pixels))


@dataclass(frozen=True)
class Mask2Former(Masks):
    """Queries attend to three maps in turn, each inside the mask that it has made before.

    Attributes:
        seen: feed-forward block of the layers over the maps; ``encoders``: their number.
        levels: of the maps, from coarse to fine; the first ``finer`` stages make finer ones yet.
        projected: maps pass a convolution each in front of the queries' layers.
        first: norms stand in front of the blocks.
    """

    seen: FeedForward
    encoders: Expr
    finer: int
    levels: int = 3
    projected: bool = False
    first: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.heads.d
        stages = self.stem.add(m)
        maps = one_width(m, stages[::-1][: self.levels], self.fused, self.levels)
        x, layer, given = over_maps(m, maps, int(self.heads.heads), 4, self.seen)
        grids = layer.read.grids
        x = run(m, (Segment("encoder", layer, self.encoders),), x, **given)
        parts = m.add_many("maps", Cut(tuple(Mul(*grid) for grid in grids)), x)
        maps = [
            m.add(f"map{i}_grid", AsImage(grid), part)
            for i, (part, grid) in enumerate(zip(parts, grids, strict=True))
        ]
        fine = maps[-1]
        for index, stage in enumerate(reversed(stages[: self.finer])):
            fine = self._beneath(m, f"fuse{index}", fine, stage, "linear")
        pixels = conv(m, "pixel_proj", fine, self.pixels, 1)
        table = m.vector("map_rows", Integer(self.levels), d)
        rows = []
        for index, image in enumerate(maps):
            image = conv(m, f"map{index}_proj", image, d, 1) if self.projected else image
            image = m.add(f"map{index}_rows", AsSequence(), image)
            row = m.add(f"map{index}_row", Slice(0, Integer(index), ONE), table)
            rows.append(m.add(f"map{index}_placed", Map("add"), image, row))
        places = [
            m.source(Tensor(f"map{i}_places", (Mul(*g), d), style.acts))
            for i, g in enumerate(grids)
        ]
        place, y = self._asked(m, pixels)
        made = self._next(m, "start_", y, pixels, grids[0])
        for index in range(self.layers):
            level = index % self.levels
            name = f"layer{index}_"
            y = self._layer(m, name, y, place, rows[level], places[level], made[0])
            made = self._next(m, name, y, pixels, grids[(index + 1) % self.levels])
        return m.build(*(made[1:] if self.labels is not None else (y, made[1], *maps)))

    def _asked(self, m: Maker, pixels: str) -> tuple[str, ...]:
        """Adds places of the queries, and the rows that they start with."""
        spread = Expand((B, self.queries, self.heads.d))
        return tuple(
            m.add(f"{n}_rows", spread, m.vector(f"{n}.weight", self.queries, self.heads.d))
            for n in ("query_places", "query_start")
        )

    def _next(
        self, m: Maker, name: str, x: str, pixels: str, grid: tuple[Expr, Expr]
    ) -> tuple[str, ...]:
        """Adds what stands behind rows: what the next layer may see, masks, and kinds."""
        x = same_norm(m, f"{name}normed", "decoder_norm", x)
        masks = self._masks(m, name, x, pixels)
        seen = m.add(f"{name}seen", Resize((B, self.queries, *grid), "linear"), masks)
        seen = m.add(f"{name}seen_share", Activation("sigmoid"), seen)
        seen = m.add(f"{name}seen_rows", Reshape((B, ONE, self.queries, Mul(*grid))), seen)
        seen = m.add(f"{name}seen_mask", Map("compare_constant"), seen)
        if self.labels is None:
            return seen, masks
        return seen, masks, shared_linear(m, f"{name}kind", "kind", x, self.labels)

    def _layer(
        self, m: Maker, name: str, x: str, place: str, rows: str, places: str, mask: str
    ) -> str:
        """Adds a layer: the image inside the masks, then the queries, then a feed-forward block."""
        for block in ("cross", "attn", "mlp"):
            y = self._normed(m, f"{name}{block}", x) if self.first else x
            if block == "cross":
                y = self._looks(m, name, y, place, rows, places, mask)
            elif block == "attn":
                y = placed(m, self.heads, y, place, name)
            else:
                y = self.feed.add(m, y, name)
            x = m.add(f"{name}{block}_add", Add(), y, x)
            x = x if self.first else self._normed(m, f"{name}{block}", x)
        return x

    def _normed(self, m: Maker, name: str, x: str) -> str:
        return m.norm(f"{name}_norm", x, self.heads.d, LAYER_NORM)

    def _looks(
        self, m: Maker, name: str, x: str, place: str, rows: str, places: str, mask: str
    ) -> str:
        """Adds attention to the places of a map that a query's mask covers."""
        at, prefix = self.heads, f"{name}cross_"
        query = at.project(m, "q", m.add(f"{prefix}q_place", Add(), x, place), prefix)
        key = at.project(m, "k", m.add(f"{prefix}k_place", Map("add"), rows, places), prefix)
        value = at.project(m, "v", rows, prefix)
        scores = m.add(f"{prefix}qk_matmul", AttentionScores(FULL), query, key)
        scores = m.add(f"{prefix}mask_add", Map("add"), scores, mask)
        shares = m.add(f"{prefix}softmax", Softmax(FULL), scores)
        return at.out(m, m.add(f"{prefix}sv_matmul", AttentionValues(FULL), shares, value), prefix)


@dataclass(frozen=True)
class OneFormer(Mask2Former):
    """OneFormer (Jain et al., arXiv 2211.06220): a task is read, and the queries hear of it.

    They look at the pixels before the layers of Mask2Former; the last query is the task itself.

    Attributes:
        task: tokens that a task is written in, read by two products.
        asking: layers in front.
        normed: the task passes the decoder's norm.
        scaled: a number of training rests in memory.
    """

    task: int = 77
    asking: int = 2
    normed: bool = True
    scaled: bool = False

    def _asked(self, m: Maker, pixels: str) -> tuple[str, ...]:
        d, count = self.heads.d, self.queries - 1
        if self.scaled:
            m.vector("training_scale", ONE)
        words = m.source(Tensor("task", (B, Integer(self.task)), m.style.acts))
        told = m.linear("task1", words, d, Integer(self.task), True)
        told = m.linear("task2", m.add("task_act", Activation("relu"), told), d, d, True)
        told = same_norm(m, "task_normed", "decoder_norm", told) if self.normed else told
        told = m.add("task_row", Reshape((B, ONE, d)), told)
        table = m.vector("queries.weight", self.queries, d)
        image = m.add("seen_rows", AsSequence(), conv(m, "seen_proj", pixels, d, 1))
        length = m.shape(image)[1]
        # In the class the rows are the places, and the places the pixels; it counts the same.
        given = {
            "places": m.add("asking_places", Slice(0, Integer(0), count), table),
            "image_rows": image,
            "image_places": m.source(Tensor("pixel_places", (length, d), m.style.acts)),
        }
        if self.normed:
            y = m.add("told", Expand((B, count, d)), told)
        else:
            y = m.add("told", Fill((B, count, d), m.style.acts))
        layer = PlacedLayer(count, self.heads, self.feed, length, self.first)
        y = run(m, (Segment("asking", layer, Integer(self.asking)),), y, **given)
        y = m.norm("asking_norm", y, d, LAYER_NORM)
        place = m.add("query_places", Expand((B, self.queries, d)), table)
        return place, m.add("query_start", Join(1), y, told)
