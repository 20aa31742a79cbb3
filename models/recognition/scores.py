"""Attention written out: product, softmax over keys, product, and what is between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sympy import Expr, Integer, Mul

from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Node
from costgraph.ir.op import Op, same, same_shape
from costgraph.models.recognition.pieces import function, makes, only_inside, sole_user
from costgraph.ops import AttentionScores, AttentionValues, SoftCap, Softmax
from costgraph.ops.arrays import Cast, Join
from costgraph.ops.bias import ScoreBias
from costgraph.ops.maps import Reduce, SoftmaxOver
from costgraph.ops.matmul import MatMul
from costgraph.ops.views import Expand, Reshape, Slice, Transpose
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss
from costgraph.rewriting.rewrite import Replacement

ONE = Integer(1)
#: Heads and positions exchanged.
SWAP = (0, 2, 1, 3)
#: Positions hide no pair.
NOTHING = ScoreBias()


@dataclass
class _Found:
    """What stands between two products.

    Attributes:
        nodes: all of it.
        biases: operands put on the scores.
        mask: what positions hide, if anything.
        cap: scores are capped.
        lead: the most telling shape that the leading axes were given.
        sinks: one more logit per head, without a value.
    """

    nodes: list[Node]
    biases: list[str] = field(default_factory=list)
    mask: ScoreBias = NOTHING
    cap: bool = False
    lead: tuple[Expr, ...] = ()
    sinks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """Product, softmax over keys, product: attention.

    A scale is the product's. What positions hide (:class:`ScoreBias`) becomes the
    operations' own mask; every other tensor that is put on the scores stays an operand.
    Operands are ``(…, H, positions, dh)``; leading axes become one.
    """

    name: str = "attention"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the second product."""
        if not isinstance(node.op, MatMul):
            return None
        found = _Found([node])
        at = _probabilities(graph, node.inputs[0], found.nodes)
        if at is None:
            return None
        first = _down_to_product(graph, at, found)
        if first is None or isinstance(first, str):
            return None if first is None else Miss(self.name, node.name, first)
        if any(isinstance(n.op, Slice) for n in found.nodes) != bool(found.sinks):
            return None  # a part of the probabilities, or all with the sinks' own
        query, extra = _unscaled(graph, first.inputs[0])
        turned, more = _unscaled(graph, first.inputs[1])
        if not only_inside(graph, found.nodes, node):
            return Miss(self.name, node.name, "an intermediate is needed elsewhere")
        nodes = [*extra, *more, *found.nodes]
        kept = tuple(n for n in nodes if n in found.nodes or only_inside(graph, nodes, node))
        return _attention(graph, kept, node, (query, turned, node.inputs[1]), found)


def _down_to_product(graph: Draft, name: str, found: _Found) -> Node | str | None:
    """The first product, its way to the softmax noted; why it is not understood; or None."""
    while True:
        node = graph.producer.get(name)
        if node is None:
            return None
        found.nodes.append(node)
        step = function(node)
        if isinstance(node.op, MatMul):
            if len(node.outputs[0].shape) - 2 > len(found.lead):
                found.lead = node.outputs[0].shape[:-2]
            return node
        if isinstance(node.op, Reshape):
            before, after = graph.operands(node)[0].shape, node.op.shape
            if len(before) < 2 or not same_shape(before[-2:], after[-2:]):
                return None
            if len(after) - 2 > len(found.lead):
                found.lead = after[:-2]
            name = node.inputs[0]
        elif step in ("scale", "cast"):
            name = node.inputs[0]
        elif step == "tanh" and not found.cap:
            found.cap = True
            name = node.inputs[0]
        elif step == "sub" and _largest(graph, node) is not None:
            # The largest logit is taken off, which a softmax does anyway.
            found.nodes.append(graph.producer[node.inputs[1]])
            name = node.inputs[0]
        elif isinstance(node.op, Join) and not found.sinks:
            sinks = _sinks(graph, node)
            if sinks is None:
                return None
            found.sinks.append(sinks)
            name = node.inputs[0]
        elif isinstance(node.op, ScoreBias):
            if found.mask != NOTHING and node.op not in (found.mask, NOTHING):
                return "two masks on its scores"
            found.mask = found.mask if node.op == NOTHING else node.op
            found.biases.extend(node.inputs[1:])
            name = node.inputs[0]
        elif step == "add" and len(node.inputs) == 2:
            sides = [i for i in node.inputs if _leads_to_product(graph, i)]
            if len(sides) != 1 or not _as_wide(graph, sides[0], node):
                return None
            found.biases.extend(i for i in node.inputs if i != sides[0])
            name = sides[0]
        else:
            return None


