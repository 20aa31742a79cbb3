"""Comparing pipelines and models: side by side, what each pass adds, what its absence costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sympy import Integer

from costgraph.compiling.capacity import rooms
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import devices_of, pipelines_of, split_options
from costgraph.errors import InputError, clip
from costgraph.formula import Formula
from costgraph.formula.bounds import bound_shares
from costgraph.formula.even import Even, even
from costgraph.ir.workload import evaluated, of_steps, plain, workload
from costgraph.setting import Setting
from costgraph.symbols import N, S, symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

#: A model to compare with, or one with lengths of its own: ``("llama-2-7b", {"N": 512})``.
Beside = Model | tuple[Model, Mapping[str, int]]
#: Sizes that a model beside another may have for itself: prompt and generated tokens.
OWN = ("S", "N")
OWN_STEPS = "mean of each model's own decode steps"


@dataclass(frozen=True)
class Column:
    """One model through one pipeline on one device at one workload.

    Of programs that generate no tokens, what is about tokens is None.

    Attributes:
        model, hardware, passes: the model, the device and the pipeline.
        lengths: sizes of the request that are the model's own, not those of all.
        parameters: of the model as the pipeline left it; None where they hang on a symbol.
        ttft: seconds to the first token.
        tpot: mean seconds per further token, ``(latency − ttft) / (N − 1)``, of all
            branches where a request has several; of one decode step where only one token is
            generated.
        latency: seconds of the whole request.
        throughput: generated tokens per second.
        memory: peak bytes.
        ttft_bound, tpot_bound: the resource that bounds the largest share of
            the time, with that share; of the step in the middle of the generation.
        latency_bound: the same of the whole request, of programs without tokens.
        speedup: latency of the first column over this one's.
        fits: whether what is needed is within what there is for programs, of the device and of
            farther levels of memory.
        full: the memories that have less than is needed.
        parameter_ratio, memory_ratio: of this column over the first one.
        even_length: the most tokens that it generates in the latency of the first column,
            of another model's columns; None where there is no most, or no token.
    """

    model: str
    hardware: str
    passes: str
    ttft: float | None
    tpot: float | None
    latency: float
    throughput: float | None
    memory: float
    ttft_bound: str | None
    tpot_bound: str | None
    latency_bound: str | None
    speedup: float
    fits: bool
    full: tuple[str, ...]
    lengths: Mapping[str, int]
    parameters: int | None
    parameter_ratio: float | None
    memory_ratio: float
    even_length: int | None


@dataclass(frozen=True)
class Effect:
    """What one pass does to the latency of a pipeline.

    In a waterfall ``latency`` is that of the pipeline up to and including the
    pass, and ``change`` the difference to the one before it. In an ablation
    ``latency`` is that of the pipeline without the pass, and ``change`` what
    leaving it out costs. A part of a pipeline may be refused, where its passes need
    one another: what hangs on it is None, and ``refused`` says why.
    """

    name: str
    latency: float | None
    change: float | None
    refused: str | None = None


@dataclass(frozen=True)
class _Part:
    """The latency of a part of a pipeline, or why there is none."""

    latency: float | None
    refused: str | None = None

    def beside(self, base: _Part, name: str) -> Effect:
        """The effect of the pass ``name``, which this part has more or less than ``base``."""
        refused = self.refused or base.refused
        if self.latency is None or base.latency is None:
            return Effect(name, self.latency, None, refused)
        return Effect(name, self.latency, self.latency - base.latency)


@dataclass(frozen=True)
class Comparison:
    """Pipelines of one model or several on one device or several, at one workload.

    Attributes:
        setting: what all columns share, and everything that any of them rests on.
        bindings: the workload.
        context: the middle of the request's decode steps, exact (a half between two of
            them): where the columns' ``tpot_bound`` holds, and the tpot of one step is the
            mean where it is linear in the context. None without any step, and where
            models have lengths of their own.
        tpot_of: what the columns' ``tpot`` is of, in words; None without any step.
        columns: a pipeline of a model on a device each, devices first, then models.
        evens: of each column of another model, how many tokens it generates in the latency
            of the first column, as a formula in the first model's ``N``; None where the
            latencies are no polynomials in it.
        waterfalls, ablations, compiled: of each column.
    """

    setting: Setting
    bindings: dict[str, Any]
    context: int | float | None
    tpot_of: str | None
    columns: tuple[Column, ...]
    evens: tuple[Even | None, ...]
    waterfalls: tuple[tuple[Effect, ...], ...]
    ablations: tuple[tuple[Effect, ...], ...]
    compiled: tuple[Compiled, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, in order."""
        return tuple(dict.fromkeys(c.hardware for c in self.columns))

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in order."""
        return tuple(dict.fromkeys(c.model for c in self.columns))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``compare --json`` prints them.

        What all columns rest on, and what none did, stands at the top; what is one
        column's own stands there.
        """
        own = [c.setting.to_dict() for c in self.compiled]
        top = self.setting.to_dict()
        for name in ("assumptions", "not_done"):
            top[name] = [x for x in top[name] if all(x in of[name] for of in own)]
            for of in own:
                of[name] = [x for x in of[name] if x not in top[name]]
        return {
            **top,
            "bindings": plain(self.bindings),
            "context": self.context,
            "tpot_of": self.tpot_of,
            "pipelines": [
                {
                    **asdict(column),
                    "even_formula": None if even is None else str(even.expr),
                    "waterfall": [asdict(e) for e in fall],
                    "ablation": [asdict(e) for e in ablation],
                    "assumptions": of["assumptions"],
                    "not_done": of["not_done"],
                }
                for column, even, fall, ablation, of in zip(
                    self.columns, self.evens, self.waterfalls, self.ablations, own, strict=True
                )
            ],
        }

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.columns)} pipelines: {self.setting.text()}>"

    def __str__(self) -> str:
        return view_text("comparison_text", self)

    def _repr_html_(self) -> str:
        return view_text("comparison_html", self)


