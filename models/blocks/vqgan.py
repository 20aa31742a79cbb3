"""VQGAN's encoder (Esser et al., arXiv 2012.09841): an image to codes, which are tokens."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.eyes import WHOLE, Eyes, together
from costgraph.models.blocks.image import act, conv, group_norm, picture
from costgraph.models.blocks.pictures import Seen, Shown, Whole
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.codecs import nearest_codes
from costgraph.ops import Add, AsSequence
from costgraph.ops.image import AsImage
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

ONE, GROUPS = Integer(1), Integer(32)


@dataclass(frozen=True)
class CodeEyes(Eyes):
    """Images of one size become codes of one codebook, ``G`` of each sequence.

    Attributes:
        channels, side: of an image.
        widths: channels of each level; all but the last halve the image behind them.
        base: channels in front of the first level.
        blocks: residual blocks of a level.
        attends: sides of the images at whose levels every block is followed by attention.
        middle: whether attention stands between the two blocks behind all levels.
        latent: channels that the encoder makes.
        codes, narrow: of the codebook: its codes, and their width.
        resting: parameters that reading images leaves alone.
    """

    channels: Expr
    side: int
    widths: tuple[int, ...]
    base: int
    blocks: int
    attends: tuple[int, ...]
    middle: bool
    latent: Expr
    codes: Expr
    narrow: Expr
    resting: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images, whose codes are words."""
        return (f"{WHOLE}; their codes are words of the vocabulary",)

    @property
    def tokens(self) -> int:
        """Codes of one image."""
        return int(self.side // 2 ** (len(self.widths) - 1)) ** 2

    def positions(self, style: Style) -> Expr:
        """Codes of all images of a sequence."""
        return G

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[CodeEyes, Seen]:
        """Any pictures: each is cut, or scaled, to the size that is seen."""
        return self, together(Whole(self.tokens), shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds the encoder: the codes."""
        m.vector("resting.rows", self.resting)
        side = self.side
        x = picture(m, B * G / self.tokens, self.channels, (Integer(side),) * 2)
        x = conv(m, "conv_in", x, Integer(self.base), 3, 1, 1)
        for level, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                x = self._block(m, f"level{level}_block{block}", x, Integer(width))
                if side in self.attends:
                    x = self._attention(m, f"level{level}_attn{block}", x)
            if level < len(self.widths):
                # Zeros stand behind the last row and column: as many products as around all.
                x, side = conv(m, f"level{level}_down", x, Integer(width), 3, 2, 1), side // 2
        wide = Integer(self.widths[-1])
        x = self._block(m, "middle_block1", x, wide)
        x = self._attention(m, "middle_attn", x) if self.middle else x
        x = self._block(m, "middle_block2", x, wide)
        x = act(m, "out_act", group_norm(m, "out_norm", x, GROUPS), "silu")
        x = conv(m, "conv_out", x, self.latent, 3, 1, 1)
        x = m.add("latents", AsSequence(), conv(m, "quant_conv", x, self.narrow, 1))
        found = nearest_codes(m, "book", x, m.weight("book.weight", self.codes, self.narrow))
        return (m.add("image_codes", Reshape((B, G)), found),)

    def _block(self, m: Maker, name: str, x: str, out: Expr) -> str:
        """Adds a residual block of two convolutions."""
        y = act(m, f"{name}_act1", group_norm(m, f"{name}_norm1", x, GROUPS), "silu")
        y = conv(m, f"{name}_conv1", y, out, 3, 1, 1)
        y = act(m, f"{name}_act2", group_norm(m, f"{name}_norm2", y, GROUPS), "silu")
        y = conv(m, f"{name}_conv2", y, out, 3, 1, 1)
        x = x if m.shape(x)[1] == out else conv(m, f"{name}_shortcut", x, out, 1)
        return m.add(f"{name}_add", Add(), y, x)

    def _attention(self, m: Maker, name: str, x: str) -> str:
        """Adds attention of one head between all places of an image, and the residual."""
        batch, wide, *size = m.shape(x)
        y, shape = group_norm(m, f"{name}_norm", x, GROUPS), (batch, size[0] * size[1], ONE, wide)
        query, key, value = (
            m.add(
                f"{name}_{part}_rows",
                Reshape(shape),
                m.add(f"{name}_{part}_places", AsSequence(), conv(m, f"{name}_{part}", y, wide, 1)),
            )
            for part in "qkv"
        )
        y = attended(m, query, key, value, FULL, prefix=f"{name}_")
        y = m.add(f"{name}_flat", Reshape((batch, shape[1], wide)), y)
        y = conv(m, f"{name}_out", m.add(f"{name}_image", AsImage(tuple(size)), y), wide, 1)
        return m.add(f"{name}_add", Add(), y, x)
