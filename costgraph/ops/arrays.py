"""Operations that move or make elements and compute nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Add as Sum
from sympy import Expr, Integer

from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import FP32, DType
from costgraph.ir.op import Op, Spec, Tensors, read, require, require_same, vector, write
from costgraph.ir.tensor import Role


@dataclass(frozen=True)
class Move(Op):
    """What all moves share: no arithmetic."""

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Join(Move):
    """Operands side by side along ``axis``: a copy of all of them."""

    kind: ClassVar[str] = "join"
    axis: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes an operand or more")
        first = inputs[0]
        require(0 <= self.axis < len(first.shape), self, "{} has no axis {}", first, self.axis)
        for other in inputs[1:]:
            require(len(other.shape) == len(first.shape), self, "{} beside {}", first, other)
            for axis, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)):
                if axis != self.axis:
                    require_same(self, a, b, "shapes of {} and {}", first, other)
        shape = list(first.shape)
        shape[self.axis] = Sum(*(t.shape[self.axis] for t in inputs))
        return (Spec(tuple(shape), first.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        # An operand that stands there twice is still copied from one place.
        return (*(read(t) for t in {t.name: t for t in inputs}.values()), write(outputs[0]))


@dataclass(frozen=True)
class JoinState(Move):
    """New columns ``x (B, C, n)`` behind those that a state ``(B, C, k)`` kept: a copy of both.

    Results ``(B, C, k + n)``, and the new state: the last ``k`` columns.
    """

    kind: ClassVar[str] = "join-state"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes columns and a state")
        x, state = inputs
        require(len(x.shape) == len(state.shape) == 3, self, "{} behind {}", x, state)
        require(state.role is Role.STATE, self, "{} is no state", state)
        for axis in (0, 1):
            require_same(self, x.shape[axis], state.shape[axis], f"axis {axis}")
        shape = (*x.shape[:2], state.shape[2] + x.shape[2])
        return (Spec(shape, x.dtype), Spec(state.shape, state.dtype, Role.STATE))


@dataclass(frozen=True)
class Gather(Move):
    """Entries of ``x`` along ``axis`` by ``indices (…)``.

    The result has the axes of ``indices`` in place of ``axis``. Only the chosen
    entries are read: one per index (an upper bound where indices repeat).
    """

    kind: ClassVar[str] = "gather"
    axis: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes data and indices")
        x, indices = inputs
        require(0 <= self.axis < len(x.shape), self, "{} has no axis {}", x, self.axis)
        shape = (*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :])
        return (Spec(shape, x.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        chosen = outputs[0].numel * inputs[0].dtype.bytes_per_element
        return (read(inputs[0], chosen), read(inputs[1]), write(outputs[0]))


@dataclass(frozen=True)
class GatherElements(Move):
    """One entry of ``x`` per index: the result has the shape of ``indices``.

    With ``whole`` trailing axes of ``x`` moved per index (``GatherND``), the
    result is ``shape``. Only the chosen entries are read.
    """

    kind: ClassVar[str] = "gather-elements"
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2, self, "takes data and indices")
        return (Spec(self.shape, inputs[0].dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        chosen = outputs[0].numel * inputs[0].dtype.bytes_per_element
        return (read(inputs[0], chosen), *(read(t) for t in inputs[1:]), write(outputs[0]))


@dataclass(frozen=True)
class Scatter(Move):
    """``x`` with ``updates`` put at indices: inputs ``x``, indices…, ``updates`` last.

    Functional: the result is a whole copy of ``x``. In place (``in_place``) only
    the updates are written, which is what an engine does that owns ``x``. Where updates
    are added, or compared, to what is there (``combines``), 1 FLOP each.
    """

    kind: ClassVar[str] = "scatter"
    in_place: bool = False
    combines: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2, self, "takes data and updates")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(inputs[-1].numel) if self.combines else {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        updates = inputs[-1]
        moved = tuple(read(t) for t in {t.name: t for t in inputs[1:]}.values())
        if self.in_place:
            return (*moved, write(outputs[0], updates.bytes))
        return (read(inputs[0]), *moved, write(outputs[0]))


@dataclass(frozen=True)
class Copy(Move):
    """A copy of the operand into ``shape``: padding, tiling, flipping, repeating."""

    kind: ClassVar[str] = "copy"
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(self.shape, inputs[0].dtype),)


@dataclass(frozen=True)
class Cast(Move):
    """The operand in another format; converting an element is not counted as arithmetic."""

    kind: ClassVar[str] = "cast"
    to: DType = FP32

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, self.to),)


@dataclass(frozen=True)
class Fill(Move):
    """A tensor made from nothing: constants, ranges, random numbers. Only written."""

    kind: ClassVar[str] = "fill"
    shape: tuple[Expr, ...] = ()
    dtype: DType = FP32

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(not inputs, self, "takes no operand")
        return (Spec(self.shape, self.dtype),)


@dataclass(frozen=True)
class Triangle(Move):
    """The lower (or ``upper``) triangle of the last two axes, zero elsewhere.

    ``diagonal`` counts from the main one upwards.
    """

    kind: ClassVar[str] = "triangle"
    upper: bool = False
    diagonal: Expr = Integer(0)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) >= 2, self, "takes one matrix")
        return (Spec(inputs[0].shape, inputs[0].dtype),)
