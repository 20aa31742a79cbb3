"""Tiled attention: scores and probabilities never leave the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, ceiling, floor

from costgraph.formula.least import least
from costgraph.ir.cost import ONE, Access, Direction, Work
from costgraph.ir.op import Op, Spec, Tensors, merged, read, require, vector, write
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import Alibi, AttentionScores, AttentionValues, Mask, Softmax
from costgraph.ops.bias import ScoreBias, check_bias, computed_pairs
from costgraph.ops.elementwise import SoftCap
from costgraph.ops.local import LocalScores, LocalSoftmax, LocalValues
from costgraph.ops.paged import Paging


@dataclass(frozen=True)
class FlashAttention(Op):
    """Softmax attention in one kernel: ``Q (B, q, H, dh)``, ``K``, ``V (B, T, Hk, dh)``.

    Work is that of scores, softmax and values. ``Q`` is read and the result
    written once, ``K`` and ``V`` as well: blocks of queries that run at once share
    what they read through a common cache, as tiles of a matrix product do. Without
    one (``rows``) ``K`` and ``V`` are read once per block of ``rows`` query rows,
    where the ``H/Hk`` query heads that share a cached head are packed into one
    block (Dao, arXiv 2307.08691). With ``causal_traffic`` a block stops at its last
    visible key: ``n`` blocks of ``p`` positions read ``nT − (n−1)q + p·n(n−1)/2``
    keys. With a sliding window it also starts at its first visible key: a block that
    ends at position ``e`` reads ``Min(e, W + p − 1)`` keys. A fourth operand ``(H)``
    holds the sinks of the softmax. The last ``biases`` operands are put on the scores
    (:class:`~costgraph.ops.bias.ScoreBias`): each is read once, its part on computed
    pairs alone.

    Attributes:
        mask: as in :data:`costgraph.ops.attention.MASKS`.
        rows: query rows of a block that reads on its own; None: blocks share a cache.
        causal_traffic: blocks past the diagonal are not read.
        soft_cap: scores pass through a soft cap.
        alibi: scores get linear biases.
        biases: operands that are added to the scores or hide pairs.
        reach: greatest distance of a pair, both ways (:mod:`costgraph.ops.local`).
        splits: pieces of the context reduced in a second step (Flash-Decoding);
            each writes and reads back ``dh + 2`` FP32 numbers per query head.
    """

    kind: ClassVar[str] = "flash-attention"
    mask: Mask = "skip"
    rows: Expr | None = None
    causal_traffic: bool = True
    soft_cap: bool = False
    splits: Expr = ONE
    paging: Paging | None = None
    window: Expr | None = None
    alibi: bool = False
    biases: int = 0
    reach: Expr | None = None

    def _parts(self, inputs: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        """(queries, keys and values; sinks; biases)."""
        last = len(inputs) - self.biases
        return inputs[:3], inputs[3:last], inputs[last:]

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        fits = len(inputs) - self.biases in (3, 4)
        require(fits, self, "takes queries, keys and values, sinks and {} biases", self.biases)
        (query, keys, values), _, biases = self._parts(inputs)
        scores = AttentionScores(self.mask).infer((query, keys))[0].named("scores")
        for bias in biases:
            check_bias(self, scores, bias)
        return AttentionValues(self.mask).infer((scores, values))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (query, keys, values), sinks, biases = self._parts(inputs)
        scores = AttentionScores(self.mask).infer((query, keys))[0].named("scores")
        if self.reach is None:
            products: tuple[Op, Op, Op] = (
                AttentionScores(self.mask, window=self.window),
                Softmax(self.mask, self.window),
                AttentionValues(self.mask, window=self.window),
            )
        else:
            products = LocalScores(self.reach), LocalSoftmax(self.reach), LocalValues(self.reach)
        parts = [
            products[0].work((query, keys), (scores,)),
            products[1].work((scores, *sinks), (scores,)),
            products[2].work((scores, values), outputs),
            ScoreBias(self.mask, self.window, self.reach).work((scores, *biases), (scores,)),
        ]
        if self.soft_cap:
            parts.append(SoftCap().work((scores,), (scores,)))
        if self.alibi:
            parts.append(Alibi(self.mask, self.window).work((scores,), (scores,)))
        if self.splits != 1:
            parts.append(vector(3 * self.splits * query.numel))
        return merged(*parts)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        (query, keys, values), sinks, biases = self._parts(inputs)
        b, q, h, _ = query.shape
        t, hk = keys.shape[1], keys.shape[2]
        share = self._keys_read(q, t, hk / h) / t
        found = [
            read(query),
            read(keys, keys.bytes * share),
            read(values, values.bytes * share),
            *(read(x) for x in sinks),
            *(read(x, x.bytes * self._bias_share(x, q, t)) for x in biases),
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
        return computed_pairs(q, t, self.mask, self.window, self.reach) / (q * t)

    def _keys_read(self, q: Expr, t: Expr, packed: Expr) -> Expr:
        """Keys read by all blocks; ``packed`` positions are one row of a block."""
        if self.rows is None:
            return t if self.window is None else least(t, self.window + q - 1)
        positions = self.rows * packed
        blocks = ceiling(q / positions)
        if self.mask != "skip" or not self.causal_traffic:
            return blocks * t
        if self.window is None:
            return blocks * t - (blocks - 1) * q + positions * blocks * (blocks - 1) / 2
        # Blocks before the last end at r + p, r + 2p, …; the first `rising` of them
        # end within what a window and a block reach.
        before, reach = t - q, self.window + positions - 1
        rising = least(blocks - 1, 1 + floor((self.window - 1 - before) / positions))
        last = least(t, self.window + q - (blocks - 1) * positions - 1)
        return (
            rising * before
            + positions * rising * (rising + 1) / 2
            + (blocks - 1 - rising) * reach
            + last
        )
