"""Mixers with a selective scan: Mamba 1 and Mamba 2."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import (
    Activation,
    CausalConv1d,
    Multiply,
    RMSNorm,
    SelectiveScan,
    Split,
    StateSpaceDual,
)
from costgraph.ops.views import Beside
from costgraph.symbols import B


def short_conv(m: Maker, x: str, channels: Expr, width: Expr, bias: bool) -> str:
    """Adds the causal depthwise convolution over ``width`` positions, with its state."""
    operands = [x, m.vector("conv1d.weight", channels, width)]
    if bias:
        operands.append(m.vector("conv1d.bias", channels))
    operands.append(m.state("conv_state", B, channels, width, dtype=m.style.acts))
    return m.add_many("conv1d", CausalConv1d(bias), *operands)[0]


@dataclass(frozen=True)
class Mamba:
    """The Mamba 1 mixer.

    Attributes:
        d, inner: hidden size and inner width ``D``.
        states: state elements per channel ``N``.
        rank: rank of the step size's projection.
        conv: positions that the convolution sees.
        bias, conv_bias: biases of the outer projections and the convolution.
        norms: ``weighted`` or ``plain`` RMS norms of Δ, B and C, or ``none``.
        heads: equal parts of the inner width that are scanned apart, each with Δ, B and C of
            its own (Zamba 1).
    """

    d: Expr
    inner: Expr
    states: Expr
    rank: Expr
    conv: Expr = Integer(4)
    bias: bool = False
    conv_bias: bool = True
    norms: str = "none"
    heads: int = 1

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        inner = self.inner
        packed = m.linear("in_proj", x, 2 * inner, self.d, self.bias)
        x, gate = m.add_many("in_split", Split(((inner,), (inner,))), packed)
        x = short_conv(m, x, inner, self.conv, self.conv_bias)
        x = m.add("conv_act", Activation("silu"), x)
        if self.heads == 1:
            y = self._scanned(m, x, inner)
        else:
            each = inner / self.heads
            parts = m.add_many("head_split", Split(((each,),) * self.heads), x)
            made = [self._scanned(m, part, each, f"{i}_") for i, part in enumerate(parts)]
            y = m.add("heads_beside", Beside(2), *made)
        gated = m.add("gate_mul", Multiply(), y, m.add("gate_act", Activation("silu"), gate))
        return m.linear("out_proj", gated, self.d, inner, self.bias)

    def _scanned(self, m: Maker, x: str, inner: Expr, prefix: str = "") -> str:
        """Adds the scan of ``x (B, q, inner)``."""
        n, rank = self.states, self.rank
        selected = m.linear(f"{prefix}x_proj", x, rank + 2 * n, inner)
        parts = m.add_many(f"{prefix}x_split", Split(((rank,), (n,), (n,))), selected)
        delta, b, c = (
            self._norm(m, f"{prefix}{name}_norm", part, width)
            for name, part, width in zip(("dt", "b", "c"), parts, (rank, n, n), strict=True)
        )
        delta = m.linear(f"{prefix}dt_proj", delta, inner, rank, bias=True)
        return m.add_many(
            f"{prefix}scan",
            SelectiveScan(),
            x,
            delta,
            b,
            c,
            m.vector(f"{prefix}A_log", inner, n),
            m.vector(f"{prefix}D", inner),
            m.state(f"{prefix}ssm_state", B, inner, n),
        )[0]

    def _norm(self, m: Maker, name: str, x: str, width: Expr) -> str:
        if self.norms == "none":
            return x
        if self.norms == "plain":
            return m.add(name, RMSNorm(weight=False), x)
        return m.add(name, RMSNorm(), x, m.vector(f"{name}.weight", width))


@dataclass(frozen=True)
class Mamba2:
    """The Mamba 2 mixer.

    Attributes:
        d: hidden size.
        heads, head_dim: ``H`` and ``P``; the inner width is their product.
        states: state elements per channel ``N``.
        groups: groups of heads that share ``B`` and ``C``.
        conv: positions that the convolution sees.
        bias, conv_bias: biases of the outer projections and the convolution.
        chunk: positions per chunk where the scan runs in chunks.
        norm_groups: parts in which the gated norm normalises.
        gated_norm: the gated norm is there (without it, the gate only multiplies).
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    states: Expr
    groups: Expr = Integer(1)
    conv: Expr = Integer(4)
    bias: bool = False
    conv_bias: bool = True
    chunk: Expr = Integer(256)
    norm_groups: Expr = Integer(1)
    gated_norm: bool = True

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        h, p, g, n = self.heads, self.head_dim, self.groups, self.states
        inner, mixed = h * p, h * p + 2 * g * n
        packed = m.linear("in_proj", x, inner + mixed + h, self.d, self.bias)
        gate, x, dt = m.add_many("in_split", Split(((inner,), (mixed,), (h,))), packed)
        x = short_conv(m, x, mixed, self.conv, self.conv_bias)
        x = m.add("conv_act", Activation("silu"), x)
        x, b, c = m.add_many("conv_split", Split(((h, p), (g, n), (g, n))), x)
        y = m.add_many(
            "scan",
            StateSpaceDual(m.style.scan_form, self.chunk),
            x,
            dt,
            b,
            c,
            *(m.vector(name, h) for name in ("A_log", "D", "dt_bias")),
            m.state("ssm_state", B, h, p, n),
        )[0]
        y = m.add("gate_mul", Multiply(), y, m.add("gate_act", Activation("silu"), gate))
        if self.gated_norm:
            weight = m.vector("gated_norm.weight", inner)
            y = m.add("gated_norm", RMSNorm(groups=self.norm_groups), y, weight)
        return m.linear("out_proj", y, self.d, inner, self.bias)
