"""Pipeline parallelism: layers in stages, one after the other, each on devices of its own.

The layers of regions are dealt out in their order so that the fullest stage holds as few
bytes of weights as possible, the embedding and the output layer counted (Huang et al.,
GPipe, arXiv 1811.06965). Layers of several kinds that a graph keeps gathered are dealt out
by their places in the model. Layers that run again for tokens that missed them do so on
the stages that hold them. What a stage makes for later ones is sent on, as often as they run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, pairwise
from math import lcm

from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.links import Hop
from costgraph.ir.graph import Builder, Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.collectives import Send


@dataclass(frozen=True)
class Piece:
    """Rounds of a region, or one operation, that stay together.

    Attributes:
        node: the node.
        rounds: how many of its rounds; one for an operation.
        bytes: of weights, a round.
        block: the first node of the gathered regions that it is one of, in a row.
    """

    node: Node
    rounds: int
    bytes: Expr
    block: str = ""

    @property
    def is_layers(self) -> bool:
        """Whether it may be divided among stages."""
        return isinstance(self.node.op, Repeat)

    @property
    def again(self) -> str:
        """The node of the layers that it runs again; empty for what stands for itself."""
        return self.node.op.again if isinstance(self.node.op, Repeat) else ""


def stage_name(index: int) -> str:
    """The unit that runs a stage, from 0 on."""
    return f"stage {index + 1}"


def staged(graph: Graph, stages: int, hops: Sequence[Hop], made_by: str) -> Graph:
    """The graph with each node on the unit of its stage, and sends between stages.

    ``hops`` are the links behind each stage but the last. A send is a unit of its own: it
    goes on beside the work of the stages.

    Raises:
        PipelineError: there are fewer layers than stages, or layers whose number or weights
            are symbols.
    """
    every = tuple(_pieces(graph))
    again = {p.again: p for p in every if p.again}
    pieces = tuple(p for p in every if not p.again)
    parts = [list(_with_again(part, again)) for part in _dealt(graph.name, pieces, stages)]
    return _built(graph, parts, hops, made_by)


def _pieces(graph: Graph) -> Iterator[Piece]:
    weights = {t.name: t.bytes for t in graph.sources if t.role is Role.WEIGHT}
    block = ""
    for node in graph.nodes:
        gathers = isinstance(node.op, Repeat) and node.op.places
        block = (block or node.name) if gathers else ""
        if isinstance(node.op, Repeat):
            if not node.op.count.is_Integer:
                raise PipelineError(
                    f"{graph.name}: {node.op.count} layers cannot be dealt out to stages: "
                    "their number is a symbol"
                )
            inner = Add(*(count * t.bytes for t, count in node.op.body.weights()))
            share = node.op.weight_sets / node.op.count
            yield Piece(node, int(node.op.count), inner * share, block)
            continue
        own: Expr = Add(*(weights.get(name, 0) for name in dict.fromkeys(node.inputs)))
        if isinstance(node.op, Region):
            own = Add(own, *(c * t.bytes for g in node.op.graphs for t, c in g.weights()))
        yield Piece(node, 1, own)


def _with_again(part: Sequence[Piece], again: Mapping[str, Piece]) -> Iterator[Piece]:
    """The pieces of a stage, and what runs its layers again."""
    for piece in part:
        yield piece
        if piece.node.name in again:
            yield replace(again[piece.node.name], rounds=piece.rounds)


def _dealt(name: str, pieces: Sequence[Piece], stages: int) -> list[list[Piece]]:
    """The pieces in ``stages`` consecutive parts, the largest as small as can be."""
    units = [(at, pieces[at].bytes) for at in _in_turn(pieces)]
    if not all(size.is_number for _, size in units):
        raise PipelineError(f"{name}: stages are balanced by bytes of weights, which are symbols")
    layers = [i for i, (at, _) in enumerate(units) if pieces[at].is_layers]
    if not layers:
        raise PipelineError(
            f"{name} has no layers to deal out to {stages} stages: a part of each request that "
            "runs beside its layers goes with tp or dp, not with pp"
        )
    if len(layers) < stages:
        raise PipelineError(
            f"{name} has {len(layers)} layers: not enough for {stages} stages; "
            f"the most is {len(layers)}"
        )
    cuts = _cuts([size for _, size in units], layers, stages)
    parts: list[list[Piece]] = []
    for start, end in zip((0, *cuts), (*cuts, len(units)), strict=True):
        rounds = Counter(at for at, _ in units[start:end])
        parts.append([replace(pieces[at], rounds=n) for at, n in sorted(rounds.items())])
    return parts


def _in_turn(pieces: Sequence[Piece]) -> Iterator[int]:
    """Which piece each round is of: in order, those of a gathered block by their places."""
    for _, group in groupby(enumerate(pieces), lambda p: p[1].block or p[1].node.name):
        turns = []
        for at, piece in group:
            op = piece.node.op
            gathered = op.places if isinstance(op, Repeat) else ()
            turns += [(place, at) for place in gathered or range(piece.rounds)]
        yield from (at for _, at in sorted(turns))


def _cuts(sizes: Sequence[Expr], layers: Sequence[int], stages: int) -> list[int]:
    """Where stages begin, after the first: in front of layers only.

    The smallest largest stage, by dynamic programming over the places where a cut may be;
    of equal ones that with the fewest layers in the first stages.
    """
    # Whole numbers of the common part: exact as well, and compared a hundred times as fast.
    exact = [Fraction(str(size)) for size in sizes]
    part = lcm(*(size.denominator for size in exact))
    total = [0]
    for size in exact:
        total.append(total[-1] + int(size * part))
    # What stands before the first layer belongs to it, what follows the last one to that.
    starts = [0, *layers[1:]]
    ends = [*layers[1:], len(sizes)]
    count = len(starts)
    best = [total[ends[i]] - total[0] for i in range(count)]
    chosen: list[list[int]] = []
    for stage in range(1, stages):
        now: list[int] = []
        cut: list[int] = []
        for last in range(count):
            found: tuple[int, int] | None = None
            for first in range(stage, last + 1):
                load = max(best[first - 1], total[ends[last]] - total[starts[first]])
                if found is None or load < found[0]:
                    found = (load, first)
            now.append(total[-1] * 2 if found is None else found[0])
            cut.append(0 if found is None else found[1])
        best = now
        chosen.append(cut)
    cuts: list[int] = []
    last = count - 1
    for cut in reversed(chosen):
        cuts.append(starts[cut[last]])
        last = cut[last] - 1
    return cuts[::-1]


def _check_caches(graph: Graph, parts: Sequence[Sequence[Piece]]) -> None:
    """Refuses caches that layers of several stages read: who writes one sends it to nobody.

    Raises:
        PipelineError: naming the cache.
    """
    for cache in (t for t in graph.sources if t.role is Role.KV):
        users = [any(cache.name in p.node.inputs for p in part) for part in parts]
        if sum(users) > 1:
            raise PipelineError(
                f"{graph.name}: layers of several stages read {cache.name!r}, which is written by "
                "one: state tp or dp instead of pp"
            )


def _built(graph: Graph, parts: list[list[Piece]], hops: Sequence[Hop], made_by: str) -> Graph:
    _check_caches(graph, parts)
    nodes: list[Node] = []
    #: The name under which each tensor is known to the stage at hand.
    known: dict[str, str] = {}
    done: Counter[str] = Counter()
    flow = _flows(graph, parts)
    for index, part in enumerate(parts):
        unit = stage_name(index)
        for piece in part:
            before = done[piece.node.name]
            done[piece.node.name] += piece.rounds
            made = _part(piece, before, known, flow, unit)
            nodes.append(made)
            last = flow.get(piece.node.name, ())
            for place, (tensor, out) in enumerate(
                zip(piece.node.outputs, made.outputs, strict=True)
            ):
                known[tensor.name] = out.name
                if place < len(last):  # what the block's rounds hand on, whichever kind they are
                    known[last[place]] = out.name
        users = _users([p for rest in parts[index + 1 :] for p in rest], known, flow)
        for name in [n for n in known if n in users]:
            sent = _tensor(nodes, known[name])
            tensor = sent.renamed(f"{name}_to_{index + 2}")
            origin = Origin(made_by=made_by)
            send, way = _sent(sent, Send((hops[index],)), users[name]), f"{unit} to {index + 2}"
            nodes.append(Node(tensor.name, send, (known[name],), (tensor,), origin, way))
            known[name] = tensor.name
    outputs = tuple(known.get(o, o) for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _users(
    later: Sequence[Piece], known: Mapping[str, str], flow: Mapping[str, tuple[str, ...]]
) -> dict[str, list[Node]]:
    """Who in later stages reads what is known; what rounds hand on anew is another tensor."""
    found: dict[str, list[Node]] = {}
    anew: set[str] = set()
    for piece in later:
        for name in _awaited(piece, known, flow):
            if name not in anew:
                found.setdefault(name, []).append(piece.node)
        anew.update(flow.get(piece.node.name, ()))
    return found


def _sent(tensor: Tensor, send: Send, users: Sequence[Node]) -> Op:
    """A send, as often as any of those who wait for it runs."""
    regions = [u.op for u in users if isinstance(u.op, Repeat)]
    there = [r.presence for r in regions]
    whole = len(regions) < len(users) or any(p.is_full for p in there)
    # Where some go on and others run again they are all; of one kind the first are the most.
    if whole or len({r.again for r in regions}) > 1:
        return send
    body = Builder("send")
    x = body.source(tensor)
    return Repeat(body.build(body.add("send", send, x)), Integer(1), 1, there[0], rounds="other")


def _tensor(nodes: Sequence[Node], name: str) -> Tensor:
    return next(t for n in reversed(nodes) for t in n.outputs if t.name == name)


def _flows(graph: Graph, parts: list[list[Piece]]) -> dict[str, tuple[str, ...]]:
    """For each region in stages the tensors that its rounds hand on, as the last one calls them.

    Regions of a gathered block share them: their rounds stand among one another.

    Raises:
        PipelineError: something else uses what one kind of layers hands to the next.
    """
    blocks: dict[str, list[Node]] = {}
    for piece in (p for part in parts for p in part if p.is_layers):
        members = blocks.setdefault(piece.block or piece.node.name, [])
        if piece.node not in members:
            members.append(piece.node)
    found = {}
    for members in blocks.values():
        for first, second in pairwise(members):
            assert isinstance(second.op, Repeat)
            given = tuple(t.name for t in first.outputs)
            users = {u.name for name in given for u in graph.consumers[name]}
            if users != {second.name} or second.inputs[: second.op.carried] != given:
                raise PipelineError(
                    f"{graph.name}: {first.name!r} cannot be dealt out to stages in turn with "
                    f"{second.name!r}: something else uses its result"
                )
        last = members[-1]
        for node in members:
            assert isinstance(node.op, Repeat)
            found[node.name] = tuple(t.name for t in last.outputs[: node.op.carried])
    return found


def _part(
    piece: Piece,
    before: int,
    known: Mapping[str, str],
    flow: Mapping[str, tuple[str, ...]],
    unit: str,
) -> Node:
    """The node of a piece, of which ``before`` rounds ran in earlier stages."""
    node, region = piece.node, piece.node.op
    inputs = tuple(known.get(name, name) for name in node.inputs)
    if not isinstance(region, Repeat):
        return replace(node, inputs=inputs, unit=unit)
    handed = flow[node.name]
    if all(name in known for name in handed):  # it goes on with what rounds before handed on
        inputs = (*(known[name] for name in handed), *inputs[region.carried :])
    if piece.rounds == int(region.count):
        return replace(node, inputs=inputs, unit=unit)
    op = _rounds(region, before, piece.rounds)
    if before + piece.rounds == int(region.count):
        return replace(node, op=op, inputs=inputs, unit=unit)
    suffix = f"_{unit.rpartition(' ')[2]}"
    outputs = tuple(t.renamed(t.name + suffix) for t in node.outputs)
    return Node(node.name + suffix, op, inputs, outputs, node.origin, unit)


def _awaited(
    piece: Piece, known: Mapping[str, str], flow: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    """What a later piece reads of earlier stages: operands, or what rounds before handed on."""
    node, region = piece.node, piece.node.op
    handed = flow.get(node.name, ())
    if isinstance(region, Repeat) and handed and all(name in known for name in handed):
        yield from handed
        yield from node.inputs[region.carried :]
    else:
        yield from node.inputs


def _rounds(region: Repeat, before: int, rounds: int) -> Repeat:
    """The region with ``rounds`` of its rounds behind others, their part of what rounds share."""
    part = Integer(rounds) / region.count

    def share(sets: Expr | None) -> Expr | None:
        return None if sets is None else sets * part

    return replace(
        region,
        count=Integer(rounds),
        shared_instances=share(region.shared_instances),
        shared_weights=share(region.shared_weights),
        places=region.places[before : before + rounds],
    )
