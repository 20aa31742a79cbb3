"""Ears that are convolutions alone: VibeVoice's tokenizers in front of a language model."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.eyes import Hearing
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.projector import Steps, project
from costgraph.models.blocks.stack import run
from costgraph.models.waves import as_channels
from costgraph.ops import Add, AsSequence, Multiply
from costgraph.ops.maps import Map
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class MixedRows:
    """A ConvNeXt layer over rows: a convolution of each channel, a feed-forward block.

    Both stand behind norms, and what they make is multiplied by a vector before it is added.

    Attributes:
        length: rows of a sequence.
        feed: the feed-forward block, whose ``d`` is the width of a row.
        kernel: taps, an odd number: a row and those before it.
    """

    length: Expr
    feed: FeedForward
    kernel: int

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m, d = Maker("layer", style), self.feed.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        y = as_channels(m, "conv_channels", m.norm("conv_norm", x, d, Norm()))
        # Padding stands in front alone; as many results as with half of it at either end.
        y = conv(m, "conv", y, d, self.kernel, 1, (self.kernel - 1) // 2, d)
        y = m.add("conv_rows", AsSequence(), y)
        y = m.add("conv_scale", Multiply(), y, m.vector("conv_scale.weight", d))
        x = m.add("conv_add", Add(), y, x)
        y = self.feed.add(m, m.norm("mlp_norm", x, d, Norm()))
        y = m.add("mlp_scale", Multiply(), y, m.vector("mlp_scale.weight", d))
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class ConvEars:
    """Layers of convolutions that shorten a sound, stage by stage, into rows.

    Attributes:
        name: in front of the names of its parts.
        channels: of a sample.
        first: channels of the first stage; each further one has twice as many.
        ratios: how far each stage behind the first shortens.
        depths: layers of each stage.
        kernel: taps of all convolutions that do not shorten, an odd number.
        wider: by how much the feed-forward blocks are wider than rows.
        activation: of those.
        out: width of the rows that it makes.
    """

    name: str
    channels: int
    first: int
    ratios: tuple[int, ...]
    depths: tuple[int, ...]
    kernel: int
    wider: int
    activation: str
    out: int

    @property
    def hop(self) -> int:
        """Samples of a row."""
        total = 1
        for ratio in self.ratios:
            total *= ratio
        return total

    def add(self, m: Maker, samples: str) -> str:
        """Adds it; ``samples (B, channels, hop·n)`` to rows ``(B, n, out)``."""
        x, half, wide = samples, (self.kernel - 1) // 2, self.first
        x = conv(m, f"{self.name}_stem", x, Integer(wide), self.kernel, 1, half)
        x = self._stage(m, 0, x, wide)
        for index, ratio in enumerate(self.ratios, start=1):
            wide *= 2
            x = as_channels(m, f"{self.name}_channels{index}", x)
            # Padding of one stride in front of kernels of two: a result for each stride.
            x = conv(
                m, f"{self.name}_down{index}", x, Integer(wide), 2 * ratio, ratio, (ratio + 1) // 2
            )
            x = self._stage(m, index, x, wide)
        x = as_channels(m, f"{self.name}_head_channels", x)
        x = conv(m, f"{self.name}_head", x, Integer(self.out), self.kernel, 1, half)
        return m.add(f"{self.name}_latents", AsSequence(), x)

    def _stage(self, m: Maker, index: int, x: str, wide: int) -> str:
        x = m.add(f"{self.name}_rows{index}", AsSequence(), x)
        feed = FeedForward(
            Integer(wide), Integer(self.wider * wide), self.activation, gated=False, bias=True
        )
        layer = MixedRows(m.shape(x)[1], feed, self.kernel)
        return run(
            m, (Segment(f"{self.name}_layers{index}", layer, Integer(self.depths[index])),), x
        )


@dataclass(frozen=True)
class TwoEars(Hearing):
    """Two such ears over one sound: what is heard, with noise, and what is meant.

    Attributes:
        heard, meant: the ears.
        steps: what makes rows of the language model of each; they are summed.
        out: width of the language model.
        chunk: samples that the class passes at once.
    """

    heard: ConvEars
    meant: ConvEars
    steps: Steps
    out: Expr
    chunk: int

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One sound, in one piece."""
        return (
            f"G audio tokens, which the prompt's S tokens include, are one sound per sequence, of "
            f"{self.heard.hop} samples each, which passes the encoders whole: the class passes "
            f"{self.chunk} samples at a time, with the same products",
        )

    def positions(self, style: Style) -> Expr:
        """Rows of a sequence."""
        return G

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds both: rows ``(B, G, d)``."""
        shape = (B, Integer(self.heard.channels), self.heard.hop * G)
        samples = m.source(Tensor("samples", shape, m.style.acts))
        x = self.heard.add(m, samples)
        noise = m.source(Tensor("noise", m.shape(x), m.style.acts))
        how = m.source(Tensor("noise_scale", (B, ONE, ONE), m.style.acts))
        x = m.add("noise_add", Add(), x, m.add("noise_mul", Map("mul"), noise, how))
        x = project(m, "heard_projector", x, self.steps)
        y = project(m, "meant_projector", self.meant.add(m, samples), self.steps)
        return (m.add("audio_rows", Add(), x, y),)
