"""What a report shows, as plain values for JSON: no markup but MathML and SVG of our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sympy import Expr, Integer, Max, Symbol

from costgraph.compiling.compiled import Compiled
from costgraph.counting.count import Row
from costgraph.errors import CostgraphError
from costgraph.formula import Formula, Term
from costgraph.formula.terms import ZERO, merged, remade
from costgraph.ir.metrics import check_metric
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import MEMORY, Role, level_of
from costgraph.rewriting.pipeline import text_of
from costgraph.showing.report.code import Scripts, Values
from costgraph.showing.report.formulas import Printed
from costgraph.showing.report.graphs import Graphs
from costgraph.showing.report.load import load_of
from costgraph.symbols import LEGEND
from costgraph.timing import roofline
from costgraph.units import format_quantity

#: Sizes, with the end of the slider.
SIZES = {"B": 1024, "S": 131072, "N": 32768, "T": 131072, "K": 1024, "G": 65536}
#: Where symbolic options of passes start that have no number as their default.
_STARTS = {"bits": 4.0, "group": 128.0, "kv_group": 128.0, "scale_bits": 16.0, "outliers": 0.01}
#: What pages need not carry, and inline styles, which their policy does not let in.
_PLAINER = (
    (' xmlns="http://www.w3.org/1998/Math/MathML"', ""),
    (' style="text-align:left"', ""),
    (' style="text-align:right"', ' class="right"'),
)


@dataclass
class Contents:
    """Collects what the variants of a page (device × pipeline) share.

    ``texts`` holds pieces of HTML with MathML, each once. With ``later`` the pictures of
    graphs, the printed formulas and servers under load, which take longest, are left out: a page
    asks for them when they are to be seen (:func:`formulas`, :func:`pictures`, :func:`.load_of`).
    """

    later: bool = False

    scripts: Scripts = field(default_factory=Scripts)
    texts: list[str] = field(default_factory=list)
    symbols: set[str] = field(default_factory=set)
    _known: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graphs = Graphs(self.text, drawn=not self.later)
        self.printed = Printed(self.text)

    def text(self, html: str) -> int:
        """The index of a piece of HTML among the page's texts."""
        for before, after in _PLAINER:
            html = html.replace(before, after)
        if html not in self._known:
            self._known[html] = len(self.texts)
            self.texts.append(html)
        return self._known[html]

    # --- one variant ---------------------------------------------------------------

    def measured(self, compiled: Compiled) -> dict[str, Any]:
        """A pipeline's metrics on one device, its memory and limits, as one function."""
        metrics = metrics_of(compiled)
        phases = compiled.program.phases
        parts = _request_parts(compiled)
        memory = [(p, part) for p in phases for part in _memory_parts(p, compiled)]
        values = Values()
        places = [[values.index(e) for e in triple] for _, (_, *triple) in memory]
        stated = dict.fromkeys(x for f in metrics.values() for x in f.limits)
        fixed = [x if x.bound.is_number else replace(x, expr=x.excess, bound=ZERO) for x in stated]
        limits = [(values.index(x.expr), x) for x in fixed]
        positions = [(values.index(x.expr), x) for x in compiled.program.positions]
        shown = (*metrics.values(), *parts)
        for formula in shown:
            self.symbols |= {s.name for s in formula.symbols}
        extra = values.formulas()
        function = self.scripts.add((*shown, *extra))
        offset = len(shown)
        return {
            "function": function,
            "metrics": [[name, f.unit] for name, f in metrics.items()],
            "parts": [p.name for p in phases] if parts else [],
            "memory": [
                [f"{p.name}, {unit}" if unit else p.name, *(offset + i for i in triple)]
                for (p, (unit, *_)), triple in zip(memory, places, strict=True)
            ],
            "limits": [[offset + i, float(x.bound), str(x.expr), x.why] for i, x in limits],
            "stated": [[offset + i, x.most, *x.says("\0").split("\0")] for i, x in positions],
            "devices": float(_number(compiled.program.devices, compiled)),
        }

    def variant(self, compiled: Compiled) -> dict[str, Any]:
        """Everything about one pipeline on one device, over symbols for its figures."""
        metrics, phases = metrics_of(compiled), compiled.program.phases
        return self.measured(compiled) | {
            "system": 1 if compiled.system is None else compiled.system.devices,
            "parameters": float(_number(compiled.parameters, compiled)),
            "parameters_on": compiled.parameters_on,
            "held": held_text(compiled),
            "phases": [self._phase(compiled, p) for p in phases],
            "formulas": None if self.later else self.printed.of(compiled, metrics),
            "load": None if self.later else load_of(compiled, self.scripts),
            "assumptions": list(dict.fromkeys(a for f in metrics.values() for a in f.assumptions)),
        }

    def _phase(self, compiled: Compiled, phase: Phase) -> dict[str, Any]:
        values = Values()
        machine = compiled.machine
        dims = dict(compiled.program.dims)
        bound: dict[Expr, Expr] = {}

        def bind(expr: Expr) -> Expr:
            if expr not in bound:
                bound[expr] = phase.bind(expr).xreplace(dims)
            return bound[expr]

        costs: dict[tuple[Any, ...], int] = {}
        rows = []
        timed = compiled.timing_on(machine)
        for row in compiled.rows[phase.name]:
            work = tuple(
                (str(machine.peaks[machine.resolve(engine, dtype)]), values.index(bind(flops)))
                for (engine, dtype), flops in row.cost.flops.items()
            )
            moved = tuple(
                (role.value, values.index(bind(row.cost.bytes_of(role))))
                for role in Role
                if row.cost.bytes_of(role) != 0
            )
            whole = (row.cost.total_flops, row.cost.total_bytes, row.count)
            shown = tuple(self.graphs.math(bind(e)) for e in whole)
            cost: tuple[Any, ...] = (
                values.index(bind(row.count * phase.rounds)),
                work,
                moved,
                *shown,
            )
            if timed is not None or not _of_the_device(phase, row):
                found = (timed or roofline.ideal(machine))(phase, row)
                terms = [
                    roofline.on_unit(t, row.unit).mapped(lambda e: e.xreplace(dims)) for t in found
                ]
                cost += (tuple(_timing(t, values) for t in terms),)
            rows.append([self.graphs.node(row), costs.setdefault(cost, len(costs))])
        formulas = list(values.formulas())
        step, races = _at_once(compiled, phase, formulas)
        for formula in formulas:
            self.symbols |= {s.name for s in formula.symbols}
        context = None if phase.span is None else phase.span.symbol.name
        return {
            "name": phase.name,
            "context": context,
            "graph": self.graphs.index(phase.graph, len(rows)),
            "function": self.scripts.add(formulas) if formulas else None,
            "tokens": float(phase.tokens) if phase.tokens.is_number else None,
            "rows": rows,
            "costs": list(costs),
            "step": step,
            "races": races,
        }


