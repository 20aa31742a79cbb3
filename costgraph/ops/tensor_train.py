"""Look-ups in tables whose rows are stored as chains of cores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from sympy import Add, Expr, Mul

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.op import Spec, Tensors, expansion, merged, require, require_same
from costgraph.ops.tokens import Embedding


@dataclass(frozen=True)
class TrainEmbedding(Embedding):
    """Gathers rows of cores ``table (V, Σ r_{i−1}·n_i·r_i)`` by ``ids (…)``: result ``(…, d)``.

    Each row is the chain of its cores ``(r_{i−1}, n_i, r_i)`` multiplied out from the left:
    ``Σ_{i≥2} 2·(n_1…n_i)·r_{i−1}·r_i`` FLOP per index on the tensor engine
    (Oseledets, SIAM J. Sci. Comput. 33, 2011), plus the conversion of cores stored
    narrower than the result. Only the gathered rows are read.

    Attributes:
        sizes: ``n_1 … n_M``, whose product is ``d``.
        ranks: ``r_0 … r_M``, the first and the last one.
    """

    kind: ClassVar[str] = "train-embedding"
    result: DType | None = None
    sizes: tuple[Expr, ...] = ()
    ranks: tuple[Expr, ...] = ()

    @property
    def stored(self) -> Expr:
        """Numbers of the cores of one row."""
        return Add(*(a * n * b for n, (a, b) in zip(self.sizes, pairwise(self.ranks), strict=True)))

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes indices and a table")
        ids, table = inputs
        require(len(self.ranks) == len(self.sizes) + 1 > 2, self, "needs a rank between cores")
        require(self.ranks[0] == self.ranks[-1] == 1, self, "a chain has ranks of 1 at its ends")
        require(len(table.shape) == 2, self, "{} is not a table", table)
        require_same(self, table.shape[1], self.stored, "cores and rows of {}", table)
        return (Spec((*ids.shape, Mul(*self.sizes)), self.result or table.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        ids, table = inputs
        out = outputs[0]
        steps = Add(
            *(
                2 * Mul(*self.sizes[: i + 1]) * self.ranks[i] * self.ranks[i + 1]
                for i in range(1, len(self.sizes))
            )
        )
        product: Work = {(Engine.TENSOR, compute_type(out.dtype, out.dtype)): ids.numel * steps}
        return merged(product, expansion(table, out, ids.numel * self.stored))
