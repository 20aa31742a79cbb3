"""Products in groups of channels: SqueezeBERT's layers, ConvBERT's feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, AsSequence
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, q


def grouped(m: Maker, name: str, x: str, out: Expr, groups: Expr) -> str:
    """Adds a product with bias in ``groups``; ``x (B, q, c)`` to ``(B, q, out)``."""
    batch, length, width = m.shape(x)
    x = m.add(f"{name}_groups", Reshape((batch * length, groups, width / groups)), x)
    x = m.add(f"{name}_first", Transpose((1, 0, 2)), x)
    table = m.weight(f"{name}.weight", groups, width / groups, out / groups)
    x = m.add(name, MatMul(), x, table)
    x = m.add(f"{name}_last", Transpose((1, 0, 2)), x)
    x = m.add(f"{name}_whole", Reshape((batch, length, out)), x)
    return m.add(f"{name}_shift", Add(), x, m.vector(f"{name}.bias", out))


@dataclass(frozen=True)
class GroupedFeed:
    """A feed-forward block of two products in ``groups``."""

    d: Expr
    width: Expr
    activation: str
    groups: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        x = grouped(m, "up_proj", x, self.width, self.groups)
        x = m.add("mlp_act", Activation(self.activation), x)
        return grouped(m, "down_proj", x, self.d, self.groups)


@dataclass(frozen=True)
class GroupedLayer:
    """SqueezeBERT's layer (Iandola et al., arXiv 2006.11316): convolutions of one tap in groups.

    Attributes:
        d, heads, width: hidden size, heads, width of the feed-forward block.
        activation: inside that block.
        groups: of queries, keys, values, the product behind them, and the block's two.
    """

    d: Expr
    heads: Expr
    width: Expr
    activation: str
    groups: tuple[Expr, ...]

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in, hidden state out."""
        m, d = Maker("layer", style), self.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        split = (B, q, self.heads, d / self.heads)
        query, key, value = (
            m.add(f"{n}_split", Reshape(split), self._product(m, f"{n}_proj", x, d, groups))
            for n, groups in zip("qkv", self.groups[:3], strict=True)
        )
        mixed = attended(m, query, key, value, FULL)
        mixed = m.add("heads", Reshape((B, q, d)), mixed)
        y = self._product(m, "o_proj", mixed, d, self.groups[3])
        x = m.norm("attn_norm", m.add("attn_add", Add(), y, x), d, LAYER_NORM)
        y = self._product(m, "up_proj", x, self.width, self.groups[4])
        y = m.add("mlp_act", Activation(self.activation), y)
        y = self._product(m, "down_proj", y, d, self.groups[5])
        return m.build(m.norm("mlp_norm", m.add("mlp_add", Add(), y, x), d, LAYER_NORM))

    def _product(self, m: Maker, name: str, x: str, out: Expr, groups: Expr) -> str:
        channels = m.add(f"{name}_channels", Transpose((0, 2, 1)), x)
        made = conv(m, name, channels, out, 1, groups=groups)
        return m.add(f"{name}_rows", AsSequence(), made)
