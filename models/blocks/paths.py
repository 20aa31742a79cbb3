"""MarkupLM's words in a tree of tags, and BROS' attention to pairs of boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import Ends, embed
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, Embedding
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, q


@dataclass(frozen=True)
class PathFront:
    """MarkupLM's front (arXiv 2110.08518): words, and their place in a tree of tags.

    Attributes:
        ends: embeddings of words, their positions and the norm behind.
        types: rows of the table of token types.
        depth, width: levels of a path, width of a level's vectors.
        tags, places: rows of a level's tables, of kinds of tags and of places among siblings.
    """

    ends: Ends
    types: Expr
    depth: Expr
    width: Expr
    tags: Expr
    places: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds all of them: (hidden state, embedding table)."""
        d, wide, acts = self.ends.d, self.depth * self.width, m.style.acts
        x, table = embed(m, replace(self.ends, embed_norm=None))
        ids = m.source(Tensor("type_ids", (B, q), INT64))
        types = m.weight("types.weight", self.types, d)
        x = m.add("type_add", Add(), x, m.add("type_embed", Embedding(result=acts), ids, types))
        parts = []
        for name, rows in (("tag", self.tags), ("place", self.places)):
            ids = m.source(Tensor(f"{name}_ids", (B, q, self.depth), INT64))
            rows_of_all = m.weight(f"{name}s.weight", self.depth * rows, self.width)
            found = m.add(f"{name}_embed", Embedding(result=acts), ids, rows_of_all)
            parts.append(m.add(f"{name}_row", Reshape((B, q, wide)), found))
        path = m.add("path", Add(), *parts)
        path = m.linear("path_up", path, 4 * d, wide, True)
        path = m.linear("path_down", m.add("path_act", Activation("relu"), path), d, 4 * d, True)
        # A product of the class that no pass runs.
        m.weight("path_unused.weight", d, wide)
        m.vector("path_unused.bias", d)
        x = m.add("path_add", Add(), x, path)
        return m.norm("embed_norm", x, d, LAYER_NORM), table


@dataclass(frozen=True)
class PairPlaces:
    """BROS' vectors (arXiv 2108.04539) for each pair of boxes, made of sines of their distances.

    Attributes:
        waves, width: width of the sines, and of the vectors that they are brought to.
    """

    waves: Expr
    width: Expr

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        apart = m.source(Tensor("pair_waves", (B, q, context, self.waves), m.style.acts))
        return {"pair_places": m.linear("pair_proj", apart, self.width, self.waves)}


@dataclass(frozen=True)
class PairHeads:
    """Attention whose scores also compare queries with a vector for each pair of positions."""

    at: Heads

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The vectors."""
        return (Tensor("pair_places", (B, q, q, self.at.head_dim), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        query, key, value = self.at.all(m, x)
        places = m.add("places_keys", Transpose((0, 1, 3, 2)), "pair_places")
        bias = m.add("places_matmul", MatMul(), query, places)
        bias = m.add("places_heads", Transpose((0, 2, 1, 3)), bias)
        return self.at.out(m, attended(m, query, key, value, FULL, bias))
