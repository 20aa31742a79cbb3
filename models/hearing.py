"""Ears of language models: Whisper's encoder over clips of one length, and a projector.

``G`` audio tokens of a prompt are whole clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.errors import InputError
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Eyes
from costgraph.models.blocks.pictures import Seen, Shown
from costgraph.models.blocks.projector import Steps, project, tokens_for
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import TowerLayer
from costgraph.models.encoder import AudioFront
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G


@dataclass(frozen=True)
class Ears(Eyes):
    """An audio encoder in front of a language model.

    Attributes:
        front: two convolutions over a spectrogram.
        at, feed, layers: of the encoder.
        length: positions of a clip.
        steps: what follows the layers, the encoder's last norm among it.
        out: width of the language model.
    """

    front: AudioFront
    at: Heads
    feed: FeedForward
    layers: Expr
    length: Expr
    steps: Steps
    out: Expr

    @property
    def sense(self) -> str:
        """Name of the phase."""
        return "audio"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole clips."""
        return (
            f"G audio tokens, which the prompt's S tokens include, are whole clips of "
            f"{self.tokens} tokens",
        )

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[Ears, Seen]:
        """Refused: there are no images."""
        raise InputError(f"{name}: it hears, and sees nothing")

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
        layer = TowerLayer(clips, self.length, self.at, self.feed)
        x = run(m, (Segment("audio_layers", layer, self.layers),), x)
        rows = project(m, "projector", x, self.steps)
        return (m.add("audio_rows", Reshape((B, G, self.out)), rows),)
