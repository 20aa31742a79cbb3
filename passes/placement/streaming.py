"""Layers whose weights, caches and activations are kept elsewhere and come as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sympy import Add, Expr, Integer, Max, Min

from costgraph.errors import PipelineError
from costgraph.formula.least import least
from costgraph.ir.cost import Direction
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op, same
from costgraph.ir.program import Program
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Role, Spread, Tensor, level_of
from costgraph.ops import ExpertLinear, KVAppend
from costgraph.ops.attending import pattern_of
from costgraph.ops.fused import Fused
from costgraph.ops.transfer import Moved, Stream
from costgraph.ops.views import Reshape
from costgraph.passes.placement.members import members
from costgraph.passes.placement.moving import Unit, by_level, moved
from costgraph.passes.placement.shares import Shares, away
from costgraph.rewriting.binding import at
from costgraph.rewriting.overlap import side_by_side
from costgraph.symbols import B, q

ONE, ZERO = Integer(1), Integer(0)
ATTENTION = "attention"


@dataclass(frozen=True)
class Sets:
    """How many sets of weights and of caches layers hold, with all regions around them."""

    weights: Expr = ONE
    caches: Expr = ONE

    def times(self, region: Region) -> Sets:
        """The same of a region inside."""
        return Sets(self.weights * region.weight_sets, self.caches * region.instances)


@dataclass(frozen=True)
class Plan:
    """What is kept where, and how it comes.

    Attributes:
        weights, caches, activations: shares in farther levels.
        overlap: the next layer's part arrives while a layer computes.
        blocks: groups of sequences that one pass over a layer's weights serves.
        places: operations (``attention``, ``ffn``, ``experts`` or one by its name) and the unit
            that computes them in steps of one token; their weights and caches lie there.
        prompts: prompts compute those operations there as well, all but attention; else their
            weights come to the device for it.
        single: the step is of one token.
        on: operations whose weights are away; all where there are none.
        active: the share of those weights that a token needs: rows of its active neurons.
        window: how many tokens before a step have left theirs in the memory.
        routed: of experts, only those come that the tokens of a step choose.
        found: of caches, only those rows come that a step reads.
        made_by: the pass.
    """

    weights: Shares
    caches: Shares
    activations: Shares
    overlap: bool = True
    blocks: Expr = ONE
    places: tuple[tuple[str, Unit], ...] = ()
    prompts: bool = False
    single: bool = True
    on: tuple[str, ...] = ()
    active: Expr = ONE
    window: Expr = ZERO
    routed: bool = False
    found: bool = False
    made_by: str = "offload"

    @property
    def buffers(self) -> int:
        """Parts in memory at once: of the layer at work, and of the one that comes."""
        return 2 if self.overlap else 1

    @property
    def brought(self) -> Expr:
        """The share of weights that are away which a step brings.

        Tokens need rows independently of each other: of ``n`` tokens together, and not of
        the ``k`` before them, ``(1 − f)^k·(1 − (1 − f)^n)``.
        """
        if self.active == 1:
            return ONE
        return (1 - self.active) ** self.window * (1 - (1 - self.active) ** (B * q))

    @property
    def attend_at(self) -> str:
        """The level in which attention is computed in this step; empty for the device."""
        return next((u.level for w, u in self.places if w == ATTENTION and self.single), "")

    def homes(self, body: Graph) -> dict[str, str]:
        """The level in which the weights of operations of a layer lie, by the operation."""
        return {n: u.level for w, u in self.places if w != ATTENTION for n in members(body, w)}

    def runs(self, body: Graph) -> dict[str, str]:
        """The level in which operations of a layer run in this step, by the operation."""
        found = self.homes(body) if self.single or self.prompts else {}
        if self.attend_at:
            found |= dict.fromkeys(members(body, ATTENTION), self.attend_at)
        return found

    def unit(self, level: str) -> Unit:
        """The unit that computes in a level."""
        return next(unit for _, unit in self.places if unit.level == level)

    def is_away(self, users: Iterable[str]) -> bool:
        """Whether a weight that these operations use is one of those kept elsewhere."""
        return not self.on or any(name in self.on for name in users)

    @property
    def waiting(self) -> Spread | None:
        """Where groups of sequences wait for each other between layers."""
        return None if self.blocks == 1 else self.spread(self.activations, self.blocks)

    def spread(self, shares: Shares, sets: Expr) -> Spread | None:
        """Where tensors of so many sets are kept, with room for the buffers."""
        if not shares:
            return None
        share = away(shares)
        held = Min(Integer(self.buffers), sets) if sets.is_number else Integer(self.buffers)
        return Spread(shares, 1 - share + share * held / sets)


def refuse_in_row(made_by: str, program: Program) -> None:
    """Refuses programs whose weights and caches are dealt out to a row of chips.

    Raises:
        PipelineError: it is one.
    """
    if program.groups is not None:
        raise PipelineError(f"{made_by}: chain keeps everything in its chips: give one of the two")


def layers_of(graph: Graph) -> Iterator[Repeat]:
    """The regions of a graph whose rounds are layers: where they nest, the innermost."""
    for node in graph.nodes:
        if isinstance(node.op, Repeat) and node.op.rounds == "layers":
            inner = tuple(layers_of(node.op.body))
            yield from inner or (node.op,)


def each_layer(graph: Graph, f: Callable[[Graph, str], Graph]) -> Graph:
    """``graph`` with ``f(body, name)`` for the body of each region of :func:`layers_of`."""
    nodes: list[Node] = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Repeat) and op.rounds == "layers":
            nested = any(layers_of(op.body))
            body = each_layer(op.body, f) if nested else f(op.body, node.name)
            node = replace(node, op=replace(op, body=body))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def carried_out(program: Program, plan: Plan) -> tuple[Program, tuple[str, ...]]:
    """``program`` as the plan has it, and the layers that it changed.

    Attention runs elsewhere in steps of one token alone, other operations as the plan says.
    """
    hits: dict[str, None] = {}

    def new(graph: Graph, single: bool) -> Graph:
        made, names = streamed(graph, replace(plan, single=single))
        hits.update(dict.fromkeys(names))
        return made

    if plan.places:
        made = program.rewritten_by_step(new)
    else:  # all steps alike
        made = program.rewritten(lambda graph: new(graph, False))
    return made, tuple(hits)


def streamed(graph: Graph, plan: Plan, outer: Sets = Sets()) -> tuple[Graph, tuple[str, ...]]:
    """``graph`` with its layers as the plan has them, and the regions that it changed."""
    nodes: list[Node] = []
    names: list[str] = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat) and node.op.rounds == "layers":
            sets = outer.times(node.op)
            if any(layers_of(node.op.body)):
                body, inside = streamed(node.op.body, plan, sets)
                nodes.append(replace(node, op=node.op.with_graphs([body])))
                names.extend(inside)
                continue
            made = _layer(graph, node, node.op, plan, sets)
            if made:
                nodes.extend(made)
                names.append(node.name)
                continue
        nodes.append(node)
    whole = replace(graph, nodes=tuple(nodes))
    waiting = plan.waiting
    if not names or waiting is None:
        return whole, tuple(names)

    def placed(tensor: Tensor, own: bool) -> Tensor:
        """What passes to layers, and from them, waits where layers' results do."""
        many = own and tensor.role is Role.ACTIVATION and B in tensor.numel.free_symbols
        return replace(tensor, spread=waiting) if many else tensor

    return mapped(whole, placed), tuple(names)


