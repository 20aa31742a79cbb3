"""Matrix products by look-ups: sums of a few activations are made once and then found.

A weight of ``p`` bits is ``p`` planes of one bit. Along a plane ``µ`` weights are a
number below ``2^µ``, which finds the sum of the ``µ`` activations that they choose in a
table of all such sums. No multiplication is left but those of scales.
Source: Park et al., arXiv 2206.09557 (LUT-GEMM, µ = 8); Wei et al., arXiv 2407.00088
(T-MAC, µ = 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.ir.cost import ONE, ZERO, Work
from costgraph.ir.op import Tensors, expansion, merged, vector
from costgraph.ops.quant import QuantLinear


@dataclass(frozen=True)
class TableLinear(QuantLinear):
    """``y = x Wᵀ`` with ``W (oc, ic)`` of a few bits, by tables of sums.

    Work on the vector engine, per row of ``x``, for ``c = ⌈ic/µ⌉`` tables and ``g``
    groups of weights that share a scale:

    - ``2^µ·c`` additions make the tables, each entry from one before;
    - ``p·oc·c`` look-ups and as many additions;
    - ``2·p·oc·g`` to weigh the planes of a group and add them up;
    - with zero points ``ic`` to add up the activations of each group, and ``2·oc·g``;
    - ``oc`` to scale results of activations that are whole numbers themselves; activations
      in other codes are expanded before.

    Tables stay on chip: traffic is that of the product. Planes are read as they are:
    nothing is converted.

    Attributes:
        planes: bits of a weight, ``p``.
        mu: weights that are looked up at once, ``µ``.
    """

    kind: ClassVar[str] = "table-linear"
    planes: Expr = ONE
    mu: Expr = Integer(8)

    def tables(self, inputs: Tensors) -> Expr:
        """Tables of one execution: ``⌈ic/µ⌉`` per row."""
        ic = inputs[1].shape[-1]
        return inputs[0].numel / ic * ceiling(ic / self.mu)

    def builds(self, inputs: Tensors) -> Expr:
        """Entries of tables that are made: one addition each."""
        return 2**self.mu * self.tables(inputs)

    def lookups(self, inputs: Tensors) -> Expr:
        """Entries of tables that are found and added."""
        return self.planes * inputs[1].shape[0] * self.tables(inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        out, ic = outputs[0], w.shape[-1]
        # Tables hold what x holds: whole numbers are scaled afterwards, codes are read first.
        narrow = x.dtype.bits != out.dtype.bits
        scaled = narrow and not x.dtype.is_float
        groups = ONE if w.dtype.group is None else ic / w.dtype.group
        zeros = w.dtype.zero_bits != 0
        return merged(
            vector(self.builds(inputs)),
            vector(2 * self.lookups(inputs)),
            vector(2 * self.planes * groups * out.numel),
            vector(x.numel + 2 * groups * out.numel) if zeros else {},
            vector(out.numel) if scaled else {},
            expansion(x, out, x.numel) if narrow and not scaled else {},
            vector(out.numel) if self.bias else {},
            vector(self.product(inputs, outputs) * self.sparse) if self.sparse != ZERO else {},
        )
