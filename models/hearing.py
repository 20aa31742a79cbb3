"""Ears of language models: Whisper's encoder over clips of one length, and a projector.

``G`` audio tokens of a prompt are whole clips, or pieces of one sound that the encoder cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer

from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Hearing
from costgraph.models.blocks.image import act, conv, picture
from costgraph.models.blocks.projector import Steps, project, tokens_for
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import TowerLayer
from costgraph.models.encoder import fixed_positions
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, G

ONE = Integer(1)


class Front(Protocol):
    """What makes the first rows of an encoder from spectrograms."""

    def add(self, m: Maker, batch: Expr, length: Expr) -> tuple[str, str]:
        """Adds it over ``batch`` sounds of ``length`` positions: (hidden state, no table)."""


@dataclass(frozen=True)
class ShrunkFront:
    """Three convolutions that halve both axes of a spectrogram, a product, fixed positions.

    Attributes:
        d: width of the encoder.
        mels, frames: bands and frames of a piece, which become ``length`` positions.
        channels: of the convolutions.
    """

    d: Expr
    mels: int
    frames: int
    channels: Expr

    @property
    def length(self) -> int:
        """Positions of a piece."""
        return -(-self.frames // 8)

    def add(self, m: Maker, batch: Expr, length: Expr) -> tuple[str, str]:
        """Adds the front over ``batch`` pieces: (hidden state, no table)."""
        size = (Integer(self.mels), Integer(self.frames))
        x = picture(m, batch, Integer(1), size, "spectrogram")
        for index in (1, 2, 3):
            x = conv(m, f"conv{index}", x, self.channels, 3, 2, 1)
            x = act(m, f"conv{index}_act", x, "gelu")
        wide = self.channels * m.shape(x)[2]
        x = m.add("frames", Transpose((0, 3, 1, 2)), x)
        x = m.add("flat_frames", Reshape((batch, length, wide)), x)
        return fixed_positions(m, m.linear("front_proj", x, self.d, wide)), ""


@dataclass(frozen=True)
class Ears(Hearing):
    """An audio encoder in front of a language model.

    Attributes:
        front: convolutions over a spectrogram.
        at, feed, layers: of the encoder.
        length: positions of a clip, or of a piece.
        steps: what follows the layers, the encoder's last norm among it.
        out: width of the language model.
        near: pieces of one sound that see one another, or None for clips apart.
    """

    front: Front
    at: Heads
    feed: FeedForward
    layers: Expr
    length: Expr
    steps: Steps
    out: Expr
    near: Expr | None = None

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole clips, or full windows of pieces."""
        if self.near is not None:
            return (
                "G audio tokens, which the prompt's S tokens include, are one sound per sequence; "
                f"its windows of {self.tokens * self.near} tokens are full",
            )
        return (
            f"G audio tokens, which the prompt's S tokens include, are whole clips of "
            f"{self.tokens} tokens",
        )

    @property
    def tokens(self) -> Expr:
        """Audio tokens of one clip."""
        return self.length / tokens_for(self.steps)

    def positions(self, style: Style) -> Expr:
        """Positions of all clips of a sequence."""
        return G / self.tokens * self.length

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder and projector: rows."""
        clips = B * G / self.tokens
        x, _ = self.front.add(m, clips, self.length)
        count = ONE if self.near is None else self.near
        clips, length = clips / count, self.length * count
        if count != 1:
            x = m.add("windows", Reshape((clips, length, self.at.d)), x)
        layer = TowerLayer(clips, length, self.at, self.feed)
        x = run(m, (Segment("audio_layers", layer, self.layers),), x)
        rows = project(m, "projector", x, self.steps)
        return (m.add("audio_rows", Reshape((B, G, self.out)), rows),)
