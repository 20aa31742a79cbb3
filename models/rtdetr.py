"""RT-DETR (Zhao et al., arXiv 2304.08069): maps of three sizes, and the boxes they promise most."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from sympy import Expr, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.deformable import (
    FOUR,
    Grids,
    Points,
    QueryLayer,
    chosen,
    in_a_row,
    moved,
    promising,
    shared_products,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.blocks.stack import run
from costgraph.models.detecting import PlacedLayer, products
from costgraph.models.inverted import Step
from costgraph.models.stages import Maps
from costgraph.models.vision import OnePass
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.features import TakeRows
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Reduce
from costgraph.ops.pool import Resize


@dataclass(frozen=True)
class Fusing:
    """Maps of several sizes brought together, from the smallest up and back.

    Attributes:
        width, inner: channels of the maps, and inside a fusion.
        activation: behind convolutions.
    """

    width: int
    inner: int
    activation: str

    def add(self, m: Maker, maps: list[str]) -> list[str]:
        """Adds both ways: as many maps, from large to small."""
        above = [maps[-1]]
        for index, beside in enumerate(reversed(maps[:-1])):
            name = f"up{index}"
            above[-1] = self._side().add(m, f"{name}_side", above[-1])
            batch, d, tall, wide = m.shape(above[-1])
            larger = (batch, d, 2 * tall, 2 * wide)
            if m.shape(beside) != larger:
                raise InputError(
                    f"a map of {m.shape(beside)[2]} x {m.shape(beside)[3]} over one of {tall} x "
                    f"{wide}: images whose sides are multiples of 32 are understood"
                )
            x = m.add(f"{name}_enlarge", Resize(larger, "nearest"), above[-1])
            above.append(self._fused(m, name, x, beside))
        made = [above.pop()]
        for index, beside in enumerate(reversed(above)):
            x = self._shrunk(m, f"down{index}_shrink", made[-1])
            made.append(self._fused(m, f"down{index}", x, beside))
        return made

    def _side(self) -> Step:
        """What the smaller map passes before it is enlarged."""
        return Step(self.width, activation=self.activation)

    def _shrunk(self, m: Maker, name: str, x: str) -> str:
        """Adds the larger map, half as tall and wide."""
        return Step(self.width, 3, 2, activation=self.activation).add(m, name, x)

    def _fused(self, m: Maker, name: str, x: str, y: str) -> str:
        """Adds one map made of two."""
        both = m.add(f"{name}_beside", Join(1), x, y)
        x = self._halved(m, name, both, 3)
        out = Step(self.width, activation=self.activation)
        return x if self.inner == self.width else out.add(m, f"{name}_out", x)

    def _halved(self, m: Maker, name: str, x: str, layers: int) -> str:
        """Adds layers over one half of the channels; the other half is added to what they make."""
        enters = Step(self.inner, activation=self.activation)
        x, y = enters.add(m, f"{name}_deep", x), enters.add(m, f"{name}_flat", x)
        for index in range(1, layers + 1):
            part = f"{name}_layer{index}"
            large = Step(self.inner, 3).add(m, f"{part}_large", x)
            small = Step(self.inner, 1).add(m, f"{part}_small", x)
            x = act(m, f"{part}_act", m.add(f"{part}_add", Add(), large, small), self.activation)
        return m.add(f"{name}_add", Add(), x, y)


@dataclass(frozen=True)
class Promising(OnePass):
    """A detector whose decoder begins at the places of its maps that promise most.

    Attributes:
        stem: the convolutional network, and the stages that are read.
        at, feed: of the layers over single maps; ``layers``: their number.
        mixed: which maps they work on.
        fusing: what brings maps together.
        own, fed: heads and feed-forward block of the decoder; ``count``: its layers.
        queries, labels: boxes that are looked for, kinds of objects.
        trained: rows of a table that only training reads.
        boxed: boxes and kinds behind each layer; the bare model has none.
    """

    stem: Maps
    at: Heads
    feed: FeedForward
    layers: Expr
    mixed: tuple[int, ...]
    fusing: Fusing
    own: Heads
    fed: FeedForward
    count: int
    queries: Expr
    labels: Expr
    trained: Expr | None
    boxed: bool

    def positions(self, style: Style) -> Expr:
        return self.stem.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d, wide = Maker(name, style), self.own.d, self.at.d
        maps = []
        for index, x in enumerate(self.stem.add(m)):
            x = batch_norm(
                m, f"input{index}_norm", conv(m, f"input{index}", x, wide, 1, bias=False)
            )
            maps.append(self._mixed(m, index, x) if index in self.mixed else x)
        memory, grids = in_a_row(m, self._levels(m, self.fusing.add(m, maps)))
        if self.trained is not None:
            m.weight("trained.weight", self.trained, d)
        hidden, boxes, *promised = self._chosen(m, memory)
        return m.build(*self._decoded(m, hidden, boxes, memory, grids), *promised)

    def _levels(self, m: Maker, maps: list[str]) -> list[str]:
        """Adds the maps as the decoder reads them."""
        d = self.own.d
        return [
            batch_norm(m, f"level{i}_norm", conv(m, f"level{i}", x, d, 1, bias=False))
            for i, x in enumerate(maps)
        ]

    @abstractmethod
    def _decoded(
        self, m: Maker, hidden: str, boxes: str, memory: str, grids: Grids
    ) -> tuple[str, ...]:
        """Adds the decoder: what it answers with."""

    def _mixed(self, m: Maker, index: int, x: str) -> str:
        """Adds layers over one map."""
        size = m.shape(x)[2:]
        length = Mul(*size)
        places = m.source(Tensor(f"grid_places{index}", (length, self.at.d), m.style.acts))
        layer = PlacedLayer(length, self.at, self.feed)
        x = m.add(f"map{index}_rows", AsSequence(), x)
        x = run(m, (Segment(f"encoder{index}", layer, self.layers),), x, places=places)
        return m.add(f"map{index}_image", AsImage(size), x)

    def _chosen(self, m: Maker, memory: str) -> tuple[str, ...]:
        """Adds the choice: rows and boxes of the places that promise most, and all promises."""
        d, count, x = self.own.d, self.queries, promising(m, memory)
        kinds = m.linear("promise_kind", x, self.labels, d, True)
        moves = products(m, "promise_box", x, (d, d, FOUR), "relu")
        best = m.add("best_kind", Reduce("max", (2,)), kinds)
        places, boxes = chosen(m, best, moves, count)
        seen = m.add("promised_kinds", TakeRows(count), kinds, places)
        return m.add("promised_rows", TakeRows(count), x, places), boxes, seen


@dataclass(frozen=True)
class RTDetr(Promising):
    """RT-DETR, and its second version.

    ``points``: of a head on each map.
    """

    points: int

    def _decoded(
        self, m: Maker, hidden: str, boxes: str, memory: str, grids: Grids
    ) -> tuple[str, ...]:
        read = Points(self.own.d, int(self.own.heads), self.points, grids)
        for index in range(1, self.count + 1):
            hidden, boxes, kinds = self._layer(m, index, hidden, boxes, memory, read)
        return (kinds, boxes) if self.boxed else (hidden,)

    def _layer(
        self, m: Maker, index: int, x: str, boxes: str, memory: str, read: Points
    ) -> tuple[str, str, str]:
        """Adds a layer of the decoder: rows, boxes, kinds of objects."""
        d, name = self.own.d, f"layer{index}_"
        place = shared_products(m, f"{name}place", "box_place", boxes, (2 * d, d))
        x = QueryLayer(self.own, read, self.fed).add(m, name, x, place, memory, boxes)
        if not self.boxed:
            return x, boxes, ""
        move = products(m, f"{name}box", x, (d, d, FOUR), "relu")
        kinds = m.linear(f"{name}kind", x, self.labels, d, True)
        return x, moved(m, name, move, boxes), kinds
