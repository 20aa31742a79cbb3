"""Projectors that make fewer tokens by convolutions: MobileVLM's LDP and LDPv2."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.image import Size, conv
from costgraph.models.blocks.projector import Convolved
from costgraph.models.blocks.style import Maker
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence
from costgraph.ops.image import AsImage, Gate, MeanPool
from costgraph.ops.maps import Map

ONE = Integer(1)
#: Channels over those between the two matrices that excite them, and what these are multiples of.
SQUEEZED, MULTIPLE = 4, 8


@dataclass(frozen=True)
class InvertedResidual(Convolved):
    """A block of MobileNetV3 as wide inside as outside, on a grid of ``size`` positions.

    A depthwise convolution over three by three positions, a hard swish, channels scaled by what
    two matrices make of their means (squeeze and excitation), and a pointwise convolution;
    layer norms over channels behind both convolutions. Without a ``stride`` the operand is added.
    Source: MobileVLM's published ``LDPBlock``, arXiv 2312.16886; Howard et al., arXiv 1905.02244.
    """

    name: str
    size: Size
    stride: int = 1

    @property
    def into_one(self) -> Expr:
        """How many positions become one."""
        return Integer(self.stride) ** len(self.size)

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the block behind ``x (batch, n, d)``: ``(batch, n / stride², d)``."""
        d, prefix = m.shape(x)[-1], f"{prefix}_{self.name}"
        y = m.add(f"{prefix}_grid", AsImage(self.size), x)
        y = conv(m, f"{prefix}_depthwise", y, d, 3, self.stride, 1, groups=d, bias=False)
        y = m.add(f"{prefix}_rows", AsSequence(), y)
        y = m.norm(f"{prefix}_depthwise_norm", y, d, LAYER_NORM)
        y = m.add(f"{prefix}_swish", Map("hard_swish"), y)
        y = m.add(f"{prefix}_excited", Gate(), y, self._excitation(m, prefix, y, d))
        y = m.linear(f"{prefix}_pointwise", y, d, d)
        y = m.norm(f"{prefix}_pointwise_norm", y, d, LAYER_NORM)
        return y if self.stride != 1 else m.add(f"{prefix}_add", Add(), y, x)

    def _excitation(self, m: Maker, prefix: str, x: str, d: Expr) -> str:
        """Adds what scales the channels: ``(batch, d)``."""
        few = Integer(squeezed(int(d)))
        y = m.add(f"{prefix}_means", MeanPool(sequence=True), x)
        y = m.linear(f"{prefix}_squeeze", y, few, d, True)
        y = m.add(f"{prefix}_squeeze_act", Map("relu"), y)
        y = m.linear(f"{prefix}_excite", y, d, few, True)
        return m.add(f"{prefix}_excite_act", Map("hard_sigmoid"), y)


def squeezed(channels: int) -> int:
    """Channels between the matrices that excite ``channels``: a quarter, in whole eights.

    Source: ``_make_divisible`` of torchvision.
    """
    wanted = channels // SQUEEZED
    made = max(MULTIPLE, (wanted + MULTIPLE // 2) // MULTIPLE * MULTIPLE)
    return made + MULTIPLE if made * 10 < wanted * 9 else made


@dataclass(frozen=True)
class Placed(Convolved):
    """A depthwise convolution over three by three positions of a grid, added to them (PEG).

    Source: MobileVLM V2's published ``PosInjectLayer``, arXiv 2402.03766.
    """

    size: Size

    @property
    def into_one(self) -> Expr:
        """Each stays."""
        return ONE

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds it behind ``x (batch, n, d)``."""
        d = m.shape(x)[-1]
        y = m.add(f"{prefix}_places_grid", AsImage(self.size), x)
        y = conv(m, f"{prefix}_places", y, d, 3, 1, 1, groups=d)
        y = m.add(f"{prefix}_places_rows", AsSequence(), y)
        return m.add(f"{prefix}_places_add", Add(), y, x)
