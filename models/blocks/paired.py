"""Eyes of two towers, one behind the other, whose rows stand side by side (DeepSeek-OCR)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Eyes, together
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.pictures import Seen, Shown, Whole
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G

ONE = Integer(1)
#: Larger pictures are also shown in parts.
SIDE = 640


@dataclass(frozen=True)
class PairedEyes(Eyes):
    """SAM's encoder, two convolutions of stride 2, and CLIP's layers over what these make.

    Rows of both stand side by side in front of one product (arXiv 2510.18234).

    Attributes:
        encoder: of whole pictures.
        shrunk: channels behind the first convolution; behind the second those of ``at``.
        at, feed, layers: of CLIP, whose own embedding of patches rests in memory.
        patch: weights of that embedding.
        out: width of the language model.
    """

    encoder: SamEncoder
    shrunk: Expr
    at: Heads
    feed: FeedForward
    layers: Expr
    patch: Expr
    out: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole pictures."""
        side = self.encoder.size
        return (
            f"G image tokens, which the prompt's S tokens include, are whole pictures of {side} x "
            f"{side} pixels, {self.tokens} tokens each; the parts of {SIDE} x {SIDE} pixels that "
            "larger pictures are shown in besides, and the tokens behind lines and pictures, are "
            "no part",
        )

    @property
    def tokens(self) -> int:
        """Tokens of a picture: the grid halved twice."""
        side = self.encoder.side
        return (((side + 1) // 2 + 1) // 2) ** 2

    def positions(self, style: Style) -> Expr:
        """Patches of all pictures of a sequence, as the encoder sees them."""
        return G / self.tokens * self.encoder.side**2

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[PairedEyes, Seen]:
        """Pictures that are not shown in parts: each is scaled to the encoder's size.

        Raises:
            InputError: a picture is larger.
        """
        if any(max(x.height, x.width) > SIDE for x in shown):
            raise InputError(
                f"{name}: pictures of more than {SIDE} pixels a side are shown in parts besides, "
                "which are not counted: say how many tokens whole pictures make (G)"
            )
        return self, together(Whole(self.tokens), shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds both towers and the projector: rows."""
        d, batch, count = self.at.d, B * G / self.tokens, Integer(self.tokens)
        x = self.encoder.add(m, batch)
        x = conv(m, "shrink1", x, self.shrunk, 3, 2, 1, bias=False)
        rows = m.add("patches", AsSequence(), conv(m, "shrink2", x, d, 3, 2, 1, bias=False))
        m.vector("clip_patches.weight", self.patch)  # of pictures, which it does not see itself
        first = m.add("first", Expand((batch, ONE, d)), m.vector("class.weight", ONE, d))
        x = m.add("first_rows", Join(1), first, rows)
        x = m.add("clip_position_add", Add(), x, m.weight("clip_positions.weight", count + 1, d))
        x = m.norm("clip_norm", x, d, LAYER_NORM)
        layer = TowerLayer(batch, count + 1, self.at, self.feed)
        x = run(m, (Segment("clip_layers", layer, self.layers),), x)
        _, x = m.add_many("found", Cut((ONE, count)), x)
        x = m.linear("projector", m.add("both", Join(2), x, rows), self.out, 2 * d, True)
        m.weight("marks.weight", Integer(2), self.out)  # behind lines, and behind pictures
        return (m.add("image_rows", Reshape((B, G, self.out)), x),)
