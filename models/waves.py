"""Fronts of encoders that read sound as it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker
from costgraph.models.blocks.image import act, conv, group_norm
from costgraph.ops import AsSequence
from costgraph.symbols import B, q

ONE = Integer(1)
#: (kernel, stride) of Moonshine's three convolutions.
STEPS = ((127, 64), (7, 3), (3, 2))


def samples_for(positions: Expr) -> Expr:
    """The fewest samples that Moonshine's convolutions turn into so many positions."""
    for kernel, stride in reversed(STEPS):
        positions = stride * (positions - 1) + kernel
    return positions.expand()


@dataclass(frozen=True)
class WaveFront:
    """Moonshine's front (arXiv 2410.15608): three convolutions over samples, 384 of them apart.

    ``q`` positions are made of ``384q + 511`` samples, the fewest that give as many.
    """

    d: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        d = self.d
        x = m.source(Tensor("samples", (B, ONE, samples_for(q)), m.style.acts))
        (first, by), (second, by2), (third, by3) = STEPS
        x = act(m, "conv1_act", conv(m, "conv1", x, d, first, by, bias=False), "tanh")
        x = group_norm(m, "front_norm", x, ONE)
        x = act(m, "conv2_act", conv(m, "conv2", x, 2 * d, second, by2), "gelu")
        x = act(m, "conv3_act", conv(m, "conv3", x, d, third, by3), "gelu")
        return m.add("as_sequence", AsSequence(), x), ""
