"""Images that the stages of a network make, for what reads several of them."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Mul

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import channel_norm, picture, same_norm
from costgraph.models.convnet import ConvNext, ResNet, Swin
from costgraph.models.hgnet import HGNet
from costgraph.models.vision import OnePass, Tower
from costgraph.ops.image import AsImage, Cut
from costgraph.symbols import B

Network = ResNet | ConvNext | Swin | HGNet


@dataclass(frozen=True)
class Maps(OnePass):
    """A network without a classifier, and the stages whose images are taken from it.

    All stages run, also those behind the last that is taken, as in the published classes.

    Attributes:
        network: of stages.
        taken: numbers of stages, from 1.
        normed: every image passes a norm of its own.
    """

    network: Network
    taken: tuple[int, ...]
    normed: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the images that are taken."""
        net = self.network
        if isinstance(net, Swin):
            return tuple(net.width * 2 ** (stage - 1) for stage in self.taken)
        return tuple(net.widths[stage - 1] for stage in self.taken)

    def add(self, m: Maker) -> list[str]:
        """Adds the network over ``B`` images: the images that are taken, from large to small."""
        net = self.network
        x = picture(m, B, net.channels, m.style.image or net.size)
        every = net.maps(m, x)
        kept = [every[stage - 1] for stage in self.taken]
        if not self.normed:
            return kept
        return [
            channel_norm(m, f"taken{stage}_norm", image)
            for stage, image in zip(self.taken, kept, strict=True)
        ]

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        return m.build(*self.add(m))

    def positions(self, style: Style) -> Expr:
        m = Maker("", style)
        return Mul(*m.shape(self.add(m)[-1])[2:])


@dataclass(frozen=True)
class TowerMaps(OnePass):
    """A vision transformer, and the layers whose rows are taken from it.

    Attributes:
        tower: all its layers run; its back norm is the one of the rows.
        taken: after how many layers rows are taken.
        normed: those rows pass the norm.
        ended: what the last layer makes passes it too, to no use.
        image: rows become images of the grid; ``cut``: without those in front of the patches.
        mask: a vector for masked patches rests in memory.
    """

    tower: Tower
    taken: tuple[int, ...]
    normed: bool
    ended: bool = False
    image: bool = True
    cut: bool = True
    mask: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        kept, idle = self.rows(m, self.tower.patched(m, B))
        made = [self._map(m, stage, x) for stage, x in zip(self.taken, kept, strict=True)]
        return m.build(*made, *idle)

    def rows(self, m: Maker, x: str) -> tuple[list[str], list[str]]:
        """Adds all layers over ``x``: the rows that are taken, and what is made to no use."""
        tower, d, name = self.tower, self.tower.at.d, "final_norm"
        if self.mask:
            m.vector("mask_token", d)
        *kept, last = tower.through(m, x, self.taken)
        if tower.back is None:
            return kept, []
        if self.normed:
            kept = [
                same_norm(m, f"taken{stage}_norm", name, x)
                for stage, x in zip(self.taken, kept, strict=True)
            ]
        for part in ("weight", "bias"):  # there although nothing may run through it
            m.vector(f"{name}.{part}", d)
        return kept, [same_norm(m, "last_norm", name, last)] if self.ended else []

    def _map(self, m: Maker, stage: int, x: str) -> str:
        """Adds what is taken of the rows behind a layer."""
        lead = self.tower.patches.lead
        if self.cut and lead:
            x = m.add_many(f"taken{stage}_parts", Cut((lead, m.shape(x)[1] - lead)), x)[1]
        return m.add(f"taken{stage}_image", AsImage(self.grid(m.style)), x) if self.image else x

    def grid(self, style: Style) -> tuple[Expr, ...]:
        """Patches of the height and the width of the images."""
        patch = self.tower.patches.patch
        return tuple(n // p for n, p in zip(self.tower.sized(style), patch, strict=True))

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style)