def _at_once(
    compiled: Compiled, phase: Phase, formulas: list[Formula]
) -> tuple[int | None, list[Any]]:
    """Places of a step's time and of all that runs at the same time in it.

    Adds formulas for them; none where all operations follow one another.
    """
    items, machine = compiled.items[phase.name], compiled.machine
    found = list(roofline.at_once(phase, items, machine, compiled.timing_on(machine)))
    if not found:
        return None, []

    def place(terms: Iterable[Term]) -> int:
        formulas.append(Formula("seconds", "s", merged(remade(t) for t in terms)))
        return len(formulas) - 1

    races = []
    for region in found:
        sides = [
            (arm.resource, shared, place(region.alone(arm)))
            for arms, shared in ((region.bodies, False), (region.shared, True))
            for arm in arms
        ]
        races.append([region.name, sides])
    return place(compiled.time(phase.name).terms), races


def _of_the_device(phase: Phase, row: Row) -> bool:
    """Whether peaks and memory of the device alone give a row's time."""
    elsewhere = level_of(row.unit) or phase.pace(row.unit) != 1 or row.cost.links
    return not elsewhere and all(level == MEMORY for level, *_ in row.cost.bytes)


def _timing(term: Term, values: Values) -> tuple[Any, ...]:
    """A term of an operation's own time: count, exponent of its norm or None, arms.

    The count is that of the row, times the quantile of a band.
    """
    arms = tuple((a.resource, values.index(a.expr)) for a in term.arms)
    norm = None if term.norm is None else float(term.norm)
    return values.index(term.count), norm, arms


def formulas(
    compiled: Compiled, contents: Contents, metric: str | None = None
) -> dict[str, dict[str, int]]:
    """The printed formulas of one pipeline on one device: indices among the contents' texts.

    Args:
        compiled: the pipeline on the device.
        contents: collects the texts.
        metric: the one to print; by default all.

    Raises:
        InputError: there is no such metric.
        CostgraphError: the model or the device does not have it.
    """
    if metric is None:
        return contents.printed.of(compiled, metrics_of(compiled))
    check_metric(metric, compiled.metrics)
    return contents.printed.of(compiled, {metric: getattr(compiled, metric)})


def pictures(compiled: Compiled) -> list[dict[str, Any]]:
    """Pictures of each graph, in the order in which ``Contents.variant`` lists graphs.

    Each has ``every`` operation, and is ``folded``, where that is another picture.
    """
    contents = Contents()
    found: dict[int, dict[str, Any]] = {}
    for phase in compiled.program.phases:
        rows = len(compiled.rows[phase.name])
        number = contents.graphs.index(phase.graph, rows)
        if number not in found:
            place = contents.graphs.made[number]["svg"]
            every = None if place is None else contents.texts[place]
            folded = contents.graphs.folded(phase.graph, number, rows)
            found[number] = {"every": every, "folded": folded}
    return list(found.values())


def metrics_of(compiled: Compiled) -> dict[str, Formula]:
    """Every metric that the model and the device have."""
    found = {}
    for name in compiled.metrics:
        with suppress(CostgraphError):  # a device may state neither power nor energies
            found[name] = getattr(compiled, name)
    return found


