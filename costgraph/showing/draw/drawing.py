"""The surface: ``draw(graph | program | compiled, …)`` gives a :class:`Drawing`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costgraph.compiling.breakdown import bound_of, break_down, symbols_of
from costgraph.counting.count import rows as rows_of
from costgraph.errors import CostgraphError, InputError, MissingRuleError, clip, nearest
from costgraph.files.writing import suffix_of, write_whole
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.workload import shown
from costgraph.number import Number
from costgraph.rewriting.pipeline import Trace
from costgraph.showing.draw.build import graph_scene, meanings, program_scene
from costgraph.showing.draw.diff import Counting, trace_scene
from costgraph.showing.draw.fold import LIMIT, near_changes, within
from costgraph.showing.draw.scene import Scene, Vertex, clean
from costgraph.showing.export.plain_json import json_text
from costgraph.showing.export.standalone import page_html
from costgraph.undone import lines as undone_lines

if TYPE_CHECKING:
    import networkx

    from costgraph.compiling.compiled import Compiled
    from costgraph.counting.count import Row
    from costgraph.ir.phase import Phase

LEVELS = ("model", "layer", "op")
SUFFIXES = (".svg", ".png", ".pdf", ".html", ".dot", ".mmd", ".json", ".graphml")
#: Characters of a sentence in files for programs.
_MOST = 4000
#: What files of a difference say of FLOP and bytes.
_SIDES = (
    "operations have what they do before the pass, created ones what they do after it; what it "
    "changed also has what it does then (flops_expression_after, …), and what it created of the "
    "operations in a frame stands by the frame's id in created_flops_expression, …"
)
_STYLE = (
    "body{font-family:Helvetica,Arial,sans-serif;margin:1.5rem;color:#111}"
    "svg{max-width:100%;height:auto}"
)


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph in any format.

    ``scene`` is what pictures show; ``whole`` is the same before it was made
    small enough for a picture, which JSON and GraphML hold. ``about`` is what else they say of
    the whole graph: how it was compiled, and what its numbers rest on.
    """

    scene: Scene
    whole: Scene
    about: tuple[tuple[str, str], ...] = ()

    @cached_property
    def dot(self) -> str:
        """DOT source."""
        from costgraph.showing.draw.dot import dot_source

        return dot_source(self.scene)

    @cached_property
    def mermaid(self) -> str:
        """Mermaid source."""
        from costgraph.showing.draw.mermaid import mermaid_source

        return mermaid_source(self.scene)

    @cached_property
    def svg(self) -> str:
        """The picture as SVG.

        Raises:
            InputError: neither ``dot`` nor the extra ``draw`` is installed.
        """
        from costgraph.showing.draw.render import render

        return render(self.dot, "svg").decode("utf-8")

    @property
    def html(self) -> str:
        """A page of its own with the picture inside; no scripts."""
        picture = re.sub(r"\A.*?(?=<svg)", "", self.svg, flags=re.DOTALL)
        return page_html(self.scene.title, picture, _STYLE)

    @property
    def json(self) -> str:
        """Node-link JSON; ``networkx.node_link_graph(data, edges="edges")`` reads it."""
        graph = self.to_networkx()
        value = {
            "directed": True,
            "multigraph": True,
            "graph": dict(graph.graph),
            "nodes": [{**data, "id": name} for name, data in graph.nodes(data=True)],
            "edges": [
                {**data, "source": a, "target": b, "key": key}
                for a, b, key, data in graph.edges(keys=True, data=True)
            ],
        }
        return json_text(value, indent=1) + "\n"

    @property
    def graphml(self) -> str:
        """GraphML; ``networkx.read_graphml`` reads it."""
        import networkx

        stream = BytesIO()
        # The plain writer: the one on lxml orders attributes by what is installed.
        networkx.write_graphml_xml(self.to_networkx(), stream, encoding="utf-8")
        return stream.getvalue().decode("utf-8") + "\n"

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """Every vertex and link with its attributes, not made smaller for a picture.

        The graph's own say what it is of, and what the symbols of its shapes stand for.
        """
        return self.whole.to_networkx(**dict(self.about))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture; the suffix names the format (:data:`SUFFIXES`).

        Raises:
            InputError: another suffix, nothing to draw with, or no place to write.
        """
        suffix = suffix_of(path, SUFFIXES, "drawing")
        return write_whole(path, self._bytes(suffix))

    def _bytes(self, suffix: str) -> bytes:
        if suffix in (".png", ".pdf"):
            from costgraph.showing.draw.render import render

            return render(self.dot, suffix[1:])
        name = {".mmd": "mermaid"}.get(suffix, suffix[1:])
        text: str = getattr(self, name)
        return text.encode("utf-8")

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        found = {"text/plain": repr(self)}
        try:
            found["image/svg+xml"] = self.svg
            found["text/html"] = _boxed(self.svg)
        except CostgraphError as error:
            found["text/plain"] += f"\n({error})"
        return found

    def __repr__(self) -> str:
        scene = self.scene
        return (
            f"<Drawing {scene.title!r}: {len(scene.vertices)} vertices, {len(scene.links)} links>"
        )


def _boxed(svg: str) -> str:
    """The picture for a notebook's cell: as narrow as the cell while its texts can be read.

    Below that it scrolls; a notebook would cut it.
    """
    inner = re.sub(r"\A.*?(?=<svg)", "", svg, flags=re.DOTALL)
    size = re.match(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', inner)
    if size is not None:
        wide = float(size[1])
        style = f"width:100%;min-width:{0.55 * wide:.0f}pt;max-width:{wide:.0f}pt;height:auto"
        inner = f'<svg style="{style}"{inner[size.end() :]}'
    return f'<div style="overflow:auto;max-width:100%">{inner}</div>'


def draw(
    what: Graph | Program | Compiled,
    *,
    level: str = "op",
    phase: str | None = None,
    diff: bool = False,
    step: int | None = None,
    B: int | None = None,
    T: int | None = None,
    S: int | None = None,
    limit: int = LIMIT,
    device: bool = True,
    **symbols: Number,
) -> Drawing:
    """A picture of a graph, a program or a compiled model.

    Args:
        what: what to draw. Only a compiled model knows times.
        level: ``op`` (every operation), ``layer`` (each repeated part as one
            vertex) or ``model`` (one vertex a phase).
        phase: whose step graph; by default the last stepping phase if ``T`` is
            given, the first phase otherwise, and all of a difference.
        diff: what each pass erased, changed, created and kept (compiled models).
        step: with ``diff``, only this pass of the pipeline, counted from 1 as it is written.
        B, T, S, symbols: the sizes of a step: operations are coloured by bound and
            sized by their share of its time.
        limit: vertices above which a picture is collapsed, with a note.
        device: whether the picture names the device; pictures without times need not.

    Raises:
        InputError: an unknown level or phase, a symbol without a value, or a
            difference asked of something that no pass has made, or with a level or sizes.
    """
    if level not in LEVELS:
        raise InputError(f"unknown level {clip(level)}{nearest(level, LEVELS)}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 2:
        raise InputError(f"limit must be a whole number of at least 2, not {clip(limit)}")
    given = {"B": B, "T": T, "S": S, **symbols}
    if isinstance(what, Graph):
        if diff or level == "model":
            raise InputError("a graph alone has no passes and no phases; give a compiled model")
        whole = graph_scene(what, counted=rows_of(what))
        whole = replace(whole, meanings=meanings((what,)))
        return Drawing(within(whole, level, limit), _at_level(whole, level))
    compiled = None if isinstance(what, Program) else what
    if not isinstance(getattr(what, "program", what), Program):
        raise InputError(
            f"draw takes a graph, a program or what costgraph.compile gives, not {clip(what)}"
        )
    program = what if isinstance(what, Program) else what.program
    told = () if compiled is None else compiled.setting.symbols
    known = meanings((p.graph for p in program.phases), *told)
    values = {k: v for k, v in given.items() if v is not None}
    if values:
        values = {"B": 1} | values
    sizes = () if compiled is None else tuple(values)
    if diff:
        if compiled is None or not compiled.trace.steps:
            raise InputError("a difference needs a model that was compiled with passes")
        if level != "op":
            raise InputError(f"a difference shows operations; level {level} has no part in it")
        if values:
            raise InputError(f"a difference has no times; {', '.join(values)} have no part in it")
        trace = compiled.trace
        if step is not None:
            if isinstance(step, bool) or not 1 <= step <= len(trace.steps):
                raise InputError(f"step must be from 1 to {len(trace.steps)}, not {clip(step)}")
            trace = Trace(tuple(s for s in trace.steps if s.place == step - 1))
        head = _head(program, compiled, device, False)
        try:
            scene = trace_scene(trace, *head, phase, _counting(compiled))
            work = _SIDES
        except MissingRuleError as error:
            scene, work = trace_scene(trace, *head, phase), str(error)
        whole = replace(scene, meanings=known)
        about = tuple({**dict(_about(compiled, device, False)), "work": work}.items())
        return Drawing(near_changes(whole, limit), whole, about)
    if level == "model":
        scene = _model(program, compiled, values, device)
        scene = replace(scene, meanings=known, sizes=sizes)
        return Drawing(scene, scene, _about(compiled, device, bool(values)))
    chosen = program.phase(phase) if phase is not None else program.phases[0]
    if phase is None and values:
        chosen = program.phase_for(values)
    rows, seconds, more, warning = None, None, [f"{chosen.name} step"], ""
    if compiled is not None and values:
        table = break_down(compiled, chosen.name, {"B": 1, **values})
        rows, warning = table.rows, table.fit.warning
        seconds = float(table.totals["seconds"])
        more.append(f"{shown(values)}: {_time(seconds)}")
    head = _head(program, compiled, device, bool(values), *more, warning=warning)
    whole = graph_scene(chosen.graph, *head, rows, seconds, _counted(compiled, chosen))
    bindings = tuple((s.name, clean(e)) for s, e in chosen.bindings if s != e)
    whole = replace(whole, meanings=known, bindings=bindings, sizes=sizes)
    about = _about(compiled, device, bool(values), *([warning] if warning else ()))
    return Drawing(within(whole, level, limit), _at_level(whole, level), about)


def _counted(compiled: Compiled | None, phase: Phase) -> tuple[Row, ...]:
    """The exact costs of a phase's operations, under the convention that it was compiled with.

    None where that has no rule for one of them (:func:`_uncounted`).
    """
    if compiled is None:
        return rows_of(phase.graph)
    return () if _uncounted(compiled) else compiled.rows[phase.name]


def _counting(compiled: Compiled) -> Counting:
    """Counts graphs that its passes had or made, each once."""
    found: dict[tuple[int, bool], tuple[Row, ...]] = {}

    def count(phase: Phase) -> tuple[Row, ...]:
        key = id(phase.graph), phase.is_single_query
        if key not in found:
            found[key] = rows_of(phase.graph, compiled.accounting, phase.is_single_query)
        return found[key]

    return count


def _uncounted(compiled: Compiled) -> str:
    """Why the operations of a program cannot be counted; empty where they can."""
    try:
        _ = compiled.rows
    except MissingRuleError as error:
        return str(error)
    return ""


def _about(
    compiled: Compiled | None, device: bool, timed: bool, *more: str
) -> tuple[tuple[str, str], ...]:
    """What a compiled model's setting says, for programs: a text of lines for each key."""
    if compiled is None:
        return ()
    setting = compiled.setting
    without = {*(() if device else ("hardware",)), *(() if timed else ("fidelity",))}
    found = {k: v for k, v in setting.to_dict(*more).items() if k not in without}
    found["not_done"] = undone_lines(setting.not_done)
    found["remarks"] = found.pop("notes")  # the picture has notes of its own
    found |= {"work": why} if (why := _uncounted(compiled)) else {}
    return tuple(
        (key, value if isinstance(value, str) else _text(value)) for key, value in found.items()
    )


