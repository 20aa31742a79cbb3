"""What a pass did to a program, as a scene: erased, changed, created and kept operations.

A group of operations that a pass merged is drawn as it was, its members marked
erased, in a frame that bears the name of what was created from them; so the
picture shows the provenance. What was created from nothing is drawn beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from costgraph.counting.count import Row
from costgraph.errors import InputError, clip, nearest
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase
from costgraph.ir.regions import Region
from costgraph.rewriting.pipeline import Step, Trace
from costgraph.showing.draw.build import graph_scene, program_scene
from costgraph.showing.draw.scene import Cluster, Link, Scene, Vertex, clean, joined

#: The exact costs of a phase's operations, in execution order.
Counting = Callable[[Phase], Sequence[Row]]


def uncounted(phase: Phase) -> Sequence[Row]:
    """No costs."""
    return ()


@dataclass(frozen=True)
class Change:
    """What became of the operations of one graph.

    ``erased``, ``changed``, ``created`` and ``kept`` are paths (``region/node``);
    ``origins`` tells which erased operations each created one replaces.
    """

    erased: tuple[str, ...]
    changed: tuple[str, ...]
    created: tuple[str, ...]
    kept: tuple[str, ...]
    origins: dict[str, tuple[str, ...]]


def compare_graphs(before: Graph, after: Graph) -> Change:
    """The operations of two graphs matched by path.

    An operation is kept if it and the operands' shapes and formats are equal.
    """
    old, new = dict(_facts(before, "")), dict(_facts(after, ""))
    erased = tuple(p for p in old if p not in new)
    created = tuple(p for p in new if p not in old)
    changed = tuple(p for p in old if p in new and old[p][1] != new[p][1])
    kept = tuple(p for p in old if p in new and old[p][1] == new[p][1])
    gone = set(erased)
    origins = {}
    alive = {_place(path, node) for path, (node, _) in new.items()}
    for path in created:
        node = new[path][0]
        place = _place(path, node)
        named = [clean(f"{place}{n}") for n in node.origin.nodes]
        direct = [n for n in named if n in gone]
        # Origins name imported operations; what was erased may itself be made of them.
        merged = [
            p
            for p in erased
            if p not in direct
            and old[p][0].origin.nodes
            and set(old[p][0].origin.nodes) <= set(node.origin.nodes)
            # The same operation in another region was moved there, not made of others.
            and (old[p][0].name, old[p][0].op) != (node.name, node.op)
            # Regions side by side may hold operations of equal origins: each keeps its own.
            and _reaches(_place(p, old[p][0]), place, alive)
        ]
        if direct or merged:
            origins[path] = (*direct, *merged)
    return Change(erased, changed, created, kept, origins)


def _place(path: str, node: Node) -> str:
    """What stands in front of an operation's name in its path."""
    return path[: len(path) - len(clean(node.name))]


def _reaches(before: str, after: str, alive: set[str]) -> bool:
    """Whether operations may go from a place to another: within it, or out of one that is gone."""
    return before.startswith(after) or after.startswith(before) or before not in alive


def _facts(graph: Graph, prefix: str) -> Iterator[tuple[str, tuple[Node, object]]]:
    for node in graph.nodes:
        path = clean(f"{prefix}{node.name}")
        if isinstance(node.op, Region):
            for label, inner in zip(node.op.labels, node.op.graphs, strict=True):
                yield from _facts(inner, f"{path}/{clean(label)}/" if label else f"{path}/")
            continue
        operands = tuple((t.shape, t.dtype, t.role) for t in graph.operands(node))
        yield path, (node, (node, operands))