def _layer(graph: Graph, node: Node, region: Repeat, plan: Plan, sets: Sets) -> tuple[Node, ...]:
    """The nodes in place of a region of layers; none where nothing of it is kept elsewhere."""
    body, blocks = region.body, plan.blocks
    runs, homes = plan.runs(body), plan.homes(body)
    attends = any(isinstance(n.op, KVAppend) and n.name in runs for n in body.nodes)
    moves = _moves(body, plan, attends, {n: x for n, x in homes.items() if n not in runs})
    stay = plan.brought == 0 and any(size != 0 for size in _away(body, plan))
    if not moves and not runs and blocks == 1 and not stay:
        return ()
    lie = {
        t.name: (homes[n.name], n.name in runs)
        for n in body.nodes
        if n.name in homes
        for t in body.operands(n)
        if t.role is Role.WEIGHT
    }
    for level, there in by_level(runs).items():
        body = moved(body, there, plan.unit(level), plan.made_by)
    body = _spread(body, sets, plan, lie)
    before: tuple[Node, ...] = ()
    after: tuple[Node, ...] = ()
    outputs = node.outputs
    if blocks != 1:
        _check_blocks(graph, node, region)
        body = _in_groups(body, blocks, plan.made_by)
        operands = graph.operands(node)
        before = tuple(
            _view(t, made, f"{node.name}.{t.name}", plan.made_by)
            for t, made in zip(operands, body.inputs, strict=True)
            if t.shape != made.shape
        )
        names = {n.inputs[0]: n.output for n in before}
        made_op = replace(region, body=body)
        seen = tuple(
            made.renamed(names[t.name]) if t.name in names else t
            for t, made in zip(operands, body.inputs, strict=True)
        )
        results = [s.named(f"{t.name}.groups") for s, t in zip(
            made_op.infer(seen), outputs, strict=True)]  # fmt: skip
        after = tuple(
            _view(made, t, t.name, plan.made_by) for t, made in zip(outputs, results, strict=True)
        )
        outputs = tuple(results)
        node = replace(node, inputs=tuple(names.get(i, i) for i in node.inputs))
    if moves:
        body = beside(body, Stream(moves), plan.overlap, node.name, plan.made_by)
    origin = Origin((node.name,), plan.made_by)
    return (
        *before,
        replace(node, op=replace(region, body=body), outputs=outputs, origin=origin),
        *after,
    )


