"""HGNetV2: convolutions whose results all stand beside one another in front of the next block."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.convnet import Pyramid
from costgraph.models.inverted import Step
from costgraph.ops import Add
from costgraph.ops.arrays import Copy, Join
from costgraph.ops.image import MeanPool
from costgraph.ops.pool import Pool

ZERO, ONE, TWO = (Integer(n) for n in range(3))


@dataclass(frozen=True)
class HGStage:
    """A stage.

    Attributes:
        inner, width: channels of the convolutions, and of the results of blocks.
        blocks, layers: blocks, and convolutions of each.
        stride: of the convolution in front that shrinks the image; None for none.
        light: convolutions are one over channels and one over each channel.
        kernel: taps a side.
    """

    inner: int
    width: int
    blocks: int
    layers: int
    stride: int | None
    light: bool
    kernel: int


@dataclass(frozen=True)
class HGNet(Pyramid):
    """The network.

    Attributes:
        stem: channels inside the stem and behind it.
        strides: of the stem's first and fourth convolution, and of the last one.
        activation: of the stem; those of stages have ReLU.
        stages: of blocks.
        affine: a learned scale and shift of one number each stand behind activations.
        frozen: what norms multiply by and add is no parameter.
    """

    stem: tuple[int, int]
    strides: tuple[int, int, int]
    activation: str
    stages: tuple[HGStage, ...]
    affine: bool
    frozen: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels behind each stage."""
        return tuple(stage.width for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(stage.blocks for stage in self.stages)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        return self.close(m, m.add("pool", MeanPool(), self.maps(m, self.start(m))[-1]))

    def maps(self, m: Maker, x: str) -> list[str]:
        """Adds stem and stages: the image of each."""
        x, made = self._stem(m, x), []
        for index, stage in enumerate(self.stages, start=1):
            name = f"stage{index}"
            if stage.stride is not None:
                down = Step(int(m.shape(x)[1]), 3, stage.stride, 0, frozen=self.frozen)
                x = down.add(m, f"{name}_shrink", x)
            for block in range(stage.blocks):
                x = self._block(m, f"{name}_block{block}", x, stage, block > 0)
            made.append(x)
        return made

    def _stem(self, m: Maker, x: str) -> str:
        inner, out = self.stem
        first, third, last = self.strides
        x = self._step(m, "stem1", x, inner, 3, first, self.activation)
        x = self._edge(m, "stem1_edge", x)
        y = self._step(m, "stem2a", x, inner // 2, 2, 1, self.activation)
        y = self._step(m, "stem2b", self._edge(m, "stem2_edge", y), inner, 2, 1, self.activation)
        x = m.add("stem_pool", Pool((TWO, TWO), (ONE, ONE), (ZERO, ZERO), (ONE, ONE)), x)
        x = m.add("stem_beside", Join(1), x, y)
        x = self._step(m, "stem3", x, inner, 3, third, self.activation)
        return self._step(m, "stem4", x, out, 1, last, self.activation)

    def _edge(self, m: Maker, name: str, x: str) -> str:
        """Adds a row and a column of zeros."""
        batch, channels, tall, wide = m.shape(x)
        return m.add(name, Copy((batch, channels, tall + 1, wide + 1)), x)

    def _block(self, m: Maker, name: str, x: str, stage: HGStage, kept: bool) -> str:
        """Adds a block; it is added to what it is made of where that is ``kept``."""
        every, y = [x], x
        for index in range(stage.layers):
            part = f"{name}_{index}"
            if stage.light:
                y = Step(stage.inner, frozen=self.frozen).add(m, f"{part}_flat", y)
            groups = 0 if stage.light else 1
            y = self._step(m, part, y, stage.inner, stage.kernel, 1, "relu", groups)
            every.append(y)
        y = m.add(f"{name}_beside", Join(1), *every)
        y = self._step(m, f"{name}_squeeze", y, stage.width // 2)
        y = self._step(m, f"{name}_excite", y, stage.width)
        return m.add(f"{name}_add", Add(), y, x) if kept else y

    def _step(
        self, m: Maker, name: str, x: str, out: int, kernel: int = 1, stride: int = 1,
        function: str = "relu", groups: int = 1,
    ) -> str:  # fmt: skip
        step = Step(out, kernel, stride, groups, function, frozen=self.frozen, affine=self.affine)
        return step.add(m, name, x)
