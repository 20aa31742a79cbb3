"""Latent attention to positions that an indexer chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.least import least
from costgraph.ir.dtypes import INT32
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.mla import ONE, LatentAttention, Names
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import KVAppend, Rope, Split
from costgraph.ops.index import Choose, GatedMeans, IndexScores
from costgraph.ops.pattern import CAUSAL, Pattern, Selected, SelectedBlocks, Summaries, counted
from costgraph.symbols import B, T, q


@dataclass(frozen=True)
class SelectedAttention(LatentAttention):
    """Latent attention to the positions that an earlier layer chose.

    Attributes:
        most: positions that each query attends.
        block: positions that are chosen together, once all of them are there; those behind the
            last block are attended as well. None: each is chosen by itself.
    """

    most: Expr = ONE
    block: Expr | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table, and the rows or blocks ``(B, q, 1, …)`` that were chosen."""
        if self.block is None:
            found = least(T, self.most)
        else:
            found = least(Summaries(self.block).rows(T), self.most / self.block)
        shape = (B, q, ONE, found)
        return (*super().operands(style), Tensor("index_chosen", shape, INT32))

    def sees(self, style: Style) -> Pattern:
        """The best rows; all of them where masked pairs are computed, as published code does."""
        if style.mask == "compute":
            return counted(style.mask, CAUSAL)
        if self.block is None:
            return Selected(self.most)
        return SelectedBlocks(self.block, self.most / self.block, over=True)

    def chosen(self, m: Maker, x: str, low: str) -> Names:
        """The rows of the layer before."""
        return ("index_chosen",)


@dataclass(frozen=True)
class IndexedAttention(SelectedAttention):
    """Latent attention behind DeepSeek-V3.2's lightning indexer (arXiv 2512.02556, section 2.1).

    A few small query heads score all positions against one cached key each; attention reads
    the ``most`` best of them alone.

    Attributes:
        index_heads, index_dim: query heads of the indexer, and their size.
    """

    index_heads: Expr = Integer(1)
    index_dim: Expr = Integer(1)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table: the layer chooses itself."""
        return LatentAttention.operands(self, style)

    def chosen(self, m: Maker, x: str, low: str) -> Names:
        """Adds the indexer: it reads the hidden state and the latent queries."""
        sizes = (self.index_heads, self.index_dim)
        table = None if self.rope_dim == 0 else self.table
        seen = counted(m.style.mask)
        return (lightning_index(m, low, x, *sizes, table, self.most, seen, block=self.block),)


def lightning_index(
    m: Maker,
    low: str,
    x: str,
    heads: Expr,
    width: Expr,
    table: str | None,
    most: Expr,
    pattern: Pattern = CAUSAL,
    tempered: Callable[[str], str] | None = None,
    block: Expr | None = None,
) -> str:
    """Adds a lightning indexer, and returns the rows, or blocks of them, that it chooses.

    ``heads`` queries of ``width`` are made of ``low``, one key per position and a weight per
    head of ``x``; both ``(B, q, …)``. Keys have a cache of their own. A block has one key: the
    mean of its keys, weighed by gates that are made of ``x`` and kept beside them.

    Args:
        m: what it is added to.
        low: what queries are projected from.
        x: what keys and weights are projected from.
        heads, width: of the indexer.
        table: the rotary table, or None without one.
        most: rows that each query gets.
        pattern: which of them it may choose from.
        tempered: adds what multiplies its queries ``(B, q, heads, width)``, if something does.
        block: rows that are chosen together, once all of them are there; None: one by one.
    """
    wide, deep = m.shape(low)[-1], m.shape(x)[-1]
    query = m.linear("index_q_proj", low, heads * width, wide, split=(heads, width))
    if tempered is not None:
        query = tempered(query)
    key = m.linear("index_k_proj", x, width, deep)
    key = m.norm("index_k_norm", key, width, Norm("layer", True))
    key = m.add("index_k_row", Split(((ONE, width),)), key)
    if table is not None:
        query = m.add("index_q_rope", Rope(), query, table)
        key = m.add("index_k_rope", Rope(), key, table)
    keys = m.add("index_append", KVAppend(), m.cache("index_cache", ONE, width), key)
    if block is not None:
        gate = m.linear("index_gate_proj", x, width, deep)
        gate = m.add("index_gate_row", Split(((ONE, width),)), gate)
        gates = m.add("index_gates", KVAppend(), m.cache("index_gates_cache", ONE, width), gate)
        places = m.vector("index_places", block, width)
        keys = m.add("index_means", GatedMeans(block), keys, gates, places)
        most, pattern = most / block, counted(m.style.mask, Summaries(block))
    weights = m.linear("index_weights_proj", x, heads, deep)
    scores = m.add("index_scores", IndexScores(pattern), query, keys, weights)
    return m.add("index_choose", Choose(most, pattern), scores)
