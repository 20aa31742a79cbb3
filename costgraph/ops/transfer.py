"""Bytes between the memory of a device and farther levels, or the memory of another device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Add, Expr, Integer

from costgraph.hardware.links import Messages, least
from costgraph.ir.cost import ONE, Access, Direction, Work
from costgraph.ir.dtypes import INT32
from costgraph.ir.op import Op, Spec, Tensors, read, require, vector, write
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

    @property
    def told(self) -> str:
        ways = ((Direction.READ, "from"), (Direction.WRITE, "to"))
        return "; ".join(
            f"{role.value} {word} {', '.join(levels)}"
            for way, word in ways
            for role in dict.fromkeys(m.role for m in self.moved if m.direction is way)
            if (levels := dict.fromkeys(
                m.level for m in self.moved if (m.role, m.direction) == (role, way)
            ))
        )  # fmt: skip

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(not inputs, self, "takes no operands")
        return (Spec((Integer(0),), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return tuple(a for m in self.moved for a in m.accesses)


@dataclass(frozen=True)
class Passing(Op):
    """What hands its one operand on: its result is the same, elsewhere."""

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        return (Spec(x.shape, x.dtype, x.role),)


@dataclass(frozen=True)
class Carry(Passing):
    """The operand from the memory of the device into that of ``level``, or the other way.

    ``to`` says where it goes: to the ``level``, where something computes with it, or with
    ``back`` from there to the device. A level of several parts with memory of their own gets
    as many ``copies`` of what all of them need; of a sum as many parts come back, which the
    device adds up: ``copies − 1`` FLOP an element.
    """

    kind: ClassVar[str] = "carry"
    level: str
    back: bool = False
    copies: Expr = ONE

    @property
    def told(self) -> str:
        many = "" if self.copies == 1 else f", {self.copies} times"
        return f"{'from' if self.back else 'to'} {self.level}{many}"

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector((self.copies - 1) * inputs[0].numel) if self.back else {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x, size = inputs[0], inputs[0].bytes
        if not self.back:
            return (read(x), replace(write(x, self.copies * size), level=self.level))
        far = replace(read(x, self.copies * size), level=self.level)
        if self.copies == 1:
            return (write(x), far)
        # The parts come to the memory and are read again; their sum is written.
        return (write(x, (self.copies + 1) * size), read(x, self.copies * size), far)


@dataclass(frozen=True)
class AmongParts(Passing):
    """An exchange between the parts of a level, over the link that joins them.

    ``broadcast``: what one of them has is on all of them. ``reduce-scatter``: of a sum that
    each has a part of, each gets its share whole. Runs where the level computes.
    """

    kind: ClassVar[str] = "among-parts"
    what: str
    link: str
    parts: Expr

    @property
    def told(self) -> str:
        return f"{self.what} among {self.parts} over {self.link}"

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        return {self.link: least(self.what, inputs[0].bytes, self.parts)}


@dataclass(frozen=True)
class Relay(Passing):
    """The operand from one device to the next, along a row of them: one message after another.

    ``ways`` are the links that are crossed, how often, and the part of its bandwidth that a
    message to one neighbour can use.
    """

    kind: ClassVar[str] = "relay"
    ways: tuple[tuple[str, Expr, Expr], ...]

    @property
    def told(self) -> str:
        return "; ".join(f"{count} times over {link}" for link, count, _ in self.ways)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        times = Add(*(count for _, count, _ in self.ways))
        size = times * inputs[0].bytes
        return (read(inputs[0], size), write(outputs[0], size))

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        size = inputs[0].bytes
        return {link: Messages(count, count * size).over(share) for link, count, share in self.ways}


@dataclass(frozen=True)
class HandOver(Op):
    """Caches and states leave for the memory of another device, over a link by its name.

    They are read here once, and cross the link as one message. Nothing is computed.
    """

    kind: ClassVar[str] = "hand-over"
    link: str
    bytes: Expr

    @property
    def told(self) -> str:
        return f"over {self.link}"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(not inputs, self, "takes no operands")
        return (Spec((Integer(0),), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (Access("caches", Role.KV, Direction.READ, self.bytes),)

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        return {self.link: Messages(Integer(1), self.bytes)}
