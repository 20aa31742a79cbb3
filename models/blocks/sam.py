"""SAM's image encoder (Kirillov et al., arXiv 2304.02643): windows, and biases from queries."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import WHOLE, Eyes, together
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import channel_norm, conv, picture
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.pictures import Seen, Shown, Whole
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence, AttentionScores, AttentionValues, RelativeBias, Softmax
from costgraph.ops.image import AsImage, Rearrange
from costgraph.ops.maps import Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class SamLayer:
    """A layer over a square grid, in windows or whole.

    Scores get a bias that is made of the query and of a learned row for each distance, by
    height and by width apart. A grid that windows do not divide is padded.

    Attributes:
        batch, side: images, side of the grid.
        at, feed: heads and feed-forward block.
        window: side of a window; None for the whole grid.
        placed: there are such biases.
    """

    batch: Expr
    side: int
    at: Heads
    feed: FeedForward
    window: int | None
    placed: bool = True

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table of a window or of the grid, where heads are rotated."""
        if self.at.rotary is None:
            return ()
        side = Integer(self.window or self.side)
        return (Tensor("rope_table", (side**2, self.at.rotary), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        m, d, count = Maker("layer", style), self.at.d, Integer(self.side**2)
        x = m.source(Tensor("hidden", (self.batch, count, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        y = m.norm("attn_norm", x, d, LAYER_NORM)
        if self.window is None:
            y = self._attention(m, y, self.side)
        else:
            across = -(-self.side // self.window)
            whole = (self.batch, Integer((across * self.window) ** 2), d)
            padded = across * self.window != self.side
            y = m.add("pad", Resize(whole), y) if padded else y
            near = (self.batch * across**2, Integer(self.window**2), d)
            y = self._attention(m, m.add("windows", Rearrange(near), y), self.window)
            y = m.add("whole", Rearrange(whole), y)
            y = m.add("crop", Resize((self.batch, count, d)), y) if padded else y
        x = m.add("attn_add", Add(), y, x)
        fed = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), fed, x))

    def _attention(self, m: Maker, x: str, side: int) -> str:
        query, key, value = self.at.all(m, x)
        scores = m.add("qk_matmul", AttentionScores(FULL), query, key)
        if self.placed:
            scores = m.add("bias_add", Add(), scores, self._bias(m, query, side))
        shares = m.add("softmax", Softmax(FULL), scores)
        return self.at.out(m, m.add("sv_matmul", AttentionValues(FULL), shares, value))

    def _bias(self, m: Maker, query: str, side: int) -> str:
        """Adds the biases ``(N, H, n, n)`` of windows of ``side`` by ``side`` positions."""
        batch, count, heads, width = m.shape(query)
        a = Integer(side)
        rows = m.add("q_heads", Transpose((0, 2, 1, 3)), query)
        grid = m.add("q_grid", Reshape((batch, heads, a, a, width)), rows)
        made = []
        for name, order in (("down", (0, 1, 2, 3, 4)), ("across", (0, 1, 3, 2, 4))):
            table = m.vector(f"{name}.weight", 2 * a - 1, width)
            near = m.add(f"{name}_rows", RelativeBias(a, a), table)
            near = m.add(f"{name}_keys", Transpose((1, 0, 2)), near)
            lines = m.add(f"{name}_lines", Transpose(order), grid)
            made.append(m.add(f"{name}_matmul", MatMul(), lines, near))
        down = m.add("down_wide", Reshape((batch, heads, a, a, a, ONE)), made[0])
        back = m.add("across_back", Transpose((0, 1, 3, 2, 4)), made[1])
        across = m.add("across_wide", Reshape((batch, heads, a, a, ONE, a)), back)
        both = m.add("bias_sum", Map("add"), down, across)
        return m.add("bias", Reshape((batch, heads, count, count)), both)


@dataclass(frozen=True)
class SamEncoder:
    """Patches, layers, and a neck of two convolutions.

    Attributes:
        at, feed: heads and feed-forward block.
        layers: their number; ``whole``: those that see the whole grid.
        channels, size, patch: channels of the image, its side, and that of a patch.
        window: side of the windows of the others.
        out: channels behind the neck.
        table: positions are learned; ``placed``: scores get biases.
        early: what the first layer that sees the whole grid makes is answered as well (SAM-HQ).
    """

    at: Heads
    feed: FeedForward
    layers: int
    whole: frozenset[int]
    channels: Expr
    size: int
    patch: int
    window: int
    out: Expr
    table: bool = True
    placed: bool = True
    early: bool = False

    @property
    def side(self) -> int:
        """Side of the grid of patches."""
        return self.size // self.patch

    @property
    def shrunk(self) -> int:
        """Positions of the grid that two convolutions of stride 2 leave."""
        return (((self.side + 1) // 2 + 1) // 2) ** 2

    def maps(self, m: Maker, batch: Expr) -> tuple[str, ...]:
        """Adds the encoder: rows of an early layer and the map where asked for, then the map."""
        if not self.early:
            return (self.add(m, batch),)
        first = min(self.whole) + 1
        early = x = self._through(m, "early_", range(first), self._patched(m, batch))
        x = self._through(m, "", range(first, self.layers), x)
        made = self._neck(m, x)
        return early, made, made

    def add(self, m: Maker, batch: Expr) -> str:
        """Adds the encoder over ``batch`` images: ``(batch, out, side, side)``."""
        return self._neck(m, self._through(m, "", range(self.layers), self._patched(m, batch)))

    def _patched(self, m: Maker, batch: Expr) -> str:
        """Adds the rows of patches."""
        d, side = self.at.d, Integer(self.side)
        x = picture(m, batch, self.channels, (Integer(self.size),) * 2)
        x = conv(m, "patch_embed", x, d, self.patch, self.patch)
        x = m.add("patch_rows", AsSequence(), x)
        if not self.table:
            return x
        return m.add("position_add", Add(), x, m.weight("positions.weight", side**2, d))

    def _through(self, m: Maker, lead: str, numbers: range, x: str) -> str:
        """Adds layers of these numbers."""
        kinds = (
            (
                lead + ("whole_layers" if i in self.whole else "window_layers"),
                SamLayer(
                    m.shape(x)[0],
                    self.side,
                    self.at,
                    self.feed,
                    None if i in self.whole else self.window,
                    self.placed,
                ),
            )
            for i in numbers
        )
        return run(m, gathered(kinds), x)

    def _neck(self, m: Maker, x: str) -> str:
        """Adds two convolutions behind the layers."""
        x = m.add("as_image", AsImage((Integer(self.side),) * 2), x)
        x = channel_norm(m, "neck_norm1", conv(m, "neck1", x, self.out, 1, bias=False))
        x = conv(m, "neck2", x, self.out, 3, 1, 1, bias=False)
        return channel_norm(m, "neck_norm2", x)


@dataclass(frozen=True)
class SamEyes(Eyes):
    """The encoder in front of a language model: two convolutions of stride 2, and a product.

    Attributes:
        encoder: of whole images.
        out: width of the language model.
    """

    encoder: SamEncoder
    out: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Whole images."""
        return (WHOLE,)

    @property
    def tokens(self) -> int:
        """Image tokens of one image: the grid halved twice."""
        return self.encoder.shrunk

    def positions(self, style: Style) -> Expr:
        """Patches of all images of a sequence."""
        return G / self.tokens * self.encoder.side**2

    def showing(self, name: str, shown: tuple[Shown, ...]) -> tuple[SamEyes, Seen]:
        """Any pictures: each is scaled to the encoder's size."""
        return self, together(Whole(self.tokens), shown, name)

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder and projector: rows."""
        x = self.encoder.add(m, B * G / self.tokens)
        x = conv(m, "shrink1", x, 2 * self.encoder.out, 3, 2, 1, bias=False)
        x = conv(m, "shrink2", x, self.out, 3, 2, 1, bias=False)
        x = m.add("image_sequence", AsSequence(), x)
        x = m.linear("projector", x, self.out, self.out, True)
        return (m.add("image_rows", Reshape((B, G, self.out)), x),)
