"""Graphs in bands: what each part runs, what it sends to others, and what goes on meanwhile.

Every segment becomes a parallel region with bodies on the units of its parts. Where
exchange is hidden, a part makes the rows that others wait for in a body of their own, which
sends them while the part makes its other rows; else all wait until everything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sympy import Expr, Integer, expand

from costgraph.errors import PipelineError
from costgraph.hardware.links import Hop
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op, same
from costgraph.ir.regions import Body, Parallel, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.collectives import Send
from costgraph.ops.views import Beside
from costgraph.passes.spatial.rows import Interval, Rows
from costgraph.passes.spatial.segments import Asker, Needs, Read, Steps
from costgraph.rewriting.rewrite import live

ONE = Integer(1)


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor that a part has, as a tensor of their own."""

    rows: Interval
    tensor: Tensor


#: What each part has of a tensor.
Held = dict[int, tuple[Piece, ...]]
#: Rows of a tensor that go to a part: the part, the tensor, the rows.
Sent = tuple[int, str, Interval]
#: A body, the tensors that it takes, and who has which rows of which tensor once it ends.
Written = tuple[Body, list[Tensor], list[tuple[int, str, Piece]]]


@dataclass(frozen=True)
class Way:
    """How a graph is split.

    Attributes:
        asker: which rows are whose.
        units: who the parts are; empty for the host.
        hop: the link between any two of them.
        shared: all of them send over one medium, one after the other.
        hidden: rows that others wait for are made, and sent, first.
        everywhere: every part has the whole of images.
        made_by: the pass.
    """

    asker: Asker
    units: tuple[str, ...]
    hop: Hop
    shared: bool
    hidden: bool
    everywhere: bool
    made_by: str

    def title(self, part: int) -> str:
        """A part, in words."""
        return self.units[part] or "host"

    def through(self, part: int) -> tuple[str, ...]:
        """What is busy while something is sent to a part, beside whoever sends it."""
        return ("the medium",) if self.shared else (f"into {self.title(part)}",)

    def label(self, part: int) -> str:
        """A part, in the names of its tensors."""
        return self.title(part).replace(" ", "")


@dataclass
class _Writer:
    """Nodes in the making; names of tensors are unique."""

    way: Way
    nodes: list[Node] = field(default_factory=list)
    read: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self, name: str, op: Op, inputs: Sequence[Tensor], outputs: Sequence[str], unit: str = "",
        origin: tuple[str, ...] = (),
    ) -> tuple[Tensor, ...]:  # fmt: skip
        for t in inputs:
            if t.name not in self.made:
                self.read[t.name] = t
        tensors = tuple(s.named(o) for s, o in zip(op.infer(tuple(inputs)), outputs, strict=True))
        names = tuple(t.name for t in inputs)
        self.nodes.append(Node(name, op, names, tensors, Origin(origin, self.way.made_by), unit))
        self.made.update((t.name, t) for t in tensors)
        return tensors

    def view(self, op: Op, inputs: Sequence[Tensor], name: str, unit: str = "") -> Tensor:
        return self.add(f"{name} rows", op, inputs, (name,), unit)[0]

    def band(
        self, pieces: Sequence[Piece], rows: Rows, wanted: Interval, name: str, unit: str = ""
    ) -> Tensor:
        """The wanted rows, of what a part has: views of its pieces, side by side."""
        order = self.way.asker.order
        found: list[tuple[Interval, Tensor]] = []
        left: list[Interval] = [wanted]
        for piece in pieces:
            for rest in left:
                both = order.overlap(rest, piece.rows)
                if both is None:
                    continue
                tensor = piece.tensor
                if not (same(both[0], piece.rows[0]) and same(both[1], piece.rows[1])):
                    cut = rows.cut(expand(both[0] - piece.rows[0]), expand(both[1] - both[0]))
                    tensor = self.view(cut, [tensor], f"{name}.{len(found)}", unit)
                found.append((both, tensor))
                left = [r for x in left for r in order.without(x, [both])]
                break
        if left:
            raise PipelineError(f"split-rows: nobody has rows {left[0]} of {name!r}")
        ordered: list[tuple[Interval, Tensor]] = []
        for item in found:
            at = next((i for i, o in enumerate(ordered) if order.at_most(item[0][1], o[0][0])),
                      len(ordered))  # fmt: skip
            ordered.insert(at, item)
        if len(ordered) == 1:
            return ordered[0][1]
        return self.view(Beside(rows.axis), [t for _, t in ordered], name, unit)

    def sent(self, tensor: Tensor, name: str, to: int, unit: str = "") -> Tensor:
        """A tensor at another part."""
        op = Send((self.way.hop,), self.way.through(to))
        return self.add(f"{name} send", op, [tensor], (name,), unit)[0]

    def body(self, name: str, unit: str, outputs: Iterable[Tensor]) -> tuple[Body, list[Tensor]]:
        """What was written as a body, and the tensors that it takes."""
        sources = tuple(self.read.values())
        graph = Graph(name, sources, tuple(self.nodes), tuple(t.name for t in outputs))
        taken = list(graph.inputs)
        return Body(name, graph, tuple(range(len(taken))), unit), taken


