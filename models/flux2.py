"""Flux 2: joint layers of two streams and layers of one that share their modulations."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.adaptive import (
    JointLayer,
    SingleLayer,
    Streams,
    last_layer,
    of_number,
    packed_modulation,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import run
from costgraph.models.denoise import Denoiser, packed_tokens, sequence, two_streams
from costgraph.ops import Add
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.symbols import G, S


@dataclass(frozen=True)
class Flux2(Denoiser):
    """As Flux, without biases; blocks are gated, and modulations made once for all layers.

    Attributes:
        at: the heads.
        joint, single: layers of two streams and of one.
        width: of the feed-forward blocks.
        channels, out: width of a patch, in and out.
        text: width of the text vectors.
        frequencies: of the waves that tell the time step.
        guided: the guidance scale is an input.
    """

    at: Heads
    joint: Expr
    single: Expr
    width: Expr
    channels: Expr
    out: Expr
    text: Expr
    frequencies: Expr
    guided: bool

    def positions(self, style: Style) -> Expr:
        return G + S

    def image_tokens(self, style: Style) -> Expr | None:
        return packed_tokens(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d, waves = Maker(name, style), self.at.d, self.frequencies
        streams = Streams(S, G, self.at, Norm(), shared=True)
        x = m.linear("image_embed", sequence(m, "latent", G, self.channels), d, self.channels)
        vector = of_number(m, "time", d, d, waves, bias=False)
        if self.guided:
            told = of_number(m, "guidance", d, d, waves, bias=False)
            vector = m.add("guidance_add", Add(), vector, told)
        text = m.linear("text_embed", sequence(m, "prompt", S, self.text), d, self.text)
        given = {
            f"{part}_mods": packed_modulation(m, f"{part}_modulation", vector, d, count, False)
            for part, count in (("image", 6), ("text", 6), ("single", 3))
        }
        feed = FeedForward(d, self.width, "silu", fused_gate_up=True)
        x, text = two_streams(m, JointLayer(streams, feed), self.joint, x, text, **given)
        x = m.add("streams_join", Join(1), text, x)
        layer = SingleLayer(streams, self.width, "silu", gated=True)
        x = run(m, (Segment("single_layers", layer, self.single),), x, **given)
        x = m.add_many("streams_cut", Cut((S, G)), x)[1]
        return m.build(last_layer(m, x, vector, self.out, bias=False))
