"""Normalisations per channel or group of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.ir.cost import ONE, Work
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    require,
    require_same,
    vector,
    vector_special,
)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Normalisation by stored statistics: ``x (B, C, …)`` and four vectors ``(C)``.

    Statistics and weights become one factor and one offset per channel (5 FLOP,
    a square root among them), then 2 FLOP per element. With two vectors only,
    weight and bias, the statistics are folded into these already. Nothing is
    folded into a convolution in front.
    """

    kind: ClassVar[str] = "batch-norm"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) in (3, 5), self, "takes x, weight and bias, mean and variance")
        x = inputs[0]
        require(len(x.shape) >= 2, self, "{} has no channels", x)
        for p in inputs[1:]:
            require(len(p.shape) == 1, self, "{} is not a vector", p)
            require_same(self, p.shape[0], x.shape[1], "channels of {} and {}", x, p)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x = inputs[0]
        if len(inputs) == 3:
            return vector(2 * x.numel)
        return vector_special(2 * x.numel + 4 * x.shape[1], x.shape[1])


@dataclass(frozen=True)
class GroupNorm(Op):
    """Normalisation over the channels of a group and all positions of ``x (B, C, …)``.

    7 FLOP per element with weight and bias ``(C)``, 5 without, as for a layer
    norm; 4 per group. ``groups = C`` is instance normalisation.
    """

    kind: ClassVar[str] = "group-norm"
    groups: Expr = ONE

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) in (1, 2, 3), self, "takes x, weight and bias")
        x = inputs[0]
        require(len(x.shape) >= 2, self, "{} has no channels", x)
        for p in inputs[1:]:
            require(len(p.shape) == 1, self, "{} is not a vector", p)
            require_same(self, p.shape[0], x.shape[1], "channels of {} and {}", x, p)
        share = x.shape[1] / self.groups
        whole = not share.is_number or bool(share.is_Integer)
        require(whole, self, "{} does not split into {} groups", x, self.groups)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x = inputs[0]
        rows = x.shape[0] * self.groups
        return vector_special((4 + len(inputs)) * x.numel + 3 * rows, rows)
