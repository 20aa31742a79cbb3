"""Comparing pipelines: numbers side by side, what each pass adds, what its absence costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from costgraph.api import Compiled, Hardware, Model, compile
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.bounds import bound_shares
from costgraph.given import whole
from costgraph.pipeline import text_of


@dataclass(frozen=True)
class Column:
    """One pipeline at one workload.

    Attributes:
        passes: the pipeline.
        ttft: seconds to the first token.
        tpot: mean seconds per further token, ``(latency − ttft) / (N − 1)``;
            of one decode step where only one token is generated.
        latency: seconds of the whole request.
        throughput: generated tokens per second.
        memory: peak bytes.
        ttft_bound, tpot_bound: the resource that bounds the largest share of
            the time, with that share; of the step in the middle of the generation.
        speedup: latency of the first pipeline over this one's.
        fits: whether the memory is within what the device has for programs.
    """

    passes: str
    ttft: float
    tpot: float
    latency: float
    throughput: float
    memory: float
    ttft_bound: str
    tpot_bound: str
    speedup: float
    fits: bool


@dataclass(frozen=True)
class Effect:
    """What one pass does to the latency of a pipeline.

    In a waterfall ``latency`` is that of the pipeline up to and including the
    pass, and ``change`` the difference to the one before it. In an ablation
    ``latency`` is that of the pipeline without the pass, and ``change`` what
    leaving it out costs.
    """

    name: str
    latency: float
    change: float


@dataclass(frozen=True)
class Comparison:
    """Pipelines of one model on one device at one workload.

    ``context`` is that of the decode step whose bound the columns state.
    """

    model: str
    hardware: str
    accounting: str
    bindings: dict[str, int]
    context: int | None
    columns: tuple[Column, ...]
    waterfalls: tuple[tuple[Effect, ...], ...]
    ablations: tuple[tuple[Effect, ...], ...]
    assumptions: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    compiled: tuple[Compiled, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``compare --json`` prints them."""
        from costgraph.export.undone import undone_objects

        return {
            "model": self.model,
            "hardware": self.hardware,
            "accounting": self.accounting,
            "bindings": self.bindings,
            "context": self.context,
            "notes": list(self.notes),
            "pipelines": [
                {
                    **asdict(column),
                    "waterfall": [asdict(e) for e in fall],
                    "ablation": [asdict(e) for e in ablation],
                    "assumptions": list(assumed),
                    "not_done": undone_objects(compiled.trace),
                }
                for column, fall, ablation, assumed, compiled in zip(
                    self.columns,
                    self.waterfalls,
                    self.ablations,
                    self.assumptions,
                    self.compiled,
                    strict=True,
                )
            ],
        }

    def __str__(self) -> str:
        from costgraph.export.comparison import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        from costgraph.export.comparison import comparison_html

        return comparison_html(self)


def compare(
    model: Model,
    hardware: Hardware,
    pipelines: Sequence[str],
    *,
    B: int = 1,
    S: int = 1024,
    N: int = 256,
    accounting: str = "exact",
    **options: Any,
) -> Comparison:
    """Compare pipelines of passes on one model, device and workload.

    Args:
        model, hardware, accounting, options: as for :func:`costgraph.compile`.
        pipelines: pipeline texts; speed-ups are against the first. The empty
            text is the unmodified model.
        B, S, N: sequences, prompt tokens and generated tokens.

    Raises:
        InputError: there is nothing to compare, or a value is out of range.
    """
    if not pipelines:
        raise InputError("compare needs at least one pipeline")
    values = {"B": whole(B, "B"), "S": whole(S, "S"), "N": whole(N, "N")}

    def made(passes: Any) -> Compiled:
        return compile(model, hardware, passes, accounting=accounting, **options)

    def latency(compiled: Compiled) -> float:
        return float(_at(compiled.latency, **values))

    everything = tuple(made(text) for text in pipelines)
    base = latency(everything[0])
    plain = base if not everything[0].passes else latency(made(()))
    falls, ablations = [], []
    for compiled in everything:
        passes, total = compiled.passes, latency(compiled)
        fall, before = [], plain
        for index, item in enumerate(passes):
            now = total if index == len(passes) - 1 else latency(made(passes[: index + 1]))
            fall.append(Effect(item.spec(), now, now - before))
            before = now
        falls.append(tuple(fall))
        ablation = []
        for index, item in enumerate(passes):
            without = latency(made(passes[:index] + passes[index + 1 :]))
            ablation.append(Effect(item.spec(), without, without - total))
        ablations.append(tuple(ablation))
    first = everything[0]
    return Comparison(
        first.program.name,
        first.machine.name,
        first.accounting.name,
        values,
        _middle(first, values).get("T"),
        tuple(_column(c, values, base) for c in everything),
        tuple(falls),
        tuple(ablations),
        tuple(c.assumptions for c in everything),
        first.program.notes,
        everything,
    )


def _column(compiled: Compiled, values: dict[str, int], base: float) -> Column:
    ttft = float(_at(compiled.ttft, **values))
    latency = float(_at(compiled.latency, **values))
    steps = values["N"] - 1
    at = {**values, **_middle(compiled, values)}
    tpot = (latency - ttft) / steps if steps else float(_at(compiled.tpot, **at))
    memory = float(_at(compiled.memory, **values))
    capacity = (compiled.bound or compiled.machine).memory.room
    return Column(
        passes=text_of(compiled.passes) or "none",
        ttft=ttft,
        tpot=tpot,
        latency=latency,
        throughput=values["B"] * values["N"] / latency,
        memory=memory,
        ttft_bound=_bound(compiled.ttft, **values),
        tpot_bound=_bound(compiled.tpot, **at),
        speedup=base / latency,
        fits=capacity is None or memory <= float(capacity),
    )


def _middle(compiled: Compiled, values: dict[str, int]) -> dict[str, int]:
    """The context in the middle of the request's decode steps."""
    ends = compiled.program.contexts(values["S"], values["N"])
    return {} if ends is None else {"T": sum(ends) // 2}


def _at(formula: Formula, **values: int) -> float:
    wanted = {s.name for s in formula.symbols}
    return formula.evaluate(**{k: v for k, v in values.items() if k in wanted})


def _bound(formula: Formula, **values: int) -> str:
    wanted = {s.name for s in formula.symbols}
    shares = bound_shares(formula, {k: v for k, v in values.items() if k in wanted})
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{name} {100 * share:.0f}%"
