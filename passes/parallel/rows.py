"""How operations without matrices split: element by element, row by row, views."""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Integer, Mul

from costgraph import ops
from costgraph.ops.collectives import AllToAll, Received
from costgraph.ops.hadamard import Hadamard
from costgraph.ops.tokens import Split
from costgraph.ops.views import Reshape, Transpose
from costgraph.passes.parallel.ahead import Piece
from costgraph.passes.parallel.places import (
    ANY,
    WHOLE,
    Place,
    part,
)
from costgraph.passes.parallel.products import flat_part
from costgraph.passes.parallel.site import Ruled, Site, moved, whole

ONE = Integer(1)


def elementwise(site: Site) -> Ruled:
    """Operands of one shape, the later ones broadcast over leading axes and those of length one."""
    split = [p for p in site.places if p is not None and p.axis is not None]
    if not split:
        return Ruled(site.op, (WHOLE,) * len(site.inputs), (WHOLE,) * len(site.outputs))
    rank = len(site.outputs[0].shape)
    at = split[0]
    back = _from_end(site, at)
    wanted = []
    for tensor, place in zip(site.inputs, site.places, strict=True):
        if place is not None and place.axis is not None and _from_end(site, place) != back:
            raise site.blocked("its operands are split along different axes", *split)
        axis = len(tensor.shape) + back
        broadcast = axis < 0 or tensor.shape[axis] == 1 != site.outputs[0].shape[back]
        wanted.append(WHOLE if broadcast else moved(at, axis))
    return Ruled(site.op, tuple(wanted), (moved(at, rank + back),) * len(site.outputs))


def _from_end(site: Site, place: Place) -> int:
    """The split axis counted from the last one."""
    index = next(i for i, p in enumerate(site.places) if p is place)
    assert place.axis is not None
    return place.axis - len(site.inputs[index].shape)


def linear_map(site: Site) -> Ruled:
    """Element-wise and linear: a sum may be taken before or after."""
    if site.place(0).partial:
        rest = (WHOLE,) * (len(site.inputs) - 1)
        partial = Place(partial=True, roots=site.place(0).roots)
        return Ruled(site.op, (partial, *rest), (partial,))
    return elementwise(site)


def addition(site: Site) -> Ruled:
    """A sum of two partial sums is one."""
    places = [site.place(i) for i in range(len(site.inputs))]
    if all(p.partial for p in places):
        roots = frozenset().union(*(p.roots for p in places))
        partial = Place(partial=True, roots=roots)
        return Ruled(site.op, (partial,) * len(places), (partial,))
    return elementwise(site)