@dataclass
class _Split:
    """One graph on its way into bands."""

    way: Way
    of: Read
    results: Mapping[str, Mapping[int, Interval]]
    held: dict[str, Held]
    out: _Writer

    def run(self) -> None:
        """Writes all segments and layers, in order."""
        asker = self.way.asker
        steps = asker.steps(self.of)
        needs = asker.needs(steps, self.results)
        self._images(needs)
        for place, nodes in enumerate(steps.segments):
            if nodes and nodes[0].name in self.of.inner:
                self._layers(nodes[0], needs)
            elif nodes:
                self._segment(steps, place, needs)

    def _images(self, needs: Needs) -> None:
        """The host sends every other part the rows of images that it needs."""
        for tensor in self.of.graph.inputs:
            rows = self.of.rows.get(tensor.name)
            if rows is None or tensor.name in self.held:
                continue
            host = self.way.asker.host
            whole = Piece((Integer(0), rows.count), tensor)
            if self.way.everywhere:
                self.held[tensor.name] = dict.fromkeys(range(len(self.way.units)), (whole,))
                continue
            self.held[tensor.name] = {host: (whole,)}
            for part, wanted in needs.get(tensor.name, {}).items():
                if part != host:
                    name = f"{tensor.name}.{self.way.label(part)}"
                    cut = self.out.band([whole], rows, wanted, f"{name}.cut")
                    there = self.out.sent(cut, name, part, self.way.units[host])
                    self.held[tensor.name][part] = (Piece(wanted, there),)

    def _segment(self, steps: Steps, place: int, needs: Needs) -> None:
        asker, nodes = self.way.asker, steps.segments[place]
        made = asker.made(steps, place)
        bodies: list[Written] = []
        after: dict[int, list[Sent]] = {}
        for part, wanted in made.items():
            sends = [
                (to, name, both)
                for name, own in wanted.items()
                for to, need in needs.get(name, {}).items()
                if to != part and (both := asker.order.overlap(need, own)) is not None
            ]
            for to, rows, now in self._bodies(wanted, sends):
                bodies.append(self._body(steps, place, part, to, rows, now))
            if not self.way.hidden and sends:
                after[part] = sends
        self._together(f"{nodes[0].name} bands", bodies)
        for part, wanted in made.items():
            for name, own in wanted.items():
                self._put_together(part, name, own)
        self._exchange(f"{nodes[0].name} exchange", after)

    def _put_together(self, part: int, name: str, own: Interval) -> None:
        """What several bodies of a part made of its rows, as one tensor."""
        order, pieces = self.way.asker.order, self.held[name][part]
        mine = [p for p in pieces if order.overlap(p.rows, own) is not None]
        if len(mine) > 1:
            label, unit = f"{name}.{self.way.label(part)}.own", self.way.units[part]
            one = self.out.band(mine, self.of.rows[name], own, label, unit)
            self.held[name][part] = (Piece(own, one), *(p for p in pieces if p not in mine))

    def _bodies(
        self, wanted: Mapping[str, Interval], sends: Sequence[Sent]
    ) -> list[tuple[int | None, Mapping[str, Interval], Sequence[Sent]]]:
        """The bodies of a part: for whom alone, rows that each makes, and what it sends of them."""
        order = self.way.asker.order
        if not self.way.hidden:
            return [(None, wanted, [])]
        receivers = dict.fromkeys(to for to, _, _ in sends)
        borders = {to: [s for s in sends if s[0] == to] for to in receivers}
        inner = {
            name: order.without(own, [rows for _, n, rows in sends if n == name])
            for name, own in wanted.items()
        }
        apart = all(
            order.overlap(a[2], b[2]) is None
            for i, a in enumerate(sends)
            for b in sends[:i]
            if a[1] == b[1]
        )
        if not sends or not apart or any(len(rest) != 1 for rest in inner.values()):
            return [(None, wanted, sends)]
        return [
            *((to, {n: rows for _, n, rows in own}, own) for to, own in borders.items()),
            (None, {name: rest for name, (rest,) in inner.items()}, []),
        ]

    def _body(
        self,
        steps: Steps,
        place: int,
        part: int,
        receiver: int | None,
        goal: Mapping[str, Interval],
        sends: Sequence[Sent],
    ) -> Written:
        """A body: its rows of a segment, and sends; with the pieces that parts then have."""
        asker, nodes = self.way.asker, steps.segments[place]
        need = asker.backward(self.of, nodes, goal)
        writer = _Writer(self.way)
        label, mark = self.way.title(part), self.way.label(part)
        if receiver is not None:
            other = self.way.title(receiver)
            label, mark = f"{label}, rows for {other}", f"{mark}.for_{other.split()[-1]}"
        here: dict[str, Piece] = {}
        for node in nodes:
            if any(t.name in need for t in node.outputs):
                self._band(writer, node, need, here, part, mark)
        pieces: list[tuple[int, str, Piece]] = []
        for name, band in goal.items():
            made = writer.band([here[name]], self.of.rows[name], band, f"{name}.{mark}.own")
            pieces.append((part, name, Piece(band, made)))
        for to, name, band in sends:
            cut = f"{name}.{mark}.to_{self.way.label(to)}"
            tensor = writer.band([here[name]], self.of.rows[name], band, f"{cut}.cut")
            pieces.append((to, name, Piece(band, writer.sent(tensor, cut, to))))
        outputs = list(dict.fromkeys(p.tensor for _, _, p in pieces))
        body, taken = writer.body(label, self.way.units[part], outputs)
        return body, taken, pieces

    def _band(
        self,
        writer: _Writer,
        node: Node,
        need: Mapping[str, Interval],
        here: dict[str, Piece],
        part: int,
        mark: str,
    ) -> None:
        """A node on the rows that are needed of it."""
        of = self.of
        rule = of.rules[node.name]
        band = self.way.asker.order.union(need[t.name] for t in node.outputs if t.name in need)
        operands: list[Tensor] = []
        for index, (name, tensor) in enumerate(
            zip(node.inputs, of.graph.operands(node), strict=True)
        ):
            window = rule.windows.get(index)
            if window is None:
                operands.append(self._constant(writer, tensor))
                continue
            rows = of.rows[name]
            wanted = self.way.asker.order.needs(window, band, rows.count)
            have = (here[name],) if name in here else self.held[name][part]
            operands.append(writer.band(have, rows, wanted, f"{name}.{mark}.{node.name}.{index}"))
        outputs = [f"{t.name}.{mark}" for t in node.outputs]
        op = rule.band(expand(band[1] - band[0]))
        made = writer.add(node.name, op, operands, outputs, origin=(node.name,))
        for old, new in zip(node.outputs, made, strict=True):
            here[old.name] = Piece(band, new)

    def _constant(self, writer: _Writer, tensor: Tensor) -> Tensor:
        """A weight, or a view of weights, which every part makes for itself."""
        maker = self.of.graph.producer.get(tensor.name)
        if maker is None or tensor.name in writer.made:
            return writer.made.get(tensor.name, tensor)
        operands = [self._constant(writer, t) for t in self.of.graph.operands(maker)]
        names = [t.name for t in maker.outputs]
        made = writer.add(maker.name, maker.op, operands, names, origin=(maker.name,))
        return next(t for t in made if t.name == tensor.name)

    def _together(
        self,
        name: str,
        bodies: Sequence[Written],
    ) -> None:
        """The bodies as one region, and what parts have afterwards."""
        taken: dict[str, Tensor] = {}
        made: list[Body] = []
        for body, tensors, _ in bodies:
            taken.update((t.name, t) for t in tensors)
            places = list(taken)
            made.append(replace(body, takes=tuple(places.index(t.name) for t in tensors)))
        outputs = [o for body in made for o in body.graph.outputs]
        region = Parallel(tuple(made), one_model=True)
        self.out.add(name, region, list(taken.values()), outputs)
        for _, _, pieces in bodies:
            for part, tensor, piece in pieces:
                held = self.held.setdefault(tensor, {})
                held[part] = (*held.get(part, ()), piece)

    def _exchange(self, name: str, sends: Mapping[int, Sequence[Sent]]) -> None:
        """Everything that parts send each other, while nothing else goes on."""
        bodies = []
        for part, own in sends.items():
            writer, pieces = _Writer(self.way), []
            for to, tensor, band in own:
                mark = f"{tensor}.{self.way.label(part)}.to_{self.way.label(to)}"
                cut = writer.band(
                    self.held[tensor][part], self.of.rows[tensor], band, f"{mark}.cut"
                )
                pieces.append((to, tensor, Piece(band, writer.sent(cut, mark, to))))
            outputs = [p.tensor for _, _, p in pieces]
            bodies.append(
                (*writer.body(self.way.title(part), self.way.units[part], outputs), pieces)
            )
        if bodies:
            self._together(name, bodies)

    # --- layers

    def _layers(self, node: Node, needs: Needs) -> None:
        """Rounds of layers: each hands the next one its rows, and those of others that it needs.

        The last one hands on what follows needs. Where that is something else, it stands by
        itself.
        """
        region, body = node.op, self.of.inner[node.name]
        assert isinstance(region, Repeat)
        given = self.way.asker.carried(self.of, node)
        rename = dict(zip((t.name for t in node.outputs), node.inputs, strict=True))
        wanted = {rename[t.name]: needs.get(t.name, {}) for t in node.outputs}
        alike = all(_equal(given[name], wanted[name]) for name in given)
        state = [
            (name, part, rows) for name, parts in given.items() for part, rows in parts.items()
        ]
        now = [
            self.out.band(
                self.held[name][part], self.of.rows[name], rows,
                f"{name}.{self.way.label(part)}.{node.name}", self.way.units[part],
            )
            for name, part, rows in state
        ]  # fmt: skip
        rounds = int(region.count)
        cut = rounds if alike else rounds - 1
        if cut:
            outputs = [f"{t.name}.round" for t in now] if cut < rounds else None
            now = self._rounds(node, body, region, state, now, given, (0, cut), outputs)
        if cut < rounds:
            now = self._rounds(node, body, region, state, now, wanted, (cut, rounds), None)
        back = {old: new for new, old in rename.items()}
        listed = [(n, k, r) for n, parts in (given if alike else wanted).items()
                  for k, r in parts.items()]  # fmt: skip
        for (name, part, rows), tensor in zip(listed, now, strict=True):
            self.held.setdefault(back[name], {})[part] = (Piece(rows, tensor),)

    def _rounds(
        self,
        node: Node,
        body: Read,
        region: Repeat,
        state: Sequence[tuple[str, int, Interval]],
        now: Sequence[Tensor],
        wanted: Needs,
        which: tuple[int, int],
        outputs: Sequence[str] | None,
    ) -> list[Tensor]:
        """Some rounds of layers as one region."""
        first, last = which
        inner_of = dict(zip(node.inputs, (t.name for t in body.graph.inputs), strict=True))
        result_of = dict(zip(node.inputs, body.graph.outputs, strict=True))
        writer = _Writer(self.way)
        held: dict[str, Held] = {}
        sources: list[Tensor] = []
        for (name, part, rows), tensor in zip(state, now, strict=True):
            inside = tensor.renamed(f"{inner_of[name]}.{self.way.label(part)}")
            sources.append(inside)
            held.setdefault(inner_of[name], {})[part] = (Piece(rows, inside),)
        results = {result_of[name]: parts for name, parts in wanted.items()}
        split = _Split(self.way, body, results, held, writer)
        split.run()
        made = [
            writer.band(
                split.held[name][part], body.rows[name], rows,
                f"{name}.{self.way.label(part)}.handed", self.way.units[part],
            )
            for name, parts in results.items()
            for part, rows in parts.items()
        ]  # fmt: skip
        used = [t for t in writer.read.values() if t.role is not Role.ACTIVATION]
        graph = Graph(
            body.graph.name, (*sources, *used), tuple(writer.nodes), tuple(t.name for t in made)
        )
        rounds = last - first
        share = Integer(rounds) / region.count

        def part_of(sets: Expr | None) -> Expr | None:
            return None if sets is None else sets * share

        op = replace(
            region,
            body=graph,
            count=Integer(rounds),
            carried=len(sources) if rounds > 1 else 0,
            shared_instances=part_of(region.shared_instances),
            shared_weights=part_of(region.shared_weights),
            places=region.places[first:last],
        )
        suffix = "" if last == region.count else " rounds"
        listed = [(n, k) for n, parts in wanted.items() for k in parts]
        out_of = dict(zip(node.inputs, (t.name for t in node.outputs), strict=True))
        names = outputs or [f"{out_of[n]}.{self.way.label(k)}" for n, k in listed]
        return list(self.out.add(f"{node.name}{suffix}", op, list(now), names, origin=(node.name,)))


