"""Tiled attention: scores and probabilities never leave the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr

from costgraph.ir.cost import ONE, Access, Direction, Work
from costgraph.ir.op import Op, Spec, Tensors, merged, read, require, vector, write
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import (
    Alibi,
    AttentionScores,
    AttentionValues,
    ScoreCap,
    Softmax,
    without_index,
)
from costgraph.ops.bias import ScoreBias, check_bias
from costgraph.ops.paged import Paging
from costgraph.ops.pattern import CAUSAL, FULL, Pattern


@dataclass(frozen=True)
class FlashAttention(Op):
    """Softmax attention in one kernel: ``Q (B, q, H, dh)``, ``K``, ``V (B, T, Hk, dh)``.

    Work is that of scores, softmax and values. ``Q`` is read and the result
    written once, ``K`` and ``V`` as well: blocks of queries that run at once share
    what they read through a common cache, as tiles of a matrix product do. Without
    one (``rows``) ``K`` and ``V`` are read once per block of ``rows`` query rows,
    where the ``H/Hk`` query heads that share a cached head are packed into one
    block (Dao, arXiv 2307.08691). With ``causal_traffic`` a block starts and stops at
    what one of its queries sees
    (:meth:`Pattern.tiled <costgraph.ops.pattern.Pattern.tiled>`). A fourth operand ``(H)``
    holds the sinks of the softmax. The last ``biases`` operands are put on the scores
    (:class:`~costgraph.ops.bias.ScoreBias`): each is read once, its part on computed
    pairs alone.

    Attributes:
        pattern: what each position sees.
        rows: query rows of a block that reads on its own; None: blocks share a cache.
        causal_traffic: blocks past the diagonal are not read.
        soft_cap: scores pass through a soft cap.
        alibi: scores get linear biases.
        biases: operands that are added to the scores or hide pairs.
        splits: pieces of the context reduced in a second step (Flash-Decoding);
            each writes and reads back ``dh + 2`` FP32 numbers per query head.
    """

    kind: ClassVar[str] = "flash-attention"
    pattern: Pattern = CAUSAL
    rows: Expr | None = None
    causal_traffic: bool = True
    soft_cap: bool = False
    splits: Expr = ONE
    paging: Paging | None = None
    alibi: bool = False
    biases: int = 0

    def _parts(self, inputs: Tensors) -> tuple[Tensors, Tensors, Tensors, Tensors]:
        """(queries, keys and values; sinks; biases; the index of a pattern that needs one)."""
        given, index = without_index(self.pattern, inputs)
        last = len(given) - self.biases
        return given[:3], given[3:last], given[last:], index

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        fits = len(without_index(self.pattern, inputs)[0]) - self.biases in (3, 4)
        require(fits, self, "takes queries, keys and values, sinks and {} biases", self.biases)
        (query, keys, values), _, biases, index = self._parts(inputs)
        scores = AttentionScores(self.pattern).infer((query, keys, *index))[0].named("scores")
        for bias in biases:
            check_bias(self, scores, bias)
        return AttentionValues(self.pattern).infer((scores, values, *index))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (query, keys, values), sinks, biases, index = self._parts(inputs)
        scores = AttentionScores(self.pattern).infer((query, keys, *index))[0].named("scores")
        parts = [
            AttentionScores(self.pattern).work((query, keys, *index), (scores,)),
            Softmax(self.pattern).work((scores, *sinks), (scores,)),
            AttentionValues(self.pattern).work((scores, values, *index), outputs),
            ScoreBias(self.pattern).work((scores, *biases), (scores,)),
        ]
        if self.soft_cap:
            parts.append(ScoreCap(self.pattern).work((scores,), (scores,)))
        if self.alibi:
            parts.append(Alibi(self.pattern).work((scores,), (scores,)))
        if self.splits != 1:
            parts.append(vector(3 * self.splits * query.numel))
        return merged(*parts)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        (query, keys, values), sinks, biases, index = self._parts(inputs)
        b, q, h, _ = query.shape
        t, hk = keys.shape[1], keys.shape[2]
        share = self._keys_read(q, t, hk / h) / t
        found = [
            read(query),
            read(keys, keys.bytes * share),
            read(values, values.bytes * share),
            *(read(x) for x in sinks),
            *(read(x, x.bytes * self._bias_share(x, q, t)) for x in biases),
            *(read(x) for x in index),
            write(outputs[0]),
        ]
        if self.splits != 1:
            partial = b * q * h * self.splits * (values.shape[3] + 2) * 4
            found += [
                Access("partials", Role.ACTIVATION, Direction.WRITE, partial),
                Access("partials", Role.ACTIVATION, Direction.READ, partial),
            ]
        if self.paging is not None:
            return self.paging.reads(tuple(found), keys)
        return tuple(found)

    def _bias_share(self, bias: Tensor, q: Expr, t: Expr) -> Expr:
        """Share of a bias that belongs to computed pairs, or to keys that are read."""
        rows, columns = (ONE, *bias.shape)[-2:]
        if columns == 1:
            return ONE
        if rows == 1:
            return replace(self, rows=None)._keys_read(q, t, ONE) / t
        return self.pattern.pairs(q, t) / (q * t)

    def _keys_read(self, q: Expr, t: Expr, packed: Expr) -> Expr:
        """Keys read by all blocks; ``packed`` positions are one row of a block."""
        if self.rows is None:
            return self.pattern.keys(q, t)
        pattern = self.pattern if self.causal_traffic else FULL
        found = pattern.tiled(q, t, self.rows * packed)
        require(found is not None, self, "no count of what blocks read alone: {}", self.pattern)
        assert found is not None
        return found
