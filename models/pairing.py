"""Two encoders whose vectors are compared: CLAP, Chinese CLIP and whatever stands in one file."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Norm, Style
from costgraph.models.blocks.image import batch_norm, picture
from costgraph.models.blocks.projector import Steps, project
from costgraph.models.blocks.splicing import spliced
from costgraph.models.convnet import Swin
from costgraph.models.encoder import Source
from costgraph.models.vision import OnePass
from costgraph.ops import SelectLast
from costgraph.ops.image import Rearrange, Similarity
from costgraph.ops.pool import Resize
from costgraph.ops.views import Reshape
from costgraph.symbols import B, S

ONE = Integer(1)


@dataclass(frozen=True)
class Side:
    """One of both: an encoder, and what makes a vector of its result.

    Attributes:
        name: in front of all its names.
        source: the encoder; what it makes besides all positions is its vector, else the first
            position is.
        steps: what the vector passes.
    """

    name: str
    source: Source
    steps: Steps

    def add(self, m: Maker) -> str:
        """Adds the side: unit vectors ``(B, d)``."""
        every, *beside = spliced(m, self.name, self.source.features)
        x = beside[-1] if beside else m.add(f"{self.name}_first", SelectLast(ONE), every)
        x = m.add(f"{self.name}_vector", Reshape((B, m.shape(x)[-1])), x)
        x = project(m, f"{self.name}_projector", x, self.steps)
        # Unit length is a root mean square up to a constant.
        return m.norm(f"{self.name}_unit", x, m.shape(x)[-1], Norm("rms", weight=False))


@dataclass(frozen=True)
class Pairing(OnePass):
    """``B`` images or sounds against ``B`` texts of ``S`` tokens.

    Attributes:
        shown, read: both sides.
        both: each is compared with the other by a scale of its own.
    """

    shown: Side
    read: Side
    both: bool = False

    def positions(self, style: Style) -> Expr:
        return S

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.read.source.limits

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        first, second = self.shown.add(m), self.read.add(m)
        made = [m.add("similarity", Similarity(), second, first, m.vector("logit_scale", ONE))]
        if self.both:
            scale = m.vector("other_scale", ONE)
            made.append(m.add("other_similarity", Similarity(), first, second, scale))
        return m.build(*made)


@dataclass(frozen=True)
class SpectrogramSwin(Swin):
    """HTS-AT (Chen et al., arXiv 2202.00874): Swin over a spectrogram cut into bands.

    Attributes:
        mels, frames: of the spectrogram, which is resampled and folded into a square.
        fused: numbers of a part for longer sounds, which rests in memory.
    """

    mels: int = 64
    frames: int = 1001
    fused: int = 0

    def start(self, m: Maker) -> str:
        """Adds the spectrogram as a square image."""
        bands, side = Integer(self.mels), self.size[0]
        x = picture(m, B, bands, (Integer(self.frames), ONE), "spectrogram")
        x = batch_norm(m, "band_norm", x)
        x = m.add("bands", Reshape((B, ONE, Integer(self.frames), bands)), x)
        long = side * side / bands
        if long != self.frames:
            x = m.add("stretched", Resize((B, ONE, long, bands), "cubic"), x)
        if self.fused:
            m.vector("longer.rows", Integer(self.fused))
        return m.add("folded", Rearrange((B, ONE, side, side)), x)
