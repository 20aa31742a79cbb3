"""Boxes of objects in an image: DETR, YOLOS and OWL-ViT."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import by_axes, conv, picture, same_norm
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.convnet import ResNet
from costgraph.models.vision import OnePass, Size, Tower, TwoTowers
from costgraph.ops import Activation, Add, AsSequence, Multiply, SelectLast
from costgraph.ops.arrays import Fill
from costgraph.ops.image import Cut, Similarity
from costgraph.ops.maps import Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE, FOUR = Integer(1), Integer(4)


def products(m: Maker, name: str, x: str, widths: tuple[Expr, ...], function: str) -> str:
    """Adds products with biases of these widths, and activations between them."""
    for index, width in enumerate(widths, start=1):
        x = m.linear(f"{name}{index}", x, width, m.shape(x)[-1], True)
        if index < len(widths):
            x = m.add(f"{name}_act{index}", Activation(function), x)
    return x


def boxed(m: Maker, x: str, function: str = "relu") -> str:
    """Adds a box for each row: three products and a sigmoid."""
    d = m.shape(x)[-1]
    x = products(m, "box", x, (d, d, FOUR), function)
    return m.add("box_bent", Activation("sigmoid"), x)


@dataclass(frozen=True)
class PlacedLayer:
    """A layer of DETR over the image, or over queries that attend to it as well.

    Places are added to what queries and keys are made of.

    Attributes:
        length: rows of the layer.
        at, feed: heads and feed-forward block.
        source: rows that are attended to as well, or None.
        cross: heads of that attention.
        first: norms stand in front of the blocks, not behind them.
    """

    length: Expr
    at: Heads
    feed: FeedForward
    source: Expr | None = None
    first: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Places of the rows, and the rows and places of the image."""
        d = self.at.d
        found: tuple[Tensor, ...] = (Tensor("places", (self.length, d), style.acts),)
        if self.source is not None:
            found += (
                Tensor("image_rows", (B, self.source, d), style.acts),
                Tensor("image_places", (self.source, d), style.acts),
            )
        return found

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        blocks = ("attn", "mlp") if self.source is None else ("attn", "cross", "mlp")
        for name in blocks:
            y = m.norm(f"{name}_norm", x, d, LAYER_NORM) if self.first else x
            x = m.add(f"{name}_add", Add(), self._block(m, name, y), x)
            x = x if self.first else m.norm(f"{name}_norm", x, d, LAYER_NORM)
        return m.build(x)

    def _block(self, m: Maker, name: str, x: str) -> str:
        if name == "mlp":
            return self.feed.add(m, x)
        prefix = "" if name == "attn" else "cross_"
        asked = m.add(f"{prefix}q_place", Add(), x, "places")
        seen, told = asked, x
        if name == "cross":
            seen, told = m.add("cross_k_place", Add(), "image_rows", "image_places"), "image_rows"
        query, key = self.at.project(m, "q", asked, prefix), self.at.project(m, "k", seen, prefix)
        value = self.at.project(m, "v", told, prefix)
        return self.at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)


@dataclass(frozen=True)
class Detr(OnePass):
    """DETR (Carion et al., arXiv 2005.12872), and Table Transformer, whose norms stand first.

    Attributes:
        stem: the convolutional network, whose norms are frozen: they are no parameters.
        size: of the image, where the import asks for no other.
        at, own: heads of both halves.
        feed, fed: their feed-forward blocks.
        layers, count: layers of both.
        queries: boxes that are asked for.
        labels: kinds of objects and none, or None for the bare model.
        learned: places come from two learned tables of fifty rows, not from sines.
        first: of :class:`PlacedLayer`.
    """

    stem: ResNet
    size: Size
    at: Heads
    own: Heads
    feed: FeedForward
    fed: FeedForward
    layers: Expr
    count: Expr
    queries: Expr
    labels: Expr | None
    learned: bool
    first: bool

    def positions(self, style: Style) -> Expr:
        tall, wide = self._grid(style)
        return tall * wide

    def _grid(self, style: Style) -> Size:
        m = Maker("stem", style)
        shape = m.shape(self._stem(m))
        return shape[2], shape[3]

    def _stem(self, m: Maker) -> str:
        size = m.style.image or self.size
        return self.stem.body(m, picture(m, B, self.stem.channels, size))

    def _seen(self, m: Maker) -> tuple[str, str]:
        """Adds the image's rows behind the encoder, and their places."""
        return self._encoded(m, conv(m, "input_proj", self._stem(m), self.at.d, 1))

    def _encoded(self, m: Maker, x: str) -> tuple[str, str]:
        """Adds the encoder: rows of the image ``x``, and their places."""
        d, (tall, wide) = self.at.d, m.shape(x)[2:]
        x = m.add("image_rows", AsSequence(), x)
        places = self._places(m, tall, wide)
        layer = PlacedLayer(tall * wide, self.at, self.feed, first=self.first)
        x = run(m, (Segment("encoder", layer, self.layers),), x, places=places)
        return (m.norm("encoder_norm", x, d, LAYER_NORM) if self.first else x), places

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x, places = self._seen(m)
        y = self._decoded(m, x, places)
        return m.build(y, x) if self.labels is None else m.build(*self._answers(m, y))

    def _decoded(self, m: Maker, x: str, places: str) -> str:
        """Adds the decoder over the image's rows: those of the queries."""
        d = self.at.d
        asked = m.vector("queries.weight", self.queries, d)
        asked = m.add("query_places", Reshape((self.queries, d)), asked)
        y = m.add("empty", Fill((B, self.queries, d), m.style.acts))
        inner = PlacedLayer(self.queries, self.own, self.fed, m.shape(x)[1], self.first)
        given = {"places": asked, "image_rows": x, "image_places": places}
        y = run(m, (Segment("decoder", inner, self.count),), y, **given)
        return m.norm("decoder_norm", y, d, LAYER_NORM)

    def _answers(self, m: Maker, y: str) -> tuple[str, str]:
        """Adds kinds and boxes of the queries."""
        assert self.labels is not None
        return m.linear("classifier", y, self.labels, self.at.d, True), boxed(m, y)

    def _places(self, m: Maker, tall: Expr, wide: Expr) -> str:
        """Adds a row for each place of the grid."""
        d = self.at.d
        if not self.learned:
            return m.source(Tensor("grid_places", (tall * wide, d), m.style.acts))
        return by_axes(m, tall, wide, Integer(50), d)


