"""A whole step: embeddings, runs of equal layers, and the projection to logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, Embedding, Linear, Sample, Scale, SelectLast, SoftCap
from costgraph.ops.maps import Map
from costgraph.symbols import B, T, q


class Repeatable(Protocol):
    """What a segment repeats: a layer, or a period of several."""

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands beside the hidden state."""

    def graph(self, style: Style) -> Graph:
        """The body: hidden state and shared operands in, hidden state out."""


@dataclass(frozen=True)
class Segment:
    """``count`` equal layers in a row, as the region ``name``.

    Layers that do not stand in a row have ``places``: their numbers among the layers of this
    segment and of those beside it. ``sets`` says how many sets of weights there are where
    layers share them.
    """

    name: str
    layer: Repeatable
    count: Expr
    places: tuple[int, ...] = ()
    sets: Expr | None = None


@dataclass(frozen=True)
class Period:
    """Several segments that recur together: layer patterns such as five and one."""

    d: Expr
    segments: tuple[Segment, ...]

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of all segments, each once."""
        return tuple(dict.fromkeys(t for s in self.segments for t in s.layer.operands(style)))

    def graph(self, style: Style) -> Graph:
        """The body of one period."""
        m = Maker("period", style)
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        return m.build(run(m, self.segments, x))


@dataclass(frozen=True)
class Output:
    """What a language model makes of its last hidden states.

    ``logits`` over the vocabulary; ``bare``: nothing; ``score``: a projection to ``labels``
    values, as classifiers and reward models have: at the last position or at ``every`` one, with
    or without ``bias``. ``inner``: the activation behind a product in front of it, which keeps
    the width and has a bias, or nothing. ``unit``: the values of a position are brought to a
    length of one.
    """

    kind: str = "logits"
    labels: Expr = Integer(0)
    bias: bool = False
    every: bool = False
    inner: str = ""
    unit: bool = False


LOGITS, BARE = Output(), Output("bare")


@dataclass(frozen=True)
class Transform:
    """What stands in front of the projection to logits: a product, an activation, a norm."""

    activation: str
    norm: Norm
    bias: bool = False

    def add(self, m: Maker, hidden: str, width: Expr) -> str:
        """Adds it; ``hidden (B, q, c)`` becomes ``(B, q, width)``."""
        made = m.linear("head_proj", hidden, width, m.shape(hidden)[-1], self.bias)
        made = m.add("head_act", Activation(self.activation), made)
        return m.norm("head_norm", made, width, self.norm)


@dataclass(frozen=True)
class Ends:
    """What stands around the layers of a language model.

    Attributes:
        d, vocab: hidden size and vocabulary.
        positions: rows of a learned position table, or None.
        unused: rows of that table that stand for no position.
        fixed: a table of positions that is no parameter is added.
        embed_dim: embedding width where it differs from ``d`` (projected).
        embed_scale: embeddings are multiplied by a constant.
        embed_norm: normalisation of the embeddings, or None.
        norm: final normalisation, or None.
        tied: the projection to logits uses the embedding table.
        head_bias: bias of that projection.
        logit_cap: logits pass through a soft cap.
        logit_scale: logits are multiplied by a constant.
        logit_weights: each logit is multiplied by a learned number of its own.
        head_scale: the hidden state is, in front of that projection.
        all_logits: every position needs logits, whatever the style says.
        output: what the last hidden states become.
        unsaid: rows of the embedding table behind those that logits have.
        transform: what stands in front of the projection to logits, or to a score, or None.
    """

    d: Expr
    vocab: Expr
    positions: Expr | None = None
    unused: int = 0
    fixed: bool = False
    embed_dim: Expr | None = None
    embed_scale: bool = False
    embed_norm: Norm | None = None
    norm: Norm | None = Norm()
    tied: bool = False
    head_bias: bool = False
    logit_cap: bool = False
    logit_scale: bool = False
    logit_weights: bool = False
    head_scale: bool = False
    all_logits: bool = False
    output: Output = LOGITS
    unsaid: int = 0
    transform: Transform | None = None

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Contexts are no longer than the table of positions, where there is one."""
        return () if self.positions is None else positions_end(T, self.positions - self.unused)


def positions_end(symbol: Symbol, longest: Expr | int | None) -> tuple[Limit, ...]:
    """The limit that a table of ``longest`` positions sets; none without one."""
    if longest is None:
        return ()
    end = Integer(longest) if isinstance(longest, int) else longest
    return (Limit(symbol, end, "the model has no positions beyond"),)


