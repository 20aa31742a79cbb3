"""Searching batch, devices and pipelines under limits, and Pareto fronts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any

from costgraph.asking.searching.front import Cloud, FrontPoint, cloud_of, front_of
from costgraph.asking.sweeping.plan import listed, pipeline_of
from costgraph.compiling.capacity import farther_rooms, room_of
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import passes_of, pipelines_of, split_options
from costgraph.errors import CostgraphError, InputError, clip
from costgraph.formula import Formula
from costgraph.formula.batch import Bound, Line, Range, best_batch
from costgraph.hardware.systems import System
from costgraph.ir.metrics import RANKED, check_metric, has, require
from costgraph.ir.program import Program
from costgraph.ir.workload import USUAL, checked, least_batch, lengths, less, of_step, workload
from costgraph.number import Number, bounded, is_array, is_number, parse_number, whole, wholes
from costgraph.progress import counted
from costgraph.rewriting.pipeline import text_of
from costgraph.setting import Setting
from costgraph.units import parse_quantity
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

#: Batches searched unless the caller says otherwise.
BATCHES = (1, 2**16)
_DIMENSION = {"s": "time", "byte": "size"}


@dataclass(frozen=True)
class Candidate:
    """A device and a pipeline with its best batch.

    Attributes:
        hardware, passes: what it is.
        batch: the best batch; None if no batch of the range keeps the limits.
        values: each metric at that batch.
        binding: what stops the objective from being better, with the value
            that the next batch would have; or why nothing is feasible.
        exact: ``proved`` where bisection rests on proved growth with the batch,
            ``all batches tried`` elsewhere; empty if it does not compile.
    """

    hardware: str
    passes: str
    batch: int | None
    values: Mapping[str, float]
    binding: tuple[str, ...]
    exact: str

    @property
    def feasible(self) -> bool:
        """True if some batch keeps every limit."""
        return self.batch is not None


@dataclass(frozen=True)
class SearchResult:
    """Ranked candidates, and the Pareto front if one was asked for.

    Attributes:
        setting: what all candidates share, and what any of them rests on.
        objective: the metric, best first.
        limits: by metric, in base units; ``device`` stands for each device's capacity.
        symbols: the values of the other symbols.
        tpot_of: what ``tpot`` is of, in words; None where it depends on no context.
        batches: the range that was searched.
        candidates: feasible ones from best to worst, then the others.
        pareto: the two metrics of the front.
        front: points that no other point of the search beats in both.
    """

    setting: Setting
    objective: str
    limits: Mapping[str, float | str]
    symbols: Mapping[str, float]
    tpot_of: str | None
    batches: tuple[int, int]
    candidates: tuple[Candidate, ...]
    pareto: tuple[str, str] | None = None
    front: tuple[FrontPoint, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The first candidate, None if nothing keeps the limits."""
        first = self.candidates[0]
        return first if first.feasible else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``search --json`` prints them."""
        found: dict[str, Any] = {
            **self.setting.to_dict(),
            "objective": self.objective,
            "direction": direction(self.objective),
            "limits": dict(self.limits),
            "symbols": dict(self.symbols),
            "tpot_of": self.tpot_of,
            "batches": list(self.batches),
            "candidates": [
                {
                    "hardware": c.hardware,
                    "passes": c.passes,
                    "batch": c.batch,
                    "values": dict(c.values),
                    "binding": list(c.binding),
                    "exact": c.exact,
                }
                for c in self.candidates
            ],
        }
        if self.pareto is not None:
            found["pareto"] = list(self.pareto)
            found["front"] = [
                {
                    "hardware": p.hardware,
                    "passes": p.passes,
                    "batch": p.batch,
                    **dict(zip(self.pareto, p.values, strict=True)),
                }
                for p in self.front
            ]
        return found

    def __repr__(self) -> str:
        return f"<SearchResult of {len(self.candidates)} candidates: {self.setting.text()}>"

    def __str__(self) -> str:
        return view_text("search_text", self)

    def _repr_html_(self) -> str:
        return view_text("text_html", str(self))


def direction(metric: str) -> str:
    """``max`` for what is better when larger, else ``min``."""
    return "max" if _up(metric) else "min"


def search(
    model: Model,
    hardware: Hardware | Sequence[Hardware],
    passes: Passes | Sequence[Passes] = "",
    *,
    S: int | None = None,
    N: int | None = None,
    B: int | tuple[int, int] | None = None,
    T: int | None = None,
    objective: str = "throughput",
    limits: Mapping[str, Any] | None = None,
    pareto: Sequence[str] | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    **options: Any,
) -> SearchResult:
    """The best batch of every device or system and every pipeline under limits, ranked.

    A pipeline whose degrees are open (``parallel{tp=auto,pp=auto}``) stands for every way to
    share the model among the devices of each system.

    Every whole batch of the range counts. Where the metrics provably grow with
    the batch, bisection is exact; elsewhere every batch that the other limits
    leave is tried. Nothing is sampled.

    Args:
        model: a model as for :func:`costgraph.compile`.
        hardware: a device, a system, or a list.
        passes: a pipeline or a list.
        S, N: prompt and generated tokens: 1024 and 256 where the model has them.
        B: a batch, or the first and last of the range (1 and 65536).
        T: context of ``tpot``; by default that of the last decode step, which is
            the slowest (see :meth:`costgraph.ir.program.Program.contexts`).
        objective: a metric, or ``throughput_per_device``; throughputs are made large, the
            others small.
        limits: by metric: seconds, bytes or token/s as a number or as a text
            with its unit (``"80GB"``). An upper end, of throughput a lower one.
            ``memory`` defaults to ``"device"``, what it has for programs if known;
            None or ``"none"`` lifts it.
        pareto: two metrics whose Pareto front is wanted, over every whole batch
            of every candidate that keeps the limits.
        accounting: the counting convention.
        fidelity, calibration, reserve: as for :func:`costgraph.compile`.
        options: how the model is read, as for :func:`costgraph.compile`, and numbers for
            other symbols: those of the model (``K``, ``G``) and of passes.

    Raises:
        InputError: an unknown metric, a bad limit or range, a missing symbol, no
            candidate that can be compiled, or too many batches to try.
    """
    from costgraph.hardware import load_system
    from costgraph.models import load_model

    check_metric(objective, RANKED)
    bounds = _limits(limits or {})
    wanted = _pareto(pareto)
    batches = _range(B)
    reading, symbols = split_options(options)
    given = checked({"S": S, "N": N, "T": T, **symbols})
    program = load_model(model, **reading)
    for metric in (objective, *(m for m in limits or {}), *(wanted or ())):
        require(program, metric)
    systems = [(load_system(h), h) for h in listed(hardware, "hardware")]
    pipelines = [pipeline_of(p) for p in listed(pipelines_of(passes), "passes")]
    found: list[Candidate] = []
    made: list[tuple[str, str, Compiled, dict[str, Formula]]] = []
    refused: CostgraphError | None = None
    choices = list(_choices(program, systems, pipelines))
    for system, given_as, label, text in counted(choices, "candidates compiled"):
        try:
            # As it was given: a calibration may stand beside the file of a device.
            compiled = compile(
                program,
                given_as,
                text,
                accounting=accounting,
                fidelity=fidelity,
                calibration=calibration,
                reserve=reserve,
            )
            formulas = {
                m: getattr(compiled, m) for m, of in RANKED.items() if has(compiled.program, of)
            }
        except CostgraphError as error:
            refused = refused or error
            found.append(Candidate(system.name, label, None, {}, (str(error),), ""))
            continue
        made.append((system.name, label, compiled, formulas))
    if not made:
        raise InputError(f"no candidate can be compiled: {refused}") from refused
    every = [f for _, _, c, formulas in made for f in (*formulas.values(), *c.farther.values())]
    values = _values(program, every, given)
    clouds: list[Cloud] = []
    for name, label, compiled, formulas in counted(made, "candidates searched"):
        lines = {m: Line.along(f, values, _up(m)) for m, f in formulas.items()}
        kept = _bounds(compiled, lines, bounds, "memory" in (limits or {}), values)
        least = least_batch(compiled.program)
        # Every replica, and every group of a batch, has a sequence at least.
        own = (max(batches[0], least), batches[1])
        if own[0] > own[1]:
            why = f"B={own[1]} is less than one sequence for each of {least} parts of the batch"
            found.append(Candidate(name, label, None, {}, (why,), "proved"))
            continue
        try:
            best = best_batch(lines[objective], kept, own)
        except InputError as error:
            raise InputError(f"{name}, passes {label}: {error}") from error
        at = {} if best.batch is None else {m: x.at(best.batch) for m, x in lines.items()}
        found.append(Candidate(name, label, best.batch, at, best.binding, best.exact))
        if wanted is not None and best.batch is not None:
            pair = (lines[wanted[0]], lines[wanted[1]])
            clouds.append(cloud_of(name, label, pair, kept, own))
    sign = -1 if _up(objective) else 1
    ranked = sorted(found, key=lambda c: (not c.feasible, sign * c.values.get(objective, 0.0)))
    front = () if wanted is None else front_of(clouds, (_up(wanted[0]), _up(wanted[1])))
    shown = {m: v for m, v in bounds.items() if v is not None}
    setting = Setting.shared([
        compiled.setting.warned(
            *(f.beyond(**values) for f in formulas.values()), less(given, values)
        )
        for _, _, compiled, formulas in made
    ])  # fmt: skip
    setting = replace(setting, passes="", warnings=())
    of = of_step(values["T"], last="T" not in given) if "T" in values else None
    mean = [
        label for _, label, c, _ in made if c.program.decoding and not c.program.has_alike_steps
    ]
    if mean:
        of = f"{of or 'mean of the decode steps'}; of {', '.join(mean)}: the mean of a request"
    return SearchResult(
        setting, objective, shown, values, of, batches, tuple(ranked), wanted, front
    )


def _choices(
    program: Program,
    systems: list[tuple[System, Hardware]],
    pipelines: list[tuple[str, Any]],
) -> Iterator[tuple[System, Hardware, str, Any]]:
    """Every pipeline on every system; passes whose options are open, with each way to decide."""
    for (system, given), (label, passes) in product(systems, pipelines):
        parsed = passes_of(passes)
        found = [p.choices(program, system) for p in parsed]
        if not any(found):
            yield system, given, label, passes
            continue
        ways = (choices or (p,) for p, choices in zip(parsed, found, strict=True))
        for chosen in product(*ways):
            yield system, given, text_of(chosen), chosen


def _up(metric: str) -> bool:
    return RANKED[metric].larger_is_better


def _limits(limits: Mapping[str, Any]) -> dict[str, float | str | None]:
    """Limits in base units; the device's memory is one unless lifted."""
    found: dict[str, float | str | None] = {}
    for metric, value in limits.items():
        check_metric(metric, RANKED)
        found[metric] = _amount(metric, value)
    found.setdefault("memory", "device")
    return found


