"""A comparison as numbers, and how its columns come from what each pipeline has.

What a pipeline has is asked of a compiled program (:mod:`.comparison`), or of a kept case:
data that answer other workloads to the last digit, without sympy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from costgraph.formula.kept import Unusual, exact_at, shares_at, value_at
from costgraph.ir.workload import checked, filled, of_steps, plain
from costgraph.setting import Setting
from costgraph.views import view_text

if TYPE_CHECKING:
    from typing import Protocol

    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.even import Even

    class Place(Protocol):
        """A model on a device through a pipeline, asked for numbers.

        Attributes:
            model, hardware, passes: names.
            tokens: whether it generates any.
            asks_again: whether prompts follow the first token.
        """

        @property
        def model(self) -> str: ...
        @property
        def hardware(self) -> str: ...
        @property
        def passes(self) -> str: ...
        @property
        def tokens(self) -> bool: ...
        @property
        def asks_again(self) -> bool: ...

        def value(self, metric: str, values: Mapping[str, Any]) -> float:
            """A metric at a workload."""
            ...

        def shares(self, metric: str, values: Mapping[str, Any]) -> Mapping[str, float]:
            """Which resource bounds how much of a time."""
            ...

        def after_first(self, values: Mapping[str, Any]) -> float:
            """Tokens behind the first one."""
            ...

        def contexts(self, values: Mapping[str, Any]) -> tuple[int, int] | None:
            """The first and the last context of the decode steps; None without any."""
            ...

        def full(self, values: Mapping[str, Any]) -> tuple[str, ...]:
            """Memories that have less than is needed."""
            ...

        @property
        def parameters_on(self) -> str: ...

        def parameters(self, values: Mapping[str, Any]) -> int | None:
            """How many it has; None where they hang on a symbol."""
            ...


@dataclass(frozen=True)
class Column:
    """One model through one pipeline on one device at one workload.

    Of programs that generate no tokens, what is about tokens is None.

    Attributes:
        model, hardware, passes: the model, the device and the pipeline.
        lengths: sizes of the request that are the model's own, not those of all.
        parameters: of the model as the pipeline left it; None where they hang on a symbol.
        parameters_on: whose they are where devices share the model (``on each device``);
            empty where they are all of it.
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
    parameters_on: str
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
        waterfalls, ablations, settings: of each column.
        compiled: of each column; none where the numbers come from a kept case.
        kept: makes the data that :func:`comparison_of` answers other workloads from.
    """

    setting: Setting
    bindings: dict[str, Any]
    context: int | float | None
    tpot_of: str | None
    columns: tuple[Column, ...]
    evens: tuple[Even | None, ...]
    waterfalls: tuple[tuple[Effect, ...], ...]
    ablations: tuple[tuple[Effect, ...], ...]
    settings: tuple[Setting, ...]
    compiled: tuple[Compiled, ...] = field(default=(), compare=False)
    kept: Callable[[], Any] = field(default=lambda: None, compare=False, repr=False)

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
        own = [setting.to_dict() for setting in self.settings]
        top = self.setting.to_dict(*self._full())
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

    def _full(self) -> Iterator[str]:
        """What is said of columns that do not fit into memory."""
        several = len(self.columns) > 1
        for c in self.columns:
            where = f"{c.model} on {c.hardware}, passes {c.passes}: " if several else ""
            if c.full:
                yield f"{where}does not fit into {' and '.join(c.full)}"

    def __repr__(self) -> str:
        many = len(self.columns)
        what = "pipeline" if many == 1 else "pipelines"
        return f"<Comparison of {many} {what}: {self.setting.text(without=('passes',))}>"

    def __str__(self) -> str:
        return view_text("comparison_text", self)

    def _repr_html_(self) -> str:
        return view_text("comparison_html", self)


@dataclass(frozen=True)
class Part:
    """The latency of a part of a pipeline, or why there is none."""

    latency: float | None
    refused: str | None = None

    def beside(self, base: Part, name: str) -> Effect:
        """The effect of the pass ``name``, which this part has more or less than ``base``."""
        refused = self.refused or base.refused
        if self.latency is None or base.latency is None:
            return Effect(name, self.latency, None, refused)
        return Effect(name, self.latency, self.latency - base.latency)


def column(
    place: Place,
    values: Mapping[str, Any],
    own: Mapping[str, int],
    first: Column | None,
    even_length: int | None = None,
) -> Column:
    """A column.

    Args:
        place: what is asked.
        values: the workload.
        own: lengths that are the model's own.
        first: the column that ratios are over; None of that one itself.
        even_length: see :class:`Column`.
    """
    latency = place.value("latency", values)
    found: dict[str, Any] = dict.fromkeys(
        ("ttft", "tpot", "throughput", "ttft_bound", "tpot_bound", "latency_bound")
    )
    if place.tokens:
        found |= _tokens(place, values, latency)
    else:
        found["latency_bound"] = _bound(place, "latency", values)
    memory = place.value("memory", values)
    full = place.full(values)
    parameters = place.parameters(values)
    base = None if first is None else first.parameters
    return Column(
        model=place.model,
        hardware=place.hardware,
        passes=place.passes or "none",
        latency=latency,
        memory=memory,
        speedup=1.0 if first is None else first.latency / latency,
        fits=not full,
        full=full,
        lengths=own,
        parameters=parameters,
        parameters_on=place.parameters_on,
        parameter_ratio=_ratio(parameters, parameters if first is None else base),
        memory_ratio=1.0 if first is None else memory / first.memory,
        even_length=even_length,
        **found,
    )


def _ratio(value: int | None, base: int | None) -> float | None:
    return None if value is None or not base else value / base


def _tokens(place: Place, values: Mapping[str, Any], latency: float) -> dict[str, Any]:
    """What is about generated tokens."""
    ttft = place.value("ttft", values)
    steps = place.after_first(values)
    plain_steps = steps and not place.asks_again
    at = {**values, **middle(place, values)}
    found = {
        "ttft": ttft,
        "throughput": place.value("throughput", values),
        "ttft_bound": _bound(place, "ttft", values),
    }
    if place.asks_again and values["N"] == 1:
        # Answers of one token come from prompts alone: no step has a time.
        return {**found, "tpot": None, "tpot_bound": None}
    tpot = (latency - ttft) / steps if plain_steps else place.value("tpot", at)
    return {**found, "tpot": tpot, "tpot_bound": _bound(place, "tpot", at)}


def middle(place: Place, values: Mapping[str, Any]) -> dict[str, int | float]:
    """The context in the middle of the request's decode steps."""
    ends = place.contexts(values)
    return {} if ends is None else plain({"T": Fraction(sum(ends), 2)})


