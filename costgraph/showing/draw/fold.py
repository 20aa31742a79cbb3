"""Making large scenes small: repeated parts once, regions as one vertex, blocks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from costgraph.errors import many
from costgraph.showing.draw.repeats import SHORTEST, find_runs
from costgraph.showing.draw.scene import Cluster, Scene, Vertex, joined

if TYPE_CHECKING:
    from costgraph.counting.count import Row

#: Above this many vertices a picture of operations is collapsed on its own.
LIMIT = 300
#: Most parts that operations become which belong together by their names: a page shows them.
_PARTS = 100
_FRAMES = 16
#: Places that links between blocks may pass in all, and blocks below which that is no matter:
#: where each line has to find its way around hundreds of vertices a picture takes minutes, and
#: nobody can follow one.
_PASSED = 1000
_FEWEST = 32


def fold_repeats(scene: Scene) -> Scene:
    """The scene with parts that repeat in a row drawn once, in a frame ``× k``.

    Two parts are alike if their operations are (kind, attributes, shapes and
    formats) and are wired alike: each operand comes from the same place of its
    own part or of the part before it, or from one and the same vertex. The
    search takes time linear in the size of the scene: it compares the order of
    operations with itself at the few distances at which equal ones recur.
    """
    sizes = Counter(v.cluster for v in scene.vertices if not v.is_source)
    # Each search reads the whole scene: only the largest frames are worth one.
    for cluster, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_FRAMES]:
        if size >= 2 * SHORTEST:
            scene = _folded(scene, cluster)
    return scene


def _folded(scene: Scene, cluster: str) -> Scene:
    by_id = {v.id: v for v in scene.vertices}
    operands: dict[str, list[str]] = defaultdict(list)
    for link in scene.links:
        if not link.carried:
            operands[link.end].append(link.start)
    members = [v for v in scene.vertices if v.cluster == cluster and not v.is_source]
    order = _by_need([v.id for v in members], operands)
    runs = find_runs([by_id[i].signature for i in order], _wiring(order, operands, by_id))
    if not runs:
        return scene
    users: dict[str, set[str]] = defaultdict(set)
    for link in scene.links:
        users[link.start].add(link.end)
    where: dict[str, str] = {}
    made: list[Cluster] = []
    inside: dict[str, str] = {}
    seconds: dict[str, float] = {}
    share: dict[str, float] = {}
    work: dict[str, tuple[float, float]] = {}
    spot: dict[str, tuple[str, int]] = {}
    for run in runs:
        template = order[run.start : run.start + run.period]
        frame = f"{template[0]}…"
        made.append(Cluster(frame, f"{run.period} operations × {run.copies}", cluster))
        inside.update((name, frame) for name in template)
        spot.update((name, (frame, 0)) for name in template)
        first = set(template)
        for copy in range(1, run.copies):
            begin = run.start + copy * run.period
            block = order[begin : begin + run.period]
            own = set(block)
            for name, like in zip(block, template, strict=True):
                where[name] = like
                spot[name] = (frame, copy)
                for source, its in zip(operands[name], operands[like], strict=True):
                    if source != its and by_id[source].is_source and users[source] <= own:
                        where[source] = its
                        if users[its] <= first:
                            inside[its] = frame
    parts: dict[str, tuple[str, ...]] = defaultdict(tuple)
    counted: dict[str, tuple[Row, ...]] = defaultdict(tuple)
    for v in scene.vertices:
        place = where.get(v.id, v.id)
        parts[place] += v.operations
        counted[place] += v.counted
        if v.seconds is not None:
            seconds[place] = seconds.get(place, 0.0) + v.seconds
            share[place] = share.get(place, 0.0) + (v.share or 0.0)
            flops, moved = work.get(place, (0, 0))
            work[place] = flops + (v.flops or 0), moved + (v.bytes or 0)
    vertices = tuple(
        replace(
            v,
            cluster=inside.get(v.id, v.cluster),
            seconds=seconds.get(v.id),
            share=share.get(v.id, v.share),
            flops=work.get(v.id, (v.flops, v.bytes))[0],
            bytes=work.get(v.id, (v.flops, v.bytes))[1],
            parts=() if parts[v.id] == (v.id,) else parts[v.id],
            counted=counted[v.id],
        )
        for v in scene.vertices
        if v.id not in where
    )
    # What one copy hands to the next would close a cycle: it is drawn once, as carried.
    links = []
    for link in scene.links:
        start, end = spot.get(link.start), spot.get(link.end)
        if end is None or end[1] == 0 or link.carried:
            links.append(link)
        elif end[1] == 1 and start == (end[0], 0):
            links.append(replace(link, carried=True))
        # What else enters a later copy enters the first one likewise.
    return replace(
        scene,
        clusters=(*scene.clusters, *made),
        vertices=vertices,
        links=joined(links, where),
    )


def _by_need(names: list[str], operands: Mapping[str, list[str]]) -> list[str]:
    """Names, operands first, depth first from the last result: independent of listing order."""
    mine = set(names)
    used = {o for n in names for o in operands[n] if o in mine}
    seen: set[str] = set()
    order: list[str] = []
    for root in (n for n in names if n not in used):
        stack = [(root, False)]
        while stack:
            name, done = stack.pop()
            if done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                stack.append((name, True))
                stack.extend((o, False) for o in reversed(operands[name]) if o in mine)
    return order


def _wiring(
    order: list[str], operands: Mapping[str, list[str]], by_id: Mapping[str, Vertex]
) -> list[tuple[int | str, ...]]:
    """Operands of each operation: a position in the order, or what they are outside it."""
    position = {name: i for i, name in enumerate(order)}
    return [
        tuple(
            position[o] if o in position else by_id[o].signature if by_id[o].is_source else o
            for o in operands[name]
        )
        for name in order
    ]


def contract(scene: Scene, group: Mapping[str, str], made: Mapping[str, Vertex]) -> Scene:
    """The scene with the vertices of each group as one: times add up, inner links vanish."""
    members: dict[str, list[Vertex]] = defaultdict(list)
    for v in scene.vertices:
        if v.id in group:
            members[group[v.id]].append(v)
    done: set[str] = set()
    vertices: list[Vertex] = []
    for v in scene.vertices:
        name = group.get(v.id)
        if name is None:
            vertices.append(v)
        elif name not in done:
            done.add(name)
            vertices.append(_summed(made[name], members[name]))
    held = {c.id for v in vertices for c in scene.around(v.cluster)}
    return replace(
        scene,
        clusters=tuple(c for c in scene.clusters if c.id in held),
        vertices=tuple(vertices),
        links=joined(scene.links, group),
    )


def _summed(vertex: Vertex, members: list[Vertex]) -> Vertex:
    timed = [m for m in members if m.seconds is not None]
    # A part stands for all that was folded into it.
    operations = sum(len(m.operations) if m.kind == "part" else not m.is_source for m in members)
    weights = sum(1 for m in members if m.role == "weight")
    line = many(operations, "operation")
    line += f", {many(weights, 'weight')}" if weights else ""
    parts = tuple(name for m in members for name in m.operations)
    counted = tuple(row for m in members for row in m.counted)
    vertex = replace(vertex, lines=(*vertex.lines, line), parts=parts, counted=counted)
    if not timed:
        return vertex
    by_bound: dict[str, float] = {}
    for m in timed:
        by_bound[m.bound] = by_bound.get(m.bound, 0.0) + (m.seconds or 0.0)
    return replace(
        vertex,
        seconds=sum(m.seconds or 0.0 for m in timed),
        share=sum(m.share or 0.0 for m in timed),
        flops=sum(m.flops or 0 for m in timed),
        bytes=sum(m.bytes or 0 for m in timed),
        bound=max(sorted(by_bound), key=lambda b: by_bound[b]),
    )


def layers(scene: Scene) -> Scene:
    """Each outermost repeated part, a region or one found, as one vertex.

    Frames of units and of bodies that run at once stay around them.
    """
    scene = fold_repeats(scene)
    if all(c.is_place for c in scene.clusters):
        return named_alike(scene)
    parts = {
        v.id: [c.id for c in scene.around(v.cluster) if not c.is_place] for v in scene.vertices
    }
    group = {name: f"{found[-1]}:part" for name, found in parts.items() if found}
    made = {
        f"{c.id}:part": Vertex(f"{c.id}:part", c.title, "part", cluster=c.parent)
        for c in scene.clusters
        if not c.is_place
    }
    return contract(scene, group, made)


def bodies(scene: Scene) -> Scene:
    """Each innermost body that runs at once with others as one vertex, its frame around it.

    Bodies of one region do not wait for each other, so that no cycle comes about.
    """
    frames = scene.frames

    def around(cluster: str) -> Iterator[str]:
        return (c.id for c in scene.around(cluster) if c.is_body)

    outer = {o for c in scene.clusters if c.is_body for o in around(c.parent)}
    group: dict[str, str] = {}
    units: dict[str, set[str]] = defaultdict(set)
    for v in scene.vertices:
        body = next(around(v.cluster), "")
        if body and body not in outer:
            group[v.id] = f"{body}:body"
            if not v.is_source:
                units[body].add(v.unit)
    made = {
        f"{c}:body": Vertex(
            f"{c}:body", frames[c].title, "part", cluster=frames[c].parent,
            unit=min(who) if len(who) == 1 else "",
        )
        for c, who in units.items()
    }  # fmt: skip
    return contract(scene, {v: g for v, g in group.items() if g in made}, made)


def named_alike(scene: Scene) -> Scene:
    """Consecutive operations whose names begin alike as one vertex: ``down1_1_…``.

    Names are compared up to as many of their words as leave at most :data:`_PARTS` parts; the
    scene itself where none does, or nothing stands together.
    """
    operations = [v for v in scene.vertices if v.kind not in ("source", "result")]
    words = [(v.cluster, *re.findall(r"[^_./]+[_./]?", v.name)) for v in operations]
    for depth in range(max(map(len, words), default=0), 1, -1):
        starts = [
            i for i, name in enumerate(words) if not i or name[:depth] != words[i - 1][:depth]
        ]
        if len(starts) <= _PARTS:
            break
    else:
        return scene
    if len(starts) == len(operations):
        return scene
    group: dict[str, str] = {}
    made: dict[str, Vertex] = {}
    for begin, end in zip(starts, [*starts[1:], len(operations)], strict=True):
        if end - begin == 1:
            continue
        name = f"named:{begin}"
        title = "".join(words[begin][1:depth])
        made[name] = Vertex(name, f"{title}…", "part", cluster=words[begin][0])
        group.update((v.id, name) for v in operations[begin:end])
    return contract(scene, _with_sources(scene, group), made)


def _with_sources(scene: Scene, group: Mapping[str, str]) -> dict[str, str]:
    """A grouping that takes each source in that only one of its groups reads."""
    users: dict[str, set[str]] = defaultdict(set)
    for link in scene.links:
        users[link.start].add(group.get(link.end, ""))
    own = {v.id: users[v.id] for v in scene.vertices if v.is_source and len(users[v.id]) == 1}
    return {**group, **{source: name for source, (name,) in own.items() if name}}


def blocks(scene: Scene, limit: int = LIMIT) -> Scene:
    """At most ``limit`` vertices: consecutive operations become blocks.

    Fewer where many links go far, until lines can be laid out and followed. Blocks of
    consecutive operations in execution order never form a cycle. Sources go into the block of
    their first user.
    """
    operations = [v for v in scene.vertices if not v.is_source]
    place = {v.id: i for i, v in enumerate(operations)}
    links = [
        (place[x.start], place[x.end])
        for x in scene.links
        if x.start in place and x.end in place and not x.carried
    ]
    while True:
        size = -(-len(operations) // limit)
        pairs = {(start // size, end // size) for start, end in links}
        if limit <= _FEWEST or sum(abs(end - start) for start, end in pairs) <= _PASSED:
            break
        limit //= 2
    group: dict[str, str] = {}
    made: dict[str, Vertex] = {}
    for begin in range(0, len(operations), size):
        block = operations[begin : begin + size]
        name = f"block:{begin}"
        made[name] = Vertex(name, f"{block[0].name} … {block[-1].name}", "part")
        group.update((v.id, name) for v in block)
    for link in scene.links:
        if link.start not in group and link.end in group:
            group[link.start] = group[link.end]
    return contract(replace(scene, clusters=()), group, made)


def near_changes(scene: Scene, limit: int = LIMIT) -> Scene:
    """A difference made small: tensors that are alike on both sides are left out, then what is
    kept and touches no change, then blocks.
    """
    if len(scene.vertices) > min(limit, _PARTS):
        scene = _without_alike(scene)
    size = len(scene.vertices)
    if size <= limit:
        return scene
    loud = {v.id for v in scene.vertices if v.mark not in ("", "kept")}
    near = loud | {x.start for x in scene.links if x.end in loud}
    near |= {x.end for x in scene.links if x.start in loud}
    scene = _only(scene, near).noting(
        f"{size} vertices are more than {limit}: only changes and their neighbours are drawn"
    )
    if len(scene.vertices) > limit:
        size = len(scene.vertices)
        scene = blocks(scene, limit).noting(
            f"{size} vertices are more than {limit}: consecutive operations are drawn as blocks"
        )
    return scene


def _without_alike(scene: Scene) -> Scene:
    """A difference without inputs, weights and caches that are the same before and after."""
    kept = {v.id for v in scene.vertices if not v.is_source or v.mark not in ("", "kept")}
    gone = len(scene.vertices) - len(kept)
    if not gone:
        return scene
    return _only(scene, kept).noting(f"not drawn: {many(gone, 'tensor')} alike before and after")


def _only(scene: Scene, kept: Collection[str]) -> Scene:
    """Some vertices, and what links them."""
    return replace(
        scene,
        vertices=tuple(v for v in scene.vertices if v.id in kept),
        links=tuple(x for x in scene.links if x.start in kept and x.end in kept),
    )


def within(scene: Scene, level: str, limit: int = LIMIT) -> Scene:
    """The scene at a level, made small enough for a picture, with a note if that took more.

    Args:
        scene: a scene of operations.
        level: ``op`` or ``layer``.
        limit: most vertices that are drawn.
    """
    size = len(scene.vertices)
    if level == "layer":
        scene = layers(scene)
    elif size > limit:
        scene = fold_repeats(scene)
        if len(scene.vertices) < size:
            scene = scene.noting(
                f"{size} vertices are more than {limit}: parts that repeat in a row are drawn once"
            )
        if len(scene.vertices) > limit:
            before = len(scene.vertices)
            scene = layers(scene)
            if len(scene.vertices) < before:
                scene = scene.noting(
                    "and each repeated part is one vertex"
                    if scene.notes
                    else f"{size} vertices are more than {limit}: each repeated part is one vertex"
                )
    if len(scene.vertices) > limit and any(c.is_body for c in scene.clusters):
        size = len(scene.vertices)
        scene = bodies(scene).noting(
            f"{size} vertices are more than {limit}: what runs at once is one vertex for each body"
        )
    if len(scene.vertices) > limit:
        size = len(scene.vertices)
        scene = named_alike(scene)
        if len(scene.vertices) < size:
            scene = scene.noting(
                f"{size} vertices are more than {limit}: operations whose names begin alike are "
                "one vertex"
            )
    if len(scene.vertices) > limit:
        size = len(scene.vertices)
        scene = blocks(scene, limit).noting(
            f"{size} vertices are more than {limit}: consecutive operations are drawn as blocks"
        )
    return scene
