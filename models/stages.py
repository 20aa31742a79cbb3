"""Images that the stages of a network make, for what reads several of them."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Mul

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import channel_norm, picture
from costgraph.models.convnet import ConvNext, ResNet, Swin
from costgraph.models.vision import OnePass
from costgraph.symbols import B


@dataclass(frozen=True)
class Maps(OnePass):
    """A network without a classifier, and the stages whose images are taken from it.

    All stages run, also those behind the last that is taken, as in the published classes.

    Attributes:
        network: ConvNeXt's and Swin's images pass a norm each; ResNet's do not.
        taken: numbers of stages, from 1.
    """

    network: ResNet | ConvNext | Swin
    taken: tuple[int, ...]

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
        if isinstance(net, ResNet):
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