def _request_parts(compiled: Compiled) -> tuple[Formula, ...]:
    """The latency, split by phase; nothing if a term belongs to none."""
    split: list[Formula] = []
    terms = list(compiled.latency.terms)
    taken = 0
    for phase in compiled.program.phases:
        mine = tuple(
            t for t in terms if t.ops and all(o.startswith(f"{phase.name}.") for o in t.ops)
        )
        taken += len(mine)
        split.append(Formula(phase.name, "s", mine))
    return tuple(split) if taken == len(terms) else ()


def _memory_parts(phase: Phase, compiled: Compiled) -> Iterator[tuple[str, Expr, Expr, Expr]]:
    """For each unit its weights, its caches at the longest context, and all that it needs."""
    for held in roofline.memory_parts(phase, compiled.accounting):
        first, *more = held.candidates
        whole = Max(first, *more, evaluate=False) if more else first
        yield held.unit, held.weights, held.caches, whole


def _width(program: Program) -> Expr:
    """Devices of a row, which hold equal parts."""
    return program.width if program.groups is None else program.devices


def held_text(compiled: Compiled) -> str:
    """What each of several devices holds of the weights; empty for one, or without numbers."""
    program, most = compiled.program, dict[str, float]()
    width = _width(program)
    if program.devices == 1:
        return ""
    for phase in program.phases:
        for held in roofline.memory_parts(phase, compiled.accounting):
            weights = held.weights.xreplace(dict(program.dims))
            if not weights.is_number or not width.is_number:
                return ""
            most[held.unit] = max(most.get(held.unit, 0.0), float(weights))
    alike: dict[float, list[str]] = {}
    for unit, size in most.items():
        alike.setdefault(size, []).append(unit or "the first device")
    parts = []
    for size, units in alike.items():
        who = ", ".join(units)
        if width != 1:
            of = "" if len(most) == 1 else f" of {who}"
            who = f"each of {width} devices{of}"
        elif len(units) > 1:
            who = f"each of {who}"
        parts.append(f"{format_quantity(size, 'B')} on {who}")
    return f"weights: {', '.join(parts)}"


def _number(expr: Expr, compiled: Compiled) -> Expr:
    value = expr.xreplace(dict(compiled.program.dims))
    return value if value.is_number else Integer(0)


def hardware_figures(compiled: Compiled, used: set[str]) -> dict[str, Any]:
    """A device and those of its figures that some formula of the page uses."""
    machine = compiled.bound or compiled.machine
    system = compiled.system
    figures = {s.name: float(v) for s, v in machine.bindings().items()}
    return {
        "name": machine.name if system is None else system.name,
        "title": machine.title if system is None else system.title,
        "figures": {k: v for k, v in sorted(figures.items(), key=_figure_order) if k in used},
        "capacity": figures.get("M"),
        "price": None if machine.price.hour is None else float(machine.price.hour),
    }


def _figure_order(item: tuple[str, float]) -> tuple[bool, str]:
    return item[0] != "BW", item[0]


def controls(
    symbols: set[str],
    devices: Sequence[dict[str, Any]],
    point: Mapping[str, int | float],
    meanings: Mapping[str, tuple[str, str, float]],
    unit: int = 1,
) -> list[dict[str, Any]]:
    """Sliders for what is no figure of a device: sizes, and symbols in pipelines.

    ``unit`` image tokens are a whole image: the slider of ``G`` steps through multiples.
    """
    figures = {name for device in devices for name in device["figures"]}
    made = []
    for name in sorted(symbols - figures, key=_control_order):
        largest = SIZES.get(name, 1024)
        value = 1.0
        kind, meaning = "size" if name in SIZES else "number", LEGEND.get(name, "")
        if name in meanings:
            kind, meaning, value = meanings[name]
        made.append(
            {
                "name": name,
                "kind": kind,
                "meaning": meaning,
                "largest": largest,
                "step": unit if name == "G" else 1,
                # Nothing is made up: without a stated price the field stays empty.
                "value": None if name == "price" else point.get(name, value),
            }
        )
    return made


def _control_order(name: str) -> tuple[int, str]:
    return (list(SIZES).index(name) if name in SIZES else len(SIZES)), name


def option_symbols(everything: Iterable[Compiled]) -> dict[str, tuple[str, str, float]]:
    """Symbols that options of passes brought in: (kind, meaning, where to start)."""
    found: dict[str, tuple[str, str, float]] = {}
    for item in (p for c in everything for p in c.passes):
        for one in fields(item):
            option = one.metadata.get("option")
            value = getattr(item, one.name)
            if option is None or not isinstance(value, Symbol) or value.name in LEGEND:
                continue
            start = float(one.default) if isinstance(one.default, Expr) else 0.0
            start = start or _STARTS.get(one.name, 1.0)
            kind = "probability" if option.kind == "probability" else "number"
            meaning = f"{item.name}, {one.name.replace('_', '-')}: {option.help}"
            found.setdefault(value.name, (kind, meaning, start))
    return found


def pipeline_label(compiled: Compiled) -> str:
    """The pipeline as text; ``unmodified`` without passes."""
    return text_of(compiled.passes) or "unmodified"
