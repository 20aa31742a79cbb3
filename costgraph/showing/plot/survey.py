"""The figures of the survey "LLM Inference Unveiled" (arXiv 2402.16363), from its accounting.

Each is computed here by the ``survey`` accounting; settings are those of the
figures' captions and of the notebook published with the survey.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from costgraph.compiling.compilation import compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.steps import Breakdown
from costgraph.errors import InputError, clip, nearest
from costgraph.hardware import load_system
from costgraph.hardware.systems import HOST, with_levels
from costgraph.showing.plot.bars import grouped, stack
from costgraph.showing.plot.curves import curve
from costgraph.showing.plot.labels import place_labels
from costgraph.showing.plot.rooflines import (
    bound_legend,
    draw_roofs,
    far_roofs,
    ridge_points,
    roofs_of,
    scatter,
)
from costgraph.showing.plot.style import (
    LINES,
    MARKERS,
    PALETTE,
    axis_title,
    font_size,
    head,
    head_text,
    log_ticks,
    new_figure,
    number,
    powers_of_two,
    styled,
    unit_axis,
)

MODEL, DEVICE = "llama-2-13b", "a6000"
#: Weight, activation and cache formats by the survey's names.
FORMATS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "FP16": {},
        "W8": {"weights": "int8"},
        "W4": {"weights": "int4"},
        "W2": {"weights": "int2"},
        "W1": {"weights": "int1"},
        "W4KV4": {"weights": "int4", "kv": "int4"},
        "W4A4": {"weights": "int4", "activations": "int4", "kv": "int4"},
    }
)
#: Only the fusion of attention, nothing else.
FLASH = "fuse{siblings=false,epilogue=false,elementwise=false}"
GB = 1e9


@functools.lru_cache(maxsize=32)
def _compiled(name: str, passes: str = "", model: str = MODEL) -> Compiled:
    return compile(model, DEVICE, passes, accounting="survey", **dict[str, Any](FORMATS[name]))


def _step(compiled: Compiled, phase: str, batch: int, tokens: int) -> Breakdown:
    return compiled.breakdown(phase, B=batch, **{"T" if phase == "decode" else "S": tokens})


@styled
def figure_5(*, width: str = "slide") -> Figure:
    """Roofline of the A6000 in FP16, with the operations of the survey's Table 1."""
    return _device_roofline(("fp16",), width, "A6000, FP16: llama-2-7b, B=1, 2048 tokens")


@styled
def figure_6(*, width: str = "slide") -> Figure:
    """The same with the INT8 roof, twice as high."""
    return _device_roofline(
        ("fp16", "int8"), width, "A6000, FP16 and INT8 roofs: llama-2-7b, B=1, 2048 tokens"
    )


def _told(*more: str) -> str:
    """What the figures of Llama-2-13b are about."""
    return _compiled("FP16").setting.text(*more)


def _above(figure: Figure, width: str, text: str) -> None:
    """A title above several axes."""
    size = font_size(figure.axes[0])
    figure.suptitle(head_text(width, text), x=0.01, ha="left", fontsize=size)


def _device_roofline(dtypes: tuple[str, ...], width: str, title: str) -> Figure:
    compiled = _compiled("FP16", model="llama-2-7b")
    machine = compiled.bound or compiled.machine
    figure, (axes,) = new_figure()
    roofs = roofs_of(machine, dtypes)
    draw_roofs(axes, roofs, 0.1, 4000)
    axes.set_ylim(5e10, 2e15)
    labels = [*ridge_points(axes, roofs)]
    steps = {phase: _step(compiled, phase, 1, 2048) for phase in ("prefill", "decode")}
    for phase, step in steps.items():
        labels += scatter(axes, step, phase == "decode", 0.005)
    rows = [row for step in steps.values() for row in step]
    marks = {"prefill (filled)": False, "decode (hollow)": True}
    bound_legend(axes, rows, "area: share of the step", marks)
    head(axes, width, title, ", ".join(compiled.setting.conventions))
    place_labels(axes, labels, 5.6 if width == "column" else 10.5)
    return figure


