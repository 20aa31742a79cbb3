"""Attention to blocks of positions that an index of its own chooses (MiniMax-M3)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, ceiling

from costgraph.formula.least import least
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import AttentionScores, KVAppend, Rope, Split
from costgraph.ops.index import BlockBest, Choose
from costgraph.ops.pattern import CAUSAL, Pattern, SelectedBlocks, Summaries, counted
from costgraph.symbols import T, q

ONE = Integer(1)


@dataclass(frozen=True)
class BlockAttention:
    """Grouped-query attention to the blocks whose best scores are the highest.

    Index heads score every position with one key each, kept in a cache of its own; a block is as
    good as its best position. A query reads ``most`` blocks, its own among them.

    Attributes:
        attention: heads, projections and norms.
        heads, width: index heads, and their size.
        block, most: positions of a block, and blocks that a query reads.
    """

    attention: Attention
    heads: Expr
    width: Expr
    block: Expr
    most: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary tables: of the attention, and of the index where its heads are narrower."""
        return (*self.attention.operands(style), *self._table(style))

    def _table(self, style: Style) -> tuple[Tensor, ...]:
        rotary = self._rotary
        if rotary == self.attention.rotary:
            return ()
        return (Tensor("index_rope_table", (q, rotary), style.acts),)

    @property
    def _rotary(self) -> Expr:
        rotary = self.attention.rotary
        return self.width if rotary is None else least(rotary, self.width)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        at = self.attention
        query, key, value = at.projected(m, x)
        keys, values = cached(m, key, value)
        best = self._chosen(m, x)
        index: tuple[str, ...] = ()
        if m.style.mask == "compute":
            # As published code does without a kernel: all positions, and a mask.
            pattern: Pattern = counted(m.style.mask)
        else:
            apart = self.heads / at.kv_heads if self.heads != at.kv_heads else ONE
            pattern, index = SelectedBlocks(self.block, self.most, apart), (best,)
        mixed = attended(m, query, keys, values, pattern, index=index)
        wide = at.heads * at.head_dim
        return m.linear("o_proj", mixed, at.d, wide, at.out_bias, contract=2)

    def _chosen(self, m: Maker, x: str) -> str:
        """Adds the index."""
        d, h, w = self.attention.d, self.heads, self.width
        query = m.linear("index_q_proj", x, h * w, d, split=(h, w))
        query = m.norm("index_q_norm", query, w, Norm())
        key = m.norm("index_k_norm", m.linear("index_k_proj", x, w, d), w, Norm())
        key = m.add("index_k_row", Split(((ONE, w),)), key)
        table = next((t.name for t in self._table(m.style)), self.attention.table)
        query = m.add("index_q_rope", Rope(), query, table)
        key = m.add("index_k_rope", Rope(), key, table)
        keys = m.add("index_append", KVAppend(), m.cache("index_cache", ONE, w), key)
        seen: Pattern = counted(m.style.mask, CAUSAL)
        scores = m.add("index_scores", AttentionScores(seen), query, keys)
        scores = m.add("index_blocks", BlockBest(self.block, seen), scores)
        pages = Summaries(self.block, begun=True)
        found = ceiling(least(T, self.most * self.block) / self.block)
        return m.add("index_choose", Choose(self.most, counted(m.style.mask, pages), found), scores)