@dataclass(frozen=True)
class AddedLayer:
    """A layer behind which learned places are added."""

    layer: TowerLayer

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        inner, layer = Maker("layer", style), self.layer
        shape = (layer.batch, layer.length, layer.at.d)
        x = inner.source(Tensor("hidden", shape, style.acts))
        x = layer.add(inner, x)
        places = inner.weight("places.weight", layer.length, layer.at.d)
        return inner.build(inner.add("places_add", Add(), x, places))


@dataclass(frozen=True)
class Yolos(OnePass):
    """YOLOS (Fang et al., arXiv 2106.00666): a ViT whose last tokens become boxes.

    Attributes:
        tower: patches, class token and those for boxes.
        boxes: tokens for boxes.
        labels: kinds of objects and none, or None for the bare model, which has a pooler.
        placed: places are added behind every layer but the last.
    """

    tower: Tower
    boxes: int
    labels: Expr | None
    placed: bool

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, tower, d = Maker(name, style), self.tower, self.tower.at.d
        x = tower.patches.add(m, picture(m, B, tower.patches.channels, tower.size))
        layer = tower.layer(B, m.shape(x)[1])
        many = tower.layers - 1 if self.placed else tower.layers
        body = AddedLayer(layer) if self.placed else layer
        x = run(m, (Segment("vision_layers", body, many),), x) if many else x
        if self.placed:
            x = run(m, (Segment("last_layer", layer, ONE),), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        if self.labels is None:
            first = m.add("class_position", SelectLast(ONE), x)
            first = m.linear("pooler", m.add("class_vector", Reshape((B, d)), first), d, d, True)
            return m.build(x, m.add("pooler_act", Activation("tanh"), first))
        y = m.add("box_rows", SelectLast(Integer(self.boxes)), x)
        kinds = products(m, "kind", y, (d, d, self.labels), "relu")
        return m.build(kinds, boxed(m, y))


@dataclass(frozen=True)
class NamedBoxes(TwoTowers):
    """OWL-ViT (Minderer et al., arXiv 2205.06230): a box for each patch, compared with a text.

    ``B`` images, each with one text of ``S`` tokens.

    Attributes:
        rated: boxes are rated as well (OWLv2, arXiv 2306.09683).
    """

    rated: bool

    def graph(self, name: str, style: Style) -> Graph:
        m, d, wide = Maker(name, style), self.tower.at.d, self.text.text.d
        unit = Norm("rms", weight=False)
        x = self.tower.add(m)
        first = m.add("lead_row", SelectLast(ONE), x)
        seen = m.norm("final_norm", m.add("lead_vector", Reshape((B, d)), first), d, LAYER_NORM)
        seen = m.norm("image_unit", m.linear("image_proj", seen, self.width, d), self.width, unit)
        _, asked = self.text.add(m)
        asked = m.norm(
            "text_unit", m.linear("text_proj", asked, self.width, wide), self.width, unit
        )
        scale = m.vector("logit_scale", ONE)
        matched = m.add("similarity", Similarity(), asked, seen, scale)
        every = same_norm(m, "patches_norm", "final_norm", x)
        lead, rest = m.add_many("parts", Cut((ONE, m.shape(x)[1] - 1)), every)
        rows = m.add("by_class", Map("mul"), rest, lead)
        rows = m.norm("rows_norm", rows, d, LAYER_NORM)
        kinds = m.linear("kind_proj", rows, self.width, d, True)
        kinds = m.norm("kind_unit", kinds, self.width, unit)
        columns = m.add("text_column", Reshape((B, self.width, ONE)), asked)
        logits = m.add("kind_matmul", MatMul(), kinds, columns)
        shift = m.linear("kind_shift", rows, ONE, d, True)
        bent = m.add("kind_elu", Map("elu"), m.linear("kind_scale", rows, ONE, d, True))
        bent = m.add("kind_more", Map("add_constant"), bent)
        logits = m.add("kind_mul", Multiply(), m.add("kind_add", Add(), logits, shift), bent)
        made = [logits, boxed(m, rows, "gelu")]
        if self.rated:
            made.append(products(m, "rated", rows, (d, d, ONE), "gelu"))
        return m.build(*made, matched)
