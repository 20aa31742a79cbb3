"""Exchanges between the devices of a group: ordinary operations with messages on links.

A group spans levels of a system (:class:`~costgraph.hardware.links.Hop`, innermost first):
devices of a node, then nodes. Bytes and steps are the least that any shipped algorithm needs (see
:mod:`costgraph.hardware.links`), so an ideal time stays a lower bound; what libraries reach is a
matter of calibration.
Reductions on the way are free, as in the α–β model. ``n`` is the whole buffer: what every
device holds before an all-reduce, before a reduce-scatter and after an all-gather.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.hardware.links import Hop, Messages, least
from costgraph.ir.cost import ONE, Access, Work
from costgraph.ir.dtypes import FP32
from costgraph.ir.op import Op, Spec, Tensors, read, require, vector, write


@dataclass(frozen=True)
class Leg:
    """What an exchange does on one level of its group: a collective of ``hop.ranks`` devices.

    Attributes:
        kind: a collective of :data:`costgraph.hardware.links.ALGORITHMS`.
        hop: the level.
        messages: steps and bytes on it.
    """

    kind: str
    hop: Hop
    messages: Messages


@dataclass(frozen=True)
class Exchange(Op):
    """What all exchanges share: a group, no arithmetic, the operand read, the result written."""

    hops: tuple[Hop, ...] = ()

    @property
    def ranks(self) -> Expr:
        """How many devices take part."""
        return Mul(*(h.ranks for h in self.hops))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (read(inputs[0]), write(outputs[0]))

    @abstractmethod
    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        """What passes on each level, one after the other."""

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        found: dict[str, Messages] = {}
        for leg in self.sent(inputs, outputs):
            link, messages = leg.hop.link, leg.messages.over(leg.hop.share)
            found[link] = found[link] + messages if link in found else messages
        return found

    def _one(self, inputs: Tensors) -> None:
        require(len(inputs) == 1, self, "takes one operand")


@dataclass(frozen=True)
class AllReduce(Exchange):
    """The sum of every device's operand, on all of them.

    Over nodes: summed within the node to a share per device, each share across nodes, and
    gathered again; so of ``n`` bytes a level within has ``2n(p−1)/p`` on the wire, one across
    nodes that of its share ``n/p``.
    """

    kind: ClassVar[str] = "all-reduce"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        self._one(inputs)
        x = inputs[0]
        return (Spec(x.shape, x.dtype),)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        found, share = [], inputs[0].bytes
        for hop in self.hops:
            given = least("all-reduce", share, hop.ranks, hop.in_network)
            found.append(Leg("all-reduce", hop, given))
            share = share / hop.ranks
        return tuple(found)


@dataclass(frozen=True)
class MergeAttention(AllReduce):
    """Attention over keys that lie on several devices, from each one's attention over its own.

    First every device gathers the logarithms of all devices' sums of exponentials, one number
    in FP32 per row of the operand; then results, weighted by them (2 FLOP per element), are
    added up (as Flash-Decoding does with pieces of the context).
    """

    kind: ClassVar[str] = "merge-attention"

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(2 * inputs[0].numel)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        x = inputs[0]
        sums = x.numel / x.shape[-1] * FP32.bytes_per_element
        return (*_gathered(self.hops, sums, "all-gather"), *super().sent(inputs, outputs))


@dataclass(frozen=True)
class AllGather(Exchange):
    """Every device's part of ``axis``, put together on all of them.

    ``size`` is the whole length where it is not a multiple of the part (rows that only fill
    up the last device are left out).
    """

    kind: ClassVar[str] = "all-gather"
    axis: int = 0
    size: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        self._one(inputs)
        x = inputs[0]
        shape = list(x.shape)
        shape[self.axis] = x.shape[self.axis] * self.ranks if self.size is None else self.size
        return (Spec(tuple(shape), x.dtype),)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        return _gathered(self.hops, inputs[0].bytes, "all-gather")


@dataclass(frozen=True)
class ReduceScatter(Exchange):
    """The sum of every device's operand, a part of ``axis`` on each of them."""

    kind: ClassVar[str] = "reduce-scatter"
    axis: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        self._one(inputs)
        x = inputs[0]
        shape = list(x.shape)
        shape[self.axis] = x.shape[self.axis] / self.ranks
        return (Spec(tuple(shape), x.dtype),)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        return _gathered(self.hops, outputs[0].bytes, "reduce-scatter")


def _gathered(hops: tuple[Hop, ...], part: Expr, kind: str) -> tuple[Leg, ...]:
    """Levels of an all-gather or reduce-scatter, of which each device holds a part in bytes.

    Across nodes the parts of one device per node are exchanged, within a node those of all.
    """
    found = []
    for hop in reversed(hops):
        part = part * hop.ranks
        found.append(Leg(kind, hop, least(kind, part, hop.ranks)))
    return tuple(reversed(found))


@dataclass(frozen=True)
class AllToAll(Exchange):
    """Each device sends every other one a part of its own: token rows to their experts and back.

    The operand is what a device holds, the result what it receives, of the shape ``shape``.
    What several devices of another node need crosses to it once, and is handed on inside.

    Attributes:
        shape: of the result.
        amounts: bytes that a device sends on each level, innermost first.
    """

    kind: ClassVar[str] = "all-to-all"
    shape: tuple[Expr, ...] = ()
    amounts: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes rows to send")
        return (Spec(self.shape, inputs[0].dtype),)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        return tuple(
            Leg("all-to-all", hop, Messages(least("all-to-all", ONE, hop.ranks).steps, amount))
            for hop, amount in zip(self.hops, self.amounts, strict=True)
        )


@dataclass(frozen=True)
class Received(Op):
    """A view of what came with rows from other devices: of the shape ``shape``, at no cost."""

    kind: ClassVar[str] = "received"
    is_view: ClassVar[bool] = True
    shape: tuple[Expr, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(self.shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Send(Exchange):
    """The operand to another device, which goes on with it.

    ``through`` is what else is busy with it meanwhile, beside the sender's own side of the link:
    the receiver's side, or a medium that all share. What several send at the same time takes
    at least as long as these take with all of it.
    """

    kind: ClassVar[str] = "send"
    through: tuple[str, ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        self._one(inputs)
        x = inputs[0]
        return (Spec(x.shape, x.dtype, x.role),)

    def sent(self, inputs: Tensors, outputs: Tensors) -> tuple[Leg, ...]:
        (hop,) = self.hops
        return (Leg("p2p", hop, Messages(ONE, inputs[0].bytes)),)


@dataclass(frozen=True)
class RowStatistics(Op):
    """What a norm needs of each row: ``values`` numbers in FP32 (sum of squares, or sum too).

    ``x (…, d)`` to ``(…, values)``; 2 FLOP per element and number. Made by a device of its
    part of the row, to be added up over devices.
    """

    kind: ClassVar[str] = "row-statistics"
    values: int = 1

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec((*inputs[0].shape[:-1], Integer(self.values)), FP32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(2 * self.values * inputs[0].numel)


@dataclass(frozen=True)
class SharedNorm(Op):
    """A norm over rows that lie on several devices: ``inner``, given the rows' statistics last."""

    kind: ClassVar[str] = "shared-norm"
    inner: Op

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2, self, "takes the norm's operands and statistics")
        return self.inner.infer(inputs[:-1])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return self.inner.work(inputs[:-1], outputs)