def _largest(graph: Draft, node: Node) -> Node | None:
    """The maximum over keys that a node subtracts from its first operand, if it does."""
    most = graph.producer.get(node.inputs[1]) if len(node.inputs) == 2 else None
    if most is None or not isinstance(most.op, Reduce) or most.inputs != node.inputs[:1]:
        return None
    last = len(graph.tensors[node.inputs[0]].shape) - 1
    return most if most.op.function == "max" and most.op.axes == (last,) else None


def _sinks(graph: Draft, node: Node) -> str | None:
    """The vector of sinks that stand as one more key beside the scores."""
    if len(node.inputs) != 2 or not isinstance(node.op, Join):
        return None
    scores, one = graph.operands(node)
    if node.op.axis != len(scores.shape) - 1 or one.shape[-1] != 1:
        return None
    name = one.name
    maker = graph.producer.get(name)
    while maker is not None and isinstance(maker.op, (Reshape, Expand)):
        name = maker.inputs[0]
        maker = graph.producer.get(name)
    vector = graph.tensors[name]
    heads = scores.shape[-3] if len(scores.shape) > 2 else ONE
    return name if len(vector.shape) == 1 and same(vector.shape[0], heads) else None


def _leads_to_product(graph: Draft, name: str) -> bool:
    """True if a product of matrices stands a few steps below."""
    for _ in range(8):
        node = graph.producer.get(name)
        if node is None:
            return False
        if isinstance(node.op, MatMul):
            return True
        passed = isinstance(node.op, (Reshape, ScoreBias))
        if not passed and function(node) not in ("scale", "cast", "add", "tanh"):
            return False
        name = node.inputs[0]
    return False


def _as_wide(graph: Draft, name: str, node: Node) -> bool:
    """True if a node makes what has the shape of one of its operands."""
    return same_shape(graph.tensors[name].shape, node.outputs[0].shape)


# --- putting attention in its place


def _attention(
    graph: Draft, chain: tuple[Node, ...], node: Node, given: tuple[str, str, str], found: _Found
) -> Replacement | Miss | None:
    tensors = dict(graph.tensors)
    made: list[Node] = []
    prefix = node.name.rpartition(".")[0]
    prefix = f"{prefix}." if prefix else f"{node.name}."
    if not all(graph.is_free(f"{prefix}{s}") for s in ("qk_matmul", "softmax", "sv_matmul")):
        prefix = f"{node.name}."

    def add(name: str, op: Op, *inputs: str) -> str:
        spec = op.infer(tuple(tensors[i] for i in inputs))[0]
        tensor = spec.named(prefix + name)
        tensors[tensor.name] = tensor
        made.append(Node(prefix + name, op, inputs, (tensor,)))
        return tensor.name

    # Leading axes of one operand alone are none of attention's.
    shapes = [tensors[name].shape for name in given]
    lead = found.lead if same(Mul(*found.lead), Mul(*shapes[0][:-2])) else shapes[0][:-2]
    folded = [_folded(lead, shape) for shape in shapes]
    operands = []
    for label, name, shape in zip("qkv", given, folded, strict=True):
        if shape is None:
            return Miss("attention", node.name, "queries and keys are batched in different ways")
        alike = same_shape(shape, tensors[name].shape)
        operands.append(name if alike else add(f"{label}_heads", Reshape(shape), name))
    query, turned, values = operands
    q = add("q_layout", Transpose(SWAP), query)
    k = add("k_layout", Transpose((0, 3, 1, 2)), turned)
    v = add("v_layout", Transpose(SWAP), values)
    pattern = found.mask.pattern
    scores = add("qk_matmul", AttentionScores(pattern), q, k)
    if found.cap:
        scores = add("score_cap", SoftCap(), scores)
    if found.biases:
        scores = add("mask_add", found.mask, scores, *found.biases)
    chances = add("softmax", Softmax(pattern), scores, *found.sinks)
    mixed = add("sv_matmul", AttentionValues(pattern), chances, v)
    if same_shape(folded[0][:-2] if folded[0] else (), node.outputs[0].shape[:-2]):
        new = Node(node.name, Transpose(SWAP), (mixed,), node.outputs)
    else:
        back = add("out_layout", Transpose(SWAP), mixed)
        new = Node(node.name, Reshape(node.outputs[0].shape), (back,), node.outputs)
    return Replacement(chain, new, tuple(made))


