"""SAM 3 (arXiv 2511.16719): boxes and masks of all that a text names in a picture.

``B`` pictures, each with a text of ``S`` tokens. Rows of the picture attend to one another and to
the text, queries to one another, to the text and to the picture; boxes that they make say where
they look. What reads boxes that are shown as examples rests in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.deformable import box_waves, moved, shared_products
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv, group_norm, same_norm
from costgraph.models.blocks.sam3 import TurnedEncoder
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass, TextTower
from costgraph.ops import Activation, Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape, Slice, Transpose
from costgraph.symbols import B, S

ONE, TWO, FOUR = Integer(1), Integer(2), Integer(4)
#: Groups of the norms behind convolutions.
GROUPS = Integer(8)


def asked(
    m: Maker, at: Heads, prefix: str, query: str, key: str, value: str, bias: str = ""
) -> str:
    """Adds attention with projections of its own; rows ``(B, n, d)`` in and out."""
    given = (("q", query), ("k", key), ("v", value))
    q, k, v = (at.project(m, part, x, prefix) for part, x in given)
    return at.out(m, attended(m, q, k, v, FULL, bias, prefix), prefix)


@dataclass(frozen=True)
class NamedLayer:
    """Rows of a picture attend to one another, which their places stand in, and to a text.

    Norms stand in front.
    """

    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Places of the rows, and the text."""
        d = self.at.d
        return (
            Tensor("places", (self.length, d), style.acts),
            Tensor("text", (B, S, d), style.acts),
        )

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        y = m.norm("attn_norm", x, d, LAYER_NORM)
        placed = m.add("q_place", Add(), y, "places")
        x = m.add("attn_add", Add(), asked(m, self.at, "", placed, placed, y), x)
        y = m.norm("cross_norm", x, d, LAYER_NORM)
        x = m.add("cross_add", Add(), asked(m, self.at, "cross_", y, "text", "text"), x)
        y = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class Examples:
    """What reads boxes shown as examples; it rests in memory.

    Attributes:
        at, feed, layers: of its layers, which attend to themselves and to the picture.
        side: of the square that a box's part of the picture is resampled to.
    """

    at: Heads
    feed: FeedForward
    layers: int
    side: int

    @property
    def numbers(self) -> Expr:
        """Its parameters."""
        d, inner = self.at.d, self.feed.width
        product = d * (d + 1)
        layer = 8 * product + 2 * d * inner + inner + d + 6 * d
        # Kinds of boxes and one more row; four products, of which one is over the square; norms.
        read = 3 * d + 5 * d + (d * self.side**2 + 1) * d + (d + 3) * d + product + 6 * d
        return self.layers * layer + read


