"""The pass ``split-rows``: devices share an image by its rows, as HALP, MoDNN or in one shot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.links import Hop
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.passes.spatial.bands import Cuts, Order
from costgraph.passes.spatial.segments import Asker, Read, read
from costgraph.passes.spatial.split import Way, split
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.sizes import Sizes
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B
from costgraph.units import format_quantity

ONE, ZERO, TWO = Integer(1), Integer(0), Integer(2)
SCHEMES = ("halp", "modnn", "once")
EVEN, BEST, RATE = "even", "best", "rate"
#: Rows of a layer whose whole numbers are shares to choose among.
FEW = 6
#: The share of a graph's FLOP below which a split of what has rows is none of the model.
LEAST = Integer(1) / 2
#: The slowest that another device can be beside the host, and how much faster one.
SLOWEST = Integer(1) / 1000


@dataclass(frozen=True)
class SplitRows(Pass):
    """A convolutional model on several devices, each with a band of the rows of every layer.

    ``halp``: two secondaries have the top and the bottom, the host the zone between them.
    Whoever makes rows that another waits for makes them first, and sends them while it makes
    the others. ``modnn``: each device its band; exchanges follow computation. ``once``:
    nothing is exchanged after the image, and what bands need in common is computed twice.
    """

    name: ClassVar[str] = "split-rows"
    title: ClassVar[str] = "share an image's rows among a host and others at the edge (HALP, MoDNN)"
    formula: ClassVar[str] = (
        "halp, each segment: Max(part's own rows, rows for others + their way); modnn: Max over "
        "parts, then the exchange; a window of k rows, stride s, reaches over (r − 1)·s + k"
    )
    source: ClassVar[str] = (
        "Li, Iosifidis and Zhang, HALP, arXiv 2207.11294; its prototype: Dong et al., arXiv "
        "2211.13778; Mao et al., MoDNN, DATE 2017; Zhao et al., DeepThings, TCAD 37(11), 2018 "
        "(bands that overlap)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "split-rows: all parts begin a segment together; a part sends to one other at a time, "
        "receives from one at a time meanwhile, and holds all weights of what it runs",
    )
    stage: ClassVar[Stage] = Stage.PLACEMENT
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    scheme: str = option("word", "halp", "who has which rows, and when they are exchanged",
                         choices=SCHEMES)  # fmt: skip
    parts: Expr = option(
        "integer", Integer(3), "devices that have rows", minimum=2, maximum=64, symbolic=False,
        under=("scheme=modnn", "scheme=once"),
    )  # fmt: skip
    zone: Expr | str = option(
        "probability", Integer(1) / 7, "share of the rows that the host has, between the others; "
        "'best': the one with which an image takes least; 'rate': its part of what all compute",
        choices=(BEST, RATE), under=("scheme=halp",),
    )  # fmt: skip
    top: Expr | str = option(
        "probability", EVEN, "share of the rows that the first secondary has; else both as many",
        choices=(EVEN,), under=("scheme=halp",),
    )  # fmt: skip
    pace: Expr = option(
        "number", ONE, "how many times as fast as the host the others compute and read memory",
        minimum=SLOWEST, maximum=1 / SLOWEST,
    )  # fmt: skip
    image: str = option(
        "word", "host", "who has the image at first: the host, or each", choices=("host", "each")
    )

    medium: str = option(
        "word", "switch", "what joins the devices: a switch, each with a link of its own, or one "
        "medium that all share, as a radio is", choices=("switch", "shared"),
    )  # fmt: skip

    at_batch: Expr = option(
        "integer", ONE, "batch at which the best zone is decided", minimum=1, symbolic=False,
        under=("zone=best",),
    )  # fmt: skip

    #: How the best zone was decided; no option.
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        """True while the zone is open."""
        return self.scheme == "halp" and self.zone == BEST

    def search(self, program: Program, system: System) -> Search:
        """Tries every whole number of rows of the smallest layer that has a few for each part."""
        rows = self._grid(program)
        top = ZERO if isinstance(self.top, str) else self.top
        zones = [Integer(count) / rows for count in range(1, rows - 1)]
        tried: list[tuple[float, Expr, Sizes]] = []
        for zone in (z for z in zones if top.is_number and top + z < 1):
            formula = (yield self._with(zone)).formula("latency")
            sizes = Sizes.of(self, [formula], instead="name a zone")
            tried.append((sizes.evaluate(formula), zone, sizes))
        if not tried:
            raise PipelineError("split-rows: zone=best: top leaves no rows for a zone")
        (seconds, zone, sizes), *others = sorted(tried, key=lambda found: found[0])
        parts = [int(b - a) for a, b in self._with(zone)._cuts.bands(Integer(rows))]
        note = (
            f"split-rows: zone={zone} decided at {sizes}: {parts[0]}, {parts[1]} and {parts[2]} of "
            f"{rows} rows, {format_quantity(seconds, 's')}"
        )
        if others:
            note += f"; next zone={others[0][1]} with {format_quantity(others[0][0], 's')}"
        return replace(self._with(zone), note=note)

    def _with(self, zone: Expr) -> SplitRows:
        """The pass, decided."""
        return replace(self, zone=zone, at_batch=ONE)

    def _grid(self, program: Program) -> int:
        """Rows of the smallest layer that has a few for each part."""
        of = read(self._phase(program).graph)
        self._check(program, of)
        counts = sorted({int(r.count) for r in of.rows.values() if r.count.is_Integer})
        return next((c for c in counts if c >= FEW), counts[-1])

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError("split-rows: 'best' needs a machine to be decided on; use compile")
        phase = self._phase(program)
        units = self._units(system)
        graph = unrolled(phase.graph) if self.scheme == "once" else phase.graph
        of = read(graph)
        self._check(program, of)
        if program.devices != 1:
            raise PipelineError("split-rows: the model is shared among devices already: give one")
        order = Order()
        asker = Asker(self._cuts, order, units.index(""), self.scheme != "once")
        way = Way(
            asker, units, self._hop(system), self.medium == "shared", self.scheme == "halp",
            self.image == "each", self.name,
        )  # fmt: skip
        paces = tuple((u, self.pace) for u in units if u) if self.pace != 1 else ()
        made = replace(phase, graph=split(of, way), paces=paces)
        count = Integer(len(units))
        new = replace(
            program,
            phases=(made,),
            devices=count,
            stages=len(units),
            limits=(*program.limits, *order.limits()),
        ).assuming(*self._said(system))
        hits = tuple(f"{self.scheme}: {name}" for name in (*of.rules, *of.inner))
        misses = tuple(
            Miss(self.name, n.name, "needs the whole image: it runs on the host")
            for n in of.whole
            if not n.op.is_view
        )
        return Outcome(new, hits, misses)

    @staticmethod
    def _phase(program: Program) -> Phase:
        """The one pass over an image.

        Raises:
            PipelineError: there are several phases.
        """
        if len(program.phases) != 1:
            raise PipelineError(
                f"split-rows: {program.name} runs in several phases; rows are shared of models "
                "that pass over an image once"
            )
        return program.phases[0]

    @property
    def _cuts(self) -> Cuts:
        if self.scheme != "halp":
            return Cuts(self._by_rate(int(self.parts)))
        zone = _share(self._zone)
        top = (1 - zone) / 2 if isinstance(self.top, str) else self.top
        below = top + zone
        if below.is_number and below > 1:
            raise PipelineError(f"split-rows: top and zone take {below} of the rows")
        return Cuts((top, below))

    @property
    def _zone(self) -> Expr | str:
        """The zone's share of the rows; open only while it is searched for."""
        if self.zone != RATE:
            return self.zone
        first, second = self._by_rate(3)
        return second - first

    def _by_rate(self, parts: int) -> tuple[Expr, ...]:
        """Where rows are cut so that each has as many as its rate lets it make, the host one.

        Raises:
            PipelineError: the rate is a symbol.
        """
        if not self.pace.is_number:
            raise PipelineError(
                "split-rows: rows are shared by rates that are numbers: give pace one, or a zone"
            )
        whole = 1 + (parts - 1) * self.pace
        rates = [ONE if k == parts // 2 else self.pace for k in range(parts)]
        return tuple(Add(*rates[:k]) / whole for k in range(1, parts))

    def _units(self, system: System) -> tuple[str, ...]:
        count = 3 if self.scheme == "halp" else int(self.parts)
        if system.devices < count:
            raise PipelineError(
                f"split-rows: {system.name} has {system.devices} devices, rows are dealt out to "
                f"{count}: name {count}x{system.device.name} or a system file"
            )
        others = iter(f"edge {i}" for i in range(1, count))
        host = count // 2
        return tuple("" if k == host else next(others) for k in range(count))

    def _hop(self, system: System) -> Hop:
        count = 3 if self.scheme == "halp" else int(self.parts)
        apart = count > system.per_node
        hops = system.hops(TWO, Integer(system.per_node)) if apart else system.hops(TWO)
        return hops[-1]

    def _said(self, system: System) -> tuple[str, ...]:
        found = [self.note] if self.note else []
        symbols = _share(self._zone).free_symbols | (
            set() if isinstance(self.top, str) else self.top.free_symbols
        )
        if self.scheme == "halp" and symbols:
            found.append("split-rows: rows are dealt out by shares as they are, not as whole rows")
        if self.pace != 1:
            found.append(
                f"split-rows: the host is {system.device.name}; the others compute and read their "
                f"memory {self.pace} times as fast, with as much of it, power and price"
            )
        if self.scheme == "once":
            found.append("split-rows: rows that several parts need are made by each of them")
        return tuple(found)

    def _check(self, program: Program, of: Read) -> None:
        """Refuses models of which not even half the work has rows.

        Raises:
            PipelineError: what stands in the way.
        """
        if not of.rows:
            raise PipelineError(
                f"split-rows: {program.name} takes no image (B, C, rows, columns) whose rows "
                "could be shared"
            )
        blocking = [n.name for n in of.whole if not n.op.is_view]
        total, banded = _flop(of.graph), _flop(of.graph, {*of.rules, *of.inner})
        share = banded / total if total != 0 else ZERO
        if not share.is_number or share < LEAST:
            first = f": {blocking[0]!r} needs all rows at once" if blocking else ""
            raise PipelineError(
                f"split-rows: rows of {program.name} cannot be shared{first}, and so does all "
                "behind it, which is most of the work"
            )


def _share(zone: Expr | str) -> Expr:
    """The zone's share of the rows, decided."""
    assert not isinstance(zone, str)
    return zone


def _flop(graph: Graph, among: set[str] | None = None) -> Expr:
    """FLOP of a graph for one image, or of some of its nodes."""
    costs = (
        n.op.cost(graph.operands(n), n.outputs).total_flops
        for n in graph.nodes
        if among is None or n.name in among
    )
    total: Expr = sum(costs, ZERO)
    return total.xreplace({B: ONE})
