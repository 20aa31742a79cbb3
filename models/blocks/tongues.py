"""Layers of BERT behind which a small block of a language stands."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Layer
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Add, LayerNorm
from costgraph.symbols import B, q

#: What the small block reads: hidden states as they are, through the norm of the feed-forward
#: block, or through one of its own.
PLAIN, AGAIN, OWN = "plain", "again", "own"


@dataclass(frozen=True)
class SpokenLayer(Layer):
    """A layer whose sum passes two products of its language (arXiv 2205.06266).

    The last norm stands in front of them as well as behind them, or in front of the feed-forward
    block with ``norm_first``: its weights are one set.

    Attributes:
        narrow: width between the two products.
        reads: ``plain``, ``again`` or ``own``.
        normed: what the products make is added to what they read, not to what their norm read.
        function: between the two products.
    """

    narrow: Expr = Integer(1)
    reads: str = AGAIN
    normed: bool = True
    function: str = "gelu"

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        read = m.norm("attn_norm", x, self.d, self.norm) if self.norm_first else x
        x = m.add("attn_add", Add(), self.mixer.add(m, read), x)
        if not self.norm_first:
            x = m.norm("attn_norm", x, self.d, self.norm)
        shared = tuple(m.vector(f"mlp_norm.{part}", self.d) for part in ("weight", "bias"))

        def normed(name: str, of: str) -> str:
            return m.add(name, LayerNorm(True, True), of, *shared)

        assert self.channel is not None
        read = normed("mlp_norm", x) if self.norm_first else x
        x = m.add("mlp_add", Add(), self.channel.add(m, read), x)
        read = x
        if self.reads == OWN:
            read = m.norm("tongue_norm", x, self.d, self.norm)
        elif self.reads == AGAIN:
            read = normed("tongue_norm", x)
        made = m.linear("tongue_down", read, self.narrow, self.d, True)
        made = m.activation("tongue_act", made, self.function)
        made = m.linear("tongue_up", made, self.d, self.narrow, True)
        x = m.add("tongue_add", Add(), made, read if self.normed else x)
        return m.build(x if self.norm_first else normed("mlp_norm", x))
