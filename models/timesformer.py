"""TimeSformer (Bertasius et al., arXiv 2102.05095): attention over time, then over space."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches, picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass, Size
from costgraph.ops import Add, Split
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut, Rearrange
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class DividedLayer:
    """A layer over ``(B, 1 + patches · frames, d)``, the class token in front.

    Each patch attends to itself in all frames, then each frame's patches, and the class token
    beside them, attend to one another; what the class token finds is the mean over frames.
    """

    at: Heads
    feed: FeedForward
    frames: Expr
    patches: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in, hidden state out."""
        m, d = Maker("layer", style), self.at.d
        count, rows = self.frames, self.patches * self.frames
        x = m.source(Tensor("hidden", (B, 1 + rows, d), style.acts))
        first, rest = m.add_many("parts", Cut((ONE, rows)), x)
        y = m.add("over_time", Reshape((B * self.patches, count, d)), rest)
        y = self._attention(m, "time", m.norm("time_norm", y, d, LAYER_NORM))
        y = m.add("all_frames", Reshape((B, rows, d)), y)
        rest = m.add("time_add", Add(), m.linear("time_dense", y, d, d, True), rest)
        y = m.add("over_space", Rearrange((B * count, self.patches, d)), rest)
        token = m.add("token", Reshape((B, ONE, ONE, d)), first)
        token = m.add("token_rows", Expand((B, count, ONE, d)), token)
        token = m.add("token_each", Reshape((B * count, ONE, d)), token)
        y = m.norm("space_norm", m.add("space", Join(1), token, y), d, LAYER_NORM)
        y = self._attention(m, "space", y)
        token, y = m.add_many("space_parts", Cut((ONE, self.patches)), y)
        token = m.add("token_frames", Reshape((B, count, d)), token)
        token = m.add("token_mean", Reduce("mean", (1,), keep=True), token)
        y = m.add("space_rows", Rearrange((B, rows, d)), y)
        made = m.add("made", Join(1), token, y)
        x = m.add("space_add", Add(), m.add("with_time", Join(1), first, rest), made)
        fed = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), fed, x))

    def _attention(self, m: Maker, name: str, x: str) -> str:
        """Adds attention of all rows of ``x`` to one another."""
        at, split = self.at, (self.at.heads, self.at.head_dim)
        packed = m.linear(f"{name}_qkv_proj", x, 3 * at.width, at.d, at.qv_bias)
        query, key, value = m.add_many(f"{name}_qkv_split", Split((split,) * 3), packed)
        mixed = attended(m, query, key, value, FULL, prefix=f"{name}_")
        return at.out(m, mixed, f"{name}_")


@dataclass(frozen=True)
class TimeSformer(OnePass):
    """A video classifier whose layers attend over time and space in turn.

    Attributes:
        patches: of each frame, with positions and the class token.
        at, feed: heads of both attentions, feed-forward block.
        layers: their number.
        frames, size: of a video.
        classes: to tell apart, or None.
    """

    patches: Patches
    at: Heads
    feed: FeedForward
    layers: Expr
    frames: Expr
    size: Size
    classes: Expr | None

    def positions(self, style: Style) -> Expr:
        """All patches of all frames, and the class token."""
        return 1 + self.frames * (self.patches.count(style.image or self.size) - 1)

    def graph(self, name: str, style: Style) -> Graph:
        m, d, count = Maker(name, style), self.at.d, self.frames
        shown = style.image or self.size
        x = picture(m, B * count, self.patches.channels, shown, "frames")
        x = self.patches.add(m, x)
        places = m.shape(x)[1] - 1
        token, rest = m.add_many("frame_parts", Cut((ONE, places)), x)
        token = m.add("first_token", Slice(0, length=B), token)
        rest = m.add("by_patch", Rearrange((B * places, count, d)), rest)
        rest = m.add("time_add", Add(), rest, m.weight("times.weight", count, d))
        x = m.add("video", Join(1), token, m.add("rows", Reshape((B, places * count, d)), rest))
        layer = DividedLayer(self.at, self.feed, count, places)
        x = run(m, (Segment("layers", layer, self.layers),), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        if self.classes is None:
            return m.build(x)
        first = m.add("class_position", Slice(1), x)
        first = m.add("class_vector", Reshape((B, d)), first)
        return m.build(m.linear("classifier", first, self.classes, d, True))
