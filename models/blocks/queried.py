"""Eyes whose learned queries stand behind the patches of a picture (DeepSeek-OCR 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Eyes, together
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.pictures import Seen, Shown, Whole
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.models.blocks.tower import TowerLayer
from costgraph.ops import AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.pattern import Leading
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G

#: Learned queries of a picture of 768 pixels, and of one of 1024.
FEW, MANY = 144, 256


@dataclass(frozen=True)
class PageEyes(Eyes):
    """What reads whole pages by SAM's encoder; larger ones are shown in parts besides.

    Attributes:
        encoder: of whole pictures.
    """

    #: Pixels a side of the parts, and of the largest picture that has none.
    part: ClassVar[int]

    encoder: SamEncoder

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole pictures."""
        side, part = self.encoder.size, self.part
        return (
            f"G image tokens, which the prompt's S tokens include, are whole pictures of {side} x "
            f"{side} pixels, {self.tokens} tokens each; the parts of {part} x {part} pixels that "
            "larger pictures are shown in besides, and the tokens that mark ends of lines and of "
            "pictures, are no part",
        )

    @property
    def tokens(self) -> int:
        """Tokens of a picture: its positions behind the encoder."""
        return self.encoder.shrunk

    def positions(self, style: Style) -> Expr:
        """Patches of all pictures of a sequence, as the encoder sees them."""
        return G / self.tokens * self.encoder.side**2

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[Self, Seen]:
        """Pictures that are not shown in parts: each is scaled to the encoder's size.

        Raises:
            InputError: a picture is larger.
        """
        if any(max(x.height, x.width) > self.part for x in shown):
            raise InputError(
                f"{name}: pictures of more than {self.part} pixels a side are shown in parts "
                "besides, which are not counted: say how many tokens whole pictures make (G)"
            )
        return self, together(Whole(self.tokens), shown, name)


@dataclass(frozen=True)
class QueriedEyes(PageEyes):
    """SAM's encoder, two convolutions of stride 2, and layers over patches and queries.

    Patches see one another, each query all patches and the queries before it. What becomes of
    the queries are the rows of the language model.

    Attributes:
        shrunk: channels behind the first convolution; behind the second those of ``at``.
        at, feed, layers: of the layers.
        out: width of the language model.
    """

    shrunk: Expr
    at: Heads
    feed: FeedForward
    layers: Expr
    out: Expr

    part: ClassVar[int] = 768

    @property
    def tokens(self) -> int:
        """Queries, and so tokens, of a picture."""
        return FEW if self.encoder.shrunk <= FEW else MANY

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder, layers and projector: rows."""
        d, batch, own = self.at.d, B * G / self.tokens, Integer(self.tokens)
        x = self.encoder.add(m, batch)
        x = conv(m, "shrink1", x, self.shrunk, 3, 2, 1, bias=False)
        x = m.add("patches", AsSequence(), conv(m, "shrink2", x, d, 3, 2, 1, bias=False))
        queries = m.add("queries", Expand((batch, own, d)), m.weight("queries.weight", own, d))
        m.weight("idle_queries.weight", FEW + MANY - own, d)  # of pictures of the other size
        x = m.add("patches_queries", Join(1), x, queries)
        front = Integer(self.encoder.shrunk)
        layer = TowerLayer(batch, front + own, self.at, self.feed, Norm(), sees=Leading(front))
        x = run(m, (Segment("eye_layers", layer, self.layers),), x)
        x = m.norm("eye_norm", x, d, Norm())
        _, x = m.add_many("found", Cut((front, own)), x)
        x = m.linear("projector", x, self.out, d, True)
        m.vector("separator", self.out)  # the token behind each picture
        return (m.add("image_rows", Reshape((B, G, self.out)), x),)