def _text(value: Mapping[str, object] | Sequence[str]) -> str:
    lines = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value
    return "\n".join(clean(line, _MOST) for line in lines)


def _head(
    program: Program,
    compiled: Compiled | None,
    device: bool,
    timed: bool,
    *more: str,
    warning: str = "",
) -> tuple[str, str]:
    """Title and subtitle: what the picture is of, and how it was compiled and timed."""
    if compiled is None:
        return clean(program.name), clean(", ".join(more))
    without = [*([] if device else ["hardware"]), *([] if timed else ["fidelity"])]
    title, *rest = compiled.setting.parts(*more, without=without)
    said = compiled.setting.said(warning) if device else ()
    lines = [clean(", ".join(rest)), *(f"⚠ {clean(text)}" for text in said)]
    return clean(title), "; ".join(filter(None, lines))


def _at_level(scene: Scene, level: str) -> Scene:
    from costgraph.showing.draw.fold import layers

    return layers(scene) if level == "layer" else scene


def _time(seconds: float) -> str:
    from costgraph.units import format_quantity

    return format_quantity(seconds, "s")


def _model(
    program: Program, compiled: Compiled | None, values: Mapping[str, Any], device: bool
) -> Scene:
    more = [f"{shown(values)}, time of one step"] if values and compiled is not None else []
    scene = program_scene(program, *_head(program, compiled, device, bool(values), *more))
    vertices = tuple(
        replace(v, counted=_counted(compiled, program.phase(v.id))) for v in scene.vertices
    )
    scene = replace(scene, vertices=vertices)
    if compiled is None or not values:
        return scene
    return replace(scene, vertices=tuple(_timed(v, compiled, values) for v in scene.vertices))


def _timed(vertex: Vertex, compiled: Compiled, values: Mapping[str, Number]) -> Vertex:
    """A phase with the time of one step, where the values given suffice for it."""
    phase = compiled.program.phase(vertex.id)
    needed = {s.name for s in symbols_of(compiled, phase)}
    if not needed <= set(values):
        return vertex
    table = break_down(
        compiled, phase.name, {"B": 1, **{k: v for k, v in values.items() if k in needed}}
    )
    by_bound: dict[str, float] = {}
    for resource, share in table.waits.items():
        bound = bound_of(resource)
        by_bound[bound] = by_bound.get(bound, 0.0) + share
    bound = max(sorted(by_bound), key=lambda b: by_bound[b], default="none")
    return replace(vertex, seconds=float(table.totals["seconds"]), bound=bound)
