"""Vision towers of multimodal models: from images to rows of the language model.

Each adds its graph over ``B`` sequences with ``G`` image tokens: the result is
``(B, G, d)``, and for some also rows that are added behind early decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from typing import Protocol

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, picture
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.projector import (
    Acted,
    Beside,
    Normed,
    Product,
    Steps,
    project,
    tokens_for,
)
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.models.blocks.tower import TowerLayer
from costgraph.models.vision import Tower
from costgraph.ops import Add, Embedding, SelectLast
from costgraph.ops.image import Cut, Interpolate, Rearrange
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

ONE = Integer(1)


def _within(most: int, height: Expr, width: Expr) -> Integer:
    """Tokens of an image whose sides are scaled alike until it has at most ``most``.

    Source: ``get_aspect_ratio_preserving_size`` of Gemma 4's published processor.
    """
    tall, wide = (isqrt(most * int(a) // int(b)) for a, b in ((height, width), (width, height)))
    if tall == 0:
        tall, wide = 1, min(int(width) // int(height), most)
    elif wide == 0:
        tall, wide = min(int(height) // int(width), most), 1
    return Integer(tall * wide)


class Eyes(Protocol):
    """What makes rows of the language model from images, or from sound."""

    @property
    def sense(self) -> str:
        """Name of its phase: ``vision`` or ``audio``."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that its counts rest on."""

    @property
    def deep(self) -> int:
        """How many early decoder layers get further rows."""

    def positions(self, style: Style) -> Expr:
        """Positions of the tower per sequence."""

    def image_tokens(self, style: Style) -> Expr | None:
        """Tokens of one image of the size that is asked for; None if ``G`` says so itself."""

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows ``(B, G, d)``, those of early layers behind, then what is unused."""


@dataclass(frozen=True)
class PatchTower:
    """The tower of the Qwen VL models: one image per sequence, of any size.

    ``G`` image tokens come from ``merge²·G`` patches, which see one another, or those
    of their window.

    Attributes:
        at, feed, norm: heads, feed-forward block and norms of the layers.
        layers: their number.
        channels, patch, frames: of a patch: channels, side, frames in time
            (None for still images).
        merge: side of the square of patches that becomes one token.
        out: width of the language model.
        bias: of the convolution that embeds patches.
        rows: rows of a position table that is interpolated, or None.
        places: rows of two tables, from which each patch takes one for its place across and
            one for its place down, or None.
        deepstack: layers, counted from zero, behind which further rows are taken.
        window: patches per window, or None for none.
        whole: layers that see everything where there are windows.
        front, back: norms in front of the layers and behind them, or None.
        steps: the projector where it is not Qwen's.
        around: norms stand behind the blocks of its layers too.
        most: tokens of one image, to which images of any size are scaled, or None.
        said: a further sentence that its counts rest on.
    """

    at: Heads
    feed: FeedForward
    norm: Norm
    layers: int
    channels: Expr
    patch: Expr
    frames: Expr | None
    merge: Expr
    out: Expr
    bias: bool = True
    rows: Expr | None = None
    deepstack: tuple[int, ...] = ()
    window: Expr | None = None
    whole: tuple[int, ...] = ()
    front: Norm | None = None
    back: Norm | None = None
    steps: Steps = ()
    places: Expr | None = None
    around: bool = False
    most: int | None = None
    said: str = ""

    @property
    def sense(self) -> str:
        """Name of the phase."""
        return "vision"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One image; full windows."""
        found: tuple[str, ...] = (
            "one image per sequence, of G tokens, which the prompt's S tokens include",
        )
        if self.window is not None:
            found += ("windows of the vision tower are full",)
        return (*found, self.said) if self.said else found

    @property
    def deep(self) -> int:
        """One early layer per place of deepstack."""
        return len(self.deepstack)

    def positions(self, style: Style) -> Expr:
        """Patches per sequence."""
        return self.merge**2 * G

    def image_tokens(self, style: Style) -> Expr | None:
        """Squares of patches: sides are rounded to whole ones, as the image processor does.

        Source: ``smart_resize`` of the published processors; its limits on the number of
        pixels stand in a file of their own and are not applied.
        """
        if style.image is None:
            return None
        if self.most is not None:
            return _within(self.most, *style.image)
        side = int(self.patch * self.merge)
        height, width = (max(1, round(int(n) / side)) for n in style.image)
        return Integer(height * width)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows, then those of early layers."""
        d, count = self.at.d, self.positions(m.style)
        taps: tuple[Expr, ...] = (self.patch, self.patch)
        if self.frames is not None:
            taps = (self.frames, *taps)
        x = picture(m, B * count, self.channels, taps, "patches")
        x = conv(m, "patch_embed", x, d, taps, taps, bias=self.bias)
        x = m.add("patch_rows", Reshape((B, count, d)), x)
        if self.rows is not None:
            table = m.weight("positions.weight", self.rows, d)
            table = m.add("position_resample", Interpolate(count), table)
            x = m.add("position_add", Add(), x, table)
        if self.places is not None:
            for axis in ("across", "down"):
                ids = m.source(Tensor(f"{axis}_ids", (B, count), INT64))
                table = m.weight(f"{axis}.weight", self.places, d)
                found = m.add(f"{axis}_embed", Embedding(result=m.style.acts), ids, table)
                x = m.add(f"{axis}_add", Add(), x, found)
        if self.front is not None:
            x = m.norm("front_norm", x, d, self.front)
        if self.window is not None:
            x = m.add("window_order", Rearrange((B, count, d)), x)
        deep: list[str] = []
        for index, segment in enumerate(self._segments(count), start=1):
            x = run(m, (segment,), x)
            if index <= self.deep:
                deep.append(self._merged(m, f"deep{index}", x, late=True))
        if self.back is not None:
            x = m.norm("final_norm", x, d, self.back)
        x = self._merged(m, "merger", x)
        if self.window is not None:
            x = m.add("image_order", Rearrange((B, G, self.out)), x)
        return (x, *deep)

    def _segments(self, count: Expr) -> tuple[Segment, ...]:
        layer = TowerLayer(B, count, self.at, self.feed, self.norm, around=self.around)
        if self.window is None:
            ends = (*(i + 1 for i in self.deepstack), self.layers)
            starts = (0, *ends[:-1])
            return tuple(
                Segment(f"vision_layers{n}", layer, Integer(end - start))
                for n, (start, end) in enumerate(zip(starts, ends, strict=True), start=1)
                if end > start
            )
        near = replace(layer, windows=count / self.window)
        # Each costs the same wherever it stands.
        kinds = (("whole_layers", layer) if i in self.whole else ("window_layers", near)
                 for i in range(self.layers))  # fmt: skip
        return gathered(kinds)

    def _merged(self, m: Maker, name: str, x: str, late: bool = False) -> str:
        """Squares of patches through the projector; those of early layers norm them whole."""
        beside, norm = Beside(self.merge**2), Normed(self.norm)
        wide = self.at.d * self.merge**2
        start: Steps = (beside, norm) if late else (norm, beside)
        own: Steps = (
            *start,
            Product("fc1", wide),
            Acted("gelu"),
            Product("fc2", self.out),
        )
        return project(m, name, x, self.steps or own)


@dataclass(frozen=True)
class FixedTower:
    """A tower over images of one size, and a projector.

    A class token is dropped. ``late`` says where the features are taken: in front of the
    last layer and the norm behind it, which run as well, as in the published code.

    Attributes:
        tower: over one image.
        steps: the projector.
        out: width of the language model.
        late: layers at the end that the features do not pass.
        normed: the features pass the tower's back norm.
        said: what its counts rest on.
        newline: a learned row ends the rows of an image's grid in the prompt.
    """

    tower: Tower
    steps: Steps
    out: Expr
    late: int = 0
    normed: bool = False
    newline: bool = False
    said: str = "G image tokens, which the prompt's S tokens include, are whole images"

    @property
    def sense(self) -> str:
        """Name of the phase."""
        return "vision"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images."""
        return (self.said,)

    @property
    def deep(self) -> int:
        """None."""
        return 0

    def image_tokens(self, style: Style) -> Expr | None:
        """None: there may be several images of one size."""
        return None

    def tokens(self, style: Style) -> Expr:
        """Image tokens of one image."""
        return self._kept(style) / tokens_for(self.steps)

    def _kept(self, style: Style) -> Expr:
        """Positions of one image that the projector sees: those without the class token."""
        return self.tower.positions(style) - self.tower.patches.first

    def positions(self, style: Style) -> Expr:
        """Positions of all images of a sequence."""
        return G / self.tokens(style) * self.tower.positions(style)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and projector: rows, and what is made and not used."""
        tower, d, count = self.tower, self.tower.at.d, self._kept(m.style)
        images, first = B * G / self.tokens(m.style), Integer(tower.patches.first)
        x = seen = replace(tower, layers=tower.layers - self.late).add(m, images)
        if self.normed and tower.back is not None:
            seen = m.norm("final_norm", x, d, tower.back)
        kept = m.add_many("without_class", Cut((first, count)), seen)[1] if first else seen
        rows = project(m, "projector", kept, self.steps)
        made = [m.add("image_rows", Reshape((B, G, self.out)), rows)]
        if self.newline:
            made.append(
                m.add("newline_row", Reshape((ONE, self.out)), m.vector("newline", self.out))
            )
        return (*made, *self._unused(m, x, seen, images))

    def _unused(self, m: Maker, x: str, seen: str, images: Expr) -> tuple[str, ...]:
        """Adds what runs behind the features although nothing reads it."""
        tower, start = self.tower, seen
        if self.late:
            layer = tower.layer(images, m.shape(x)[1])
            x = seen = run(m, (Segment("last_vision_layer", layer, Integer(self.late)),), x)
        if not self.normed and tower.back is not None:
            x = m.add("class_position", SelectLast(ONE), x) if tower.patches.first else x
            seen = m.norm("final_norm", x, tower.at.d, tower.back)
        if tower.head is not None:
            seen = tower.head.add(m, seen)
        return () if seen == start else (seen,)