def compare(
    model: Model,
    hardware: Hardware | Sequence[Hardware],
    pipelines: Passes | Sequence[Passes] = "",
    *,
    beside: Sequence[Beside] = (),
    B: int | None = None,
    S: int | None = None,
    N: int | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Compare pipelines of passes, and models, at one workload, on one device or several.

    Args:
        model, accounting, fidelity, calibration, reserve: as for :func:`costgraph.compile`.
        hardware: a device, or a list.
        pipelines: a pipeline, or a list; speed-ups are against the first, of the first model
            on the first device. The empty text is the unmodified model.
        beside: further models, such as students of the first one, each through the same
            pipelines; with lengths of its own (``S``, ``N``) where it needs other ones for
            the same work, such as a distilled chain of thought.
        B, S, N: sequences, prompt tokens and generated tokens: 1, 1024 and 256 where
            the model has them.
        progress: told how many of the columns are done, and of how many.
        options: how the model is read, and numbers for its symbols and those of
            passes (``K`` denoising steps, ``G`` image tokens).

    Raises:
        InputError: there is nothing to compare, or a value is missing, unknown or out
            of range.
    """
    devices, asked = devices_of(hardware), pipelines_of(pipelines)
    if not asked or not devices:
        raise InputError("compare needs at least one pipeline and one device")
    reading, symbols = split_options(options)
    models = [(model, {}), *(_own(item) for item in beside)]

    def made(of: Model, device: Hardware, passes: Any) -> Compiled:
        return compile(
            of,
            device,
            passes,
            accounting=accounting,
            fidelity=fidelity,
            calibration=calibration,
            reserve=reserve,
            **reading,
        )

    grid = [
        _Place(of, device, made(of, device, text), own)
        for device in devices
        for of, own in models
        for text in asked
    ]
    everything = tuple(p.compiled for p in grid)
    workloads: list[dict[str, Any]] = []
    for _, own in models:
        mine = [p.compiled for p in grid if p.own is own]
        formulas = [getattr(c, m) for c in mine for m in ("latency", "memory")]
        workloads.append(workload(formulas, {"B": B, "S": S, "N": N, **symbols, **own}))
    at = {id(own): values for (_, own), values in zip(models, workloads, strict=True)}

    apart = any(own for _, own in models)
    unmodified: dict[tuple[int, int], _Part] = {}
    falls, ablations = [], []
    columns: list[Column] = []
    for place in grid:
        values, passes = at[id(place.own)], place.compiled.passes

        def part(passes: Any, place: _Place = place, values: Any = values) -> _Part:
            try:
                latency = made(place.model, place.device, passes).latency
                return _Part(evaluated(latency, values))
            except InputError as error:
                return _Part(None, str(error))

        named = (place.compiled.program.name,) if beside else ()
        if len(asked) > 1:
            named = (*named, place.compiled.setting.passes or "none")
        with _naming(", ".join(named)):
            whole = _Part(evaluated(place.compiled.latency, values))
        key = (id(place.device), id(place.own))
        if key not in unmodified:
            unmodified[key] = part(()) if passes else whole
        fall, before = [], unmodified[key]
        for index, item in enumerate(passes):
            last = index == len(passes) - 1
            now = whole if last else part(passes[: index + 1])
            fall.append(now.beside(before, item.spec()))
            before = now
        falls.append(tuple(fall))
        ablations.append(
            tuple(
                part(passes[:index] + passes[index + 1 :]).beside(whole, item.spec())
                for index, item in enumerate(passes)
            )
        )
        columns.append(_column(place, values, columns[0] if columns else None))
        if progress is not None:
            progress(len(columns), len(grid))
    settings = [p.compiled.setting.warned(p.compiled.latency.beyond(**at[id(p.own)])) for p in grid]
    return Comparison(
        replace(Setting.shared(settings), passes="", warnings=()),
        workloads[0],
        None if apart else _middle(everything[0], workloads[0]).get("T"),
        OWN_STEPS if apart else _steps(everything[0], workloads[0]),
        tuple(columns),
        tuple(
            None
            if column.even_length is None
            else _even(grid[0].compiled, workloads[0], place.compiled, at[id(place.own)])
            for place, column in zip(grid, columns, strict=True)
        ),
        tuple(falls),
        tuple(ablations),
        everything,
    )


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Errors say which model and pipeline they are about, where there are several."""
    try:
        yield
    except InputError as error:
        if not column:
            raise
        raise InputError(f"{column}: {error}") from None


@dataclass(frozen=True)
class _Place:
    """A model on a device through a pipeline, with the lengths that are the model's own."""

    model: Model
    device: Hardware
    compiled: Compiled
    own: Mapping[str, int]


def _own(item: Beside) -> tuple[Model, Mapping[str, int]]:
    """A model with its own lengths.

    Raises:
        InputError: it has another size of its own.
    """
    of, own = item if isinstance(item, tuple) else (item, {})
    for name in own:
        if name not in OWN:
            raise InputError(f"a model has its own {' and '.join(OWN)}, not {clip(name)}")
    return of, dict(own)


def _column(place: _Place, values: dict[str, Any], first: Column | None) -> Column:
    compiled = place.compiled
    latency = evaluated(compiled.latency, values)
    found: dict[str, Any] = dict.fromkeys(
        ("ttft", "tpot", "throughput", "ttft_bound", "tpot_bound", "latency_bound")
    )
    if "tpot" in compiled.metrics:
        found |= _tokens(compiled, values, latency)
    else:
        found["latency_bound"] = _bound(compiled.latency, values)
    memory = evaluated(compiled.memory, values)
    full = tuple(r.name for r in rooms(compiled) if evaluated(r.need, values) > r.most)
    number = compiled.parameters.xreplace({symbol(k): v for k, v in values.items()})
    parameters = int(number) if number.is_number else None
    base = None if first is None else first.parameters
    return Column(
        model=compiled.program.name,
        hardware=compiled.setting.hardware,
        passes=compiled.setting.passes or "none",
        latency=latency,
        memory=memory,
        speedup=1.0 if first is None else first.latency / latency,
        fits=not full,
        full=full,
        lengths=place.own,
        parameters=parameters,
        parameter_ratio=_ratio(parameters, parameters if first is None else base),
        memory_ratio=1.0 if first is None else memory / first.memory,
        even_length=None if first is None else _even_length(compiled, values, first),
        **found,
    )


def _ratio(value: int | None, base: int | None) -> float | None:
    return None if value is None or not base else value / base


def _even(
    first: Compiled, its: Mapping[str, Any], other: Compiled, own: Mapping[str, Any]
) -> Even | None:
    """The formula of :func:`_even_length` about the first model's number of tokens."""

    def along(compiled: Compiled, values: Mapping[str, Any]) -> Formula:
        known = {s.name for s in compiled.latency.symbols} - {"N"}
        return compiled.latency.bind(**{k: v for k, v in values.items() if k in known})

    try:
        found = even(along(first, its), along(other, own), "N")
    except InputError:
        return None
    return next((e for e in found if e.lower <= its["N"] <= e.upper), None)


def _even_length(compiled: Compiled, values: Mapping[str, Any], first: Column) -> int | None:
    """The most tokens that another model generates in the latency of the first column."""
    latency = compiled.latency
    known = {s.name for s in latency.symbols}
    if compiled.program.name == first.model or "N" not in known or first.ttft is None:
        return None
    others = {k: v for k, v in values.items() if k in known and k != "N"}
    return latency.solve_for("N", budget=first.latency, **others).largest or None


def _tokens(compiled: Compiled, values: dict[str, Any], latency: float) -> dict[str, Any]:
    """What is about generated tokens."""
    ttft = evaluated(compiled.ttft, values)
    sizes = {S: Integer(values.get("S", 1)), N: Integer(values["N"])}
    steps = float(compiled.program.after_first.xreplace(sizes))
    plain_steps = steps and not compiled.program.asks_again
    at = {**values, **_middle(compiled, values)}
    found = {
        "ttft": ttft,
        "throughput": evaluated(compiled.throughput, values),
        "ttft_bound": _bound(compiled.ttft, values),
    }
    if compiled.program.asks_again and sizes[N] == 1:
        # Answers of one token come from prompts alone: no step has a time.
        return {**found, "tpot": None, "tpot_bound": None}
    tpot = (latency - ttft) / steps if plain_steps else evaluated(compiled.tpot, at)
    return {**found, "tpot": tpot, "tpot_bound": _bound(compiled.tpot, at)}


def _contexts(compiled: Compiled, values: Mapping[str, Any]) -> tuple[int, int] | None:
    """The first and the last context of the request's decode steps."""
    if "tpot" not in compiled.metrics:
        return None
    return compiled.program.contexts(values.get("S", 1), values.get("N", 1))


def _middle(compiled: Compiled, values: Mapping[str, Any]) -> dict[str, int | float]:
    """The context in the middle of the request's decode steps."""
    ends = _contexts(compiled, values)
    return {} if ends is None else plain({"T": Fraction(sum(ends), 2)})


def _steps(compiled: Compiled, values: Mapping[str, Any]) -> str | None:
    """What the mean time per token is of."""
    ends = _contexts(compiled, values)
    return None if ends is None else of_steps(*ends)


def _bound(formula: Formula, values: Mapping[str, Any]) -> str:
    wanted = {s.name for s in formula.symbols}
    shares = bound_shares(formula, {k: v for k, v in values.items() if k in wanted})
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{name} {100 * share:.0f}%"
