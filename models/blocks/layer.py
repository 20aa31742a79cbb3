"""A layer: a block that mixes tokens, a block that works on each, and norms around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, Scale
from costgraph.symbols import B, q


class Block(Protocol):
    """What a layer is made of: attention, feed-forward, experts, a scan …"""

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Activations beside the hidden state that all layers share (rotary tables)."""

    def add(self, m: Maker, x: str) -> str:
        """Adds the block's nodes; hidden state ``(B, q, d)`` in and out."""


@dataclass(frozen=True)
class Layer:
    """Residual layer of ``mixer`` and, unless None, ``channel``.

    Attributes:
        d: hidden size.
        mixer: mixes tokens (attention, a scan).
        channel: works on each token (feed-forward, experts).
        norm: of both blocks.
        parallel: both blocks read the layer's input and are added together;
            ``shared_norm``: through one norm.
        post_norms: norms after each block, before the residual addition.
        norm_first: norms in front of the blocks (the usual case); without them
            and without ``post_norms``, norms follow the residual additions.
        residual_scale: what the blocks make is multiplied by a constant before it
            is added.
        pre_norms: False leaves out the norms in front (post-norm-only layers).
    """

    d: Expr
    mixer: Block
    channel: Block | None
    norm: Norm = Norm()
    parallel: bool = False
    shared_norm: bool = False
    post_norms: bool = False
    norm_first: bool = True
    pre_norms: bool = True
    residual_scale: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of both blocks, each once."""
        found = self.mixer.operands(style)
        if self.channel is not None:
            found += self.channel.operands(style)
        return tuple(dict.fromkeys(found))

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        before = self.norm_first and self.pre_norms
        normed = self._norm(m, "attn_norm", x) if before else x
        mixed = self.mixer.add(m, normed)
        if self.post_norms:
            mixed = self._norm(m, "attn_post_norm", mixed)
        if self.parallel and self.channel is not None:
            second = normed if self.shared_norm or not before else self._norm(m, "mlp_norm", x)
            both = m.add("attn_add", Add(), self.channel.add(m, second), mixed)
            both = self._scaled(m, "branch_scale", both)
            return m.build(m.add("mlp_add", Add(), both, x))
        mixed = self._scaled(m, "attn_scale", mixed)
        x = m.add("attn_add", Add(), mixed, self.kept(m, "attn", x))
        if not self.norm_first:
            x = self._norm(m, "attn_norm", x)
        if self.channel is None:
            return m.build(x)
        fed = self.channel.add(m, self._norm(m, "mlp_norm", x) if before else x)
        if self.post_norms:
            fed = self._norm(m, "mlp_post_norm", fed)
        fed = self._scaled(m, "mlp_scale", fed)
        x = m.add("mlp_add", Add(), fed, self.kept(m, "mlp", x))
        if not self.norm_first:
            x = self._norm(m, "mlp_norm", x)
        return m.build(x)

    def kept(self, m: Maker, name: str, x: str) -> str:
        """What of the hidden state goes past the block ``name``: all of it as it is."""
        return x

    def _scaled(self, m: Maker, name: str, x: str) -> str:
        return m.add(name, Scale(), x) if self.residual_scale else x

    def _norm(self, m: Maker, name: str, x: str) -> str:
        return m.norm(name, x, self.d, self.norm)
