"""Residuals over blocks of layers: each layer reads a learned mixture of where blocks began.

Attention residuals (arXiv 2603.15031), as Kimi K3 has them: the state of every block's start is
kept through the pass, and a softmax over them and the running sum says what a layer reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.stack import Segment, Uneven, close, embed, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.matmul import MatMul
from costgraph.ops.views import Beside, Reshape, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)
STARTS = "starts"


def mixture(m: Maker, name: str, total: str, starts: str, d: Expr) -> str:
    """Adds the mixture of ``starts (B, q, n, d)`` and the running sum: ``(B, q, d)``.

    Scores are products of what is normalised with one learned vector.
    """
    values = beside(m, name, total, starts, d)
    normed = m.norm(f"{name}_res_norm", values, d, Norm())
    scores = m.linear(f"{name}_res_proj", normed, ONE, d)
    shares = m.add(f"{name}_res_softmax", SoftmaxOver(2), scores)
    turned = m.add(f"{name}_res_turn", Transpose((0, 1, 3, 2)), shares)
    mixed = m.add(f"{name}_res_mix", MatMul(), turned, values)
    return m.add(f"{name}_res_row", Reshape((B, q, d)), mixed)


def beside(m: Maker, name: str, total: str, starts: str, d: Expr) -> str:
    """Adds the running sum ``(B, q, d)`` behind the starts; alone where there are none."""
    one = m.add(f"{name}_row", Reshape((B, q, ONE, d)), total)
    return m.add(f"{name}_rows", Beside(2), starts, one) if starts else one


@dataclass(frozen=True)
class ResidualLayer:
    """A layer that reads mixtures.

    Attributes:
        d: hidden size.
        mixer, channel: its blocks.
        count: starts of blocks before it.
        begins: it begins a block: what it is given becomes another start, and the sum is anew.
    """

    d: Expr
    mixer: Block
    channel: Block
    count: int
    begins: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of both blocks, and the starts."""
        found = (*self.mixer.operands(style), *self.channel.operands(style))
        if self.count:
            found += (Tensor(STARTS, (B, q, Integer(self.count), self.d), style.acts),)
        return tuple(dict.fromkeys(found))

    def graph(self, style: Style) -> Graph:
        """The running sum and shared operands in, the running sum out."""
        m = Maker("layer", style)
        total = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        starts = STARTS if self.count else ""
        if starts:
            x = mixture(m, "attn", total, starts, self.d)
        else:  # the first layer has weights of a mixture that it does not need
            m.vector("attn_res_norm.weight", self.d)
            m.weight("attn_res_proj.weight", ONE, self.d)
            x = total
        before: str | None = total
        if self.begins:
            starts, before = beside(m, "start", total, starts, self.d), None
        made = self.mixer.add(m, m.norm("attn_norm", x, self.d, Norm()))
        total = made if before is None else m.add("attn_add", Add(), made, before)
        x = mixture(m, "mlp", total, starts, self.d)
        fed = self.channel.add(m, m.norm("mlp_norm", x, self.d, Norm()))
        return m.build(m.add("mlp_add", Add(), fed, total))


@dataclass(frozen=True)
class ResidualStack(Uneven):
    """A decoder of such layers.

    Attributes:
        blocks: the segments of each block of layers, its first layer alone in the first.
    """

    blocks: tuple[tuple[Segment, ...], ...]

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        total, table = embed(m, self.ends)
        d, starts = self.ends.d, ""
        for index, (first, *rest) in enumerate(self.blocks):
            given = {STARTS: starts} if starts else {}
            start = total
            total = run(m, (first,), total, **given)
            starts = beside(m, f"start_{index}", start, starts, d)
            total = run(m, tuple(rest), total, **{STARTS: starts})
        total = mixture(m, "output", total, starts, d)
        return m.build(close(m, self.ends, total, table))
