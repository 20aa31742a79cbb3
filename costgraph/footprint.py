"""Memory by liveness: weights and caches persist, activations come and go.

Weights and caches of a repeated region scale with its count; its transient
activations do not, because the rounds run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sympy import Add, Expr, Integer

from costgraph.accounting import EXACT, Accounting
from costgraph.cost import Direction
from costgraph.count import rows
from costgraph.formula.envelope import pruned
from costgraph.graph import Graph, Node, Repeat
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.ops.views import Stack
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
        if isinstance(node.op, Repeat):
            results.append(node.op.instances * cache_bytes(node.op.body))
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


def _bases(graph: Graph, name: str) -> list[str]:
    """The tensors that own the memory of ``name`` (views own none)."""
    found: list[str] = []
    open_ = [name]
    while open_:
        name = open_.pop()
        producer = graph.producer.get(name)
        if producer is None or not producer.op.is_view or producer.op.kind == "sample":
            found.append(name)
        elif isinstance(producer.op, Stack):
            open_.extend(producer.inputs)
        else:
            open_.append(producer.inputs[0])
    return found


def _peaks(
    graph: Graph, carried: int | None = None, outside: frozenset[str] = frozenset()
) -> list[Expr]:
    """Live bytes at each node: operands, results and whatever is used later.

    In a region's body, operands past the ``carried`` ones are needed again in
    the next round and stay live throughout; those ``outside`` are parts of tensors
    of the graph around it, which count there.
    """
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            last.update(dict.fromkeys(_bases(graph, name), index))
    for name in graph.outputs:
        last.update(dict.fromkeys(_bases(graph, name), len(graph.nodes)))
    if carried is not None:
        for tensor in graph.inputs[carried:]:
            last[tensor.name] = len(graph.nodes)
    live = [t.name for t in graph.inputs if t.name not in outside]
    peaks: list[Expr] = []
    for index, node in enumerate(graph.nodes):
        own = not node.op.is_view or node.op.kind == "sample"
        live.extend(t.name for t in node.outputs if own and t.name not in outside)
        here = _transient(graph, live)
        if isinstance(node.op, Repeat):
            peaks.extend(_region_peaks(graph, node, node.op, here))
        else:
            peaks.append(here)
        live = [n for n in live if last.get(n, -1) > index]
    return peaks


def _region_peaks(graph: Graph, node: Node, region: Repeat, here: Expr) -> list[Expr]:
    # The body's own operands and results are the region's: do not count them twice.
    # Stacks of all rounds' parts stay around it: of those the body owns nothing.
    body = region.body
    whole, once = len(node.inputs) - region.parts, len(node.outputs) - region.gathered
    boundary = _transient(graph, dict.fromkeys(node.inputs[:whole])) + _transient(
        graph, [t.name for t in node.outputs[:once]]
    )
    outside = {t.name for t in body.inputs[whole:]}
    for name in body.outputs[once:]:
        outside.update(_bases(body, name))
    # A region that runs once has no next round to keep shared operands for.
    carried = None if region.count == 1 else region.carried
    return [here - boundary + peak for peak in _peaks(body, carried, frozenset(outside))]


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
