"""Latency against throughput over the batch, for several machines and pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sympy import Integer

from costgraph.compiling.capacity import at_level, room_of
from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError
from costgraph.formula.powers import placed
from costgraph.ir.workload import shown, workload
from costgraph.setting import Setting
from costgraph.showing.plot.labels import Point, place_labels
from costgraph.showing.plot.style import (
    LINES,
    MARKERS,
    PALETTE,
    decades,
    font_size,
    head,
    new_figure,
    plain,
    styled,
    titled,
    unit_axis,
)
from costgraph.symbols import symbol
from costgraph.timing.roofline import level_memory, phase_memory

Place = tuple[float, float, int, bool]


def places(compiled: Compiled, batches: Sequence[int], **values: int) -> list[Place]:
    """(time per output token, tokens per second, batch, fits in memory) over batches.

    ``T`` in ``values`` is the context of the decode step. The memory is what
    decoding holds there: weights, caches and live activations.
    """
    capacity = room_of(compiled)
    wanted = {s.name for s in compiled.tpot.symbols}
    fixed = {k: v for k, v in values.items() if k in wanted}
    stepping = [p for p in compiled.program.phases if p.span is not None]
    candidates = [
        (m, capacity) for p in stepping for m in phase_memory(p, compiled.accounting, at_end=False)
    ]
    for level in compiled.farther:
        most = at_level(compiled, level)
        candidates += [(level_memory(p, level, at_end=False), most) for p in stepping]
    found = []
    for batch in batches:
        seconds = float(compiled.tpot.evaluate(**fixed, B=batch))
        at = {symbol(k): Integer(v) for k, v in {**values, "B": batch}.items()}
        fits = all(most is None or float(placed(m, at)) <= most for m, most in candidates)
        found.append((seconds, batch / seconds, batch, fits))
    return found


def lines_of(
    choices: Sequence[Compiled], batches: Sequence[int], values: Mapping[str, int]
) -> list[tuple[str, list[Place]]]:
    """The places of each choice, with what tells it from the others."""
    several = len({c.place for c in choices}) > 1
    found = []
    for compiled in choices:
        passes = ",".join(p.spec() for p in compiled.passes) or "no passes"
        name = f"{compiled.place}: {passes}" if several else passes
        found.append((name, places(compiled, batches, **values)))
    return found


def front_of(lines: Sequence[tuple[str, Sequence[Place]]]) -> list[tuple[float, float]]:
    """The time per token and the throughput of what fits and nothing that fits is better than."""
    fitting = [(seconds, rate) for _, found in lines for seconds, rate, _, fits in found if fits]
    return sorted(fitting[i] for i in undominated(fitting))


def about(
    choices: Sequence[Compiled], at: Mapping[str, int], title: str, front: Sequence[object]
) -> list[str]:
    """Lines over a front."""
    setting = Setting.shared([c.setting.warned(c.tpot.beyond(**at)) for c in choices])
    without = ("passes",) if len({c.setting.passes for c in choices}) > 1 else ()
    warning = "" if front else "no batch fits into memory"
    return titled(setting, title, shown(at), warning=warning, without=without)


def asked(
    choices: Sequence[Compiled], batches: Sequence[int], values: Mapping[str, int]
) -> dict[str, int]:
    """Values of all symbols but the batch.

    Raises:
        InputError: there is no choice or no batch, or a value has no part.
    """
    if not choices or not batches:
        raise InputError("a front needs at least one choice and one batch")
    given = workload([c.tpot for c in choices], values, {"T": 2048}, free=("B",))
    at: dict[str, Any] = {name: value for name, value in given.items() if name != "B"}
    return at


def undominated(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of points for which none is at least as good in both and better in one."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, front = -1.0, set()
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            front.add(index)
    return front


@styled
def pareto(
    choices: Sequence[Compiled],
    batches: Sequence[int],
    *,
    width: str = "slide",
    title: str = "",
    **values: int,
) -> Figure:
    """Tokens per second over the time per token; each line runs over the batch.

    Filled markers fit in the device's memory, hollow ones do not. The front over
    all choices that fit is drawn as a broad grey line.

    Args:
        choices: a model on machines and through pipelines.
        batches: batch sizes.
        width, title: as for other figures.
        values: ``T`` (2048) and symbols of passes.
    """
    at = asked(choices, batches, values)
    drawn = lines_of(choices, batches, at)
    figure, (axes,) = new_figure()
    axes.set_xscale("log")
    axes.set_yscale("log")
    handles = []
    labels: list[Point] = []
    for index, (name, found) in enumerate(drawn):
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        x, y = [p[0] for p in found], [p[1] for p in found]
        style = LINES[index % len(LINES)]
        axes.plot(x, y, color=colour, linestyle=style, zorder=3, alpha=0.8)
        for seconds, rate, batch, fits in found:
            axes.plot(
                [seconds], [rate], color=colour, marker=marker, zorder=4,
                markerfacecolor=colour if fits else "white",
            )  # fmt: skip
            ends = (batches[0], batches[-1], batches[len(batches) // 2])
            labels.append(Point(seconds, rate, f"B={batch}" if batch in ends else "", 2.5))
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle=style,
                              label=plain(name)))  # fmt: skip
    front = front_of(drawn)
    if front:
        (line,) = axes.plot(
            [p[0] for p in front], [p[1] for p in front], color="#BBBBBB", zorder=1,
            linewidth=4.5, solid_capstyle="round", gid="front",
        )  # fmt: skip
        handles.append(Line2D([], [], color=line.get_color(), linewidth=4, label="front"))
    handles.append(Line2D([], [], color="#555555", marker="o", linestyle="",
                          markerfacecolor="white", label="beyond the memory"))  # fmt: skip
    axes.set_xlabel("time per output token")
    axes.set_ylabel("throughput")
    unit_axis(axes, "x", "s")
    unit_axis(axes, "y", "token/s")
    axes.grid(True, which="both", color="#EBEBEB", zorder=0)
    decades(axes, "x", width)
    decades(axes, "y")
    head(axes, width, *about(choices, at, title, front))
    figure.legend(handles=handles, loc="outside lower center",
                  ncols=1 if width == "column" else 2)  # fmt: skip
    place_labels(axes, sorted(labels, key=lambda p: p.text == ""), size=font_size(axes) * 0.8)
    return figure
