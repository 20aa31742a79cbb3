"""Memory by liveness: weights and caches persist, activations come and go.

Weights and caches of a repeated region scale with its count; its transient
activations do not, because the rounds run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from sympy import Add, Expr, Integer

from costgraph.accounting import EXACT, Accounting
from costgraph.cost import Direction
from costgraph.count import rows
from costgraph.formula.envelope import pruned
from costgraph.graph import Graph
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.program import Resident
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


def resting(held: Resident, accounting: Accounting = EXACT) -> Footprint:
    """What stays of a graph that does not run: weights, perhaps caches."""
    need = footprint(held.graph, accounting)
    shared = (n * t.footprint for t, n in held.graph.weights() if t.name in held.shared)
    kv = need.kv if held.caches else ZERO
    return Footprint(need.weights - Add(*shared), kv, ())


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


@dataclass(frozen=True)
class _Run:
    """One execution of a graph: which block of memory each tensor lies in.

    Blocks are numbers. A view lies in the block of what it shows; an operand of a region
    in the block that the surrounding graph made for it.

    Attributes:
        graph: what runs.
        owner: block by tensor.
        rounds: runs of the graphs of each region, by the place of its node: the first, one
            in the middle and the last round, as far as there are so many; or every body of
            those that run at once.
    """

    graph: Graph
    owner: Mapping[str, int]
    rounds: Mapping[int, tuple[_Run, ...]]

    @property
    def results(self) -> tuple[int, ...]:
        """Blocks of the results."""
        return tuple(self.owner[name] for name in self.graph.outputs)

    @cached_property
    def last(self) -> Mapping[int, int]:
        """The last node that reads a block, in regions as well."""
        found: dict[int, int] = {}
        for at, node in enumerate(self.graph.nodes):
            if at in self.rounds:
                found.update((b, at) for inner in self.rounds[at] for b in inner.last)
            else:
                found.update((self.owner[name], at) for name in node.inputs)
        return found


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


def _run(graph: Graph, sizes: list[Expr], operands: Sequence[int] | None = None) -> _Run:
    """A run of ``graph``; new blocks are added to ``sizes``.

    Args:
        graph: what runs.
        sizes: bytes of every block so far.
        operands: blocks of its inputs; new ones without.
    """

    def new(name: str) -> int:
        sizes.append(_passing(graph, name))
        return len(sizes) - 1

    given = [t.name for t in graph.inputs]
    owner = dict(zip(given, map(new, given) if operands is None else operands, strict=True))
    owner |= {t.name: new(t.name) for t in graph.persistent}
    rounds: dict[int, tuple[_Run, ...]] = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, Repeat):
            rounds[place] = _rounds(node.op, [owner[i] for i in node.inputs], sizes)
            blocks: Iterable[int] = rounds[place][-1].results
        elif isinstance(node.op, Region):
            rounds[place] = _bodies(node.op, [owner[i] for i in node.inputs], sizes)
            blocks = [b for run in rounds[place] for b in run.results]
        elif node.op.is_view and node.op.kind != "sample":
            blocks = [owner[node.inputs[0]]] * len(node.outputs)
        else:
            blocks = [new(t.name) for t in node.outputs]
        owner.update(zip((t.name for t in node.outputs), blocks, strict=True))
    return _Run(graph, owner, rounds)


def _rounds(region: Repeat, operands: list[int], sizes: list[Expr]) -> tuple[_Run, ...]:
    """The rounds of a region that differ: each takes over what the one before hands on."""
    many = int(region.count) if region.count.is_Integer else 3
    found = [_run(region.body, sizes, operands)]
    for _ in range(1, min(many, 3)):
        carried = found[-1].results[: region.carried]
        found.append(_run(region.body, sizes, [*carried, *operands[region.carried :]]))
    return tuple(found)


def _bodies(region: Region, operands: list[int], sizes: list[Expr]) -> tuple[_Run, ...]:
    """The graphs of a region that run at once."""
    pairs = zip(region.graphs, region.takes, strict=True)
    return tuple(_run(graph, sizes, [operands[i] for i in takes]) for graph, takes in pairs)


def _live(
    run: _Run, held: frozenset[int], given: frozenset[int] = frozenset()
) -> Iterator[frozenset[int]]:
    """The blocks in use at each node: made before, needed there or later.

    ``held`` blocks are in use to the end: results that something uses afterwards, and
    what the surrounding graph needs again; those ``given`` at least at the first node.
    """
    nodes, owner, last = run.graph.nodes, run.owner, run.last
    born = {owner[t.name]: -1 for t in run.graph.inputs}
    for at, node in enumerate(nodes):
        for tensor in node.outputs:
            born.setdefault(owner[tensor.name], at)
    outside = held - born.keys()
    for at, node in enumerate(nodes):
        made = {b for b, start in born.items() if start <= at}
        later = outside | {b for b in made if b in held or last.get(b, -1) > at}
        # What is there before the node makes anything, and is needed after it.
        before = {b for b in later if born.get(b, -1) < at}
        if at not in run.rounds:
            # What nothing reads lives at the node that makes it.
            yield given | later | {b for b in made if at in (born[b], last.get(b))}
        elif isinstance(node.op, Repeat):
            *some, end = run.rounds[at]
            # Results are there once the last round makes them, operands of every round before.
            shared = {owner[name] for name in node.inputs[node.op.carried :]}
            for inner in some:
                handed = inner.results[: node.op.carried]
                again = before | {*handed, *(b for b in shared if b in inner.last)}
                yield from _live(inner, frozenset(again), given)
                given = frozenset()
            yield from _live(end, frozenset(later), given)
        else:
            # What bodies read, and what they have made, stays until the last of them ends.
            kept = before | {owner[name] for name in node.inputs}
            at_once = (
                tuple(dict.fromkeys(_live(inner, frozenset({*kept, *inner.results}), given)))
                for inner in run.rounds[at]
            )
            yield from (frozenset().union(*choice) for choice in product(*at_once))
        given = frozenset()


def _peaks(graph: Graph) -> list[Expr]:
    """Live bytes at each node, of regions at each node of the rounds that differ."""
    sizes: list[Expr] = []
    run = _run(graph, sizes)
    given = frozenset(run.owner[t.name] for t in graph.inputs)
    found = dict.fromkeys(_live(run, frozenset(run.results), given))
    return [Add(*(sizes[b] for b in blocks)) for blocks in found]


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
