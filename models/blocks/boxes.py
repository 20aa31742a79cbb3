"""What document models make of boxes on a page: biases, embeddings, a stream beside the text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches, picture
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, Embedding, Scale
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Transpose
from costgraph.symbols import B, q

#: Edges of a box in the order in which they are looked up, its height and its width.
EDGES = (("left", "x"), ("upper", "y"), ("right", "x"), ("lower", "y"), ("height", "h"),
         ("width", "w"))  # fmt: skip


def box_rows(m: Maker, length: Expr, rows: Expr, widths: dict[str, Expr]) -> str:
    """Adds rows of four tables for the edges and the size of each position's box, side by side."""
    tables = {axis: m.weight(f"{axis}s.weight", rows, width) for axis, width in widths.items()}
    found = []
    for edge, axis in EDGES:
        ids = m.source(Tensor(f"{edge}_ids", (B, length), INT64))
        found.append(m.add(f"{edge}_embed", Embedding(result=m.style.acts), ids, tables[axis]))
    return m.add("boxes", Join(2), *found)


@dataclass(frozen=True)
class BoxBias:
    """Biases of scores by how far positions, and their boxes, are apart: a table for each.

    Attributes:
        heads: heads.
        tables: names and rows.
    """

    heads: Expr
    tables: tuple[tuple[str, Expr], ...]

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        total = ""
        for name, rows in self.tables:
            ids = m.source(Tensor(f"{name}_apart", (B, q, context), INT64))
            table = m.weight(f"{name}_bias.weight", rows, self.heads)
            found = m.add(f"{name}_bias", Embedding(result=m.style.acts), ids, table)
            total = m.add(f"{name}_sum", Map("add"), total, found) if total else found
        total = m.add("bias_scale", Scale(), total)
        return {"box_bias": m.add("bias_heads", Transpose((0, 3, 1, 2)), total)}


@dataclass(frozen=True)
class Boxed:
    """Attention in both directions whose scores get a bias of each sequence's own."""

    at: Heads

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The biases."""
        return (Tensor("box_bias", (B, self.at.heads, q, q), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        query, key, value = self.at.all(m, x)
        return self.at.out(m, attended(m, query, key, value, FULL, "box_bias"))


@dataclass(frozen=True)
class PageFront:
    """LayoutLMv3's front (arXiv 2204.08387): words with their boxes, and patches of the page.

    Attributes:
        d, vocab, positions, types: width, and rows of the tables of words.
        places: rows of the tables of edges; ``edge``, ``extent``: their widths.
        patches: makes positions of the page, which stand behind the words; None without.
        size: of the page in pixels.
    """

    d: Expr
    vocab: Expr
    positions: Expr
    types: Expr
    places: Expr
    edge: Expr
    extent: Expr
    patches: Patches | None
    size: tuple[Expr, Expr]

    @property
    def seen(self) -> Expr:
        """Positions of the page."""
        return Integer(0) if self.patches is None else self.patches.count(self.size)

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds both: (hidden state, embedding table)."""
        acts, length = m.style.acts, q - self.seen
        ids = m.source(Tensor("ids", (B, length), INT64))
        table = m.weight("embed.weight", self.vocab, self.d)
        x = m.add("embed", Embedding(result=acts), ids, table)
        for name, rows in (("type", self.types), ("position", self.positions)):
            places = m.source(Tensor(f"{name}_ids", (B, length), INT64))
            learned = m.weight(f"{name}s.weight", rows, self.d)
            found = m.add(f"{name}_embed", Embedding(result=acts), places, learned)
            x = m.add(f"{name}_add", Add(), x, found)
        widths = {"x": self.edge, "y": self.edge, "h": self.extent, "w": self.extent}
        x = m.add("box_add", Add(), x, box_rows(m, length, self.places, widths))
        x = m.norm("embed_norm", x, self.d, LAYER_NORM)
        if self.patches is None:
            return x, table
        page = picture(m, B, self.patches.channels, self.size)
        page = replace(self.patches, rows=None).add(m, page)
        learned = m.weight("page_positions.weight", self.seen, self.d)
        page = m.add("page_add", Add(), page, learned)
        page = m.norm("page_norm", page, self.d, LAYER_NORM)
        x = m.add("words_and_page", Join(1), x, page)
        return m.norm("both_norm", x, self.d, LAYER_NORM), table