def _equal(a: Mapping[int, Interval], b: Mapping[int, Interval]) -> bool:
    """Whether the same parts need the same rows."""
    return a.keys() == b.keys() and all(
        same(x, y) for k in a for x, y in zip(a[k], b[k], strict=True)
    )


def split(of: Read, way: Way) -> Graph:
    """The graph in bands; what needs the whole image runs on the host, which gets all rows.

    Raises:
        PipelineError: shares that are symbols leave open who needs what.
    """
    graph = of.graph
    results = {
        o: {way.asker.host: (Integer(0), of.rows[o].count)} for o in graph.outputs if o in of.rows
    }
    out = _Writer(way)
    made = _Split(way, of, results, {}, out)
    made.run()
    gone = {t.name for n in graph.nodes for t in n.outputs if n not in of.whole}
    wanted = dict.fromkeys(i for n in of.whole for i in n.inputs if i in of.rows)
    for name in (*wanted, *(o for o in results if o not in wanted)):
        if name in gone:
            rows = of.rows[name]
            pieces = made.held[name][way.asker.host]
            whole = out.band(pieces, rows, (Integer(0), rows.count), name)
            if whole.name != name:
                out.view(Beside(rows.axis), [whole], name)
    return live(replace(graph, nodes=(*out.nodes, *of.whole)))
