"""Vision towers of multimodal models: from images to rows of the language model.

Each adds its graph over ``B`` sequences with ``G`` image tokens: the result is
``(B, G, d)``, and for some also rows that are added behind early decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from sympy import Expr, Integer

from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, picture
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.vision import Tower
from costgraph.ops import Activation, Add, SelectLast
from costgraph.ops.image import Cut, Interpolate, Rearrange
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

ONE = Integer(1)


class Eyes(Protocol):
    """What makes rows of the language model from images."""

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
        channels, patch, frames: of a patch: channels, side, frames in time.
        merge: side of the square of patches that becomes one token.
        out: width of the language model.
        bias: of the convolution that embeds patches.
        rows: rows of a position table that is interpolated, or None.
        deepstack: layers, counted from zero, behind which further rows are taken.
        window: patches per window, or None for none.
        whole: layers that see everything where there are windows.
    """

    at: Heads
    feed: FeedForward
    norm: Norm
    layers: int
    channels: Expr
    patch: Expr
    frames: Expr
    merge: Expr
    out: Expr
    bias: bool = True
    rows: Expr | None = None
    deepstack: tuple[int, ...] = ()
    window: Expr | None = None
    whole: tuple[int, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One image; full windows."""
        found: tuple[str, ...] = (
            "one image per sequence, of G tokens, which the prompt's S tokens include",
        )
        if self.window is not None:
            found += ("windows of the vision tower are full",)
        return found

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
        side = int(self.patch * self.merge)
        height, width = (max(1, round(int(n) / side)) for n in style.image)
        return Integer(height * width)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the tower: rows, then those of early layers."""
        d, count = self.at.d, self.positions(m.style)
        taps = (self.frames, self.patch, self.patch)
        x = picture(m, B * count, self.channels, taps, "patches")
        x = conv(m, "patch_embed", x, d, taps, taps, bias=self.bias)
        x = m.add("patch_rows", Reshape((B, count, d)), x)
        if self.rows is not None:
            table = m.weight("positions.weight", self.rows, d)
            table = m.add("position_resample", Interpolate(count), table)
            x = m.add("position_add", Add(), x, table)
        if self.window is not None:
            x = m.add("window_order", Rearrange((B, count, d)), x)
        deep: list[str] = []
        for index, segment in enumerate(self._segments(count), start=1):
            x = run(m, (segment,), x)
            if index <= self.deep:
                deep.append(self._merged(m, f"deep{index}", x, late=True))
        x = self._merged(m, "merger", x)
        if self.window is not None:
            x = m.add("image_order", Rearrange((B, G, self.out)), x)
        return (x, *deep)

    def _segments(self, count: Expr) -> tuple[Segment, ...]:
        layer = TowerLayer(B, count, self.at, self.feed, self.norm)
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
        """A square of patches side by side, through two products; normed before or after."""
        d, wide = self.at.d, self.at.d * self.merge**2
        if not late:
            x = m.norm(f"{name}_norm", x, d, self.norm)
        x = m.add(f"{name}_rows", Reshape((B, G, wide)), x)
        if late:
            x = m.norm(f"{name}_norm", x, wide, self.norm)
        x = m.linear(f"{name}_fc1", x, wide, wide, True)
        x = m.add(f"{name}_act", Activation("gelu"), x)
        return m.linear(f"{name}_fc2", x, self.out, wide, True)


@dataclass(frozen=True)
class FixedTower:
    """LLaVA's eyes: CLIP's tower over images of one size, and a projector of two products.

    The class token is dropped. The features are those in front of the last layer; the
    last layer and the norm of its class token run as well, as in the published code.

    Attributes:
        tower: CLIP's.
        out: width of the language model.
        activation: of the projector.
        bias: of the projector.
    """

    tower: Tower
    out: Expr
    activation: str = "gelu"
    bias: bool = True

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images."""
        return ("G image tokens, which the prompt's S tokens include, are whole images",)

    @property
    def deep(self) -> int:
        """None."""
        return 0

    def image_tokens(self, style: Style) -> Expr | None:
        """None: there may be several images of one size."""
        return None

    def tokens(self, style: Style) -> Expr:
        """Image tokens of one image."""
        return self.tower.positions(style) - 1

    def positions(self, style: Style) -> Expr:
        """Positions of all images of a sequence."""
        return G / self.tokens(style) * self.tower.positions(style)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and projector: rows, and the unused class token."""
        d, count = self.tower.at.d, self.tokens(m.style)
        images = B * G / count
        x = replace(self.tower, layers=self.tower.layers - 1).add(m, images)
        kept = m.add_many("without_class", Cut((ONE, count)), x)[1]
        kept = m.add("image_rows", Reshape((B, G, d)), kept)
        kept = m.linear("projector_1", kept, self.out, d, self.bias)
        kept = m.add("projector_act", Activation(self.activation), kept)
        kept = m.linear("projector_2", kept, self.out, self.out, self.bias)
        layer = TowerLayer(images, m.shape(x)[1], self.tower.at, self.tower.feed)
        x = run(m, (Segment("last_vision_layer", layer, ONE),), x)
        x = m.add("class_position", SelectLast(ONE), x)
        return kept, m.norm("final_norm", x, d, LAYER_NORM)
