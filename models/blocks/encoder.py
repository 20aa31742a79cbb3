"""Blocks of encoders and of decoders that attend to an encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, KVAppend, RelativeBias, Rope, Split
from costgraph.ops.pattern import FULL, Band, counted
from costgraph.symbols import B, S, T, q


@dataclass(frozen=True)
class Heads:
    """Projections around attention with ``heads`` heads of ``head_dim`` each.

    Attributes:
        d: hidden size.
        qv_bias, k_bias, out_bias: biases (Whisper has none on its keys).
        fused: queries, keys and values come from one matrix.
        rotary: rotated width per head, or None.
        relative: scores get a position bias that all layers share.
        qk_norm: normalisation of queries and keys over all heads together, or None.
        kv_heads: heads of keys and values where there are fewer.
        buckets: buckets of a position bias of this layer's own, or None.
        capped: scores pass through a soft cap.
        each: normalisation of every head of queries and keys, or None; ``value_norm``: values
            get one without weights.
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    qv_bias: bool = False
    k_bias: bool = False
    out_bias: bool = False
    fused: bool = False
    rotary: Expr | None = None
    relative: bool = False
    qk_norm: Norm | None = None
    kv_heads: Expr | None = None
    buckets: Expr | None = None
    capped: bool = False
    each: Norm | None = None
    value_norm: bool = False

    @property
    def keys(self) -> Expr:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def width(self) -> Expr:
        """Width of all heads together."""
        return self.heads * self.head_dim

    def shared(self, style: Style, context: Expr) -> tuple[Tensor, ...]:
        """Rotary table and position bias, where there are any."""
        found: tuple[Tensor, ...] = ()
        if self.rotary is not None:
            found += (Tensor("rope_table", (q, self.rotary), style.acts),)
        if self.relative:
            found += (Tensor("position_bias", (self.heads, q, context), style.acts),)
        return found

    def project(self, m: Maker, name: str, x: str, prefix: str = "") -> str:
        """Adds the projection to queries, keys or values, split into heads."""
        bias = self.k_bias if name == "k" else self.qv_bias
        split = (self.heads if name == "q" else self.keys, self.head_dim)
        width, ic = split[0] * self.head_dim, m.shape(x)[-1]
        if self.qk_norm is None or name == "v":
            return m.linear(f"{prefix}{name}_proj", x, width, ic, bias, split)
        x = m.linear(f"{prefix}{name}_proj", x, width, ic, bias)
        x = m.norm(f"{prefix}{name}_norm", x, width, self.qk_norm)
        return m.add(f"{prefix}{name}_split", Split((split,)), x)

    def all(self, m: Maker, x: str) -> tuple[str, str, str]:
        """Adds queries, keys and values of ``x``, rotated."""
        if self.fused:
            few = (self.keys, self.head_dim)
            parts = ((self.heads, self.head_dim), few, few)
            wide = (self.heads + 2 * self.keys) * self.head_dim
            packed = m.linear("qkv_proj", x, wide, self.d, self.qv_bias)
            query, key, value = m.add_many("qkv_split", Split(parts), packed)
        else:
            query, key, value = (self.project(m, name, x) for name in ("q", "k", "v"))
        if self.each is not None:
            query = m.norm("q_norm", query, self.head_dim, self.each)
            key = m.norm("k_norm", key, self.head_dim, self.each)
            if self.value_norm:
                value = m.norm("v_norm", value, self.head_dim, replace(self.each, weight=False))
        if self.rotary is not None:
            query = m.add("q_rope", Rope(), query, "rope_table")
            key = m.add("k_rope", Rope(), key, "rope_table")
        return query, key, value

    def out(self, m: Maker, mixed: str, prefix: str = "") -> str:
        """Adds the projection back to the hidden size."""
        return m.linear(f"{prefix}o_proj", mixed, self.d, self.width, self.out_bias, contract=2)

    def bias(self, m: Maker, context: Expr, queries: Expr = q) -> str:
        """Name of the position bias, shared or of this layer's own; empty without one."""
        if self.buckets is None:
            return "position_bias" if self.relative else ""
        table = m.vector("relative_bias.weight", self.buckets, self.heads)
        return m.add("own_position_bias", RelativeBias(queries, context), table)


