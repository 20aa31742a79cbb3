"""Latent attention with an indexer that chooses the positions to attend."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.mla import ONE, LatentAttention
from costgraph.models.blocks.style import Maker, Norm
from costgraph.ops import AttentionScores, KVAppend, Rope, Split
from costgraph.ops.index import HeadSum, TopPositions


@dataclass(frozen=True)
class IndexedAttention(LatentAttention):
    """Latent attention beside DeepSeek-V3.2's lightning indexer (arXiv 2512.02556, section 2.1).

    The indexer is counted whole: projections, its cache of one key per position, scores of all
    positions, the choice. The attention behind it is counted over all positions, as it is in
    contexts of up to ``most`` tokens.

    Attributes:
        index_heads, index_dim: query heads of the indexer, and their size.
        most: positions that it chooses.
    """

    index_heads: Expr = Integer(1)
    index_dim: Expr = Integer(1)
    most: Expr = Integer(1)

    def chosen(self, m: Maker, x: str, low: str) -> None:
        """Adds the indexer: it reads the hidden state and the latent queries."""
        h, width, mask = self.index_heads, self.index_dim, m.style.mask
        assert self.q_rank is not None
        (table,) = self.operands(m.style)
        query = m.linear("index_q_proj", low, h * width, self.q_rank, split=(h, width))
        key = m.linear("index_k_proj", x, width, self.d)
        key = m.norm("index_k_norm", key, width, Norm("layer", True))
        key = m.add("index_k_row", Split(((ONE, width),)), key)
        query = m.add("index_q_rope", Rope(), query, table.name)
        key = m.add("index_k_rope", Rope(), key, table.name)
        keys = m.add("index_append", KVAppend(), m.cache("index_cache", ONE, width), key)
        scores = m.add("index_qk_matmul", AttentionScores(mask), query, keys)
        weights = m.linear("index_weights_proj", x, h, self.d)
        scores = m.add("index_sum", HeadSum(mask), scores, weights)
        m.add("index_top", TopPositions(self.most, mask), scores)
