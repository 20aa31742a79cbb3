"""An encoder of words and of regions of an image, whose features a detector made."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Ends, Maker
from costgraph.models.encoder import Encoder
from costgraph.ops import Add, Embedding, SelectLast
from costgraph.ops.arrays import Join
from costgraph.symbols import B, G, S, q

ONE = Integer(1)


@dataclass(frozen=True)
class RegionFront:
    """VisualBERT's front (Li et al., arXiv 1908.03557): ``q − G`` words, then ``G`` regions.

    Attributes:
        ends: tables of words and positions, and the norm behind everything.
        types: rows of the tables of types, of which regions have one of their own.
        features: width of what a detector says of a region.
    """

    ends: Ends
    types: Expr
    features: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds both: (hidden state, embedding table)."""
        ends, count = self.ends, q - G
        assert ends.positions is not None
        assert ends.embed_norm is not None
        table = m.weight("embed.weight", ends.vocab, ends.d)
        x = self._looked(m, "embed", table, (B, count))
        x = self._with(m, x, "position", m.weight("positions.weight", ends.positions, ends.d))
        x = self._with(m, x, "type", m.weight("types.weight", self.types, ends.d))
        seen = m.source(Tensor("regions", (B, G, self.features), m.style.acts))
        y = m.linear("region_proj", seen, ends.d, self.features, True)
        places = m.weight("region_positions.weight", ends.positions, ends.d)
        y = self._with(m, y, "region_position", places)
        y = self._with(m, y, "region_type", m.weight("region_types.weight", self.types, ends.d))
        both = m.add("words_and_regions", Join(1), x, y)
        return m.norm("embed_norm", both, ends.d, ends.embed_norm), table

    def _looked(self, m: Maker, name: str, table: str, shape: tuple[Expr, ...]) -> str:
        ids = m.source(Tensor(f"{name}_ids", shape, INT64))
        return m.add(name, Embedding(result=m.style.acts), ids, table)

    def _with(self, m: Maker, x: str, name: str, table: str) -> str:
        found = self._looked(m, f"{name}_embed", table, m.shape(x)[:2])
        return m.add(f"{name}_add", Add(), x, found)


@dataclass(frozen=True)
class PositionHead:
    """Labels of one position: a product with bias."""

    d: Expr
    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; selecting any position costs what selecting the last does."""
        x = m.add("one_position", SelectLast(ONE), hidden)
        return m.linear("classifier", x, self.labels, self.d, True)


@dataclass(frozen=True)
class RegionEncoder(Encoder):
    """An encoder whose ``S`` positions include ``G`` regions.

    Attributes:
        words: most words, as many as the table of positions has rows.
    """

    words: int = 0

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Words have positions; regions are among all."""
        within = Limit(G, S, "S counts words and regions")
        return (within, Limit(S - G, Integer(self.words), "the model has no positions beyond"))
