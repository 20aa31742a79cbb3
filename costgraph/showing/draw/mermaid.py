"""Scenes as Mermaid flowcharts."""

from __future__ import annotations

import json

from costgraph.showing.draw.dot import BOUND_EDGE, BOUND_FILL, MARK_SIGN, MARK_STYLE, SOURCE_FILL
from costgraph.showing.draw.scene import Link, Scene, Vertex
from costgraph.units import format_quantity

_SHAPE = {
    "activation": ('(["', '"])'),
    "weight": ('[/"', '"/]'),
    "kv": ('[("', '")]'),
    "state": ('{{"', '"}}'),
}
_ARROW = {"activation": "-->", "weight": "-.->", "kv": "==>", "state": "--o"}
_ENTITY = str.maketrans(
    {
        "#": "#35;",
        "&": "#38;",
        '"': "#quot;",
        "<": "#lt;",
        ">": "#gt;",
        "`": "#96;",
        "\\": "#92;",
        "|": "#124;",
        ";": "#59;",
    }
)


def escaped(value: str) -> str:
    """A text that Mermaid shows as it is, whatever it holds."""
    return value.translate(_ENTITY)


def mermaid_source(scene: Scene) -> str:
    """The scene as a Mermaid flowchart; equal scenes give equal text."""
    title = scene.title + (f" ({scene.subtitle})" if scene.subtitle else "")
    title = title.translate(str.maketrans("<>", "‹›"))
    lines = ["---", f"title: {json.dumps(title)}", "---", "flowchart TB"]
    names = {v.id: f"n{i}" for i, v in enumerate(scene.vertices)}
    _cluster(scene, "", names, lines, 1)
    for link in scene.links:
        lines.append(f"  {names[link.start]} {_arrow(link)} {names[link.end]}")
    if scene.notes:
        body = "<br/>".join(escaped(n) for n in scene.notes)
        lines.append(f'  notes["{body}"]:::note')
    if symbols := list(scene.explained()):
        body = "<br/>".join(escaped(line) for line in symbols)
        lines.append(f'  note_symbols["{body}"]:::note')
    lines += _classes(scene, bool(scene.notes or symbols))
    return "\n".join(lines) + "\n"


def _cluster(
    scene: Scene, cluster: str, names: dict[str, str], lines: list[str], depth: int
) -> None:
    pad = "  " * depth
    for v in scene.vertices:
        if v.cluster == cluster:
            lines.append(f"{pad}{names[v.id]}{_vertex(v)}")
    for index, inner in enumerate(scene.clusters):
        if inner.parent == cluster:
            title = escaped(MARK_SIGN.get(inner.mark, "") + inner.title)
            lines.append(f'{pad}subgraph c{index}["{title}"]')
            _cluster(scene, inner.id, names, lines, depth + 1)
            lines.append(f"{pad}end")


def _vertex(v: Vertex) -> str:
    lines = [MARK_SIGN.get(v.mark, "") + v.name, *(x for x in v.lines if x != v.name)]
    if v.seconds:
        share = "" if v.share is None else f"{100 * v.share:.1f} % · "
        lines.append(f"{share}{format_quantity(v.seconds, 's')} · {v.bound}")
    body = "<br/>".join(escaped(line) for line in lines)
    start, end = _SHAPE[v.role] if v.is_source and v.role in _SHAPE else ('["', '"]')
    return f"{start}{body}{end}:::{_class(v)}"


def _class(v: Vertex) -> str:
    if v.mark:
        return f"mark_{v.mark}"
    if v.is_source:
        return f"role_{v.role}" if v.role in SOURCE_FILL else "plain"
    return f"bound_{v.bound}" if v.bound in BOUND_FILL and v.bound else "plain"


def _arrow(link: Link) -> str:
    if link.carried:
        return f'-.->|"{escaped(link.text or "next round")}"|'
    shown = list(dict.fromkeys(str(t) for t in link.tensors))
    text = link.text or "<br/>".join(escaped(s) for s in shown[:3])
    arrow = _ARROW.get(link.role, "-->")
    return f'{arrow}|"{text}"|' if text else arrow


def _classes(scene: Scene, noted: bool) -> list[str]:
    used = {_class(v) for v in scene.vertices}
    known = {"plain": "fill:#F7F7F7,stroke:#555555", "note": "fill:#FFFFFF,stroke:#FFFFFF"}
    known |= {f"bound_{b}": f"fill:{BOUND_FILL[b]},stroke:{BOUND_EDGE[b]}" for b in BOUND_FILL if b}
    known |= {f"role_{r}": f"fill:{fill},stroke:#777777" for r, fill in SOURCE_FILL.items()}
    for mark, style in MARK_STYLE.items():
        dashes = ",stroke-dasharray:5 3" if mark == "erased" else ""
        known[f"mark_{mark}"] = f"fill:{style['fillcolor']},stroke:{style['color']}{dashes}"
    if noted:
        used.add("note")
    return [f"  classDef {name} {known[name]},color:#111111" for name in sorted(used)]
