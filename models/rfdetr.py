"""RF-DETR (Robinson et al., arXiv 2511.09554): DINOv2 in windows, and boxes read from one map."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.deformable import (
    FOUR,
    TWO,
    Points,
    QueryLayer,
    box_waves,
    in_a_row,
    promising,
    shared_linear,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, channel_norm, conv, same_norm
from costgraph.models.blocks.stack import run
from costgraph.models.detecting import products
from costgraph.models.vision import OnePass, Tower
from costgraph.ops.arrays import Join
from costgraph.ops.features import TakeRows
from costgraph.ops.image import AsImage, Cut, Rearrange
from costgraph.ops.maps import Map, Reduce, TopK
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class WindowedTower:
    """A transformer whose layers see windows of the picture, each with a class token of its own.

    Attributes:
        tower: the transformer; all its layers run.
        side: windows along each side of a picture.
        taken: after how many layers rows are taken.
        whole: numbers of layers, from 0, whose positions see all windows.
        normed: rows that are taken pass the back norm.
        mask: a vector for masked patches rests in memory.
    """

    tower: Tower
    side: int
    taken: tuple[int, ...]
    whole: frozenset[int]
    normed: bool
    mask: bool

    def maps(self, m: Maker) -> list[str]:
        """Adds the transformer: images of what is taken."""
        tower, windows = self.tower, Integer(self.side**2)
        size, patch, d = tower.sized(m.style), tower.patches.patch, tower.at.d
        if any(n % (p * self.side) for n, p in zip(size, patch, strict=True)):
            raise InputError(
                f"image: {size[0]} x {size[1]} pixels: {self.side} x {self.side} windows of "
                f"patches of {patch[0]} must fill it"
            )
        if self.mask:
            m.vector("mask_token", d)
        grid = (size[0] // patch[0], size[1] // patch[1])
        count = Mul(*grid)
        first, rest = m.add_many("lead_parts", Cut((ONE, count)), tower.patched(m, B))
        rest = m.add("windows", Rearrange((B * windows, count / windows, d)), rest)
        row = m.add("lead_row", Reshape((B, ONE, ONE, d)), first) if self.side > 1 else first
        if self.side > 1:
            row = m.add("lead_each", Expand((B, windows, ONE, d)), row)
            row = m.add("lead_rows", Reshape((B * windows, ONE, d)), row)
        x = m.add("windows_led", Join(1), row, rest)
        inside = count / windows + 1
        x = m.add("rows", Reshape((B, windows * inside, d)), x)
        made = []
        for stage, rows in zip(self.taken, self._taken(m, x, windows), strict=True):
            y = same_norm(m, f"taken{stage}_norm", "final_norm", rows) if self.normed else rows
            y = m.add(f"taken{stage}_windows", Reshape((B * windows, inside, d)), y)
            y = m.add_many(f"taken{stage}_parts", Cut((ONE, inside - 1)), y)[1]
            y = m.add(f"taken{stage}_rows", Rearrange((B, count, d)), y)
            made.append(m.add(f"taken{stage}_image", AsImage(grid), y))
        for part in ("weight", "bias"):
            m.vector(f"final_norm.{part}", d)
        return made

    def _taken(self, m: Maker, x: str, windows: Expr) -> list[str]:
        """Adds all layers: the rows that are taken."""
        tower, made = self.tower, {0: x}
        layer = tower.layer(B, m.shape(x)[1])
        layers = range(int(tower.layers))
        ends = {0, *self.taken, len(layers)}
        ends |= {i for i in layers if i and (i in self.whole) != (i - 1 in self.whole)}
        for start, end in itertools.pairwise(sorted(ends)):
            near = None if start in self.whole else windows
            part = Segment(
                f"vision_layers{end}", replace(layer, windows=near), Integer(end - start)
            )
            made[end] = run(m, (part,), made[start])
        return [made[stage] for stage in self.taken]


@dataclass(frozen=True)
class Gathering:
    """Maps side by side become one: layers over one half of the channels, all results kept."""

    width: int
    inner: int
    layers: int
    activation: str

    def add(self, m: Maker, maps: list[str]) -> str:
        """Adds the layers: one image."""
        x = m.add("maps_beside", Join(1), *maps) if len(maps) > 1 else maps[0]
        x = self._step(m, "gather_enter", x, 2 * self.inner, 1)
        half = Integer(self.inner)
        every = [m.add(f"gather_half{i}", Slice(1, i * half, half), x) for i in (0, 1)]
        for index in range(self.layers):
            x = every[-1]
            for part in "12":
                x = self._step(m, f"gather{index}_{part}", x, self.inner, 3)
            every.append(x)
        x = self._step(m, "gather_out", m.add("gather_every", Join(1), *every), self.width, 1)
        return channel_norm(m, "gather_norm", x)

    def _step(self, m: Maker, name: str, x: str, out: int, kernel: int) -> str:
        x = conv(m, name, x, Integer(out), kernel, 1, kernel // 2, bias=False)
        return act(m, f"{name}_act", channel_norm(m, f"{name}_norm", x), self.activation)


def refined(m: Maker, name: str, boxes: str, moves: str) -> str:
    """Adds boxes whose middles are moved by shares of their sizes, and sizes multiplied."""
    middle, size = (
        m.add(f"{name}_{part}", Slice(2, start, TWO), boxes)
        for part, start in (("middle", ZERO), ("size", TWO))
    )
    way, growth = (
        m.add(f"{name}_{part}", Slice(2, start, TWO), moves)
        for part, start in (("way", ZERO), ("growth", TWO))
    )
    way = m.add(f"{name}_way_size", Map("mul"), way, size)
    middle = m.add(f"{name}_moved", Map("add"), way, middle)
    growth = m.add(f"{name}_grown", Map("exp"), growth)
    return m.add(f"{name}_boxes", Join(2), middle, m.add(f"{name}_sized", Map("mul"), growth, size))


@dataclass(frozen=True)
class RFDetr(OnePass):
    """RF-DETR.

    Attributes:
        seen: the transformer over the picture.
        gather: what makes one map of its images.
        own, feed, layers: heads, feed-forward block and layers of the decoder.
        heads, points: heads and points of each that read the map.
        queries, labels: boxes that are looked for, kinds of objects.
        groups: sets of queries and of what promises, of which one is used and all rest in memory.
        boxed: boxes and kinds behind the decoder; the bare model has none.
    """

    seen: WindowedTower
    gather: Gathering
    own: Heads
    feed: FeedForward
    layers: int
    heads: int
    points: int
    queries: Expr
    labels: Expr
    groups: int
    boxed: bool

    def positions(self, style: Style) -> Expr:
        return self.seen.tower.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d, asked = Maker(name, style), self.own.d, self.queries
        memory, grids = in_a_row(m, [self.gather.add(m, self.seen.maps(m))])
        boxes, *promised = self._chosen(m, memory)
        rows = asked * self.groups
        y = self._first(m, "queries", m.vector("queries.weight", rows, d))
        ratios = m.source(Tensor("picture_shares", (ONE, ONE, FOUR), m.style.acts))
        boxes = m.add("boxes_shown", Map("mul"), boxes, ratios)
        place = products(m, "place", box_waves(m, "box_", boxes, d), (d, d), "relu")
        layer = QueryLayer(self.own, Points(d, self.heads, self.points, grids), self.feed)
        for index in range(self.layers):
            y = layer.add(m, f"layer{index}_", y, place, memory, boxes)
            made = same_norm(m, f"layer{index}_norm", "decoder_norm", y)
        self._idle(m)
        if not self.boxed:
            return m.build(made, *promised)
        moves = products(m, "box", made, (d, d, FOUR), "relu")
        seen = shared_linear(m, "promised_kinds", "promise_kind", promised[0], self.labels)
        kinds = m.linear("classifier", made, self.labels, d, True)
        return m.build(kinds, refined(m, "last", boxes, moves), seen)

    def _first(self, m: Maker, name: str, table: str) -> str:
        """Adds the first set of a table of queries, for each of a batch."""
        wide = m.shape(table)[1]
        x = m.add(f"{name}_set", Slice(0, ZERO, self.queries), table)
        x = m.add(f"{name}_row", Reshape((ONE, self.queries, wide)), x)
        return m.add(f"{name}_each", Expand((B, self.queries, wide)), x)

    def _chosen(self, m: Maker, memory: str) -> tuple[str, str]:
        """Adds the choice: boxes of the places that promise most, and their rows."""
        d, asked = self.own.d, self.queries
        x = promising(m, memory)
        kinds = shared_linear(m, "promise_kind_all", "promise_kind", x, self.labels)
        moves = products(m, "promise_box", x, (d, d, FOUR), "relu")
        anchors = m.source(Tensor("anchors", (B, m.shape(x)[1], FOUR), m.style.acts))
        moved = refined(m, "promise", anchors, moves)
        best = m.add("best_kind", Reduce("max", (2,)), kinds)
        places = m.add_many("most", TopK(asked, 1), best)[1]
        rows = m.add("promised_rows", TakeRows(asked), x, places)
        boxes = m.add("promised_boxes", TakeRows(asked), moved, places)
        own = self._first(m, "boxes", m.vector("boxes.weight", asked * self.groups, FOUR))
        return refined(m, "first", boxes, own), rows

    def _idle(self, m: Maker) -> None:
        """What the other sets promise by."""
        d = self.own.d
        for group in range(1, self.groups):
            name = f"set{group}_promise"
            shapes = {
                "proj": (d, d), "kind": (self.labels, d), "box1": (d, d), "box2": (d, d),
                "box3": (FOUR, d),
            }  # fmt: skip
            for part, shape in shapes.items():
                m.weight(f"{name}_{part}.weight", *shape)
                m.vector(f"{name}_{part}.bias", shape[0])
            for part in ("weight", "bias"):
                m.vector(f"{name}_norm.{part}", d)
