"""HiFi-GAN (Kong et al., arXiv 2010.05646): frames to samples of a sound."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import conv, even, grown, picture
from costgraph.models.vision import OnePass
from costgraph.ops import Add
from costgraph.ops.maps import Map
from costgraph.symbols import B, S

ONE = Integer(1)


def told(m: Maker, name: str, x: str, voice: str, idle: int) -> str:
    """Adds a product of a voice's vector ``voice (B, v, 1)`` to ``x (B, d, n)``.

    Where ``voice`` is empty, ``idle`` is the width of one that the class has weights for all the
    same: they rest.
    """
    d = m.shape(x)[1]
    if voice:
        return m.add(f"{name}_add", Map("add"), x, conv(m, name, voice, d, 1))
    if idle:
        m.vector(f"{name}.rows", d * (idle + 1))
    return x


@dataclass(frozen=True)
class Voice:
    """What makes samples of frames.

    Attributes:
        wide: channels behind the first convolution, which each stage halves.
        ratios, kernels: how much finer each stage is, and taps of its transposed convolution.
        taps, gaps: of the residual blocks beside one another, and how far taps are apart in
            each of their steps.
        bias: of the last convolution.
    """

    wide: int
    ratios: tuple[int, ...]
    kernels: tuple[int, ...]
    taps: tuple[int, ...]
    gaps: tuple[tuple[int, ...], ...]
    bias: bool = False

    @property
    def samples(self) -> int:
        """Samples of a frame."""
        return prod(self.ratios)

    def add(self, m: Maker, x: str, voice: str, idle: int) -> str:
        """Adds it over ``x (B, flow, n)``: the sound ``(B, 1, samples)``."""
        x = even(m, "voice_pre", x, Integer(self.wide), 7)
        x = told(m, "voice_told", x, voice, idle)
        for index, (ratio, kernel) in enumerate(zip(self.ratios, self.kernels, strict=True)):
            name = f"voice{index}"
            x = m.add(f"{name}_bent", Map("leaky_relu"), x)
            out, length = Integer(self.wide // 2 ** (index + 1)), m.shape(x)[2] * ratio
            x = grown(m, name, x, out, (Integer(kernel),), (length,))
            total = ""
            for block, (taps, gaps) in enumerate(zip(self.taps, self.gaps, strict=True)):
                y = self._residual(m, f"{name}_block{block}", x, taps, gaps)
                total = m.add(f"{name}_sum{block}", Add(), total, y) if total else y
            x = m.add(f"{name}_mean", Map("scale"), total)
        x = m.add("voice_bent", Map("leaky_relu"), x)
        x = even(m, "voice_post", x, ONE, 7, bias=self.bias)
        return m.add("voice_tanh", Map("tanh"), x)

    def _residual(self, m: Maker, name: str, x: str, taps: int, gaps: tuple[int, ...]) -> str:
        for index, gap in enumerate(gaps):
            y = x
            for part, apart in ((1, gap), (2, 1)):
                y = m.add(f"{name}_bent{index}{part}", Map("leaky_relu"), y)
                y = even(m, f"{name}_conv{index}{part}", y, m.shape(x)[1], taps, apart)
            x = m.add(f"{name}_add{index}", Add(), y, x)
        return x


@dataclass(frozen=True)
class Vocoder(OnePass):
    """HiFi-GAN: ``B`` sounds of ``S`` frames.

    Attributes:
        mels: bands of a frame.
        voice: what makes samples of them.
        shifted: frames are brought to a mean of zero and a deviation of one first.
    """

    mels: int
    voice: Voice
    shifted: bool

    def positions(self, style: Style) -> Expr:
        return S

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = picture(m, B, Integer(self.mels), (S,), "frames")
        if self.shifted:
            mean, scale = (
                m.source(Tensor(n, (Integer(self.mels), ONE), style.acts))
                for n in ("mean", "scale")
            )
            x = m.add("unscaled", Map("div"), m.add("shifted", Map("sub"), x, mean), scale)
        return m.build(self.voice.add(m, x, "", 0))
