"""Other widths for a graph, found from what its operations do with a tensor.

Each activation has a fate: it ends in the residual stream (``hidden``), as heads of
queries or of keys and values in attention, or in a second matrix behind an activation
(``inner``, the width of a feed-forward block). The product that makes it gets as many
rows as are kept of that; what follows takes them, and its weights and caches fit. An
operation with a shape of its own that does not know the change blocks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sympy import Add as Sum
from sympy import Expr, Mul

from costgraph.errors import CostgraphError, VerifyError
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, same
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import Alibi, AttentionScores, AttentionValues, KVAppend, Softmax
from costgraph.ops.elementwise import (
    Activation,
    Binary,
    LayerNorm,
    Multiply,
    RMSNorm,
    Rope,
    Scale,
    SoftCap,
)
from costgraph.ops.experts import Combine, ExpertLinear, Route, RowScale
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import HeadLinear, SplitFlash, SplitScores
from costgraph.ops.linear import Linear
from costgraph.ops.quant import NarrowResult, QuantizeTo, plain
from costgraph.ops.rotary import RotaryPair
from costgraph.ops.tokens import Embedding, Sample, SelectLast, Split

HIDDEN, QUERY, KV, INNER = "hidden", "query", "kv", "inner"
#: Operations whose first operand has the trailing shape of the result.
ALONG: tuple[type[Op], ...] = (
    Activation, Scale, SoftCap, RMSNorm, LayerNorm, Rope, RotaryPair, RowScale, Combine, SelectLast,
    QuantizeTo,
)  # fmt: skip
NORMS: tuple[type[Op], ...] = (RMSNorm, LayerNorm)
#: Operations that take other widths as they come.
FLEXIBLE: tuple[type[Op], ...] = (
    *ALONG, Binary, AttentionScores, AttentionValues, FlashAttention, Softmax, Alibi, KVAppend,
    Sample, Route, HeadLinear,
)  # fmt: skip
#: What operands of attention are, by operation.
ATTENTION: tuple[tuple[type[Op], tuple[str, ...]], ...] = (
    (SplitScores, (QUERY, QUERY, KV, KV)),
    (FlashAttention, (QUERY, KV, KV)),
    (AttentionScores, (QUERY, KV)),
    (AttentionValues, ("", KV)),
)


class BlockedError(CostgraphError):
    """An operation does not take another width: why."""


@dataclass(frozen=True)
class Sizes:
    """New sizes by old ones; what is not named stays.

    Attributes:
        hidden: width of the residual stream.
        heads: query heads; ``kv_heads``: heads of keys and values.
        inner: widths of feed-forward blocks and experts.
    """

    hidden: Mapping[Expr, Expr] = field(default_factory=dict)
    heads: Mapping[Expr, Expr] = field(default_factory=dict)
    kv_heads: Mapping[Expr, Expr] = field(default_factory=dict)
    inner: Mapping[Expr, Expr] = field(default_factory=dict)

    def trailing(self, fate: object, shape: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """A trailing shape with the sizes that its fate gives it."""
        if fate == HIDDEN and len(shape) == 1:
            return (self.hidden.get(shape[0], shape[0]),)
        if fate == INNER and len(shape) == 1:
            return (self.inner.get(shape[0], shape[0]),)
        if fate in (QUERY, KV) and len(shape) == 2:
            heads = self.heads if fate == QUERY else self.kv_heads
            return (heads.get(shape[0], shape[0]), shape[1])
        if isinstance(fate, Parts) and len(shape) == 1:
            made = (Mul(*self.trailing(f, s)) for f, s in zip(fate.fates, fate.shapes, strict=True))
            return (Sum(*made),)
        return shape


@dataclass(frozen=True)
class Parts:
    """The fate of a tensor that is split: those of its parts, and their trailing shapes."""

    fates: tuple[object, ...]
    shapes: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True)
class Found:
    """Sizes that a graph has: pairs of query and key/value heads, and inner widths."""

    heads: tuple[tuple[Expr, Expr], ...]
    inner: tuple[Expr, ...]


def found(graph: Graph) -> Found:
    """The heads and widths of a layer that can be changed."""
    fates = _fates(graph)
    heads, inner = [], []
    for node in map(_plain, graph.nodes):
        operands = graph.operands(node)
        if isinstance(node.op, (AttentionScores, FlashAttention)) and _attention(node.op):
            keys = _attention(node.op).index(KV)
            heads.append((operands[0].shape[2], operands[keys].shape[2]))
        for tensor in node.outputs if isinstance(node.op, (Linear, Split)) else ():
            if fates.get(tensor.name) == INNER:
                inner.append(tensor.shape[-1])
    return Found(tuple(dict.fromkeys(heads)), tuple(dict.fromkeys(inner)))


def inner_products(graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The products that make what is inside feed-forward blocks, and those that take it.

    Experts' products are among them.
    """
    fates = _fates(graph)
    products = [n for n in map(_plain, graph.nodes) if isinstance(n.op, Linear)]
    makes = (n.name for n in products if _holds_inner(fates.get(n.outputs[0].name)))
    takes = (n.name for n in products if fates.get(n.inputs[0]) == INNER)
    return tuple(makes), tuple(takes)


