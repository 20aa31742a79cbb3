"""LSTM, GRU and plain recurrent layers: one product over all steps, then the steps in sequence.

The input's projections are one product. Each step multiplies the state by the
recurrent matrix, reads that matrix again, and waits for the step before it: a
repeated region whose count is the length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.cells import FUNCTIONS, bent, in_sequence, long_short
from costgraph.models.traced.lowering import Lowering
from costgraph.models.traced.record import Source
from costgraph.models.traced.value import Value
from costgraph.ops import Add, Linear, Multiply, QuantLinear
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
        w, r: ``(gates·hidden, input)`` and ``(gates·hidden, state)``.
        w_bias, r_bias: ``(gates·hidden)``, or None.
        functions: activations of gates, of what is added and of what is given out; of a plain
            cell its only one.
        narrow: format in which rows are quantised at run time, or None.
        projection: ``(state, hidden)``, which makes an LSTM's state of its result; or None.
        reset_first: a GRU's reset gate changes the state in front of the last third of ``r``,
            not what that makes of it.
    """

    kind: str
    w: Value
    r: Value
    w_bias: Value | None = None
    r_bias: Value | None = None
    functions: tuple[str, ...] = FUNCTIONS
    narrow: DType | None = None
    projection: Value | None = None
    reset_first: bool = False

    @property
    def hidden(self) -> Expr:
        """Width of a gate."""
        return self.r.shape[0] / GATES[self.kind]


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
    rows = x
    if cell.narrow is not None:
        rows = low.emit(QuantizeTo(cell.narrow), x, name=low.label("quantize"))
    result = x.dtype if cell.narrow is not None else None
    name = low.label("input")
    taken = low.matmul(rows, low.transpose(cell.w, (1, 0)), cell.w_bias, name, result)
    carried = [
        low.emit(Fill((batch, width), x.dtype), name=low.label("start")) if s is None else s
        for s, width in zip(start, (cell.r.shape[1], cell.hidden), strict=False)
    ]
    products = [
        tuple(v.narrow for v in pair if v is not None)
        for pair in (*_matrices(low, cell), (cell.projection,))
    ]
    shared = [v for pair in products for v in pair if not v.is_weight]
    body = _step(cell, taken, carried, products)
    op = in_sequence(body, length, len(carried))
    made = low.emit_many(op, *carried, *shared, taken, name=low.label("steps"))
    return made[-1], made[:-1]


def _matrices(low: Lowering, cell: Cell) -> tuple[tuple[Value | None, Value | None], ...]:
    """The recurrent matrix and its bias, in two parts where the reset gate stands between."""
    if not cell.reset_first:
        return ((cell.r, cell.r_bias),)
    first, rest = (
        [_rows(low, v, start, count) for v in (cell.r, cell.r_bias)]
        for start, count in ((ZERO, 2 * cell.hidden), (2 * cell.hidden, cell.hidden))
    )
    return ((first[0], first[1]), (rest[0], rest[1]))


def _rows(low: Lowering, value: Value | None, first: Expr, count: Expr) -> Value | None:
    """Rows of a stored weight as a weight of its own; a view of what is computed."""
    if value is None or not value.is_weight:
        return None if value is None else low.part(value, 0, first, count)
    shape = (count, *value.shape[1:])
    name = f"{value.name}.{'candidate' if first else 'gates'}"
    return Value(name, shape, value.dtype, source=Source(name, shape, value.dtype.name, "weight"))


def _step(
    cell: Cell, taken: Value, carried: Sequence[Value], products: Sequence[Sequence[Value]]
) -> Graph:
    """One step: the last states, and the input's projections of the step."""
    g = Builder(cell.kind)
    hidden = cell.hidden
    states = [
        g.source(Tensor(name, v.shape, v.dtype))
        for name, v in zip(("state", "memory"), carried, strict=False)
    ]
    operands = [
        [
            g.source(
                Tensor(v.name, v.shape, v.dtype, Role.WEIGHT if v.is_weight else Role.ACTIVATION)
            )
            for v in pair
        ]
        for pair in products
    ]
    given = g.source(Tensor("input", taken.shape[1:], taken.dtype))

    def product(name: str, row: str, place: int) -> str:
        bias = len(operands[place]) == 2
        if cell.narrow is not None:
            row = g.add(f"quantize_{name}", QuantizeTo(cell.narrow), row)
            return g.add(name, QuantLinear(bias, result=taken.dtype), row, *operands[place])
        return g.add(name, Linear(bias), row, *operands[place])

    def gate(index: int, of: str, label: str) -> str:
        first = hidden * index
        return g.add(f"{label}_{index}", Slice(1, first, hidden), of)

    made = product("recurrent", states[0], 0)
    if cell.kind == "gru":
        count = 2 if cell.reset_first else 3
        parts = [(gate(i, given, "x"), gate(i, made, "h")) for i in range(count)]
        if not cell.reset_first:
            new = _gated_unit(g, cell, states[0], parts)
            return g.build(new, new)
        ahead = gate(2, given, "x")
        new = _gated_unit(
            g, cell, states[0], parts, lambda held: (ahead, product("candidate", held, 1))
        )
        return g.build(new, new)
    total = g.add("sum", Add(), made, given)
    if cell.kind == "rnn":
        new = bent(g, "result", cell.functions[0], total)
        return g.build(new, new)
    gates = [gate(i, total, "gate") for i in range(4)]
    new, memory = long_short(g, states[1], gates, cell.functions)
    if cell.projection is not None:
        new = product("projection", new, len(operands) - 1)
    return g.build(new, memory, new)


def _gated_unit(
    g: Builder,
    cell: Cell,
    state: str,
    pairs: Sequence[tuple[str, str]],
    later: Callable[[str], tuple[str, str]] | None = None,
) -> str:
    """``n = tanh(x + σ(r)·h)``, ``h' = (1 − σ(z))·n + σ(z)·h``.

    ``later`` makes the parts of the candidate of the state behind the reset gate, where they
    are not the third of ``pairs``.
    """
    reset, update = (
        bent(g, f"{n}_gate", cell.functions[0], g.add(f"{n}_sum", Add(), *pairs[i]))
        for i, n in enumerate(("reset", "update"))
    )
    if later is None:
        ahead, behind = pairs[2]
        held = g.add("held", Multiply(), behind, reset)
    else:
        ahead, held = later(g.add("held", Multiply(), state, reset))
    new = bent(g, "new", cell.functions[1], g.add("new_sum", Add(), ahead, held))
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
