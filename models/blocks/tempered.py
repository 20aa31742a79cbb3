"""Queries that are multiplied by a learned line of the logarithm of their position."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.indexed import IndexedAttention, SelectedAttention, lightning_index
from costgraph.models.blocks.mla import ONE, LatentAttention, Names
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops.maps import Map
from costgraph.ops.pattern import counted
from costgraph.symbols import q

#: Logarithms of positions, from one on: ``(q, 1, 1)``.
LOGS = "log_positions"


def tempered(m: Maker, name: str, queries: str) -> str:
    """Adds ``(a·log(position) + b)·queries``, ``(B, q, H, w)``; each head has own ones."""
    heads = m.shape(queries)[2]
    slope, offset = (m.vector(f"{name}_{part}", heads, ONE) for part in ("slope", "offset"))
    line = m.add(f"{name}_line", Map("mul"), LOGS, slope)
    line = m.add(f"{name}_lift", Map("add"), line, offset)
    return m.add(f"{name}_temper", Map("mul"), queries, line)


def _logs(style: Style) -> Tensor:
    return Tensor(LOGS, (q, ONE, ONE), style.acts)


@dataclass(frozen=True)
class TemperedSelected(SelectedAttention):
    """Such queries, to the positions that an earlier layer chose."""

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the attention, and logarithms of positions."""
        return (*super().operands(style), _logs(style))

    def tempered(self, m: Maker, packed: str) -> str:
        """Adds the line."""
        return tempered(m, "q", packed)


@dataclass(frozen=True)
class TemperedIndexed(IndexedAttention):
    """Such queries behind an indexer that reads the hidden state, with a norm of its own."""

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table, if it is used, and logarithms of positions."""
        return (*LatentAttention.operands(self, style), _logs(style))

    def tempered(self, m: Maker, packed: str) -> str:
        """Adds the line."""
        return tempered(m, "q", packed)

    def chosen(self, m: Maker, x: str, low: str) -> Names:
        """Adds the indexer, without rotation where attention has none."""
        normed = m.norm("index_q_norm", x, self.d, Norm("layer", True))
        sizes = (self.index_heads, self.index_dim)
        table = None if self.rope_dim == 0 else self.table
        rows = lightning_index(
            m, normed, x, *sizes, table, self.most, counted(m.style.mask),
            lambda query: tempered(m, "index_q", query),
        )  # fmt: skip
        return (rows,)
