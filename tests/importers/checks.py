"""What tests of importers check of a graph, whichever format it came from."""

from __future__ import annotations

from costgraph.counting.count import exact_cost, parameters
from costgraph.ir.graph import Graph
from costgraph.ir.verify import verify
from costgraph.rewriting.unrolled import unrolled


def costs_as_written_out(graph: Graph) -> None:
    """Rounds cost what they cost one by one, over the same weights."""
    flat = unrolled(graph)
    verify(flat)
    before, after = exact_cost(graph), exact_cost(flat)
    assert before.flops == after.flops
    assert before.total_bytes == after.total_bytes
    assert parameters(flat) == parameters(graph)
