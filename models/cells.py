"""What a step of a recurrent cell does behind its products."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Expr, Integer

from costgraph.ir.graph import Builder, Graph
from costgraph.ir.regions import Repeat
from costgraph.ops import Activation, Add, Multiply
from costgraph.ops.elementwise import ACTIVATIONS
from costgraph.ops.maps import Map

#: Activations of an LSTM's gates, of what is added and of what is given out.
FUNCTIONS = ("sigmoid", "tanh", "tanh")


def in_sequence(body: Graph, length: Expr, carried: int) -> Repeat:
    """``body`` for each of ``length`` steps: states it carries on, and a row that it gives out."""
    return Repeat(
        body, length, carried, shared_instances=Integer(1), rounds="other", parts=1, gathered=1
    )


def bent(g: Builder, name: str, function: str, x: str) -> str:
    """Adds an activation."""
    op = Activation(function) if function in ACTIVATIONS else Map(function)
    return g.add(name, op, x)


def long_short(
    g: Builder, memory: str, gates: Sequence[str], functions: Sequence[str] = FUNCTIONS
) -> tuple[str, str]:
    """``c' = σ(f)·c + σ(i)·tanh(g)``, ``h' = σ(o)·tanh(c')``: names of ``h'`` and ``c'``."""
    into, forget, out = (
        bent(g, f"{n}_gate", functions[0], gates[i])
        for i, n in enumerate(("input", "forget", "output"))
    )
    candidate = bent(g, "candidate", functions[1], gates[3])
    kept = g.add("kept", Multiply(), forget, memory)
    added = g.add("added", Multiply(), into, candidate)
    new = g.add("memory_out", Add(), kept, added)
    result = bent(g, "bent", functions[2], new)
    return g.add("result", Multiply(), out, result), new
