"""Experts of two kinds: those of the tokens of text, and those of image tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.stack import Stack, Uneven, close, embed, run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.multimodal import with_images
from costgraph.ops import Add
from costgraph.ops.image import Rearrange
from costgraph.ops.views import Beside, Slice
from costgraph.symbols import G


class _Under(Maker):
    """Adds to another maker, with ``prefix`` in front of the names of all that it adds."""

    def __init__(self, inner: Maker, prefix: str) -> None:
        super().__init__(prefix, inner.style)
        self._inner, self._prefix = inner, prefix

    def source(self, tensor: Tensor) -> str:
        return self._inner.source(replace(tensor, name=self._prefix + tensor.name))

    def add_many(self, name: str, op: Op, *inputs: str) -> tuple[str, ...]:
        return self._inner.add_many(self._prefix + name, op, *inputs)

    def shape(self, name: str) -> tuple[Expr, ...]:
        return self._inner.shape(name)


@dataclass(frozen=True)
class PartedExperts:
    """ERNIE 4.5-VL's experts (technical report, 2025): each kind of token has a router of its own.

    Attributes:
        text, image: experts of tokens of text, and of images.
        shared: what all tokens pass, or None.
        images: the step holds ``G`` image tokens; else nothing reads their experts.
    """

    text: Experts
    image: Experts
    shared: FeedForward | None
    images: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        made = self._parted(m, x) if self.images else self.text.add(m, x)
        if self.shared is None:
            return made
        return m.add("shared_add", Add(), made, self.shared.add(m, x, "shared_"))

    def _parted(self, m: Maker, x: str) -> str:
        shape = m.shape(x)
        words = shape[1] - G
        ordered = m.add("by_kind", Rearrange(shape), x)
        text = m.add("text_rows", Slice(1, length=words), ordered)
        image = m.add("image_rows", Slice(1, words, G), ordered)
        text = self.text.add(m, text)
        image = self.image.add(_Under(m, "image_"), image)
        both = m.add("both_kinds", Beside(1), text, image)
        return m.add("in_order", Rearrange(shape), both)


@dataclass(frozen=True)
class Parted(Uneven):
    """A decoder whose layers hold such experts.

    Attributes:
        plain, seeing: the layers of a step of text, and of one with images.
    """

    plain: Stack
    seeing: Stack

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``; of a prompt with images where asked."""
        if not images:
            return self.plain.graph(name, style)
        m = Maker(name, style)
        hidden, table = embed(m, self.ends)
        hidden = run(m, self.seeing.segments, with_images(m, hidden))
        return m.build(close(m, self.ends, hidden, table))
