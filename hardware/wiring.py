"""Which part of its link a device can use within a group, by how the devices are wired.

A link's bandwidth is that of all lanes of the device together. Behind a switch any group
has all of it. In a mesh, where every pair has lanes of its own, a group has those to its
members. In a torus, which links neighbours only, a group along some axes has the links
along these; where the axis does not close to a ring, devices at the ends have one link
along it instead of two, and they set the pace of a collective, to which every device
contributes alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sympy import Expr, Integer, Max, Rational

from costgraph.errors import HardwareError
from costgraph.hardware.parts import Link

ONE = Integer(1)


def share(link: Link, ranks: Expr, stride: Expr, shape: Sequence[int]) -> Expr:
    """The part of the link's bandwidth that a ring over a group can use.

    Args:
        link: the link that joins the devices.
        ranks: how many devices are in the group.
        stride: their distance; devices of a torus are numbered along its axes, the first
            axis innermost.
        shape: extents of the slice, for a torus.

    Raises:
        HardwareError: a group of symbolic size in a torus.
    """
    if link.wiring == "mesh" and link.devices is not None:
        # A group of one sends nothing, over one lane or over none.
        return Max(ranks - 1, ONE) / (link.devices - 1)
    if link.wiring != "torus" or link.axes is None:
        return ONE
    if not (ranks.is_Integer and stride.is_Integer):
        raise HardwareError(f"a degree on a torus must be a number, not {ranks}")
    return _links(link, int(ranks), int(stride), shape) / (2 * link.axes)


def _links(link: Link, ranks: int, stride: int, shape: Sequence[int]) -> Rational:
    """Links of a device that a ring over the group can use, in one direction."""
    found, left, skip = Rational(0), ranks, stride
    for extent in shape:
        if skip % extent == 0:  # the group stays at one place along this axis
            skip //= extent
            continue
        room, crooked = divmod(extent, skip)
        taken = min(room, left)
        if crooked or room % taken or left % taken:
            return ONE  # no block of the torus: a path from neighbour to neighbour
        if taken > 1:
            ring = taken == room and extent > 2 and closes(link, extent, shape)
            # Every ``skip``-th device: as many groups share the links between them.
            found += Rational(2 if ring else 1, skip)
        left, skip = left // taken, 1
        if left == 1:
            break
    return found


def closes(link: Link, extent: int, shape: Sequence[int]) -> bool:
    """True where an axis of this extent closes to a ring in a slice of this shape."""
    if link.wraps is None:
        return False
    return all(e % int(link.wraps) == 0 for e in (shape if link.cubes else (extent,)))


def slice_of(link: Link, count: int) -> tuple[int, ...]:
    """Extents of the slice of a torus that ``count`` devices make: as square as can be.

    Raises:
        HardwareError: no block of the torus has so many devices; names the nearest that has.
    """
    axes = int(link.axes or 1)
    pod = min(_blocks(int(link.devices), axes), key=sum) if link.devices is not None else None
    found = _fitting(count, axes, pod)
    if found is None:
        near = [
            str(n)
            for n in (
                next((n for n in range(count, 0, -1) if _fitting(n, axes, pod)), None),
                next((n for n in range(count, 2 * count) if _fitting(n, axes, pod)), None),
            )
            if n is not None
        ]
        whole = "" if pod is None else f" of the {shown(pod)}"
        raise HardwareError(
            f"{count} devices make no block{whole} of a torus; the nearest: {' or '.join(near)}"
        )
    return found


def shown(shape: Sequence[int]) -> str:
    """``4x4x8``."""
    return "x".join(map(str, shape))


def _fitting(count: int, axes: int, pod: Sequence[int] | None) -> tuple[int, ...] | None:
    blocks = [
        block
        for block in _blocks(count, axes)
        if pod is None or all(a <= b for a, b in zip(block, pod, strict=True))
    ]
    return min(blocks, key=sum, default=None)


def _blocks(count: int, axes: int, least: int = 1) -> Iterator[tuple[int, ...]]:
    """Ways to write ``count`` as a product of ``axes`` extents, ascending."""
    if axes == 1:
        if count >= least:
            yield (count,)
        return
    extent = least
    while extent**axes <= count:
        if count % extent == 0:
            for rest in _blocks(count // extent, axes - 1, extent):
                yield (extent, *rest)
        extent += 1
