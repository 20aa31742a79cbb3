"""What classes of encoders make of the last hidden state: logits, labels, a pooled position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer

from costgraph.models.blocks import FeedForward, Maker, Norm
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import Transform
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, Linear, SelectLast, Split
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape

ONE = Integer(1)


class Head(Protocol):
    """What an encoder's class makes of the last hidden state."""

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; ``table`` is the embedding table."""


@dataclass(frozen=True)
class MaskedHead:
    """Prediction of masked tokens: a product, an activation, a norm, the tied projection.

    ``d`` is the width of what is projected, which the product makes. ``bias`` says whether the
    first product has one; the last always does. ``tied``: the last has the embedding table.
    """

    d: Expr
    vocab: Expr
    activation: str
    norm: Norm
    bias: bool = True
    tied: bool = True

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; every position gets logits."""
        x = Transform(self.activation, self.norm, self.bias).add(m, hidden, self.d)
        if not self.tied:
            return m.linear("lm_head", x, self.vocab, self.d, True)
        return m.add("lm_head", Linear(bias=True), x, table, m.vector("lm_head.bias", self.vocab))


@dataclass(frozen=True)
class ProjectedHead:
    """Logits of every position by one projection, tied to the embeddings or not."""

    d: Expr
    vocab: Expr
    tied: bool
    bias: bool = False

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        if not self.tied:
            return m.linear("lm_head", hidden, self.vocab, self.d, self.bias)
        biases = [m.vector("lm_head.bias", self.vocab)] if self.bias else []
        return m.add("lm_head", Linear(bias=self.bias), hidden, table, *biases)


@dataclass(frozen=True)
class PooledHead:
    """What BERT's classes make of the first position: a product, an activation, labels.

    ``labels`` is None for the pooler alone, whose result an embedding model takes.
    """

    d: Expr
    labels: Expr | None = None
    activation: str = "tanh"

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; selecting the first position costs what selecting the last does."""
        x = m.add("first_position", SelectLast(ONE), hidden)
        x = m.linear("pooler", x, self.d, self.d, True)
        x = m.add("pooler_act", Activation(self.activation), x)
        return x if self.labels is None else m.linear("classifier", x, self.labels, self.d, True)


@dataclass(frozen=True)
class FirstProjected:
    """A product with bias of every position, of whose results the first is taken."""

    d: Expr
    width: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; selecting the first position costs what selecting the last does."""
        return m.add(
            "first_position",
            SelectLast(ONE),
            m.linear("transform", hidden, self.width, self.d, True),
        )


@dataclass(frozen=True)
class LatentHead:
    """Positions look at learned rows, and a feed-forward block follows (arXiv 2405.17428).

    Both stand behind layer norms; keys and values of the rows are made for every text anew.

    Attributes:
        at: heads; keys and values are of one matrix.
        rows: learned rows, as wide as hidden states.
        feed: the feed-forward block.
    """

    at: Heads
    rows: Expr
    feed: FeedForward

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; ``hidden (B, q, d)`` to ``(B, q, d)``."""
        at, few = self.at, (self.at.heads, self.at.head_dim)
        rows = m.weight("latents.weight", self.rows, at.d)
        rows = m.add("latents", Expand((m.shape(hidden)[0], self.rows, at.d)), rows)
        x = m.norm("latent_query_norm", hidden, at.d, LAYER_NORM)
        rows = m.norm("latent_norm", rows, at.d, LAYER_NORM)
        query = at.project(m, "q", x, "latent_")
        packed = m.linear("latent_kv_proj", rows, 2 * at.width, at.d)
        key, value = m.add_many("latent_kv_split", Split((few, few)), packed)
        mixed = attended(m, query, key, value, FULL, prefix="latent_")
        x = m.add("latent_add", Add(), at.out(m, mixed, "latent_"), hidden)
        fed = self.feed.add(m, m.norm("latent_mlp_norm", x, at.d, LAYER_NORM), "latent_")
        return m.add("latent_mlp_add", Add(), fed, x)


@dataclass(frozen=True)
class First:
    """The first position as it is."""

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; selecting the first position costs what selecting the last does."""
        return m.add("first_position", SelectLast(ONE), hidden)


@dataclass(frozen=True)
class Resting:
    """A head beside weights of its class that a pass leaves alone: they only rest in memory."""

    weights: tuple[tuple[str, Expr], ...]
    head: Head | None

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the weights and the head."""
        for name, size in self.weights:
            m.vector(name, size)
        return hidden if self.head is None else self.head.add(m, hidden, table)


@dataclass(frozen=True)
class LabelHead:
    """A projection with bias of every position to ``labels`` values.

    With an ``activation`` a product as wide as the hidden state stands in front of it.
    """

    d: Expr
    labels: Expr
    activation: str | None = None

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        if self.activation is not None:
            hidden = m.linear("head_proj", hidden, self.d, self.d, True)
            hidden = m.add("head_act", Activation(self.activation), hidden)
        return m.linear("classifier", hidden, self.labels, self.d, True)


@dataclass(frozen=True)
class VectorHead:
    """A vector of unit length for every position: a product with bias, and its length."""

    d: Expr
    width: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; unit length is a root mean square up to a constant."""
        made = m.linear("vectors", hidden, self.width, self.d, True)
        return m.norm("unit", made, self.width, Norm("rms", weight=False))


@dataclass(frozen=True)
class TransformedHead:
    """A product, an activation and a norm, and ``labels`` values with biases behind them.

    ``transform``: the first three, or None. ``pools``: of the first position (``cls``), of the
    mean of all (``mean``), or of every one.
    """

    d: Expr
    labels: Expr
    transform: Transform | None
    pools: str = ""

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        if self.pools == "cls":
            hidden = m.add("first_position", SelectLast(ONE), hidden)
        elif self.pools == "mean":
            hidden = m.add("mean_position", Reduce("mean", (1,), keep=True), hidden)
        if self.transform is not None:
            hidden = self.transform.add(m, hidden, self.d)
        return m.linear("classifier", hidden, self.labels, self.d, True)


@dataclass(frozen=True)
class MeanHead:
    """What a head makes of the mean of all positions, or, ``late``, the mean of what it makes."""

    head: Head
    late: bool = False

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds both."""
        if self.late:
            return m.add("mean_label", Reduce("mean", (1,)), self.head.add(m, hidden, table))
        mean = m.add("mean_position", Reduce("mean", (1,), keep=True), hidden)
        return self.head.add(m, mean, table)


@dataclass(frozen=True)
class HalvedNorm:
    """The mean of each two positions, and a norm behind it."""

    d: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds both; ``hidden (B, q, d)`` to ``(B, q/2, d)``."""
        batch, length, d = m.shape(hidden)
        x = m.add("pairs", Reshape((batch, length / 2, Integer(2), d)), hidden)
        x = m.add("halved", Reduce("mean", (2,)), x)
        return m.norm("final_norm", x, self.d, Norm("layer", True))


@dataclass(frozen=True)
class PretrainedHeads:
    """Both heads of a class that computes both: of all tokens, and of the first position."""

    masked: Head
    pooled: PooledHead

    def both(self, m: Maker, hidden: str, table: str) -> tuple[str, str]:
        """Adds both: what all positions become, and what the first becomes."""
        return self.masked.add(m, hidden, table), self.pooled.add(m, hidden, table)
