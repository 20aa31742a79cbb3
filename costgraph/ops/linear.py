"""Matrix products with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Mul

from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    multiplied,
    require,
    require_same,
    vector,
)


@dataclass(frozen=True)
class Linear(Op):
    """``y = x Wᵀ (+ b)``: inputs ``x (…, ic…)``, ``W (oc, ic)`` and, with bias, ``b (oc)``.

    Work: ``2·rows·ic·oc`` FLOP on the tensor engine, plus one addition per
    result element for the bias, plus the expansion of weights stored in a
    format that the engine does not take, or without their zeros.

    Attributes:
        bias: a third operand is added to each row.
        contract: how many trailing dimensions of ``x`` are summed over (2 for
            an output projection that takes (heads, head size) at once).
        split: trailing dimensions of the result where they are not just
            ``oc`` (heads, head size); their product is ``oc``.
    """

    kind: ClassVar[str] = "linear"
    converted: ClassVar[tuple[int, ...]] = (1,)
    bias: bool = False
    contract: int = 1
    split: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 + self.bias, self, f"takes {2 + self.bias} operands")
        x, w = inputs[:2]
        require(len(w.shape) == 2, self, "weight {} is not a matrix", w)
        oc, ic = w.shape
        require_same(self, Mul(*x.shape[-self.contract :]), ic, "contraction of {} and {}", x, w)
        if self.bias:
            require(len(inputs[2].shape) == 1, self, "bias {} is not a vector", inputs[2])
            require_same(self, inputs[2].shape[0], oc, "bias and output width")
        tail = self.split or (oc,)
        require_same(self, Mul(*tail), oc, "split and output width")
        return (Spec((*x.shape[: -self.contract], *tail), x.dtype),)

    def product(self, inputs: Tensors, outputs: Tensors) -> Expr:
        """FLOP of the multiplications and additions."""
        return 2 * inputs[0].numel * inputs[1].shape[0]

    def loaded(self, inputs: Tensors) -> Expr:
        """Elements of the weight that one execution loads."""
        return inputs[1].numel

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        compute = compute_type(x.dtype, w.dtype)
        product = multiplied(w.dtype, compute, self.product(inputs, outputs))
        added: Work = vector(outputs[0].numel) if self.bias else {}
        return merged(product, added, expansion(w, x, self.loaded(inputs)))
