"""Gemma 4's layers: caches that later layers read too, and an input of each layer's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    KVAppend,
    Multiply,
    Rope,
    Scale,
    Softmax,
)
from costgraph.ops.pattern import FULL, Band, Pattern, counted, sliding
from costgraph.symbols import B, T, q

RMS, PLAIN = Norm(), Norm(weight=False)


@dataclass(frozen=True)
class SharingAttention:
    """Grouped-query attention with norms on queries, keys and values.

    Attributes:
        d: hidden size.
        heads, kv_heads, head_dim: query heads, key/value heads, their size.
        rotary: rotated width per head.
        window: positions that each one sees, itself included; None for all.
        bias: of the projections.
        same: keys and values come from one projection.
        reads: keys and values are those of an earlier layer: no projections, no cache.
        table, store: names of the rotary table, and of the earlier layer's keys and values.
        causal: False for attention in both directions, without caches; ``window`` is then how far
            apart positions are that see each other.
    """

    d: Expr
    heads: Expr
    kv_heads: Expr
    head_dim: Expr
    rotary: Expr
    window: Expr | None = None
    bias: bool = False
    same: bool = False
    reads: bool = False
    table: str = "rope_table"
    store: str = "full"
    causal: bool = True

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table, and another layer's keys and values where those are read."""
        shared = (Tensor(self.table, (q, self.rotary), style.acts),)
        if not self.reads:
            return shared
        shape = (B, sliding(self.window).seen(q, T), self.kv_heads, self.head_dim)
        return (
            *shared,
            *(Tensor(f"{self.store}_{n}", shape, style.kv) for n in ("keys", "values")),
        )

    def add(self, m: Maker, x: str) -> tuple[str, str, str]:
        """Adds the block; (result ``(B, q, d)``, keys, values) from ``x (B, q, d)``."""
        dh, pattern = self.head_dim, self._sees(m.style)
        query = self._project(m, "q", x, self.heads)
        query = m.norm("q_norm", query, dh, RMS)
        query = m.add("q_rope", Rope(), query, self.table)
        keys, values = f"{self.store}_keys", f"{self.store}_values"
        if not self.reads:
            keys, values = self._made(m, x)
        scores = m.add("qk_matmul", AttentionScores(pattern), query, keys)
        shares = m.add("softmax", Softmax(pattern), scores)
        mixed = m.add("sv_matmul", AttentionValues(pattern), shares, values)
        made = m.linear("o_proj", mixed, self.d, self.heads * dh, self.bias, contract=2)
        return made, keys, values

    def _sees(self, style: Style) -> Pattern:
        if self.causal:
            return counted(style.mask, sliding(self.window))
        return FULL if self.window is None or style.mask == "compute" else Band(self.window)

    def _project(self, m: Maker, name: str, x: str, heads: Expr) -> str:
        shape = (heads, self.head_dim)
        return m.linear(f"{name}_proj", x, heads * self.head_dim, self.d, self.bias, shape)

    def _made(self, m: Maker, x: str) -> tuple[str, str]:
        """Keys and values of all positions, appended to the layer's caches where there are some."""
        heads, dh = self.kv_heads, self.head_dim
        first = self._project(m, "k", x, heads)
        value = first if self.same else self._project(m, "v", x, heads)
        key = m.add("k_rope", Rope(), m.norm("k_norm", first, dh, RMS), self.table)
        value = m.norm("v_norm", value, dh, PLAIN)
        if not self.causal:
            return key, value
        keeps = sliding(self.window)
        keys, values = (
            m.add(f"{n}_append", KVAppend(keeps), m.cache(f"{n}_cache", heads, dh, keeps), new)
            for n, new in (("k", key), ("v", value))
        )
        return keys, values


@dataclass(frozen=True)
class SharingLayer:
    """A layer with norms on both sides of its blocks.

    Attributes:
        attention, feed: the blocks.
        experts: beside the feed-forward block, between norms of their own, or None.
        own: width of the layer's own input, which a gate lets through, or 0.
        activation: of that gate.
        stores: the layer also gives its keys and values.
    """

    attention: SharingAttention
    feed: FeedForward
    experts: Experts | None = None
    own: Expr = Integer(0)
    activation: str = "gelu_tanh"
    stores: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """What the attention shares, and the layer's own input."""
        shared = self.attention.operands(style)
        if self.own == 0:
            return shared
        return (*shared, Tensor("own_input", (B, q, self.own), style.acts))

    def graph(self, style: Style) -> Graph:
        """Hidden state and shared operands in; hidden state, and what is stored, out."""
        d = self.attention.d
        m = Maker("layer", style)
        hidden = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = m.norm("attn_norm", hidden, d, RMS)
        mixed, keys, values = self.attention.add(m, x)
        x = m.add("attn_add", Add(), m.norm("attn_post_norm", mixed, d, RMS), hidden)
        fed = self.feed.add(m, m.norm("mlp_norm", x, d, RMS))
        if self.experts is not None:
            fed = self._beside(m, x, fed, self.experts)
        x = m.add("mlp_add", Add(), m.norm("mlp_post_norm", fed, d, RMS), x)
        if self.own != 0:
            x = self._gated(m, x)
        x = m.add("layer_scale", Scale(), x)
        return m.build(x, keys, values) if self.stores else m.build(x)

    def _beside(self, m: Maker, x: str, fed: str, experts: Experts) -> str:
        """The feed-forward block's result plus the experts', each through a norm."""
        d = self.attention.d
        fed = m.norm("dense_post_norm", fed, d, RMS)
        reads = m.norm("router_norm", x, d, RMS)
        routed = experts.add(m, m.norm("experts_norm", x, d, RMS), reads)
        return m.add("experts_add", Add(), fed, m.norm("experts_post_norm", routed, d, RMS))

    def _gated(self, m: Maker, x: str) -> str:
        gate = m.linear("own_gate", x, self.own, self.attention.d)
        gate = m.add("own_act", Activation(self.activation), gate)
        let = m.add("own_mul", Multiply(), gate, "own_input")
        made = m.linear("own_proj", let, self.attention.d, self.own)
        return m.add("own_add", Add(), m.norm("own_norm", made, self.attention.d, RMS), x)

    def storing(self) -> SharingLayer:
        """The layer, giving its keys and values."""
        return replace(self, stores=True)
