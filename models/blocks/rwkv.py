"""RWKV-4: time mixing in place of attention, channel mixing in place of feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import WKV, Activation, Multiply, TokenShift
from costgraph.symbols import B


def _shifted(m: Maker, name: str, x: str, d: Expr, mixes: tuple[str, ...]) -> tuple[str, ...]:
    weights = [m.vector(f"{name}.mix_{mix}", d) for mix in mixes]
    state = m.state(f"{name}_state", B, d, dtype=m.style.acts)
    return m.add_many(name, TokenShift(len(mixes)), x, *weights, state)[: len(mixes)]


@dataclass(frozen=True)
class TimeMix:
    """RWKV-4 time mixing of hidden size ``d`` over ``width`` channels."""

    d: Expr
    width: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        d, w = self.d, self.width
        key, value, gate = _shifted(m, "time_shift", x, d, ("key", "value", "receptance"))
        key = m.linear("time_key", key, w, d)
        value = m.linear("time_value", value, w, d)
        gate = m.linear("time_receptance", gate, w, d)
        gate = m.add("time_gate", Activation("sigmoid"), gate)
        decay, bonus = m.vector("time_decay", w), m.vector("time_first", w)
        state = m.state("wkv_state", B, w, Integer(3))
        mixed = m.add_many("wkv", WKV(), key, value, decay, bonus, state)[0]
        gated = m.add("time_mul", Multiply(), mixed, gate)
        return m.linear("time_output", gated, d, w)


@dataclass(frozen=True)
class ChannelMix:
    """RWKV-4 channel mixing of hidden size ``d`` through ``width`` channels."""

    d: Expr
    width: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        d = self.d
        key, gate = _shifted(m, "channel_shift", x, d, ("key", "receptance"))
        key = m.add("channel_act", Activation("relu2"), m.linear("channel_key", key, self.width, d))
        value = m.linear("channel_value", key, d, self.width)
        gate = m.add(
            "channel_gate", Activation("sigmoid"), m.linear("channel_receptance", gate, d, d)
        )
        return m.add("channel_mul", Multiply(), value, gate)
