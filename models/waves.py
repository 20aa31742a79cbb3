"""Fronts of encoders that read sound as it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm
from costgraph.models.blocks.image import act, conv, group_norm
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence, Multiply, Scale
from costgraph.ops.pool import Pool
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)
ZERO = Integer(0)
#: (kernel, stride) of Moonshine's three convolutions.
STEPS = ((127, 64), (7, 3), (3, 2))
Steps = Sequence[tuple[int, int]]


def samples_for(positions: Expr, steps: Steps = STEPS) -> Expr:
    """The fewest samples that convolutions, (kernel, stride) each, turn into so many positions."""
    for kernel, stride in reversed(steps):
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


def as_channels(m: Maker, name: str, x: str) -> str:
    """Adds the view of a sequence ``(B, n, C)`` as ``(B, C, n)``."""
    return m.add(name, Transpose((0, 2, 1)), x)


def gated_conv(
    m: Maker, name: str, x: str, out: Expr, kernel: int, stride: int, padding: int
) -> str:
    """Adds a convolution whose second half of channels gates the first; rows ``(B, n', out)``."""
    y = conv(m, name, x, 2 * out, kernel, stride, padding)
    first = m.add(f"{name}_kept", Slice(1, ZERO, out), y)
    gate = act(m, f"{name}_gate", m.add(f"{name}_gates", Slice(1, out, out), y), "sigmoid")
    y = m.add(f"{name}_gated", Multiply(), first, gate)
    return m.add(f"{name}_rows", AsSequence(), y)


@dataclass(frozen=True)
class GatedFront:
    """Speech2Text's front (arXiv 2010.05171): gated convolutions over a spectrogram.

    Each halves it; ``q`` positions are made of the fewest frames that give as many.

    Attributes:
        d, mels: width of the sequence, bands of the spectrogram.
        widths: channels of each convolution behind its gate.
        kernels: taps, an odd number.
        scaled: rows are scaled.
    """

    d: Expr
    mels: Expr
    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    scaled: bool

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        # Padding stands in for the frames at both ends.
        frames = samples_for(q, ((1, 2),) * len(self.kernels))
        x = m.source(Tensor("spectrogram", (B, frames, self.mels), m.style.acts))
        for index, (out, kernel) in enumerate(zip(self.widths, self.kernels, strict=True), 1):
            x = as_channels(m, f"conv{index}_channels", x)
            x = gated_conv(m, f"conv{index}", x, Integer(out), kernel, 2, kernel // 2)
        if self.scaled:
            x = m.add("front_scale", Scale(), x)
        places = m.source(Tensor("position_rows", (q, self.d), m.style.acts))
        return m.add("position_add", Add(), x, places), ""


def _normed(m: Maker, name: str, x: str, norm: Norm) -> str:
    """Adds a norm over the channels of ``x (B, C, n)``."""
    rows = m.add(f"{name}_rows", AsSequence(), x)
    return as_channels(m, f"{name}_back", m.norm(f"{name}_norm", rows, m.shape(rows)[2], norm))


@dataclass(frozen=True)
class Placing:
    """Positions from convolutions over the sequence, added to it.

    Attributes:
        kernel, groups: of each.
        count: convolutions, one behind the other; several have norms without weights between.
        gain: the kernel of a single one has a gain per tap (weight norm), which is folded into
            it and rests in memory.
        activation: behind each.
        bare: a single one has neither gain nor norm.
    """

    kernel: int
    groups: int
    count: int
    gain: bool
    activation: str
    bare: bool = False

    def add(self, m: Maker, x: str) -> str:
        """Adds the positions; ``x (B, n, d)`` in and out."""
        _, length, d = m.shape(x)
        y = as_channels(m, "place_channels", x)
        if self.gain:
            shape = (ONE, Integer(self.kernel))
            m.add("place_gain_row", Reshape(shape), m.vector("place_gain", Integer(self.kernel)))
        for index in range(1, self.count + 1):
            name = f"place{index}"
            y = conv(m, name, y, d, self.kernel, 1, self.kernel // 2, Integer(self.groups))
            if self.kernel % 2 == 0:  # one position too many
                y = m.add(f"{name}_cut", Slice(2, ZERO, length), y)
            if not self.gain and not self.bare:
                y = _normed(m, name, y, _PLAIN)
            y = act(m, f"{name}_act", y, self.activation)
        return m.add("place_add", Add(), m.add("place_rows", AsSequence(), y), x)


_PLAIN = Norm("layer", False, False)


@dataclass(frozen=True)
class SpeechFront:
    """wav2vec 2.0's front (arXiv 2006.11477): convolutions over samples, a product, positions.

    Attributes:
        d: width of the sequence.
        widths, steps: of the convolutions: channels, and (kernel, stride).
        bias: of the convolutions.
        every: a norm over channels behind each convolution, or a group norm behind the first.
        activation: behind each.
        normed: a norm in front of the product.
        placing: what adds positions, or None.
        norm: behind them, or None.
        mask: a vector for masked positions rests in memory.
        fixed: positions from a table that is no parameter are added as well.
        projected: the product that brings rows to ``d``; without it they are as wide.
    """

    d: Expr
    widths: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    bias: bool
    every: bool
    activation: str
    normed: bool
    placing: Placing | None
    norm: Norm | None
    mask: bool
    fixed: bool = False
    projected: bool = True

    def add(self, m: Maker, length: Expr = q) -> tuple[str, str]:
        """Adds the front over ``length`` positions: (hidden state, no table)."""
        x = m.source(Tensor("samples", (B, ONE, samples_for(length, self.steps)), m.style.acts))
        for index, (width, (kernel, stride)) in enumerate(
            zip(self.widths, self.steps, strict=True), start=1
        ):
            name, channels = f"conv{index}", Integer(width)
            x = conv(m, name, x, channels, kernel, stride, bias=self.bias)
            if self.every:
                x = _normed(m, name, x, LAYER_NORM)
            elif index == 1:
                x = group_norm(m, f"{name}_norm", x, channels)
            x = act(m, f"{name}_act", x, self.activation)
        x = m.add("as_sequence", AsSequence(), x)
        wide = Integer(self.widths[-1])
        if self.normed:
            x = m.norm("feature_norm", x, wide, LAYER_NORM)
        if self.projected:
            x = m.linear("feature_proj", x, self.d, wide, True)
        if self.mask:
            m.add("mask_row", Reshape((ONE, self.d)), m.vector("mask", self.d))
        if self.placing is not None:
            x = self.placing.add(m, x)
        if self.fixed:
            rows = m.source(Tensor("position_rows", (length, self.d), m.style.acts))
            x = m.add("position_add", Add(), x, rows)
        return (x if self.norm is None else m.norm("front_norm", x, self.d, self.norm)), ""


@dataclass(frozen=True)
class SqueezedFront:
    """SEW's front (arXiv 2109.06870): of ``factor`` rows each the mean becomes a position.

    A convolution of that stride over the same rows, whose kernel has a gain per tap (folded into
    it: the gain rests in memory), makes what is added for positions.

    Attributes:
        front: convolutions over samples and what follows, without positions.
        factor: rows of it to a position.
        kernel, groups: of the convolution for positions.
        activation: behind it.
        norm: behind the sum, or None.
    """

    front: SpeechFront
    factor: int
    kernel: int
    groups: int
    activation: str
    norm: Norm | None

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front over ``q`` positions: (hidden state, no table)."""
        by, d = Integer(self.factor), self.front.d
        rows, _ = self.front.add(m, by * q)
        x = as_channels(m, "place_channels", rows)
        shape = (ONE, Integer(self.kernel))
        m.add("place_gain_row", Reshape(shape), m.vector("place_gain", Integer(self.kernel)))
        y = conv(
            m, "place1", x, d, self.kernel, self.factor, self.kernel // 2, Integer(self.groups)
        )
        if self.kernel % 2 == 0:  # one position too many
            y = m.add("place1_cut", Slice(2, ZERO, q), y)
        y = act(m, "place1_act", y, self.activation)
        mean = m.add("squeezed", Pool((by,), (by,), (ZERO,), (ONE,), function="average"), x)
        x = m.add("place_rows", AsSequence(), m.add("place_add", Add(), mean, y))
        return (x if self.norm is None else m.norm("front_norm", x, d, self.norm)), ""
