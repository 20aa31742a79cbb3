"""Two mixers that read the same hidden state and whose results are added."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Add


@dataclass(frozen=True)
class Beside:
    """A scan and attention side by side in a layer (Falcon-H1, arXiv 2507.22448)."""

    first: Block
    second: Block

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of both mixers, each once."""
        return tuple(dict.fromkeys(self.first.operands(style) + self.second.operands(style)))

    def add(self, m: Maker, x: str) -> str:
        """Adds both mixers; ``x (B, q, d)`` to ``(B, q, d)``."""
        return m.add("mixers_add", Add(), self.first.add(m, x), self.second.add(m, x))
