"""Giving tensors their formats: one rewrite, whoever chooses.

A :class:`Choice` says what each weight and cache is stored as, and what the operands of
products are narrowed to: what a pass was told, or what a checkpoint says of itself. Layers
that differ are cut apart; what feeds a product is narrowed in front of it, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear
from costgraph.ops.quant import (
    COMPUTE_BITS,
    NarrowResult,
    QuantExpertLinear,
    QuantizeTo,
    QuantLinear,
)
from costgraph.ops.tokens import Embedding
from costgraph.rewriting.layers import Range, fresh

ZERO = Integer(0)
#: Layers that a region stands for: the first one and how many.
Layers = tuple[Expr, Expr]


class Choice(Protocol):
    """Who says what is stored how.

    Attributes:
        name: for the origin of what is made.
        dynamic: scales of operands are found at run time, in a kernel of their own.
    """

    @property
    def name(self) -> str: ...

    @property
    def dynamic(self) -> bool: ...

    def cut(self, graph: Graph) -> tuple[Graph, Mapping[str, Range]]:
        """The graph with its regions cut where layers are told apart, and what each stands for."""

    def prepared(self, graph: Graph, layer: Layers | None) -> Graph:
        """A graph with the operations that its formats need besides, before any is given."""

    def stored(self, graph: Graph, tensor: Tensor, layer: Layers | None) -> DType | None:
        """What a weight or cache is stored as; None leaves it alone."""

    def feeds(self, graph: Graph, layer: Layers | None) -> Mapping[str, DType | None]:
        """Products to look at, each with the format that its operand takes (None: its own)."""

    def product(self, node: Node, x: Tensor, w: Tensor, narrowed: bool) -> dict[str, Any]:
        """Fields of the :class:`QuantLinear` that a product becomes; none leave it alone."""


@dataclass
class Hits:
    """Where formats were given, in order."""

    names: list[str] = field(default_factory=list)


def formatted(program: Program, choice: Choice, hits: Hits | None = None) -> Program:
    """The program with its tensors stored as ``choice`` says."""
    log = Hits() if hits is None else hits
    return program.rewritten(lambda g: formatted_graph(g, choice, log))


def formatted_graph(graph: Graph, choice: Choice, hits: Hits | None = None) -> Graph:
    """One step graph, with its tensors stored as ``choice`` says."""
    return _Rewrite(choice, Hits() if hits is None else hits, top=True).graph(graph)


@dataclass(frozen=True)
class _Rewrite:
    """Rewrites one graph; ``layer`` is the range of layers that it stands for."""

    choice: Choice
    log: Hits
    top: bool = False
    layer: Layers | None = None

    def graph(self, graph: Graph) -> Graph:
        ranges: Mapping[str, Range] = {}
        if self.top:
            graph, ranges = self.choice.cut(graph)
        graph = self.choice.prepared(graph, self.layer)
        sources = tuple(self._source(graph, t) for t in graph.sources)
        tensors = {t.name: t for t in sources}
        narrowed = {t.name for t in sources if t != graph.tensors[t.name]}
        feeds = self.choice.feeds(graph, self.layer)
        folded = {} if self.choice.dynamic else _foldable(graph, feeds)
        narrow: dict[str, str] = {name: name for name in folded}
        nodes: list[Node] = []
        names = {n.name for n in graph.nodes} | set(graph.tensors)

        def add(node: Node) -> None:
            operands = tuple(tensors[i] for i in node.inputs)
            specs = node.op.infer(operands)
            outputs = tuple(s.named(t.name) for s, t in zip(specs, node.outputs, strict=True))
            tensors.update((t.name, t) for t in outputs)
            nodes.append(replace(node, outputs=outputs))

        for node in graph.nodes:
            body = getattr(node.op, "body", None)
            part = ranges.get(node.name)
            if part is not None and part.wide:
                add(node)
                continue
            if isinstance(body, Graph):
                layer = self.layer if part is None else part.layers
                operands = tuple(tensors[i] for i in node.inputs)
                (given,) = node.op.given(operands) if isinstance(node.op, Repeat) else ((),)
                inner = replace(self, top=False, layer=layer).graph(_taking(body, tuple(given)))
                add(replace(node, op=replace(node.op, body=inner)))  # type: ignore[type-var]
                continue
            if isinstance(node.op, Embedding) and node.inputs[1] in narrowed:
                # Rows are converted as they are gathered; they never pass on narrow.
                result = node.op.result or node.outputs[0].dtype
                node = replace(node, op=replace(node.op, result=result))
            if node.name not in feeds:
                if node.outputs and node.outputs[0].name in folded:
                    stored = NarrowResult(node.op, folded[node.outputs[0].name])
                    node = replace(node, op=stored, origin=self._origin(node))
                add(node)
                continue
            x = node.inputs[0]
            format = feeds[node.name]
            key = x if x in folded else f"{x}:{format}"
            if format is not None and key not in narrow:
                name = fresh(f"{x}_quant", names)
                made = replace(graph.tensors[x], name=name)
                origin = Origin(made_by=self.choice.name)  # added: it replaces nothing
                add(Node(name, QuantizeTo(format), (x,), (made,), origin))
                narrow[key] = name
            inputs = (narrow[key] if format is not None else x, *node.inputs[1:])
            op = self._linear(node, tensors[inputs[0]], tensors[inputs[1]], graph.tensors[x].dtype)
            if op == node.op and inputs == node.inputs:
                add(node)
            else:
                self.log.names.append(node.name)
                add(replace(node, op=op, inputs=inputs, origin=self._origin(node)))
        return replace(graph, sources=sources, nodes=tuple(nodes))

    def _origin(self, node: Node) -> Origin:
        return Origin((node.name,), self.choice.name)

    def _source(self, graph: Graph, tensor: Tensor) -> Tensor:
        made = self.choice.stored(graph, tensor, self.layer)
        if made is None:
            return tensor
        self.log.names.append(tensor.name)
        return replace(tensor, dtype=made)

    def _linear(self, node: Node, x: Tensor, w: Tensor, wide: DType) -> Linear:
        op = node.op
        assert isinstance(op, Linear)
        narrowed = x.dtype != wide
        changes = self.choice.product(node, x, w, narrowed)
        if narrowed:
            changes["result"] = getattr(op, "result", None) or wide
        if not changes:
            return op
        if isinstance(op, QuantLinear):
            return replace(op, **changes)
        if isinstance(op, ExpertLinear):
            return QuantExpertLinear(op.bias, op.contract, op.split, op.routing, **changes)
        return QuantLinear(op.bias, op.contract, op.split, **changes)


def _taking(body: Graph, given: tuple[Tensor, ...]) -> Graph:
    """The body of a region that is given other layers' caches, in the formats that these have."""
    formats = {
        wanted.name: made.dtype
        for made, wanted in zip(given, body.inputs, strict=False)
        if made.role is Role.KV
    }
    sources = (replace(t, dtype=formats[t.name]) if t.name in formats else t for t in body.sources)
    return replace(body, sources=tuple(sources)) if formats else body