def steps_of(place: Place, values: Mapping[str, Any]) -> str | None:
    """What the mean time per token is of."""
    ends = place.contexts(values)
    return None if ends is None else of_steps(*ends)


def _bound(place: Place, metric: str, values: Mapping[str, Any]) -> str:
    shares = place.shares(metric, values)
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{name} {100 * share:.0f}%"


@dataclass(frozen=True)
class Steps:
    """The pipeline of a column with some of its passes, by what gives their latencies.

    Attributes:
        base: without any pass.
        whole: with all.
        names: the passes as text.
        fall: with the passes up to each.
        without: without each.
    """

    base: Any
    whole: Any
    names: tuple[str, ...]
    fall: tuple[Any, ...]
    without: tuple[Any, ...]

    def effects(
        self, latency: Callable[[Any], Part]
    ) -> tuple[tuple[Effect, ...], tuple[Effect, ...]]:
        """What each pass adds, and what leaving it out costs."""
        before, whole = latency(self.base), latency(self.whole)
        fall = []
        for name, item in zip(self.names, self.fall, strict=True):
            now = whole if item is self.whole else latency(item)
            fall.append(now.beside(before, name))
            before = now
        ablation = (
            latency(item).beside(whole, name)
            for name, item in zip(self.names, self.without, strict=True)
        )
        return tuple(fall), tuple(ablation)

    def mapped(self, f: Callable[[Any], Any]) -> Steps:
        """The same of other things."""
        return Steps(
            f(self.base), f(self.whole), self.names, tuple(map(f, self.fall)),
            tuple(map(f, self.without)),
        )  # fmt: skip