def _moves(
    body: Graph, plan: Plan, attends_there: bool, come: Mapping[str, str]
) -> tuple[Moved, ...]:
    """What crosses the link for one layer, of all sequences.

    The weights of operations that ``come`` are brought from the level where they lie.
    """
    read, written = Direction.READ, Direction.WRITE
    weights = plan.brought * Add(*_away(body, plan))
    old, new = ZERO, ZERO
    if not attends_there:
        for node in body.nodes:
            if isinstance(node.op, KVAppend) and not level_of(node.unit):
                before, after = _rows(body, node, plan.found)
                old, new = old + before, new + after
    given = [t.bytes for t in body.inputs if B in t.numel.free_symbols]
    made = [body.tensors[o].bytes for o in body.outputs]
    amounts = (
        (plan.weights, Role.WEIGHT, read, weights),
        (plan.caches, Role.KV, read, old),
        (plan.caches, Role.KV, written, new),
        (plan.activations, Role.ACTIVATION, read, Add(*given)),
        (plan.activations, Role.ACTIVATION, written, Add(*made)),
    )
    placed = {
        t.name: Moved(come[n.name], Role.WEIGHT, read, t.bytes)
        for n in body.nodes
        if n.name in come
        for t in body.operands(n)
        if t.role is Role.WEIGHT
    }
    return (*placed.values(), *(
        Moved(level, role, direction, share * size)
        for shares, role, direction, size in amounts
        for level, share in shares
        if share * size != 0
    ))  # fmt: skip


def _away(body: Graph, plan: Plan) -> Iterator[Expr]:
    """Bytes of the weights of one layer that the shares are about, as far as a step needs them."""
    for tensor in body.sources:
        users = body.consumers[tensor.name]
        elsewhere = tensor.spread is not None  # where its operation runs, or comes from by itself
        if tensor.role is Role.WEIGHT and not elsewhere and plan.is_away(n.name for n in users):
            chooses = plan.routed and users and all(is_of_experts(n.op) for n in users)
            yield _read(body, tensor, users) if chooses else tensor.bytes
    for node in body.nodes:
        if isinstance(node.op, Region):
            for graph in node.op.graphs:
                yield from (size * node.op.weight_sets for size in _away(graph, plan))