@dataclass(frozen=True)
class Bidirectional:
    """Self-attention in both directions; nothing is cached.

    ``reach`` is how far apart positions may be that see each other, or None; ``ahead``: how far
    ahead one sees where that differs. A style that computes masked pairs computes all of them.
    """

    at: Heads
    reach: Expr | None = None
    ahead: Expr | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Rotary table and position bias."""
        return self.at.shared(style, q)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.at.all(m, x)
        near = self.reach is not None and m.style.mask != "compute"
        pattern = Band(self.reach, ahead=self.ahead) if near and self.reach is not None else FULL
        bias = self.at.bias(m, q)
        mixed = attended(m, query, key, value, pattern, bias, capped=self.at.capped)
        return self.at.out(m, mixed)


@dataclass(frozen=True)
class Normed:
    """A block behind a norm of its own, for layers whose other block has none."""

    block: Block
    d: Expr
    norm: Norm

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the block."""
        return self.block.operands(style)

    def add(self, m: Maker, x: str) -> str:
        """Adds norm and block."""
        return self.block.add(m, m.norm("block_norm", x, self.d, self.norm))


@dataclass(frozen=True)
class CrossLayer:
    """A decoder layer: causal self-attention, attention to the encoder, feed-forward.

    Keys and values of the encoder's ``S`` positions are computed once, by
    :class:`CrossCache`, and read from their cache in every step.

    Attributes:
        d: hidden size.
        own: heads of the self-attention; ``cross``: of the other.
        channel: the feed-forward block.
        norm: of all three blocks; ``norm_first``: in front of them, or after
            the residual additions.
        post_norms: norms after each block, before the residual addition.
    """

    d: Expr
    own: Heads
    cross: Heads
    channel: Block
    norm: Norm
    norm_first: bool = True
    post_norms: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Position bias of the self-attention, and what the feed-forward shares."""
        return tuple(dict.fromkeys((*self.own.shared(style, T), *self.channel.operands(style))))

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        for name in ("attn", "cross", "mlp"):
            inner = m.norm(f"{name}_norm", x, self.d, self.norm) if self.norm_first else x
            made = self._block(m, name, inner)
            if self.post_norms:
                made = m.norm(f"{name}_post_norm", made, self.d, self.norm)
            x = m.add(f"{name}_add", Add(), made, x)
            if not self.norm_first:
                x = m.norm(f"{name}_norm", x, self.d, self.norm)
        return m.build(x)

    def _block(self, m: Maker, name: str, x: str) -> str:
        if name == "mlp":
            return self.channel.add(m, x)
        if name == "attn":
            query, key, value = self.own.all(m, x)
            keys, values = cached(m, key, value)
            bias, capped, pattern = self.own.bias(m, T), self.own.capped, counted(m.style.mask)
            mixed = attended(m, query, keys, values, pattern, bias, capped=capped)
            return self.own.out(m, mixed)
        at = self.cross
        shape = (B, S, at.keys, at.head_dim)
        keys, values = (
            m.source(Tensor(f"cross_{part}_cache", shape, m.style.kv, Role.KV)) for part in "kv"
        )
        query = at.project(m, "q", x, "cross_")
        mixed = attended(m, query, keys, values, FULL, prefix="cross_", capped=at.capped)
        return at.out(m, mixed, "cross_")


@dataclass(frozen=True)
class CrossCache:
    """One decoder layer's keys and values of the encoder's result, computed and stored.

    ``source`` is the width of that result, ``length`` its positions; ``k_norm`` of keys per
    head, or None.
    """

    cross: Heads
    source: Expr
    length: Expr = q
    k_norm: Norm | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing beside the encoder's result."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The body: the encoder's result in, and out unchanged for the next layer."""
        m = Maker("cross", style)
        x = m.source(Tensor("hidden", (B, self.length, self.source), style.acts))
        for name in ("k", "v"):
            made = self.cross.project(m, name, x, "cross_")
            if name == "k" and self.k_norm is not None:
                made = m.norm("cross_k_norm", made, self.cross.head_dim, self.k_norm)
            shape = (B, Integer(0), self.cross.keys, self.cross.head_dim)
            empty = m.source(Tensor(f"cross_{name}_cache", shape, style.kv, Role.KV))
            m.add(f"cross_{name}_append", KVAppend(), empty, made)
        return m.build(x)
