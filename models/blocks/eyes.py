"""Vision towers of multimodal models: from images to rows of the language model.

Each adds its graph over ``B`` sequences with ``G`` image tokens: the result is
``(B, G, d)``, and for some also rows that are added behind early decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, picture
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.pictures import Processor, Seen, Shown, Whole
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
from costgraph.ops.image import Cut, Interpolate, PackRows, Rearrange
from costgraph.ops.views import Beside as Joined
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

ONE = Integer(1)
#: What is said where an image has as many tokens as every other.
WHOLE = "G image tokens, which the prompt's S tokens include, are whole images"


def together(processor: Processor | None, shown: tuple[Shown, ...], who: str) -> Seen:
    """What a processor makes of everything that a request shows.

    Raises:
        InputError: there is no processor, or it refuses something.
    """
    if processor is None:
        raise InputError(
            f"{who}: how its image processor cuts pictures is not known here: say how many image "
            "tokens there are (G)"
        )
    try:
        found = [processor.seen(x) for x in shown]
    except InputError as error:
        raise InputError(f"{who}: {error}") from None
    rows, pieces, marks, mixed = (
        sum(getattr(x, name) for x in found) for name in ("rows", "pieces", "marks", "mixed")
    )
    sizes = {x.scaled for x in found}
    scaled = sizes.pop() if len(sizes) == 1 else None
    return Seen(rows, pieces, marks, mixed, scaled, processor.said)


class Eyes(Protocol):
    """What makes rows of the language model from images, or from sound."""

    @property
    def sense(self) -> str:
        """Name of its phase: ``vision``, or ``audio`` where it hears."""
        return "vision"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that its counts rest on."""

    @property
    def deep(self) -> int:
        """How many early decoder layers get further rows."""
        return 0

    def positions(self, style: Style) -> Expr:
        """Positions of the tower per sequence."""

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[Eyes, Seen]:
        """The same for what a request shows, and how many tokens that makes.

        Raises:
            InputError: the model called ``name`` does not see such things.
        """

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows ``(B, G, d)``, those of early layers behind, then what is unused."""


class Hearing(Eyes, Protocol):
    """What makes rows of the language model from sound."""

    @property
    def sense(self) -> str:
        """Name of the phase."""
        return "audio"

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[Eyes, Seen]:
        """Refused: there are no images."""
        raise InputError(f"{name}: it hears, and sees nothing")


@dataclass(frozen=True)
class PatchTower(Eyes):
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
        processor: what is made of pictures of a size, or None where that is not known.
        images: pictures, or steps of a video, of a sequence: each sees itself alone.
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
    processor: Processor | None = None
    images: int = 1
    said: str = ""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One image; full windows."""
        many = "one image" if self.images == 1 else f"{self.images} images of one size"
        found: tuple[str, ...] = (
            f"{many} per sequence, of G tokens, which the prompt's S tokens include",
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

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[PatchTower, Seen]:
        """Pictures of one size, or steps of one video."""
        seen = together(self.processor, shown, name)
        if seen.scaled is None and len(shown) > 1:
            raise InputError(f"{name}: pictures of one size are counted; say G of others")
        return replace(self, images=seen.pieces), seen

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows, then those of early layers."""
        d, count = self.at.d, self.positions(m.style) / self.images
        batch = B * self.images
        taps: tuple[Expr, ...] = (self.patch, self.patch)
        if self.frames is not None:
            taps = (self.frames, *taps)
        x = picture(m, batch * count, self.channels, taps, "patches")
        x = conv(m, "patch_embed", x, d, taps, taps, bias=self.bias)
        x = m.add("patch_rows", Reshape((batch, count, d)), x)
        if self.rows is not None:
            table = m.weight("positions.weight", self.rows, d)
            table = m.add("position_resample", Interpolate(count), table)
            x = m.add("position_add", Add(), x, table)
        if self.places is not None:
            x = placed(m, x, self.places)
        if self.front is not None:
            x = m.norm("front_norm", x, d, self.front)
        if self.window is not None:
            x = m.add("window_order", Rearrange((batch, count, d)), x)
        deep: list[str] = []
        for index, segment in enumerate(self._segments(count), start=1):
            x = run(m, (segment,), x)
            if index <= self.deep:
                rows = self._merged(m, f"deep{index}", x, late=True)
                deep.append(self._joined(m, f"deep{index}", rows))
        if self.back is not None:
            x = m.norm("final_norm", x, d, self.back)
        x = self._merged(m, "merger", x)
        if self.window is not None:
            x = m.add("image_order", Rearrange((B, G, self.out)), x)
        else:
            x = self._joined(m, "image", x)
        return (x, *deep)

    def _joined(self, m: Maker, name: str, x: str) -> str:
        """Rows of all images of a sequence, one behind the other."""
        return x if self.images == 1 else m.add(f"{name}_all", Reshape((B, G, self.out)), x)

    def _segments(self, count: Expr) -> tuple[Segment, ...]:
        batch = B * self.images
        layer = TowerLayer(batch, count, self.at, self.feed, self.norm, around=self.around)
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
class FixedTower(Eyes):
    """A tower over images of one size, and a projector.

    A class token is dropped, unless ``classed``. ``late`` says where the features are taken: in
    front of the last layer and the norm behind it, which run as well, as in the published code.

    Attributes:
        tower: over one image.
        steps: the projector.
        out: width of the language model.
        late: layers at the end that the features do not pass.
        normed: the features pass the tower's back norm.
        said: what its counts rest on.
        newline: a learned row ends the rows of an image's grid in the prompt.
        processor: what is made of pictures of a size, or None where that is not known.
        shown: what a request shows, where that is known.
        classed: the projector sees the class token, too.
        taps: features are those behind each of so many layers, side by side; () for the last
            alone.
    """

    tower: Tower
    steps: Steps
    out: Expr
    late: int = 0
    normed: bool = False
    newline: bool = False
    processor: Processor | None = None
    shown: Seen | None = None
    said: str = WHOLE
    classed: bool = False
    taps: tuple[int, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images."""
        return (self.said,)

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[FixedTower, Seen]:
        """Any pictures: each is whole images, or tiles, of the tower's size."""
        seen = together(self.processor, shown, name)
        return replace(self, shown=seen), seen

    @property
    def whole(self) -> FixedTower:
        """The tower where every picture is scaled to its size."""
        return replace(self, processor=Whole(int(self.tokens(Style()))))

    def tokens(self, style: Style) -> Expr:
        """Image tokens of one image."""
        return self._kept(style) / tokens_for(self.steps)

    def _kept(self, style: Style) -> Expr:
        """Positions of one image that the projector sees."""
        return self.tower.positions(style) - self._dropped

    @property
    def _dropped(self) -> Expr:
        """Positions in front that the projector does not see."""
        return Integer(0) if self.classed else self.tower.patches.lead

    def positions(self, style: Style) -> Expr:
        """Positions of all images of a sequence."""
        return self._images(style) * self.tower.positions(style)

    def _images(self, style: Style) -> Expr:
        """Images, or tiles, of a sequence."""
        return G / self.tokens(style) if self.shown is None else Integer(self.shown.pieces)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and projector: rows, and what is made and not used."""
        tower, d, count = self.tower, self.tower.at.d, self._kept(m.style)
        images, first = B * self._images(m.style), self._dropped
        x = seen = replace(tower, layers=self._first).add(m, images)
        if self.taps:
            x, seen = self._tapped(m, x, images)
        if self.normed and tower.back is not None:
            seen = m.norm("final_norm", x, d, tower.back)
        kept = m.add_many("without_class", Cut((first, count)), seen)[1] if first else seen
        rows = project(m, "projector", kept, self.steps)
        made = [self._packed(m, rows)]
        if self.newline:
            made.append(
                m.add("newline_row", Reshape((ONE, self.out)), m.vector("newline", self.out))
            )
        return (*made, *self._unused(m, x, seen, images))

    @property
    def _first(self) -> Expr:
        """Layers that run in front of the first features."""
        return Integer(min(self.taps)) if self.taps else self.tower.layers - self.late

    def _tapped(self, m: Maker, x: str, images: Expr) -> tuple[str, str]:
        """Adds the layers up to the last features: the hidden state, and all features."""
        layer, ends = self.tower.layer(images, m.shape(x)[1]), sorted(set(self.taps))
        found = {ends[0]: x}
        for start, end in pairwise(ends):
            segment = Segment(f"vision_layers{end}", layer, Integer(end - start))
            found[end] = x = run(m, (segment,), x)
        return x, m.add("features", Joined(2), *(found[tap] for tap in self.taps))

    def _packed(self, m: Maker, rows: str) -> str:
        """Rows of all images of a sequence; where lines end in a row, in the order of the grid."""
        if self.shown is None:
            return m.add("image_rows", Reshape((B, G, self.out)), rows)
        count = Integer(self.shown.rows)
        joined = (B, self._images(m.style) * self.tokens(m.style), self.out)
        x = m.add("tile_rows", Reshape(joined), rows)
        if not self.newline:
            return x
        return m.add("image_rows", PackRows(count, Integer(self.shown.mixed)), x)

    def _unused(self, m: Maker, x: str, seen: str, images: Expr) -> tuple[str, ...]:
        """Adds what runs behind the features although nothing reads it."""
        tower, start = self.tower, seen
        if self.late:
            layer = tower.layer(images, m.shape(x)[1])
            x = seen = run(m, (Segment("last_vision_layer", layer, Integer(self.late)),), x)
        if not self.normed and tower.back is not None:
            x = m.add("class_position", SelectLast(ONE), x) if tower.patches.lead else x
            seen = m.norm("final_norm", x, tower.at.d, tower.back)
        if tower.head is not None:
            seen = tower.head.add(m, seen)
        return () if seen == start else (seen,)


@dataclass(frozen=True)
class FlatEyes(Eyes):
    """No tower: a product turns each patch of an image into a row, which may pass further steps.

    Attributes:
        channels, patch: of a patch: channels and side.
        out: width of the language model.
        before: norm of a patch in front of the product, or None.
        width: what the product makes, where that is not ``out``.
        behind: norm behind the product, or None.
        places: rows of two tables, from which each patch takes one for its place across and
            one for its place down, or None.
        steps: what follows.
        processor: what is made of pictures of a size, or None where that is not known.
        said: what its counts rest on.
    """

    channels: Expr
    patch: Expr
    out: Expr
    before: Norm | None = None
    width: Expr | None = None
    behind: Norm | None = None
    places: Expr | None = None
    steps: Steps = ()
    processor: Processor | None = None
    said: str = "G patches of images are tokens of the prompt's S; ends of lines are none of them"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Patches alone."""
        return (self.said,)

    def positions(self, style: Style) -> Expr:
        """Patches per sequence."""
        return G

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[FlatEyes, Seen]:
        """The same: a patch sees itself alone."""
        return self, together(self.processor, shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the product: rows ``(B, G, d)``."""
        wide, d = self.channels * self.patch**2, self.out if self.width is None else self.width
        x = m.source(Tensor("patches", (B, G, wide), m.style.acts))
        if self.before is not None:
            x = m.norm("patch_norm", x, wide, self.before)
        x = m.linear("patch_proj", x, d, wide, True)
        if self.behind is not None:
            x = m.norm("row_norm", x, d, self.behind)
        if self.places is not None:
            x = placed(m, x, self.places)
        return (project(m, "projector", x, self.steps),)


def placed(m: Maker, x: str, rows: Expr) -> str:
    """Adds to each patch of ``x (batch, n, d)`` rows for its place across and down."""
    batch, count, d = m.shape(x)
    for axis in ("across", "down"):
        ids = m.source(Tensor(f"{axis}_ids", (batch, count), INT64))
        table = m.weight(f"{axis}.weight", rows, d)
        found = m.add(f"{axis}_embed", Embedding(result=m.style.acts), ids, table)
        x = m.add(f"{axis}_add", Add(), x, found)
    return x


@dataclass(frozen=True)
class FlatEars(Hearing):
    """No encoder: each piece of a sound, ``samples`` wide, is a row behind ``steps``.

    Attributes:
        samples: of a piece.
        steps: what makes rows of pieces.
    """

    samples: Expr
    steps: Steps

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Pieces."""
        return (f"G pieces of {self.samples} samples are tokens of the prompt's S",)

    def positions(self, style: Style) -> Expr:
        """Pieces per sequence."""
        return G

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the steps: rows ``(B, G, d)``."""
        x = m.source(Tensor("pieces", (B, G, self.samples), m.style.acts))
        return (project(m, "projector", x, self.steps),)
