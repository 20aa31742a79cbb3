"""Paged caches: blocks of tokens, a table of blocks, and kernels that follow it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Min, Mul, ceiling, expand, floor

from costgraph.ir.cost import Access, Direction
from costgraph.ir.op import Spec, Tensors
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import KVAppend

ONE, ZERO = Integer(1), Integer(0)
#: Bytes of one entry of a block table (a 32-bit block number).
ENTRY = Integer(4)


@dataclass(frozen=True)
class Paging:
    """How a cache is laid out in blocks.

    Attributes:
        block: tokens per block.
        exact: allocate ``⌈T/b⌉·b`` tokens; otherwise the expected
            ``T + (b − 1)/2`` for lengths that end anywhere in a block.
        table: attention reads the block table in every step.
        kernel: factor on the cache bytes that attention reads.
        prefix: tokens of a prefix that sequences share.
        sharers: sequences that share it.
        within: the prefix is whole blocks, and no context is shorter.
        once: attention reads the prefix once for all sequences that share it.
    """

    block: Expr
    exact: bool = True
    table: bool = True
    kernel: Expr = ONE
    prefix: Expr = ZERO
    sharers: Expr = ONE
    within: bool = False
    once: bool = False

    def allocated(self, tokens: Expr) -> Expr:
        """Tokens set aside per sequence for ``tokens`` cached ones."""
        if self.block == 1:
            return tokens  # every number of tokens is a whole number of blocks
        if self.exact:
            return ceiling(tokens / self.block) * self.block
        return tokens + (self.block - 1) / 2

    def saved(self, batch: Expr, tokens: Expr) -> Expr:
        """Tokens that sharing saves: a prefix's whole blocks once per group of sharers."""
        if self.sharers == 1 or self.prefix == 0:
            return ZERO
        whole = self.prefix
        if not self.within:
            whole = floor(Min(self.prefix, tokens) / self.block) * self.block
        return (batch - ceiling(batch / self.sharers)) * whole

    def reads(self, found: tuple[Access, ...], cache: Tensor) -> tuple[Access, ...]:
        """The accesses of an attention operation over a cache laid out this way."""
        batch, tokens = cache.shape[:2]
        share = self.saved(batch, tokens) / (batch * tokens) if self.once else ZERO
        scaled = tuple(
            replace(a, bytes=self.kernel * (a.bytes - expand(a.bytes * share)))
            if a.role is Role.KV and a.direction is Direction.READ
            else a
            for a in found
        )
        if not self.table:
            return scaled
        entries = batch * ceiling(tokens / self.block)
        return (
            *scaled,
            Access("block_table", Role.ACTIVATION, Direction.READ, ENTRY * entries),
        )


@dataclass(frozen=True)
class PagedKVAppend(KVAppend):
    """:class:`KVAppend` into blocks: the same traffic, another amount set aside.

    A cache that drops rows sets aside whole blocks for those that stay: blocks are taken
    to begin at the first of them.
    """

    kind: ClassVar[str] = "kv-append"
    paging: Paging = Paging(ONE)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        (spec,) = super().infer(inputs)
        tensor = spec.named("")
        batch, length = tensor.shape[:2]
        kind, row = tensor.dtype, Mul(*tensor.shape[2:])
        tokens = self.kept(length)
        # Recent tokens that stay wide lie in a buffer of their own.
        wide = kind.wide_rows(tokens)
        narrow = tokens - wide
        held = batch * self.paging.allocated(narrow) - self.paging.saved(batch, narrow)
        stored = held * row * kind.bytes_per_element
        if kind.recent is not None:
            stored += batch * wide * row * kind.recent.wide.bytes_per_element
        return (replace(spec, stored=stored),)
