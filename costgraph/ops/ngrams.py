"""Which rows of a table n-grams of tokens have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.ir.cost import Work
from costgraph.ir.op import Op, Spec, Tensors, require, require_same, vector
from costgraph.ir.tensor import Role


@dataclass(frozen=True)
class HashedNGrams(Op):
    """Hashes of the n-grams, of two to ``size`` tokens, that end at each position.

    Inputs: ids ``(B, q)``, and the ``size − 1`` ids before them, a state ``(B, size − 1)``.
    Results: rows ``(B, q, (size − 1)·heads)``, and the new state. A product for each of
    ``size`` tokens, an exclusive or for each token after the first of an order, a remainder
    and a sum for each hash.
    Source: Qwen4-Exp's published class (transformers 5.24, ``modeling_qwen4_exp``).

    Attributes:
        size: tokens of the longest n-gram.
        heads: hashes of each order.
    """

    kind: ClassVar[str] = "hashed-ngrams"
    size: Expr
    heads: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes ids and those before them")
        ids, before = inputs
        require(len(ids.shape) == len(before.shape) == 2, self, "{} behind {}", ids, before)
        require(before.role is Role.STATE, self, "{} is no state", before)
        require_same(self, ids.shape[0], before.shape[0], "batch")
        require_same(self, before.shape[1], self.size - 1, "ids before")
        hashes = (self.size - 1) * self.heads
        return (
            Spec((*ids.shape, hashes), ids.dtype),
            Spec(before.shape, before.dtype, Role.STATE),
        )

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        others = self.size * (self.size - 1) / 2
        return vector(inputs[0].numel * (self.size + others) + 2 * outputs[0].numel)
