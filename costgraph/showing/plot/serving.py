"""Servers: a simulated one over time (who waits, reads and decodes, what steps hold), and plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from costgraph.errors import InputError
from costgraph.showing.export.serving import asked_text
from costgraph.showing.plot.style import (
    MARKERS,
    PALETTE,
    decades,
    head,
    new_figure,
    plain,
    styled,
    titled,
    unit_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from costgraph.asking.serving import Simulated
    from costgraph.asking.serving.plans import ServePlans
    from costgraph.asking.serving.served import Served, Span
    from costgraph.setting import Setting

#: Requests that a picture shows at most.
MOST = 80
#: Shares of a server's row: of a step without decodes, where others have some and where none has.
LEAST, STRIP = 0.12, 0.5
#: Servers that have a label.
LABELS = 8
PARTS = ("waits", "reads its prompt", "decodes")


@styled
def timeline(
    seen: Simulated, *, start: float = 0.0, end: float | None = None, title: str = "",
    setting: Setting | None = None, about: str = "", width: str = "slide",
) -> Figure:  # fmt: skip
    """Requests one above the other, and below them what the steps of each server hold.

    Args:
        seen: a simulation that kept its spans.
        start, end: seconds of the window; by default as far as 80 requests reach.
        title: what was served, in place of what ``setting`` says of it.
        setting: what the steps are of.
        about: what else to say, such as the policy.
        width: ``slide`` or ``column``.

    Raises:
        InputError: the simulation kept no steps, or the window holds no request.
    """
    if not seen.spans:
        raise InputError("a timeline needs the steps of a simulation: simulate(…, spans=True)")
    first = seen.served[0].request.arrival
    inside = [s for s in seen.served if s.done - first > start]
    if end is not None:
        inside = [s for s in inside if s.request.arrival - first < end]
    if not inside:
        raise InputError(f"no request is there from {start:g} s on")
    shown = inside[:MOST]
    last = max(s.done for s in shown) - first if end is None else end
    figure, (above, below) = new_figure(1, 2)
    draw_requests(above, shown, first)
    ends = ((s, s.start - first) for s in seen.spans)
    spans = [s for s, begun in ends if start <= begun + s.seconds and begun < last]
    _steps(below, spans, first)
    for axes in (above, below):
        axes.set_xlim(start, last)
        unit_axis(axes, "x", "s")
    which = f"the first {len(shown)} of {len(inside)} requests" if len(inside) > MOST else ""
    if setting is None:
        lines = [plain(", ".join(filter(None, (title, about, which))), 400)]
    else:
        lines = titled(setting, title, about, which)
    head(above, width, *lines)
    return figure


@styled
def served_front(found: ServePlans, *, title: str = "", width: str = "slide") -> Figure:
    """Speed for a user against throughput of a device: ways of which none is better in both.

    Hollow points have a time to first token that is mostly a lower estimate. The star is the
    best plan at the rate that was asked for, the line the limit on the time per token.

    Args:
        found: plans with their front.
        title: in place of what the plans say of themselves.
        width: ``slide`` or ``column``.

    Raises:
        InputError: there is no front.
    """
    if not found.front:
        raise InputError("there is no front to draw: no way keeps the limit on the first token")
    figure, (axes,) = new_figure()
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = sorted(found.front, key=lambda p: p.speed)
    axes.plot(
        [p.speed for p in points], [p.per_device for p in points], color="#BBBBBB", zorder=1
    )  # fmt: skip
    kinds = list(dict.fromkeys(p.way.named for p in found.front))
    handles = []
    for i, kind in enumerate(kinds):
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        for low in (False, True):
            own = [p for p in points if p.way.named == kind and p.steady.low is low]
            axes.plot(
                [p.speed for p in own], [p.per_device for p in own], linestyle="", color=color,
                marker=marker, markerfacecolor="white" if low else color, zorder=3,
            )  # fmt: skip
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="", label=plain(kind)))
    if any(p.steady.low for p in points):
        told = "time to first token: mostly a lower estimate"
        handles.append(Line2D([], [], color="#555555", marker="o", linestyle="",
                              markerfacecolor="white", label=told))  # fmt: skip
    traffic = found.traffic
    if found.plans:
        best = found.best
        use = traffic.rate * traffic.generate.mean / best.devices
        star = axes.plot([1 / best.tpot], [use], linestyle="", marker="*", color="black",
                         markersize=14, zorder=4)  # fmt: skip
        servers = " + ".join(f"{g.replicas} × {g.way}" for g in best.groups)
        star[0].set_label(plain(f"best plan: {servers}"))
        handles.append(star[0])
    handles.append(axes.axvline(1 / traffic.tpot, color="#555555", linestyle=":", zorder=2))
    handles[-1].set_label("limit on tpot")
    axes.set_xlabel("tokens/s for a user, 1/tpot")
    axes.set_ylabel("tokens/s a device")
    axes.grid(True, which="both", color="#EBEBEB", zorder=0)
    for which in ("x", "y"):
        unit_axis(axes, which, "")
    decades(axes, "x", width)
    decades(axes, "y")
    head(axes, width, *titled(found.setting, title, *asked_text(found)))
    figure.legend(handles=handles, loc="outside lower center",
                  ncols=1 if width == "column" else 3)  # fmt: skip
    return figure


def draw_requests(axes: Axes, served: Sequence[Served], first: float) -> None:
    """One row a request: waiting, reading its prompt, decoding. No row touches the next."""
    for i, name in enumerate(PARTS):
        half = 0.15 if i == 0 else 0.4
        boxes = []
        for n, s in enumerate(served):
            ends = (s.request.arrival, s.begun, s.first, s.done)
            begin, end = ends[i] - first, ends[i + 1] - first
            low, high = n - half, n + half
            boxes.append([(begin, low), (end, low), (end, high), (begin, high)])
        axes.add_collection(PolyCollection(boxes, facecolors=PALETTE[i], linewidths=0, label=name))
    axes.set_ylim(-1, len(served))
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_ylabel("request")
    # Where later requests are not there yet.
    axes.legend(
        handles=[Patch(color=PALETTE[i], label=n) for i, n in enumerate(PARTS)], loc="lower left"
    )


def _steps(axes: Axes, spans: Sequence[Span], first: float) -> None:
    """Sequences that decode, as an area a server; steps with prompts are marked.

    A server that only reads prompts has a strip while it does.
    """
    servers = sorted({s.server for s in spans})
    most = max((s.decodes for s in spans), default=0) or 1
    names = []
    for row, server in enumerate(servers):
        own = [s for s in spans if s.server == server]
        reads = all(s.decodes == 0 for s in own)
        names.append(f"server {server}{', prompts' if reads else ''}")
        least = STRIP if reads else LEAST
        for tokens, color in ((False, PALETTE[2]), (True, PALETTE[1])):
            part = [s for s in own if bool(s.tokens) is tokens]
            axes.bar(
                [s.start - first for s in part],
                [max(0.9 * s.decodes / most, least if s.tokens else 0) for s in part],
                [s.seconds for s in part], bottom=row, align="edge", color=color, linewidth=0,
            )  # fmt: skip
    step = -(-len(servers) // LABELS) or 1
    rows = range(0, len(servers), step)
    axes.set_yticks([r + 0.5 for r in rows], [names[r] for r in rows])
    axes.set_ylim(0, max(len(servers), 1))
    axes.set_xlabel(f"time (height: sequences that decode, at most {most})")
    told = (("decodes alone", PALETTE[2]), ("with prompts", PALETTE[1]))
    axes.legend(
        handles=[Patch(color=color, label=f"steps, {name}") for name, color in told],
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False,
    )  # fmt: skip
