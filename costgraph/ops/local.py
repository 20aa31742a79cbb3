"""Bidirectional attention within a distance: the local layers of ModernBERT and others.

Shapes are those of :mod:`costgraph.ops.attention` with as many keys as queries.
Only the pairs within ``reach`` positions are computed, written and read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Min

from costgraph.ir.cost import Access, Work
from costgraph.ir.op import Op, Spec, Tensors, read, require_same, write
from costgraph.ir.tensor import Tensor
from costgraph.ops.attention import AttentionScores, AttentionValues, Softmax


def local_pairs(q: Expr, reach: Expr) -> Expr:
    """Pairs at most ``reach`` apart among ``q`` positions: ``q + 2·Σ min(i, reach)``."""
    inner = Min(q, reach + 1)
    return q + inner * (inner - 1) + 2 * (q - inner) * reach


def _share(op: Op, full: Work, scores: Tensor, reach: Expr) -> Work:
    q, t = scores.shape[2:]
    require_same(op, q, t, "queries and keys")
    return {key: value * local_pairs(q, reach) / (q * t) for key, value in full.items()}


def _banded(found: tuple[Access, ...], scores: Tensor, reach: Expr) -> tuple[Access, ...]:
    b, h, q, _ = scores.shape
    amount = b * h * local_pairs(q, reach) * scores.dtype.bytes_per_element
    return tuple(replace(a, bytes=amount) if a.tensor == scores.name else a for a in found)


@dataclass(frozen=True)
class LocalScores(Op):
    """``Q Kᵀ`` for pairs at most ``reach`` apart; ``2·B·H·dh`` FLOP per pair."""

    kind: ClassVar[str] = "local-qk-matmul"
    reach: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return AttentionScores("none").infer(inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return _share(self, AttentionScores("none").work(inputs, outputs), outputs[0], self.reach)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return _banded(super().accesses(inputs, outputs), outputs[0], self.reach)


@dataclass(frozen=True)
class LocalSoftmax(Op):
    """Softmax over the pairs within reach; 5 FLOP each."""

    kind: ClassVar[str] = "local-softmax"
    reach: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return Softmax("none").infer(inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return _share(self, Softmax("none").work(inputs, outputs), inputs[0], self.reach)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        moved = _banded((read(inputs[0]), write(outputs[0])), inputs[0], self.reach)
        return _banded(moved, outputs[0], self.reach)


@dataclass(frozen=True)
class LocalValues(Op):
    """``P V`` for pairs at most ``reach`` apart; ``2·B·H·dh`` FLOP per pair."""

    kind: ClassVar[str] = "local-sv-matmul"
    reach: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return AttentionValues("none").infer(inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return _share(self, AttentionValues("none").work(inputs, outputs), inputs[0], self.reach)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return _banded(super().accesses(inputs, outputs), inputs[0], self.reach)
