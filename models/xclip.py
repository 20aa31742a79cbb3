"""X-CLIP (Ni et al., arXiv 2208.02816): CLIP over the frames of a video, which tell one another."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.vision import TwoTowers
from costgraph.ops import Add, Multiply
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Transpose
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class TellingLayer:
    """A layer over frames, whose class tokens send messages to one another in front.

    Attributes:
        frames, length: of a video, and positions of each.
        at, feed: of the layer; messages have heads of the same sizes.
    """

    frames: Expr
    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows of all frames in, and out."""
        m, d, at = Maker("layer", style), self.at.d, self.at
        rows = B * self.frames
        x = m.source(Tensor("hidden", (rows, self.length, d), style.acts))
        first = m.add_many("lead", Cut((ONE, self.length - 1)), x)[0]
        first = m.linear("message_fc", first, d, d, True)
        told = m.add("messages", Reshape((B, self.frames, d)), first)
        y = m.norm("message_norm", told, d, LAYER_NORM)
        query, key, value = (at.project(m, part, y, "message_") for part in "qkv")
        y = at.out(m, attended(m, query, key, value, FULL, prefix="message_"), "message_")
        told = m.add("message_add", Add(), y, told)
        told = m.add("message_rows", Reshape((rows, ONE, d)), told)
        every = m.add("with_message", Join(1), x, told)
        y = m.norm("attn_norm", every, d, LAYER_NORM)
        query, key, value = (at.project(m, part, y) for part in "qkv")
        y = at.out(m, attended(m, query, key, value, FULL))
        x = m.add("attn_add", Add(), y, every)
        x = m.add_many("without_message", Cut((self.length, ONE)), x)[0]
        y = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class XClip(TwoTowers):
    """``B`` videos against ``B`` texts of ``S`` tokens, each text seen with each video.

    Attributes:
        frames: of a video.
        joint: a layer over the frames' vectors; ``joints``: their number.
        prompt: heads of texts that look at a video; ``spoken``: the feed-forward block behind;
            ``prompts``: layers of both.
    """

    frames: int
    joint: TowerLayer
    joints: Expr
    prompt: Heads
    spoken: FeedForward
    prompts: int

    def graph(self, name: str, style: Style) -> Graph:
        m, tower, d = Maker(name, style), self.tower, self.tower.at.d
        frames, wide = Integer(self.frames), self.width
        x = picture(m, B * frames, tower.patches.channels, style.image or tower.size, "frames")
        x = m.norm("front_norm", tower.patches.add(m, x), d, LAYER_NORM)
        length = m.shape(x)[1]
        layer = TellingLayer(frames, length, tower.at, tower.feed)
        x = run(m, (Segment("vision_layers", layer, tower.layers),), x)
        first, rest = m.add_many("parts", Cut((ONE, length - 1)), x)
        first = m.norm("vision_norm", first, d, LAYER_NORM)
        first = m.linear("image_proj", first, wide, d)
        first = m.add("frame_rows", Reshape((B, frames, wide)), first)
        places = m.weight("frames.weight", frames, wide)
        y = m.add("frame_places", Add(), first, places)
        y = run(m, (Segment("joint_layers", self.joint, self.joints),), y)
        y = m.add("joint_mean", Reduce("mean", (1,)), m.add("joint_add", Add(), y, first))
        rest = m.norm("prompt_image_norm", rest, d, LAYER_NORM)
        rest = m.linear("prompt_image_proj", rest, wide, d)
        rest = m.add("rest_frames", Reshape((B, frames, length - 1, wide)), rest)
        rest = m.add("rest_mean", Reduce("mean", (1,)), rest)
        _, end = self.text.add(m)
        words = m.linear("text_proj", end, wide, self.text.text.d)
        words = m.add("each_text", Expand((B, B, wide)), words)
        words = m.add("prompted", Add(), words, self._prompted(m, words, rest))
        unit = Norm("rms", weight=False)
        words, y = m.norm("text_unit", words, wide, unit), m.norm("image_unit", y, wide, unit)
        words = m.add("text_scale", Map("mul"), words, m.vector("logit_scale", ONE))
        turned = m.add("text_columns", Transpose((0, 2, 1)), words)
        y = m.add("image_row", Reshape((B, ONE, wide)), y)
        return m.build(m.add("logits", Reshape((B, B)), m.add("similarity", MatMul(), y, turned)))

    def _prompted(self, m: Maker, words: str, seen: str) -> str:
        """Adds what texts become by looking at a video."""
        at, d = self.prompt, self.width
        seen = m.norm("prompt_norm", seen, d, LAYER_NORM)
        for index in range(self.prompts):
            name = f"prompt{index}_"
            y = m.norm(f"{name}attn_norm", words, d, LAYER_NORM)
            query = at.project(m, "q", y, name)
            key, value = (at.project(m, part, seen, name) for part in "kv")
            y = at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
            words = m.add(f"{name}attn_add", Add(), y, words)
            y = self.spoken.add(m, m.norm(f"{name}mlp_norm", words, d, LAYER_NORM), name)
            words = m.add(f"{name}mlp_add", Add(), y, words)
        return m.add("prompt_scale", Multiply(), words, m.vector("prompt.alpha", d))
