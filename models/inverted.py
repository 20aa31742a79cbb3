"""Convolutional networks from tables of steps: MobileNet 1 and 2, EfficientNet, RegNet.

A layer is a row of convolutions with batch norms, each over all channels, over groups of them or
over each alone, with a gate over channels between them or none, and a residual or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add
from costgraph.ops.arrays import Copy
from costgraph.ops.image import MeanPool
from costgraph.ops.maps import Map
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class Step:
    """A convolution without bias and a batch norm.

    Attributes:
        width: channels of the result.
        kernel, stride, gap: taps a side, stride, and how far taps are apart.
        groups: of channels; 0 for each alone.
        activation: behind it, or none.
        pad: rows and columns that are put in front of and behind the image together, by a copy;
            None for half a kernel at each side.
        frozen: what the norm multiplies by and adds is no parameter.
        affine: a learned scale and shift of one number each stand behind the activation.
    """

    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str | None = None
    gap: int = 1
    pad: int | None = None
    frozen: bool = False
    affine: bool = False

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds the step; an image in and out."""
        out, side = Integer(self.width), (self.kernel - 1) // 2 * self.gap
        if self.pad is not None:
            batch, channels, *size = m.shape(x)
            x = m.add(f"{name}_pad", Copy((batch, channels, *(n + self.pad for n in size))), x)
            side = 0
        groups = Integer(self.groups) if self.groups else m.shape(x)[1]
        x = conv(m, name, x, out, self.kernel, self.stride, side, groups, False, self.gap)
        x = batch_norm(m, f"{name}_norm", x, self.frozen)
        if self.activation is not None:
            x = act(m, f"{name}_act", x, self.activation)
        if self.affine:
            one = (ONE,) * 4
            x = m.add(f"{name}_scale", Map("mul"), x, m.vector(f"{name}_scale.weight", *one))
            x = m.add(f"{name}_shift", Map("add"), x, m.vector(f"{name}_shift.weight", *one))
        return x


@dataclass(frozen=True)
class Gate:
    """Channels weighed by what two products make of their means (arXiv 1709.01507)."""

    width: int
    activation: str

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds the gate; an image in and out."""
        d = m.shape(x)[1]
        y = m.add(f"{name}_mean", MeanPool(), x)
        y = m.add(f"{name}_image", Reshape((B, d, ONE, ONE)), y)
        y = act(
            m, f"{name}_act", conv(m, f"{name}_fc1", y, Integer(self.width), 1), self.activation
        )
        y = act(m, f"{name}_gate", conv(m, f"{name}_fc2", y, d, 1), "sigmoid")
        return m.add(f"{name}_mul", Map("mul"), x, y)


class Part(Protocol):
    """What a layer is made of: a convolution, a gate, a block."""

    @property
    def width(self) -> int:
        """Channels inside or behind it."""

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds it; an image in and out."""


@dataclass(frozen=True)
class Row:
    """A layer of steps.

    Attributes:
        steps: in order.
        kept: what is added behind them: nothing, the ``same`` image, or one that is ``made`` by a
            convolution where sizes or channels differ.
        activation: behind the sum, or none.
    """

    steps: tuple[Part, ...]
    kept: str = ""
    activation: str | None = None

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds the layer; an image in and out."""
        y = x
        for index, step in enumerate(self.steps, start=1):
            y = step.add(m, f"{name}_{index}", y)
        if not self.kept:
            return y
        if self.kept == "made" and m.shape(x) != m.shape(y):
            stride = max(s.stride for s in self.steps if isinstance(s, Step))
            x = Step(int(m.shape(y)[1]), stride=stride).add(m, f"{name}_shortcut", x)
        y = m.add(f"{name}_add", Add(), y, x)
        return y if self.activation is None else act(m, f"{name}_last_act", y, self.activation)


@dataclass(frozen=True)
class Rows(Pyramid):
    """A network of such layers.

    Attributes:
        rows: from the image on.
        bare: no classifier: the last image, and the mean of its positions.
    """

    rows: tuple[Row, ...]
    bare: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x, mean = self.features(m)
        return m.build(x, mean) if self.bare else self.close(m, mean)

    def features(self, m: Maker) -> tuple[str, str]:
        """Adds all layers: the last image, and the mean of its positions."""
        x = self.start(m)
        for index, row in enumerate(self.rows):
            x = row.add(m, f"layer{index}", x)
        return x, m.add("pool", MeanPool(), x)
