"""Z-Image: one stream of text and image, each refined by itself first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.adaptive import BARE, of_number
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import run
from costgraph.models.denoise import Denoiser, packed_tokens, sequence
from costgraph.ops import Activation, Add, Rope, Scale, Split
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut, Gate
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G, S

ONE = Integer(1)
#: Adds a block: the state in, what it makes out.
Block = Callable[[Maker, str], str]
RMS = Norm()
#: Widest vector that tells the time step, and width of the layer in front of it.
TOLD, INNER = 256, Integer(1024)


@dataclass(frozen=True)
class RefinedLayer:
    """Attention and a gated block with norms around both, scaled and gated where ``told``.

    Attributes:
        part: what it runs over, in names of its operands.
        length: positions.
        at, feed: heads and feed-forward block.
        qk_norm: of queries and keys per head, or None.
        told: width of the vector that modulations are made of, or None for none.
    """

    part: str
    length: Expr
    at: Heads
    feed: FeedForward
    qk_norm: Norm | None
    told: Expr | None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The vector that tells the time step, and the rotary table."""
        table = Tensor(f"{self.part}_rope", (self.length, self.at.head_dim), style.acts)
        if self.told is None:
            return (table,)
        return Tensor("conditioning", (B, self.told), style.acts), table

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and operands in, hidden state out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        mods: tuple[str, ...] = ("",) * 4
        if self.told is not None:
            packed = m.linear("modulation", "conditioning", 4 * d, self.told, True)
            mods = m.add_many("modulation_split", Split(((d,),) * 4), packed)
        x = self._around(m, "attn", x, mods[:2], self._attention)
        return m.build(self._around(m, "mlp", x, mods[2:], self.feed.add))

    def _around(self, m: Maker, name: str, x: str, mods: tuple[str, ...], block: Block) -> str:
        d = self.at.d
        y = m.norm(f"{name}_norm", x, d, RMS)
        if mods[0]:
            plus = m.add(f"{name}_plus", Scale(), mods[0])  # one more than what is made
            y = m.add(f"{name}_scale", Gate(), y, plus)
        y = m.norm(f"{name}_post_norm", block(m, y), d, RMS)
        if mods[1]:
            gate = m.add(f"{name}_tanh", Activation("tanh"), mods[1])
            y = m.add(f"{name}_gate", Gate(), y, gate)
        return m.add(f"{name}_add", Add(), y, x)

    def _attention(self, m: Maker, x: str) -> str:
        query, key, value = (self.at.project(m, name, x) for name in ("q", "k", "v"))
        if self.qk_norm is not None:
            query = m.norm("q_norm", query, self.at.head_dim, self.qk_norm)
            key = m.norm("k_norm", key, self.at.head_dim, self.qk_norm)
        table = f"{self.part}_rope"
        query, key = (m.add(f"{n}_rope", Rope(), y, table) for n, y in (("q", query), ("k", key)))
        return self.at.out(m, attended(m, query, key, value, FULL))


@dataclass(frozen=True)
class ZImage(Denoiser):
    """Z-Image (arXiv 2511.22699): ``G`` latent patches beside ``S`` tokens of text.

    Attributes:
        at, feed: heads and feed-forward block of all layers.
        layers, refining: layers over both, and over each part alone in front of them.
        channels: of a patch, in and out.
        text: width of the text vectors.
        qk_norm: of queries and keys per head, or None.
    """

    at: Heads
    feed: FeedForward
    layers: Expr
    refining: Expr
    channels: Expr
    text: Expr
    qk_norm: Norm | None

    def positions(self, style: Style) -> Expr:
        return G + S

    def image_tokens(self, style: Style) -> Expr | None:
        return packed_tokens(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        told = Integer(min(int(d), TOLD))
        given = {"conditioning": of_number(m, "time", INNER, told)}
        x = sequence(m, "latent", G, self.channels)
        x = m.linear("image_embed", x, d, self.channels, True)
        text = m.norm("text_norm", sequence(m, "prompt", S, self.text), self.text, RMS)
        text = m.linear("text_embed", text, d, self.text, True)
        if self.refining != 0:
            x = run(m, (self._segment("image", G, self.refining, told),), x, **given)
            text = run(m, (self._segment("text", S, self.refining, None),), text)
        both = m.add("streams_join", Join(1), x, text)
        both = run(m, (self._segment("both", G + S, self.layers, told),), both, **given)
        # The published code makes patches of the text, too, before it drops them.
        acted = m.add("last_act", Activation("silu"), given["conditioning"])
        scale = m.add("last_plus", Scale(), m.linear("last_modulation", acted, d, told, True))
        x = m.add("last_scale", Gate(), m.norm("last_norm", both, d, BARE), scale)
        x = m.linear("last_proj", x, self.channels, d, True)
        made = m.add_many("streams_cut", Cut((G, S)), x)[0]
        # What stands at positions that fill up a part: no position counted here.
        rests = [
            m.add(f"{part}_pad_row", Reshape((ONE, d)), m.vector(f"{part}_pad", d))
            for part in ("image", "text")
        ]
        return m.build(made, *rests)

    def _segment(self, part: str, length: Expr, count: Expr, told: Expr | None) -> Segment:
        layer = RefinedLayer(part, length, self.at, self.feed, self.qk_norm, told)
        return Segment(f"{part}_layers", layer, count)