def _holds_inner(fate: object) -> bool:
    """True where something ends inside a feed-forward block, as a whole or in parts."""
    return fate == INNER or (isinstance(fate, Parts) and INNER in fate.fates)


def residual(graph: Graph) -> tuple[Expr, ...]:
    """Widths of what layers hand on to one another, each once."""
    widths = (
        graph.tensors[name].shape[-1]
        for g in graph.walk()
        for node in g.nodes
        if isinstance(node.op, Repeat)
        for name in node.inputs[: node.op.carried]
        if name in graph.tensors
    )
    return tuple(dict.fromkeys(widths))


def resized(graph: Graph, sizes: Sizes, layer: bool = True) -> Graph:
    """The graph with other sizes; ``layer``: its first input is the residual stream.

    Raises:
        BlockedError: an operation does not take them.
    """
    fates = _fates(graph, layer)
    tensors: dict[str, Tensor] = {}
    for t in graph.inputs:
        stream = fates.get(t.name) == HIDDEN
        shape = (*t.shape[:-1], *sizes.trailing(HIDDEN, t.shape[-1:])) if stream else t.shape
        tensors[t.name] = replace(t, shape=shape)
    held: dict[str, Tensor] = {}

    def fit(tensor: Tensor, shape: tuple[Expr, ...]) -> None:
        """Gives a weight or a cache the shape that an operation needs."""
        made = replace(tensor, shape=shape)
        if held.setdefault(tensor.name, made) != made:
            raise BlockedError(f"{tensor.name} is used in two sizes")
        tensors[tensor.name] = made

    nodes: list[Node] = []
    for node in graph.nodes:
        op = _fitted(node, graph, sizes, fates, tensors, fit)
        operands = tuple(tensors.get(i) or graph.tensors[i] for i in node.inputs)
        before = graph.operands(node)
        changed = any(a.shape != b.shape for a, b in zip(operands, before, strict=True))
        known = isinstance(plain(op), (Linear, Split, Embedding, Region, *FLEXIBLE))
        if changed and not known:
            raise BlockedError(f"{op.kind} {node.name!r} does not take another width")
        _check_caches(node, graph, sizes)
        if isinstance(op, Region):
            _check_given(node.name, op, operands)
        try:
            specs = op.infer(operands)
        except VerifyError as error:
            raise BlockedError(f"{node.name!r} does not fit: {error}") from None
        outputs = tuple(s.named(t.name) for s, t in zip(specs, node.outputs, strict=True))
        tensors.update((t.name, t) for t in outputs)
        nodes.append(replace(node, op=op, outputs=outputs))
    sources = tuple(tensors.get(t.name, t) for t in graph.sources)
    return replace(graph, sources=sources, nodes=tuple(nodes))


