"""Zaya's blocks: convolutions over queries and keys, a router that hears the one before it.

Compressed convolutional attention (arXiv 2510.04476): queries and keys side by side pass two short
causal convolutions, half of each value is that of the position before. A router's hidden state goes
on to the router of the next layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.stack import Uneven, close, embed
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, Combine, KVAppend, Rope, Scale
from costgraph.ops.arrays import JoinState
from costgraph.ops.conv import Conv
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pattern import CAUSAL, Pattern, counted
from costgraph.ops.views import Beside, Reshape, Slice, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)
UNIT = Norm(weight=False)
#: The router's hidden state, from layer to layer.
HEARD = "router_hidden"


@dataclass(frozen=True)
class ConvolvedAttention:
    """Grouped-query attention behind two convolutions.

    Attributes:
        d: hidden size.
        heads, kv_heads, head_dim, rotary: as in ``Attention``.
        taps: of the convolution of each channel.
        mixed: taps of that which mixes the channels of a head.
        bias: of all projections.
        pattern, table: what positions see, and the name of the rotary table.
    """

    d: Expr
    heads: Expr
    kv_heads: Expr
    head_dim: Expr
    rotary: Expr
    taps: Expr
    mixed: Expr
    bias: bool = False
    pattern: Pattern = CAUSAL
    table: str = "rope_table"

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return (Tensor(self.table, (q, self.rotary), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        hk, dh, keeps = self.kv_heads, self.head_dim, self.pattern
        query, key = self._mixed(m, x)
        value = self._values(m, x)
        key = m.add("k_temperature", Map("mul"), key, m.vector("temperature", hk, ONE))
        query = m.add("q_rope", Rope(), query, self.table)
        key = m.add("k_rope", Rope(), key, self.table)
        keys = m.add("k_append", KVAppend(keeps), m.cache("k_cache", hk, dh, keeps), key)
        values = m.add("v_append", KVAppend(keeps), m.cache("v_cache", hk, dh, keeps), value)
        made = attended(m, query, keys, values, counted(m.style.mask, keeps))
        return m.linear("o_proj", made, self.d, self.heads * dh, self.bias, contract=2)

    def _mixed(self, m: Maker, x: str) -> tuple[str, str]:
        """Queries and keys: what convolutions make of both, and their mean, at unit length."""
        hk, dh, groups = self.kv_heads, self.head_dim, self.heads / self.kv_heads
        wide, narrow = self.heads * dh, hk * dh
        first = m.linear("q_proj", x, wide, self.d, self.bias)
        second = m.linear("k_proj", x, narrow, self.d, self.bias)
        flat = self._convolved(m, m.add("qk_beside", Beside(2), first, second), wide + narrow)
        one = m.add("q_groups", Reshape((B, q, hk, groups, dh)), first)
        each = m.add("k_groups", Reshape((B, q, hk, ONE, dh)), second)
        mean = m.add("qk_half", Scale(), m.add("qk_add", Map("add"), one, each))
        kept = m.add("k_mean", Reduce("mean", (3,)), mean)
        mean = m.add("q_mean", Reshape((B, q, self.heads, dh)), mean)
        made = []
        for name, start, heads, past in (
            ("q", Integer(0), self.heads, mean),
            ("k", wide, hk, kept),
        ):
            part = m.add(f"{name}_part", Slice(2, start, heads * dh), flat)
            part = m.add(f"{name}_heads", Reshape((B, q, heads, dh)), part)
            both = m.add(f"{name}_past_add", Add(), part, past)
            made.append(m.norm(f"{name}_norm", both, dh, UNIT))
        return made[0], made[1]

    def _convolved(self, m: Maker, x: str, channels: Expr) -> str:
        """Two convolutions over ``x (B, q, C)`` and the columns that they still see."""
        turned = m.add("qk_turn", Transpose((0, 2, 1)), x)
        columns = self.taps + self.mixed - 2
        if columns != 0:
            state = m.state("qk_state", B, channels, columns, dtype=m.style.acts)
            turned = m.add_many("qk_join", JoinState(), turned, state)[0]
        for name, taps, groups in (
            ("qk_depthwise", self.taps, channels),
            ("qk_grouped", self.mixed, self.heads + self.kv_heads),
        ):
            weight = m.weight(f"{name}.weight", channels, channels / groups, taps)
            bias = m.vector(f"{name}.bias", channels)
            turned = m.add(name, Conv(groups=groups, bias=True), turned, weight, bias)
        return m.add("qk_turn_back", Transpose((0, 2, 1)), turned)

    def _values(self, m: Maker, x: str) -> str:
        """Half of what values hold is made of the position before, kept as a state."""
        half = self.kv_heads * self.head_dim / 2
        now = m.linear("v_now_proj", x, half, self.d, self.bias)
        late = m.linear("v_late_proj", x, half, self.d, self.bias)
        state = m.state("v_state", B, half, ONE, dtype=m.style.acts)
        turned = m.add("v_turn", Transpose((0, 2, 1)), late)
        joined = m.add_many("v_join", JoinState(), turned, state)[0]
        before = m.add("v_before", Slice(2, Integer(0), q), joined)
        late = m.add("v_turn_back", Transpose((0, 2, 1)), before)
        both = m.add("v_beside", Beside(2), now, late)
        return m.add("v_heads", Reshape((B, q, self.kv_heads, self.head_dim)), both)


@dataclass(frozen=True)
class HearingExperts(Experts):
    """Experts behind a small network that chooses, and one choice more, which is none of them.

    Attributes:
        inner: width of the router.
        first: no router stands before it.
    """

    inner: Expr = ONE
    first: bool = False

    def pair(self, m: Maker, x: str) -> tuple[str, str]:
        """Adds the block; the result ``(B, q, d)`` and what the next router hears."""
        heard = m.linear("router_down", x, self.inner, self.d, True)
        if not self.first:
            scale = m.vector("router_states_scale", self.inner)
            past = m.add("router_past", Map("mul"), HEARD, scale)
            heard = m.add("router_hear", Add(), heard, past)
        made = m.norm("router_norm", heard, self.inner, Norm())
        for name in ("router_fc1", "router_fc2"):
            made = m.linear(name, made, self.inner, self.inner, True)
            made = m.add(f"{name}_act", Activation("gelu"), made)
        logits = m.linear("router", made, self.experts + 1, self.inner)
        weights, numbers = m.add_many("route", self._route(), logits)
        rows = self._experts(m, x, numbers)
        return m.add("combine", Combine(), rows, weights), heard


@dataclass(frozen=True)
class HearingLayer:
    """A layer whose sums are weighted by element, with the router's state beside them.

    Attributes:
        attention, experts: its blocks.
    """

    attention: ConvolvedAttention
    experts: HearingExperts

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return self.attention.operands(style)

    def graph(self, style: Style) -> Graph:
        """Hidden state, what the router hears, and shared operands in; the first two out."""
        m, d = Maker("layer", style), self.attention.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        if not self.experts.first:
            m.source(Tensor(HEARD, (B, q, self.experts.inner), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        mixed = self.attention.add(m, m.norm("attn_norm", x, d, Norm()))
        x = self._summed(m, "attn", mixed, x)
        fed, heard = self.experts.pair(m, m.norm("mlp_norm", x, d, Norm()))
        return m.build(self._summed(m, "mlp", fed, x), heard)

    def _summed(self, m: Maker, name: str, made: str, x: str) -> str:
        d = self.attention.d
        parts = [moved(m, f"{name}_{n}", y, d) for n, y in (("made", made), ("kept", x))]
        return m.add(f"{name}_add", Add(), *parts)


def moved(m: Maker, name: str, x: str, d: Expr) -> str:
    """Adds ``(x + b)·s`` with learned vectors."""
    x = m.add(f"{name}_shift", Map("add"), x, m.vector(f"{name}_bias", d))
    return m.add(f"{name}_scale", Map("mul"), x, m.vector(f"{name}_weight", d))


@dataclass(frozen=True)
class Hearing(Uneven):
    """A decoder of such layers.

    Attributes:
        parts: layers in a row by name, with their number; the first layer stands alone.
    """

    parts: tuple[tuple[str, HearingLayer, int], ...]

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        hidden, table = embed(m, self.ends)
        state = [moved(m, "embed", hidden, self.ends.d)]
        for part, layer, count in self.parts:
            shared = [m.source(t) for t in layer.operands(style)]
            region = Repeat(layer.graph(style), Integer(count), carried=len(state))
            state = list(m.add_many(part, region, *state, *shared))
        return m.build(close(m, self.ends, state[0], table))
