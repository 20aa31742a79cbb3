"""Denoisers of images and video that attend to their prompt apart: Wan, LTX, PixArt, Sana.

``G`` latent patches of an image or a video, ``S`` prompt tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm, Segment, Style
from costgraph.models.blocks.adaptive import BARE, of_number, two_layers
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import latent_patches
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.prompted import PromptedLayer
from costgraph.models.blocks.stack import run
from costgraph.models.denoise import Denoiser, sequence
from costgraph.ops import Activation, Add, Concat
from costgraph.ops.image import Modulate, Sinusoid, steps
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G, S


@dataclass(frozen=True)
class PromptedTransformer(Denoiser):
    """Layers over an image or a video that attend to the prompt.

    Attributes:
        at, cross, feed, layers: of the layers; ``norm`` and ``cross_norm`` their norms.
        channels, patch: of a latent patch; no axes of ``patch``: a plain vector.
        out: width of a patch of the result.
        text: width of the prompt's vectors.
        waves: frequencies of the time step.
        fixed: positions are added from a fixed table.
        linear: self-attention without softmax; text_norm: behind the prompt's products, or None
            (Sana).
        sized: height, width and their ratio are inputs (PixArt at 1024 pixels).
    """

    at: Heads
    cross: Heads
    feed: Block
    layers: Expr
    channels: Expr
    patch: tuple[Expr, ...]
    out: Expr
    text: Expr
    waves: Expr = Integer(256)
    norm: Norm = BARE
    cross_norm: Norm | None = None
    fixed: bool = False
    sized: bool = False
    linear: bool = False
    text_norm: Norm | None = None

    def positions(self, style: Style) -> Expr:
        return G

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        if self.patch:
            x = latent_patches(m, self.channels, self.patch, d)
        else:
            x = sequence(m, "latent", G, self.channels)
            x = m.linear("image_embed", x, d, self.channels, True)
        if self.fixed:
            table = m.source(Tensor("position_table", (G, d), style.acts))
            x = m.add("position_add", Add(), x, table)
        time = of_number(m, "time", d, d, self.waves)
        if self.sized:
            time = m.add("size_add", Add(), time, self._sizes(m))
        shared = m.linear(
            "modulation", m.add("modulation_act", Activation("silu"), time), 6 * d, d, True
        )
        prompt = sequence(m, "prompt", S, self.text)
        prompt = two_layers(m, "text", prompt, d, d, "gelu_tanh")
        if self.text_norm is not None:
            prompt = m.norm("text_norm", prompt, d, self.text_norm)
        layer = PromptedLayer(
            G, S, self.at, self.cross, self.feed, self.norm, self.cross_norm, self.linear
        )
        given = {"conditioning": shared, "prompt_rows": prompt}
        x = run(m, (Segment("layers", layer, self.layers),), x, **given)
        shift, scale = (
            m.add(f"last_{part}", Add(), time, m.vector(f"last_{part}_table", d))
            for part in ("shift", "scale")
        )
        x = m.norm("last_norm", x, d, BARE)
        x = m.add("last_modulate", Modulate(), x, shift, scale)
        return m.build(m.linear("last_proj", x, self.out, d, True))

    def _sizes(self, m: Maker) -> str:
        """Height, width and their ratio as one vector ``(B, d)``."""
        third = self.at.d / 3
        parts = []
        for name, count in (("resolution", 2), ("ratio", 1)):
            x = m.add(f"{name}_waves", Sinusoid(Integer(256)), m.source(steps(name, count * B)))
            x = two_layers(m, name, x, third, third)
            parts.append(m.add(f"{name}_rows", Reshape((B, count * third)), x))
        return m.add("sizes", Concat(), *parts)
