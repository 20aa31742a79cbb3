"""What reading a traced graph is about: values by name, and the operations emitted so far."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sympy import Expr, Integer, Symbol

from costgraph.errors import ModelError, clip
from costgraph.formula.envelope import dominates
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64, DType
from costgraph.ir.graph import Builder
from costgraph.ir.op import Op
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.traced.formats import BOOL, format_of
from costgraph.models.traced.known import Numbers
from costgraph.models.traced.record import Call, Ref, Traced
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Fill
from costgraph.ops.maps import Map
from costgraph.ops.views import Transpose

ONE = Integer(1)
ZERO = Integer(0)
LABEL = re.compile(r"[^A-Za-z0-9_.\[\]-]+")


class Decided(ModelError):
    """A size that the graph leaves open can be one number only: an operator takes no other."""

    def __init__(self, message: str, size: Symbol, value: Expr) -> None:
        super().__init__(message)
        self.size, self.value = size, value


class Misfit(ModelError):
    """Operands of an operator do not fit one another."""


class Emitter:
    """State of reading one traced graph. ``mask`` counts causal attention."""

    def __init__(
        self, graph: Traced, mask: str, uses: Counter[str], matrices: Counter[str]
    ) -> None:
        self.graph = graph
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
        self._uses, self._matrices = uses, matrices

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

    def decide(self, size: Expr, value: Expr) -> None:
        """Says that ``size`` must be ``value`` where the graph leaves it open.

        Raises:
            Decided: it does; the graph is read again with it.
        """
        if isinstance(size, Symbol) and value.is_Integer:
            raise Decided(f"{self.wrong(f'takes {value} for {size}')}", size, value)

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

    def uses(self, value: Value) -> int:
        """How often the calls of the trace use a value that it names."""
        return self._uses[value.name]

    def only_matrix(self, name: str) -> bool:
        """True for a value of the trace that is used as the right-hand matrix of products alone."""
        return self._uses[name] == self._matrices[name]

    # --- names

    def _fresh(self, name: str) -> str:
        base = LABEL.sub("_", name).strip("_")[:120] or "value"
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

    # --- emitting

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

    def resident(self, shape: Sequence[Expr], dtype: DType) -> Value:
        """A result that is a cache after the step: it stays, and is not handed out."""
        name = self._fresh("resident")
        self._resident.add(name)
        return Value(name, tuple(shape), dtype)

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
            raise self.wrong(f"{shown(x.shape)} has no axis {axis}")
        return axis % rank


def shown(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(d) for d in shape) + ")"
