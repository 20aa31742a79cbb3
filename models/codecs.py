"""Codecs of sound: EnCodec (arXiv 2210.13438) and DAC (arXiv 2306.06546)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil, prod

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm, Style
from costgraph.models.blocks.image import conv, even, group_norm, grown, picture
from costgraph.models.blocks.lstm import lstm
from costgraph.models.vision import OnePass
from costgraph.ops import Add, AsSequence, Embedding
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.pool import Resize
from costgraph.ops.views import Slice, Transpose
from costgraph.symbols import B, S, q

ZERO, ONE = Integer(0), Integer(1)


def nearest_codes(m: Maker, name: str, rows: str, table: str) -> str:
    """Adds the codes of ``rows (B, q, w)`` that are nearest in ``table``.

    The published classes look for the largest ``2·x·e − |x|² − |e|²``.
    """
    turned = m.add(f"{name}_turned", Transpose((1, 0)), table)
    near = m.add(f"{name}_near", MatMul(), m.add(f"{name}_twice", Map("scale"), rows), turned)
    length = m.add(f"{name}_length", Reduce("sum_square", (2,), keep=True), rows)
    near = m.add(f"{name}_less", Map("sub"), near, length)
    length = m.add(f"{name}_table_length", Reduce("sum_square", (1,)), table)
    near = m.add(f"{name}_nearness", Map("sub"), near, length)
    return m.add(f"{name}_code", Reduce("argmax", (2,)), near)


@dataclass(frozen=True)
class Codec(OnePass):
    """A sound to codes and back: ``S`` steps, each of one code from every codebook.

    Attributes:
        channels: of the sound; ``longest``: steps beyond which it is cut into chunks, or None.
        ratios: how much coarser each stage is, from the sound on; their product are the samples
            of a step.
        wide: channels behind the first convolution, which each stage doubles.
        d: width of a step.
        books, size: codebooks that are used, and their codes.
        narrow: width of a code.
        level: the sound is brought to one loudness, and back.
    """

    channels: int
    longest: int | None
    ratios: tuple[int, ...]
    wide: int
    d: int
    books: int
    size: int
    narrow: int
    level: bool

    def positions(self, style: Style) -> Expr:
        return S

    @property
    def samples(self) -> int:
        """Samples of a step."""
        return prod(self.ratios)

    @property
    def limits(self) -> tuple[Limit, ...]:
        if self.longest is None:
            return ()
        return (Limit(S, Integer(self.longest), "longer sounds are cut into chunks that overlap"),)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = picture(m, B, Integer(self.channels), (q * self.samples,), "sound")
        if self.level:
            loud = m.add("mono", Reduce("mean", (1,), keep=True), x)
            loud = m.add("loud_square", Map("square"), loud)
            loud = m.add("loud_mean", Reduce("mean", (2,), keep=True), loud)
            loud = m.add("loud", Map("add_constant"), m.add("loud_root", Map("sqrt"), loud))
            x = m.add("levelled", Map("div"), x, loud)
        x, codes = self._coded(m, self._encoded(m, x))
        x = self._decoded(m, x)
        return m.build(m.add("louder", Map("mul"), x, loud) if self.level else x, *codes)

    @abstractmethod
    def _encoded(self, m: Maker, x: str) -> str:
        """Adds the encoder: ``(B, d, q)``."""

    @abstractmethod
    def _coded(self, m: Maker, x: str) -> tuple[str, list[str]]:
        """Adds the codes and what they stand for: ``(B, d, q)``."""

    @abstractmethod
    def _decoded(self, m: Maker, x: str) -> str:
        """Adds the decoder: the sound."""


@dataclass(frozen=True)
class Encodec(Codec):
    """EnCodec: padded convolutions with weight norms, and LSTMs between the halves.

    Attributes:
        taps: of the first, the last and residual convolutions.
        residuals: residual layers of a stage; ``growth``: how much further apart the taps of
            each are than those of the one before.
        less: how much narrower a residual layer is inside.
        short: what is added passes a convolution.
        recurrent: layers of each LSTM.
        gains: convolutions have a gain for each row, which rests; else a norm stands behind each.
    """

    taps: tuple[int, int, int]
    residuals: int
    growth: int
    less: int
    short: bool
    recurrent: int
    gains: bool

    def _conv(
        self, m: Maker, name: str, x: str, out: int, kernel: int, stride: int = 1, gap: int = 1
    ) -> str:
        batch, channels, length = m.shape(x)
        around = (kernel - 1) * gap + 1 - stride
        if around:
            x = m.add(f"{name}_pad", Resize((batch, channels, length + around)), x)
        x = conv(m, name, x, Integer(out), kernel, stride, gap=gap)
        return self._behind(m, name, x, Integer(out))

    def _behind(self, m: Maker, name: str, x: str, gains: Expr) -> str:
        """Adds the norm behind a convolution, or its gains, which are folded into it."""
        if not self.gains:
            return group_norm(m, f"{name}_norm", x, ONE)
        m.vector(f"{name}.gain", gains)
        return x

    def _grown(self, m: Maker, name: str, x: str, ratio: int) -> str:
        """Adds a transposed convolution, whose ends are cut off."""
        _, channels, length = m.shape(x)
        sizes = (length * ratio + ratio,)
        x = grown(m, name, x, channels / 2, (Integer(2 * ratio),), sizes)
        x = self._behind(m, name, x, channels)
        return m.add(f"{name}_cut", Slice(2, ZERO, length * ratio), x)

    def _residual(self, m: Maker, name: str, x: str, gap: int) -> str:
        width = int(m.shape(x)[1])
        y = self._conv(m, f"{name}_1", self._bent(m, f"{name}_1", x), width // self.less,
                       self.taps[2], gap=gap)  # fmt: skip
        y = self._conv(m, f"{name}_2", self._bent(m, f"{name}_2", y), width, 1)
        beside = self._conv(m, f"{name}_short", x, width, 1) if self.short else x
        return m.add(f"{name}_add", Add(), beside, y)

    def _bent(self, m: Maker, name: str, x: str) -> str:
        return m.add(f"{name}_elu", Map("elu"), x)

    def _steps(self, m: Maker, name: str, x: str) -> str:
        """Adds the LSTM and the residual; ``x (B, C, q)`` in and out."""
        rows = m.add(f"{name}_rows", Transpose((2, 0, 1)), x)
        y = m.add(f"{name}_add", Add(), lstm(m, name, rows, self.recurrent), rows)
        return m.add(f"{name}_back", Transpose((1, 2, 0)), y)

    def _encoded(self, m: Maker, x: str) -> str:
        x = self._conv(m, "first", x, self.wide, self.taps[0])
        for index, ratio in enumerate(self.ratios):
            name, width = f"down{index}", self.wide * 2 ** (index + 1)
            for layer in range(self.residuals):
                x = self._residual(m, f"{name}_layer{layer}", x, self.growth**layer)
            x = self._conv(m, name, self._bent(m, name, x), width, 2 * ratio, ratio)
        x = self._bent(m, "last", self._steps(m, "down_lstm", x))
        return self._conv(m, "last", x, self.d, self.taps[1])

    def _coded(self, m: Maker, x: str) -> tuple[str, list[str]]:
        codes: list[str] = []
        shape = (Integer(self.size), Integer(self.narrow))
        rows = m.add("steps", AsSequence(), x)
        total = ""
        for index in range(self.books):
            table = m.source(Tensor(f"book{index}", shape, m.style.acts))
            codes.append(nearest_codes(m, f"book{index}", rows, table))
            found = m.add(f"book{index}_rows", Embedding(result=m.style.acts), codes[-1], table)
            rows = m.add(f"book{index}_rest", Map("sub"), rows, found)
            total = m.add(f"book{index}_sum", Add(), total, found) if total else found
        return m.add("code_channels", Transpose((0, 2, 1)), total), codes

    def _decoded(self, m: Maker, x: str) -> str:
        width = self.wide * 2 ** len(self.ratios)
        x = self._steps(m, "up_lstm", self._conv(m, "up_first", x, width, self.taps[0]))
        for index, ratio in enumerate(reversed(self.ratios)):
            name = f"up{index}"
            x = self._grown(m, name, self._bent(m, name, x), ratio)
            for layer in range(self.residuals):
                x = self._residual(m, f"{name}_layer{layer}", x, self.growth**layer)
        return self._conv(m, "up_last", self._bent(m, "up_last", x), self.channels, self.taps[1])


@dataclass(frozen=True)
class Dac(Codec):
    """DAC: convolutions around snakes, and codes that are looked up in few dimensions.

    Attributes:
        top: channels of the decoder in front, which each stage halves.
    """

    top: int

    def _snake(self, m: Maker, name: str, x: str) -> str:
        """Adds ``x + sin²(αx) / α`` with an ``α`` per channel."""
        alpha = m.vector(f"{name}.alpha", m.shape(x)[1], ONE)
        y = m.add(f"{name}_sin", Map("sin"), m.add(f"{name}_angle", Map("mul"), x, alpha))
        y = m.add(f"{name}_square", Map("square"), y)
        y = m.add(f"{name}_by", Map("mul"), y, m.add(f"{name}_over", Map("reciprocal"), alpha))
        return m.add(f"{name}_add", Map("add"), x, y)

    def _residuals(self, m: Maker, name: str, x: str) -> str:
        width = m.shape(x)[1]
        for index, gap in enumerate((1, 3, 9)):
            part = f"{name}_layer{index}"
            y = even(m, f"{part}_1", self._snake(m, f"{part}_snake1", x), width, 7, gap)
            y = conv(m, f"{part}_2", self._snake(m, f"{part}_snake2", y), width, 1)
            x = m.add(f"{part}_add", Add(), x, y)
        return x

    def _encoded(self, m: Maker, x: str) -> str:
        x = even(m, "first", x, Integer(self.wide), 7)
        for index, ratio in enumerate(self.ratios):
            name, out = f"down{index}", Integer(self.wide * 2 ** (index + 1))
            x = self._snake(m, f"{name}_snake", self._residuals(m, name, x))
            x = conv(m, name, x, out, 2 * ratio, ratio, ceil(ratio / 2))
        return even(m, "last", self._snake(m, "last_snake", x), Integer(self.d), 3)

    def _coded(self, m: Maker, x: str) -> tuple[str, list[str]]:
        codes: list[str] = []
        unit, narrow, total = Norm("rms", weight=False), Integer(self.narrow), ""
        for index in range(self.books):
            name = f"book{index}"
            few = conv(m, f"{name}_in", x, narrow, 1)
            rows = m.norm(f"{name}_unit", m.add(f"{name}_few", AsSequence(), few), narrow, unit)
            table = m.weight(f"{name}.weight", Integer(self.size), narrow)
            units = m.norm(f"{name}_units", table, narrow, unit)
            codes.append(nearest_codes(m, name, rows, units))
            found = m.add(f"{name}_rows", Embedding(result=m.style.acts), codes[-1], table)
            found = m.add(f"{name}_channels", Transpose((0, 2, 1)), found)
            found = conv(m, f"{name}_out", found, Integer(self.d), 1)
            x = m.add(f"{name}_rest", Map("sub"), x, found)
            total = m.add(f"{name}_sum", Add(), total, found) if total else found
        return total, codes

    def _decoded(self, m: Maker, x: str) -> str:
        x = even(m, "up_first", x, Integer(self.top), 7)
        for index, ratio in enumerate(reversed(self.ratios)):
            name, channels = f"up{index}", m.shape(x)[1]
            x = self._snake(m, f"{name}_snake", x)
            # Odd ratios lose a sample.
            length = m.shape(x)[2] * ratio + ratio - 2 * ceil(ratio / 2)
            x = grown(m, name, x, channels / 2, (Integer(2 * ratio),), (length,))
            x = self._residuals(m, name, x)
        x = even(m, "up_last", self._snake(m, "up_snake", x), ONE, 7)
        return m.add("up_tanh", Map("tanh"), x)
