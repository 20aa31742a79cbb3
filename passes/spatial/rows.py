"""Where the rows of an image lie in a tensor, and what operations need and make of them.

An operation that works row by row, or in windows of rows, can run on a band of them. A rule
says in which axis of its results rows lie, which rows of the operands a row of the result
needs, and what the operation on a band is. What has no rule needs the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sympy import Expr, Integer, Mul, floor

from costgraph import ops
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, same
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.arrays import Cast, Join
from costgraph.ops.channels import BatchNorm
from costgraph.ops.conv import Conv
from costgraph.ops.elementwise import Binary
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Map
from costgraph.ops.pool import LocalResponseNorm, Pool
from costgraph.ops.views import Slice, Transpose

ONE, ZERO = Integer(1), Integer(0)
#: Rows from the first on, and the one behind the last.
Interval = tuple[Expr, Expr]


@dataclass(frozen=True)
class Rows:
    """Where rows lie in a tensor: ``count`` of them in ``axis``, ``each`` positions long."""

    axis: int
    each: Expr
    count: Expr

    def cut(self, first: Expr, length: Expr) -> Slice:
        """The view of ``length`` rows from ``first`` on."""
        return Slice(self.axis, first * self.each, length * self.each)


@dataclass(frozen=True)
class Window:
    """Rows of an operand that a row of the result needs: ``size`` of them, ``stride`` apart.

    ``front`` rows of padding stand before the first.
    """

    size: Expr = ONE
    stride: Expr = ONE
    front: Expr = ZERO

    def reach(self, wanted: Interval) -> Interval:
        """Rows of the operand that some rows of the result need, those of padding among them."""
        first = wanted[0] * self.stride - self.front
        return first, (wanted[1] - 1) * self.stride - self.front + self.size


POINT = Window()


@dataclass(frozen=True)
class Ruled:
    """What a rule says of an operation.

    Attributes:
        result: where rows lie in its results.
        windows: what it needs of each operand that has rows, by its place.
        band: the operation that makes so many rows of the result.
    """

    result: Rows
    windows: Mapping[int, Window]
    band: Callable[[Expr], Op]


@dataclass(frozen=True)
class Site:
    """An operation, its operands, and where rows lie in them; None for what has none."""

    node: Node
    operands: Sequence[Tensor]
    places: Sequence[Rows | None]
    axes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = tuple(i for i, p in enumerate(self.places) if p is not None)
        object.__setattr__(self, "axes", found)

    @property
    def given(self) -> Rows:
        """Where rows lie in the first operand that has some."""
        found = self.places[self.axes[0]]
        assert found is not None
        return found


Rule = Callable[[Site], Ruled | None]


def alike(site: Site) -> Ruled | None:
    """Element by element: operands with rows have them alike, others none of their own."""
    op, given = site.node.op, site.given
    rank = len(site.node.outputs[0].shape)
    for tensor, place in zip(site.operands, site.places, strict=True):
        # Axes count from behind, as operands are broadcast.
        axis = given.axis - (rank - len(tensor.shape))
        if place is None:
            if axis >= 0 and not same(tensor.shape[axis], ONE):
                return None
        elif (place.axis, place.each, place.count) != (axis, given.each, given.count):
            return None
    result = replace(given, axis=given.axis + rank - len(site.operands[site.axes[0]].shape))
    return Ruled(result, dict.fromkeys(site.axes, POINT), lambda _: op)


def by_channel(site: Site) -> Ruled | None:
    """Row by row, with numbers per channel: norms by stored statistics."""
    op = site.node.op
    return Ruled(site.given, {0: POINT}, lambda _: op) if site.axes == (0,) else None


def row_norm(site: Site) -> Ruled | None:
    """Norms over the last axes, if these are not the rows'."""
    last = max((len(t.shape) for t in site.operands[1:]), default=1)
    within = site.given.axis < len(site.operands[0].shape) - last
    return by_channel(site) if within else None


def linear(site: Site) -> Ruled | None:
    """A product of each position."""
    op = site.node.op
    assert isinstance(op, ops.Linear)
    within = site.given.axis < len(site.operands[0].shape) - op.contract
    return Ruled(site.given, {0: POINT}, lambda _: op) if site.axes == (0,) and within else None


