"""LSTM layers over a sequence (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.cells import in_sequence, long_short
from costgraph.ops import Add
from costgraph.ops.arrays import Fill
from costgraph.ops.views import Slice
from costgraph.symbols import B

FOUR = Integer(4)


def _step(style: Style, d: Expr) -> Graph:
    """One step: the last states, and the input's projections of the step."""
    m = Maker("lstm", style)
    state, memory = (m.source(Tensor(name, (B, d), style.acts)) for name in ("state", "memory"))
    given = m.source(Tensor("input", (B, FOUR * d), style.acts))
    total = m.add("sum", Add(), m.linear("recurrent", state, FOUR * d, d, True), given)
    gates = [m.add(f"gate_{i}", Slice(1, d * i, d), total) for i in range(4)]
    new, memory = long_short(m, memory, gates)
    return m.build(new, memory, new)


def lstm(m: Maker, name: str, x: str, layers: int) -> str:
    """Adds ``layers`` layers over ``x (n, B, d)``, one product over all steps and then the steps.

    Layers keep the width and have both biases. States start at zero.
    """
    length, batch, d = m.shape(x)
    for index in range(layers):
        part = f"{name}{index}"
        taken = m.linear(f"{part}_input", x, FOUR * d, d, True)
        start = [m.add(f"{part}_{n}", Fill((batch, d), m.style.acts)) for n in ("state", "memory")]
        op = in_sequence(_step(m.style, d), length, len(start))
        x = m.add_many(f"{part}_steps", op, *start, taken)[-1]
    return x
