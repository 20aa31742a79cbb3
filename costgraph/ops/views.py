"""Views: other shapes and orders of the same memory.

They move nothing and launch nothing. A reordered or broadcast operand is read by
the kernel that uses it, in whatever order; a copy that a framework would make for
an awkward layout is not charged, as a lower bound demands. A view of a weight is
a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Add as Sum
from sympy import Expr, Integer, Mul

from costgraph.ir.cost import Work
from costgraph.ir.dtypes import FP32, DType
from costgraph.ir.op import Op, Spec, Tensors, require, require_same
from costgraph.ir.tensor import Role, Tensor

ONE = Integer(1)


def _like(x: Tensor, shape: tuple[Expr, ...]) -> tuple[Spec, ...]:
    role = Role.WEIGHT if x.role is Role.WEIGHT else Role.ACTIVATION
    return (Spec(shape, x.dtype, role),)


@dataclass(frozen=True)
class View(Op):
    """What all views share: one operand, no work, no traffic."""

    is_view: ClassVar[bool] = True

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Reshape(View):
    """The same elements under another ``shape``."""

    kind: ClassVar[str] = "reshape"
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require_same(self, Mul(*self.shape), inputs[0].numel, "sizes of {} and its view", inputs[0])
        return _like(inputs[0], self.shape)


@dataclass(frozen=True)
class Transpose(View):
    """Axes in another order: axis ``i`` of the result is axis ``axes[i]`` of the operand."""

    kind: ClassVar[str] = "transpose"
    axes: tuple[int, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        fits = sorted(self.axes) == list(range(len(x.shape)))
        require(fits, self, "axes {} do not order {}", self.axes, x)
        return _like(x, tuple(x.shape[a] for a in self.axes))


@dataclass(frozen=True)
class Expand(View):
    """Axes of size one repeated, and axes put in front, up to ``shape``."""

    kind: ClassVar[str] = "expand"
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(len(x.shape) <= len(self.shape), self, "cannot expand {} to {}", x, self.shape)
        for a, b in zip(reversed(x.shape), reversed(self.shape), strict=False):
            if a != ONE:
                require_same(self, a, b, "shapes of {} and its expansion", x)
        return _like(x, self.shape)


@dataclass(frozen=True)
class Slice(View):
    """``length`` positions of ``axis`` from ``start`` on; ``step`` apart."""

    kind: ClassVar[str] = "slice"
    axis: int = 0
    start: Expr = Integer(0)
    length: Expr = ONE
    step: Expr = ONE

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(0 <= self.axis < len(x.shape), self, "{} has no axis {}", x, self.axis)
        last = self.start + (self.length - 1) * self.step + 1
        room = x.shape[self.axis] - last
        fits = not room.is_number or bool(room >= 0)
        require(fits, self, "{} positions of {} do not fit", self.length, x)
        shape = list(x.shape)
        shape[self.axis] = self.length
        return _like(x, tuple(shape))


@dataclass(frozen=True)
class Stack(View):
    """Operands of one shape ``(…)`` as one tensor ``(n, …)``, each where it is."""

    kind: ClassVar[str] = "stack"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes an operand or more")
        first = inputs[0]
        for other in inputs[1:]:
            fits = len(other.shape) == len(first.shape) and other.dtype == first.dtype
            require(fits, self, "{} beside {}", other, first)
            for a, b in zip(first.shape, other.shape, strict=True):
                require_same(self, a, b, "shapes of {} and {}", first, other)
        return _like(first, (Integer(len(inputs)), *first.shape))


@dataclass(frozen=True)
class Beside(View):
    """Operands side by side along ``axis``, each where it is: bands of rows as one image.

    Kernels find them in one buffer, into which each was written. Caches side by side are a cache.
    """

    kind: ClassVar[str] = "beside"
    axis: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes an operand or more")
        first, axis = inputs[0], self.axis
        require(0 <= axis < len(first.shape), self, "{} has no axis {}", first, axis)
        for other in inputs[1:]:
            fits = len(other.shape) == len(first.shape) and other.dtype == first.dtype
            require(fits, self, "{} beside {}", other, first)
            for at, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)):
                if at != axis:
                    require_same(self, a, b, "shapes of {} and {}", first, other)
        length: Expr = Sum(*(t.shape[axis] for t in inputs))
        (spec,) = _like(first, (*first.shape[:axis], length, *first.shape[axis + 1 :]))
        caches = all(t.role is Role.KV for t in inputs)
        return (replace(spec, role=Role.KV),) if caches else (spec,)


@dataclass(frozen=True)
class Reinterpret(View):
    """The same bytes as elements of another format: pairs of numbers as complex ones."""

    kind: ClassVar[str] = "reinterpret"
    shape: tuple[Expr, ...] = ()
    to: DType = FP32

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        (spec,) = _like(inputs[0], self.shape)
        made = replace(spec, dtype=self.to)
        require_same(self, made.named("").bytes, inputs[0].bytes, "bytes of {}", inputs[0])
        return (made,)


@dataclass(frozen=True)
class Windows(View):
    """Windows along axes as axes of their own; where they overlap, the same memory again."""

    kind: ClassVar[str] = "windows"
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(len(self.shape) > len(inputs[0].shape), self, "{} to {}", inputs[0], self.shape)
        return _like(inputs[0], self.shape)
