"""Memory by liveness: weights and caches persist, activations come and go.

Weights and caches of a repeated region scale with its count; its transient
activations do not, because the rounds run one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from sympy import Add, Expr, Integer, Max

from costgraph.counting.accounting import EXACT, Accounting
from costgraph.counting.count import rows
from costgraph.formula.envelope import pruned
from costgraph.ir.cost import Direction
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Resident
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import MEMORY, Role, Tensor
from costgraph.ops.attending import pattern_of
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.ops.views import Slice, Stack

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
    return graph.once(_exact)


def _exact(graph: Graph) -> Footprint:
    return Footprint(weight_bytes(graph), cache_bytes(graph), pruned(_peaks(graph)))


def resting(held: Resident, accounting: Accounting = EXACT) -> Footprint:
    """What stays of a graph that does not run: weights, perhaps caches."""
    if accounting.footprint == "stores":
        need = footprint(held.graph, accounting)
        weights = need.weights - weight_bytes(held.graph, held.shared)
        return Footprint(weights, need.kv if held.caches else ZERO, ())
    weights = weight_bytes(held.graph) - weight_bytes(held.graph, held.shared)
    return Footprint(weights, cache_bytes(held.graph) if held.caches else ZERO, ())


def weight_bytes(graph: Graph, among: Collection[str] | None = None) -> Expr:
    """Bytes of the weights in memory of a graph, or of those with names ``among`` others."""
    near = ((t, n) for t, n in graph.weights() if t.level == MEMORY)
    return Add(*(n * t.footprint for t, n in near if among is None or t.name in among))


def cache_bytes(graph: Graph) -> Expr:
    """Bytes set aside in memory for caches and states once the step is done.

    A cache that the step extends counts at its extended size.
    """
    return kept(graph, lambda t: t.footprint if t.level == MEMORY else ZERO)


def kept(graph: Graph, part: Callable[[Tensor], Expr]) -> Expr:
    """``part`` of all caches and states once the step is done."""
    extended: set[str] = set()
    results: list[Expr] = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            results.extend(node.op.instances * kept(g, part) for g in node.op.graphs)
            # What a region hands out of its caches, for others to read, it keeps itself.
            extended.update(tensor.name for tensor in node.outputs)
            continue
        extended |= _extended(graph, node)
    for name, tensor in graph.tensors.items():
        if tensor.role in _LASTING and name not in extended:
            results.append(part(tensor))
    return Add(*results)


#: Roles of what stays from one step to the next.
_LASTING = (Role.KV, Role.STATE)


def _extended(graph: Graph, node: Node) -> set[str]:
    """Caches and states that a node extends: as many of its operands as it has such results.

    They are its first ones: an operation may read a cache besides the one that it extends. A
    view of caches stands for all of them.
    """
    if isinstance(node.op, Fused):
        body = node.op.body
        inner = {name for n in body.nodes for name in _extended(body, n)}
        given = zip((t.name for t in body.sources), node.inputs, strict=True)
        return {name for source, name in given if source in inner}
    many = sum(t.role in _LASTING for t in node.outputs)
    held = [i for i in node.inputs if graph.tensors[i].role in _LASTING]
    return set(held if many and node.op.is_view else held[:many])


def levels_of(graph: Graph) -> frozenset[str]:
    """The farther levels of memory in which a graph keeps something."""
    found: set[str] = set()
    for inner in graph.walk():
        for tensor in inner.tensors.values():
            if tensor.level != MEMORY:
                found.add(tensor.level)
            if tensor.spread is not None:
                found |= {level for level, share in tensor.spread.shares if share != 0}
    return frozenset(found)


def kept_at(graph: Graph, level: str, caches: bool = True, shared: Collection[str] = ()) -> Expr:
    """Bytes in a farther level of memory: of weights, caches, and activations kept there.

    Args:
        graph: a step graph.
        level: by name.
        caches: whether caches, states and activations count.
        shared: names of weights that do not.
    """

    def part(tensor: Tensor) -> Expr:
        return tensor.kept if tensor.level == level else tensor.footprint_at(level)

    weights = Add(*(n * part(t) for t, n in graph.weights() if t.name not in shared))
    return weights + kept(graph, part) + _waiting(graph, part) if caches else weights


def _waiting(graph: Graph, part: Callable[[Tensor], Expr]) -> Expr:
    """Bytes of activations between layers: of the largest that stand in the graph."""
    sizes = {part(t) for t in graph.tensors.values() if t.role is Role.ACTIVATION}
    return Max(*(sizes - {ZERO})) if sizes - {ZERO} else ZERO


Blocks = tuple[int, ...]


@dataclass(frozen=True)
class _Run:
    """One execution of a graph: which blocks of memory each tensor lies in.

    Blocks are numbers. A view lies in the blocks of what it shows; an operand of a region
    in those that the surrounding graph made for it. What rounds of a region take or give
    part by part lies in a block for each.

    Attributes:
        graph: what runs.
        owner: blocks by tensor.
        rounds: runs of the graphs of each region, by the place of its node: all rounds, or
            the first, one in the middle and the last, as far as there are so many; or every
            body of those that run at once.
    """

    graph: Graph
    owner: Mapping[str, Blocks]
    rounds: Mapping[int, tuple[_Run, ...]]

    @property
    def results(self) -> Blocks:
        """Blocks of the results."""
        return tuple(b for name in self.graph.outputs for b in self.owner[name])

    def handed(self, count: int) -> Blocks:
        """Blocks of the first ``count`` results."""
        return tuple(b for name in self.graph.outputs[:count] for b in self.owner[name])

    @cached_property
    def last(self) -> Mapping[int, int]:
        """The last node that reads a block, in regions as well; views read what they show."""
        found: dict[int, int] = {}
        for at, node in enumerate(self.graph.nodes):
            if at in self.rounds:
                found.update((b, at) for inner in self.rounds[at] for b in inner.last)
            else:
                names = [t.name for t in node.outputs] if _renames(node) else node.inputs
                found.update((b, at) for name in names for b in self.owner[name])
        return found


def _passing(graph: Graph, name: str) -> Expr:
    """Bytes of a live tensor that no cache, weight or state accounts for."""
    tensor = graph.tensors[name]
    node = graph.producer.get(name)
    if node is not None and isinstance(node.op, Fused):
        graph = node.op.body
        node = graph.producer[name]
    if tensor.role is Role.ACTIVATION:
        pattern = None if node is None else pattern_of(node.op)
        if node is None or pattern is None or not pattern.compact:
            return tensor.footprint
        return graph.moved(node, name, Direction.WRITE)  # of banded scores only those exist
    if node is None or not isinstance(node.op, KVAppend):
        return ZERO
    # Rows that a sliding window drops live as long as their own step needs them.
    batch, length, *rest = tensor.shape
    return tensor.bytes - tensor.dtype.size((batch, node.op.kept(length), *rest))


class _Runner:
    """Makes runs; ``sizes`` are the bytes of every block so far."""

    def __init__(self) -> None:
        self.sizes: list[Expr] = []

    def run(self, graph: Graph, operands: Sequence[Blocks] | None = None) -> _Run:
        """A run of ``graph``, whose inputs lie in ``operands``, or in new blocks."""
        given = [t.name for t in graph.inputs]
        if operands is None:
            operands = [self._new(graph, name) for name in given]
        owner = dict(zip(given, operands, strict=True))
        owner |= {t.name: self._new(graph, t.name) for t in graph.persistent}
        parts: dict[str, tuple[Blocks, ...]] = {}
        rounds: dict[int, tuple[_Run, ...]] = {}
        for place, node in enumerate(graph.nodes):
            op = node.op
            if isinstance(op, Repeat):
                rounds[place] = self._rounds(graph, node, op, owner, parts)
            elif isinstance(op, Region):
                rounds[place] = self._bodies(node, op, owner)
            elif not _renames(node):
                owner.update((t.name, self._new(graph, t.name)) for t in node.outputs)
            elif isinstance(op, Stack):
                parts[node.name] = tuple(owner[i] for i in node.inputs)
                owner[node.name] = _joined(parts[node.name])
            else:
                owner.update((t.name, _shown(node, owner, parts)) for t in node.outputs)
        return _Run(graph, owner, rounds)

    def _new(self, graph: Graph, name: str) -> Blocks:
        self.sizes.append(_passing(graph, name))
        return (len(self.sizes) - 1,)

    def _rounds(
        self,
        graph: Graph,
        node: Node,
        region: Repeat,
        owner: dict[str, Blocks],
        parts: dict[str, tuple[Blocks, ...]],
    ) -> tuple[_Run, ...]:
        """The rounds that differ: each takes over what the one before hands on.

        All rounds differ where each takes or gives a part that lies by itself.
        """
        body, once = region.body, len(node.outputs) - region.gathered
        whole = node.inputs[region.carried : len(node.inputs) - region.parts]
        cut = node.inputs[len(node.inputs) - region.parts :]
        each = region.count.is_Integer and (region.gathered or any(i in parts for i in cut))
        many = int(region.count) if region.count.is_Integer else 3
        many = many if each else min(many, 3)
        carried = [owner[i] for i in node.inputs[: region.carried]]
        found = []
        for index in range(many):
            own = [parts[i][index] if each and i in parts else owner[i] for i in cut]
            run = self.run(body, [*carried, *(owner[i] for i in whole), *own])
            carried = [run.owner[name] for name in body.outputs[: region.carried]]
            found.append(run)
        for result, name in zip(node.outputs, body.outputs, strict=True):
            owner[result.name] = found[-1].owner[name]
        for result, name in zip(node.outputs[once:], body.outputs[once:], strict=True):
            if each:
                parts[result.name] = tuple(run.owner[name] for run in found)
                owner[result.name] = _joined(parts[result.name])
            else:
                # One block holds what all rounds give.
                owner[result.name] = self._new(graph, result.name)
                for run in found:
                    for block in run.owner[name]:
                        self.sizes[block] = ZERO
        return tuple(found)

    def _bodies(self, node: Node, region: Region, owner: dict[str, Blocks]) -> tuple[_Run, ...]:
        """The graphs of a region that run at once."""
        found = tuple(
            self.run(graph, [owner[node.inputs[i]] for i in takes])
            for graph, takes in zip(region.graphs, region.takes, strict=True)
        )
        made = (run.owner[name] for run in found for name in run.graph.outputs)
        owner.update(zip((t.name for t in node.outputs), made, strict=True))
        return found


def _renames(node: Node) -> bool:
    """True if the results lie where the operands do."""
    return node.op.is_view and node.op.kind != "sample"


def _joined(parts: Iterable[Blocks]) -> Blocks:
    return tuple(dict.fromkeys(b for blocks in parts for b in blocks))


def _shown(
    node: Node, owner: Mapping[str, Blocks], parts: Mapping[str, tuple[Blocks, ...]]
) -> Blocks:
    """Blocks of a view: of its operands, or of the one part of an operand that it shows."""
    op, (base, *others) = node.op, node.inputs
    if others:
        return _joined(owner[i] for i in node.inputs)
    if base in parts and isinstance(op, Slice) and (op.axis, op.length) == (0, 1):
        return parts[base][int(op.start)] if op.start.is_Integer else owner[base]
    return owner[base]


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
        for b in (b for t in node.outputs for b in owner[t.name]):
            born.setdefault(b, at)
    outside = held - born.keys()
    live = {b for b, start in born.items() if start < 0}
    for at, node in enumerate(nodes):
        live |= {b for t in node.outputs for b in owner[t.name]}
        later = {b for b in live if b in held or last.get(b, -1) > at}
        if isinstance(node.op, Repeat):
            yield from _in_rounds(run, at, node.op, frozenset(later | outside), born, given)
        elif at in run.rounds:
            yield from _at_once(run, at, frozenset(later | outside), born, given)
        else:
            # What nothing reads lives at the node that makes it.
            now = {b for b in live if at in (born[b], last.get(b))}
            yield given | outside | later | now
        live, given = later, frozenset()


def _in_rounds(
    run: _Run,
    at: int,
    region: Repeat,
    later: frozenset[int],
    born: Mapping[int, int],
    given: frozenset[int],
) -> Iterator[frozenset[int]]:
    """The blocks in use at each node of each round of the region at a place."""
    node, rounds = run.graph.nodes[at], run.rounds[at]
    # What rounds give one by one is there once the round has made it, other results once
    # the last one has; operands are there while a later round reads them.
    gathered = {
        b for t in node.outputs[len(node.outputs) - region.gathered :] for b in run.owner[t.name]
    }
    kept = {b for b in later if born.get(b, -1) < at}
    whole = gathered - {b for inner in rounds for b in inner.results}
    kept |= whole & later
    needed = {b: index for index, inner in enumerate(rounds) for b in inner.last}
    operands = {b for name in node.inputs[region.carried :] for b in run.owner[name]}
    for index, inner in enumerate(rounds[:-1]):
        kept |= gathered & later & set(inner.results)
        again = {b for b in operands if needed.get(b, -1) > index}
        handed = inner.handed(region.carried)
        yield from _live(inner, frozenset(kept | again | {*handed}), given)
        given = frozenset()
    yield from _live(rounds[-1], later, given)


def _at_once(
    run: _Run,
    at: int,
    later: frozenset[int],
    born: Mapping[int, int],
    given: frozenset[int],
) -> Iterator[frozenset[int]]:
    """The blocks in use while the bodies of the region at a place run.

    What they read, and what they have made, stays until the last of them ends.
    """
    kept = {b for b in later if born.get(b, -1) < at}
    kept |= {b for name in run.graph.nodes[at].inputs for b in run.owner[name]}
    choices = (
        tuple(dict.fromkeys(_live(inner, frozenset({*kept, *inner.results}), given)))
        for inner in run.rounds[at]
    )
    yield from (frozenset().union(*choice) for choice in product(*choices))


def _peaks(graph: Graph) -> list[Expr]:
    """Live bytes at each node, of regions at each node of the rounds that differ."""
    runner = _Runner()
    run = runner.run(graph)
    given = frozenset(b for t in graph.inputs for b in run.owner[t.name])
    found = dict.fromkeys(_live(run, frozenset(run.results), given))
    return list(dict.fromkeys(Add(*(runner.sizes[b] for b in blocks)) for blocks in found))


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
