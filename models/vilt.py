"""ViLT (Kim et al., arXiv 2102.03334): words and patches in one sequence."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.image import picture
from costgraph.models.blocks.splicing import spliced
from costgraph.models.blocks.stack import positions_end, run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import TextFront
from costgraph.models.vision import OnePass, Tower
from costgraph.ops import Activation, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Map
from costgraph.ops.views import Reshape, Slice
from costgraph.symbols import B, S

ONE = Integer(1)


@dataclass(frozen=True)
class Vilt(OnePass):
    """``B`` images, each with one text of ``S`` tokens.

    Attributes:
        words: embeddings of the text.
        tower: patches, and the layers over both.
        kinds: rows that tell words and patches apart.
        labels: of a classifier, or None.
        deep: a product twice as wide stands in front of it.
    """

    words: TextFront
    tower: Tower
    kinds: Expr
    labels: Expr | None
    deep: bool

    def positions(self, style: Style) -> Expr:
        return S

    @property
    def limits(self) -> tuple[Limit, ...]:
        return positions_end(S, self.words.ends.positions)

    def graph(self, name: str, style: Style) -> Graph:
        m, d, tower = Maker(name, style), self.tower.at.d, self.tower
        (words,) = spliced(m, "text", lambda inner: self.words.add(inner)[:1])
        x = picture(m, B, tower.patches.channels, tower.sized(style))
        x = tower.patches.add(m, x)
        table = m.weight("kinds.weight", self.kinds, d)
        both = []
        for index, rows in enumerate((words, x)):
            kind = m.add(f"kind{index}", Slice(0, Integer(index), ONE), table)
            both.append(m.add(f"kind{index}_add", Map("add"), rows, kind))
        x = m.add("both", Join(1), *both)
        layer = tower.layer(B, m.shape(x)[1])
        x = run(m, (Segment("layers", layer, tower.layers),), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        first = m.add("first_position", SelectLast(ONE), x)
        y = m.linear("pooler", m.add("first_row", Reshape((B, d)), first), d, d, True)
        y = m.add("pooler_act", Activation("tanh"), y)
        if self.labels is None:
            return m.build(x, y)
        if self.deep:
            y = m.linear("head_proj", y, 2 * d, d, True)
            y = m.add("head_act", Activation("gelu"), m.norm("head_norm", y, 2 * d, LAYER_NORM))
        return m.build(m.linear("classifier", y, self.labels, m.shape(y)[1], True))
