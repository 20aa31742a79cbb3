"""Layers of which a step runs a part: some neurons and heads, here or on another unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.tensor import Role, Spread, Tensor
from costgraph.ops import Linear
from costgraph.ops.elementwise import Activation, Add
from costgraph.passes.placement.members import blocks
from costgraph.passes.placement.moving import Unit, moved
from costgraph.passes.sparsity.widths import Sizes, found, resized
from costgraph.rewriting.overlap import side_by_side

ONE, ZERO = Integer(1), Integer(0)
HOT, COLD, PREDICTORS = "hot", "cold", "predictors"


@dataclass(frozen=True)
class Part:
    """A part of the neurons of each block.

    Attributes:
        kept: the share of all neurons that it has.
        run: the share of all neurons, those of it, that a step runs.
    """

    kept: Expr
    run: Expr


@dataclass(frozen=True)
class Running:
    """What a step runs of a layer.

    Attributes:
        hot: neurons on the device.
        cold: neurons on another unit; None where all are on the device.
        heads: the share of heads.
        unit: what computes the cold neurons.
        rank: of the predictors, zero for none.
        predictors: what there are predictors for: neurons, heads.
        predicts: they are at work in this step, as they are not in prompts.
        ahead: predictors run beside the layer in front of the one that they decide for.
        made_by: the pass.
    """

    hot: Part
    cold: Part | None
    heads: Expr
    unit: Unit | None
    rank: Expr
    predictors: tuple[str, ...]
    predicts: bool
    ahead: bool
    made_by: str


def of_layer(body: Graph, how: Running) -> Graph:
    """A layer as a step runs it.

    Raises:
        BlockedError: an operation does not take other widths.
        PipelineError: the blocks are not what this can divide.
    """
    inner = found(body).inner
    width = inner[0] if inner else ZERO
    heads = found(body).heads
    made = body
    if how.heads != 1:
        queries = {q: q * how.heads for q, _ in heads}
        keys = {k: k * how.heads for _, k in heads}
        made = _kept(body, resized(body, Sizes(heads=queries, kv_heads=keys)), ONE)
    if how.cold is None:
        if how.hot.run != 1:
            made = _kept(made, resized(made, _widths(made, how.hot.run)), ONE)
    else:
        made = _divided(made, how)
    if how.rank != 0:
        made = _predicted(made, how, width, heads[0][0] if heads else ZERO)
    return made


def _widths(body: Graph, share: Expr) -> Sizes:
    return Sizes(inner={w: w * share for w in found(body).inner})


def _kept(before: Graph, after: Graph, part: Expr) -> Graph:
    """``after``, whose weights and caches take the room of a ``part`` of those ``before``."""

    def room(tensor: Tensor) -> Tensor:
        old = before.tensors.get(tensor.name)
        if old is None or old.shape == tensor.shape or tensor.spread is not None:
            return tensor
        if tensor.role is Role.WEIGHT:
            return replace(tensor, stored=part * old.kept)
        if tensor.role is Role.KV:  # results of a step have the room that caches say
            return replace(tensor, spread=Spread((), old.kept / tensor.kept))
        return tensor

    nodes = (replace(n, outputs=tuple(map(room, n.outputs))) for n in after.nodes)
    return replace(after, sources=tuple(map(room, after.sources)), nodes=tuple(nodes))


def _divided(body: Graph, how: Running) -> Graph:
    """A layer whose block is hot neurons here and cold ones elsewhere, side by side."""
    assert how.cold is not None
    assert how.unit is not None
    divided = blocks(body)
    if not divided:
        raise PipelineError("no block that can be divided")
    hot = _kept(body, resized(body, _widths(body, how.hot.run)), how.hot.kept)
    cold = _kept(body, resized(body, _widths(body, how.cold.run)), how.cold.kept)
    twins = {block[-1]: _twin(cold, block, how) for block in divided}
    joined: list[Node] = []
    for node in hot.nodes:
        if node.name not in twins:
            joined.append(node)
            continue
        nodes, _ = twins[node.name]
        result = node.outputs[0].name
        parts = (f"{result}.{HOT}", f"{result}.{COLD}")
        made = replace(node, outputs=(node.outputs[0].renamed(parts[0]),))
        (spec,) = Add().infer((made.outputs[0], nodes[-1].outputs[0]))
        origin = Origin(made_by=how.made_by)
        joined += [
            made,
            *nodes,
            Node(f"{node.name}.sum", Add(), parts, (spec.named(result),), origin),
        ]
    sources = {t.name: t for _, ours in twins.values() for t in ours}
    whole = replace(hot, sources=(*hot.sources, *sources.values()), nodes=tuple(joined))
    for place, block in enumerate(divided):
        there = [n.name for n in twins[block[-1]][0]]
        before = {n.name for n in whole.nodes}
        carried = moved(whole, there, how.unit, how.made_by)
        away = [n.name for n in carried.nodes if n.name not in before or n.name in there]
        name = "neurons" if len(divided) == 1 else f"neurons {place + 1}"
        groups = {HOT: list(block), COLD: away}
        whole = side_by_side(carried, groups, name, made_by=how.made_by)
    return whole


def _twin(cold: Graph, block: Sequence[str], how: Running) -> tuple[list[Node], list[Tensor]]:
    """The block's nodes for cold neurons, under names of their own, and their weights."""
    assert how.unit is not None
    end = block[-1]
    lies = Spread(((how.unit.level, ONE),), ZERO)
    own = set(block)
    made = {t.name for n in cold.nodes if n.name in own for t in n.outputs}
    nodes: list[Node] = []
    sources: dict[str, Tensor] = {}
    for node in cold.nodes:
        if node.name not in own:
            continue
        inputs, op = list(node.inputs), node.op
        if node.name == end and isinstance(op, Linear) and op.bias:
            op, inputs = replace(op, bias=False), inputs[:-1]  # it is added once
        names = []
        for name in inputs:
            tensor = cold.tensors[name]
            if name in made:
                names.append(f"{name}.{COLD}")
            elif tensor.role is Role.WEIGHT and name not in cold.producer:
                twin = replace(tensor.renamed(f"{name}.{COLD}"), spread=lies)
                # What does not go by neurons (a learned number) is there twice.
                sources[twin.name] = twin
                names.append(twin.name)
            else:
                names.append(name)
        outputs = tuple(t.renamed(f"{t.name}.{COLD}") for t in node.outputs)
        origin = Origin((node.name,), how.made_by)
        nodes.append(Node(f"{node.name}.{COLD}", op, tuple(names), outputs, origin))
    return nodes, list(sources.values())


