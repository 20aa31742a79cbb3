"""Inkling's eyes and ears: patches folded by products alone, codes of frames looked up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sympy import Expr, factorint

from costgraph.errors import ModelError
from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.eyes import Eyes, Hearing, together
from costgraph.models.blocks.pictures import Processor, Seen, Shown
from costgraph.models.blocks.projector import Steps, project
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Embedding
from costgraph.ops.maps import Reduce
from costgraph.symbols import B, G


@dataclass(frozen=True)
class Blocks(Processor):
    """A picture is cut into squares of ``side`` pixels as it is; those at its ends are filled up.

    Source: ``InklingImageProcessor`` of transformers, whose files may scale pictures first.
    """

    side: int
    said: str = (
        "pictures are not scaled before they are cut into patches, as in the processor's class"
    )

    def picture(self, height: int, width: int) -> Seen:
        return Seen(math.ceil(height / self.side) * math.ceil(width / self.side))


@dataclass(frozen=True)
class FoldedEyes(Eyes):
    """Products that fold the cells of each patch, step by step, into one row.

    Attributes:
        cells: of a patch, ``channels`` numbers each.
        layers: what folds them, step by step.
        processor: what is made of pictures of a size.
    """

    cells: Expr
    channels: Expr
    layers: tuple[Steps, ...]
    processor: Processor

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Patches."""
        return ("G patches of images are tokens of the prompt's S",)

    def positions(self, style: Style) -> Expr:
        """Patches per sequence."""
        return G

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[FoldedEyes, Seen]:
        """The same: a patch sees itself alone."""
        return self, together(self.processor, shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the steps: rows ``(B, G, d)``."""
        x = m.source(Tensor("patches", (B, G * self.cells, self.channels), m.style.acts))
        for index, steps in enumerate(self.layers):
            x = project(m, f"fold{index}", x, steps)
        return (x,)


@dataclass(frozen=True)
class CodeEars(Hearing):
    """A frame of sound is ``bands`` codes, whose rows of one table are added up and normalised.

    Attributes:
        codes: codes that a band has.
        d: width of rows.
    """

    bands: Expr
    codes: Expr
    d: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Frames."""
        return ("G frames of sound are tokens of the prompt's S",)

    def positions(self, style: Style) -> Expr:
        """Frames per sequence."""
        return G

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the table: rows ``(B, G, d)``."""
        ids = m.source(Tensor("codes", (B, G, self.bands), INT64))
        table = m.weight("codes.weight", self.bands * self.codes, self.d)
        rows = m.add("codes_embed", Embedding(result=m.style.acts), ids, table)
        x = m.add("codes_sum", Reduce("sum", (2,)), rows)
        return (m.norm("codes_norm", x, self.d, Norm()),)


#: Distances of sizes that single precision may hold for equal.
SAME = 1e-5

Scale = tuple[int, int, int]


def scales(frames: int, side: int, channels: int, layers: int) -> tuple[Scale, ...]:
    """What cells of a patch are in front of and behind each layer: frames, side, channels.

    Sides grow by the prime factors of a patch, the largest first, then frames do. Layers take
    those whose sizes are nearest to even steps on a logarithmic scale, in order.
    Source: ``plan_out_scales`` of transformers.

    Raises:
        ModelError: two sizes are as near.
    """
    found = [(1, 1, channels)]
    grown = 1
    for factor in reversed(factorint(side, multiple=True)):
        grown *= factor
        found.append((1, grown, math.ceil(grown**2 * channels / 64) * 64))
    grown = 1
    for factor in reversed(factorint(frames, multiple=True)):
        grown *= factor
        found.append((grown, side, side**2 * channels * grown * 64))
    sizes = [math.log(t * h * h) for t, h, _ in found]
    whole = math.log(frames * side * side * channels)
    ideal = [whole * i / layers for i in range(layers + 1)]
    at = [_nearest(x, sizes) for x in ideal] if layers >= len(found) else _apart(ideal, sizes)
    at[0], at[-1] = 0, len(found) - 1
    return tuple(found[j] for j in at)


def _nearest(ideal: float, sizes: list[float]) -> int:
    """The place of the size that is nearest.

    Raises:
        ModelError: two are as near as floating-point numbers tell.
    """
    first, second, *_ = sorted((abs(ideal - size), j) for j, size in enumerate(sizes))
    if second[0] - first[0] < SAME:
        raise ModelError("two sizes of cells are as near: which one its class takes is not known")
    return first[1]


def _apart(ideal: list[float], sizes: list[float]) -> list[int]:
    """Different places of ``sizes``, in order, whose distances to ``ideal`` have the least sum."""
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(sizes) + 1)
    for count, x in enumerate(ideal, 1):
        after: list[tuple[float, list[int]]] = [(math.inf, [])] * (len(sizes) + 1)
        for j in range(count, len(sizes) + 1):
            cost, places = best[j - 1]
            taken = cost + abs(x - sizes[j - 1])
            after[j] = min(after[j - 1], (taken, [*places, j - 1]), key=lambda pair: pair[0])
        best = after
    return best[-1][1]
