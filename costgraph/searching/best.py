"""Searching batch, devices and pipelines under limits, and Pareto fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from costgraph.api import Compiled, Hardware, Model, compile
from costgraph.errors import CostgraphError, InputError, clip, nearest
from costgraph.number import bounded, is_count, is_number, parse_number
from costgraph.pipeline import Pass
from costgraph.searching.batch import Bound, Line, Range, best_batch
from costgraph.searching.front import Cloud, FrontPoint, cloud_of, front_of
from costgraph.sweeping.plan import METRICS, check_metric, listed, pipeline_of
from costgraph.units import parse_quantity

#: Batches searched unless the caller says otherwise.
BATCHES = (1, 2**16)
#: What is better when larger; everything else is better when smaller.
LARGER_IS_BETTER = ("throughput",)

_DIMENSION = {"s": "time", "byte": "size"}
_UNIT = {
    **dict.fromkeys(("ttft", "tpot", "latency"), "s"),
    **dict.fromkeys(("memory", "bytes"), "byte"),
    "flops": "FLOP",
    "throughput": "token/s",
}


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
        model: its name.
        objective: the metric, best first.
        limits: by metric, in base units; ``device`` stands for each device's capacity.
        symbols: the values of the other symbols.
        batches: the range that was searched.
        candidates: feasible ones from best to worst, then the others.
        pareto: the two metrics of the front.
        front: points that no other point of the search beats in both.
    """

    model: str
    objective: str
    limits: Mapping[str, float | str]
    symbols: Mapping[str, float]
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
            "model": self.model,
            "objective": self.objective,
            "direction": direction(self.objective),
            "limits": dict(self.limits),
            "symbols": dict(self.symbols),
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

    def __str__(self) -> str:
        from costgraph.export.search import search_text

        return search_text(self)


def direction(metric: str) -> str:
    """``max`` for what is better when larger, else ``min``."""
    return "max" if metric in LARGER_IS_BETTER else "min"


def search(
    model: Model,
    hardware: Hardware | Sequence[Hardware],
    passes: str | Sequence[str | tuple[Pass, ...]] = "",
    *,
    S: int,
    N: int,
    B: int | tuple[int, int] | None = None,
    T: int | None = None,
    objective: str = "throughput",
    limits: Mapping[str, Any] | None = None,
    pareto: Sequence[str] | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    options: Mapping[str, Any] | None = None,
    **symbols: float,
) -> SearchResult:
    """The best batch of every device and pipeline under limits, ranked.

    Every whole batch of the range counts. Where the metrics provably grow with
    the batch, bisection is exact; elsewhere every batch that the other limits
    leave is tried. Nothing is sampled.

    Args:
        model: a model as for :func:`costgraph.compile`.
        hardware: a device or a list.
        passes: a pipeline or a list.
        S, N: prompt and generated tokens.
        B: a batch, or the first and last of the range (1 and 65536).
        T: context of ``tpot``; by default that of the last decode step,
            ``S + N − 1``, which is the slowest.
        objective: a metric; throughput is made large, the others small.
        limits: by metric: seconds, bytes or token/s as a number or as a text
            with its unit (``"80GB"``). An upper end, of throughput a lower one.
            ``memory`` defaults to ``"device"``, the capacity where it is known;
            None or ``"none"`` lifts it.
        pareto: two metrics whose Pareto front is wanted, over every whole batch
            of every candidate that keeps the limits.
        accounting: the counting convention.
        fidelity: ``ideal``, ``calibrated`` or a band, as for :func:`costgraph.compile`.
        options: importer options, as for :func:`costgraph.compile`.
        symbols: numbers for symbols that passes brought in.

    Raises:
        InputError: an unknown metric, a bad limit or range, a missing symbol, no
            candidate that can be compiled, or too many batches to try.
    """
    from costgraph.hardware import load_hardware
    from costgraph.models import load_model

    check_metric(objective)
    bounds = _limits(limits or {})
    wanted = _pareto(pareto)
    batches = _range(B)
    values = _values(S, N, T, symbols)
    program = load_model(model, **(options or {}))
    machines = [(load_hardware(h), h) for h in listed(hardware, "hardware")]
    pipelines = [pipeline_of(p) for p in listed(passes, "passes")]
    found: list[Candidate] = []
    clouds: list[Cloud] = []
    refused: CostgraphError | None = None
    used: set[str] = set()
    for (machine, device), (label, text) in product(machines, pipelines):
        try:
            # As it was given: a calibration may stand beside the file of a device.
            compiled = compile(program, device, text, accounting=accounting, fidelity=fidelity)
            formulas = {m: getattr(compiled, m) for m in METRICS}
        except CostgraphError as error:
            refused = refused or error
            found.append(Candidate(machine.name, label, None, {}, (str(error),), ""))
            continue
        needed = {s.name for f in formulas.values() for s in f.symbols} - {"B"}
        used |= needed
        if missing := sorted(needed - set(values)):
            raise InputError(f"passes {label}: no value for {', '.join(missing)}")
        lines = {
            m: Line(f, {s.name: values[s.name] for s in f.symbols if s.name != "B"}, _up(m))
            for m, f in formulas.items()
        }
        kept = _bounds(compiled, lines, bounds, "memory" in (limits or {}))
        try:
            best = best_batch(lines[objective], kept, batches)
        except InputError as error:
            raise InputError(f"{machine.name}, passes {label}: {error}") from error
        at = {} if best.batch is None else {m: x.at(best.batch) for m, x in lines.items()}
        found.append(Candidate(machine.name, label, best.batch, at, best.binding, best.exact))
        if wanted is not None and best.batch is not None:
            pair = (lines[wanted[0]], lines[wanted[1]])
            clouds.append(cloud_of(machine.name, label, pair, kept, batches))
    if refused is not None and not used:
        raise InputError(f"no candidate can be compiled: {refused}") from refused
    for name in symbols:
        if name not in used:
            raise InputError(f"no candidate depends on {name}{nearest(name, used - set('SNT'))}")
    sign = -1 if _up(objective) else 1
    ranked = sorted(found, key=lambda c: (not c.feasible, sign * c.values.get(objective, 0.0)))
    front = () if wanted is None else front_of(clouds, (_up(wanted[0]), _up(wanted[1])))
    shown = {m: v for m, v in bounds.items() if v is not None}
    return SearchResult(
        program.name, objective, shown, values, batches, tuple(ranked), wanted, front
    )


