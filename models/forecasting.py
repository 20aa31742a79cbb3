"""Forecasters of series of numbers: an encoder over patches of a series, an answer in one pass."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import embed, run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import Encoder, EncoderDecoder, fixed_positions
from costgraph.ops import Activation, Add, Embedding, Multiply, Scale
from costgraph.ops.arrays import Join
from costgraph.ops.pattern import counted
from costgraph.ops.views import Expand
from costgraph.symbols import B, S, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class ResidualBlock:
    """Two products around an activation, beside one product: all with biases, or none."""

    wide: Expr
    out: Expr
    activation: str
    bias: bool = True

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds it; ``x (B, n, c)`` becomes ``(B, n, out)``."""
        width = m.shape(x)[-1]
        y = m.linear(f"{name}_hidden", x, self.wide, width, self.bias)
        y = m.add(f"{name}_act", Activation(self.activation), y)
        y = m.linear(f"{name}_output", y, self.out, self.wide, self.bias)
        beside = m.linear(f"{name}_residual", x, self.out, width, self.bias)
        return m.add(f"{name}_add", Add(), y, beside)


@dataclass(frozen=True)
class SeriesFront:
    """Patches of a series, each beside what says which of its values are there.

    Attributes:
        patch: values of a patch.
        block: makes a position of a patch and its mask.
        rows: of the embedding table, whose last one stands behind the patches where there are
            two.
    """

    patch: Expr
    block: ResidualBlock
    rows: int

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front over ``q`` positions: (hidden state, embedding table or nothing)."""
        behind = self.rows - 1
        shape = (B, q - behind, 2 * self.patch)
        x = self.block.add(m, "input", m.source(Tensor("patches", shape, m.style.acts)))
        if not behind:
            return x, ""
        table = m.weight("embed.weight", Integer(self.rows), self.block.out)
        ids = m.source(Tensor("behind_ids", (B, ONE), INT64))
        last = m.add("behind", Embedding(result=m.style.acts), ids, table)
        return m.add("series", Join(1), x, last), table


@dataclass(frozen=True)
class SampledFront:
    """Patches of a series as above, and a learned row that says how often it was sampled.

    ``kinds`` such rows; ``placed``: sines of positions are added, which are no parameters.
    """

    patch: Expr
    block: ResidualBlock
    kinds: Expr
    placed: bool

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front over ``q`` positions: (hidden state, no table)."""
        patches = m.source(Tensor("patches", (B, q, 2 * self.patch), m.style.acts))
        x = self.block.add(m, "input", patches)
        x = fixed_positions(m, x) if self.placed else x
        ids = m.source(Tensor("kind_ids", (B, ONE), INT64))
        table = m.weight("kinds.weight", self.kinds, self.block.out)
        kind = m.add("kind_embed", Embedding(result=m.style.acts), ids, table)
        kind = m.add("kind_rows", Expand((B, q, self.block.out)), kind)
        return m.add("kind_add", Add(), x, kind), ""


@dataclass(frozen=True)
class SampledLayer:
    """A layer of TimesFM: queries are scaled per channel, and positions see earlier ones.

    Attributes:
        at: heads.
        feed: the feed-forward block; ``fed_norm``: in front of it.
        post_norms: norms behind both blocks, before the residual additions.
    """

    at: Heads
    feed: FeedForward
    fed_norm: Norm = LAYER_NORM
    post_norms: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """A rotary table, where heads are turned."""
        return self.at.shared(style, q)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in, hidden state out."""
        m, at = Maker("layer", style), self.at
        x = m.source(Tensor("hidden", (B, q, at.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        query, key, value = at.all(m, m.norm("attn_norm", x, at.d, Norm()))
        scale = m.add("scale", Activation("softplus"), m.vector("scale.weight", at.head_dim))
        query = m.add("q_scale", Multiply(), query, m.add("scale_all", Scale(), scale))
        mixed = at.out(m, attended(m, query, key, value, counted(style.mask)))
        x = m.add("attn_add", Add(), self._behind(m, "attn", mixed), x)
        fed = self.feed.add(m, m.norm("mlp_norm", x, at.d, self.fed_norm))
        return m.build(m.add("mlp_add", Add(), self._behind(m, "mlp", fed), x))

    def _behind(self, m: Maker, name: str, made: str) -> str:
        return m.norm(f"{name}_post_norm", made, self.at.d, Norm()) if self.post_norms else made


@dataclass(frozen=True)
class Quantiles:
    """What a forecaster makes of every position: quantiles of the steps ahead of it."""

    block: ResidualBlock

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds it to the last hidden state."""
        return self.block.add(m, "answer", hidden)


@dataclass(frozen=True)
class SpreadForecaster(Encoder):
    """A forecaster whose ``spread`` block answers beside its head: how far apart quantiles lie."""

    spread: ResidualBlock | None = None

    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B`` and ``q``."""
        m = Maker(name, style)
        hidden, table = self.body(m)
        assert isinstance(self.head, Quantiles)
        assert self.spread is not None
        answer = self.head.add(m, hidden, table)
        return m.build(answer, self.spread.add(m, "spread", hidden))


@dataclass(frozen=True)
class Forecaster(EncoderDecoder):
    """T5 over patches of a series, whose decoder answers at one position (Chronos-Bolt).

    ``answer`` makes all quantiles of all steps ahead of that position.
    """

    answer: ResidualBlock | None = None

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        hidden, _ = embed(m, self.ends)
        given = {} if self.buckets is None else self.buckets.given(m, T)
        hidden = run(m, (Segment("decoder", self.layer, self.layers),), hidden, **given)
        hidden = m.norm("final_norm", hidden, self.ends.d, self.layer.norm)
        assert self.answer is not None
        return m.build(self.answer.add(m, "answer", hidden))

    def program(self, name: str, style: Style) -> Program:
        """The program of two phases: ``encode`` and ``forward``, at one position."""
        encode, step = self.encode_graph(f"{name} encoder", style), self.graph(name, style)
        encoder = Resident(encode, shared=self.shared)
        decoder = Resident(step, shared=self.shared, part=True)
        none = Integer(0)
        phases = (
            Phase("encode", encode, ((q, S), (T, ONE)), tokens=none, resident=(decoder,)),
            Phase("forward", step, ((q, ONE), (T, ONE)), tokens=none, resident=(encoder,)),
        )
        return Program(name, phases, limits=self.limits)