def is_of_experts(op: Op) -> bool:
    """Whether an operation multiplies by the experts that a router chose."""
    if isinstance(op, Fused):
        return any(isinstance(n.op, ExpertLinear) for n in op.body.nodes)
    return isinstance(op, ExpertLinear)


def _read(body: Graph, tensor: Tensor, users: Iterable[Node]) -> Expr:
    """The most bytes of a tensor that one of its users reads."""
    return Max(*(body.moved(n, tensor.name, Direction.READ) for n in users))


def has_experts(body: Graph, plan: Plan) -> bool:
    """Whether weights of experts are among those kept elsewhere."""
    return any(is_of_experts(n.op) and plan.is_away([n.name]) for g in body.walk() for n in g.nodes)


def unreached(body: Graph) -> bool:
    """Whether caches lie in parts of a layer that other layers share, out of reach."""
    inner = (g for n in body.nodes if isinstance(n.op, Region) for g in n.op.graphs)
    return any(isinstance(n.op, KVAppend) for g in inner for each in g.walk() for n in each.nodes)


def _rows(body: Graph, node: Node, found: bool) -> tuple[Expr, Expr]:
    """Bytes of a cache that a step needs of those before it, and that it adds.

    ``found``: of rows that are chosen those that are read, not all that may be chosen.
    """
    assert isinstance(node.op, KVAppend)
    cache, new, *_ = body.operands(node)
    (result,) = node.outputs
    batch, _, *rest = result.shape
    keeps, added = node.op.keeps, new.shape[1]
    made = keeps.made(added)  # they stand among the rows found, and are made of those they replace
    before = cache.bytes + result.dtype.size((batch, made * (keeps.into_one - 1), *rest))
    if found and chooses_rows(body, node):
        # Users of one index need the same rows, which come once.
        users: dict[tuple[bool, str], list[Node]] = {}
        for n in body.consumers[result.name]:
            chosen = _attends_chosen(n)
            users.setdefault((chosen, n.inputs[-1] if chosen else n.name), []).append(n)
        before = least(before, Add(*(_read(body, result, ns) for ns in users.values())))
    return before, result.dtype.size((batch, keeps.written(added) + made, *rest))


def stays(body: Graph) -> bool:
    """Whether a layer has rows that are no keys or values, which nothing brings or sends."""
    appended = {n.inputs[0] for n in body.nodes if isinstance(n.op, KVAppend)}
    return any(t.role is Role.KV and t.name not in appended for t in body.sources)


def chooses_rows(body: Graph, node: Node) -> bool:
    """Whether rows that are chosen of a cache are attended."""
    return any(map(_attends_chosen, body.consumers[node.output]))


def _attends_chosen(node: Node) -> bool:
    pattern = pattern_of(node.op)
    return pattern is not None and pattern.indexed


def _spread(body: Graph, sets: Sets, plan: Plan, lie: Mapping[str, tuple[str, bool]]) -> Graph:
    """A layer whose tensors say where they are kept.

    ``lie`` says of weights the level where they are, and whether that is where they are used.
    """
    weights = plan.spread(plan.weights, sets.weights)
    if weights is not None and plan.active != 1:
        # The rows of the window stay, in the place of buffers.
        held = 1 - (1 - plan.active) ** ((plan.window + q) * B)
        weights = replace(weights, near=1 - (1 - held) * away(plan.weights))
    caches = plan.spread(plan.caches, sets.caches * plan.blocks)
    if plan.attend_at:
        caches = Spread(((plan.attend_at, ONE),), ZERO)
    appended = {n.inputs[0] for n in body.nodes if isinstance(n.op, KVAppend)}
    extended = {t.name for n in body.nodes if isinstance(n.op, KVAppend) for t in n.outputs}
    waiting = plan.waiting
    results = set() if waiting is None else set(body.outputs)

    chosen = {
        t.name
        for g in body.walk()
        for t in g.sources
        if t.role is Role.WEIGHT and plan.is_away(n.name for n in g.consumers[t.name])
    }

    def placed(tensor: Tensor, own: bool) -> Tensor:
        if own and tensor.name in lie:
            level, used = lie[tensor.name]
            all_ = ((level, ONE),)
            return replace(
                tensor, spread=Spread(all_, ZERO) if used else plan.spread(all_, sets.weights)
            )
        if tensor.name in chosen and weights is not None:
            return tensor if tensor.spread is not None else replace(tensor, spread=weights)
        if own and tensor.name in appended | extended and caches is not None:
            if tensor.spread is not None:
                return tensor  # where its attention runs
            return replace(tensor, spread=caches)
        if own and tensor.name in results:
            return replace(tensor, spread=waiting)
        return tensor

    return mapped(body, placed)