def _amount(metric: str, value: Any) -> float | str | None:
    if value is None or value == "none":
        return None
    if value == "device":
        if metric != "memory":
            raise InputError(f"limit {metric}: only memory can be limited to the device")
        return "device"
    unit = RANKED[metric].unit
    if isinstance(value, str):
        if unit in _DIMENSION and not is_number(value.strip()):
            return float(parse_quantity(value.strip(), _DIMENSION[unit], f"limit {metric}"))
        amount = parse_number(value, f"limit {metric}", f"a number of {unit}")
    else:
        amount = bounded(value, f"limit {metric}")
    if amount <= 0:
        raise InputError(f"limit {metric} must be positive, not {clip(value)}")
    return float(amount)


def _bounds(
    compiled: Compiled,
    lines: Mapping[str, Line],
    limits: Mapping[str, float | str | None],
    memory_asked: bool,
    values: Mapping[str, float],
) -> list[Bound]:
    found: list[Bound] = []
    for metric, value in limits.items():
        if value == "device":
            capacity = room_of(compiled)
            if capacity is None and memory_asked:
                raise InputError(
                    f"limit memory: the capacity of {compiled.machine.name} is unknown"
                )
            value = capacity
        if metric == "memory" and value is not None:
            found.extend(
                Bound(Line.along(r.need, values, False), r.most) for r in farther_rooms(compiled)
            )
        if isinstance(value, float):
            found.append(Bound(lines[metric], value))
    return found


