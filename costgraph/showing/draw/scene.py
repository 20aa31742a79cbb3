"""What a picture of a graph shows, before any output format.

A :class:`Scene` holds plain values: texts that were cleaned of control characters, numbers,
and identifiers in a stable order; and of each vertex the counted operations that it stands for,
whose exact expressions files for programs print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from costgraph.symbols import MEANINGS

if TYPE_CHECKING:
    import networkx

    from costgraph.counting.count import Row

#: Controls, what changes the direction of writing, and what XML cannot hold.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+"
)

_NAME = re.compile(r"(?<![\w.])[A-Za-z]\w*")

#: Roles in the order in which legends show them.
ROLES = ("activation", "weight", "kv", "state")
MARKS = ("kept", "changed", "created", "erased")


def clean(text: object, limit: int = 400) -> str:
    """One line of text: control characters become a space, what is too long is cut."""
    shown = _CONTROL.sub(" ", str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True)
class Carrier:
    """A tensor on a link: name, shape, format and role as texts."""

    name: str
    shape: str
    dtype: str
    role: str

    def __str__(self) -> str:
        return f"{self.dtype} [{self.shape}]"


@dataclass(frozen=True)
class Vertex:
    """An operation, a source, a folded part or a phase.

    Attributes:
        id: path, unique in the scene.
        name: what the picture calls it.
        kind: operation kind, or ``source``, ``part``, ``phase``.
        role: role of a source's tensor; empty for everything else.
        cluster: id of the cluster that holds it, or empty.
        lines: further lines of the label.
        count: executions per step, as text.
        unit: who runs it; empty for the device itself.
        link: links that it sends data over, with how much; empty for most operations.
        bound: ``memory``, ``compute``, ``link``, ``overhead`` or ``none``, where times are
            known.
        seconds: time of all executions in the step, or None.
        share: share of the step's time, or None.
        flops, bytes: FLOP, and bytes moved, of all executions in the step, or None.
        mark: ``kept``, ``changed``, ``created`` or ``erased`` in a difference.
        made_by, origin: the pass that made it and the operations it replaces.
        signature: equal for operations that do the same to like operands.
        parts: ids of the operations that were folded into it, in order; empty for one alone.
        counted: the operations that it stands for with their exact costs, where they are known;
            in a difference those before the pass, of what it created those after.
        becoming: the same after a pass that changed it.
    """

    id: str
    name: str
    kind: str
    role: str = ""
    cluster: str = ""
    lines: tuple[str, ...] = ()
    count: str = "1"
    unit: str = ""
    link: str = ""
    bound: str = ""
    seconds: float | None = None
    share: float | None = None
    flops: float | None = None
    bytes: float | None = None
    mark: str = ""
    made_by: str = ""
    origin: tuple[str, ...] = ()
    signature: str = ""
    parts: tuple[str, ...] = ()
    counted: tuple[Row, ...] = field(default=(), compare=False, repr=False)
    becoming: tuple[Row, ...] = field(default=(), compare=False, repr=False)

    @property
    def operations(self) -> tuple[str, ...]:
        """Ids of the operations that it stands for."""
        return () if self.is_source else self.parts or (self.id,)

    @property
    def is_source(self) -> bool:
        """True for inputs, weights and caches."""
        return self.kind == "source"


@dataclass(frozen=True)
class Link:
    """Tensors that go from one vertex to another.

    ``carried`` links feed the next round of a repeated part; they close cycles.
    """

    start: str
    end: str
    tensors: tuple[Carrier, ...] = ()
    carried: bool = False
    mark: str = ""
    text: str = ""

    @property
    def role(self) -> str:
        """The role that the line's style shows: the least common one on it."""
        return max((t.role for t in self.tensors), key=ROLES.index, default="activation")


