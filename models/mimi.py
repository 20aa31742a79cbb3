"""Mimi (Défossez et al., arXiv 2410.00037): EnCodec's convolutions around transformers."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import TowerLayer
from costgraph.models.codecs import Encodec
from costgraph.ops import Add, AsSequence, Embedding
from costgraph.ops.arrays import Copy
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pattern import Window
from costgraph.ops.pool import ConvTranspose
from costgraph.ops.signal import Distances
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, q

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class Mimi(Encodec):
    """Steps pass a transformer behind the encoder and in front of the decoder.

    Attributes:
        at, feed: heads and feed-forward block of both transformers, whose positions are finer
            than steps; ``layers``: of each; ``window``: positions that one sees.
        stride: positions of a step.
        groups: of the convolution that makes positions of steps.
        meaning: codebooks of the first kind, which the others do not refine.
    """

    at: Heads
    feed: FeedForward
    layers: int
    window: Expr
    stride: int
    groups: int
    meaning: int

    @property
    def samples(self) -> int:
        return super().samples * self.stride

    def _behind(self, m: Maker, name: str, x: str, gains: Expr) -> str:
        return x

    def _steps(self, m: Maker, name: str, x: str) -> str:
        return x

    def _seen(self, m: Maker, name: str, x: str) -> str:
        """Adds a transformer; ``x (B, d, n)`` in and out."""
        rows = m.add(f"{name}_rows", AsSequence(), x)
        length = m.shape(rows)[1]
        layer = TowerLayer(B, length, self.at, self.feed, sees=Window(self.window), scaled=True)
        table = m.source(Tensor(f"{name}_rope", (length, self.at.head_dim), m.style.acts))
        rows = run(m, (Segment(name, layer, Integer(self.layers)),), rows, rope_table=table)
        return m.add(f"{name}_channels", Transpose((0, 2, 1)), rows)

    def _encoded(self, m: Maker, x: str) -> str:
        x = self._seen(m, "down_layers", super()._encoded(m, x))
        d, length = m.shape(x)[1:]
        x = m.add("shrink_pad", Copy((B, d, length + self.stride)), x)
        return conv(m, "shrink", x, d, 2 * self.stride, self.stride, bias=False)

    def _decoded(self, m: Maker, x: str) -> str:
        d, length = m.shape(x)[1:]
        kernel = m.weight("grow.weight", d, d / self.groups, Integer(2 * self.stride))
        op = ConvTranspose(((length + 1) * self.stride,), Integer(self.groups))
        x = m.add("grow", op, x, kernel)
        x = m.add("grow_cut", Slice(2, ZERO, length * self.stride), x)
        return super()._decoded(m, self._seen(m, "up_layers", x))

    def _coded(self, m: Maker, x: str) -> tuple[str, list[str]]:
        codes: list[str] = []
        total = ""
        for kind, books in (("meaning", self.meaning), ("sound", self.books - self.meaning)):
            made = self._refined(m, kind, x, books, codes)
            total = m.add("both_kinds", Add(), total, made) if total else made
        return total, codes

    def _refined(self, m: Maker, kind: str, x: str, books: int, codes: list[str]) -> str:
        """Adds codebooks of which each codes what those in front leave."""
        narrow, projected, total = Integer(self.narrow), self.narrow != self.d, ""
        if projected:
            x = conv(m, f"{kind}_in", x, narrow, 1, bias=False)
        rows = m.add(f"{kind}_rows", AsSequence(), x)
        rows = m.add(f"{kind}_flat", Reshape((B * q, narrow)), rows)
        for index in range(books):
            name = f"{kind}{index}"
            table = m.source(Tensor(name, (Integer(self.size), narrow), m.style.acts))
            far = m.add(f"{name}_far", Distances(), rows, table)
            codes.append(m.add(f"{name}_code", Reduce("argmin", (1,)), far))
            found = m.add(f"{name}_found", Embedding(result=m.style.acts), codes[-1], table)
            rows = m.add(f"{name}_rest", Map("sub"), rows, found)
            total = m.add(f"{name}_sum", Add(), total, found) if total else found
        total = m.add(f"{kind}_steps", Reshape((B, q, narrow)), total)
        total = m.add(f"{kind}_channels", Transpose((0, 2, 1)), total)
        return conv(m, f"{kind}_out", total, Integer(self.d), 1, bias=False) if projected else total