def _up(metric: str) -> bool:
    return metric in LARGER_IS_BETTER


def _limits(limits: Mapping[str, Any]) -> dict[str, float | str | None]:
    """Limits in base units; the device's memory is one unless lifted."""
    found: dict[str, float | str | None] = {}
    for metric, value in limits.items():
        check_metric(metric)
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
    unit = _UNIT[metric]
    if isinstance(value, str):
        if unit in _DIMENSION and not is_number(value.strip()):
            return float(parse_quantity(value.strip(), _DIMENSION[unit], f"limit {metric}"))
        number = parse_number(value, f"limit {metric}", f"a number of {unit}")
    else:
        number = bounded(value, f"limit {metric}")
    if number <= 0:
        raise InputError(f"limit {metric} must be positive, not {clip(value)}")
    return float(number)


def _bounds(
    compiled: Compiled,
    lines: Mapping[str, Line],
    limits: Mapping[str, float | str | None],
    memory_asked: bool,
) -> list[Bound]:
    found = []
    for metric, value in limits.items():
        if value == "device":
            capacity = compiled.machine.memory.capacity
            if capacity is None and memory_asked:
                raise InputError(
                    f"limit memory: the capacity of {compiled.machine.name} is unknown"
                )
            value = None if capacity is None else float(capacity)
        if isinstance(value, float):
            found.append(Bound(lines[metric], value))
    return found


def _pareto(pareto: Sequence[str] | None) -> tuple[str, str] | None:
    if pareto is None:
        return None
    metrics = (pareto,) if isinstance(pareto, str) else tuple(pareto)
    for metric in metrics:
        check_metric(metric)
    if len(metrics) != 2 or metrics[0] == metrics[1]:
        raise InputError("a Pareto front needs two different metrics")
    return metrics[0], metrics[1]


def _range(batch: int | tuple[int, int] | None) -> Range:
    if batch is None:
        return BATCHES
    ends = tuple(batch) if isinstance(batch, (tuple, list)) else (batch, batch)
    if len(ends) != 2 or not all(map(is_count, ends)) or ends[0] > ends[1]:
        raise InputError(f"B: {clip(batch)} is neither a batch nor the two ends of a range")
    return int(ends[0]), int(ends[1])


def _values(S: int, N: int, T: int | None, symbols: Mapping[str, float]) -> dict[str, float]:
    for name, count in (("S", S), ("N", N), ("T", 1 if T is None else T)):
        if not is_count(count):
            raise InputError(f"{name} must be a whole number from 1 to 1e12, not {clip(count)}")
    values: dict[str, float] = {"S": S, "N": N, "T": S + max(N - 1, 1) if T is None else T}
    for name, value in symbols.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name}: {clip(value)} is not a number")
        if not 0 < value <= 10**12:
            raise InputError(f"{name} must be above 0 and at most 1e12, not {clip(value)}")
        values[name] = value
    return values
