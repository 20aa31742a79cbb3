"""Graphs with values in the place of symbols: steps at other sizes, in one graph.

A phase binds the symbols of its whole graph. Where graphs of several sizes run in one phase
(a draft of one position beside a target of several), the sizes go into the graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from sympy import Basic, Expr, Symbol

from costgraph.formula.least import bound
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Tensor
from costgraph.ops.fused import Fused

_V = TypeVar("_V")


def at(graph: Graph, values: Mapping[Symbol, Expr]) -> Graph:
    """``graph`` with ``values`` for symbols: shapes, operations, and graphs of regions."""
    return Graph(
        graph.name,
        tuple(_placed(t, values) for t in graph.sources),
        tuple(_node(n, values) for n in graph.nodes),
        graph.outputs,
    )


def _node(node: Node, values: Mapping[Symbol, Expr]) -> Node:
    outputs = tuple(_placed(t, values) for t in node.outputs)
    return replace(node, op=_placed(node.op, values), outputs=outputs)


def _placed(value: _V, values: Mapping[Symbol, Expr]) -> _V:
    """``values`` in an expression, or in everything that a dataclass or tuple is made of."""
    made: Any = value
    if isinstance(value, Expr):
        made = bound(value, values)
    elif isinstance(value, Graph):
        made = at(value, values)
    elif isinstance(value, tuple):
        made = tuple(_placed(v, values) for v in value)
    elif is_dataclass(value) and not isinstance(value, (type, Basic)):
        changed = {}
        for field in fields(value):
            if not field.init:
                continue
            old = getattr(value, field.name)
            new = _placed(old, values)
            if new is not old and new != old:
                changed[field.name] = new
        made = replace(value, **changed) if changed else value
    return made  # type: ignore[no-any-return]


def prefixed(graph: Graph, prefix: str) -> Graph:
    """``graph`` with ``prefix`` before the name of every tensor and node, in regions, too."""

    def tensor(t: Tensor) -> Tensor:
        return t.renamed(prefix + t.name)

    def op(o: Op) -> Op:
        if isinstance(o, Region):
            return o.with_graphs([prefixed(g, prefix) for g in o.graphs])
        if isinstance(o, Fused):
            again = tuple((prefix + name, factor) for name, factor in o.recompute)
            return replace(o, body=prefixed(o.body, prefix), recompute=again)
        return o

    nodes = (
        replace(
            n,
            name=prefix + n.name,
            op=op(n.op),
            inputs=tuple(prefix + i for i in n.inputs),
            outputs=tuple(map(tensor, n.outputs)),
        )
        for n in graph.nodes
    )
    return Graph(
        graph.name,
        tuple(map(tensor, graph.sources)),
        tuple(nodes),
        tuple(prefix + o for o in graph.outputs),
    )