@dataclass(frozen=True)
class Uneven:
    """A model whose layers are not all alike, with a graph of its own.

    Attributes:
        ends: around the layers.
    """

    ends: Ends

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What contexts the model has positions for."""
        return self.ends.limits

    def symbolic(self) -> NoReturn:
        """Refused: layers differ.

        Raises:
            InputError: always.
        """
        raise InputError("this model keeps no symbolic dimensions: its layers are not all alike")


@dataclass(frozen=True)
class Stack:
    """A decoder-only model: ends and segments of layers."""

    ends: Ends
    segments: tuple[Segment, ...]

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What contexts the model has positions for."""
        return self.ends.limits

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        ends = self.ends
        m = Maker(name, style)
        hidden, table = embed(m, ends)
        hidden = run(m, self.segments, hidden)
        return m.build(close(m, ends, hidden, table))

    def symbolic(self) -> tuple[Stack, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values.

        Raises:
            InputError: its layers are of more kinds than dense ones and ones with experts, or
                of a kind that keeps no symbols.
        """
        from costgraph.models.blocks.dimensions import Dimensions

        found = Dimensions()
        segments, ends = found.segments(self.segments), found.of(self.ends)
        return replace(self, ends=ends, segments=segments), found.values


def run(m: Maker, segments: tuple[Segment, ...], hidden: str, **given: str) -> str:
    """Adds the segments in order as regions; returns the last hidden state.

    Shared operands are sources of the graph, except those that ``given`` names
    tensors for.
    """
    for segment in segments:
        wanted = segment.layer.operands(m.style)
        shared = [given[t.name] if t.name in given else m.source(t) for t in wanted]
        region = Repeat(
            segment.layer.graph(m.style),
            segment.count,
            places=segment.places,
            shared_weights=segment.sets,
        )
        hidden = m.add(segment.name, region, hidden, *shared)
    return hidden


def embed(m: Maker, ends: Ends) -> tuple[str, str]:
    """Adds the embeddings: (hidden state, embedding table)."""
    acts = m.style.acts
    width = ends.embed_dim or ends.d
    ids = m.source(Tensor("ids", (B, q), INT64))
    table = m.weight("embed.weight", ends.vocab + ends.unsaid, width)
    hidden = m.add("embed", Embedding(result=acts), ids, table)
    if ends.embed_scale:
        hidden = m.add("embed_scale", Scale(), hidden)
    if ends.embed_dim is not None:
        hidden = m.linear("embed_proj", hidden, ends.d, width)
    if ends.positions is not None:
        places = m.source(Tensor("position_ids", (q,), INT64))
        learned = m.weight("positions.weight", ends.positions, ends.d)
        position = m.add("position_embed", Embedding(result=acts), places, learned)
        hidden = m.add("position_add", Add(), hidden, position)
    if ends.fixed:
        made = m.source(Tensor("position_rows", (q, ends.d), acts))
        hidden = m.add("position_add", Add(), hidden, made)
    if ends.embed_norm is not None:
        hidden = m.norm("embed_norm", hidden, ends.d, ends.embed_norm)
    return hidden, table


def close(m: Maker, ends: Ends, hidden: str, table: str) -> str:
    """Adds the final norm and the output layer; returns the sampled tokens.

    Of a model without logits: its scores, or its hidden states.
    """
    if ends.norm is not None:
        hidden = m.norm("final_norm", hidden, ends.d, ends.norm)
    width = ends.embed_dim or ends.d
    if ends.embed_dim is not None:
        hidden = m.linear("output_proj", hidden, width, ends.d)
    if ends.output.kind == "bare":
        return hidden
    last = m.style.logits == "last" and not ends.all_logits and not ends.output.every
    hidden = m.add("last_position", SelectLast(Integer(1) if last else q), hidden)
    if ends.transform is not None:
        hidden = ends.transform.add(m, hidden, width)
    if ends.output.kind == "score":
        if ends.output.inner:
            hidden = m.linear("score_inner", hidden, width, width, True)
            hidden = m.add("score_act", Activation(ends.output.inner), hidden)
        made = m.linear("score", hidden, ends.output.labels, width, ends.output.bias)
        if not ends.output.unit:
            return made
        # Unit length is a root mean square up to a constant.
        return m.norm("score_unit", made, ends.output.labels, Norm("rms", weight=False))
    if ends.head_scale:
        hidden = m.add("head_scale", Scale(), hidden)
    if ends.tied:
        operands = [hidden, table]
        if ends.head_bias:
            operands.append(m.weight("lm_head.bias", ends.vocab))
        logits = m.add("lm_head", Linear(bias=ends.head_bias), *operands)
    else:
        logits = m.linear("lm_head", hidden, ends.vocab, width, ends.head_bias)
    if ends.logit_scale:
        logits = m.add("logit_scale", Scale(), logits)
    if ends.logit_weights:
        weights = m.vector("logit_weights", ends.vocab)
        logits = m.add("logit_weigh", Map("mul"), logits, weights)
    if ends.logit_cap:
        logits = m.add("logit_cap", SoftCap(), logits)
    return m.add("sample", Sample(), logits)
