"""Moonshine's streaming models: frames of samples, windows that look a little ahead."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm
from costgraph.models.blocks.image import act, conv
from costgraph.models.encoder import Encoder
from costgraph.models.waves import as_channels, samples_for
from costgraph.ops import Add, AsSequence, Embedding
from costgraph.ops.maps import Map
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q

ONE = Integer(1)


@dataclass(frozen=True)
class FrameFront:
    """Frames of samples, normalised and compressed, a product, and two convolutions.

    Both see earlier frames alone and halve the sequence; ``q`` positions are made of ``4q − 3``
    frames, the fewest that give as many.

    Attributes:
        d: width of the sequence.
        samples: of a frame.
    """

    d: Expr
    samples: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        frames = samples_for(q, ((1, 2), (1, 2)))
        x = m.source(Tensor("samples", (B, self.samples * frames), m.style.acts))
        x = m.add("frames", Reshape((B, frames, self.samples)), x)
        x = m.norm("frame_norm", x, self.samples, Norm("layer", weight=False))
        scale = m.add("compress_exp", Map("exp"), m.vector("compress.weight", ONE))
        x = m.add("compress", Map("asinh"), m.add("compress_mul", Map("mul"), x, scale))
        x = act(m, "frame_act", m.linear("frame_proj", x, self.d, self.samples), "silu")
        x = as_channels(m, "conv_channels", x)
        # Padding stands in front alone; as many results as with half of it at either end.
        x = act(m, "conv1_act", conv(m, "conv1", x, 2 * self.d, 5, 2, 2), "silu")
        return m.add("as_sequence", AsSequence(), conv(m, "conv2", x, self.d, 5, 2, 2)), ""


@dataclass(frozen=True)
class PlacedEncoder(Encoder):
    """An encoder whose decoder adds learned positions to its result, and may bring it to a width.

    Attributes:
        rows: of the table of positions.
        joined: the decoder's width where it differs, or None.
    """

    rows: Expr = ONE
    joined: Expr | None = None

    def features(self, m: Maker) -> tuple[str, ...]:
        """Adds everything: all positions."""
        (x,) = super().features(m)
        ids = m.source(Tensor("position_ids", (m.shape(x)[1],), INT64))
        table = m.weight("positions.weight", self.rows, self.d)
        placed = m.add("position_embed", Embedding(result=m.style.acts), ids, table)
        x = m.add("position_add", Add(), x, placed)
        return (x if self.joined is None else m.linear("joined_proj", x, self.joined, self.d),)
