"""Confidence estimates that decide whether a token leaves early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import FP32, compute_type
from costgraph.ir.op import Op, Spec, Tensors, expansion, merged, require, require_same, vector

#: FLOP per row beyond the product: by method.
METHODS = ("softmax", "classifier", "cosine")


@dataclass(frozen=True)
class Confidence(Op):
    """A confidence per position from the hidden state ``x (B, q, d)``.

    * ``softmax``: logits over the vocabulary with ``W (V, d)`` and the two
      largest probabilities: ``2·d·V`` FLOP and 5 per logit.
    * ``classifier``: a linear score with ``W (1, d)``: ``2·d`` FLOP and a sigmoid (3).
    * ``cosine``: similarity with the previous layer's state, operands ``x`` and
      ``y (B, q, d)``: ``6·d`` FLOP (three sums of products).
    """

    kind: ClassVar[str] = "confidence"
    method: str = "softmax"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(self.method in METHODS, self, f"unknown method {self.method!r}")
        require(len(inputs) == 2, self, "takes the hidden state and one more operand")
        x, other = inputs
        require_same(self, x.shape[-1], other.shape[-1], "width")
        return (Spec(x.shape[:-1], FP32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, other = inputs
        rows = outputs[0].numel
        if self.method == "cosine":
            return vector(6 * x.numel)
        width = other.shape[0]
        product: Work = {(Engine.TENSOR, compute_type(x.dtype, other.dtype)): 2 * x.numel * width}
        after = 5 * rows * width if self.method == "softmax" else 3 * rows
        return merged(product, vector(after), expansion(other, x))
