"""Confidence heads: what decides after a layer whether a token stops there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Integer, Mul

from costgraph.cost import ONE, Work
from costgraph.dtypes import compute_type
from costgraph.errors import VerifyError
from costgraph.machine import Engine
from costgraph.ops.base import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    require,
    require_same,
    vector_special,
)

MEASURES = ("softmax", "classifier", "cosine")


@dataclass(frozen=True)
class ConfidenceHead(Op):
    """Confidence of each row of ``x (B, q, d)``: result ``(B, q)``, one kernel.

    FLOP per row, by measure (Schuster et al., CALM, arXiv 2207.07061):

    * ``softmax``: operands ``x``, ``W (V, d)``. ``2·d·V`` for the logits on the
      tensor engine and 5 per logit for the softmax, ``V`` of them exponentials.
      The logits stay on the chip.
    * ``classifier``: operands ``x``, ``w (1, d)``. ``2·d`` and 4 for the sigmoid,
      one of them an exponential.
    * ``cosine``: operands ``x`` and the state one exit earlier. Three dot products
      of ``d`` multiply-adds and 3 to combine them, one of them a square root.
    """

    kind: ClassVar[str] = "confidence"
    measure: str = "softmax"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        if self.measure not in MEASURES:
            raise VerifyError(f"confidence: unknown measure {self.measure!r}")
        require(len(inputs) == 2, self, "takes a hidden state and what it is measured against")
        x, other = inputs
        require(len(x.shape) >= 2, self, f"{x} is not a hidden state")
        if self.measure != "cosine":
            require(len(other.shape) == 2, self, f"{other} is not a matrix")
        require_same(self, x.shape[-1], other.shape[-1], "hidden sizes")
        return (Spec(x.shape[:-1], x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, other = inputs
        rows = Mul(*x.shape[:-1])
        if self.measure == "cosine":
            return vector_special(6 * x.numel + 2 * rows, rows)
        classes = other.shape[0]
        product: Work = {(Engine.TENSOR, compute_type(x.dtype, other.dtype)): 2 * x.numel * classes}
        per_class = Integer(4) if self.measure == "softmax" else Integer(3)
        turned = vector_special(per_class * rows * classes, ONE * rows * classes)
        return merged(product, expansion(other, x), turned)