@dataclass(frozen=True)
class Cluster:
    """A frame around vertices; ``mark`` as for vertices.

    ``is_place`` tells frames that say where or beside what something runs (units, bodies
    that run at once) from parts of a model that repeat; ``is_body`` those of them that run
    at once with others. ``counted`` is what was created of the operations in it, with its costs.
    """

    id: str
    title: str
    parent: str = ""
    mark: str = ""
    is_place: bool = False
    is_body: bool = False
    counted: tuple[Row, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Scene:
    """A picture's content.

    Attributes:
        title, subtitle: head lines.
        clusters: outer ones before inner ones.
        vertices, links: in a stable order.
        notes: sentences under the picture.
        marks: whether it is a difference.
        meanings: what names of symbols stand for, beside the well-known ones.
        bindings: what a phase has for symbols of its graph: name and expression.
        sizes: symbols whose values the subtitle states.
    """

    title: str
    subtitle: str = ""
    clusters: tuple[Cluster, ...] = ()
    vertices: tuple[Vertex, ...] = ()
    links: tuple[Link, ...] = ()
    notes: tuple[str, ...] = ()
    marks: bool = field(default=False)
    meanings: tuple[tuple[str, str], ...] = ()
    bindings: tuple[tuple[str, str], ...] = ()
    sizes: tuple[str, ...] = ()

    @cached_property
    def frames(self) -> dict[str, Cluster]:
        """Clusters by their ids."""
        return {c.id: c for c in self.clusters}

    def around(self, cluster: str) -> Iterator[Cluster]:
        """The frames around what stands in a cluster, from the inside out."""
        while cluster in self.frames:
            found = self.frames[cluster]
            yield found
            cluster = found.parent

    def noting(self, *sentences: str) -> Scene:
        """The scene with further notes."""
        return replace(self, notes=(*self.notes, *sentences))

    @property
    def operations(self) -> tuple[Vertex, ...]:
        """Everything but sources."""
        return tuple(v for v in self.vertices if not v.is_source)

    def to_networkx(self, **about: str) -> networkx.MultiDiGraph[str]:
        """Vertices and links with their attributes as plain texts and numbers.

        The graph has ``about``, what the symbols of its shapes, counts and expressions stand
        for, and what its phase has for them. An operation has its exact FLOP and bytes of all
        executions in the step as expressions (:mod:`costgraph.showing.draw.exact`). In a
        difference they are those before the pass, and of what it created those after; what it
        changed has those after as ``flops_expression_after`` and so on, and what it created of
        the operations in a frame has them in the graph's ``created_flops_expression`` and so on,
        a line for each frame's id.

        Carried links and links that differ in their mark are parallel edges,
        told apart by their key.
        """
        import networkx

        from costgraph.showing.draw.exact import work_texts

        found: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(
            title=self.title,
            subtitle=self.subtitle,
            notes="\n".join(self.notes),
            **about,
            bindings="\n".join(f"{name} = {value}" for name, value in self.bindings),
        )
        printed: list[str] = []
        titles = {c.id: c.title for c in self.clusters}
        for v in self.vertices:
            attributes: dict[str, object] = {
                "name": v.name,
                "kind": v.kind,
                "count": v.count,
                "lines": "\n".join(v.lines),
            }
            optional = {
                "role": v.role,
                "cluster": v.cluster,
                "cluster_title": titles.get(v.cluster, ""),
                "unit": v.unit,
                "link": v.link,
                "bound": v.bound,
                "mark": v.mark,
                "made_by": v.made_by,
                "origin": "\n".join(v.origin),
            }
            attributes |= {k: text for k, text in optional.items() if text}
            if v.seconds is not None:
                attributes["seconds"] = v.seconds
            for name in ("share", "flops", "bytes"):
                if (number := getattr(v, name)) is not None:
                    attributes[name] = number
            work = work_texts(v.counted)
            work |= {f"{name}_after": text for name, text in work_texts(v.becoming).items()}
            printed += work.values()
            found.add_node(v.id, **attributes, **work)
        for link in self.links:
            key = "carried" if link.carried else "data"
            key = f"{key}:{link.mark}" if link.mark else key
            found.add_edge(
                link.start,
                link.end,
                key=key,
                role=link.role,
                carried=link.carried,
                tensors="\n".join(t.name for t in link.tensors),
                shapes="\n".join(t.shape for t in link.tensors),
                dtypes="\n".join(t.dtype for t in link.tensors),
            )
        created: dict[str, list[str]] = {}
        for c in self.clusters:
            for name, text in work_texts(c.counted).items():
                printed.append(text)
                lines = created.setdefault(f"created_{name}", [])
                lines += [f"{c.id}: {line}" for line in text.splitlines()]
        found.graph.update({key: "\n".join(lines) for key, lines in created.items()})
        found.graph["symbols"] = "\n".join(self.explained(*printed))
        return found

    def explained(self, *further: str) -> Iterator[str]:
        """What each symbol that the picture, or a further text, shows stands for, a line each."""
        texts = [*further, *self.sizes, *(t.shape for link in self.links for t in link.tensors)]
        texts += [c.title.rpartition(" × ")[2] for c in self.clusters if " × " in c.title]
        for v in self.vertices:
            texts += [v.count, v.link]
            texts += v.lines if v.kind == "phase" else ()
        known = {**MEANINGS, **dict(self.meanings)}
        names = {name for text in texts for name in _NAME.findall(text)} & known.keys()
        bound = {name: value for name, value in self.bindings if name in names}
        names |= {n for value in bound.values() for n in _NAME.findall(value)} & known.keys()
        for name in sorted(names):
            here = f" (here {bound[name]})" if name in bound else ""
            yield f"{name}: {known[name]}{here}"


def joined(links: Iterable[Link], where: Mapping[str, str] | None = None) -> tuple[Link, ...]:
    """Links with equal ends (after the renaming ``where``) as one; loops disappear.

    A carried link that would run beside a plain one stays apart.
    """
    places = where or {}
    kept: dict[tuple[str, str, bool, str], Link] = {}
    tensors: dict[tuple[str, str, bool, str], dict[Carrier, None]] = {}
    for link in links:
        start, end = places.get(link.start, link.start), places.get(link.end, link.end)
        if start == end:
            continue
        key = (start, end, link.carried, link.mark)
        kept.setdefault(key, replace(link, start=start, end=end))
        tensors.setdefault(key, {}).update(dict.fromkeys(link.tensors))
    return tuple(replace(link, tensors=tuple(tensors[key])) for key, link in kept.items())
