"""A tower of large pictures beside one of small ones (DeepSeek-VL, arXiv 2403.05525)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.image import channel_norm, conv
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.blocks.splicing import spliced
from costgraph.models.blocks.style import Maker
from costgraph.ops import Activation, Add, AsSequence, Conv
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Map
from costgraph.ops.pool import Resize
from costgraph.ops.views import Beside as Joined
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G

ONE, TWO = Integer(1), Integer(2)


@dataclass(frozen=True)
class SharpEyes(FixedTower):
    """SigLIP's tower, and SAM's encoder of the same picture at another size.

    Of the encoder both the result and that of its first layer that sees the whole grid pass a
    neck and two convolutions; their sum stands beside the rows of the other tower.

    Attributes:
        sharp: the encoder.
    """

    sharp: SamEncoder | None = None

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds both towers and the projector: rows, and what is made and not used."""
        assert self.sharp is not None
        images, half = B * self._images(m.style), self.out / 2
        x = self.tower.add(m, images)
        back = self.tower.back
        x = m.norm("final_norm", x, self.tower.at.d, back) if back is not None else x
        low = m.linear("low_proj", x, half, self.tower.at.d, True)
        (y,) = spliced(m, "sharp", lambda inner: (self._sharp(inner, images),))
        high = m.linear("high_proj", y, half, 4 * self.sharp.out, True)
        both = m.add("both", Joined(2), high, low)
        both = m.add("both_act", Activation("gelu"), both)
        rows = m.linear("projector", both, self.out, self.out, True)
        made = m.add("image_rows", Reshape((B, G, self.out)), rows)
        return (made,) if self.tower.head is None else (made, self.tower.head.add(m, x))

    def _sharp(self, m: Maker, images: Expr) -> str:
        """Adds the encoder, and rows of as many places as the other tower has patches."""
        sharp = self.sharp
        assert sharp is not None
        early, image, _ = sharp.maps(m, images)
        grid = m.add("early_grid", AsImage((Integer(sharp.side),) * 2), early)
        x = channel_norm(m, "early_norm1", conv(m, "early1", grid, sharp.out, 1, bias=False))
        x = channel_norm(m, "early_norm2", conv(m, "early2", x, sharp.out, 3, 1, 1, bias=False))
        image, x = self._shrunk(m, "", image), self._shrunk(m, "early_", x)
        x = m.add("early_weight", Map("mul"), x, m.vector("alpha", ONE))
        return m.add("rows", AsSequence(), m.add("sum", Add(), image, x))

    def _shrunk(self, m: Maker, name: str, x: str) -> str:
        """Adds two convolutions that halve a map; both maps pass the same."""
        batch, channels = m.shape(x)[:2]
        sides = tuple(4 * n for n in self.tower.grid)
        x = m.add(f"{name}resized", Resize((batch, channels, *sides), "linear"), x)
        for step in (1, 2):
            kernel = m.weight(
                f"shrink{step}.weight", 2 * channels, channels, Integer(3), Integer(3)
            )
            op = Conv((TWO, TWO), (ONE, ONE), (ONE, ONE), ONE, False)
            x, channels = m.add(f"{name}shrink{step}", op, x, kernel), 2 * channels
        return x
