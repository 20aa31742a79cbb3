"""Zamba 1 and 2: a transformer block in front of Mamba layers, whose weights places share."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, Concat, Multiply, Rope, Split
from costgraph.ops.pattern import counted
from costgraph.symbols import B, q


@dataclass(frozen=True)
class SharedBlock:
    """A hybrid layer: a shared transformer block feeds a Mamba layer.

    The shared block reads the hidden state beside the embeddings (``2d``). Its
    result passes a projection of the layer's own and is added to the input of
    the layer's mixer. Its feed-forward projection has low-rank adapters that
    belong to the layer.

    Attributes:
        d: hidden size.
        wide: width of hidden state and embeddings side by side.
        heads, head_dim, rotary: of the shared attention.
        width, activation: the shared feed-forward's.
        rank: of the adapters, or None without them.
        adapted: queries, keys and values have such adapters, too.
        sets: sets of shared weights per place (1/9: nine places share one).
        mixer: the layer's own mixer.
    """

    d: Expr
    wide: Expr
    heads: Expr
    head_dim: Expr
    rotary: Expr | None
    width: Expr
    activation: str
    rank: Expr | None
    sets: Expr
    mixer: Block
    adapted: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The embeddings, and the attention's rotary table."""
        embeddings = Tensor("embeddings", (B, q, self.d), style.acts)
        if self.rotary is None:
            return (embeddings,)
        return (embeddings, Tensor("rope_table", (q, self.rotary), style.acts))

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state, embeddings (and rotary table) in, hidden state out."""
        m = Maker("layer", style)
        hidden = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        shared = [m.source(t) for t in self.operands(style)]
        given, carried = [hidden, *shared], 1
        if self.adapted and self.rank is not None:
            # Both regions make another width than they read, so that neither could go round.
            carried = 0
            inner = Maker("shared_norm", style)
            join = self._region(inner.build(self._widened(inner)), carried)
            wide = m.add("shared_norm", join, hidden, shared[0])
            given = [wide, *shared[1:], *(self._adapter(m, n, wide, self.rank) for n in "qkv")]
        first = self._region(self._attend(style), carried)
        normed = m.add("shared_attention", first, *given)
        second = self._region(self._feed(style))
        if self.rank is None:
            fed = m.add("shared_mlp", second, normed)
        else:
            low = m.linear("adapter_down", normed, self.rank, self.d)
            adapted = m.linear("adapter_up", low, 2 * self.width, self.rank)
            fed = m.add("shared_mlp", second, normed, adapted)
        own = m.linear("own_proj", fed, self.d, self.d)
        x = m.norm("mixer_norm", m.add("shared_add", Add(), hidden, own), self.d, Norm())
        return m.build(m.add("mixer_add", Add(), self.mixer.add(m, x), hidden))

    def _region(self, body: Graph, carried: int = 1) -> Repeat:
        """A part of the shared block, whose weights some places share."""
        one = Integer(1)
        return Repeat(body, one, carried, shared_weights=self.sets, rounds="other")

    def _adapter(self, m: Maker, name: str, x: str, rank: Expr) -> str:
        """Adds a layer's own adapter of queries, keys or values; ``x (B, q, wide)`` as heads."""
        low = m.linear(f"{name}_adapter_down", x, rank, self.wide)
        split = (self.heads, self.head_dim)
        return m.linear(f"{name}_adapter_up", low, self.heads * self.head_dim, rank, split=split)

    def _widened(self, m: Maker) -> str:
        """Adds the norm of hidden state and embeddings side by side."""
        hidden = m.source(Tensor("hidden", (B, q, self.d), m.style.acts))
        both = m.add("beside", Concat(), hidden, m.source(self.operands(m.style)[0]))
        return m.norm("attn_norm", both, self.wide, Norm())

    def _attend(self, style: Style) -> Graph:
        m = Maker("shared_attention", style)
        inner, split = self.heads * self.head_dim, (self.heads, self.head_dim)
        adapts = self.adapted and self.rank is not None
        wide = Tensor("wide", (B, q, self.wide), style.acts)
        x = m.source(wide) if adapts else self._widened(m)
        tables = [m.source(t) for t in self.operands(style)[1:]]
        made = [m.linear(f"{n}_proj", x, inner, self.wide, split=split) for n in "qkv"]
        if adapts:
            shape = (B, q, *split)
            more = [m.source(Tensor(f"{n}_adapted", shape, style.acts)) for n in "qkv"]
            pairs = zip("qkv", made, more, strict=True)
            made = [m.add(f"{n}_adapter_add", Add(), x, y) for n, x, y in pairs]
        query, key, value = made
        for table in tables:
            query = m.add("q_rope", Rope(), query, table)
            key = m.add("k_rope", Rope(), key, table)
        keys, values = cached(m, key, value)
        x = attended(m, query, keys, values, counted(m.style.mask))
        x = m.linear("o_proj", x, self.d, inner, contract=2)
        return m.build(m.norm("mlp_norm", x, self.d, Norm()))

    def _feed(self, style: Style) -> Graph:
        m = Maker("shared_mlp", style)
        x = m.source(Tensor("normed", (B, q, self.d), style.acts))
        if self.rank is None:
            feed = FeedForward(self.d, self.width, self.activation)
            return m.build(feed.add(m, x))
        adapted = m.source(Tensor("adapted", (B, q, 2 * self.width), style.acts))
        packed = m.linear("gate_up_proj", x, 2 * self.width, self.d)
        packed = m.add("adapter_add", Add(), packed, adapted)
        gate, up = m.add_many("gate_up_split", Split(((self.width,), (self.width,))), packed)
        gate = m.add("mlp_act", Activation(self.activation), gate)
        return m.build(
            m.linear("down_proj", m.add("mlp_mul", Multiply(), gate, up), self.d, self.width)
        )
