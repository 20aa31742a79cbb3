"""Depth from an image: DPT (Ranftl et al., arXiv 2103.13413) and Depth Anything (arXiv 2401.10891).

What some layers of a vision transformer make is brought to four grids and fused from the
coarsest to the finest. Prompt Depth Anything (arXiv 2412.14015) adds to each step what convolutions
make of a coarse map of depths that is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.bit import Bit
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import (
    act,
    class_first,
    conv,
    enlarge,
    picture,
    positions_of,
)
from costgraph.models.stages import Maps, TowerMaps
from costgraph.models.vision import OnePass, Tower
from costgraph.ops import Activation, Add, AsSequence, Concat, Scale
from costgraph.ops.image import AsImage, Cut
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B

ONE, THREE = Integer(1), Integer(3)
Sizes = tuple[Expr, ...]


def stem_rows(m: Maker, tower: Tower, image: str) -> str:
    """Adds positions of a network's image behind a class token."""
    patches, d, size = tower.patches, tower.at.d, tower.sized(m.style)
    if m.shape(image)[2:] != tuple(n // p for n, p in zip(size, patches.patch, strict=True)):
        raise InputError(
            f"image: {size[0]} x {size[1]} pixels are no whole number of patches of "
            f"{patches.patch[0]}"
        )
    x = m.add("stem_rows", AsSequence(), conv(m, "stem_proj", image, d, 1))
    x = class_first(m, x)
    assert patches.rows is not None
    table = positions_of(m, patches.rows, m.shape(x)[1], d, taps=4)
    return m.add("position_add", Add(), x, table)


@dataclass(frozen=True)
class StemTower(Tower):
    """A transformer over the last image of a network, whose first ones are features as well."""

    stem: Bit | None = None

    def patched(self, m: Maker, batch: Expr) -> str:
        return self.all(m, batch)[-1]

    def all(self, m: Maker, batch: Expr) -> list[str]:
        """Adds the network: its first images, and rows of the last one."""
        assert self.stem is not None
        image = picture(m, batch, self.patches.channels, self.sized(m.style))
        *first, last = self.stem.maps(m, image)
        return [*first, stem_rows(m, self, last)]


@dataclass(frozen=True)
class Depth(OnePass):
    """The transformer, what fuses its layers, and a head of three convolutions.

    Attributes:
        seen: the transformer whose rows, or the network whose images, are the features.
        readout: what becomes of the class token: ``ignore``, ``add`` or ``project``.
        activation: behind the products of ``project``.
        widths, factors: channels of the features, and how much finer than patches their grids are.
        fused: channels of all of them behind.
        head: channels in front of the last convolution.
        exact: grids are enlarged to that of the next features, and in the end to the image's;
            else they are doubled.
        projected: a convolution more in front of the head.
        last: the activation of the result.
    """

    seen: TowerMaps | Maps
    readout: str
    activation: str
    widths: tuple[int, ...]
    factors: tuple[Fraction, ...]
    fused: Expr
    head: Expr
    exact: bool
    projected: bool = False
    last: str = "relu"

    def positions(self, style: Style) -> Expr:
        return self.seen.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        maps, idle = self._maps(m)
        depth = self._headed(m, self._fused(m, maps)[-1])[1]
        return m.build(m.add("depth", Scale(), depth) if self.exact else depth, *idle)

    def _maps(self, m: Maker) -> tuple[list[str], list[str]]:
        """Adds the features, of one width, and what the class makes besides to no use."""
        seen, images = self.seen, []
        if isinstance(seen, Maps):
            return [self._last(m, f"map{i}", x) for i, x in enumerate(seen.add(m))], []
        tower = seen.tower
        if isinstance(tower, StemTower):
            *images, x = tower.all(m, B)
        else:
            x = tower.patched(m, B)
        kept, idle = seen.rows(m, x)
        maps = [self._last(m, f"map{index}", image) for index, image in enumerate(images)]
        grid = seen.grid(m.style)
        rows = enumerate(kept, len(images))
        return maps + [self._map(m, index, x, tower.patches.lead, grid) for index, x in rows], idle

    def _map(self, m: Maker, index: int, rows: str, lead: Expr, grid: Sizes) -> str:
        """Adds features as an image of the grid that they are fused in."""
        name, d = f"map{index}", m.shape(rows)[2]
        count = m.shape(rows)[1] - lead
        first, x = m.add_many(f"{name}_parts", Cut((lead, count)), rows)
        if self.readout == "add":
            x = m.add(f"{name}_class", Map("add"), x, first)
        elif self.readout == "project":
            beside = m.add(f"{name}_class", Expand((B, count, d)), first)
            x = m.add(f"{name}_beside", Concat(), x, beside)
            x = m.linear(f"{name}_readout", x, d, 2 * d, True)
            x = m.add(f"{name}_readout_act", Activation(self.activation), x)
        width, factor = Integer(self.widths[index]), self.factors[index]
        x = conv(m, f"{name}_project", m.add(f"{name}_grid", AsImage(grid), x), width, 1)
        if factor > 1:
            x = enlarge(m, f"{name}_enlarge", x, width, Integer(int(factor)))
        elif factor < 1:
            x = conv(m, f"{name}_shrink", x, width, 3, int(1 / factor), 1)
        return self._last(m, name, x)

    def _last(self, m: Maker, name: str, x: str) -> str:
        """Adds the convolution that brings features to one width."""
        return conv(m, f"{name}_conv", x, self.fused, 3, 1, 1, bias=False)

    def _fused(self, m: Maker, maps: list[str]) -> list[str]:
        """Adds the fusion from the coarsest map to the finest: what each step makes."""
        x, made = "", []
        for index, rows in enumerate(reversed(maps)):
            name = f"fuse{index}"
            if x:
                size = m.shape(x)[2:]
                if m.shape(rows)[2:] != size:
                    shape = (*m.shape(rows)[:2], *size)
                    rows = m.add(f"{name}_fit", Resize(shape, "linear"), rows)
                x = m.add(f"{name}_add", Add(), self._residual(m, f"{name}_new", rows), x)
            else:
                x = rows
                # The class has a block here that nothing runs through.
                for part in "12":
                    m.weight(f"{name}_idle{part}.weight", self.fused, self.fused, THREE, THREE)
                    m.vector(f"{name}_idle{part}.bias", self.fused)
            x = self._given(m, name, self._residual(m, f"{name}_all", x))
            size = tuple(2 * n for n in m.shape(x)[2:])
            if self.exact and index + 1 < len(maps):
                size = m.shape(maps[-index - 2])[2:]
            x = m.add(f"{name}_enlarge", Resize((B, self.fused, *size), "linear"), x)
            x = conv(m, f"{name}_project", x, self.fused, 1)
            made.append(x)
        return made

    def _given(self, m: Maker, name: str, x: str) -> str:
        """Adds what is given beside the picture: here nothing."""
        return x

    def _residual(self, m: Maker, name: str, x: str) -> str:
        """Adds two convolutions behind activations, and the residual."""
        y = x
        for part in "12":
            y = act(m, f"{name}_act{part}", y, "relu")
            y = conv(m, f"{name}_conv{part}", y, self.fused, 3, 1, 1)
        return m.add(f"{name}_sum", Add(), y, x)

    def _headed(self, m: Maker, x: str) -> tuple[str, str]:
        """Adds the head: features of each pixel, and a number."""
        if self.projected:
            x = act(m, "head_first_act", conv(m, "head_first", x, self.fused, 3, 1, 1), "relu")
        half = Integer(int(self.fused) // 2)
        x = conv(m, "head1", x, half, 3, 1, 1)
        if self.exact and isinstance(self.seen, TowerMaps):
            patch = self.seen.tower.patches.patch
            size = tuple(n * p for n, p in zip(self.seen.grid(m.style), patch, strict=True))
        else:
            size = tuple(2 * n for n in m.shape(x)[2:])
        x = m.add("head_enlarge", Resize((B, half, *size), "linear"), x)
        x = act(m, "head2_act", conv(m, "head2", x, self.head, 3, 1, 1), "relu")
        return x, act(m, "depth_act", conv(m, "head3", x, ONE, 1), self.last)


@dataclass(frozen=True)
class PromptedDepth(Depth):
    """Depth Anything beside a coarse map of depths, of ``given`` rows and columns."""

    given: Sizes = (Integer(192), Integer(256))

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        known = m.source(Tensor("given_depth", (B, ONE, *self.given), style.acts))
        ends = [m.add(f"given_{end}", Reduce(end, (1, 2, 3)), known) for end in ("min", "max")]
        low, high = (m.add(f"{end}_each", Reshape((B, ONE, ONE, ONE)), end) for end in ends)
        span = m.add("given_span", Map("sub"), high, low)
        m.add("given", Map("div"), m.add("given_above", Map("sub"), known, low), span)
        maps, idle = self._maps(m)
        depth = self._headed(m, self._fused(m, maps)[-1])[1]
        depth = m.add("depth_scaled", Map("mul"), depth, span)
        return m.build(m.add("depth", Map("add"), depth, low), *idle)

    def _given(self, m: Maker, name: str, x: str) -> str:
        shape = (B, ONE, *m.shape(x)[2:])
        y = m.add(f"{name}_given_fit", Resize(shape, "linear"), "given")
        for part in "12":
            y = conv(m, f"{name}_given{part}", y, self.fused, 3, 1, 1)
            y = act(m, f"{name}_given_act{part}", y, "relu")
        y = conv(m, f"{name}_given3", y, self.fused, 3, 1, 1)
        return m.add(f"{name}_given_add", Add(), x, y)