def _check_caches(node: Node, graph: Graph, sizes: Sizes) -> None:
    """Refuses other heads where keys come from a cache that another graph writes."""
    for name, kind in zip(node.inputs, _attention(plain(node.op)), strict=False):
        changed = sizes.heads or sizes.kv_heads
        if kind == KV and changed and name not in graph.producer:
            raise BlockedError(f"{node.name!r} reads what another graph makes")


def _check_given(name: str, op: Region, operands: tuple[Tensor, ...]) -> None:
    """Refuses a region whose graphs were not made for what they are given."""
    for inner, given in zip(op.graphs, op.given(operands), strict=True):
        for tensor, operand in zip(inner.inputs, given, strict=True):
            if tensor.shape != operand.shape:
                raise BlockedError(f"{name!r} is given {operand} for {tensor}")


def _fitted(
    node: Node,
    graph: Graph,
    sizes: Sizes,
    fates: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    fit: Callable[[Tensor, tuple[Expr, ...]], None],
) -> Op:
    """The operation for its new operands; its weights and caches are made to fit."""
    op: Op = node.op
    if isinstance(op, NarrowResult):
        inner = _fitted(_plain(node), graph, sizes, fates, tensors, fit)
        return replace(op, inner=inner)
    before = graph.operands(node)
    now = [tensors.get(t.name) or t for t in before]
    if isinstance(op, Region):
        return op.with_graphs([resized(g, sizes) for g in op.graphs]) if sizes.hidden else op
    if isinstance(op, Linear):
        split = op.split or (before[1].shape[-2],)
        tail = sizes.trailing(fates.get(node.outputs[0].name), split)
        oc, ic = Mul(*tail), Mul(*now[0].shape[-op.contract :])
        fit(before[1], (*before[1].shape[:-2], oc, ic))
        if op.bias:
            rows = before[1].shape[0] if isinstance(op, ExpertLinear) else 1
            fit(before[-1], (rows * oc,))
        return replace(op, split=tail) if op.split else op
    if isinstance(op, Embedding) and before[1].role is Role.WEIGHT:
        width = before[1].shape[1:]
        tail = sizes.trailing(fates.get(node.outputs[0].name), width)
        fit(before[1], (before[1].shape[0], *tail))
    elif isinstance(op, Split):
        parts = zip(node.outputs, op.parts, strict=True)
        return replace(op, parts=tuple(sizes.trailing(fates.get(t.name), s) for t, s in parts))
    elif isinstance(op, QuantizeTo):
        return replace(op, format=_over(op.format, before[0].shape, now[0].shape))
    elif isinstance(op, NORMS):
        for weight in before[1:]:
            if weight.role is Role.WEIGHT:
                fit(weight, tuple(now[0].shape[-len(weight.shape) :]))
    elif isinstance(op, HeadLinear):
        fit(before[1], (now[0].shape[2], *before[1].shape[1:]))
    elif isinstance(op, KVAppend):
        fit(before[0], (*before[0].shape[:2], *now[1].shape[2:]))
    elif isinstance(op, Softmax):
        for weight in before[1:]:
            if len(weight.shape) == 1 and same(weight.shape[0], before[0].shape[1]):
                fit(weight, (now[0].shape[1],))
    return op


def _plain(node: Node) -> Node:
    """The node with the operation itself."""
    inner = plain(node.op)
    return node if inner is node.op else replace(node, op=inner)


def _over(format: DType, before: tuple[Expr, ...], now: tuple[Expr, ...]) -> DType:
    """The format of an operand with a scale per row, for rows of another length."""
    for length in (1, 2):  # a row of a product: the last dimension, or heads of a size
        row, new = Mul(*before[-length:]), Mul(*now[-length:])
        if format.group == row and row != new:
            name = format.name.replace(f"-g{row}", f"-g{new}")
            return replace(format, name=name, group=new)
    return format


