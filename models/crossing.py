"""Language models whose own layers attend to images: Llama 3.2 Vision.

``G`` positions of the vision tower stand beside the ``S`` prompt tokens. Keys and values
that the decoder makes of them are computed once, in the ``vision`` phase, and read from
their cache in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident, autoregressive
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Stack, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import CrossCache, Heads
from costgraph.models.blocks.image import Patches, class_first, picture
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.ops import Activation, Add, Concat, Embedding, Multiply, Scale
from costgraph.ops.image import Cut
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G, T, q

ONE = Integer(1)


def by_gate(m: Maker, name: str, x: str) -> str:
    """Adds ``x`` times the hyperbolic tangent of one learned number."""
    gate = m.add(f"{name}_tanh", Activation("tanh"), m.vector(f"{name}.weight", ONE))
    wide = m.add(f"{name}_wide", Expand((m.shape(x)[-1],)), gate)
    return m.add(name, Multiply(), x, wide)


@dataclass(frozen=True)
class Gated:
    """A block whose result is multiplied by a learned number."""

    block: Block
    name: str

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the block."""
        return self.block.operands(style)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block and its gate."""
        return by_gate(m, self.name, self.block.add(m, x))


@dataclass(frozen=True)
class Crossing:
    """Attention to keys and values of ``length`` positions that were computed before."""

    at: Heads
    length: Expr
    norm: Norm

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        at = self.at
        shape = (B, self.length, at.keys, at.head_dim)
        keys, values = (
            m.source(Tensor(f"cross_{part}_cache", shape, m.style.kv, Role.KV)) for part in "kv"
        )
        query = at.project(m, "q", x, "cross_")
        query = m.norm("cross_q_norm", query, at.head_dim, self.norm)
        return at.out(m, attended(m, query, keys, values, FULL, prefix="cross_"), "cross_")


@dataclass(frozen=True)
class GatedTowerLayer:
    """A layer of a tower whose blocks are each multiplied by a learned number."""

    batch: Expr
    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing beside the hidden state."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in and out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (self.batch, self.length, d), style.acts))
        y = self.at.all(m, m.norm("attn_norm", x, d, LAYER_NORM))
        y_out = by_gate(m, "attn_gate", self.at.out(m, attended(m, *y, FULL)))
        x = m.add("attn_add", Add(), y_out, x)
        fed = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), by_gate(m, "mlp_gate", fed), x))


@dataclass(frozen=True)
class TileTower:
    """The tower of Llama 3.2 Vision: an image is ``tiles`` tiles, which see one another.

    Attributes:
        patches: of a tile, without class token and positions.
        at, feed: of the layers; ``layers`` plain ones, then ``gated`` ones.
        size: of a tile.
        tiles, ratios: tiles of an image, and how many shapes they may have.
        taken: numbers of plain layers whose results stand beside the last one's.
    """

    patches: Patches
    at: Heads
    feed: FeedForward
    layers: int
    gated: int
    size: tuple[Expr, Expr]
    tiles: int
    ratios: int
    taken: tuple[int, ...]

    @property
    def per(self) -> Expr:
        """Positions of an image: those of its tiles."""
        return self.tiles * self._count

    @property
    def _count(self) -> Expr:
        """Positions of a tile, a class token among them."""
        return self.patches.count(self.size) + 1

    @property
    def out(self) -> Expr:
        """Width of the result."""
        return self.at.d * (1 + len(self.taken))

    def add(self, m: Maker) -> str:
        """Adds the tower over ``G`` positions: ``(B, G, out)``."""
        d, images = self.at.d, B * G / self.per
        count, tiles = self._count, Integer(self.tiles)
        x = picture(m, images * tiles, self.patches.channels, self.size)
        x = self._tile_table(m, "pre_tile", self.patches.add(m, x), images)
        x = self._placed(m, class_first(m, x), images)
        x = m.norm("front_norm", x, d, LAYER_NORM)
        # Tiles are padded to a multiple of eight positions.
        long = -(-int(count) // 8) * 8
        x = m.add("pad", Resize((images * tiles, Integer(long), d)), x)
        length = tiles * long
        x = m.add("tiles_joined", Reshape((images, length, d)), x)
        layer = TowerLayer(images, length, self.at, self.feed)
        kept: list[str] = []
        start = 0
        for index, end in enumerate((*(i + 1 for i in self.taken), self.layers), start=1):
            if end > start:
                x = run(m, (Segment(f"vision_layers{index}", layer, Integer(end - start)),), x)
            start = end
            kept.append(x)
        x = m.norm("final_norm", kept.pop(), d, LAYER_NORM)
        x = self._tile_table(m, "post_tile", x, images)
        last = GatedTowerLayer(images, length, self.at, self.feed)
        x = run(m, (Segment("global_layers", last, Integer(self.gated)),), x)
        both = m.add("features", Concat(), x, *kept)
        both = m.add("tiles", Reshape((images * tiles, Integer(long), self.out)), both)
        if long != count:
            both = m.add_many("without_padding", Cut((count, long - count)), both)[0]
        return m.add("vision_rows", Reshape((B, G, self.out)), both)

    def _tile_table(self, m: Maker, name: str, x: str, images: Expr) -> str:
        """A vector per tile, looked up by the shape of the image, on all its positions."""
        d, tiles, shape = self.at.d, Integer(self.tiles), m.shape(x)
        each_tile = shape[0] * shape[1] / (images * tiles)
        table = m.weight(f"{name}.weight", Integer(self.ratios + 1), tiles * d)
        found = self._looked_up(m, name, table, images)
        each = m.add(f"{name}_vectors", Reshape((images, tiles, ONE, d)), found)
        each = m.add(f"{name}_wide", Expand((images, tiles, each_tile, d)), each)
        each = m.add(f"{name}_flat", Reshape(shape), each)
        return m.add(f"{name}_add", Add(), x, by_gate(m, f"{name}_gate", each))

    def _looked_up(self, m: Maker, name: str, table: str, images: Expr) -> str:
        ids = m.source(Tensor(f"{name}_ids", (images, ONE), INT64))
        return m.add(f"{name}_embed", Embedding(result=m.style.acts), ids, table)

    def _placed(self, m: Maker, x: str, images: Expr) -> str:
        """Positions of patches in a tile, and of each tile's patches in the image."""
        d, tiles, count = self.at.d, Integer(self.tiles), self._count
        gated = by_gate(m, "position_gate", m.weight("positions.weight", count, d))
        x = m.add("position_add", Add(), x, gated)
        table = m.weight("tile_positions.weight", Integer(self.ratios + 1), tiles * count * d)
        found = self._looked_up(m, "tile_positions", table, images)
        found = m.add("tile_position_rows", Reshape((images * tiles, count, d)), found)
        scaled = m.add("tile_position_scale", Scale(), found)
        return m.add("tile_position_add", Add(), x, scaled)