@styled
def figure_7(*, width: str = "slide") -> Figure:
    """Memory of quantised Llama-2-13b relative to FP16: three settings, two stages."""
    names = ("FP16", "W4", "W4KV4", "W4A4")
    settings = ((1, 1024), (1, 4096), (16, 1024))
    figure, axes = new_figure(3, 2, sharey=True)
    if width == "column":
        figure.set_size_inches(3.3, 3.9)
    _above(figure, width, _told("formats by name"))
    for row, phase in enumerate(("prefill", "decode")):
        for column, (batch, tokens) in enumerate(settings):
            here = axes[3 * row + column]
            tables = [_step(_compiled(n), phase, batch, tokens).totals for n in names]
            whole = tables[0]["memory_bytes"]
            series = {
                label: [t[key] / whole for t in tables]
                for key, label in (
                    ("weight_bytes", "weights"),
                    ("kv_bytes", "KV cache"),
                    ("activation_bytes", "activations"),
                )
            }
            stack(here, names, series)
            here.set_ylim(0, 1.12)
            small = font_size(here) * 0.8
            for place, table in enumerate(tables):
                fraction = table["memory_bytes"] / whole
                here.annotate(f"{fraction:.2f}", (place, fraction), xytext=(0, 1.5), fontsize=small,
                              textcoords="offset points", ha="center", va="bottom")  # fmt: skip
            here.set_title(f"B={batch}, {tokens} tokens", fontsize=small)
            here.tick_params(axis="x", labelsize=small, rotation=45 if width == "column" else 0)
    for row, phase in ((0, "prefill"), (3, "decode")):
        axes[row].set_ylabel(f"{phase}: memory / FP16")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def figure_8(*, width: str = "slide") -> Figure:
    """Decode time over the batch for weights of 16 to 1 bit: Llama-2-13b, 1024 tokens."""
    choices = {n: _compiled(n) for n in ("FP16", "W8", "W4", "W2", "W1")}
    return curve(choices, "B", 1, 63, metric="tpot", log=False, width=width, T=1024)


def figure_9(*, width: str = "slide") -> Figure:
    """Prefill time over the prompt for weights of 16 to 1 bit: Llama-2-13b, batch 1."""
    choices = {n: _compiled(n) for n in ("FP16", "W8", "W4", "W2", "W1")}
    return curve(choices, "S", 16, 1023, metric="ttft", log=False, width=width, B=1)


@styled
def figure_11(*, width: str = "slide") -> Figure:
    """Decode memory over the context under quantisation: Llama-2-13b, batch 1."""
    tokens = [1024 * 2**k for k in range(8)]
    figure, (axes,) = new_figure()
    for index, name in enumerate(("FP16", "W4", "W4KV4", "W4A4")):
        tables = [_step(_compiled(name), "decode", 1, t).totals for t in tokens]
        axes.plot(
            tokens, [t["memory_bytes"] for t in tables], color=PALETTE[index],
            linestyle=LINES[index], marker=MARKERS[index], label=name,
        )  # fmt: skip
        weights = float(tables[0]["weight_bytes"])
        per_token = tables[0]["kv_bytes"] / tokens[0]
        meet = weights / per_token
        if name in ("FP16", "W4"):
            axes.annotate(
                f"{name}: KV = weights\nat {meet:,.0f} tokens", (meet, 2 * weights),
                xytext=(meet * 0.93, (90 if name == "FP16" else 60) * GB), ha="right",
                arrowprops={"arrowstyle": "-", "color": "#777777", "lw": 0.6},
            )  # fmt: skip
    axes.axhline(48 * GB, color="#B3261E", linestyle="--", linewidth=0.8)
    axes.annotate("48 GB", (1, 48 * GB), xycoords=("axes fraction", "data"), xytext=(0, 1),
                  textcoords="offset points", ha="right", va="bottom", color="#B3261E")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 142 * GB)
    log_ticks(axes, "x", powers_of_two(1024, 131072, 4 if width == "column" else 8))
    axes.set_xlabel(axis_title("T"))
    axes.set_ylabel("memory")
    unit_axis(axes, "x", "")
    unit_axis(axes, "y", "B")
    axes.grid(True, color="#E3E3E3")
    axes.legend(loc="upper left")
    head(axes, width, _told("decode, B=1"))
    return figure


