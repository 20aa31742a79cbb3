"""Views, slices and joins of values, with the laws of their elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sympy import Expr, Integer, Max, Min, Mul, cancel

from costgraph.formula.least import folded, least, most
from costgraph.ir.op import same, same_shape
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.traced.emitter import Emitter, shown
from costgraph.models.traced.known import MOST_KNOWN, reordered, stepped
from costgraph.models.traced.laws import (
    joined,
    law_of,
    moved,
    on_parts,
    sliced,
)
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Fill, Join
from costgraph.ops.attention import KVAppend
from costgraph.ops.views import Expand, Reshape, Slice

ONE = Integer(1)
ZERO = Integer(0)
#: What exporters write for "to the end"; no axis is as long.
TO_THE_END = 10**9


class Viewing(Emitter):
    """Reading a graph: other shapes and orders of values, and their parts."""

    def reshape(self, x: Value, shape: Sequence[Expr]) -> Value:
        """The same elements under another shape; ``-1`` stands for what is left."""
        wanted = list(shape)
        if wanted.count(-ONE) > 1:
            raise self.wrong(f"more than one open size in {shown(wanted)}")
        if -ONE in wanted:
            place = wanted.index(-ONE)
            rest: Expr = Mul(*(d for i, d in enumerate(wanted) if i != place))
            if rest == 0:
                raise self.wrong("a size of zero")
            left = Mul(*x.shape) / rest
            wanted[place] = left if left.is_number else cancel(left)
        new = tuple(wanted)
        if same_shape(new, x.shape):
            return x
        if x.known is not None and same(Mul(*new), Integer(len(x.known))):
            return self.constant(x.known, new, x.dtype)
        if x.stored is not None and not x.stored.is_weight:
            return self.read_from(self.reshape(x.stored, new), x.dtype)
        made = self.emit(Reshape(new), x)
        kept = _kept_axes(x.shape, new)
        if x.law is None or kept is None:
            return made

        def like(part: Value) -> Value:
            wide = (ONE,) * (len(x.shape) - len(part.shape)) + part.shape
            back = {to: wide[axis] for axis, to in kept.items()}
            return self.reshape(part, [back.get(axis, ONE) for axis in range(len(new))])

        places = {axis - len(x.shape): to - len(new) for axis, to in kept.items()}
        return replace(made, law=on_parts(moved(x.law, places.get), like))

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """Axes in another order."""
        order = tuple(axes)
        if sorted(order) != list(range(len(x.shape))):
            raise self.wrong(f"axes {order} do not order {shown(x.shape)}")
        if order == tuple(range(len(order))):
            return x
        shape = tuple(x.shape[a] for a in order)
        if x.known is not None and all(n.is_Integer for n in x.shape):
            known = reordered(x.known, [int(n) for n in x.shape], order)
            return self.constant(known, shape, x.dtype)
        if x.flip is not None and tuple(x.axes[a] for a in order) == tuple(range(len(order))):
            return x.flip
        if x.stored is not None and not x.stored.is_weight:
            return self.read_from(self.transpose(x.stored, order), x.dtype)
        made = Value(self.label(), shape, x.dtype, flip=x, axes=order)
        if x.law is None:
            return made
        rank = len(order)
        places = {axis - rank: to - rank for to, axis in enumerate(order)}

        def like(part: Value) -> Value:
            wide = (ONE,) * (rank - len(part.shape)) + part.shape
            return self.transpose(self.reshape(part, wide), order)

        return replace(made, law=on_parts(moved(x.law, places.get), like))

    def expand(self, x: Value, shape: Sequence[Expr]) -> Value:
        """Sizes of one repeated up to ``shape``."""
        new = tuple(shape)
        if same_shape(new, x.shape):
            return x
        if x.number is not None:
            if all(d.is_Integer for d in new) and Mul(*new) <= MOST_KNOWN:
                return self.constant((x.number,) * int(Mul(*new)), new, x.dtype)
            return replace(self.emit(Fill(new, x.dtype)), law=law_of(x))
        return replace(self.emit(Expand(new), x), law=x.law)

    def join(self, values: Sequence[Value], axis: int) -> Value:
        """Values side by side along an axis; empty ones add nothing."""
        axis = self.axis(values[0], axis)
        if all(v.known is not None for v in values) and len(values[0].shape) == 1:
            known = tuple(n for v in values for n in v.known or ())
            return self.constant(known, (Integer(len(known)),), values[0].dtype)
        whole = [v for v in values if not any(s == 0 for s in v.shape)] or list(values[:1])
        if len(whole) == 1:
            return whole[0]
        made = self.emit(Join(axis), *whole)
        law = joined(whole, axis - len(made.shape))
        return made if law is None else replace(made, law=law)

    def cache(self, past: Value, new: Value, suffix: str = "") -> Value:
        """``new (B, q, Hk, dh)`` behind what ``past (B, Hk, P, dh)`` holds: ``(B, P + q, Hk, dh)``.

        An operand of the graph that only the step uses is a cache: it stays in memory, and
        the step adds its rows to it. Anything else is joined.
        """
        b, heads, length, size = past.shape
        shape = (b, length, heads, size)
        if past.source is None or past.source.role != "input" or self._uses[past.name] != 1:
            return self.join([self.transpose(past, (0, 2, 1, 3)), new], 1)
        name = past.name + suffix
        self._names.add(name)
        # Its stored order is nobody's concern.
        self._builder.source(Tensor(name, shape, past.dtype, Role.KV))
        made = self._builder.add(self.label("append"), KVAppend(), name, self.tensor(new))
        self._made.update((name, made))
        self._names.add(made)
        return Value(made, self._builder.shape(made), past.dtype)

    # --- parts of axes

    def cut(self, x: Value, axis: int, start: Any, stop: Any, step: int = 1) -> Value:
        """Positions ``start`` to ``stop`` of an axis, as Python slices them.

        A whole number beyond the end is clipped. A size is taken as within the axis
        (positions looked up in a table), which limits the results (:attr:`limits`).
        """
        axis = self.axis(x, axis)
        size = x.shape[axis]
        if step == 0:
            raise self.wrong("a step of zero")
        if x.known is not None and _all_whole((*x.shape, start, stop)):
            sizes = [int(n) for n in x.shape]
            ends = int(start), None if step < 0 and stop < -size else int(stop)
            part, left = stepped(x.known, sizes, axis, ends[0], ends[1], step)
            return self.constant(part, tuple(Integer(n) for n in left), x.dtype)
        if step < 0:
            raise self.wrong("slices that run backwards are not supported")
        first, last = self.bound(start, size, inside=True), self.bound(stop, size)
        # A start is within the axis; an end may still stand before it.
        # Every axis has a position: all but the last of them are no fewer than none.
        whole = same(last, size) or (first == 0 and same(last, size - 1))
        room = last - first if whole else most(last - first, ZERO)
        length = room if step == 1 else -((-room) // step)
        return self.part(x, axis, first, length, Integer(step))

    def part(self, x: Value, axis: int, first: Expr, length: Expr, step: Expr = ONE) -> Value:
        """``length`` places of an axis from ``first`` on, which it has."""
        if first == 0 and step == 1 and same(length, x.shape[axis]):
            return x
        made = self.emit(Slice(axis, first, length, step), x)
        if x.law is None:
            return made
        back = axis - len(x.shape)

        def like(other: Value) -> Value:
            at = back + len(other.shape)
            one = at < 0 or other.shape[at] == 1
            return other if one else self.part(other, at, first, length, step)

        return replace(made, law=on_parts(sliced(x.law, back, first, step, length), like))

    def chosen(self, x: Value, axis: int, place: Any) -> Value:
        """One place of an axis, the axis gone."""
        axis = self.axis(x, axis)
        at = Integer(0) + place
        first = at + x.shape[axis] if at.is_negative else at
        part = self.part(x, axis, first, ONE)
        return self.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))

    def bound(self, place: Any, size: Expr, inside: bool = False) -> Expr:
        """A bound of a slice, counted from the front and within the axis.

        ``inside``: a whole number beyond a symbolic end is refused, not clipped.
        """
        at: Expr = Integer(place) if isinstance(place, int) else place
        if at.is_number:
            if at >= TO_THE_END:
                return size
            if abs(at) <= 1 and not size.is_number:  # every axis has a place
                return at + size if at < 0 else at
            if at < 0:
                return most(at + size, ZERO)
            if not inside or size.is_number:
                return least(at, size)
        elif at.is_negative:
            self.limit(-at, size)
            return at + size
        self.limit(at, size)
        return at

    def within(self, length: Expr, size: Expr) -> Expr:
        """The stated length of a slice, clipped ends of a stored table taken as within it."""
        length = self.settled(length)
        for clipped in length.atoms(Max, Min) if size.is_number else ():
            sought = ZERO if isinstance(clipped, Max) else size
            others = [a for a in clipped.args if a != sought]
            if len(others) == 1 and len(clipped.args) == 2:
                (inside,) = others
                self.limit(size - inside if isinstance(clipped, Max) else inside, size)
                self._assumed[clipped] = inside
        return self.settled(length)

    def settled(self, size: Any) -> Any:
        """A stated size without the clipping that cannot matter here."""
        if not isinstance(size, Expr) or not size.has(Max, Min):
            return size
        for clipped in size.atoms(Max, Min):
            plain = folded(clipped)
            if not plain.has(Max, Min):
                self._assumed.setdefault(clipped, plain)
        return size.xreplace(self._assumed)


def _all_whole(values: Sequence[Any]) -> bool:
    return all(isinstance(n, (int, Integer)) for n in values)


def _kept_axes(old: Sequence[Expr], new: Sequence[Expr]) -> dict[int, int] | None:
    """Axes of a shape and where they are in another that differs by axes of one alone."""
    before = [i for i, d in enumerate(old) if d != 1]
    after = [i for i, d in enumerate(new) if d != 1]
    if len(before) != len(after):
        return None
    kept = dict(zip(before, after, strict=True))
    return kept if all(same(old[a], new[b]) for a, b in kept.items()) else None
