"""Comparing pipelines: numbers side by side, what each pass adds, what its absence costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from sympy import Integer

from costgraph.compiling.capacity import room_of
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import devices_of, split_options
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.bounds import bound_shares
from costgraph.ir.workload import evaluated, of_steps, plain, workload
from costgraph.setting import Setting
from costgraph.symbols import N, S
from costgraph.views import view_text


@dataclass(frozen=True)
class Column:
    """One pipeline on one device at one workload.

    Of programs that generate no tokens, what is about tokens is None.

    Attributes:
        hardware, passes: the device and the pipeline.
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
        fits: whether the memory is within what the device has for programs.
    """

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
    """Pipelines of one model on one device or several, at one workload.

    Attributes:
        setting: what all columns share, and everything that any of them rests on.
        bindings: the workload.
        context: the middle of the request's decode steps, exact (a half between two of
            them): where the columns' ``tpot_bound`` holds, and the tpot of one step is the
            mean where it is linear in the context. None without any step.
        tpot_of: what the columns' ``tpot`` is of, in words; None without any step.
        columns: a pipeline on a device each, devices first.
        waterfalls, ablations, compiled: of each column.
    """

    setting: Setting
    bindings: dict[str, Any]
    context: int | float | None
    tpot_of: str | None
    columns: tuple[Column, ...]
    waterfalls: tuple[tuple[Effect, ...], ...]
    ablations: tuple[tuple[Effect, ...], ...]
    compiled: tuple[Compiled, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, in order."""
        return tuple(dict.fromkeys(c.hardware for c in self.columns))

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
                    "waterfall": [asdict(e) for e in fall],
                    "ablation": [asdict(e) for e in ablation],
                    "assumptions": of["assumptions"],
                    "not_done": of["not_done"],
                }
                for column, fall, ablation, of in zip(
                    self.columns, self.waterfalls, self.ablations, own, strict=True
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
    pipelines: Sequence[str],
    *,
    B: int | None = None,
    S: int | None = None,
    N: int | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    **options: Any,
) -> Comparison:
    """Compare pipelines of passes on one model and workload, on one device or several.

    Args:
        model, accounting, fidelity, calibration, reserve: as for :func:`costgraph.compile`.
        hardware: a device, or a list.
        pipelines: pipeline texts; speed-ups are against the first, on the first
            device. The empty text is the unmodified model.
        B, S, N: sequences, prompt tokens and generated tokens: 1, 1024 and 256 where
            the model has them.
        options: how the model is read, and numbers for its symbols and those of
            passes (``K`` denoising steps, ``G`` image tokens).

    Raises:
        InputError: there is nothing to compare, or a value is missing, unknown or out
            of range.
    """
    devices = devices_of(hardware)
    if not pipelines or not devices:
        raise InputError("compare needs at least one pipeline and one device")
    reading, symbols = split_options(options)

    def made(device: Hardware, passes: Any) -> Compiled:
        return compile(
            model,
            device,
            passes,
            accounting=accounting,
            fidelity=fidelity,
            calibration=calibration,
            reserve=reserve,
            **reading,
        )

    grid = [(device, made(device, text)) for device in devices for text in pipelines]
    everything = tuple(compiled for _, compiled in grid)
    formulas = [getattr(c, m) for c in everything for m in ("latency", "memory")]
    values = workload(formulas, {"B": B, "S": S, "N": N, **symbols})

    def latency(compiled: Compiled) -> float:
        return evaluated(compiled.latency, values)

    base = latency(everything[0])
    unmodified: dict[int, float] = {}
    falls, ablations = [], []
    for place, (device, compiled) in enumerate(grid):
        passes, total = compiled.passes, latency(compiled)
        at = place // len(pipelines)
        if at not in unmodified:
            unmodified[at] = total if not passes else latency(made(device, ()))
        fall, before = [], unmodified[at]
        for index, item in enumerate(passes):
            last = index == len(passes) - 1
            now = total if last else latency(made(device, passes[: index + 1]))
            fall.append(Effect(item.spec(), now, now - before))
            before = now
        falls.append(tuple(fall))
        ablation = []
        for index, item in enumerate(passes):
            without = latency(made(device, passes[:index] + passes[index + 1 :]))
            ablation.append(Effect(item.spec(), without, without - total))
        ablations.append(tuple(ablation))
    return Comparison(
        replace(Setting.shared([c.setting for c in everything]), passes="", warnings=()),
        values,
        _middle(everything[0], values).get("T"),
        _steps(everything[0], values),
        tuple(_column(c, values, base) for c in everything),
        tuple(falls),
        tuple(ablations),
        everything,
    )


def _column(compiled: Compiled, values: dict[str, Any], base: float) -> Column:
    latency = evaluated(compiled.latency, values)
    found: dict[str, Any] = dict.fromkeys(
        ("ttft", "tpot", "throughput", "ttft_bound", "tpot_bound", "latency_bound")
    )
    if "tpot" in compiled.metrics:
        found |= _tokens(compiled, values, latency)
    else:
        found["latency_bound"] = _bound(compiled.latency, values)
    memory = evaluated(compiled.memory, values)
    room = room_of(compiled)
    return Column(
        hardware=compiled.setting.hardware,
        passes=compiled.setting.passes or "none",
        latency=latency,
        memory=memory,
        speedup=base / latency,
        fits=room is None or memory <= room,
        **found,
    )


def _tokens(compiled: Compiled, values: dict[str, Any], latency: float) -> dict[str, Any]:
    """What is about generated tokens."""
    ttft = evaluated(compiled.ttft, values)
    sizes = {S: Integer(values.get("S", 1)), N: Integer(values["N"])}
    steps = float(compiled.program.after_first.xreplace(sizes))
    at = {**values, **_middle(compiled, values)}
    return {
        "ttft": ttft,
        "tpot": (latency - ttft) / steps if steps else evaluated(compiled.tpot, at),
        "throughput": evaluated(compiled.throughput, values),
        "ttft_bound": _bound(compiled.ttft, values),
        "tpot_bound": _bound(compiled.tpot, at),
    }


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
