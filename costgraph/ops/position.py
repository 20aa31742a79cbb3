"""Relative position biases, and the view of an image or a signal as a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Mul

from costgraph.ir.cost import Work
from costgraph.ir.op import Op, Spec, Tensors, require


@dataclass(frozen=True)
class RelativeBias(Op):
    """T5's position bias: ``table (buckets, H)`` looked up per pair, ``(H, queries, keys)``.

    No arithmetic is charged for the bucket's number, as for any index. The
    table is read once and the biases are written once; all layers share them.
    """

    kind: ClassVar[str] = "relative-bias"
    queries: Expr
    keys: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 2, self, "takes one table")
        table = inputs[0]
        return (Spec((table.shape[1], self.queries, self.keys), table.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class AsSequence(Op):
    """A view of ``x (B, C, n…)`` as ``(B, ∏n, C)``: positions become a sequence."""

    kind: ClassVar[str] = "as-sequence"
    is_view: ClassVar[bool] = True

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) >= 3, self, "takes (B, C, n…)")
        batch, channels, *places = inputs[0].shape
        return (Spec((batch, Mul(*places), channels), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}
