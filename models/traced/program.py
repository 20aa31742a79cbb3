"""Traced graphs as programs of one phase."""

from __future__ import annotations

from sympy import Expr, Integer

from costgraph.graph import Graph
from costgraph.models.traced.lowering import Dialect, Lowering
from costgraph.models.traced.record import Traced
from costgraph.program import Phase, Program
from costgraph.symbols import S, T, q

ONE = Integer(1)


def program_of(
    traced: Traced, dialect: Dialect, mask: str = "skip", recognise: bool = True
) -> Program:
    """The program that runs a traced graph once: a single phase, ``forward``.

    It processes ``S`` positions per sequence where the graph depends on ``S``. No
    tokens are counted: a traced graph does not say how its results are used.

    Raises:
        ModelError: an operator has no rule, or does not fit its operands.
    """
    lowering = Lowering(traced, dialect, mask)
    graph = lowering.run(dialect.rules)
    length: Expr = S if _depends_on_length(graph) else ONE
    phase = Phase("forward", graph, ((q, length), (T, length)), tokens=Integer(0))
    program = Program(
        graph.name, (phase,), limits=tuple(lowering.limits), notes=(*traced.notes, *lowering.notes)
    )
    if not recognise:
        return program
    # Rewriting stands above importing; it is called here as a user would call it.
    from costgraph.passes.recognise import recognised

    return recognised(program, mask)


def _depends_on_length(graph: Graph) -> bool:
    return any(S in t.numel.free_symbols for t in graph.tensors.values())
