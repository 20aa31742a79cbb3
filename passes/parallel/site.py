"""Operations as the rules of a split see them, and what a rule says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.op import Op
from costgraph.ir.tensor import Tensor
from costgraph.passes.parallel.ahead import Ahead
from costgraph.passes.parallel.experts import Spread
from costgraph.passes.parallel.places import WHOLE, BlockedError, Place

ONE = Integer(1)


@dataclass(frozen=True)
class Site:
    """An operation, its operands on the device, and what the rule may ask.

    Attributes:
        name, op: of the node.
        inputs, outputs: tensors of the whole model.
        places: of the operands; None for weights, caches and states without one yet.
        degree: devices of the group.
        stays: the node's weights stay whole.
        ahead: what becomes of tensors of its graph.
        producer: what makes the first operand.
        spread: experts over devices, or None.
        context: devices among which positions are split; ``decoding``: those of the cache
            alone, else those of the step.
        tokens: where a device has its part of the tokens.
    """

    name: str
    op: Op
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    places: tuple[Place | None, ...]
    degree: Expr
    stays: bool
    ahead: Ahead
    producer: Op | None
    spread: Spread | None = None
    tokens: Place = WHOLE
    context: Expr = ONE
    decoding: bool = False

    def place(self, index: int) -> Place:
        """The place of an operand, whole if it has none yet."""
        return self.places[index] or WHOLE

    def blocked(self, reason: str, *places: Place) -> BlockedError:
        """The error that takes the split of these operands back."""
        roots = frozenset().union(*(p.roots for p in places))
        return BlockedError(f"{self.op.kind} {self.name!r}: {reason}", roots)


@dataclass(frozen=True)
class Ruled:
    """What a rule says.

    Attributes:
        op: the operation that a device runs.
        wanted: the place of each operand.
        results: the place of each result.
        gathers: operands that may be gathered from a split axis.
        statistics: numbers per row that the devices add up before the operation: what a
            norm over a split axis needs of the other parts.
    """

    op: Op
    wanted: tuple[Place, ...]
    results: tuple[Place, ...]
    gathers: tuple[int, ...] = ()
    statistics: int = 0


Rule = Callable[[Site], Ruled]


def whole(site: Site) -> Ruled:
    """Everything whole: what stands for operations without a rule."""
    for given in site.places:
        if given is not None and given.axis is not None and not given.tokens:
            raise site.blocked("has no rule for a split operand", given)
    return Ruled(site.op, (WHOLE,) * len(site.inputs), (WHOLE,) * len(site.outputs))


def moved(place: Place, axis: int, length: Expr | None = None) -> Place:
    """The place with its split on another axis."""
    return replace(place, axis=axis, length=place.length if length is None else length)