def step_scene(
    step: Step,
    title: str,
    subtitle: str = "",
    phase: str | None = None,
    count: Counting = uncounted,
) -> tuple[tuple[str, Scene], ...]:
    """Scenes of one pass, and what each is of: its graphs, and its phases where those changed.

    With ``phase`` that one's graph alone; with ``count`` operations know their costs.
    """
    after = {p.name: p for p in step.after.phases}
    pairs: dict[tuple[int, int], list[tuple[Phase, Phase]]] = {}
    for old in step.before.phases:
        new = after.get(old.name)
        if new is not None and old.graph != new.graph and phase in (None, old.name):
            pairs.setdefault((id(old.graph), id(new.graph)), []).append((old, new))
    scenes = []
    for alike in pairs.values():
        names = ", ".join(clean(old.name) for old, _ in alike)
        scene = _graph_difference(*alike[0], title, subtitle, count)
        scenes.append((f"operations of {names}", scene))
    if phase is not None:
        return tuple(scenes)
    if [_phase_fact(p) for p in step.before.phases] != [_phase_fact(p) for p in step.after.phases]:
        scenes.append(("phases", _phase_difference(step, title, subtitle, count)))
    return tuple(scenes)


def _phase_fact(phase: Phase) -> object:
    return (phase.name, phase.bindings, phase.span, phase.tokens, phase.weight)


def _graph_difference(old: Phase, new: Phase, title: str, subtitle: str, count: Counting) -> Scene:
    change = compare_graphs(old.graph, new.graph)
    before = graph_scene(old.graph, counted=count(old) or None)
    after = graph_scene(new.graph, counted=count(new) or None)
    now = {v.id: v for v in after.vertices}
    mark = dict.fromkeys(change.erased, "erased") | dict.fromkeys(change.changed, "changed")
    mark |= dict.fromkeys(change.kept, "kept")
    group: dict[str, str] = {}
    frames = []
    where = {v.id: v.cluster for v in before.vertices}
    for path, members in change.origins.items():
        name = f"{path}:created"
        members = tuple(m for m in members if m not in group)
        if not members:
            continue
        title_of = path.rsplit("/", 1)[-1]
        around, made = where.get(members[0], ""), now[path].counted
        frames.append(Cluster(name, title_of, around, "created", counted=made))
        group.update((m, name) for m in members)
    vertices = [
        replace(
            v,
            mark=mark.get(v.id, ""),
            cluster=group.get(v.id, v.cluster),
            becoming=now[v.id].counted if mark.get(v.id) == "changed" else (),
        )
        for v in before.vertices
    ]
    known = {v.id for v in before.vertices}
    framed = {f.id.removesuffix(":created") for f in frames}
    fresh = [
        replace(v, mark="created")
        for v in after.vertices
        if v.id not in known and v.id not in framed
    ]
    vertices += [v if not v.is_source else replace(v, mark="") for v in fresh]
    added = {v.id for v in fresh}
    links = [
        replace(link, mark="erased" if _erased(link, mark, group) else "") for link in before.links
    ]
    present = {v.id for v in vertices}
    links += [
        replace(link, mark="created")
        for link in after.links
        if (link.start in added or link.end in added)
        and link.start in present
        and link.end in present
    ]
    result = _with_new_weights(vertices, after)
    clusters = (*before.clusters, *frames)
    clusters += tuple(c for c in after.clusters if c.id not in {b.id for b in before.clusters})
    counts = (
        f"{len(change.erased)} erased, {len(change.created)} created, "
        f"{len(change.changed)} changed, {len(change.kept)} kept"
    )
    notes = [counts]
    notes += [
        f"+ {path.rsplit('/', 1)[-1]} ← {', '.join(m.rsplit('/', 1)[-1] for m in members)}"
        for path, members in change.origins.items()
    ]
    scene = Scene(title, subtitle, clusters, tuple(result), joined(links), tuple(notes), True)
    return scene


def _with_new_weights(vertices: list[Vertex], after: Scene) -> list[Vertex]:
    """Sources whose format or shape changed say so."""
    new = {v.id: v for v in after.vertices}
    result = []
    for v in vertices:
        now = new.get(v.id)
        if v.is_source and now is not None and now.lines != v.lines:
            v = replace(v, mark="changed", lines=(f"{v.lines[0]} → {now.lines[0]}",))
        result.append(v)
    return result


