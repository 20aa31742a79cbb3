"""Blocks of keys or values as one learned row each, and which blocks those rows speak for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    merged,
    read,
    require,
    require_same,
    vector,
    vector_special,
    write,
)
from costgraph.ops.attention import compacted
from costgraph.ops.pattern import Pattern, Summaries


@dataclass(frozen=True)
class Compress(Op):
    """Every block of ``b`` rows that is over becomes one, by a network of two matrices.

    Inputs: rows of earlier blocks ``(B, n, Hk, dh)``; rows that blocks to come are made of,
    new ones behind them ``(B, r, Hk, dh)``; positions inside a block ``(b, dh)``; matrices
    ``(h, b·dh)`` and ``(dh, h)``, the same for all heads. Result: the rows of all blocks.
    Per block and head ``2·h·dh·(b + 1)`` FLOP in products, ``b·dh`` to add positions and
    ``h`` for a ReLU between them. Every block reads its own rows, also those that it shares
    with the one before; matrices are read in every step, whether or not a block is over.
    Source: Yuan et al., NSA, arXiv 2502.11089, section 3.3.1; it names a learnable MLP with
    positions inside a block, and not its size.
    """

    kind: ClassVar[str] = "compress"
    blocks: Summaries

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 5, self, "takes rows of blocks, new rows, positions, two matrices")
        cache, new, positions, wide, narrow = inputs
        require(len(cache.shape) == len(new.shape) == 4, self, "{} for {}", cache, new)
        dh = new.shape[3]
        for axis in (0, 2, 3):
            require_same(self, cache.shape[axis], new.shape[axis], "axis {}", axis)
        require_same(self, positions.shape[0], self.blocks.block, "positions of a block")
        require_same(self, wide.shape[1], self.blocks.block * dh, "what a block holds")
        require_same(self, narrow.shape[1], wide.shape[0], "width between the matrices")
        require_same(self, narrow.shape[0], dh, "width of a row")
        rows = self.blocks.rows(self.blocks.context)
        return (Spec((cache.shape[0], rows, *cache.shape[2:]), cache.dtype, cache.role),)

    def _new(self, inputs: Tensors) -> Expr:
        """Rows of blocks that the step finishes, of all sequences and heads."""
        b, rows, heads, _ = inputs[0].shape
        return b * heads * (self.blocks.rows(self.blocks.context) - rows)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        _, new, positions, wide, _ = inputs
        made, dh, between = self._new(inputs), new.shape[3], wide.shape[0]
        key = Engine.TENSOR, compute_type(new.dtype, wide.dtype)
        product: Work = {key: 2 * made * between * dh * (self.blocks.block + 1)}
        return merged(product, vector(made * (positions.numel + between)))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache, new, *weights = inputs
        row = self._new(inputs) * new.shape[3]
        return (
            read(new, row * self.blocks.block * new.dtype.bytes_per_element),
            *(read(w) for w in weights),
            write(outputs[0], row * cache.dtype.bytes_per_element),
        )


@dataclass(frozen=True)
class Importance(Op):
    """How much a query looks at a block, from what it looks at in rows of smaller ones.

    Input: probabilities ``(B, H, q, n)`` over rows of blocks of ``b`` positions that begin
    every ``d``; result ``(B, Hk, q, m)`` for blocks of ``s`` positions: heads that share keys
    are added up, then for each block the ``(s/d)·(b/d)`` probabilities that it takes part in.
    Source: Yuan et al., NSA, arXiv 2502.11089, equations 9 and 10.

    Attributes:
        groups: heads of keys.
        rows, blocks: of the context: the rows that were looked at, and the blocks that are
            chosen from.
        pattern, looked: which blocks, and which rows, a query sees.
    """

    kind: ClassVar[str] = "importance"
    #: The fields that say what positions see, that of the result first.
    patterns: ClassVar[tuple[str, ...]] = ("pattern", "looked")
    groups: Expr
    rows: Summaries
    blocks: Summaries
    pattern: Pattern
    looked: Pattern

    @classmethod
    def of(cls, groups: Expr, rows: Summaries, blocks: Summaries) -> Importance:
        """Of queries that see all rows and blocks up to their own position."""
        return cls(groups, rows, blocks, blocks, rows)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 4, self, "takes probabilities")
        b, _, q, n = inputs[0].shape
        require_same(self, n, self.rows.rows(self.rows.context), "rows of blocks")
        made = self.blocks.rows(self.blocks.context)
        return (Spec((b, self.groups, q, made), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, n = inputs[0].shape
        heads = (h - self.groups) * self.looked.pairs(q, n)
        every = self.rows.every
        parts = self.blocks.block / every * (self.rows.block / every) - 1
        blocks = self.groups * parts * self.pattern.pairs(q, outputs[0].shape[3])
        return vector(b * (heads + blocks))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = compacted(self.looked, super().accesses(inputs, outputs), inputs[0])
        return compacted(self.pattern, found, outputs[0])


@dataclass(frozen=True)
class GatedPool(Op):
    """Every block of ``m`` rows that is over becomes one: a sum weighted by gates of its own.

    Inputs: rows of earlier blocks ``(B, n, 1, w)``; with ``p = 2`` rows and gates of the block
    before the first new one, both states ``(B, m, w)``; rows and gates that blocks to come are
    made of, new ones behind them, both ``(B, r, 1, p·w)``; positions inside a block ``(m, p·w)``,
    put on the gates; the weight of a norm ``(w)``. Result: the rows of all blocks; and those
    states of the last block. A block has ``p·m`` rows in each of ``w`` columns: with ``p = 2``
    those of the block before, in other columns, come first. Work per block: ``m·p·w`` additions,
    per row and column a softmax (4 and one exponential) and 2 to weigh and add, 4 per element
    and 3 per row to normalise, 3 for each of ``rotary`` elements that are rotated.
    Source: DeepSeek-V4's published code (compressors of ``modeling_deepseek_v4``).
    """

    kind: ClassVar[str] = "gated-pool"
    blocks: Summaries
    rotary: Expr
    parts: int = 1

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3 + 2 * self.parts, self, "takes {} operands", 3 + 2 * self.parts)
        cache, *before, new, gates, positions, weight = inputs
        require(len(cache.shape) == len(new.shape) == 4, self, "{} for {}", cache, new)
        width = cache.shape[3]
        for axis in range(4):
            require_same(self, new.shape[axis], gates.shape[axis], "axis {} of gates", axis)
        require_same(self, new.shape[3], self.parts * width, "width of rows")
        require_same(self, positions.shape[0], self.blocks.block, "positions of a block")
        require_same(self, positions.shape[1], new.shape[3], "width of positions")
        require_same(self, weight.shape[0], width, "weight of the norm")
        for state in before:
            require_same(self, state.shape[1], self.blocks.block, "rows of {}", state)
        rows = self.blocks.rows(self.blocks.context)
        made = Spec((cache.shape[0], rows, *cache.shape[2:]), cache.dtype, cache.role)
        return (made, *(Spec(s.shape, s.dtype, s.role) for s in before))

    def _new(self, inputs: Tensors) -> Expr:
        """Rows of blocks that the step finishes, of all sequences."""
        b, rows = inputs[0].shape[:2]
        return b * (self.blocks.rows(self.blocks.context) - rows)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        made, width = self._new(inputs), inputs[0].shape[3]
        each = self.parts * self.blocks.block * width
        # A softmax, a product and a sum for each; then the norm, and what is rotated.
        plain = each + 4 * each + 2 * each - width + 4 * width + 2 + 3 * self.rotary
        return vector_special(made * plain, made * (each + 1))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache, *before, new, gates, positions, weight = inputs
        made, rows = self._new(inputs), self.blocks.block
        moved = made * rows * new.shape[3]
        found = [read(t, moved * t.dtype.bytes_per_element) for t in (new, gates)]
        found += [read(t) for t in (*before, positions, weight)]
        found.append(write(outputs[0], made * cache.shape[3] * cache.dtype.bytes_per_element))
        return (*found, *(write(state) for state in outputs[1:]))