def _predicted(body: Graph, how: Running, width: Expr, heads: Expr) -> Graph:
    """A layer with the predictors of the next one: two products each, of low rank."""
    x = body.inputs[0]
    nodes: list[Node] = []
    sources: list[Tensor] = []
    origin = Origin((), how.made_by)
    for what, size in (("neurons", width), ("heads", heads)):
        if what not in how.predictors:
            continue
        weights = [
            Tensor(f"{what}_down.weight", (how.rank, x.shape[-1]), x.dtype, Role.WEIGHT),
            Tensor(f"{what}_up.weight", (size, how.rank), x.dtype, Role.WEIGHT),
        ]
        sources += weights
        if not how.predicts:
            continue  # in memory, and idle
        at = x
        for name, op, more in (
            (f"{what}_down", Linear(), weights[:1]),
            (f"{what}_act", Activation("relu"), []),
            (f"{what}_up", Linear(), weights[1:]),
        ):
            operands = (at, *more)
            (spec,) = op.infer(operands)
            nodes.append(
                Node(name, op, tuple(t.name for t in operands), (spec.named(name),), origin)
            )
            at = nodes[-1].outputs[0]
    whole = replace(body, sources=(*body.sources, *sources), nodes=(*nodes, *body.nodes))
    if not nodes or not how.ahead:
        return whole
    groups = {"layer": [n.name for n in body.nodes], PREDICTORS: [n.name for n in nodes]}
    return side_by_side(whole, groups, "ahead", made_by=how.made_by)