def _folded(lead: Sequence[Expr], shape: Sequence[Expr]) -> tuple[Expr, ...] | None:
    """``(B, H, …)`` of an operand whose leading axes are ``lead``, or those of one head."""
    *outer, heads = lead or (ONE,)
    batch = Mul(*outer)
    mine = Mul(*shape[:-2])
    if same(mine, batch * heads):
        return (batch, heads, *shape[-2:])
    return (batch, ONE, *shape[-2:]) if same(mine, batch) else None


# --- softmax and its surroundings


def _probabilities(graph: Draft, name: str, chain: list[Node]) -> str | None:
    """Below the softmax over the last axis, and whatever guards its rows."""
    for _ in range(6):
        node = graph.producer.get(name)
        if node is None:
            return None
        if isinstance(node.op, SoftmaxOver) and not node.op.log:
            if node.op.axis != len(node.outputs[0].shape) - 1:
                return None
            chain.append(node)
            return node.inputs[0]
        guarded = _guarded(graph, node, chain)
        if guarded is not None:
            name = guarded
            continue
        first = isinstance(node.op, Slice) and node.op.start == 0 and node.op.step == 1
        if isinstance(node.op, (Cast, Expand, Reshape)) or first:
            chain.append(node)
            name = node.inputs[0]
            continue
        return None
    return None


def _guarded(graph: Draft, node: Node, chain: list[Node]) -> str | None:
    """Below a choice of zeros for rows that are masked throughout; its nodes pass into ``chain``.

    Frameworks put it behind a softmax so that such rows do not become NaN: they ask
    whether the scores are all hidden, or whether the result is no number.
    """
    if function(node) != "where":
        return None
    chances = [i for i in node.inputs if makes(graph, i, "softmax-over") is not None]
    if len(chances) != 1:
        return None
    goals = (chances[0], graph.producer[chances[0]].inputs[0])
    found: dict[str, Node] = {node.name: node}
    open_ = [i for i in node.inputs if i != chances[0]]
    while open_:
        at = open_.pop()
        if at in goals:
            continue
        inner = graph.producer.get(at)
        if inner is None or len(found) > 8:
            return None
        any_ = isinstance(inner.op, Reduce) and inner.op.function == "any"
        plain = function(inner) in ("fill", "not", "compare_constant", "isnan")
        if not any_ and not plain and not isinstance(inner.op, (Expand, Reshape)):
            return None
        found[inner.name] = inner
        open_.extend(inner.inputs)
    chain.extend(found.values())
    return chances[0]


def _unscaled(graph: Draft, name: str) -> tuple[str, list[Node]]:
    """Below scales by constants, and the nodes that scale."""
    node = makes(graph, name, "scale")
    if node is None or sole_user(graph, node) is None:
        return name, []
    below, more = _unscaled(graph, node.inputs[0])
    return below, [node, *more]