def mapped(graph: Graph, f: Callable[[Tensor, bool], Tensor], own: bool = True) -> Graph:
    """``graph`` with ``f`` of each tensor; of graphs of its regions with ``own`` false."""

    def node(n: Node) -> Node:
        op = n.op
        if isinstance(op, Region):
            op = op.with_graphs([mapped(g, f, False) for g in op.graphs])
        return replace(n, op=op, outputs=tuple(f(t, own) for t in n.outputs))

    sources = tuple(f(t, own) for t in graph.sources)
    return replace(graph, sources=sources, nodes=tuple(map(node, graph.nodes)))


def beside(body: Graph, op: Op, overlap: bool, name: str, made_by: str) -> Graph:
    """A layer and what comes or goes meanwhile, or before it without ``overlap``.

    Args:
        body: the layer.
        op: what moves it, without operands.
        overlap: both run at the same time.
        name: of the region that they become.
        made_by: the pass.
    """
    origin = Origin((), made_by)
    label = op.kind.replace("-", "_")
    node = Node(label, op, (), tuple(s.named(f"{label}ed") for s in op.infer(())), origin)
    whole = replace(body, nodes=(node, *body.nodes))
    if not overlap:
        return whole
    groups = {"layer": [n.name for n in body.nodes], label: [node.name]}
    return side_by_side(whole, groups, name, made_by=made_by)


def _check_blocks(graph: Graph, node: Node, region: Repeat) -> None:
    """Refuses layers that a batch does not pass through in groups.

    Raises:
        PipelineError: why.
    """
    if region.parts or region.gathered:
        raise PipelineError(
            f"blocks: layers {node.name!r} take or give a part each: no groups pass through them"
        )
    for tensor in (*graph.operands(node), *node.outputs):
        size = tensor.numel
        if B in size.free_symbols and not same(size, B * size.xreplace({B: ONE})):
            raise PipelineError(f"blocks: {tensor.name!r} is no batch of sequences")


def _in_groups(body: Graph, blocks: Expr, made_by: str) -> Graph:
    """A layer that groups of sequences pass through one after the other, on the same weights."""
    inner = at(body, {B: B / blocks})
    cut = [t for t in inner.inputs if B in t.numel.free_symbols]
    whole = [t for t in inner.inputs if B not in t.numel.free_symbols]
    persistent = inner.persistent
    inner = replace(inner, sources=(*whole, *cut, *persistent))
    op = Repeat(
        inner, blocks, 0, shared_weights=ONE, rounds="other", parts=len(cut),
        gathered=len(inner.outputs),
    )  # fmt: skip
    stacked = {t.name: replace(t, shape=(blocks, *t.shape)) for t in cut}
    sources = tuple(stacked.get(t.name, t) for t in body.inputs)
    operands = (*whole, *(stacked[t.name] for t in cut))
    names = (f"{o}.all" for o in inner.outputs)
    outputs = tuple(s.named(o) for s, o in zip(op.infer(operands), names, strict=True))
    node = Node("groups", op, tuple(t.name for t in operands), outputs, Origin((), made_by))
    return Graph(body.name, sources, (node,), tuple(t.name for t in outputs))


def _view(given: Tensor, wanted: Tensor, name: str, made_by: str) -> Node:
    """The same elements under the shape of another tensor."""
    op = Reshape(wanted.shape)
    (spec,) = op.infer((given,))
    return Node(f"{name}.view", op, (given.name,), (spec.named(name),), Origin((), made_by))