def _erased(link: Link, mark: dict[str, str], group: dict[str, str]) -> bool:
    """True if what flows there is no longer made: inside one group, or with both ends gone."""
    if link.carried or mark.get(link.start) != "erased" or mark.get(link.end) != "erased":
        return False
    return group.get(link.start) == group.get(link.end)


def _phase_difference(step: Step, title: str, subtitle: str, count: Counting) -> Scene:
    before, after = program_scene(step.before), program_scene(step.after)
    old, new = (
        {
            v.id: replace(v, counted=tuple(count(phase)))
            for v, phase in zip(scene.vertices, program.phases, strict=True)
        }
        for scene, program in ((before, step.before), (after, step.after))
    )
    vertices = []
    for v in new.values():
        if v.id not in old:
            vertices.append(replace(v, mark="created"))
            continue
        mark = "kept" if old[v.id].lines == v.lines else "changed"
        # A phase that is kept may have another graph.
        vertices.append(replace(v, mark=mark, counted=old[v.id].counted, becoming=v.counted))
    vertices += [replace(v, mark="erased") for v in old.values() if v.id not in new]
    pairs = {(x.start, x.end, x.carried) for x in before.links}
    links = [
        replace(x, mark="" if (x.start, x.end, x.carried) in pairs else "created")
        for x in after.links
    ]
    now = {(x.start, x.end, x.carried) for x in after.links}
    links += [
        replace(x, mark="erased") for x in before.links if (x.start, x.end, x.carried) not in now
    ]
    gone = [n for n in old if n not in new]
    made = [n for n in new if n not in old]
    notes = [f"phases erased: {', '.join(gone) or 'none'}; created: {', '.join(made) or 'none'}"]
    return Scene(title, subtitle, (), tuple(vertices), tuple(links), tuple(notes), True)


def trace_scene(
    trace: Trace,
    title: str,
    subtitle: str = "",
    phase: str | None = None,
    count: Counting = uncounted,
) -> Scene:
    """All passes of a pipeline in one scene, a frame for each, in the order in which they ran.

    Their numbers are their places in the pipeline as it is written.

    Args:
        trace: what the passes did.
        title, subtitle: head lines.
        phase: whose graphs are shown, of all where none is given.
        count: the exact costs of what stands before and after each pass.

    Raises:
        InputError: no pass has seen such a phase.
    """
    sides = (program for step in trace.steps for program in (step.before, step.after))
    names = dict.fromkeys(p.name for program in sides for p in program.phases)
    if phase is not None and phase not in names:
        raise InputError(f"no phase {clip(phase)}{nearest(phase, names)}")
    clusters: list[Cluster] = []
    vertices: list[Vertex] = []
    links: list[Link] = []
    notes: list[str] = []
    for step in trace.steps:
        index = step.place + 1
        name = clean(step.made_by.spec(), 120)
        parts = step_scene(step, title, subtitle, phase, count)
        if not parts:
            where = "a graph or phase" if phase is None else f"the graph of {phase}"
            notes.append(f"{index}. {name}: nothing changed in {where}")
        for number, (what, part) in enumerate(parts):
            prefix = f"{index}.{number}:"
            frame = f"{prefix}pass"
            clusters.append(Cluster(frame, f"pass {index}: {name} ({what})"))
            clusters += [
                replace(c, id=prefix + c.id, parent=prefix + c.parent if c.parent else frame)
                for c in part.clusters
            ]
            vertices += [
                replace(v, id=prefix + v.id, cluster=prefix + v.cluster if v.cluster else frame)
                for v in part.vertices
            ]
            links += [replace(x, start=prefix + x.start, end=prefix + x.end) for x in part.links]
            notes += [
                f"{index}. {name}, {what}: {part.notes[0]}",
                *(f"      {n}" for n in part.notes[1:]),
            ]
        for miss in step.misses:
            notes.append(
                f"{index}. {name}: {clean(miss.rule)} did not apply at "
                f"{clean(miss.node)}: {clean(miss.reason)}"
            )
    return Scene(
        title, subtitle, tuple(clusters), tuple(vertices), tuple(links), tuple(notes), True
    )