def _attention(op: Op) -> tuple[str, ...]:
    """What the operands of an operation are in attention."""
    if isinstance(op, SplitFlash):  # made by a pass; its operands are another order's
        return ()
    return next((kinds for cls, kinds in ATTENTION if isinstance(op, cls)), ())


def _of_heads(graph: Graph, node: Node) -> bool:
    """True when a split cuts each head in parts, and leaves how many there are."""
    return len(graph.tensors[node.inputs[0]].shape) == 4


def _fates(graph: Graph, layer: bool = True) -> dict[str, object]:
    """What becomes of each activation; the first fate found from behind counts."""
    stream = _stream(graph, layer)
    fates: dict[str, object] = dict.fromkeys(stream, HIDDEN)

    def give(name: str, fate: object) -> None:
        if fate and name not in fates:
            fates[name] = fate

    for name in graph.outputs if layer else ():
        give(name, HIDDEN)
    for node in map(_plain, reversed(graph.nodes)):
        fate = fates.get(node.outputs[0].name) if node.outputs else None
        op = node.op
        if isinstance(op, (*ALONG, HeadLinear)):
            give(node.inputs[0], fate)
        elif isinstance(op, Binary):
            for name in node.inputs:
                give(name, fate)
        elif isinstance(op, KVAppend):
            give(node.inputs[1], fate)
        elif isinstance(op, Split):
            own = tuple(fates.get(t.name) for t in node.outputs)
            if len(set(own)) == 1 and own[0] in (QUERY, KV) and _of_heads(graph, node):
                give(node.inputs[0], own[0])
            elif any(own):
                give(node.inputs[0], Parts(own, op.parts))
        elif isinstance(op, Linear):
            x = node.inputs[0]
            if op.contract == 2:
                give(x, QUERY)
            elif x not in fates:
                read = _behind(graph, x)
                back = graph.tensors[node.outputs[0].name].shape[-1] in read
                # Else it is a small network of a layer, as for weights of streams.
                give(x, INNER if back or (fate == HIDDEN and read) else None)
        elif isinstance(op, Repeat):
            for name in node.inputs[: op.carried]:
                give(name, HIDDEN)
        else:
            for name, kind in zip(node.inputs, _attention(op), strict=False):
                give(name, kind)
    return fates


def _stream(graph: Graph, layer: bool) -> list[str]:
    """The residual stream, and norms of it."""
    names = dict.fromkeys(t.name for t in graph.inputs[:1]) if layer else {}
    for node in map(_plain, graph.nodes):
        if isinstance(node.op, Repeat):
            names.update(dict.fromkeys(t.name for t in node.outputs[: node.op.carried]))
        elif (isinstance(node.op, ALONG) and node.inputs[0] in names) or (
            isinstance(node.op, Binary)
            and not isinstance(node.op, Multiply)
            and any(i in names for i in node.inputs)
        ):
            names[node.outputs[0].name] = None
    return list(names)


def _behind(graph: Graph, name: str) -> set[Expr]:
    """Of what lies behind an activation function and is made by products alone: what they read.

    Widths of their operands; none for anything else.
    """
    acted, todo, read = False, [name], set[Expr]()
    while todo:
        made = graph.producer.get(todo.pop())
        node = None if made is None else _plain(made)
        if node is None or not isinstance(node.op, (*ALONG, Binary, Linear, Split)):
            return set()
        if isinstance(node.op, Activation):
            acted = acted or node.op.function != "clip"
        if isinstance(node.op, Binary):
            todo.extend(node.inputs)
        elif isinstance(node.op, Linear):
            read.add(graph.tensors[node.inputs[0]].shape[-1])
        else:
            todo.append(node.inputs[0])
    return read if acted else set()
