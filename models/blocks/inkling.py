"""Inkling's blocks: short convolutions behind all that mixes, numbers of distances on scores."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import FP32
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    CausalConv1d,
    Combine,
    KVAppend,
    Multiply,
    Scale,
    Softmax,
    Split,
)
from costgraph.ops.bias import ScoreBias
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pattern import counted
from costgraph.ops.relative import ByDistance
from costgraph.ops.views import Beside
from costgraph.symbols import B

ONE = Integer(1)


def convolved(m: Maker, name: str, x: str, channels: Expr, taps: Expr) -> str:
    """Adds a causal depthwise convolution to its own input ``x (B, q, D)``.

    Its weights and the state of ``taps`` positions are kept in FP32, as the class keeps them.
    """
    weight = m.source(Tensor(f"{name}.weight", (channels, taps), FP32, Role.WEIGHT))
    state = m.state(f"{name}_state", B, channels, taps, dtype=FP32)
    made = m.add_many(name, CausalConv1d(), x, weight, state)[0]
    return m.add(f"{name}_add", Add(), made, x)


def scaled(m: Maker, name: str, x: str) -> str:
    """Adds a product with one learned number."""
    return m.add(name, Map("mul"), x, m.vector(f"{name}.weight", ONE))


@dataclass(frozen=True)
class ConvolvedBlock:
    """A block with a short convolution of ``taps`` positions behind it.

    Attributes:
        inner: the block.
        name: of the convolution.
        d: hidden size.
    """

    inner: Block
    name: str
    d: Expr
    taps: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the block."""
        return self.inner.operands(style)

    def add(self, m: Maker, x: str) -> str:
        """Adds both; ``x (B, q, d)`` to ``(B, q, d)``."""
        return convolved(m, self.name, self.inner.add(m, x), self.d, self.taps)


@dataclass(frozen=True)
class DistanceAttention(Attention):
    """Attention whose keys and values pass short convolutions, with a number per distance.

    Each head mixes ``mixed`` numbers of its own for a token into one for each of ``reach``
    distances, which is added to the score of that pair.

    Attributes:
        taps: positions that a convolution sees.
        mixed: what is mixed for each head.
        reach: distances that have a number; further ones have none.
    """

    taps: Expr = Integer(4)
    mixed: Expr = Integer(16)
    reach: Expr = Integer(1024)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.projected(m, x)
        keeps, pattern = self.pattern, counted(m.style.mask, self.pattern)
        hk, dh = self.kv_heads, self.head_dim
        keys = m.add("k_append", KVAppend(keeps), m.cache("k_cache", hk, dh, keeps), key)
        values = m.add("v_append", KVAppend(keeps), m.cache("v_cache", hk, dh, keeps), value)
        split = (self.heads, self.mixed)
        mixed = m.linear("r_proj", x, self.heads * self.mixed, self.d, split=split)
        numbers = m.linear("distance_proj", mixed, self.reach, self.mixed)
        spread = ByDistance(m.shape(keys)[1], pattern)
        bias = m.add("distance_spread", spread, numbers)
        if self.query_scale:
            bias = m.add("distance_scale", Scale(), bias)
        scores = m.add("qk_matmul", AttentionScores(pattern), query, keys)
        scores = m.add("distance_add", ScoreBias(pattern), scores, bias)
        shares = m.add("softmax", Softmax(pattern), scores)
        made = m.add("sv_matmul", AttentionValues(pattern), shares, values)
        return m.linear("o_proj", made, self.d, self.heads * dh, contract=2)

    def _products(self, m: Maker, x: str) -> tuple[str, str, str]:
        h, hk, dh = self.heads, self.kv_heads, self.head_dim
        made = [m.linear("q_proj", x, h * dh, self.d, split=(h, dh))]
        for n in ("k", "v"):
            flat = m.linear(f"{n}_proj", x, hk * dh, self.d)
            flat = convolved(m, f"{n}_conv", flat, hk * dh, self.taps)
            made.append(m.add(f"{n}_split", Split(((hk, dh),)), flat))
        return made[0], made[1], made[2]


@dataclass(frozen=True)
class ScaledFeed(FeedForward):
    """A dense block whose result is multiplied by one learned number."""

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        return scaled(m, f"{prefix}mlp_scale", super().add(m, x, prefix))


@dataclass(frozen=True)
class SinkExperts(Experts):
    """Experts whose router weighs those that all tokens pass beside the chosen ones.

    Weights of the chosen and of the ``shares`` shared experts together are one, times a constant
    and a learned number. Shared experts are one wide block: products of the class, which
    multiplies them in a batch, are as many.

    Attributes:
        shares: shared experts, each as wide as a routed one.
    """

    shares: Expr = ONE

    def add(self, m: Maker, x: str, reads: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        logits = m.linear("router", reads or x, self.experts + self.shares, self.d)
        parts = Split(((self.experts,), (self.shares,)))
        routed, sink = m.add_many("router_split", parts, logits)
        weights, numbers = m.add_many("route", self._route(), routed)
        sink = m.add("sink_sigmoid", Activation("sigmoid"), sink)
        whole = m.add("sink_beside", Beside(2), weights, sink)
        total = m.add("sink_sum", Reduce("sum", (2,), keep=True), whole)
        whole = m.add("sink_share", Map("div"), whole, total)
        whole = scaled(m, "sink_scale", m.add("sink_constant", Map("scale"), whole))
        parts = Split(((self.chosen,), (self.shares, ONE)))
        weights, sink = m.add_many("sink_split", parts, whole)
        made = m.add("combine", Combine(), self._experts(m, x, numbers), weights)
        return m.add("shared_add", Add(), made, self._all_pass(m, x, sink))

    def _all_pass(self, m: Maker, x: str, shares: str) -> str:
        wide = self.shares * self.width
        split = (self.shares, self.width)
        gate = m.linear("shared_gate_proj", x, wide, self.d, split=split)
        up = m.linear("shared_up_proj", x, wide, self.d, split=split)
        acted = m.activation("shared_act", gate, self.activation)
        made = m.add("shared_mul", Multiply(), acted, up)
        made = m.add("shared_weigh", Map("mul"), made, shares)
        return m.linear("shared_down_proj", made, self.d, wide, contract=2)