@styled
def figure_16(*, width: str = "slide") -> Figure:
    """What fusing attention saves in traffic and time: Llama-2-13b in FP16."""
    settings = {
        "decode": ((1, 1000), (1, 10_000), (1, 100_000), (16, 1000), (64, 1000)),
        "prefill": ((1, 1000), (1, 10_000), (1, 100_000), (16, 1000), (64, 1000)),
    }
    exact = {p: compile(MODEL, DEVICE, p) for p in ("", FLASH)}
    # The revision of the tool that made the published bars counted one of K and V.
    survey = {p: compile(MODEL, DEVICE, p, accounting="survey-2024-04") for p in ("", FLASH)}
    figure, axes = new_figure(*((1, 2) if width == "column" else (2, 1)))
    if width == "column":
        figure.set_size_inches(3.3, 4.9)
    about = "accounting survey-2024-04 as published and exact, fidelity ideal"
    _above(figure, width, f"{MODEL} on {DEVICE}, no passes against {FLASH}, {about}")
    for here, (phase, points) in zip(axes, settings.items(), strict=True):
        series: dict[str, list[float]] = {}
        for label, pair in (("as published", survey), ("exact count", exact)):
            for key, what in (("bytes", "traffic"), ("seconds", "time")):
                series[f"{what}, {label}"] = [
                    100 * (1 - _step(pair[FLASH], phase, *p).totals[key]
                           / _step(pair[""], phase, *p).totals[key])
                    for p in points
                ]  # fmt: skip
        names = [f"B={b}\n{t // 1000}k" for b, t in points]
        grouped(here, names, series)
        here.set_ylabel("saved (%)")
        here.set_title(phase)
        here.set_xlabel("batch, tokens")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def figure_18(*, width: str = "slide") -> Figure:
    """Roofline of offloading: the GPU on its memory, on the host's, and the host's CPU."""
    machine = with_levels(load_system(f"{DEVICE}+i9-13900k"))
    (near,) = roofs_of(machine, ("fp16",))
    # The survey's figure has no roof for the link between them.
    far, _, inside = far_roofs(machine, HOST, ("fp16",))
    host = far.bandwidth
    names = ("CPU, host memory:", "GPU, own memory:", "GPU, host memory:")
    roofs = tuple(
        replace(roof, name=name) for roof, name in zip((inside, near, far), names, strict=True)
    )
    figure, (axes,) = new_figure()
    draw_roofs(axes, roofs, 0.3, 2e4)
    axes.set_ylim(1e10, 3e15)
    labels = []
    sides = ((0, 330, 350, 300, 315), (135, 160, 180, 120), (270, 280, 300, 315, 330))
    for index, roof in enumerate(roofs):
        (point,) = ridge_points(axes, (roof,))
        text = f"{roof.name}\n{number(roof.peak, 'FLOP/s')}, ridge {roof.ridge:.4g}"
        labels.append(type(point)(point.x, point.y, text, 3.0, sides[index]))
    head(axes, width, f"A6000 with an i9-13900K, host memory {number(host, 'B/s')}")
    place_labels(axes, labels, 5.8 if width == "column" else None)
    return figure