def _foldable(graph: Graph, feeds: Mapping[str, DType | None]) -> dict[str, DType]:
    """Tensors that their producer can store narrow: all users take them so."""
    found: dict[str, DType] = {}
    for node in graph.nodes:
        if node.op.is_view or len(node.outputs) != 1 or hasattr(node.op, "body"):
            continue
        name = node.outputs[0].name
        users = graph.consumers[name]
        formats = {feeds.get(u.name) for u in users}
        format = formats.pop() if len(formats) == 1 else None
        if format is None or name in graph.outputs or isinstance(node.op, Linear):
            continue
        if all(u.inputs[0] == name and name not in u.inputs[1:] for u in users):
            found[name] = _without_scales(format)
    return found


def users(graph: Graph, name: str) -> tuple[str, ...]:
    """Names of the nodes that use a tensor; of a fused group, those inside that do."""
    found: list[str] = []
    for node in graph.consumers[name]:
        body = getattr(node.op, "body", None)
        if isinstance(body, Graph) and name in body.consumers:
            found.extend(users(body, name))
        else:
            found.append(node.name)
    return tuple(found)


def is_converted(graph: Graph, name: str) -> bool:
    """True if every user of a weight converts it as it loads it; views pass it on."""
    users = graph.consumers[name]
    for user in users:
        body = getattr(user.op, "body", None)
        if isinstance(body, Graph) and name in body.consumers:
            if not is_converted(body, name):
                return False
        elif user.op.is_view:
            if not all(is_converted(graph, t.name) for t in user.outputs):
                return False
        elif any(n == name and i not in user.op.converted for i, n in enumerate(user.inputs)):
            return False
    return bool(users)


def is_wide(dtype: DType) -> bool:
    """True for 16-bit formats and wider ones, which have no scales."""
    return dtype.compute in ("fp16", "bf16", "tf32", "fp32") and not dtype.grouped


def _without_scales(format: DType) -> DType:
    """The format with scales known beforehand, unless they are part of it."""
    if format.is_float and format.scale_bits == 8:
        return format
    return replace(format, name=format.name.split("-")[0], group=None, scale_bits=ZERO)


def lacking(graph: Graph, machine: Machine) -> tuple[tuple[str, str], ...]:
    """Types of products in a graph that the machine lacks, with what it runs them in.

    Products of which a pass has decided what they run in are left out: they count the
    conversion of their operands.
    """
    found: dict[tuple[str, str], None] = {}
    for node in graph.nodes:
        if isinstance(node.op, Linear) and not getattr(node.op, "compute", ""):
            x, w = graph.operands(node)[:2]
            stated = compute_type(x.dtype, w.dtype)
            runs = executing(machine, stated)
            if runs != stated:
                found[stated, runs] = None
    return tuple(found)


def executing(machine: Machine, stated: str) -> str:
    """The type in which the machine runs work stated in a type it may lack."""
    try:
        resolved = machine.resolve(Engine.TENSOR, stated)[1]
    except HardwareError:
        return stated
    return stated if COMPUTE_BITS[resolved] == COMPUTE_BITS[stated] else resolved
