"""Masks by a vision transformer alone: EoMT (Kerssies et al., arXiv 2503.19108).

Queries join the patches in front of the last layers, and are products with what the patches become.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.image import act, channel_norm, conv, enlarge
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass, Tower
from costgraph.ops.image import AsImage, Cut, Prepend
from costgraph.ops.matmul import MatMul
from costgraph.ops.views import Reshape
from costgraph.symbols import B


@dataclass(frozen=True)
class MaskTower(OnePass):
    """A mask and a kind for each query. Pictures have the size that the file says.

    Attributes:
        tower: patches, and the layers; its norm in front of what is answered.
        late: layers at the end that queries pass as well.
        queries: masks that are asked for.
        kinds: of parts, and none.
        enlarged: how often the grid of patches is doubled.
        activation: of what makes masks.
    """

    tower: Tower
    late: int
    queries: Expr
    kinds: Expr
    enlarged: int
    activation: str

    def positions(self, style: Style) -> Expr:
        return self.queries + self.tower.positions(replace(style, pictures=()))

    def graph(self, name: str, style: Style) -> Graph:
        m, tower, d = Maker(name, replace(style, pictures=())), self.tower, self.tower.at.d
        x = tower.patched(m, B)
        x = self._layers(m, "vision_layers", x, int(tower.layers) - self.late)
        x = m.add("queries_in", Prepend(), m.vector("queries.weight", self.queries, d), x)
        x = self._layers(m, "query_layers", x, self.late)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        tall, wide = tower.grid
        parts = (self.queries, tower.patches.lead, tall * wide)
        asked, _, rows = m.add_many("parts", Cut(parts), x)
        kinds = m.linear("classifier", asked, self.kinds, d, True)
        for part in "12":
            asked = m.linear(f"mask{part}", asked, d, d, True)
            asked = act(m, f"mask{part}_act", asked, self.activation)
        asked = m.linear("mask3", asked, d, d, True)
        image = m.add("patch_image", AsImage((tall, wide)), rows)
        for index in range(1, self.enlarged + 1):
            at = f"enlarge{index}"
            image = act(m, f"{at}_act", enlarge(m, at, image, d, Integer(2)), self.activation)
            image = conv(m, f"{at}_dwconv", image, d, 3, 1, 1, d, bias=False)
            image = channel_norm(m, f"{at}_norm", image)
        tall, wide = m.shape(image)[2:]
        pixels = m.add("pixels", Reshape((B, d, tall * wide)), image)
        masks = m.add("mask_matmul", MatMul(), asked, pixels)
        return m.build(m.add("masks", Reshape((B, self.queries, tall, wide)), masks), kinds, x)

    def _layers(self, m: Maker, name: str, x: str, count: int) -> str:
        """Adds ``count`` layers, with a rotary table of their own length where they rotate."""
        if not count:
            return x
        layer = self.tower.layer(*m.shape(x)[:2])
        given = {
            t.name: m.source(Tensor(f"{name}_{t.name}", t.shape, t.dtype))
            for t in layer.operands(m.style)
        }
        return run(m, (Segment(name, layer, Integer(count)),), x, **given)
