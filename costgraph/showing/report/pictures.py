"""The picture of a graph made part of a page: cleaned, themed, its nodes operable."""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree

from costgraph.errors import CostgraphError
from costgraph.showing.draw import Drawing
from costgraph.showing.draw.scene import Vertex

_SVG = "{http://www.w3.org/2000/svg}"
_KEPT = frozenset(
    [
        "points",
        "d",
        "x",
        "y",
        "cx",
        "cy",
        "rx",
        "ry",
        "transform",
        "viewBox",
        "text-anchor",
        "font-size",
        "font-weight",
        "fill",
        "stroke",
        "stroke-width",
        "stroke-dasharray",
    ]
)
_CLASSES = ("cluster", "edge", "node")
_SHAPES = frozenset(
    ["g", "path", "polygon", "polyline", "ellipse", "text", "circle", "rect", "line"]
)


def inline_svg(drawing: Drawing, graph: int) -> str | None:
    """The picture as an inline ``<svg>``, or None where nothing here can draw.

    Each vertex becomes a focusable button that knows its index in the scene
    (``data-vertex``). Only shapes and texts are kept, so that nothing else that a
    drawing program writes gets into the page.
    """
    try:
        text = drawing.svg
    except CostgraphError:
        return None
    root = ElementTree.fromstring(text[text.index("<svg") :].encode("utf-8"))
    box = root.get("viewBox", "0 0 100 100").split()
    body = "".join(_element(child, drawing.scene.vertices, graph) for child in root)
    label = escape(f"graph of {drawing.whole.title}")
    width, height = float(box[2]), float(box[3])
    return (
        f'<svg class="graph" role="group" aria-label="{label}" viewBox="{" ".join(box)}" '
        f'data-width="{width:g}" data-height="{height:g}">{body}</svg>'
    )


def _element(item: ElementTree.Element, vertices: tuple[Vertex, ...], graph: int) -> str:
    tag = item.tag.removeprefix(_SVG) if isinstance(item.tag, str) else ""
    inner = "".join(_element(child, vertices, graph) for child in item)
    if tag == "a":  # links of the drawing program around labels
        return inner
    if tag not in _SHAPES:
        return ""
    attributes = {k: _short(v) for k, v in item.attrib.items() if k in _KEPT}
    if tag == "g":
        attributes |= _group(item, vertices, graph)
    written = "".join(f' {k}="{escape(v)}"' for k, v in attributes.items())
    content = escape(item.text or "") if tag == "text" else inner
    return f"<{tag}{written}>{content}</{tag}>"


def _group(item: ElementTree.Element, vertices: tuple[Vertex, ...], graph: int) -> dict[str, str]:
    kind = item.get("class", "")
    title = item.find(f"{_SVG}title")
    name = (title.text or "") if title is not None else ""
    if kind != "node" or not re.fullmatch(r"n\d+", name):
        return {"class": "sample" if kind == "node" else kind} if kind in _CLASSES else {}
    vertex = vertices[int(name[1:])]
    return {
        "class": f"node {'source' if vertex.is_source else 'op'}",
        "id": f"g{graph}-{name}",
        "data-vertex": name[1:],
        "tabindex": "-1",
        "role": "button",
        "aria-label": f"{vertex.name}, {vertex.role or vertex.kind}",
    }


def _short(value: str) -> str:
    """Coordinates to a tenth: a hundredth of a point is not seen."""
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value)
