"""Memory by liveness: weights and caches persist, activations come and go.

Weights and caches of a repeated region scale with its count; its transient
activations do not, because the rounds run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from sympy import Add, Expr, Integer

from costgraph.accounting import EXACT, Accounting
from costgraph.cost import Direction
from costgraph.count import rows
from costgraph.formula.envelope import pruned
from costgraph.graph import Graph, Node
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.regions import Region, Repeat
from costgraph.tensor import Role

ZERO = Integer(0)


@dataclass(frozen=True)
class Footprint:
    """Bytes in memory during a step.

    Attributes:
        weights: all weights.
        kv: caches at the end of the step (and recurrent states).
        activations: candidates for the peak of live activations; the peak is
            their maximum.
    """

    weights: Expr
    kv: Expr
    activations: tuple[Expr, ...]


def footprint(graph: Graph, accounting: Accounting = EXACT) -> Footprint:
    """The memory footprint of one step of ``graph``."""
    if accounting.footprint == "stores":
        return _by_stores(graph, accounting)
    weights = Add(*(count * t.footprint for t, count in graph.weights()))
    return Footprint(weights, cache_bytes(graph), pruned(_peaks(graph)))


def cache_bytes(graph: Graph) -> Expr:
    """Bytes set aside for caches and states once the step is done.

    A cache that the step extends counts at its extended size.
    """
    extended: dict[str, str] = {}
    results: list[Expr] = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            results.extend(node.op.instances * cache_bytes(g) for g in node.op.graphs)
            continue
        for tensor in node.outputs:
            if tensor.role in (Role.KV, Role.STATE):
                for name in node.inputs:
                    extended[name] = tensor.name
    for name, tensor in graph.tensors.items():
        if tensor.role in (Role.KV, Role.STATE) and name not in extended:
            results.append(tensor.footprint)
    return Add(*results)


def _transient(graph: Graph, names: Iterable[str]) -> Expr:
    return Add(*(_passing(graph, name) for name in names))


def _passing(graph: Graph, name: str) -> Expr:
    """Bytes of a live tensor that no cache, weight or state accounts for."""
    tensor = graph.tensors[name]
    if tensor.role is Role.ACTIVATION:
        return tensor.bytes
    node = graph.producer.get(name)
    if node is not None and isinstance(node.op, Fused):
        node = node.op.body.producer[name]
    if node is None or not isinstance(node.op, KVAppend):
        return ZERO
    # Rows that a sliding window drops live as long as their own step needs them.
    length = tensor.shape[1]
    return tensor.bytes / length * (length - node.op.kept(length))


def _base(graph: Graph, name: str) -> str:
    """The tensor that owns the memory of ``name`` (views own none)."""
    producer = graph.producer.get(name)
    while producer is not None and producer.op.is_view and producer.op.kind != "sample":
        name = producer.inputs[0]
        producer = graph.producer.get(name)
    return name


def _peaks(graph: Graph, carried: int | None = None) -> list[Expr]:
    """Live bytes at each node: operands, results and whatever is used later.

    In a region's body, operands past the ``carried`` ones are needed again in
    the next round and stay live throughout.
    """
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[_base(graph, name)] = index
    for name in graph.outputs:
        last[_base(graph, name)] = len(graph.nodes)
    if carried is not None:
        for tensor in graph.inputs[carried:]:
            last[tensor.name] = len(graph.nodes)
    live = [t.name for t in graph.inputs]
    peaks: list[Expr] = []
    for index, node in enumerate(graph.nodes):
        made = [t.name for t in node.outputs if _base(graph, t.name) == t.name]
        live.extend(made)
        here = _transient(graph, live)
        if isinstance(node.op, Region):
            peaks.extend(_region_peaks(graph, node, node.op, here))
        else:
            peaks.append(here)
        live = [n for n in live if last.get(n, -1) > index]
    return peaks


def _region_peaks(graph: Graph, node: Node, region: Region, here: Expr) -> list[Expr]:
    # The bodies' own operands and results are the region's: do not count them twice.
    boundary = _transient(graph, [t for takes in region.takes for t in _taken(node, takes)])
    boundary += _transient(graph, [t.name for t in node.outputs])
    # A region that runs once has no next round to keep shared operands for; what bodies
    # that run at once read stays until the last of them ends.
    carried: int | None = 0
    if isinstance(region, Repeat):
        carried = None if region.count == 1 else region.carried
    peaks = [pruned(_peaks(body, carried)) for body in region.graphs]
    # Bodies that run at once may all be at their peak.
    return [here - boundary + Add(*choice) for choice in product(*peaks)]


def _taken(node: Node, takes: tuple[int, ...]) -> dict[str, None]:
    """The operands of a region that one of its bodies takes, each once."""
    return dict.fromkeys(node.inputs[i] for i in takes)


def _by_stores(graph: Graph, accounting: Accounting) -> Footprint:
    """The survey tool's estimate: one layer's stores, its weights and caches.

    Where layers differ, the region whose layer stores most counts.
    """
    inside = [r for r in rows(graph, accounting, single_query=True) if r.region]
    stores: dict[str, Expr] = {r.region: ZERO for r in inside}
    for r in inside:
        stores[r.region] += r.cost.bytes_of(Role.ACTIVATION, Direction.WRITE)
    weights = Add(*(r.count * r.cost.bytes_of(Role.WEIGHT) for r in inside))
    return Footprint(weights, cache_bytes(graph), pruned(stores.values()))
