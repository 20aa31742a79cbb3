"""Traced graphs as programs of one phase."""

from __future__ import annotations

from collections.abc import Iterable

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.graph import Graph
from costgraph.models.traced.record import Traced
from costgraph.program import Phase, Program
from costgraph.symbols import S, T, q

ONE = Integer(1)


def forward(
    graph: Graph,
    traced: Traced,
    recognise: bool = True,
    mask: str = "skip",
    limits: Iterable[Limit] = (),
) -> Program:
    """The program that runs ``graph`` once: a single phase, ``forward``.

    It processes ``S`` positions per sequence where the graph depends on ``S``. ``q`` and
    ``T`` stand for that length, unless they are dimensions of the graph itself: then they
    stay free. No tokens are counted: a traced graph does not say how its results are used.
    """
    free = {s for t in graph.tensors.values() for s in t.numel.free_symbols}
    length: Expr = S if S in free else ONE
    bindings = tuple((s, length) for s in (q, T) if s not in free)
    phase = Phase("forward", graph, bindings, tokens=Integer(0))
    stated = (
        Limit(e, Integer(most), "the graph was written down for values up to there")
        for e, most in traced.bounds
        if not e.is_number
    )
    bounds = tuple(dict.fromkeys((*stated, *limits)))
    program = Program(graph.name, (phase,), limits=bounds, notes=traced.notes)
    if not recognise:
        return program
    # Rewriting stands above importing; it is called here as a user would call it.
    from costgraph.passes.recognise import recognised

    return recognised(program, mask)
