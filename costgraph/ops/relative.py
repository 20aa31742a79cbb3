"""Scores against rows that all sequences share: distances between positions, kinds of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import Op, Spec, Tensors, merged, require, require_same, vector
from costgraph.ops.attention import compacted
from costgraph.ops.pattern import FULL, Pattern


@dataclass(frozen=True)
class RelativeScores(Op):
    """Queries ``(B, q, H, dh)`` against rows ``(n, H, dh)``: scores ``(B, H, q, keys)``.

    Each pair takes the product with one of the rows, such as that of its distance
    (Transformer-XL, arXiv 1901.02860): ``2·B·H·dh`` FLOP per computed pair. Which row a pair
    takes is known from positions and costs nothing. A third operand ``(n, H)`` is added to
    the products, 1 FLOP each.

    Attributes:
        keys: keys of a query.
        pattern: what each position sees.
        whole: each query is multiplied with all rows, and pairs take what is theirs:
            ``2·B·H·dh·q·n`` FLOP.
    """

    kind: ClassVar[str] = "relative-matmul"
    keys: Expr
    pattern: Pattern = FULL
    whole: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) in (2, 3), self, "takes queries, rows, and a bias of each if any")
        query, rows = inputs[:2]
        require(len(query.shape) == 4 and len(rows.shape) == 3, self, "{} against {}", query, rows)
        require_same(self, query.shape[2], rows.shape[1], "heads of {} and {}", query, rows)
        require_same(self, query.shape[3], rows.shape[2], "head size of {} and {}", query, rows)
        for bias in inputs[2:]:
            require(bias.shape == rows.shape[:2], self, "{} is no bias of {}", bias, rows)
        b, q, h, _ = query.shape
        return (Spec((b, h, q, self.keys), query.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, rows = inputs[:2]
        b, q, h, dh = query.shape
        products = q * rows.shape[0] if self.whole else self.pattern.pairs(q, self.keys)
        key = Engine.TENSOR, compute_type(query.dtype, rows.dtype)
        added = vector(b * h * products) if len(inputs) == 3 else {}
        return merged({key: 2 * b * h * dh * products}, added)


@dataclass(frozen=True)
class ByDistance(Op):
    """Numbers of distances ``(B, q, H, n)`` as numbers of pairs: ``(B, H, q, keys)``.

    Each pair takes the number of its distance, and zero beyond ``n``. Nothing is computed; the
    numbers are read once, and those of pairs are written, as scores are.

    Attributes:
        keys: keys of a query.
        pattern: what each position sees.
    """

    kind: ClassVar[str] = "by-distance"
    keys: Expr
    pattern: Pattern = FULL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes numbers of distances")
        x = inputs[0]
        require(len(x.shape) == 4, self, "{} has no numbers of distances for heads", x)
        b, q, h, _ = x.shape
        return (Spec((b, h, q, self.keys), x.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}
