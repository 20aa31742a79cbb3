"""Speech that is spoken step by step (SpeechT5, arXiv 2110.07205)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm, Segment, Style
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import EncoderDecoder, TextFront
from costgraph.ops import Activation, Add, Concat, Scale, SelectLast
from costgraph.ops.maps import Map
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, q

ONE = Integer(1)


def placed(m: Maker, x: str) -> str:
    """Adds sines of positions, by one learned factor, to ``x (B, q, d)``."""
    rows = m.source(Tensor("position_rows", m.shape(x)[1:], m.style.acts))
    rows = m.add("position_scale", Map("mul"), rows, m.vector("position.alpha", ONE))
    return m.add("position_add", Add(), x, rows)


@dataclass(frozen=True)
class PlacedText(TextFront):
    """Token embeddings, sines of positions by one learned factor, and a norm."""

    def add(self, m: Maker) -> tuple[str, str]:
        hidden, table = super().add(m)
        return m.norm("placed_norm", placed(m, hidden), self.ends.d, LAYER_NORM), table


@dataclass(frozen=True)
class Frames:
    """What a decoder reads of the last frame: products, of which numbers are dropped at random.

    Attributes:
        mels, units, layers: bands of a frame, widths of the products, and their number.
        speaker: width of a speaker's vector.
        d: of the decoder.
    """

    mels: Expr
    units: Expr
    layers: int
    speaker: Expr
    d: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds it over ``q`` frames: (hidden state, no table)."""
        x = m.source(Tensor("frames", (B, q, self.mels), m.style.acts))
        for index in range(self.layers):
            name = f"pre{index}"
            x = m.linear(name, x, self.units, m.shape(x)[2], True)
            x = m.add(f"{name}_act", Activation("relu"), x)
            kept = m.source(Tensor(f"{name}_kept", (q, self.units), m.style.acts))
            x = m.add(f"{name}_drop", Scale(), m.add(f"{name}_mask", Map("where"), x, kept))
        x = placed(m, m.linear("pre_last", x, self.d, m.shape(x)[2], True))
        voice = m.source(Tensor("speaker", (B, self.speaker), m.style.acts))
        voice = m.norm("speaker_unit", voice, self.speaker, Norm("rms", weight=False))
        voice = m.add("speaker_row", Reshape((B, ONE, self.speaker)), voice)
        voice = m.add("speaker_rows", Expand((B, q, self.speaker)), voice)
        x = m.add("beside_speaker", Concat(), x, voice)
        x = m.linear("speaker_proj", x, self.d, self.d + self.speaker, True)
        return m.add("speaker_act", Activation("relu"), x), ""


@dataclass(frozen=True)
class Speaking(EncoderDecoder):
    """A text, and a decoder whose steps make frames of a sound.

    Attributes:
        mels, step: bands of a frame, and frames of a step.
        resting: numbers of weights that refine frames behind the last step.
    """

    mels: int = 80
    step: int = 2
    resting: int = 0

    def graph(self, name: str, style: Style) -> Graph:
        """The decoder's step graph over ``B``, ``q``, ``T`` and ``S``."""
        m, d = Maker(name, style), self.ends.d
        m.vector("refining.rows", Integer(self.resting))
        assert self.front is not None
        x, _ = self.front.add(m)
        x = run(m, (Segment("decoder", self.layer, self.layers),), x)
        count = ONE if style.logits == "last" else q
        x = m.add("last_position", SelectLast(count), x)
        frames = m.linear("frame", x, Integer(self.mels * self.step), d, True)
        ends = m.linear("end", x, Integer(self.step), d, True)
        return m.build(frames, m.add("end_bent", Activation("sigmoid"), ends))
