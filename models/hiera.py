"""Hiera by itself (Ryali et al., arXiv 2306.00989): a classifier, or what its stages make."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.hiera import UnrolledHiera
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass
from costgraph.ops.image import AsImage, MeanPool, Rearrange
from costgraph.symbols import B


@dataclass(frozen=True)
class HieraModel(OnePass):
    """The pyramid, and the mean of what its last stage makes behind a norm.

    Attributes:
        pyramid: of pictures where the import asks for no other size.
        classes: to tell apart, or None.
        taken: numbers of the stages whose images other models read, each behind a norm of its
            own, in place of the mean; 0 is what the stages begin with.
    """

    pyramid: UnrolledHiera
    classes: Expr | None
    taken: tuple[int, ...] = ()

    def _sized(self, style: Style) -> UnrolledHiera:
        """The pyramid over pictures of the size that is asked for."""
        if style.image is None:
            return self.pyramid
        tall, wide = map(int, style.image)
        found = replace(self.pyramid, size=(tall, wide))
        grid, side = found.grids[0], found.windows[0]
        stride = found.stride
        if any(n % side for n in grid) or grid != (tall // stride, wide // stride):
            raise InputError(
                f"image: {tall} x {wide} pixels are no whole number of windows of {side * stride}"
            )
        return found

    def positions(self, style: Style) -> Expr:
        tall, wide = self._sized(style).grids[-1]
        return Integer(tall * wide)

    def graph(self, name: str, style: Style) -> Graph:
        m, pyramid = Maker(name, style), self._sized(style)
        made = pyramid.add(m, B)
        if self.taken:
            rows = {0: "unrolled", **dict(enumerate(made, 1))}
            images = [self._image(m, pyramid, stage, rows[stage]) for stage in self.taken]
            return m.build(*images, *(() if len(made) in self.taken else made[-1:]))
        x = m.add("pool", MeanPool(sequence=True), made[-1])
        x = m.norm("pool_norm", x, m.shape(x)[1], LAYER_NORM)
        if self.classes is None:
            return m.build(made[-1], x)
        return m.build(m.linear("classifier", x, self.classes, m.shape(x)[1], True))

    def _image(self, m: Maker, pyramid: UnrolledHiera, stage: int, x: str) -> str:
        """Adds the image of what a stage made."""
        grid, name = pyramid.grids[max(stage - 1, 0)], f"taken{stage}"
        x = m.norm(f"{name}_norm", x, m.shape(x)[2], LAYER_NORM)
        x = m.add(f"{name}_rolled", Rearrange(m.shape(x)), x)
        return m.add(f"{name}_image", AsImage((Integer(grid[0]), Integer(grid[1]))), x)
