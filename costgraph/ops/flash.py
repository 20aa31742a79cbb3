"""Tiled attention: scores and probabilities never leave the chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.cost import ONE, Access, Direction, Work
from costgraph.ops.attention import AttentionScores, AttentionValues, Softmax
from costgraph.ops.base import Op, Spec, Tensors, merged, read, require, vector, write
from costgraph.ops.elementwise import SoftCap
from costgraph.ops.paged import Paging
from costgraph.tensor import Role

_ROWS = Integer(128)


@dataclass(frozen=True)
class FlashAttention(Op):
    """Softmax attention in one kernel: ``Q (B, q, H, dh)``, ``K``, ``V (B, T, Hk, dh)``.

    Work is that of scores, softmax and values. ``Q`` is read and the result
    written once. ``K`` and ``V`` are read once per block of ``rows`` query rows,
    where the ``H/Hk`` query heads that share a cached head are packed into one
    block (Dao, arXiv 2307.08691; reuse between blocks through the L2 cache is
    not modelled). With ``causal_traffic`` a block stops at its last visible key:
    ``n`` blocks of ``p`` positions read ``nT − (n−1)q + p·n(n−1)/2`` keys.

    Attributes:
        mask: as in :data:`costgraph.ops.attention.MASKS`.
        rows: query rows of one block.
        causal_traffic: blocks past the diagonal are not read.
        soft_cap: scores pass through a soft cap.
        splits: pieces of the context reduced in a second step (Flash-Decoding);
            each writes and reads back ``dh + 2`` FP32 numbers per query head.
    """

    kind: ClassVar[str] = "flash-attention"
    mask: str = "skip"
    rows: Expr = _ROWS
    causal_traffic: bool = True
    soft_cap: bool = False
    splits: Expr = ONE
    paging: Paging | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes queries, keys and values")
        query, keys, values = inputs
        scores = AttentionScores(self.mask).infer((query, keys))[0].named("scores")
        return AttentionValues(self.mask).infer((scores, values))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, keys, values = inputs
        scores = AttentionScores(self.mask).infer((query, keys))[0].named("scores")
        parts = [
            AttentionScores(self.mask).work((query, keys), (scores,)),
            Softmax(self.mask).work((scores,), (scores,)),
            AttentionValues(self.mask).work((scores, values), outputs),
        ]
        if self.soft_cap:
            parts.append(SoftCap().work((scores,), (scores,)))
        if self.splits != 1:
            parts.append(vector(3 * self.splits * query.numel))
        return merged(*parts)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        query, keys, values = inputs
        b, q, h, _ = query.shape
        t, hk = keys.shape[1], keys.shape[2]
        positions = self.rows * hk / h
        blocks = ceiling(q / positions)
        keys_read = blocks * t
        if self.mask == "skip" and self.causal_traffic:
            keys_read += -(blocks - 1) * q + positions * blocks * (blocks - 1) / 2
        share = keys_read / t
        found = [
            read(query),
            read(keys, keys.bytes * share),
            read(values, values.bytes * share),
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