def norm(site: Site) -> Ruled:
    """Rows that lie on one device; parameters that differ along a split axis go with it."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    last = len(site.inputs[0].shape) - 1
    if place.axis != last:
        return elementwise(site)
    params = (moved(place, 0),) * (len(site.inputs) - 1)
    groups = getattr(site.op, "groups", ONE)
    if groups != 1:
        local = part(groups, site.degree, f"groups of {site.name!r}")
        return Ruled(replace(site.op, groups=local), (place, *params), (place,))  # type: ignore[type-var]
    if all(isinstance(user, ops.Linear) for user in site.ahead.users(site.outputs[0].name)) and (
        isinstance(site.producer, ops.Linear) or site.ahead.is_widened(site.outputs[0].name)
    ):
        raise site.blocked("needs whole rows in front of a product", place)
    statistics = 1 if isinstance(site.op, ops.RMSNorm) else 2
    return Ruled(site.op, (place, *params), (place,), statistics=statistics)


def transform(site: Site) -> Ruled:
    """Transforms of whole rows or of all heads at one place, gathered for it; others pass."""
    assert isinstance(site.op, Hadamard)
    place, rank = site.place(0), len(site.inputs[0].shape)
    if place.axis is not None and place.axis - rank not in site.op.along:
        return elementwise(site)
    return Ruled(site.op, (WHOLE,), (WHOLE,), gathers=(0,))


def split(site: Site) -> Ruled:
    """Parts of a split axis, each a part of its own axis; other axes pass."""
    op, x, place = site.op, site.inputs[0], site.place(0)
    assert isinstance(op, Split)
    if place.axis is None:
        return whole(site)
    if place.axis != len(x.shape) - 1:
        return Ruled(op, (place,), (place,) * len(op.parts))
    parts, places = [], []
    for result, shape in zip(site.outputs, op.parts, strict=True):
        if len(shape) > 1:
            piece = Piece(shape[0], shared=site.ahead.is_shared(result.name))
            local = piece.part(site.degree, f"heads of {result.name!r}")
        else:
            local = flat_part(site, result.name)
        parts.append((local, *shape[1:]))
        # A part that is not divided lies whole on every device.
        cut = Place(place.axis, local, roots=place.roots)
        places.append(WHOLE if local == shape[0] else cut)
    total = Add(*(Mul(*shape) for shape in parts))
    if place.length is None or (total - place.length).expand() != 0:
        raise site.blocked("its parts do not split with the whole", place)
    return Ruled(replace(op, parts=tuple(parts)), (place,), tuple(places))


def concat(site: Site) -> Ruled:
    """Side by side: other axes pass; along the axis itself, parts of all operands are one part."""
    found = [p for p in site.places if p is not None and p.axis is not None]
    if not found:
        return whole(site)
    axis = getattr(site.op, "axis", len(site.inputs[0].shape) - 1)
    if any(p.axis == axis for p in found):
        if any(p is None or p.axis != axis or p.tokens for p in site.places):
            raise site.blocked("its operands would lie apart", *found)
        length = Add(*(p.length for p in found if p.length is not None))
        roots = frozenset().union(*(p.roots for p in found))
        return Ruled(site.op, tuple(found), (Place(axis, length, roots=roots),))
    if any(p.axis != found[0].axis or p.length != found[0].length for p in found):
        raise site.blocked("its operands are split differently", *found)
    return Ruled(site.op, (found[0],) * len(site.inputs), (found[0],))


def cut(site: Site) -> Ruled:
    """Stretches of rows: other axes pass."""
    place = site.place(0)
    if place.axis == 1:
        raise site.blocked("cuts the split axis", place)
    if place.partial:
        return whole(site)
    return Ruled(site.op, (place,), (place,) * len(site.outputs))


def per_sample(site: Site) -> Ruled:
    """Rows with vectors per sample: features apart, or samples, or rows."""
    place, rank = site.place(0), len(site.inputs[0].shape)
    if place.axis is None:
        return (
            whole(site)
            if not place.partial
            else Ruled(site.op, (WHOLE,) * len(site.inputs), (WHOLE,))
        )
    # Features of the vectors are their last axis.
    by_axis = {rank - 1: moved(place, 1), 0: place}
    vectors = by_axis.get(place.axis, WHOLE)
    return Ruled(site.op, (place, *(vectors,) * (len(site.inputs) - 1)), (place,))


def gate(site: Site) -> Ruled:
    """A factor per feature and sample: linear in what it scales."""
    if site.place(0).partial:
        return Ruled(site.op, (site.place(0), WHOLE), (site.place(0),))
    return per_sample(site)


def reshape(site: Site) -> Ruled:
    """An axis merged with those behind it, or cut into several: it stays the first of them."""
    op, x, place = site.op, site.inputs[0], site.place(0)
    assert isinstance(op, Reshape)
    if place.axis is None:
        return whole(site)
    before = Mul(*x.shape[: place.axis])
    after = next((i for i in range(len(op.shape)) if Mul(*op.shape[:i]) == before), None)
    assert place.length is not None
    if after is None or op.shape[after] == 1:
        raise site.blocked("its view does not begin an axis where the split one begins", place)
    length = op.shape[after] * place.length / x.shape[place.axis]
    merged = (op.shape[after] / x.shape[place.axis]).is_number
    if not merged or (site.degree != ANY and length.is_number and not length.is_Integer):
        raise site.blocked("its view does not keep the split axis", place)
    shape = (*op.shape[:after], length, *op.shape[after + 1 :])
    return Ruled(replace(op, shape=shape), (place,), (moved(place, after, length),))


def combine(site: Site) -> Ruled:
    """A weighted sum of rows: of partial ones a partial one."""
    place = site.place(0)
    rank = len(site.inputs[0].shape)
    if place.partial:
        return Ruled(site.op, (place, WHOLE), (place,))
    if place.axis is None:
        return whole(site)
    if place.axis == rank - 1:
        return Ruled(site.op, (place, WHOLE), (moved(place, place.axis - 1),))
    if place.axis < rank - 2:
        return Ruled(site.op, (place, place), (place,))
    if place.axis == rank - 2 and place.away:  # they come back first
        home = site.tokens
        return Ruled(site.op, (home, home), (home,))
    if place.axis == rank - 2:
        return Ruled(site.op, (place, place), (Place(partial=True, roots=place.roots),))
    raise site.blocked("needs all rows of a token", place)


def row_scale(site: Site) -> Ruled:
    """Rows times a number each: linear, and apart along all but the numbers' axis."""
    place = site.place(0)
    if place.partial:
        return Ruled(site.op, (place, WHOLE), (place,))
    if place.axis is not None and place.axis == len(site.inputs[0].shape) - 1:
        return Ruled(site.op, (place, WHOLE), (place,))
    return elementwise(site)


def by_row(site: Site) -> Ruled:
    """Rows apart: all axes but the last."""
    place = site.place(0)
    if place.axis is not None and place.axis == len(site.inputs[0].shape) - 1:
        raise site.blocked("needs whole rows", place)
    if place.partial:
        return whole(site)
    return Ruled(site.op, (place,) * len(site.inputs), (place,) * len(site.outputs))


def select(site: Site) -> Ruled:
    """Positions of every row; sums pass."""
    place = site.place(0)
    if place.axis == 1 and site.context != 1:  # the last ones lie on one device
        return Ruled(site.op, (place,), (WHOLE,))
    if place.axis == 1:
        raise site.blocked("chooses positions", place)
    return Ruled(site.op, (place,), (place,))


def transpose(site: Site) -> Ruled:
    """The split axis under its new number."""
    op, place = site.op, site.place(0)
    assert isinstance(op, Transpose)
    if place.axis is None:
        return Ruled(op, (place,), (place,))
    return Ruled(op, (place,), (moved(place, op.axes.index(place.axis)),))


def exchange(site: Site) -> Ruled:
    """What devices of another group exchange: of each its part."""
    place, op = site.place(0), site.op
    if place.axis == 1 and isinstance(op, (AllToAll, Received)):
        assert place.length is not None
        part = place.length / site.inputs[0].shape[1]
        shape = (op.shape[0], op.shape[1] * part, *op.shape[2:])
        op = replace(op, shape=shape)
        if isinstance(op, AllToAll):
            op = replace(op, amounts=tuple(a * part for a in op.amounts))
    return Ruled(op, (place,), (place,))