@dataclass(frozen=True)
class ConceptSegmenter(OnePass):
    """SAM 3's detector on pictures.

    Attributes:
        encoder: of pictures, with its maps.
        text: of texts.
        at, feed, layers: of the layers over the picture's rows.
        own, fed, count: of those over queries.
        queries: boxes that are asked for.
        shown: what reads examples.
        looks: heads of the pixels' attention to the text.
        mixes: convolutions that there are for the maps.
    """

    encoder: TurnedEncoder
    text: TextTower
    at: Heads
    feed: FeedForward
    layers: int
    own: Heads
    fed: FeedForward
    count: int
    queries: Expr
    shown: Examples
    looks: Heads
    mixes: int

    def positions(self, style: Style) -> Expr:
        return Integer(self.encoder.side**2)

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.text.limits

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        # The coarsest map is made, and nothing reads it.
        _, *maps, unread = self.encoder.maps(m, B)
        words, end = self.text.add(m)
        assert self.text.width is not None
        end = m.linear("text_joint", end, self.text.width, self.text.text.d)
        text = m.linear("text_proj", words, d, self.text.text.d, True)
        x = m.add("image_rows", AsSequence(), maps[-1])
        length = m.shape(x)[1]
        places = m.source(Tensor("grid_places", (length, d), style.acts))
        layer = NamedLayer(length, self.at, self.feed)
        segment = Segment("encoder", layer, Integer(self.layers))
        x = run(m, (segment,), x, places=places, text=text)
        rows, boxes, sure = self._queries(m, x, text, places)
        m.vector("examples.rows", self.shown.numbers)
        scores = self._scores(m, rows, text)
        masks, kinds = self._masks(m, rows[-1], x, text, maps)
        return m.build(masks, boxes, scores, sure, kinds, end, unread)

    def _queries(self, m: Maker, image: str, text: str, places: str) -> tuple[list[str], str, str]:
        """Adds the layers of the queries: their rows behind each, the last boxes, and whether
        there is anything at all."""
        d, count = self.own.d, self.queries
        points = m.add("points", Activation("sigmoid"), m.vector("points.weight", count, FOUR))
        boxes = before = m.add("first_boxes", Expand((B, count, FOUR)), points)
        first, rest = (
            m.vector(f"{n}.weight", k, d) for n, k in (("sure", ONE), ("queries", count))
        )
        start = m.add("start", Join(0), first, rest)
        x = m.add("start_rows", Expand((B, count + 1, d)), start)
        keys = m.add("image_placed", Add(), image, places)
        found = []
        for index in range(self.count):
            name = f"layer{index}_"
            waves = box_waves(m, f"{name}box_", boxes, d)
            place = shared_products(m, f"{name}place", "place", waves, (d, d))
            place = m.add(f"{name}places", Resize((B, count + 1, d)), place)
            bias = self._bias(m, name, boxes)
            x = self._layer(m, name, x, place, (image, keys, text), bias)
            rows = m.add(f"{name}rows", Slice(1, ONE, count), x)
            row = same_norm(m, f"{name}normed", "decoder_norm", rows)
            before, boxes = boxes, self._box(m, name, row, boxes)
            found.append(row)
            sure = m.add(f"{name}sure_row", Slice(1, Integer(0), ONE), x)
            sure = same_norm(m, f"{name}sure_normed", "sure_norm", sure)
            sure = shared_products(m, f"{name}sure", "sure_product", sure, (d, d, ONE))
            sure = m.add(f"{name}sure_clip", Map("clip"), sure)
            # As in the class, boxes of each layer are made once more for what is answered.
            answered = self._box(m, f"{name}answer_", row, before)
        return found, answered, sure

    def _box(self, m: Maker, name: str, row: str, before: str) -> str:
        """Adds boxes moved from those before."""
        d = self.own.d
        move = shared_products(m, f"{name}box_move", "box", row, (d, d, FOUR))
        return moved(m, name, move, before)

    def _bias(self, m: Maker, name: str, boxes: str) -> str:
        """Adds biases ``(B, H, n, k)`` of how far columns and rows of the grid are from the
        sides of boxes; the first position, which has no box, has none."""
        d, heads, count, side = self.own.d, self.own.heads, self.queries, Integer(self.encoder.side)
        made = {}
        corners = m.add(f"{name}corners", Map("lerp"), boxes)
        for axis, start, shape in (
            ("down", ONE, (B, count, side, ONE, heads)),
            ("across", Integer(0), (B, count, ONE, side, heads)),
        ):
            x = m.add(f"{name}{axis}_sides", Slice(2, start, TWO), corners)
            x = m.add(f"{name}{axis}_line", Reshape((B, count, ONE, TWO)), x)
            lines = m.source(Tensor(f"{name}{axis}_lines", (ONE, ONE, side, ONE), m.style.acts))
            x = m.add(f"{name}{axis}_apart", Map("sub"), lines, x)
            x = m.add(f"{name}{axis}_far", Map("scale"), x)
            sign = m.add(f"{name}{axis}_sign", Map("sign"), x)
            x = m.add(f"{name}{axis}_log", Map("log1p"), m.add(f"{name}{axis}_abs", Map("abs"), x))
            x = m.add(f"{name}{axis}_signed", Map("mul"), sign, x)
            x = m.add(f"{name}{axis}_bent", Map("scale"), x)
            x = shared_products(m, f"{name}{axis}", axis, x, (d, heads))
            made[axis] = m.add(f"{name}{axis}_wide", Reshape(shape), x)
        x = m.add(f"{name}bias_sum", Map("add"), made["down"], made["across"])
        x = m.add(f"{name}bias_rows", Reshape((B, count, side**2, heads)), x)
        x = m.add(f"{name}bias_heads", Transpose((0, 3, 1, 2)), x)
        return m.add(f"{name}bias", Resize((B, heads, count + 1, side**2)), x)

    def _layer(
        self, m: Maker, name: str, x: str, place: str, seen: tuple[str, str, str], bias: str
    ) -> str:
        """Adds a layer: queries to one another, to the text, to the picture, and a block."""
        d, (image, keys, text) = self.own.d, seen
        for block in ("own", "text", "image", "mlp"):
            if block == "mlp":
                y = self.fed.add(m, x, name)
            else:
                query = m.add(f"{name}{block}_place", Add(), x, place)
                key, value = {"own": (query, x), "text": (text, text), "image": (keys, image)}[
                    block
                ]
                given = bias if block == "image" else ""
                y = self._attends(m, f"{name}{block}_", query, key, value, given)
            x = m.add(f"{name}{block}_add", Add(), y, x)
            x = m.norm(f"{name}{block}_norm", x, d, LAYER_NORM)
        return x

    def _attends(self, m: Maker, prefix: str, query: str, key: str, value: str, bias: str) -> str:
        return asked(m, self.own, prefix, query, key, value, bias)

    def _scores(self, m: Maker, rows: list[str], text: str) -> str:
        """Adds how well the queries of every layer fit the text: the mean of its words."""
        d, count = self.own.d, self.queries
        x = m.linear("named1", text, self.fed.width, d, True)
        x = m.add("named_act", Activation("relu"), x)
        x = m.add("named_add", Add(), m.linear("named2", x, d, self.fed.width, True), text)
        x = m.add("named_mean", Reduce("mean", (1,)), m.norm("named_norm", x, d, LAYER_NORM))
        column = m.add("named_column", Reshape((B, d, ONE)), m.linear("named", x, d, d, True))
        every = m.add("every_row", Join(1), *rows) if len(rows) > 1 else rows[0]
        made = m.add("score_matmul", MatMul(), m.linear("scored", every, d, d, True), column)
        made = m.add("score_clip", Map("clip"), m.add("score_scale", Map("scale"), made))
        return m.add("scores", Slice(1, count * (len(rows) - 1), count), made)

    def _masks(self, m: Maker, rows: str, x: str, text: str, maps: list[str]) -> tuple[str, str]:
        """Adds masks of the queries, and one of all that the text names."""
        d = self.looks.d
        y = m.norm("looks_norm", x, d, LAYER_NORM)
        x = m.add("looks_add", Add(), asked(m, self.looks, "looks_", y, text, text), x)
        x = m.add("looks_image", AsImage(m.shape(maps[-1])[2:]), x)
        for index in range(self.mixes):
            wide = d * (9 * d + 3)
            if index >= len(maps) - 1:
                # A convolution that no map is there for.
                m.vector(f"mix{index}.rows", wide)
                continue
            finer = maps[-2 - index]
            x = m.add(f"mix{index}_enlarge", Resize(m.shape(finer), "nearest"), x)
            x = conv(m, f"mix{index}", m.add(f"mix{index}_add", Add(), x, finer), d, 3, 1, 1)
            x = act(m, f"mix{index}_act", group_norm(m, f"mix{index}_norm", x, GROUPS), "relu")
        pixels = conv(m, "pixels", x, d, 1)
        tall, wide = m.shape(x)[2:]
        flat = m.add("pixel_rows", Reshape((B, d, tall * wide)), pixels)
        row = shared_products(m, "mask_row", "mask_row", rows, (d, d, d))
        masks = m.add("mask_matmul", MatMul(), row, flat)
        masks = m.add("masks", Reshape((B, self.queries, tall, wide)), masks)
        return masks, conv(m, "whole_mask", x, ONE, 1)
