"""Bytes between the memory of a device and farther levels, or the memory of another device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.links import Messages
from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.dtypes import INT32
from costgraph.ir.op import Op, Spec, Tensors, read, require, write
from costgraph.ir.tensor import MEMORY, Role


@dataclass(frozen=True)
class Moved:
    """Bytes of one role that come from a level of memory (read), or go there (written)."""

    level: str
    role: Role
    direction: Direction
    bytes: Expr

    @property
    def accesses(self) -> tuple[Access, Access]:
        """At the level, and at the memory of the device."""
        back = Direction.WRITE if self.direction is Direction.READ else Direction.READ
        return (
            Access(f"{self.level} copy", self.role, self.direction, self.bytes, self.level),
            Access("copy", self.role, back, self.bytes, MEMORY),
        )


@dataclass(frozen=True)
class Stream(Op):
    """Parts of tensors that are kept in farther levels come into the memory, or go back.

    Nothing is computed; every byte is read once and written once. Its one result says that
    it is done and takes no room: that is set aside with the tensors themselves.
    """

    kind: ClassVar[str] = "stream"
    moved: tuple[Moved, ...]

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(not inputs, self, "takes no operands")
        return (Spec((Integer(0),), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return tuple(a for m in self.moved for a in m.accesses)


@dataclass(frozen=True)
class Carry(Op):
    """The operand from the memory of the device into that of ``level``, or the other way.

    ``to`` says where it goes: to the ``level``, where something computes with it, or with
    ``back`` from there to the device.
    """

    kind: ClassVar[str] = "carry"
    level: str
    back: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        return (Spec(x.shape, x.dtype, x.role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        near, far = (write, read) if self.back else (read, write)
        return (near(inputs[0]), replace(far(inputs[0]), level=self.level))


@dataclass(frozen=True)
class HandOver(Op):
    """Caches and states leave for the memory of another device, over a link by its name.

    They are read here once, and cross the link as one message. Nothing is computed.
    """

    kind: ClassVar[str] = "hand-over"
    link: str
    bytes: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(not inputs, self, "takes no operands")
        return (Spec((Integer(0),), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (Access("caches", Role.KV, Direction.READ, self.bytes),)

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        return {self.link: Messages(Integer(1), self.bytes)}