def _pareto(pareto: Sequence[str] | None) -> tuple[str, str] | None:
    if pareto is None:
        return None
    metrics = (pareto,) if isinstance(pareto, str) else tuple(pareto)
    for metric in metrics:
        check_metric(metric, RANKED)
    if len(metrics) != 2 or metrics[0] == metrics[1]:
        raise InputError("a Pareto front needs two different metrics")
    return metrics[0], metrics[1]


def _range(batch: Any) -> Range:
    if batch is None:
        return BATCHES
    try:
        ends = wholes(batch, "B") if is_array(batch) else (whole(batch, "B"),) * 2
    except InputError:
        ends = ()
    if len(ends) != 2 or ends[0] > ends[1]:
        raise InputError(f"B: {clip(batch)} is neither a batch nor the two ends of a range")
    return ends[0], ends[1]


def _values(
    program: Program, formulas: list[Formula], given: Mapping[str, Number]
) -> dict[str, float]:
    """A value for every symbol but the batch; the context is that of the last step."""
    usual = {**USUAL, **lengths(formulas, given)}
    sizes = {**usual, **given}
    ends = program.contexts(int(sizes["S"]), int(sizes["N"]))
    if ends is not None:
        usual["T"] = ends[1]
    found = workload(formulas, given, usual, free=("B",))
    found.pop("B", None)
    return {k: float(v) if isinstance(v, Fraction) else v for k, v in found.items()}
