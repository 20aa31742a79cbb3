"""LSTM, GRU and plain recurrent layers: one product over all steps, then the steps in sequence.

The input's projections are one product. Each step multiplies the state by the
recurrent matrix, reads that matrix again, and waits for the step before it: a
repeated region whose count is the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.traced.lowering import Lowering
from costgraph.models.traced.record import Source
from costgraph.models.traced.value import Value
from costgraph.ops import Activation, Add, Linear, Multiply, QuantLinear
from costgraph.ops.arrays import Fill
from costgraph.ops.maps import Map
from costgraph.ops.quant import QuantizeTo
from costgraph.ops.views import Slice, Stack

ONE = Integer(1)
ZERO = Integer(0)
#: Gates of a cell, each as wide as its state.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Cell:
    """Weights of one direction of a layer.

    Attributes:
        kind: a key of :data:`GATES`.
        w, r: ``(gates·hidden, input)`` and ``(gates·hidden, hidden)``.
        w_bias, r_bias: ``(gates·hidden)``, or None.
        activation: of a plain cell.
        narrow: format in which rows are quantised at run time, or None.
    """

    kind: str
    w: Value
    r: Value
    w_bias: Value | None = None
    r_bias: Value | None = None
    activation: str = "tanh"
    narrow: DType | None = None


def layer(
    low: Lowering, x: Value, cells: Sequence[Cell], states: Sequence[Sequence[Value | None]]
) -> tuple[Value, tuple[Value, ...]]:
    """``x (T, B, I)`` through one layer of one or two directions.

    ``states`` are those before the first step, per direction; None is zero.

    Returns:
        The results of all steps ``(D, T, B, H)``, and the last states ``(D, B, H)`` each.
    """
    made = [_direction(low, x, cell, start) for cell, start in zip(cells, states, strict=True)]
    steps = _side_by_side(low, [m[0] for m in made])
    last = tuple(_side_by_side(low, list(s)) for s in zip(*(m[1] for m in made), strict=True))
    return steps, last


def _side_by_side(low: Lowering, parts: Sequence[Value]) -> Value:
    if len(parts) == 1:
        return low.reshape(parts[0], (ONE, *parts[0].shape))
    return low.emit(Stack(), *parts)


def _direction(
    low: Lowering, x: Value, cell: Cell, start: Sequence[Value | None]
) -> tuple[Value, tuple[Value, ...]]:
    length, batch, _ = x.shape
    hidden = cell.r.shape[1]
    rows = x
    if cell.narrow is not None:
        rows = low.emit(QuantizeTo(cell.narrow), x, name=low.label("quantize"))
    result = x.dtype if cell.narrow is not None else None
    name = low.label("input")
    taken = low.matmul(rows, low.transpose(cell.w, (1, 0)), cell.w_bias, name, result)
    carried = [
        low.emit(Fill((batch, hidden), x.dtype), name=low.label("start")) if s is None else s
        for s in start
    ]
    stored = [v.narrow for v in (cell.r, cell.r_bias) if v is not None]
    shared = [v for v in stored if not v.is_weight]
    body = _step(cell, taken, carried, stored)
    op = Repeat(body, length, len(carried), shared_instances=ONE, parts=1, gathered=1)
    made = low.emit_many(op, *carried, *shared, taken, name=low.label("steps"))
    return made[-1], made[:-1]


def _step(cell: Cell, taken: Value, carried: Sequence[Value], stored: Sequence[Value]) -> Graph:
    """One step: the last states, and the input's projections of the step."""
    g = Builder(cell.kind)
    hidden = cell.r.shape[1]
    states = [
        g.source(Tensor(name, v.shape, v.dtype))
        for name, v in zip(("state", "memory"), carried, strict=False)
    ]
    operands = []
    for value in stored:
        role = Role.WEIGHT if value.is_weight else Role.ACTIVATION
        operands.append(g.source(Tensor(value.name, value.shape, value.dtype, role)))
    given = g.source(Tensor("input", taken.shape[1:], taken.dtype))
    state = states[0]
    bias = len(operands) == 2
    if cell.narrow is not None:
        row = g.add("quantize", QuantizeTo(cell.narrow), state)
        product = g.add("recurrent", QuantLinear(bias, result=taken.dtype), row, *operands)
    else:
        product = g.add("recurrent", Linear(bias), state, *operands)

    def gate(index: int, of: str, label: str) -> str:
        first = hidden * index
        return g.add(f"{label}_{index}", Slice(1, first, hidden), of)

    if cell.kind == "gru":
        new = _gated_unit(
            g, state, [(gate(i, given, "x"), gate(i, product, "h")) for i in range(3)]
        )
        return g.build(new, new)
    total = g.add("sum", Add(), product, given)
    if cell.kind == "rnn":
        new = g.add("result", Activation(cell.activation), total)
        return g.build(new, new)
    new, memory = _long_short(g, states[1], [gate(i, total, "gate") for i in range(4)])
    return g.build(new, memory, new)


def _long_short(g: Builder, memory: str, gates: Sequence[str]) -> tuple[str, str]:
    """``c' = σ(f)·c + σ(i)·tanh(g)``, ``h' = σ(o)·tanh(c')``."""
    into, forget, out = (
        g.add(f"{n}_gate", Activation("sigmoid"), gates[i])
        for i, n in enumerate(("input", "forget", "output"))
    )
    candidate = g.add("candidate", Activation("tanh"), gates[3])
    kept = g.add("kept", Multiply(), forget, memory)
    added = g.add("added", Multiply(), into, candidate)
    new = g.add("memory_out", Add(), kept, added)
    bent = g.add("bent", Activation("tanh"), new)
    return g.add("result", Multiply(), out, bent), new


def _gated_unit(g: Builder, state: str, pairs: Sequence[tuple[str, str]]) -> str:
    """``n = tanh(x + σ(r)·h)``, ``h' = (1 − σ(z))·n + σ(z)·h``."""
    reset, update = (
        g.add(f"{n}_gate", Activation("sigmoid"), g.add(f"{n}_sum", Add(), *pairs[i]))
        for i, n in enumerate(("reset", "update"))
    )
    ahead, behind = pairs[2]
    held = g.add("held", Multiply(), behind, reset)
    new = g.add("new", Activation("tanh"), g.add("new_sum", Add(), ahead, held))
    rest = g.add("rest", Map("add_constant"), update)
    return g.add(
        "result",
        Add(),
        g.add("taken", Multiply(), new, rest),
        g.add("kept", Multiply(), state, update),
    )


def piece(low: Lowering, value: Value, place: int, count: int, shape: tuple[Expr, ...]) -> Value:
    """The ``place``-th of ``count`` parts of a stored weight, as a weight of its own.

    Where the operand is computed, the part is a view of it.
    """
    narrow = value.narrow
    if narrow.is_weight:
        name = narrow.name if count == 1 else f"{narrow.name}.{place}"
        source = Source(name, shape, narrow.dtype.name, "weight")
        part = Value(name, shape, narrow.dtype, source=source)
        return part if value is narrow else replace(value, shape=shape, stored=part, flip=None)
    size = Mul(*value.shape) / count
    flat = low.reshape(value, (Mul(*value.shape),))
    return low.reshape(low.part(flat, 0, size * place, size), shape)
