"""What iterations over one sequence keep of the iterations before (dLLM-Cache)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Mul

from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    read,
    require,
    require_same,
    vector,
    vector_special,
    write,
)
from costgraph.ir.tensor import Role


@dataclass(frozen=True)
class KeepFeatures(Op):
    """Stores what a block made of some rows, and adds what it made of all others before.

    Inputs: the cache ``(B, T, d)`` and the new rows ``(B, q, d)``; the result is the new
    rows, unchanged. They are written to their places in the cache. Of the other ``T − q``
    rows the cached ones are read and added to the residual stream, which is read and
    written: 1 FLOP per element (the addition of the new rows is a node of its own). A
    narrower cache takes 3 FLOP per element to store and 2 to load, as others do.
    """

    kind: ClassVar[str] = "keep-features"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes a cache and new rows")
        cache, new = inputs
        require(cache.role is Role.KV, self, "{} is no cache", cache)
        require(len(cache.shape) == len(new.shape) == 3, self, "cannot keep {} in {}", new, cache)
        for axis in (0, 2):
            require_same(self, cache.shape[axis], new.shape[axis], f"axis {axis}")
        return (Spec(new.shape, new.dtype),)

    def _others(self, inputs: Tensors) -> Expr:
        cache, new = inputs
        return Mul(cache.shape[0], cache.shape[1] - new.shape[1], cache.shape[2])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        cache, new = inputs
        others = self._others(inputs)
        amount = others
        if cache.dtype.bits != new.dtype.bits:
            amount += 3 * new.numel + 2 * others
        return {} if amount == 0 else vector(amount)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache, new = inputs
        others = self._others(inputs)
        kept, stream = (others * t.dtype.bytes_per_element for t in (cache, new))
        amount = new.numel * cache.dtype.bytes_per_element
        return (
            read(new),
            write(cache, amount),
            read(cache, kept),
            Access("stream", Role.ACTIVATION, Direction.READ, stream),
            Access("stream", Role.ACTIVATION, Direction.WRITE, stream),
        )


@dataclass(frozen=True)
class ValueCheck(Op):
    """Tells the rows whose values have changed most; ``V (B, n, Hk, dh)`` against the cached.

    Inputs: the new values and the cache ``(B, m, Hk, dh)``, of which ``n`` rows are read. The
    result is a similarity ``(B, n)`` per row: 6 FLOP per element (a product and two
    squares, summed), a root and a division per row. Choosing rows by it is free, as
    choosing a token is.
    """

    kind: ClassVar[str] = "value-check"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes values and a cache")
        new, cache = inputs
        require(cache.role is Role.KV, self, "{} is no cache", cache)
        require(len(cache.shape) == len(new.shape) == 4, self, "{} against {}", new, cache)
        return (Spec(new.shape[:2], new.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        new, cache = inputs
        rows = outputs[0].numel
        checked = vector_special(6 * new.numel + rows, rows)
        return merged(checked, expansion(cache, new, new.numel))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        new, cache = inputs
        amount = new.numel * cache.dtype.bytes_per_element
        return (read(new), read(cache, amount), write(outputs[0]))


@dataclass(frozen=True)
class TakeRows(Op):
    """Picks ``count`` of the rows of ``x (B, n, …)``: no arithmetic, the rows move."""

    kind: ClassVar[str] = "take-rows"
    count: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes rows and what they are chosen by")
        batch, _, *rest = inputs[0].shape
        return (Spec((batch, self.count, *rest), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (read(inputs[0], outputs[0].bytes), write(outputs[0]))
