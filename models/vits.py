"""VITS (Kim et al., arXiv 2106.06103): a text to a sound, in one pass.

``S`` tokens last as long as the model says: together ``G`` frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Ends, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, even
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.durations import Durations, PlainDurations
from costgraph.models.hifigan import Voice
from costgraph.models.vision import OnePass, embedded
from costgraph.ops import (
    Add,
    AsSequence,
    AttentionScores,
    AttentionValues,
    Embedding,
    Multiply,
    Softmax,
)
from costgraph.ops.arrays import Copy, Join
from costgraph.ops.image import Cut
from costgraph.ops.maps import Cumulate, Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, G, S

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class SpokenLayer:
    """A layer over the text: learned rows for near distances, and two convolutions.

    Attributes:
        at: heads.
        wide, taps, activation: of the convolutions.
        reach: distances on either side that have rows of their own, or None.
    """

    at: Heads
    wide: Expr
    taps: int
    activation: str
    reach: int | None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, S, d), style.acts))
        x = m.add("attn_add", Add(), x, self._mixed(m, x))
        x = m.norm("attn_norm", x, d, LAYER_NORM)
        y = m.add("mlp_channels", Transpose((0, 2, 1)), x)
        y = act(m, "mlp_act", even(m, "mlp_conv1", y, self.wide, self.taps), self.activation)
        y = m.add("mlp_rows", AsSequence(), even(m, "mlp_conv2", y, d, self.taps))
        return m.build(m.norm("mlp_norm", m.add("mlp_add", Add(), x, y), d, LAYER_NORM))

    def _mixed(self, m: Maker, x: str) -> str:
        """Adds attention; rows of distances out of reach are zeros, which the class multiplies."""
        at, every = self.at, 2 * S - 1
        query, key, value = (at.project(m, part, x) for part in "qkv")
        scores = m.add("qk_matmul", AttentionScores(FULL), query, key)
        if self.reach is not None:
            rows = m.weight("near_keys.weight", Integer(2 * self.reach + 1), at.head_dim)
            rows = m.add("near_keys", Copy((every, at.head_dim)), rows)
            rows = m.add("near_columns", Transpose((1, 0)), rows)
            near = m.add("near_matmul", MatMul(), query, rows)
            # Each position takes its own distances: a view that moves with it.
            near = m.add("near_own", Slice(3, ZERO, S), near)
            near = m.add("near_heads", Transpose((0, 2, 1, 3)), near)
            scores = m.add("near_add", Add(), scores, near)
        shares = m.add("softmax", Softmax(FULL), scores)
        mixed = m.add("sv_matmul", AttentionValues(FULL), shares, value)
        if self.reach is not None:
            rows = m.weight("near_values.weight", Integer(2 * self.reach + 1), at.head_dim)
            rows = m.add("near_values", Copy((every, at.head_dim)), rows)
            wide = m.add("near_shares", Copy((B, at.heads, S, every)), shares)
            told = m.add("near_told", MatMul(), wide, rows)
            told = m.add("near_rows", Transpose((0, 2, 1, 3)), told)
            mixed = m.add("near_told_add", Add(), mixed, told)
        return at.out(m, mixed)


@dataclass(frozen=True)
class Wave:
    """Gated convolutions of WaveNet, each with a gain for every row, which rests.

    Attributes:
        d, layers, taps, growth: width, layers, taps, and how much further apart the taps of each
            layer are than those of the one before.
        voice: width of a voice's vector that is added in every layer, or 0.
    """

    d: Expr
    layers: int
    taps: int
    growth: int
    voice: int

    @property
    def parameters(self) -> Expr:
        """Numbers of its weights."""
        d, n = self.d, self.layers
        inner = n * (2 * d * d * self.taps + 4 * d)
        outer = (n - 1) * (2 * d * d + 4 * d) + d * d + 2 * d
        told = 2 * d * n * (self.voice + 2) if self.voice else ZERO
        return inner + outer + told

    def add(self, m: Maker, x: str, voice: str) -> str:
        """Adds it over ``x (B, d, n)``; ``voice (B, v, 1)`` or an empty name."""
        d, total, told = self.d, "", ""
        if self.voice:
            told = self._conv(m, "voice", voice, 2 * d * self.layers, 1) if voice else ""
            if not voice:
                m.vector("voice.rows", 2 * d * self.layers * (self.voice + 2))
        for index in range(self.layers):
            name = f"wave{index}"
            y = self._conv(m, name, x, 2 * d, self.taps, self.growth**index)
            if told:
                part = m.add(f"{name}_voice", Slice(1, 2 * d * index, 2 * d), told)
                y = m.add(f"{name}_voice_add", Map("add"), y, part)
            first, second = m.add_many(f"{name}_halves", Cut((d, d)), y)
            first, second = (
                act(m, f"{name}_tanh", first, "tanh"),
                act(m, f"{name}_gate", second, "sigmoid"),
            )
            y = m.add(f"{name}_mul", Multiply(), first, second)
            last = index == self.layers - 1
            y = self._conv(m, f"{name}_out", y, d if last else 2 * d, 1)
            if not last:
                rest, y = m.add_many(f"{name}_parts", Cut((d, d)), y)
                x = m.add(f"{name}_add", Add(), x, rest)
            total = m.add(f"{name}_sum", Add(), total, y) if total else y
        return total

    def _conv(self, m: Maker, name: str, x: str, out: Expr, taps: int, gap: int = 1) -> str:
        m.vector(f"{name}.gain", out)
        return even(m, name, x, out, taps, gap)


@dataclass(frozen=True)
class Flow:
    """A step of the flow: one half of the channels moves the other.

    Attributes:
        width: channels.
        wave: what makes the moves.
        told: a voice is told.
    """

    width: Expr
    wave: Wave
    told: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The vector of the voice, where there is one."""
        if not self.told:
            return ()
        return (Tensor("voice_vector", (B, Integer(self.wave.voice), ONE), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The step: frames in, frames out."""
        m, half = Maker("flow", style), self.width / 2
        x = m.source(Tensor("hidden", (B, self.width, G), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        first, second = m.add_many("halves", Cut((half, half)), m.add("flip", Copy(m.shape(x)), x))
        y = even(m, "pre", first, self.wave.d, 1)
        y = self.wave.add(m, y, "voice_vector" if self.told else "")
        second = m.add("moved", Map("sub"), second, even(m, "post", y, half, 1))
        return m.build(m.add("joined", Join(1), first, second))


@dataclass(frozen=True)
class Vits(OnePass):
    """``B`` texts of ``S`` tokens, each spoken in ``G`` frames.

    Attributes:
        words: embeddings.
        layer, layers: over the text.
        lengths: how long tokens last.
        width: channels of the flow; ``flow``, ``flows``: its steps.
        voice: what makes the sound.
        speakers: rows of the table of voices, of which each text takes one; 0 where there is one
            voice.
        told: width of a voice's vector that weights are made for.
        resting: numbers of weights that only training runs.
    """

    words: Ends
    layer: SpokenLayer
    layers: Expr
    lengths: Durations | PlainDurations
    width: Expr
    flow: Flow
    flows: Expr
    voice: Voice
    speakers: int
    told: int
    resting: Expr

    def positions(self, style: Style) -> Expr:
        return S

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.words.d
        m.vector("training.rows", self.resting)
        voice = self._told(m) if self.speakers else ""
        x = embedded(m, self.words)
        x = run(m, (Segment("text_layers", self.layer, self.layers),), x)
        rows = m.add("text_channels", Transpose((0, 2, 1)), x)
        stats = m.linear("stats", x, 2 * self.width, d, True)
        lengths = self.lengths.add(m, rows, voice, self.told)
        x = self._stretched(m, lengths, stats)
        given = {"voice_vector": voice} if voice else {}
        x = run(m, (Segment("flow", self.flow, self.flows),), x, **given)
        return m.build(self.voice.add(m, x, voice, self.told))

    def _told(self, m: Maker) -> str:
        ids = m.source(Tensor("speaker_ids", (B,), INT64))
        wide = Integer(self.told)
        table = m.weight("speakers.weight", Integer(self.speakers), wide)
        found = m.add("speaker_embed", Embedding(result=m.style.acts), ids, table)
        return m.add("speaker_column", Reshape((B, wide, ONE)), found)

    def _stretched(self, m: Maker, lengths: str, stats: str) -> str:
        """Adds a draw for each frame: means and spreads of its token, which a product takes."""
        length = m.add("length", Map("ceil"), m.add("length_exp", Map("exp"), lengths))
        ends = m.add("length_scale", Map("scale"), length)
        ends = m.add("length_ends", Reshape((B, S, ONE)), m.add("length_sum", Cumulate(), ends))
        frames = m.source(Tensor("frames", (G,), m.style.acts))
        within = m.add("within", Map("lt"), frames, ends)
        own = m.add("own", Map("sub"), within, within)
        own = m.add("own_rows", Transpose((0, 2, 1)), own)
        parts = []
        for index, part in enumerate(("means", "spreads")):
            some = m.add(part, Slice(2, self.width * index, self.width), stats)
            some = m.add(f"{part}_frames", MatMul(), own, some)
            parts.append(m.add(f"{part}_channels", Transpose((0, 2, 1)), some))
        shape = (B, self.width, G)
        noise = m.add("frame_noise_scale", Map("scale"),
                      m.source(Tensor("frame_noise", shape, m.style.acts)))  # fmt: skip
        spread = m.add("spread", Map("mul"), noise, m.add("spread_exp", Map("exp"), parts[1]))
        return m.add("draw", Map("add"), parts[0], spread)
