"""Traced graphs to graphs of operations: what all dialects share.

A dialect is a table from operators to functions ``(lowering, call)`` that emit
operations through a :class:`Lowering`. Values known while reading (shapes, small
constants) are followed and leave no operations; views of weights that a product
takes as they are disappear likewise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Integer, Max, Min, Mul, Symbol, cancel, floor

from costgraph.dtypes import INT64, DType
from costgraph.errors import ModelError, VerifyError, clip, nearest
from costgraph.formula.envelope import dominates
from costgraph.formula.terms import Limit
from costgraph.graph import Builder, Graph
from costgraph.least import folded, least, most
from costgraph.models.traced.attend import words
from costgraph.models.traced.formats import BOOL, FP64, format_of
from costgraph.models.traced.known import MOST_KNOWN, Numbers, computed
from costgraph.models.traced.laws import (
    Ramp,
    Seen,
    Shown,
    cast,
    constant_of,
    joined,
    law_of,
    mapped,
    masking,
    moved,
    on_parts,
    seen,
    sliced,
    triangle,
)
from costgraph.models.traced.record import Branch, Call, Ref, Source, Traced, used
from costgraph.models.traced.value import Value
from costgraph.ops import Activation, Add, Linear, Multiply, Scale
from costgraph.ops.arrays import Cast, Fill, Join, Triangle
from costgraph.ops.attention import KVAppend
from costgraph.ops.base import Op, same
from costgraph.ops.bias import ScoreBias
from costgraph.ops.conv import Conv
from costgraph.ops.maps import FUNCTIONS, Cumulate, Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.quant import NarrowResult, QuantLinear
from costgraph.ops.views import Expand, Reshape, Slice, Transpose
from costgraph.rewrite import live
from costgraph.tensor import Role, Tensor

ONE = Integer(1)
ZERO = Integer(0)
_LABEL = re.compile(r"[^A-Za-z0-9_.\[\]-]+")
#: Element-wise functions with an operation of their own.
_ACTIVATIONS = frozenset({"relu", "silu", "gelu", "gelu_tanh", "quick_gelu", "sigmoid", "tanh"})
#: Powers that take no logarithm.
_POWERS = {2.0: "square", 3.0: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
#: What exporters write for "to the end"; no axis is as long.
TO_THE_END = 10**9
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "isnan"})


class Lowering:
    """State of reading one traced graph. ``mask`` counts causal attention."""

    def __init__(self, graph: Traced, dialect: Dialect, mask: str = "skip") -> None:
        self.graph = graph
        self.rules = dialect.rules
        self.mask = mask
        self.values: dict[str, Value] = {}
        self.limits: list[Limit] = []
        self.notes: list[str] = []
        self._builder = Builder(graph.name)
        self._made: set[str] = set()
        self._names: set[str] = set()
        self._resident: set[str] = set()
        self._call: Call | None = None
        self._assumed: dict[Expr, Expr] = {}  # clipped sizes, and what they are taken as
        self._uses, self._matrices = _counted_uses(graph, dialect)

    # --- reading calls

    def run(self) -> Graph:
        """The graph of operations.

        Raises:
            ModelError: an operator has no rule, or does not fit its operands.
        """
        self._refuse_unknown(self.graph.calls)
        self._read(self.graph.sources, self.graph.calls)
        results = [self.value(Ref(name)) for name in self.graph.outputs]
        handed = [v for v in results if v.name not in self._resident]
        outputs = tuple(dict.fromkeys(self.tensor(v) for v in handed))
        return live(self._builder.build(*outputs))

    def inline(self, branch: Branch) -> tuple[Value, ...]:
        """What a graph inside the present operator makes."""
        around = self._call
        self._refuse_unknown(branch.calls)
        self._read(branch.sources, branch.calls)
        self._call = around
        return tuple(self.value(Ref(name)) for name in branch.outputs)

    def _read(self, sources: Sequence[Source], calls: Sequence[Call]) -> None:
        for source in sources:
            self.values[source.name] = self._sourced(source)
        for given in calls:
            self._call = call = self._settled_call(given)
            try:
                made = self.rules[call.target](self, call)
                self._keep(call, made if isinstance(made, tuple) else (made,))
            except VerifyError as error:
                raise self.wrong(str(error)) from None
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                # Graphs come from outside: an operand of the wrong kind is their defect.
                reason = f"{type(error).__name__}: {error}"
                raise self.wrong(f"its arguments are not understood ({clip(reason, 90)})") from None

    def _refuse_unknown(self, calls: Sequence[Call]) -> None:
        rules = self.rules
        missing = Counter(c.target for c in calls if c.target not in rules)
        if not missing:
            return
        listed = sorted(missing.items(), key=lambda i: (-i[1], i[0]))
        shown = ", ".join(f"{clip(t)[1:-1]} ×{n}" for t, n in listed[:20])
        more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
        hint = nearest(listed[0][0], rules) if len(listed) == 1 and len(rules) > 12 else ""
        hint = "" if "known" in hint else hint.replace("did you mean", "the nearest with one is")
        raise ModelError(
            f"{self.graph.name}: operators without a cost rule: {shown}{more}{hint.rstrip('?')}"
        )

    def _keep(self, call: Call, made: Sequence[Value | None]) -> None:
        for result, value in zip(call.results, made, strict=False):
            if not result.name:
                continue
            if value is None:
                if self._uses[result.name] or result.name in self.graph.outputs:
                    raise self.wrong(f"its result {clip(result.name)} is used, and not modelled")
                continue
            shape = None if result.shape is None else [self.settled(d) for d in result.shape]
            if shape is not None and (
                len(shape) != len(value.shape)
                or not all(same(a, b) for a, b in zip(shape, value.shape, strict=True))
            ):
                raise self.wrong(
                    f"the exporter states the shape {_shown(shape)} for "
                    f"{clip(result.name)}, its operands give {_shown(value.shape)}"
                )
            self.values[result.name] = value
        for result in call.results[len(made) :]:
            if self._uses[result.name] or result.name in self.graph.outputs:
                raise self.wrong(f"its result {clip(result.name)} is used, and not modelled")

    @property
    def call(self) -> Call:
        """The call being read."""
        assert self._call is not None
        return self._call

    def wrong(self, message: str) -> ModelError:
        """An error about the call being read."""
        call = self._call
        where = "" if call is None else f" {clip(call.name)} ({call.target[:60]}):"
        return ModelError(f"{self.graph.name}:{where} {message}")

    # --- values

    def _sourced(self, source: Source) -> Value:
        kind = format_of(source.dtype, f"{self.graph.name}: {clip(source.name)}")
        # Values of weights are not followed; an operator may still ask for a few numbers.
        known = None if source.role == "weight" else source.values
        if known is not None and len(known) > MOST_KNOWN:
            known = None
        return Value(source.name, source.shape, kind, known, source)

    def value(self, argument: Any) -> Value:
        """The value of an argument: a reference or a number.

        Raises:
            ModelError: it refers to nothing.
        """
        if isinstance(argument, Ref):
            found = self.values.get(argument.name)
            if found is None:
                raise self.wrong(f"uses {clip(argument.name)}, which nothing makes before it")
            return found
        if isinstance(argument, (bool, int, float, Expr)):
            kind = BOOL if isinstance(argument, bool) else INT64
            if isinstance(argument, float):
                kind = format_of("float32", "")
            number = Integer(argument) if type(argument) is int else argument
            return Value(self._fresh("constant"), (), kind, (number,))
        raise self.wrong(f"{clip(argument)} is no value")

    def numbers(self, argument: Any, what: str) -> Numbers:
        """Known elements of an argument.

        Raises:
            ModelError: they depend on data.
        """
        if isinstance(argument, (tuple, list)):
            return tuple(n for item in argument for n in self.numbers(item, what))
        value = self.value(argument)
        stored = None if value.source is None else value.source.values
        known = value.known if value.known is not None else stored
        if known is None:
            raise self.wrong(f"{what} ({clip(value.name)}) depends on data; it must be known")
        return known

    def integers(self, argument: Any, what: str) -> tuple[int, ...]:
        """Known whole numbers of an argument."""
        found = self.numbers(argument, what)
        if not all(isinstance(n, (int, Integer)) for n in found):
            raise self.wrong(f"{what} must be whole numbers, not {clip(found)}")
        return tuple(int(n) for n in found)

    def _fresh(self, name: str) -> str:
        base = _LABEL.sub("_", name).strip("_")[:120] or "value"
        label, count = base, 1
        while label in self._names:
            count += 1
            label = f"{base}_{count}"
        self._names.add(label)
        return label

    def label(self, suffix: str = "") -> str:
        """A new name for what the present call makes: its module, or module and call."""
        call = self._call
        assert call is not None
        return self._fresh(".".join(p for p in (call.scope, suffix or call.name) if p))

    def module(self) -> str:
        """A new name after the module alone, for the operator that is the module."""
        assert self._call is not None
        return self._fresh(self._call.scope or self._call.name)

    def tensor(self, value: Value) -> str:
        """The name of ``value`` as a tensor of the graph; made or declared if need be."""
        if value.name in self._made:
            return value.name
        if value.name in self._resident:
            raise self.wrong("what a cache holds after the step is used within it")
        if value.flip is not None:
            name = self._builder.add(value.name, Transpose(value.axes), self.tensor(value.flip))
        elif value.stored is not None:
            op = Map("dequantize", value.dtype)
            name = self._builder.add(value.name, op, self.tensor(value.stored))
        elif value.source is not None:
            name = self._declare(value, value.shape)
        else:
            name = self._builder.add(value.name, Fill(value.shape, value.dtype))
        self._made.add(name)
        return name

    def _declare(self, value: Value, shape: tuple[Expr, ...]) -> str:
        assert value.source is not None
        role = Role.WEIGHT if value.source.role == "weight" else Role.ACTIVATION
        self._names.add(value.name)
        return self._builder.source(Tensor(value.name, shape, value.dtype, role))

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

    def resident(self, shape: Sequence[Expr], dtype: DType) -> Value:
        """A result that is a cache after the step: it stays, and is not handed out."""
        name = self._fresh("resident")
        self._resident.add(name)
        return Value(name, tuple(shape), dtype)

    # --- emitting

    def emit(self, op: Op, *operands: Value, name: str = "") -> Value:
        """Adds an operation with one result."""
        return self.emit_many(op, *operands, name=name)[0]

    def emit_many(self, op: Op, *operands: Value, name: str = "") -> tuple[Value, ...]:
        """Adds an operation and returns its results."""
        inputs = [self.tensor(v) for v in operands]
        names = self._builder.add_many(name or self.label(), op, *inputs)
        self._made.update(names)
        self._names.update(names)
        made = []
        for item in names:
            tensor = self._builder.tensor(item)
            made.append(Value(item, tensor.shape, tensor.dtype))
        return tuple(made)

    def constant(self, known: Numbers, shape: tuple[Expr, ...], dtype: DType = INT64) -> Value:
        """A value that is known."""
        return Value(self._fresh("constant"), shape, dtype, known)

    def read_from(self, stored: Value, dtype: DType) -> Value:
        """Narrow numbers as wide ones; they are converted where nothing takes them narrow."""
        return Value(self.label(), stored.shape, dtype, stored=stored)

    # --- views

    def reshape(self, x: Value, shape: Sequence[Expr]) -> Value:
        """The same elements under another shape; ``-1`` stands for what is left."""
        wanted = list(shape)
        if wanted.count(-ONE) > 1:
            raise self.wrong(f"more than one open size in {_shown(wanted)}")
        if -ONE in wanted:
            place = wanted.index(-ONE)
            rest: Expr = Mul(*(d for i, d in enumerate(wanted) if i != place))
            if rest == 0:
                raise self.wrong("a size of zero")
            left = Mul(*x.shape) / rest
            wanted[place] = left if left.is_number else cancel(left)
        new = tuple(wanted)
        if len(new) == len(x.shape) and all(same(a, b) for a, b in zip(new, x.shape, strict=True)):
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
            raise self.wrong(f"axes {order} do not order {_shown(x.shape)}")
        if order == tuple(range(len(order))):
            return x
        shape = tuple(x.shape[a] for a in order)
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
        if len(new) == len(x.shape) and all(same(a, b) for a, b in zip(new, x.shape, strict=True)):
            return x
        if x.number is not None:
            if all(d.is_Integer for d in new) and Mul(*new) <= MOST_KNOWN:
                return self.constant((x.number,) * int(Mul(*new)), new, x.dtype)
            return replace(self.emit(Fill(new, x.dtype)), law=law_of(x))
        return replace(self.emit(Expand(new), x), law=x.law)

    def cut(self, x: Value, axis: int, start: Any, stop: Any, step: int = 1) -> Value:
        """Positions ``start`` to ``stop`` of an axis, as Python slices them.

        A whole number beyond the end is clipped. A size is taken as within the axis
        (positions looked up in a table), which limits the results (:attr:`limits`).
        """
        axis = self.axis(x, axis)
        size = x.shape[axis]
        if step == 0:
            raise self.wrong("a step of zero")
        if x.known is not None and len(x.shape) == 1:
            part = x.known[slice(int(start), int(stop), step)]
            return self.constant(part, (Integer(len(part)),), x.dtype)
        if step < 0:
            raise self.wrong("slices that run backwards are not supported")
        first, last = self.bound(start, size, inside=True), self.bound(stop, size)
        room = most(last - first, ZERO)
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

    def rounded(self) -> set[Symbol]:
        """Symbols of sizes that were divided and rounded so far."""
        return {
            symbol
            for value in self.values.values()
            for size in value.shape
            for part in size.atoms(floor)
            for symbol in part.free_symbols
            if isinstance(symbol, Symbol)
        }

    def _settled_call(self, call: Call) -> Call:
        def plain(argument: Any) -> Any:
            if isinstance(argument, tuple):
                return tuple(plain(a) for a in argument)
            return self.settled(argument)

        results = tuple(
            r if r.shape is None else replace(r, shape=tuple(self.settled(d) for d in r.shape))
            for r in call.results
        )
        return replace(call, args=plain(call.args), results=results)

    def bound(self, place: Any, size: Expr, inside: bool = False) -> Expr:
        """A bound of a slice, counted from the front and within the axis.

        ``inside``: a whole number beyond a symbolic end is refused, not clipped.
        """
        at: Expr = Integer(place) if isinstance(place, int) else place
        if at.is_number:
            if at >= TO_THE_END:
                return size
            if at < 0:
                return most(at + size, ZERO)
            if at <= 1:  # every axis has a place
                return least(at, size) if size.is_number else at
            if not inside or size.is_number:
                return least(at, size)
        elif at.is_negative:
            self.limit(-at, size)
            return at + size
        self.limit(at, size)
        return at

    def limit(self, size: Expr, most_: Expr) -> None:
        """Notes that the graph describes the model only where a size is at most another."""
        if dominates(most_, size):
            return
        bounded = most_ if most_.is_number else ZERO
        call = self._call
        where = clip(call.name)[1:-1] if call is not None else self.graph.name
        found = Limit(size - most_ + bounded, bounded, f"{where} takes no more positions")
        if found not in self.limits:
            self.limits.append(found)

    def axis(self, x: Value, axis: int) -> int:
        """``axis`` counted from the front."""
        rank = len(x.shape)
        if not -rank <= axis < rank:
            raise self.wrong(f"{_shown(x.shape)} has no axis {axis}")
        return axis % rank

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

    # --- values from places

    def filled(self, shape: Sequence[Expr], dtype: DType, number: Any = None) -> Value:
        """A tensor of one number throughout; of any numbers where it is None."""
        exact = Integer(number) if isinstance(number, int) else number
        if number is not None and Mul(*shape) == 1:
            return self.constant((exact,), tuple(shape), dtype)
        made = self.emit(Fill(tuple(shape), dtype))
        return made if number is None else replace(made, law=Ramp(exact))

    def ramp(self, length: Expr, start: Any, step: Any, dtype: DType) -> Value:
        """``start``, ``start + step``, … along one axis."""
        made = self.emit(Fill((length,), dtype))
        return replace(made, law=Ramp(Integer(0) + start, ((-1, Integer(0) + step),)))

    def triangle(self, x: Value, upper: bool, diagonal: Expr) -> Value:
        """The lower or upper triangle of the last two axes."""
        made = self.emit(Triangle(upper, diagonal), x)
        return replace(made, law=triangle(x, upper, diagonal))

    def cumulate(self, x: Value, axis: int, plain_sum: bool) -> Value:
        """A running sum or product along an axis."""
        made = self.emit(Cumulate(), x)
        constant = constant_of(x) if plain_sum else None
        if constant is None:
            return made
        back = self.axis(x, axis) - len(x.shape)
        steps = ((back, Integer(0) + constant),) if constant != 0 else ()
        return replace(made, law=Ramp(constant, steps))

    # --- element-wise work

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` in another format."""
        if x.dtype == dtype:
            return x
        made = self._cast(x, dtype)
        return made if x.law is None else replace(made, law=cast(x.law, dtype == BOOL))

    def _cast(self, x: Value, dtype: DType) -> Value:
        if x.known is not None:
            if dtype.compute.startswith("int") and any(isinstance(n, float) for n in x.known):
                whole = tuple(Integer(int(n)) if isinstance(n, float) else n for n in x.known)
                return replace(self.constant(whole, x.shape), dtype=dtype)
            return replace(x, dtype=dtype, name=self._fresh("constant"), source=None)
        return self.emit(Cast(dtype), x)

    def apply(self, function: str, *operands: Value, result: DType | None = None) -> Value:
        """``function`` element by element, constants folded."""
        folded = self._folded(function, operands, result)
        if folded is not None:
            return folded
        law = mapped(function, operands)
        if function == "add" and result in (None, operands[0].dtype, operands[1].dtype):
            masked = self._biased(operands)
            if masked is not None:
                return replace(masked, law=law)
        made = self._applied(function, operands, result)
        return made if law is None else replace(made, law=law)

    def _applied(self, function: str, operands: Sequence[Value], result: DType | None) -> Value:
        if any(v.dtype.name.startswith("complex") for v in operands):
            return self._complex(function, operands, result)
        numbers = [v.number if len(v.shape) <= 1 else None for v in operands]
        if len(operands) == 2 and (numbers[0] is None) != (numbers[1] is None):
            return self._with_number(function, operands, numbers, result)
        first = operands[0]
        kind = result or (BOOL if function in _COMPARISONS else first.dtype)
        if function == "where":
            kind = result or operands[1].dtype
        if len(operands) == 1 and function in _ACTIVATIONS and kind == first.dtype:
            return self.emit(Activation(function), first)
        if len(operands) == 2 and function in ("add", "mul"):
            a, b = operands
            if len(b.shape) > len(a.shape) or (
                len(a.shape) == len(b.shape) and b.source is None and a.source is not None
            ):
                a, b = b, a
            tail = a.shape[len(a.shape) - len(b.shape) :]
            fits = all(same(x, y) for x, y in zip(tail, b.shape, strict=True))
            if fits and b.shape and a.dtype == kind == b.dtype:
                return self.emit(Add() if function == "add" else Multiply(), a, b)
        if function not in FUNCTIONS:
            raise self.wrong(f"the function {function!r} has no cost")
        return self.emit(Map(function, kind if kind != first.dtype else None), *operands)

    def _complex(self, function: str, operands: Sequence[Value], result: DType | None) -> Value:
        parts = {"mul": "complex_mul", "add": "complex_add", "sub": "complex_add",
                 "neg": "complex_add", "abs": "complex_abs"}.get(function)  # fmt: skip
        if parts is None:
            raise self.wrong(f"{function!r} of complex numbers has no cost")
        tensors = [v for v in operands if v.number is None]
        if len(tensors) < len(operands):
            parts = "complex_add"  # by a number: two operations
        kind = result if result is not None and result != tensors[0].dtype else None
        return self.emit(Map(parts, kind), *tensors)

    def _folded(
        self, function: str, operands: Sequence[Value], result: DType | None
    ) -> Value | None:
        known = [v.known for v in operands if v.known is not None]
        if len(known) != len(operands):
            return None
        longest = max(operands, key=lambda v: (len(v.known or ()), len(v.shape)))
        made = computed(function, known)
        if made is None or len(made) != len(longest.known or ()):
            return None
        kind = result or (BOOL if function in _COMPARISONS else operands[-1].dtype)
        return self.constant(made, longest.shape, kind)

    def _with_number(
        self,
        function: str,
        operands: Sequence[Value],
        numbers: Sequence[Any],
        result: DType | None,
    ) -> Value:
        """``x ∘ c`` or ``c ∘ x``."""
        behind = numbers[1] is not None
        x, c = (operands[0], numbers[1]) if behind else (operands[1], numbers[0])
        # A vector of one number may still add an axis.
        rank = max(len(v.shape) for v in operands)
        if rank > len(x.shape):
            x = self.reshape(x, (ONE,) * (rank - len(x.shape)) + x.shape)
        kind = result if result is not None and result != x.dtype else None
        if function in _COMPARISONS:
            return self.emit(Map("compare_constant", BOOL), x)
        if function in ("mul", "div") and (function == "mul" or behind):
            if c == 1 and kind is None:
                return x
            return self.emit(Scale(), x) if kind is None else self.emit(Map("scale", kind), x)
        if function == "div":
            return self.emit(Map("reciprocal" if c == 1 else "constant_div", kind), x)
        if function in ("add", "sub"):
            if c == 0 and kind is None and behind:
                return x
            return self.emit(Map("add_constant", kind), x)
        if function == "pow" and behind:
            if c == 1 and kind is None:
                return x
            exponent = float(c) if isinstance(c, (float, int, Integer)) else None
            name = "pow_constant" if exponent is None else _POWERS.get(exponent, "pow_constant")
            return self.emit(Map(name, kind), x)
        if function in ("max", "min", "mod", "floor_div"):
            return self.emit(Map("compare_constant", result or x.dtype), x)
        return self.emit(Map(function, kind), *operands)

    def _biased(self, operands: Sequence[Value]) -> Value | None:
        """Scores with a mask of places added to them; None where it is no such sum."""
        for x, mask in (operands, operands[::-1]):
            law = law_of(mask)
            if isinstance(law, Shown) and law.form == "addend" and law.within:
                return None if isinstance(law_of(x), Shown) else self.masked(x, law, mask)
        return None

    def masked(self, x: Value, law: Shown, mask: Value) -> Value | None:
        """``x (…, q, T)`` with what ``mask`` does not show hidden; None if it does not fit."""
        if len(x.shape) < 2 or not x.dtype.is_float or not _covers(x.shape, mask.shape):
            return None
        left, data = seen(law, *x.shape[-2:]), law.rest
        if left is None:
            left, data = Seen(), (mask,)
        if left == Seen() and not data:
            return x
        return self.emit(ScoreBias(*words(self.mask, left)), x, *data)

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, else ``b``."""
        folded = self._folded("where", (condition, a, b), None)
        if folded is not None:
            return folded
        law = mapped("where", (condition, a, b))
        hiding = None if law is not None else masking((condition, a, b))
        if hiding is not None:
            masked = self.masked(*hiding, condition)
            if masked is not None:
                return masked
        made = self._where(condition, a, b)
        return made if law is None else replace(made, law=law)

    def _where(self, condition: Value, a: Value, b: Value) -> Value:
        kind = a.dtype if a.number is None else b.dtype
        tensors = [v for v in (condition, a, b) if v.number is None or len(v.shape) > 1]
        return self.emit(Map("where", kind if kind != tensors[0].dtype else None), *tensors)

    # --- products

    def matmul(
        self,
        a: Value,
        b: Value,
        bias: Value | None = None,
        name: str = "",
        result: DType | None = None,
        narrow: DType | None = None,
    ) -> Value:
        """``a · b (+ bias)`` over the last two axes; by a weight matrix it is a :class:`Linear`.

        Narrow operands are multiplied as they are stored. ``result`` is the format of
        the sums where it is not that of ``a``; ``narrow`` the one they are stored in.
        """
        self.countable(a, b)
        if len(a.shape) == 1:
            row = self.matmul(self.reshape(a, (ONE, *a.shape)), b, bias, name, result, narrow)
            if len(b.shape) == 1:
                return self.reshape(row, ())
            return self.reshape(row, (*row.shape[:-2], row.shape[-1]))
        if len(b.shape) == 1:
            tall = self.reshape(b, (*b.shape, ONE))
            column = self.matmul(a, tall, bias, name, result, narrow)
            return self.reshape(column, column.shape[:-1])
        weight = self._as_weight(b)
        if weight is not None:
            return self._linear(a, weight, b.shape[1], bias, name, result, narrow)
        if a.stored is not None and b.stored is not None:
            a, b, result = a.stored, b.stored, result or a.dtype
        op: Op = MatMul(result)
        if narrow is not None:
            op = NarrowResult(op, narrow)
        made = self.emit(op, a, b, name=name or self.label())
        return made if bias is None else self.apply("add", made, bias)

    def linear(
        self,
        x: Value,
        w: Value,
        bias: Value | None = None,
        result: DType | None = None,
        narrow: DType | None = None,
    ) -> Value:
        """``x Wᵀ (+ b)`` with ``W (oc, ic)``."""
        self.countable(x, w)
        if w.narrow.is_weight:
            name, weight = self.module(), self.tensor(w.narrow)
            return self._linear(x, weight, w.shape[0], bias, name, result, narrow)
        turned = self.transpose(w, (1, 0))
        return self.matmul(x, turned, bias, result=result, narrow=narrow)

    def _linear(
        self,
        x: Value,
        weight: str,
        oc: Expr,
        bias: Value | None,
        name: str,
        result: DType | None,
        narrow: DType | None,
    ) -> Value:
        simple = bias is not None and len(bias.shape) == 1 and same(bias.shape[0], oc)
        rows = x
        if x.stored is not None and not self._builder.tensor(weight).dtype.is_float:
            rows, result = x.stored, result or x.dtype
        operands = [self.tensor(rows), weight]
        if simple and bias is not None:
            operands.append(self.tensor(bias.narrow))
        op: Op = Linear(simple) if result is None else QuantLinear(simple, result=result)
        if narrow is not None:
            op = NarrowResult(op, narrow)
        made = self._builder.add(name or self.module(), op, *operands)
        self._made.add(made)
        tensor = self._builder.tensor(made)
        value = Value(made, tensor.shape, tensor.dtype)
        return value if simple or bias is None else self.apply("add", value, bias)

    def convolved(self, op: Conv, operands: Sequence[Value], narrow: DType | None = None) -> Value:
        """A convolution of ``x``, weight and bias; narrow operands as they are stored."""
        self.countable(*operands)
        x, *rest = operands
        rest = [v.narrow for v in rest]
        if x.stored is not None and not rest[0].dtype.is_float:
            op, x = replace(op, result=op.result or x.dtype), x.stored
        whole: Op = op if narrow is None else NarrowResult(op, narrow)
        return self.emit(whole, x, *rest, name=self.module())

    def _as_weight(self, b: Value) -> str | None:
        """The weight ``(oc, ic)`` whose transpose ``b`` is, if it is one."""
        if len(b.shape) != 2:
            return None
        if b.flip is not None and b.flip.narrow.is_weight:
            return self.tensor(b.flip.narrow)
        if not b.is_weight or not self.only_matrix(b.name):
            return None
        # Used as a right-hand matrix only: its stored order is nobody's concern.
        self._made.add(b.name)
        return self._declare(b, (b.shape[1], b.shape[0]))

    def uses(self, value: Value) -> int:
        """How often the calls of the trace use a value that it names."""
        return self._uses[value.name]

    def only_matrix(self, name: str) -> bool:
        """True for a value of the trace that is used as the right-hand matrix of products alone."""
        return self._uses[name] == self._matrices[name]

    def countable(self, *operands: Value) -> None:
        """Refuses products in formats that no engine is described for."""
        if any(v.dtype == FP64 for v in operands):
            raise self.wrong("products of float64 have no rule: no machine states a peak for them")


@dataclass(frozen=True)
class Dialect:
    """A table of operators, and what it needs to know before reading.

    Attributes:
        rules: a function per operator.
        matrices: names of the values that a call uses as the right-hand matrix
            of a product, stored as ``(ic, oc)``.
        same: operators whose result is their operand.
    """

    rules: Mapping[str, Rule]
    matrices: Callable[[Call], Sequence[str]]
    same: frozenset[str] = frozenset()


Rule = Callable[[Lowering, Call], "Value | tuple[Value | None, ...]"]


def _counted_uses(graph: Traced, dialect: Dialect) -> tuple[Counter[str], Counter[str]]:
    """How often each value is used, and how often as a right-hand matrix; other names resolved."""
    named: dict[str, str] = {}
    uses: Counter[str] = Counter()
    matrices: Counter[str] = Counter()
    for call in graph.calls:
        given = [named.get(n, n) for n in used(call)]
        if call.target in dialect.same and len(given) == 1 and call.results:
            named[call.results[0].name] = given[0]
            continue
        uses.update(given)
        matrices.update(named.get(n, n) for n in _right_matrices(call, dialect))
    for alias, name in named.items():
        uses[alias], matrices[alias] = uses[name], matrices[name]
    return uses, matrices


def _right_matrices(call: Call, dialect: Dialect) -> Iterator[str]:
    yield from dialect.matrices(call)
    for item in call.attributes.values():
        for inner in item.calls if isinstance(item, Branch) else ():
            yield from _right_matrices(inner, dialect)


def _covers(shape: Sequence[Expr], other: Sequence[Expr]) -> bool:
    """True if ``other`` repeats to ``shape``."""
    pairs = zip(reversed(shape), reversed(other), strict=False)
    return len(other) <= len(shape) and all(b == 1 or same(a, b) for a, b in pairs)


def _kept_axes(old: Sequence[Expr], new: Sequence[Expr]) -> dict[int, int] | None:
    """Axes of a shape and where they are in another that differs by axes of one alone."""
    before = [i for i, d in enumerate(old) if d != 1]
    after = [i for i, d in enumerate(new) if d != 1]
    if len(before) != len(after):
        return None
    kept = dict(zip(before, after, strict=True))
    return kept if all(same(old[a], new[b]) for a, b in kept.items()) else None


def _shown(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(d) for d in shape) + ")"
