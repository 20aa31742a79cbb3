"""Granite Speech (arXiv 2505.08699): a Conformer in blocks, and a Q-Former over its windows."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, ilcm

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Hearing
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.resampler import QueryLayer, seen_by
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.conformer import half_step, near_bias
from costgraph.models.waves import as_channels, gated_conv
from costgraph.ops import Add, AsSequence, Concat, Embedding, Scale, Split
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class BlockLayer:
    """Half a feed-forward block, attention in blocks, a convolution, half a feed-forward block.

    Attributes:
        length: positions of a sound.
        at, feed: heads and feed-forward block.
        block: positions that see one another; scores also compare queries with a learned row of
            each distance, of which there are ``rows``.
        kernel: taps of the depthwise convolution, over ``inner`` channels.
    """

    length: Expr
    at: Heads
    feed: FeedForward
    block: Expr
    rows: Expr
    kernel: int
    inner: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The number of each distance."""
        return (Tensor("apart", (self.block, self.block), INT64),)

    def graph(self, style: Style) -> Graph:
        """The layer: sequence and distances in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = half_step(m, self.feed, "first_", x)
        mixed = self._attention(m, m.norm("attn_norm", x, d, LAYER_NORM))
        x = m.add("attn_add", Add(), mixed, x)
        y = as_channels(m, "channels", m.norm("conv_norm", x, d, LAYER_NORM))
        y = as_channels(m, "inner", gated_conv(m, "widen", y, self.inner, 1, 1, 0))
        y = conv(m, "dwconv", y, self.inner, self.kernel, 1, self.kernel // 2, self.inner, False)
        y = act(m, "conv_act", batch_norm(m, "batch_norm", y), "silu")
        y = m.add("conv_rows", AsSequence(), conv(m, "mix", y, d, 1))
        x = half_step(m, self.feed, "second_", m.add("conv_add", Add(), y, x))
        return m.build(m.norm("out_norm", x, d, LAYER_NORM))

    def _attention(self, m: Maker, x: str) -> str:
        at, split = self.at, (self.at.heads, self.at.head_dim)
        near = (B * self.length / self.block, self.block, *split)
        query = at.project(m, "q", x)
        packed = m.linear("kv_proj", x, 2 * at.width, at.d, False)
        key, value = m.add_many("kv_split", Split((split,) * 2), packed)
        query, key, value = (
            m.add(f"{name}_blocks", Reshape(near), part)
            for name, part in (("q", query), ("k", key), ("v", value))
        )
        table = m.weight("distances.weight", self.rows, at.head_dim)
        rows = m.add("distance_embed", Embedding(result=m.style.acts), "apart", table)
        bias = m.add("distance_scale", Scale(), near_bias(m, query, rows))
        mixed = attended(m, query, key, value, FULL, bias)
        return at.out(m, m.add("whole", Reshape((B, self.length, *split)), mixed))


@dataclass(frozen=True)
class GraniteEars(Hearing):
    """Granite Speech's encoder, and queries that attend to each window of its positions.

    Attributes:
        mels: of a frame, of which each makes a position.
        layer, layers: of the encoder, and their number; behind half of them letters are guessed,
            of which there are ``letters``, and what is guessed is added.
        window, queries: positions of a window, and the queries that make a token of it each.
        asked, fed, rounds, every: heads, feed-forward block and layers of the queries, of which
            each so many attend to the window.
        out: width of the language model.
        beside: layers whose results stand beside those of the last one; 0 is in front of all.
    """

    mels: Expr
    layer: BlockLayer
    layers: int
    letters: Expr
    window: Expr
    queries: Expr
    asked: Heads
    fed: FeedForward
    rounds: int
    every: int
    out: Expr
    beside: tuple[int, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Full blocks and windows."""
        common = Integer(ilcm(int(self.layer.block), int(self.window)))
        whole = common * self.queries / self.window
        return (
            "G audio tokens, which the prompt's S tokens include, are one sound per sequence; "
            f"blocks and windows are full where G is a multiple of {whole}",
        )

    def positions(self, style: Style) -> Expr:
        """Positions of the sound of a sequence."""
        return self.layer.length

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder and queries: rows."""
        length, d, block = self.layer.length, self.layer.at.d, self.layer.block
        x = m.source(Tensor("spectrogram", (B, length, self.mels), m.style.acts))
        x = m.linear("front_proj", x, d, self.mels, True)
        apart = m.source(Tensor("apart", (block, block), INT64))
        half, start, kept = self.layers // 2, 0, [x] if 0 in self.beside else []
        for end in sorted({*self.beside, half, self.layers} - {0}):
            name = "early_layers" if end <= half else "late_layers"
            name = name if end in (half, self.layers) else f"{name}{end}"
            x = run(m, (Segment(name, self.layer, Integer(end - start)),), x, apart=apart)
            start, kept = end, [*kept, x] if end in self.beside else kept
            if end == half:
                y = m.add("guessed", SoftmaxOver(2), m.linear("letters", x, self.letters, d, True))
                x = m.add("guess_add", Add(), m.linear("guesses", y, d, self.letters, True), x)
        if kept:
            x = m.add("features", Concat(), *kept, x)
        count, wide = B * G / self.queries, m.shape(x)[-1]
        x = self._asked(m, m.add("windows", Reshape((count, self.window, wide)), x))
        x = m.linear("projector", x, self.out, self.asked.d, True)
        return (m.add("audio_rows", Reshape((B, G, self.out)), x),)

    def _asked(self, m: Maker, rows: str) -> str:
        """Adds the queries: ``(windows, n, c)`` to ``(windows, queries, d)``.

        They are the same for all windows until they attend to one, as in the published code.
        """
        at, (count, length, source) = self.asked, m.shape(rows)
        x = m.vector("queries", ONE, self.queries, at.d)
        x = m.norm("query_norm", x, at.d, LAYER_NORM)
        x = seen_by(m, at, x, x, "first_")
        query = at.project(m, "q", x, "first_cross_")
        query = m.add("first_each", Expand((count, *m.shape(query)[1:])), query)
        key, value = (at.project(m, name, rows, "first_cross_") for name in ("k", "v"))
        mixed = attended(m, query, key, value, FULL, prefix="first_cross_")
        mixed = at.out(m, mixed, "first_cross_")
        x = m.add("first_rows", Expand((count, self.queries, at.d)), x)
        x = m.norm("first_cross_norm", m.add("first_cross_add", Add(), mixed, x), at.d, LAYER_NORM)
        x = m.add("first_mlp_add", Add(), self.fed.add(m, x, "first_"), x)
        x = m.norm("first_mlp_norm", x, at.d, LAYER_NORM)
        kinds = (
            (
                "asking_layers" if i % self.every == 0 else "plain_layers",
                QueryLayer(count, self.queries, length, source, at, self.fed, i % self.every == 0),
            )
            for i in range(1, self.rounds)
        )
        return run(m, gathered(kinds), x, rows=rows)
