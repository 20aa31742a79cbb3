"""The general batched matrix product of two computed operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costgraph.cost import Work
from costgraph.dtypes import compute_type
from costgraph.machine import Engine
from costgraph.ops.base import Op, Spec, Tensors, expansion, merged, require, require_same
from costgraph.ops.maps import broadcast
from costgraph.tensor import Tensor


@dataclass(frozen=True)
class MatMul(Op):
    """``a (…, m, k) · b (…, k, n)``: ``(…, m, n)``, leading axes broadcast.

    ``2·m·k·n`` FLOP per matrix on the tensor engine; each operand is read once.
    """

    kind: ClassVar[str] = "matmul"
    converted: ClassVar[tuple[int, ...]] = (0, 1)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes two operands")
        a, b = inputs
        require(min(len(a.shape), len(b.shape)) >= 2, self, "{} times {}", a, b)
        require_same(self, a.shape[-1], b.shape[-2], "contraction of {} and {}", a, b)
        lead = broadcast(self, [Tensor(t.name, t.shape[:-2], t.dtype) for t in inputs])
        return (Spec((*lead, a.shape[-2], b.shape[-1]), a.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        a, b = inputs
        key = (Engine.TENSOR, compute_type(a.dtype, b.dtype))
        product: Work = {key: 2 * outputs[0].numel * a.shape[-1]}
        return merged(product, expansion(b, a), expansion(a, b))
