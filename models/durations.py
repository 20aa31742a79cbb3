"""How long the tokens of a text last when they are spoken, as VITS draws it or works it out."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker
from costgraph.models.blocks.image import act, channel_norm, conv, even
from costgraph.models.hifigan import told
from costgraph.ops import Add
from costgraph.ops.arrays import Copy, GatherElements, Join
from costgraph.ops.image import Cut
from costgraph.ops.maps import Cumulate, Map, Reduce, SoftmaxOver
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, S

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class Durations:
    """How long tokens last, drawn from a flow whose steps bend by splines.

    Attributes:
        taps, layers: of depthwise convolutions.
        channels: that are drawn; ``bins``: of a spline.
        steps: of the flow, of which the last but one is not run.
    """

    taps: int
    layers: int
    channels: int
    bins: int
    steps: int

    def resting(self, d: Expr) -> Expr:
        """Numbers of weights that only training runs."""
        half = self.channels // 2
        every = 3 * self.bins - 1
        deep = self.layers * (d * self.taps + d * d + 6 * d)
        step = half * d + d + deep + (d + 1) * half * every
        idle = step if self.steps else ZERO
        return idle + 2 * d + d * d + d + deep + 2 * self.channels + self.steps * step

    def add(self, m: Maker, x: str, voice: str, idle: int) -> str:
        """Adds it over ``x (B, d, S)``: logarithms of durations ``(B, channels/2, S)``.

        ``idle``: width of a voice that the class has weights for, where none is told.
        """
        d, half = m.shape(x)[1], Integer(self.channels // 2)
        x = conv(m, "length_pre", x, d, 1)
        x = told(m, "length_voice", x, voice, idle)
        given = conv(m, "length_proj", self._deep(m, "length", x), d, 1)
        shape = (B, Integer(self.channels), S)
        drawn = m.add("drawn", Map("scale"), m.source(Tensor("noise", shape, m.style.acts)))
        for index in range(self.steps - 1):
            name = f"bend{index}"
            drawn = m.add(f"{name}_flip", Copy(shape), drawn)
            first, second = m.add_many(f"{name}_halves", Cut((half, half)), drawn)
            y = m.add(f"{name}_given", Add(), conv(m, f"{name}_pre", first, d, 1), given)
            y = conv(m, f"{name}_proj", self._deep(m, name, y), half * (3 * self.bins - 1), 1)
            second = self._bent(m, name, second, y)
            drawn = m.add(f"{name}_joined", Join(1), first, second)
        drawn = m.add("drawn_flip", Copy(shape), drawn)
        shift, scale = (m.vector(f"drawn.{n}", shape[1], ONE) for n in ("shift", "scale"))
        scale = m.add("drawn_exp", Map("exp"), m.add("drawn_neg", Map("neg"), scale))
        drawn = m.add("drawn_mul", Map("mul"), m.add("drawn_sub", Map("sub"), drawn, shift), scale)
        return m.add_many("drawn_parts", Cut((half, half)), drawn)[0]

    def _deep(self, m: Maker, name: str, x: str) -> str:
        """Adds depthwise convolutions, whose taps are ever further apart."""
        d = m.shape(x)[1]
        for index in range(self.layers):
            part, gap = f"{name}_deep{index}", self.taps**index
            y = conv(m, part, x, d, self.taps, 1, (self.taps - 1) // 2 * gap, d, gap=gap)
            y = act(m, f"{part}_act1", channel_norm(m, f"{part}_norm1", y), "gelu")
            y = channel_norm(m, f"{part}_norm2", conv(m, f"{part}_point", y, d, 1))
            x = m.add(f"{part}_add", Add(), x, act(m, f"{part}_act2", y, "gelu"))
        return x

    def _bent(self, m: Maker, name: str, x: str, given: str) -> str:
        """Adds the inverse of a spline of fractions of squares (Durkan et al., arXiv 1906.04032).

        ``x (B, c, S)``: every position counts as one within the spline's bounds.
        """
        half, bins = m.shape(x)[1], Integer(self.bins)
        count = 0

        def make(function: str, *operands: str) -> str:
            nonlocal count
            count += 1
            return m.add(f"{name}_{function}{count}", Map(function), *operands)

        y = m.add(f"{name}_split", Reshape((B, half, 3 * bins - 1, S)), given)
        y = m.add(f"{name}_columns", Transpose((0, 1, 3, 2)), y)
        x = m.add(f"{name}_row", Reshape((B, half, S, ONE)), x)
        edges, sizes = [], []
        for part in range(2):
            w = m.add(f"{name}_part{part}", Slice(3, part * bins, bins), y)
            w = m.add(f"{name}_softmax{part}", SoftmaxOver(3), make("scale", w))
            w = make("add_constant", make("scale", w))
            w = m.add(f"{name}_sum{part}", Cumulate(), w)
            w = m.add(f"{name}_edges{part}", Copy((B, half, S, bins + 1)), w)
            edges.append(make("add_constant", make("scale", w)))
            ends = (m.add(f"{name}_end{part}{i}", Slice(3, Integer(i), bins), edges[-1])
                    for i in (1, 0))  # fmt: skip
            sizes.append(make("sub", *ends))
        slopes = m.add(f"{name}_part2", Slice(3, 2 * bins, bins - 1), y)
        slopes = m.add(f"{name}_slopes", Copy((B, half, S, bins + 1)), slopes)
        slopes = make("add_constant", make("softplus", slopes))
        above = Reduce("sum", (3,), keep=True)
        place = make("add_constant", m.add(f"{name}_above", above, make("ge", x, edges[1])))
        low, base = (self._at(m, f"{name}_edge{i}", e, place) for i, e in enumerate(edges))
        wide, high = (self._at(m, f"{name}_size{i}", e, place) for i, e in enumerate(sizes))
        first = self._at(m, f"{name}_slope0", slopes, place)
        second = self._at(m, f"{name}_slope1", slopes, make("add_constant", place))
        delta = make("div", high, wide)
        bow = make("sub", make("add", first, second), make("scale", delta))
        offset = make("sub", x, base)
        bow = make("mul", offset, bow)
        a = make("add", make("mul", high, make("sub", delta, first)), bow)
        b = make("sub", make("mul", high, first), bow)
        c = make("mul", make("neg", delta), offset)
        root = make("sub", make("square", b), make("mul", make("scale", a), c))
        root = make("sub", make("neg", b), make("sqrt", root))
        root = make("div", make("scale", c), root)
        root = make("add", make("mul", root, wide), low)
        return m.add(f"{name}_bent", Reshape((B, half, S)), root)

    def _at(self, m: Maker, name: str, x: str, place: str) -> str:
        """Adds what stands at each position's bin."""
        return m.add(name, GatherElements(m.shape(place)), x, place)


@dataclass(frozen=True)
class PlainDurations:
    """How long tokens last, by two convolutions.

    Attributes:
        wide, taps: of them.
    """

    wide: Expr
    taps: int

    def resting(self, d: Expr) -> Expr:
        """Nothing rests."""
        return ZERO

    def add(self, m: Maker, x: str, voice: str, idle: int) -> str:
        """Adds it, see :meth:`Durations.add`."""
        x = told(m, "length_voice", x, voice, idle)
        for index in (1, 2):
            x = act(m, f"length_act{index}", even(m, f"length{index}", x, self.wide, self.taps),
                    "relu")  # fmt: skip
            x = channel_norm(m, f"length_norm{index}", x)
        return conv(m, "length_proj", x, ONE, 1)
