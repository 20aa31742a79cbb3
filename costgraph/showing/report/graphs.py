"""Graphs of a report: pictures, and for each operation what its panel shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sympy import Expr

from costgraph.counting.count import Row
from costgraph.ir.graph import Graph
from costgraph.showing.draw import Drawing
from costgraph.showing.draw.build import carrier, graph_scene, meanings
from costgraph.showing.draw.fold import LIMIT, within
from costgraph.showing.draw.scene import Scene, Vertex, clean
from costgraph.showing.export.layout import of_expr
from costgraph.showing.export.readable import math
from costgraph.showing.report.pictures import inline_svg

#: Operands beyond these are not listed in a panel.
_OPERANDS = 12


class Graphs:
    """The distinct graphs of a page; phases and pipelines share them.

    Args:
        text: keeps a piece of HTML and returns its index.
        drawn: with pictures; without, a page asks for them later.
    """

    def __init__(self, text: Callable[[str], int], drawn: bool = True) -> None:
        self._text = text
        self._drawn = drawn
        self._index: dict[int, int] = {}
        self._kept: list[Graph] = []
        self._pictures: dict[str, int] = {}
        self.made: list[dict[str, Any]] = []
        self.nodes_made: list[Any] = []
        self._nodes: dict[tuple[Any, ...], int] = {}

    def index(self, graph: Graph, operations: int) -> int:
        """The index of a graph's picture, in which so many ``operations`` are to be found."""
        if id(graph) not in self._index:
            self._kept.append(graph)  # an id is only unique while its object lives
            whole = _scene(graph)
            # Title and notes stand on the page.
            small = within(replace(whole, title="", subtitle=""), "op", LIMIT)
            drawing = Drawing(replace(small, notes=()), whole)
            number = len(self.made)
            svg = inline_svg(drawing, number) if self._drawn else None
            known = self._pictures.get(drawing.dot)
            if known is not None:
                self._index[id(graph)] = known
                return known
            self._pictures[drawing.dot] = number
            self.made.append(
                {
                    "name": clean(graph.name),
                    "svg": None if svg is None else self._text(svg),
                    "rows": _rows(whole, small, operations),
                    "vertices": [_vertex(v) for v in drawing.scene.vertices],
                    "notes": list(small.notes),
                }
            )
            self._index[id(graph)] = number
        return self._index[id(graph)]

    def folded(self, graph: Graph, number: int, operations: int) -> dict[str, Any] | None:
        """The picture of a graph with each region as one vertex, and its vertices.

        None where it would be the same, or nothing here draws.
        """
        whole = _scene(graph)
        small = within(replace(whole, title="", subtitle=""), "layer", LIMIT)
        if len(small.vertices) == len(whole.vertices):
            return None
        svg = inline_svg(Drawing(replace(small, notes=()), whole), number)
        if svg is None:
            return None
        return {
            "svg": svg,
            "rows": _rows(whole, small, operations),
            "vertices": [_vertex(v) for v in small.vertices],
            "notes": list(small.notes),
        }

    def node(self, row: Row) -> int:
        """The index of what an operation's panel shows, but for its costs."""
        node = row.node
        body = getattr(node.op, "body", None)
        inside = tuple(f"{clean(n.name)} ({clean(n.op.kind)})" for n in body.nodes) if body else ()
        value = (
            clean(row.name),
            clean(row.kind),
            tuple(_tensor(t) for t in row.graph.operands(node)[:_OPERANDS]),
            tuple(_tensor(t) for t in node.outputs[:_OPERANDS]),
            clean(node.origin.made_by),
            tuple(clean(o) for o in node.origin.nodes),
            inside,
            clean(row.region),
        )
        if value not in self._nodes:
            self._nodes[value] = len(self.nodes_made)
            self.nodes_made.append(value)
        return self._nodes[value]

    def math(self, expr: Expr) -> int:
        """The index of an expression as MathML."""
        return self._text(_math(expr))


@lru_cache(maxsize=4096)
def _math(expr: Expr) -> str:
    return math(of_expr(expr))


def _tensor(tensor: Any) -> tuple[str, str, str, str]:
    shown = carrier(tensor)
    return shown.name, shown.dtype, shown.shape, shown.role


def _scene(graph: Graph) -> Scene:
    return replace(graph_scene(graph), meanings=meanings((graph,)))


def _rows(whole: Scene, drawn: Scene, operations: int) -> list[int]:
    """For each operation the vertex that stands for it, alone or with others; -1 for none."""
    places = {name: i for i, v in enumerate(drawn.vertices) for name in v.operations}
    names = [v.id for v in whole.vertices if v.kind not in ("source", "result")]
    return [places.get(name, -1) for name in names] if len(names) == operations else []


def _vertex(v: Vertex) -> list[str]:
    return [v.name, v.kind, v.role, "; ".join(v.lines)]
