"""Attention whose query heads are experts: a router chooses their projections for each token."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Combine, ExpertLinear, Rope, Route, Split
from costgraph.ops.maps import Map
from costgraph.ops.pattern import counted
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q


@dataclass(frozen=True)
class HeadExperts:
    """``chosen`` of ``experts`` pairs of query and output projections (JetMoE, arXiv 2404.07413).

    Each chosen expert has as many query heads as there are key heads; all of them read the same
    keys and values, which one matrix makes. A vector is added to the combined result.

    Attributes:
        d: hidden size.
        heads, head_dim: heads of keys and values, and of one expert's queries.
        experts, chosen: experts, and those of a token.
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    experts: Expr
    chosen: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return (Tensor("rope_table", (q, self.head_dim), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        few = (self.heads, self.head_dim)
        wide = self.heads * self.head_dim
        scores = m.linear("head_router", x, self.experts, self.d)
        route = Route(chosen=self.chosen, after=True)
        weights, numbers = m.add_many("head_route", route, scores)
        product = ExpertLinear(routing=m.style.routing)
        matrices = m.weight("expert_q.weight", self.experts, wide, self.d)
        query = m.add("expert_q", product, x, matrices, numbers)
        query = m.add("q_heads", Reshape((B, q, self.chosen * self.heads, few[1])), query)
        packed = m.linear("kv_proj", x, 2 * wide, self.d)
        key, value = m.add_many("kv_split", Split((few, few)), packed)
        query, key = (
            m.add(f"{n}_rope", Rope(), y, "rope_table") for n, y in (("q", query), ("k", key))
        )
        keys, values = cached(m, key, value)
        mixed = attended(m, query, keys, values, counted(m.style.mask))
        mixed = m.add("expert_heads", Reshape((B, q, self.chosen, wide)), mixed)
        matrices = m.weight("expert_o.weight", self.experts, self.d, wide)
        made = m.add("expert_o", product, mixed, matrices, numbers)
        made = m.add("heads_combine", Combine(), made, weights)
        return m.add("heads_bias", Map("add"), made, m.vector("heads.bias", self.d))
