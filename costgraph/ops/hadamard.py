"""Hadamard transforms of activations, which make what is quantised less spiky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.ir.cost import ONE, Work
from costgraph.ir.op import Op, Spec, Tensors, require, vector

#: The least multiple of four for which no Hadamard matrix is known.
UNKNOWN = 668


def core(size: Expr) -> Expr | None:
    """Order of the dense matrix in a transform of ``size``: 1 for powers of two.

    A transform of ``2^k·m`` is ``k`` steps of butterflies and products with a Hadamard
    matrix of order ``m``, the least that exists: 1, 2, or four times an odd number. None
    where no matrix is known (QuIP# and QuaRot store those of 12, 20, 28 and so on).
    """
    if not size.is_Integer or size < 1:
        return None
    odd, twos = int(size), 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    if odd == 1:
        return ONE
    order = 4 * odd
    return Integer(order) if twos >= 2 and order < UNKNOWN else None


@dataclass(frozen=True)
class Hadamard(Op):
    """``x`` times a Hadamard matrix of order ``size``, along the dimensions ``along``.

    Every element takes part in one transform: of its row, or of the same place in all
    heads. ``along`` counts dimensions from the end; those of one transform are one
    dimension, of which ``size`` may be a part (heads in a row that holds them all).
    Work: ``log₂(n/m) + m − 1`` additions per element, for ``n = size`` and the order ``m``
    of :func:`core`, and one multiplication per element by random ``signs``. The scale is
    folded into what follows. Vector engine; ``x`` is read and the result written.
    Sources: Tseng et al., arXiv 2402.04396 (QuIP#: signs); Ashkboos et al., arXiv
    2404.00456 (QuaRot: none).
    """

    kind: ClassVar[str] = "hadamard"
    size: Expr
    along: tuple[int, ...] = (-1,)
    signs: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(core(self.size) is not None, self, "no matrix of order {} is known", self.size)
        x = inputs[0]
        require(len(x.shape) >= -min(self.along), self, "{} has no such dimensions", x)
        whole = Mul(*(x.shape[axis] for axis in self.along)) / self.size
        require(not whole.is_number or whole.is_Integer, self, "{} does not fit {}", self.size, x)
        return (Spec(x.shape, x.dtype, x.role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        order = core(self.size)
        assert order is not None
        steps = Integer(int(self.size / order).bit_length() - 1)
        return vector(inputs[0].numel * (steps + order - 1 + (1 if self.signs else 0)))
