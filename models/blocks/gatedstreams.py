"""Streams of a hidden state that gates of low rank read and write (Qwen4-Exp)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.hyper import Connections
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Norm
from costgraph.ops import Activation, Add
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q

ONE = Integer(1)


@dataclass(frozen=True)
class GatedStreams(Connections):
    """Streams ``(B, q, n, d)``; blocks read a mean of them that each element is gated for.

    A block's result is added to every stream by a gate of its own. Gates are made of all
    streams, each normalised.

    Attributes:
        rank: width between the two matrices of what is read.
    """

    rank: Expr

    def closed(self, m: Maker, streams: str) -> str:
        """Adds the gated mean of them: ``(B, q, d)``."""
        return self._read(m, "head", streams)[0]

    def around(self, m: Maker, name: str, streams: str, block: Block, norm: Norm) -> str:
        """Adds a block that reads the streams, and the streams with what it made.

        ``norm`` plays no part: what is read is normalised.
        """
        n, d = self.count, self.d
        x, flat = self._read(m, name, streams)
        gate = m.linear(f"{name}_write_proj", flat, n, n * d)
        gate = m.add(f"{name}_write_scale", Map("scale"), gate)
        gate = m.add(f"{name}_write_gate", Activation("sigmoid"), gate)
        gate = m.add(f"{name}_write_twice", Map("scale"), gate)
        gate = m.add(f"{name}_write_gates", Reshape((B, q, n, ONE)), gate)
        made = m.add(f"{name}_one", Reshape((B, q, ONE, d)), block.add(m, x))
        return m.add(
            f"{name}_add", Add(), streams, m.add(f"{name}_written", Map("mul"), made, gate)
        )

    def _read(self, m: Maker, name: str, streams: str) -> tuple[str, str]:
        """What is read ``(B, q, d)``, and all streams, normalised, side by side."""
        n, d, wide = self.count, self.d, self.count * self.d
        normed = m.norm(f"{name}_streams_norm", streams, (n, d), Norm())
        flat = m.add(f"{name}_flat", Reshape((B, q, wide)), normed)
        low = m.linear(f"{name}_read_down", flat, self.rank, wide)
        low = m.add(f"{name}_read_scale", Map("scale"), low)
        low = m.add(f"{name}_read_act", Activation("silu"), low)
        gate = m.linear(f"{name}_read_up", low, wide, self.rank, split=(n, d))
        gate = m.add(f"{name}_read_gate", Activation("sigmoid"), gate)
        gated = m.add(f"{name}_read_mul", Map("mul"), gate, normed)
        return m.add(f"{name}_read", Reduce("mean", (2,)), gated), flat
