"""Scenes as DOT source.

Roles differ in shape and line style, not by colour alone; bounds are written in
the labels. Labels are plain (no HTML-like labels), so that text from outside is
only ever text, and small builds of Graphviz draw them too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import graphviz

from costgraph.showing.draw.scene import MARKS, ROLES, Link, Scene, Vertex
from costgraph.units import format_quantity

FONT = "Helvetica"
#: Fill by bound (Okabe–Ito hues, made light so that text stays readable).
BOUND_FILL = {
    "compute": "#F6C9A3",
    "memory": "#BFDDF2",
    "link": "#F6E58F",
    "overhead": "#E3CBDD",
    "none": "#F2F2F2",
    "": "#F7F7F7",
}
BOUND_EDGE = {
    "compute": "#B34700",
    "memory": "#00599C",
    "link": "#7A5F00",
    "overhead": "#8F4A77",
    "none": "#8A8A8A",
    "": "#555555",
}
SOURCE_SHAPE = {"activation": "ellipse", "weight": "note", "kv": "cylinder", "state": "hexagon"}
SOURCE_FILL = {
    "activation": "#FFFFFF",
    "weight": "#EFEFEF",
    "kv": "#DDF1E9",
    "state": "#FBF6CF",
}
LINE = {
    "activation": {"style": "solid", "arrowhead": "normal", "color": "#333333"},
    "weight": {"style": "dashed", "arrowhead": "open", "color": "#777777"},
    "kv": {"style": "bold", "arrowhead": "diamond", "color": "#00795C"},
    "state": {"style": "dotted", "arrowhead": "box", "color": "#7A6A00", "penwidth": "1.6"},
}
MARK_STYLE: dict[str, dict[str, str]] = {
    "kept": {"color": "#8A8A8A", "fillcolor": "#F7F7F7"},
    "changed": {"color": "#00599C", "fillcolor": "#DCEBF7", "penwidth": "2"},
    "created": {"color": "#00795C", "fillcolor": "#DDF1E9", "penwidth": "2.4"},
    "erased": {
        "color": "#B3261E",
        "fillcolor": "#FFFFFF",
        "style": "rounded,filled,dashed",
        "fontcolor": "#8C1D18",
        "penwidth": "1.6",
    },
}
MARK_SIGN = {"kept": "", "changed": "~ ", "created": "+ ", "erased": "✕ "}
#: On which side of a pass what is marked so stands.
MARK_SIDE = {
    "kept": "alike before and after",
    "changed": "other before than after",
    "created": "only after",
    "erased": "only before",
}
ROLE_NAME = {"activation": "activation", "weight": "weight", "kv": "KV cache", "state": "state"}
_WRAP, _LONG = 26, 34
#: Above so many vertices Graphviz is bounded in how long it looks for better places.
_MANY = 100
_LARGE = {"nslimit": "1", "nslimit1": "1", "mclimit": "0.5"}


def text(value: str) -> str:
    """A text as a DOT label that shows exactly it."""
    return value.replace("\\", "\\\\").replace("&", "&amp;")


def wrapped(value: str, width: int = _WRAP) -> list[str]:
    """``value`` in lines of about ``width`` characters, broken behind ``+ / ,`` or a space.

    Words longer than a line are cut behind ``_`` or ``.``, or anywhere at last.
    """
    lines = [""]
    for word in re.findall(r"[^+/, ]*[+/, ]|[^+/, ]+", value):
        if len(lines[-1]) + len(word.rstrip()) > width and lines[-1]:
            lines.append("")
        while len(word) > width + 8:
            cut = max(word.rfind("_", 1, width), word.rfind(".", 1, width)) + 1 or width
            lines[-1] += word[:cut]
            lines.append("")
            word = word[cut:]
        lines[-1] += word
    return [line for line in lines if line] or [""]


def label(lines: Iterable[str]) -> str:
    """Lines as one DOT label."""
    return str(graphviz.nohtml("\\n".join(text(line) for line in lines)))


def dot_source(scene: Scene) -> str:
    """The scene as DOT source; equal scenes give equal text."""
    graph = graphviz.Digraph("costgraph")
    head = "\\l".join(text(t) for t in (scene.title, *wrapped(scene.subtitle, 90)) if t) + "\\l"
    graph.attr(
        label=graphviz.nohtml(head),
        labelloc="t",
        labeljust="l",
        fontname=FONT,
        fontsize="15",
        rankdir="TB",
        nodesep="0.28",
        ranksep="0.38",
        newrank="true",
        compound="true",
        bgcolor="white",
        pad="0.25",
        tooltip=" ",
        **(_LARGE if len(scene.vertices) > _MANY else {}),
    )
    graph.attr("node", fontname=FONT, fontsize="10.5", margin="0.12,0.06", tooltip=" ")
    graph.attr("edge", fontname=FONT, fontsize="8.5", arrowsize="0.7", tooltip=" ")
    names = {v.id: f"n{i}" for i, v in enumerate(scene.vertices)}
    # What is declared first stands at the left, under the title, however wide the graph is.
    _legend(graph, scene)
    with _noted(graph, scene) as within:
        _cluster(within, scene, "", names)
    loud = {v.id for v in scene.vertices if not v.is_source}
    for link in scene.links:
        graph.edge(names[link.start], names[link.end], **_link(link, link.start in loud))
    if scene.marks and len(scene.vertices) > _MANY:
        _below(graph, scene, names)
    return str(graph.source)


def _below(graph: Any, scene: Scene, names: dict[str, str]) -> None:
    """Frames that nothing connects one below the other: side by side they are wider than a page."""
    place = {v.id: ["", *(c.id for c in scene.around(v.cluster))][-1] for v in scene.vertices}
    if any(place[x.start] != place[x.end] for x in scene.links):
        return
    flow = [x for x in scene.links if not x.carried]
    fed, read = {x.end for x in flow}, {x.start for x in flow}
    frames = [c.id for c in scene.clusters if not c.parent]
    for index, (upper, lower) in enumerate(itertools.pairwise(frames)):
        knot = f"below_{index}"
        graph.node(knot, shape="point", style="invis", width="0")
        for v in scene.vertices:
            if place[v.id] == upper and v.id not in read:
                graph.edge(names[v.id], knot, style="invis")
            elif place[v.id] == lower and v.id not in fed:
                graph.edge(knot, names[v.id], style="invis")


def _cluster(graph: Any, scene: Scene, cluster: str, names: dict[str, str]) -> None:
    """Vertices and clusters directly inside ``cluster``."""
    for v in scene.vertices:
        if v.cluster == cluster:
            graph.node(names[v.id], **_vertex(v))
    for index, inner in enumerate(scene.clusters):
        if inner.parent != cluster:
            continue
        with graph.subgraph(name=f"cluster_{index}") as frame:
            style = {"color": "#666666", "style": "rounded", "bgcolor": "#FCFCFC"}
            if inner.is_place:
                style = {"color": "#4A6FA5", "style": "rounded,dashed", "bgcolor": "#F4F7FB"}
            if inner.mark == "created":
                style = {
                    "color": MARK_STYLE["created"]["color"],
                    "style": "rounded,bold",
                    "bgcolor": "#F2FAF7",
                }
            sign = MARK_SIGN.get(inner.mark, "")
            frame.attr(
                label=label(wrapped(sign + inner.title, 44)),
                labeljust="l",
                fontsize="12",
                fontname=f"{FONT}-Bold",
                margin="12",
                **style,
            )
            _cluster(frame, scene, inner.id, names)


def _vertex(v: Vertex) -> dict[str, str]:
    sign = MARK_SIGN.get(v.mark, "")
    lines = wrapped(sign + v.name)
    lines += [part for line in v.lines if line != v.name for part in wrapped(line, _LONG)]
    found: dict[str, str]
    if v.is_source:
        found = {
            "shape": SOURCE_SHAPE.get(v.role, "ellipse"),
            "style": "filled",
            "fillcolor": SOURCE_FILL.get(v.role, "#FFFFFF"),
            "color": LINE.get(v.role, LINE["activation"])["color"],
            "fontsize": "9",
        }
    elif v.kind == "result":
        found = {"shape": "ellipse", "style": "filled", "fillcolor": "#FFFFFF", "peripheries": "2"}
        found["fontsize"] = "9"
    else:
        found = {
            "shape": "box3d" if v.kind == "part" else "box",
            "style": "filled" if v.kind == "part" or v.link else "rounded,filled",
            "fillcolor": BOUND_FILL.get(v.bound, BOUND_FILL[""]),
            "color": BOUND_EDGE.get(v.bound, BOUND_EDGE[""]),
        }
        if v.link:
            # Data leaves the device: two lines around it, whatever bounds it.
            found["peripheries"] = "2"
            if not v.bound:
                found["fillcolor"] = BOUND_FILL["link"]
        if v.seconds is not None:
            share = v.share or 0.0
            parts = [format_quantity(v.seconds, "s") if v.seconds else "no time"]
            if v.seconds and v.share is not None:
                parts.insert(0, f"{100 * share:.1f} %")
            if v.bound not in ("", "none"):
                parts.append(v.bound)
            lines.append(" · ".join(parts))
            # Area grows with the share: a tenth of the time is easily seen.
            grow = min(share, 1.0) ** 0.5
            found["height"] = f"{0.5 + 1.3 * grow:.2f}"
            found["fontsize"] = f"{10 + 5 * grow:.1f}"
            found["penwidth"] = f"{1 + 3 * grow:.1f}"
    if v.mark:
        found |= MARK_STYLE[v.mark]
    found["label"] = label(lines)
    return found


def _link(link: Link, show_shape: bool) -> dict[str, str]:
    found = dict(LINE.get(link.role, LINE["activation"]))
    lines = []
    if link.text:
        lines.append(link.text)
    elif show_shape and not link.carried:
        shown = list(dict.fromkeys(str(t) for t in link.tensors))
        lines += shown[:3] + ([f"and {len(shown) - 3} more"] if len(shown) > 3 else [])
    if link.carried:
        lines = [link.text or "next round"]
        found |= {"style": "dashed", "arrowhead": "vee", "constraint": "false", "color": "#7B3294"}
        found["fontcolor"] = "#7B3294"
    if link.mark == "erased":
        found |= {"color": MARK_STYLE["erased"]["color"], "style": "dashed"}
    if link.mark == "created":
        found |= {"color": MARK_STYLE["created"]["color"], "style": "bold"}
    if lines:
        found["label"] = label([f" {line} " for line in lines])
    return found


def _legend(graph: Any, scene: Scene) -> None:
    """What the symbols stand for, and a small sample graph: what occurs of roles, bounds, marks."""
    roles = {t.role for link in scene.links for t in link.tensors}
    roles |= {v.role for v in scene.vertices if v.is_source}
    bounds = [
        b
        for b in ("compute", "memory", "link", "overhead")
        if any(v.bound == b for v in scene.vertices)
    ]
    marks = [m for m in MARKS if scene.marks and _marked(scene, m)]
    symbols = [part for line in scene.explained() for part in wrapped(line, 52)]
    if not (roles or bounds or marks or symbols):
        return
    with graph.subgraph(name="cluster_legend") as frame:
        told = "\\l".join(text(line) for line in ("legend", *symbols)) + "\\l"
        frame.attr(
            label=graphviz.nohtml(told), labeljust="l", fontsize="10", fontname=FONT,
            color="#BBBBBB", style="rounded", bgcolor="white", margin="8",
        )  # fmt: skip
        frame.attr("node", fontsize="9")
        frame.attr("edge", fontsize="8.5")
        if not (roles or bounds or marks):  # a frame around nothing is not drawn
            frame.node("legend_none", label="", shape="point", style="invis", width="0")
        target = "legend_op"
        if roles:
            frame.node(
                target, label="operation", shape="box", style="rounded,filled",
                fillcolor=BOUND_FILL[""], color=BOUND_EDGE[""],
            )  # fmt: skip
        for role in (r for r in ROLES if r in roles):
            frame.node(
                f"legend_{role}", label=ROLE_NAME[role], shape=SOURCE_SHAPE[role],
                style="filled", fillcolor=SOURCE_FILL[role], color=LINE[role]["color"],
            )  # fmt: skip
            frame.edge(f"legend_{role}", target, **LINE[role])
        if any(v.link for v in scene.vertices):
            frame.node(
                "legend_exchange", label="sends over a link", shape="box", style="filled",
                peripheries="2", fillcolor=BOUND_FILL[""], color=BOUND_EDGE[""],
            )  # fmt: skip
        for bound in bounds:
            frame.node(
                f"legend_bound_{bound}", label=f"{bound}-bound", shape="box",
                style="rounded,filled", fillcolor=BOUND_FILL[bound], color=BOUND_EDGE[bound],
            )  # fmt: skip
        for mark in marks:
            frame.node(
                f"legend_mark_{mark}", label=label([f"{MARK_SIGN[mark]}{mark}", MARK_SIDE[mark]]),
                shape="box",
                **{"style": "rounded,filled", **MARK_STYLE[mark]},
            )  # fmt: skip


def _marked(scene: Scene, mark: str) -> bool:
    marked = any(v.mark == mark for v in scene.vertices)
    return marked or any(c.mark == mark for c in scene.clusters)


def _noted(graph: Any, scene: Scene) -> Any:
    """Where the scene is drawn: below its notes, if it has any.

    They are the title of a frame without a line. A vertex of so many lines would stretch its rank.
    """
    if not scene.notes:
        return nullcontext(graph)
    lines = [part for note in scene.notes for part in wrapped(note, 92)]
    body = "\\l".join(text(line) for line in lines) + "\\l"
    told = {"label": graphviz.nohtml(body), "labeljust": "l", "fontname": FONT, "fontsize": "11"}
    return graph.subgraph(name="cluster_noted", graph_attr={**told, "color": "white"})