def joined(settings: Iterable[Setting]) -> Setting:
    """What a comparison is about."""
    return replace(Setting.shared(list(settings)), passes="", warnings=())


# --- kept cases --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """A column of a kept case."""

    data: Mapping[str, Any]

    @property
    def model(self) -> str:
        return str(self.data["model"])

    @property
    def hardware(self) -> str:
        return str(self.data["setting"]["hardware"])

    @property
    def passes(self) -> str:
        return str(self.data["setting"]["passes"])

    @property
    def tokens(self) -> bool:
        return bool(self.data["tokens"])

    @property
    def asks_again(self) -> bool:
        return bool(self.data["asks_again"])

    def value(self, metric: str, values: Mapping[str, Any]) -> float:
        return float(value_at(self.data["metrics"][metric], values))

    def shares(self, metric: str, values: Mapping[str, Any]) -> Mapping[str, float]:
        self.value(metric, values)  # whether it is within its limits
        return shares_at(self.data["bounds"][metric], values)

    def after_first(self, values: Mapping[str, Any]) -> float:
        return float(exact_at(self.data["after_first"], {"S": 1, **values}))

    def contexts(self, values: Mapping[str, Any]) -> tuple[int, int] | None:
        at = {"S": 1, "N": 1, **values}
        ends = [[int(exact_at(end, at)) for end in span] for span in self.data["spans"]]
        if not ends:
            return None
        first, last = min(a for a, _ in ends), max(b for _, b in ends)
        return first, max(first, last)

    def full(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        found = self.data["rooms"]
        return tuple(name for name, need, most in found if float(value_at(need, values)) > most)

    @property
    def parameters_on(self) -> str:
        return str(self.data["parameters_on"])

    def parameters(self, values: Mapping[str, Any]) -> int | None:
        kept = self.data["parameters"]
        known = all(name in values for name in kept["names"])
        return int(exact_at(kept, values)) if known else None


def comparison_of(case: Mapping[str, Any], given: Mapping[str, Any]) -> Comparison:
    """The comparison of a kept case at a workload.

    Args:
        case: of :attr:`Comparison.kept`.
        given: values by name; what is usual stands for the rest.

    Raises:
        InputError: a value is no sane number.
        Unusual, ArithmeticError, LookupError: the whole program must say.
    """
    known = set(case["known"])
    told = checked(given)
    if not set(told) <= known | {"B"} or 0 in told.values():
        raise Unusual
    values: dict[str, Any] = filled(told, known)
    if not known <= set(values):
        raise Unusual
    columns: list[Column] = []
    falls, ablations = [], []

    def latency(part: Any) -> Part:
        if isinstance(part, str):
            return Part(None, part)
        return Part(float(value_at(part, values)))

    places = [_Kept(data) for data in case["columns"]]
    for place in places:
        columns.append(column(place, values, {}, columns[0] if columns else None))
        # Equal parts are one: what is looked up by identity must be kept so.
        base, whole, names, fall, without = place.data["steps"]
        parts = [whole if i == len(fall) - 1 else item for i, item in enumerate(fall)]
        steps = Steps(base, whole, tuple(names), tuple(parts), tuple(without))
        down, left_out = steps.effects(latency)
        falls.append(down)
        ablations.append(left_out)
    settings = tuple(Setting.from_data(data["setting"]) for data in case["columns"])
    return Comparison(
        joined(settings), values, middle(places[0], values).get("T"), steps_of(places[0], values),
        tuple(columns), (None,) * len(columns), tuple(falls), tuple(ablations), settings,
    )  # fmt: skip
