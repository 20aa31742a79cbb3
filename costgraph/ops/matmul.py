"""The general batched matrix product of two computed operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.op import Op, Spec, Tensors, expansion, merged, require, require_same, vector
from costgraph.ir.tensor import Tensor
from costgraph.ops.maps import broadcast


@dataclass(frozen=True)
class MatMul(Op):
    """``a (…, m, k) · b (…, k, n)``: ``(…, m, n)``, leading axes broadcast.

    ``2·m·k·n`` FLOP per matrix on the tensor engine; each operand is read once.
    ``result`` is the format of the result where it is not that of ``a``: sums of 8-bit
    products are kept in 32 bits, or rescaled (2 FLOP per element).
    """

    kind: ClassVar[str] = "matmul"
    converted: ClassVar[tuple[int, ...]] = (0, 1)
    result: DType | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes two operands")
        a, b = inputs
        require(min(len(a.shape), len(b.shape)) >= 2, self, "{} times {}", a, b)
        require_same(self, a.shape[-1], b.shape[-2], "contraction of {} and {}", a, b)
        lead = broadcast(self, [Tensor(t.name, t.shape[:-2], t.dtype) for t in inputs])
        return (Spec((*lead, a.shape[-2], b.shape[-1]), self.result or a.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        a, b = inputs
        key = (Engine.TENSOR, compute_type(a.dtype, b.dtype))
        product: Work = {key: 2 * outputs[0].numel * a.shape[-1]}
        rescaled = outputs[0].dtype.is_float and not (a.dtype.is_float or b.dtype.is_float)
        scaled: Work = vector(2 * outputs[0].numel) if rescaled else {}
        return merged(product, expansion(b, a), expansion(a, b), scaled)


@dataclass(frozen=True)
class GroupedMatMul(Op):
    """Rows ``a (m, k)`` in groups, each times a matrix of its own of ``b (E, k, n)``: ``(m, n)``.

    A third operand ``(E)`` says where groups end; with ``bias`` a fourth ``(E, n)`` is
    added to the rows of each. ``2·m·k·n`` FLOP. Which matrices are needed depends on
    data: all of them are read, the most that it can be.
    """

    kind: ClassVar[str] = "grouped-matmul"
    bias: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3 + self.bias, self, "takes rows, matrices and ends of groups")
        a, b, ends = inputs[:3]
        require(len(a.shape) == 2 and len(b.shape) == 3, self, "{} times {}", a, b)
        require_same(self, a.shape[1], b.shape[1], "contraction of {} and {}", a, b)
        require_same(self, ends.numel, b.shape[0], "groups of {} and {}", b, ends)
        for bias in inputs[3:]:
            require_same(self, bias.numel, b.shape[0] * b.shape[2], "width of {} and {}", b, bias)
        return (Spec((a.shape[0], b.shape[2]), a.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        a, b = inputs[:2]
        key = (Engine.TENSOR, compute_type(a.dtype, b.dtype))
        product: Work = {key: 2 * outputs[0].numel * a.shape[1]}
        added: Work = vector(outputs[0].numel) if self.bias else {}
        return merged(product, added, expansion(b, a))
