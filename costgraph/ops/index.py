"""Choosing positions to attend: the scores of an indexer, and the best of them.

DeepSeek-V3.2's lightning indexer (arXiv 2512.02556, section 2.1): a few small query heads
score all positions against one key each; the scores, clipped at zero, are summed over the heads
with weights that each token makes; attention then reads the best positions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.formula.least import least
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import INT32, compute_type
from costgraph.ir.op import Op, Spec, Tensors, merged, require, require_same, vector
from costgraph.ops.attention import Mask, score_pairs


@dataclass(frozen=True)
class HeadSum(Op):
    """Scores ``(B, H, q, T)`` and weights ``(B, q, H)`` to sums over heads ``(B, q, T)``.

    Negative scores count as zero: one comparison per head and pair of positions that ``mask``
    counts; and a product, 2 FLOP for each.
    """

    kind: ClassVar[str] = "head-sum"
    mask: Mask = "skip"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes scores and weights")
        scores, weights = inputs
        require(len(scores.shape) == 4 and len(weights.shape) == 3, self, "{} {}", scores, weights)
        batch, heads, tokens, context = scores.shape
        for a, b in zip(weights.shape, (batch, tokens, heads), strict=True):
            require_same(self, a, b, "weights {} of scores {}", weights, scores)
        return (Spec((batch, tokens, context), scores.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        scores = inputs[0]
        batch, heads, tokens, context = scores.shape
        pairs = batch * heads * score_pairs(tokens, context, self.mask)
        key = (Engine.TENSOR, compute_type(scores.dtype, inputs[1].dtype))
        return merged(vector(pairs), {key: 2 * pairs})


@dataclass(frozen=True)
class TopPositions(Op):
    """The ``chosen`` best of the scores ``(B, q, T)`` as numbers; one comparison per score."""

    kind: ClassVar[str] = "top-positions"
    chosen: Expr = Integer(1)
    mask: Mask = "skip"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 3, self, "takes scores (B, q, T)")
        batch, tokens, context = inputs[0].shape
        return (Spec((batch, tokens, least(context, self.chosen)), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        batch, tokens, context = inputs[0].shape
        return vector(batch * score_pairs(tokens, context, self.mask))