@styled
def figure_19(*, width: str = "slide") -> Figure:
    """Serving over the batch: throughput, step time and memory, W8A8 with 8-bit caches."""
    compiled = compile(
        MODEL, DEVICE, accounting="survey", weights="int8", activations="int8", kv="int8"
    )
    batches = list(range(1, 128, 6))
    contexts = (256, 512, 1024, 2048)
    figure, axes = new_figure(*((1, 3) if width == "column" else (3, 1)))
    if width == "column":
        figure.set_size_inches(3.3, 5.7)
    _above(figure, width, compiled.setting.text())
    for index, tokens in enumerate(contexts):
        seconds = [float(compiled.tpot.evaluate(B=b, T=tokens)) for b in batches]
        memory = [_step(compiled, "decode", b, tokens).totals["memory_bytes"] for b in batches]
        rates = [b / s for b, s in zip(batches, seconds, strict=True)]
        for here, series in zip(axes, (rates, seconds, memory), strict=True):
            here.plot(batches, series, color=PALETTE[index], linestyle=LINES[index],
                      label=f"{tokens} tokens")  # fmt: skip
    names = (("throughput", "token/s"), ("time of a decode step", "s"), ("memory", "B"))
    for here, (name, unit) in zip(axes, names, strict=True):
        here.set_xlabel(axis_title("B"))
        here.set_ylabel(name)
        unit_axis(here, "y", unit)
        here.set_ylim(0)
        here.set_xlim(1, 127)
        here.grid(True, color="#E3E3E3")
    axes[2].axhline(48 * GB, color="#B3261E", linestyle="--", linewidth=0.8)
    axes[2].annotate(
        "48 GB", (0, 48 * GB), xycoords=("axes fraction", "data"), xytext=(2, 1),
        textcoords="offset points", ha="left", va="bottom", color="#B3261E",
    )  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if width == "column" else 4)
    return figure


@styled
def figure_20(*, width: str = "slide") -> Figure:
    """Effect of the bandwidth: 200 TFLOP/s and 0.2 to 4 TB/s, Llama-2-13b, B=1, 1024 tokens."""
    compiled = compile(MODEL, DEVICE, accounting="survey", symbolic_hardware=True)
    bandwidths = [200 * GB * k for k in range(1, 21)]
    figure, axes = new_figure(*((1, 2) if width == "column" else (2, 1)))
    if width == "column":
        figure.set_size_inches(3.3, 4.3)
    _above(figure, width, compiled.setting.text())
    phases = (("prefill", compiled.ttft, {"S": 1024}), ("decode", compiled.tpot, {"T": 1024}))
    for here, (phase, formula, tokens) in zip(axes, phases, strict=True):
        peaks = {s.name: 200e12 for s in formula.symbols if s.name.startswith("F_")}
        seconds = [formula.evaluate(**peaks, **tokens, B=1, BW=b) for b in bandwidths]
        here.plot(bandwidths, [float(s) for s in seconds], color=PALETTE[0], marker="o")
        here.set_xlabel("memory bandwidth")
        here.set_ylabel(f"{phase} time")
        here.set_xlim(0)
        here.set_ylim(0)
        here.xaxis.set_major_locator(MaxNLocator(4))
        unit_axis(here, "x", "B/s")
        unit_axis(here, "y", "s")
        here.grid(True, color="#E3E3E3")
        here.set_title(f"{phase}, B=1, 1024 tokens, 200 TFLOP/s")
    return figure


FIGURES: Mapping[str, Callable[..., Figure]] = MappingProxyType(
    {
        "survey-fig5": figure_5,
        "survey-fig6": figure_6,
        "survey-fig7": figure_7,
        "survey-fig8": figure_8,
        "survey-fig9": figure_9,
        "survey-fig11": figure_11,
        "survey-fig16": figure_16,
        "survey-fig18": figure_18,
        "survey-fig19": figure_19,
        "survey-fig20": figure_20,
    }
)


def survey_figure(name: str, width: str = "slide") -> Figure:
    """The figure called ``survey-fig5`` and so on.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FIGURES:
        raise InputError(f"unknown figure {clip(name)}{nearest(name, FIGURES)}")
    return FIGURES[name](width=width)
