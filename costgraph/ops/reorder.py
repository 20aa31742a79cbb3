"""Caches that change places: the branches that go on take over rows of those that end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.ir.cost import Access, Work
from costgraph.ir.op import Op, Spec, Tensors, read, require, write
from costgraph.ir.tensor import Role


@dataclass(frozen=True)
class Reorder(Op):
    """Copies cached rows ``(B, n, …)`` to the branches that go on from them.

    No arithmetic: ``rows`` of the ``n`` rows per sequence are read and written once (all
    of them without a number), as ``index_select`` does for the beams of a search. A
    recurrent state is copied whole. The result takes the place of the operand.
    """

    kind: ClassVar[str] = "reorder"
    rows: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one cache")
        cache = inputs[0]
        require(cache.role in (Role.KV, Role.STATE), self, "{} is no cache", cache)
        return (Spec(cache.shape, cache.dtype, cache.role, cache.stored),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache = inputs[0]
        amount = cache.bytes
        if self.rows is not None:
            amount = amount / cache.shape[1] * self.rows
        return (read(cache, amount), write(outputs[0], amount))