@dataclass(frozen=True)
class CrossSeeing:
    """A decoder with layers that attend to a tower's positions.

    Attributes:
        tower: of the images.
        text: the language model, its crossing layers among the others.
        cross, layers: heads and number of the crossing layers.
        norm: of keys per head.
    """

    tower: TileTower
    text: Stack
    cross: Heads
    layers: int
    norm: Norm

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of the text."""
        return self.text.limits

    def graph(self, name: str, style: Style) -> Graph:
        """The language model's step graph over ``B``, ``q``, ``T`` and ``G``."""
        return self.text.graph(name, style)

    def symbolic(self) -> tuple[CrossSeeing, dict[Symbol, Expr]]:
        """Refused: two models, no common names for dimensions."""
        raise InputError("multimodal models keep no symbolic dimensions")

    def vision_graph(self, name: str, style: Style) -> Graph:
        """The tower over ``B`` and ``G``, and the keys and values of all crossing layers."""
        m, d = Maker(name, style), self.text.ends.d
        x = m.linear("projector_1", self.tower.add(m), d, self.tower.out, True)
        body = CrossCache(self.cross, d, G, self.norm)
        return m.build(run(m, (Segment("cross", body, Integer(self.layers)),), x))

    def program(self, name: str, style: Style) -> Program:
        """The program of three phases: ``vision``, ``prefill``, ``decode``."""
        if not style.images:
            raise InputError(f"{name}: a request without images skips layers, which is not counted")
        if style.pictures:
            raise InputError(f"{name}: tiles have one size; G says how many positions there are")
        seen, step = self.vision_graph(f"{name} vision", style), self.graph(name, style)
        made = autoregressive(name, step)
        rest = Resident(step, part=True)
        count = ((q, G), (T, ONE))
        vision = Phase("vision", seen, count, tokens=Integer(0), resident=(rest,))
        # Its caches are those that the steps read.
        eyes = Resident(seen, part=True)
        phases = (vision, *(replace(p, resident=(eyes,)) for p in made.phases))
        said = (
            f"G positions of the vision tower stand beside the prompt's S tokens: "
            f"{self.tower.per} for an image of {self.tower.tiles} tiles",
        )
        return Program(name, phases, said, self.limits)
