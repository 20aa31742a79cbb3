"""Rotary embedding by separate tables of cosines and sines, in any layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Mul

from costgraph.ir.cost import Work
from costgraph.ir.dtypes import DType
from costgraph.ir.op import Op, Spec, Tensors, expansion, merged, require, same, vector


@dataclass(frozen=True)
class RotaryPair(Op):
    """Rotates ``x`` by ``cos`` and ``sin``; positions of ``x`` are its axis ``axis``.

    The tables hold ``rotary`` numbers per position, for all sequences or for each:
    ``q·rotary`` or ``B·q·rotary`` elements, ``rotary`` in their last axis; those that
    hold each number once (``halved``) have half of it. 3 FLOP per rotated element
    (:class:`costgraph.ops.elementwise.Rope`).
    """

    kind: ClassVar[str] = "rope"
    axis: int = 1
    halved: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes x and two tables")
        x, *tables = inputs
        require(len(x.shape) == 4 and self.axis in (1, 2), self, "cannot rotate {}", x)
        for table in tables:
            require(bool(table.shape), self, "{} is no table", table)
            rows = table.numel / table.shape[-1]
            per = x.shape[self.axis]
            fits = same(rows, per) or same(rows, x.shape[0] * per)
            require(fits, self, "{} does not fit the positions of {}", table, x)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, cos = inputs[:2]
        rotary = cos.shape[-1] * (2 if self.halved else 1)
        return vector(3 * Mul(*x.shape[:-1]) * rotary)


@dataclass(frozen=True)
class Turn(Op):
    """Rotates keys ``x (B, T, Hk, dh)`` as they come out of a cache, by where they lie in it.

    3 FLOP per rotated element (:class:`costgraph.ops.elementwise.Rope`); cosines and sines
    of places in the cache are constants of the kernel. ``result`` is the format of what is
    rotated: a cache that is stored narrower is converted first.
    """

    kind: ClassVar[str] = "rope"
    rotary: Expr
    result: DType
    method: str = ""

    @property
    def told(self) -> str:
        return self.method

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes keys")
        require(len(inputs[0].shape) == 4, self, "cannot rotate {}", inputs[0])
        return (Spec(inputs[0].shape, self.result),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (x,) = inputs
        turned = vector(3 * Mul(*x.shape[:-1]) * self.rotary)
        return merged(turned, expansion(x, outputs[0]))
