"""Layers on the unit sphere, part of which run several times: nGPT's (arXiv 2410.01131), in Dory.

Hidden states have a length of one; a layer moves them towards what it made, each channel at a rate
of its own. Learned numbers times constants are made once, and cost nothing in a step. Unit length
is a root mean square up to a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.stack import Segment, Uneven, close, embed, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, KVAppend, Multiply
from costgraph.ops.maps import Map
from costgraph.ops.pattern import counted
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q

ONE = Integer(1)
UNIT = Norm(weight=False)
#: What layers in front of the loops made.
GIVEN = "loop_input"


def weighed(m: Maker, name: str, x: str, *shape: Expr) -> str:
    """Adds a product of each element with a learned number ``(shape)``."""
    return m.add(name, Map("mul"), x, m.vector(f"{name}.weight", *shape))


@dataclass(frozen=True)
class SphereAttention(Attention):
    """Attention with a learned number on each element of queries, and of the gate's product."""

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        hk, dh, keeps = self.kv_heads, self.head_dim, self.pattern
        wide = self.heads * dh
        query, key, value = self.projected(m, x)
        query = weighed(m, "q_scale", query, self.heads, dh)
        keys = m.add("k_append", KVAppend(keeps), m.cache("k_cache", hk, dh, keeps), key)
        values = m.add("v_append", KVAppend(keeps), m.cache("v_cache", hk, dh, keeps), value)
        mixed = attended(m, query, keys, values, counted(m.style.mask, keeps))
        mixed = m.add("heads_join", Reshape((B, q, wide)), mixed)
        gate = weighed(m, "attn_gate_scale", m.linear("attn_gate_proj", x, wide, self.d), wide)
        gate = m.add("attn_gate", Activation("sigmoid"), gate)
        mixed = m.norm("heads_norm", m.add("attn_gate_mul", Multiply(), mixed, gate), wide, UNIT)
        return m.linear("o_proj", mixed, self.d, wide, self.out_bias)


@dataclass(frozen=True)
class SphereFeed(FeedForward):
    """A gated block with a learned number on each element of both products."""

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        made = []
        for name in ("gate", "up"):
            wide = m.linear(f"{prefix}{name}_proj", x, self.width, self.d, self.bias)
            made.append(weighed(m, f"{prefix}{name}_scale", wide, self.width))
        acted = m.activation(f"{prefix}mlp_act", made[0], self.activation)
        gated = m.add(f"{prefix}mlp_mul", Multiply(), acted, made[1])
        gated = m.norm(f"{prefix}mlp_inner_norm", gated, self.width, UNIT)
        return m.linear(f"{prefix}down_proj", gated, self.d, self.width, self.bias)


@dataclass(frozen=True)
class SphereLayer:
    """A layer of both blocks.

    Attributes:
        attention, feed: the blocks.
    """

    attention: SphereAttention
    feed: SphereFeed

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return self.attention.operands(style)

    def graph(self, style: Style) -> Graph:
        """Hidden state and rotary table in, hidden state out."""
        m, d = Maker("layer", style), self.attention.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        for name, block in (("attn", self.attention), ("mlp", self.feed)):
            x = m.norm(f"{name}_norm", x, d, UNIT)
            made = m.norm(f"{name}_post_norm", block.add(m, x), d, UNIT)
            way = m.add(f"{name}_way", Map("sub"), made, x)
            x = m.add(f"{name}_add", Add(), weighed(m, f"{name}_rate", way, d), x)
        return m.build(x)


@dataclass(frozen=True)
class Looped(Uneven):
    """A decoder whose middle runs several times, with caches of its own each time.

    Every time begins with what the last one made, at unit length, and what the first layers made.

    Attributes:
        first, middle, last: layers in a row.
        times: how often the middle runs.
    """

    first: tuple[Segment, ...]
    middle: tuple[Segment, ...]
    last: tuple[Segment, ...]
    times: Expr

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m, d = Maker(name, style), self.ends.d
        hidden, table = embed(m, self.ends)
        hidden = run(m, self.first, hidden)
        given = m.norm("loop_input_norm", hidden, d, UNIT)
        shared = list(dict.fromkeys(t for s in self.middle for t in s.layer.operands(style)))
        region = Repeat(self._loop(style, shared), self.times, shared_weights=ONE)
        hidden = m.add("loops", region, hidden, given, *(m.source(t) for t in shared))
        hidden = run(m, self.last, hidden)
        return m.build(close(m, self.ends, hidden, table))

    def _loop(self, style: Style, shared: list[Tensor]) -> Graph:
        m, d = Maker("loop", style), self.ends.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        given = m.source(Tensor(GIVEN, (B, q, d), style.acts))
        for tensor in shared:
            m.source(tensor)
        x = m.add("loop_add", Add(), m.norm("loop_norm", x, d, UNIT), given)
        return m.build(run(m, self.middle, x))
