"""Embeddings of n-grams that are put on the streams of a hidden state (Qwen4-Exp)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm
from costgraph.ops import Activation, Add, CausalConv1d, Embedding
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.ngrams import HashedNGrams
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q

ONE = Integer(1)
#: The ids of the step: those of the embeddings.
IDS = Tensor("ids", (B, q), INT64)


@dataclass(frozen=True)
class NGrams:
    """What the last tokens, as n-grams, add to each stream of ``(B, q, n, d)``.

    Every order of n-grams from two on has some hashes; each looks up a row. All rows of a token
    make one value, and a key for each stream: how well it fits the stream gates the value. A
    depthwise convolution over what is far apart by ``size`` positions is added.

    Attributes:
        d, streams: hidden size and streams.
        size: tokens of the longest n-gram.
        heads: hashes of each order.
        width: of all rows of a token together.
        rows: of the table.
        conv: positions that the convolution sees.
    """

    d: Expr
    streams: Expr
    size: Expr
    heads: Expr
    width: Expr
    rows: Expr
    conv: Expr

    @property
    def hashes(self) -> Expr:
        """Rows that a token looks up."""
        return (self.size - 1) * self.heads

    def add(self, m: Maker, streams: str) -> str:
        """Adds the streams with what n-grams put on them, ``(B, q, n, d)``."""
        n, d, wide = self.streams, self.d, self.streams * self.d
        found = self._rows(m)
        key = m.linear("ngram_k_proj", found, wide, self.width)
        key = m.add("ngram_k_streams", Reshape((B, q, n, d)), key)
        key = m.norm("ngram_k_norm", key, (n, d), Norm())
        value = m.linear("ngram_v_proj", found, d, self.width, split=(ONE, d))
        query = m.norm("ngram_q_norm", streams, (n, d), Norm())
        gate = m.add("ngram_fit", Reduce("sum", (3,), keep=True), m.add(
            "ngram_products", Map("mul"), key, query
        ))  # fmt: skip
        gate = m.add("ngram_gate", Activation("sigmoid"), self._root(m, gate))
        gated = m.add("ngram_gated", Map("mul"), gate, value)
        normed = m.norm("ngram_conv_norm", gated, (n, d), Norm())
        normed = m.add("ngram_flat", Reshape((B, q, wide)), normed)
        state = m.state(
            "ngram_conv_state", B, wide, (self.conv - 1) * self.size, dtype=m.style.acts
        )
        mixed = m.add_many(
            "ngram_conv", CausalConv1d(apart=self.size), normed,
            m.vector("ngram_conv.weight", wide, self.conv), state,
        )[0]  # fmt: skip
        mixed = m.add("ngram_conv_act", Activation("silu"), mixed)
        mixed = m.add("ngram_conv_back", Reshape((B, q, n, d)), mixed)
        return m.add("ngram_add", Add(), streams, m.add("ngram_sum", Add(), gated, mixed))

    def _rows(self, m: Maker) -> str:
        """The rows of the n-grams that end at each position, side by side: ``(B, q, width)``."""
        before = m.state("ngram_ids", B, self.size - 1, dtype=INT64)
        ids = m.source(IDS)
        hashed = m.add_many("ngram_hash", HashedNGrams(self.size, self.heads), ids, before)[0]
        table = m.weight("ngram_embed.weight", self.rows, self.width / self.hashes)
        found = m.add("ngram_embed", Embedding(result=m.style.acts), hashed, table)
        return m.add("ngram_rows", Reshape((B, q, self.width)), found)

    def _root(self, m: Maker, gate: str) -> str:
        """The root of each number's size, with its sign."""
        gate = m.add("ngram_scaled", Map("scale"), gate)
        size = m.add("ngram_abs", Map("abs"), gate)
        size = m.add("ngram_root", Map("sqrt"), m.add("ngram_least", Map("clip"), size))
        return m.add("ngram_signed", Map("mul"), size, m.add("ngram_sign", Map("sign"), gate))