def conv(site: Site) -> Ruled | None:
    """Windows of rows; uneven padding has its larger part behind, as frameworks put it."""
    op, given = site.node.op, site.given
    assert isinstance(op, Conv)
    if site.axes != (0,) or (given.axis, given.each) != (2, ONE):
        return None
    kernel = site.operands[1].shape[2]
    return _windows(site, op, kernel, op.stride[0], op.dilation[0], floor(op.padding[0]))


def pool(site: Site) -> Ruled | None:
    """Windows of rows."""
    op, given = site.node.op, site.given
    assert isinstance(op, Pool)
    first = len(site.operands[0].shape) - len(op.kernel)
    if (given.axis, given.each) != (first, ONE):
        return None
    front = floor(op.padding[0] / 2)
    return _windows(site, op, op.kernel[0], op.stride[0], op.dilation[0], front)


def _windows(
    site: Site, op: Conv | Pool, kernel: Expr, stride: Expr, dilation: Expr, front: Expr
) -> Ruled:
    axis = site.given.axis
    result = Rows(axis, ONE, site.node.outputs[0].shape[axis])
    window = Window(dilation * (kernel - 1) + 1, stride, front)
    return Ruled(result, {0: window}, lambda rows: replace(op, band=rows))


def as_sequence(site: Site) -> Ruled | None:
    """An image ``(B, C, n…)`` as a sequence of its positions: rows follow one another."""
    x, op, given = site.operands[0], site.node.op, site.given
    if (given.axis, given.each) != (2, ONE):
        return None
    result = Rows(1, Mul(*x.shape[3:]), given.count)
    return Ruled(result, {0: POINT}, lambda _: op)


def as_image(site: Site) -> Ruled | None:
    """Back again."""
    op, given = site.node.op, site.given
    assert isinstance(op, AsImage)
    if given.axis != 1 or not same(given.each, Mul(*op.size[1:])):
        return None
    result = Rows(2, ONE, given.count)
    return Ruled(result, {0: POINT}, lambda rows: AsImage((rows, *op.size[1:])))


def transpose(site: Site) -> Ruled | None:
    """Axes in another order."""
    op, given = site.node.op, site.given
    assert isinstance(op, Transpose)
    result = replace(given, axis=op.axes.index(given.axis))
    return Ruled(result, {0: POINT}, lambda _: op)


def joined(site: Site) -> Ruled | None:
    """Operands side by side along another axis: channels."""
    op, given = site.node.op, site.given
    rank = len(site.operands[0].shape)
    axis = op.axis if isinstance(op, Join) else rank - 1
    if axis == given.axis or any(p != given for p in site.places):
        return None
    return Ruled(given, dict.fromkeys(site.axes, POINT), lambda _: op)


def sliced(site: Site) -> Ruled | None:
    """Positions of another axis."""
    op, given = site.node.op, site.given
    assert isinstance(op, Slice)
    return None if op.axis == given.axis else Ruled(given, {0: POINT}, lambda _: op)


#: Rules by operation; a subclass takes that of its nearest base.
RULES: Mapping[type[Op], Rule] = {
    Conv: conv,
    Pool: pool,
    BatchNorm: by_channel,
    LocalResponseNorm: by_channel,
    ops.Activation: alike,
    ops.SoftCap: alike,
    ops.Scale: alike,
    Binary: alike,
    Map: alike,
    Cast: alike,
    ops.LayerNorm: row_norm,
    ops.RMSNorm: row_norm,
    ops.Linear: linear,
    ops.AsSequence: as_sequence,
    AsImage: as_image,
    Transpose: transpose,
    Join: joined,
    ops.Concat: joined,
    Slice: sliced,
}


def rule_for(site: Site) -> Ruled | None:
    """What the rule of an operation says; None where it needs the whole image."""
    if not site.axes:
        return None
    rule = next((RULES[c] for c in type(site.node.op).__mro__ if c in RULES), None)
    # What is made from the image, and has no rows, is there only once all of them are.
    waits = any(
        p is None and t.role is Role.ACTIVATION
        for t, p in zip(site.operands, site.places, strict=True)
    )
    return None if rule is None or waits else rule(site)


def image_rows(graph: Graph) -> dict[str, Rows]:
    """Inputs that are images, ``(B, C, n…)``: rows along the first spatial axis."""
    return {
        t.name: Rows(2, ONE, t.shape[2])
        for t in graph.inputs
        if len(t.shape) >= 4 and t.shape[2].is_number
    }
