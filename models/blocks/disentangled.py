"""DeBERTa's attention: contents and distances score each other (arXiv 2006.03654, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.least import least
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.layer import Layer
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, AttentionScores, AttentionValues, Conv, Linear, Scale
from costgraph.ops.arrays import GatherElements
from costgraph.ops.attention import Softmax
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Slice, Transpose
from costgraph.symbols import B, q


@dataclass(frozen=True)
class Disentangled:
    """Self-attention in both directions whose scores are sums of up to three.

    Queries meet keys; queries meet keys that are made of rows for distances (``to_place``), and
    keys meet queries made of the same rows (``from_place``). Of those products one entry per
    pair is taken.

    Attributes:
        at: the heads.
        span: distances to each side that have a row; there are ``2·span`` rows.
        to_place, from_place: which products with distances there are.
        shared: rows pass the projections of queries and keys; else projections of their own.
        place_bias: their projection to keys has a bias; the one to queries always does.
        cut: only rows for distances that a sequence has are projected.
    """

    at: Heads
    span: Expr
    to_place: bool
    from_place: bool
    shared: bool = False
    place_bias: bool = True
    cut: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rows ``(2·span, d)``, and which of them each pair of positions has."""
        if not (self.to_place or self.from_place):
            return ()
        return (
            Tensor("relative_rows", (2 * self.span, self.at.d), style.acts),
            Tensor("distances", (q, q), INT64),
        )

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.at.all(m, x)
        scores = m.add("qk_matmul", AttentionScores(FULL), query, key)
        if self.to_place or self.from_place:
            rows, count = "relative_rows", 2 * self.span
            if self.cut:
                count = 2 * least(q, self.span)
                rows = m.add("near_rows", Slice(0, Integer(0), count), rows)
        if self.to_place:
            met = self._met(m, "k", rows, query)
            scores = m.add("to_place_add", Add(), scores, m.add("to_place_scale", Scale(), met))
        if self.from_place:
            met = m.add("from_place_turn", Transpose((0, 1, 3, 2)), self._met(m, "q", rows, key))
            met = m.add("from_place_scale", Scale(), met)
            scores = m.add("from_place_add", Add(), scores, met)
        shares = m.add("softmax", Softmax(FULL), scores)
        return self.at.out(m, m.add("sv_matmul", AttentionValues(FULL), shares, value))

    def _met(self, m: Maker, name: str, rows: str, other: str) -> str:
        """The products ``(B, H, q, q)`` of all positions with what rows become."""
        h, dh = self.at.heads, self.at.head_dim
        if self.shared:
            op = Linear(bias=True, split=(h, dh))
            weights = (f"{name}_proj.weight", f"{name}_proj.bias")
            made = m.add(f"{name}_place_proj", op, rows, *weights)
        else:
            bias = self.place_bias or name == "q"
            made = m.linear(f"{name}_place_proj", rows, h * dh, self.at.d, bias, (h, dh))
        made = m.add(f"{name}_place_turn", Transpose((1, 2, 0)), made)
        turned = m.add(f"{name}_place_heads", Transpose((0, 2, 1, 3)), other)
        met = m.add(f"{name}_place_matmul", MatMul(), turned, made)
        return m.add(f"{name}_place_take", GatherElements((B, h, q, q)), met, "distances")


@dataclass(frozen=True)
class Convolved:
    """A layer beside a convolution over its input's neighbours; a norm behind their sum."""

    layer: Layer
    kernel: Expr
    groups: Expr
    activation: str
    norm: Norm

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the layer."""
        return self.layer.operands(style)

    def graph(self, style: Style) -> Graph:
        """Hidden state and shared operands in, hidden state out."""
        m, d = Maker("layer", style), self.layer.d
        hidden = m.source(Tensor("hidden", (B, q, d), style.acts))
        shared = [m.source(tensor) for tensor in self.operands(style)]
        inner = Repeat(self.layer.graph(style), Integer(1))
        made = m.add("inner", inner, hidden, *shared)
        x = m.add("channels", Transpose((0, 2, 1)), hidden)
        one, pad = Integer(1), (self.kernel - 1) / 2
        op = Conv((one,), (pad,), (one,), groups=self.groups, bias=True)
        weight = m.weight("conv.weight", d, d / self.groups, self.kernel)
        x = m.add("conv", op, x, weight, m.vector("conv.bias", d))
        x = m.add("rows", Transpose((0, 2, 1)), x)
        x = m.add("conv_act", Activation(self.activation), x)
        return m.build(m.norm("conv_norm", m.add("conv_add", Add(), made, x), d, self.norm))
