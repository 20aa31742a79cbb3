"""Memory by liveness: weights and caches persist, activations come and go.

Weights and caches of a repeated region scale with its count; its transient
activations do not, because the rounds run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sympy import Add, Expr, Integer

from costgraph.accounting import EXACT, Accounting
from costgraph.cost import Direction
from costgraph.count import rows
from costgraph.formula.envelope import pruned
from costgraph.graph import Graph, Repeat
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.ops.views import Stack
from costgraph.tensor import Role

ZERO = Integer(0)
Blocks = tuple[int, ...]


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


@dataclass(frozen=True)
class _Run:
    """One execution of a graph: which blocks of memory each tensor lies in.

    Blocks are numbers. A view lies in the blocks of what it shows, a stack in those of all
    that it is made of; an operand of a region lies where the surrounding graph made it.

    Attributes:
        graph: what runs.
        owner: blocks by tensor.
        rounds: what runs of each region, by the place of its node.
    """

    graph: Graph
    owner: Mapping[str, Blocks]
    rounds: Mapping[int, _Rounds]

    @property
    def results(self) -> tuple[Blocks, ...]:
        """Blocks of the results."""
        return tuple(self.owner[name] for name in self.graph.outputs)

    @cached_property
    def last(self) -> Mapping[int, int]:
        """The last node that reads a block, in regions as well."""
        found: dict[int, int] = {}
        for at, node in enumerate(self.graph.nodes):
            if at in self.rounds:
                found.update((b, at) for inner in self.rounds[at].runs for b in inner.last)
            else:
                found.update((b, at) for name in node.inputs for b in self.owner[name])
        return found


@dataclass(frozen=True)
class _Rounds:
    """What runs of a region.

    Attributes:
        runs: of its body: the first round, the last but one and the last, as far as there
            are so many.
        kept: by round, blocks of the results of which those of all rounds are kept.
        others: blocks of these results of the rounds after the first that do not run here.
    """

    runs: tuple[_Run, ...]
    kept: tuple[frozenset[int], ...]
    others: frozenset[int]


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


def _run(graph: Graph, sizes: list[Expr], operands: Sequence[Blocks] | None = None) -> _Run:
    """A run of ``graph``; new blocks are added to ``sizes``.

    Args:
        graph: what runs.
        sizes: bytes of every block so far.
        operands: blocks of its inputs; new ones without.
    """

    def new(name: str) -> Blocks:
        sizes.append(_passing(graph, name))
        return (len(sizes) - 1,)

    given = [t.name for t in graph.inputs]
    owner = dict(zip(given, map(new, given) if operands is None else operands, strict=True))
    owner |= {t.name: new(t.name) for t in graph.persistent}
    rounds: dict[int, _Rounds] = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, Repeat):
            found = _rounds(node.op, [owner[i] for i in node.inputs], sizes)
            rounds[place] = found
            once = len(node.outputs) - node.op.gathered
            every = zip(*(run.results[once:] for run in found.runs), strict=True)
            blocks: Iterable[Blocks] = (
                *found.runs[-1].results[:once],
                *(_joined((*parts, tuple(found.others))) for parts in every),
            )
        elif isinstance(node.op, Stack):
            blocks = [_joined(owner[name] for name in node.inputs)]
        elif node.op.is_view and node.op.kind != "sample":
            blocks = [owner[node.inputs[0]]] * len(node.outputs)
        else:
            blocks = [new(t.name) for t in node.outputs]
        owner.update(zip((t.name for t in node.outputs), blocks, strict=True))
    return _Run(graph, owner, rounds)


def _joined(parts: Iterable[Blocks]) -> Blocks:
    return tuple(dict.fromkeys(b for part in parts for b in part))


def _rounds(region: Repeat, operands: list[Blocks], sizes: list[Expr]) -> _Rounds:
    """The rounds of a region that differ: each takes over what the one before hands on."""
    many = int(region.count) if region.count.is_Integer else 3
    start = len(sizes)
    found = [_run(region.body, sizes, operands)]
    for _ in range(1, min(many, 3)):
        carried = found[-1].results[: region.carried]
        found.append(_run(region.body, sizes, [*carried, *operands[region.carried :]]))
    once = len(region.body.outputs) - region.gathered
    kept = tuple(frozenset(_joined(run.results[once:])) for run in found)
    others: frozenset[int] = frozenset()
    if region.gathered and many > 3:
        # Each of the rounds between adds as much as the last but one does.
        anew = Add(*(sizes[b] for b in kept[1] - kept[0] if b >= start))
        sizes.append((many - 3) * anew)
        others = frozenset((len(sizes) - 1,))
    return _Rounds(tuple(found), kept, others)


def _live(
    run: _Run, held: frozenset[int], given: frozenset[int] = frozenset()
) -> Iterator[frozenset[int]]:
    """The blocks in use at each node: made before, needed there or later.

    ``held`` blocks are in use to the end: results that something uses afterwards, and
    what the surrounding graph needs again; those ``given`` at least at the first node.
    """
    nodes, owner, last = run.graph.nodes, run.owner, run.last
    born = {b: -1 for t in run.graph.inputs for b in owner[t.name]}
    for at, node in enumerate(nodes):
        for tensor in node.outputs:
            for b in owner[tensor.name]:
                born.setdefault(b, at)
    outside = held - born.keys()
    for at, node in enumerate(nodes):
        made = {b for b, start in born.items() if start <= at}
        later = outside | {b for b in made if b in held or last.get(b, -1) > at}
        if not isinstance(node.op, Repeat):
            # What nothing reads lives at the node that makes it.
            yield given | later | {b for b in made if at in (born[b], last.get(b))}
        else:
            rounds = run.rounds[at]
            # Results are there once the last round makes them, operands of every round before.
            before = {b for b in later if born.get(b, -1) < at}
            shared = {b for name in node.inputs[node.op.carried :] for b in owner[name]}
            kept: set[int] = set()  # what earlier rounds made for the stacks of all
            for place, inner in enumerate(rounds.runs):
                kept |= rounds.kept[place] | (rounds.others if place else frozenset())
                again: set[int] = {*later, *kept}
                if place < len(rounds.runs) - 1:
                    handed = _joined(inner.results[: node.op.carried])
                    again = before | kept | {*handed, *(b for b in shared if b in inner.last)}
                yield from _live(inner, frozenset(again), given)
                given = frozenset()
        given = frozenset()


def _peaks(graph: Graph) -> list[Expr]:
    """Live bytes at each node, of regions at each node of the rounds that differ."""
    sizes: list[Expr] = []
    run = _run(graph, sizes)
    given = frozenset(b for t in graph.inputs for b in run.owner[t.name])
    found = dict.fromkeys(_live(run, frozenset(_joined(run.results)), given))
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
