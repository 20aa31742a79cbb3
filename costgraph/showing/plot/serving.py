"""A simulated server over time: who waits, reads and decodes, and what the steps hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.collections import LineCollection
from matplotlib.patches import Patch

from costgraph.errors import InputError
from costgraph.showing.plot.style import PALETTE, head, new_figure, plain, styled, titled, unit_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from costgraph.asking.serving import Simulated
    from costgraph.asking.serving.served import Served, Span
    from costgraph.setting import Setting

#: Requests that a picture shows at most.
MOST = 80
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


def draw_requests(axes: Axes, served: Sequence[Served], first: float) -> None:
    """One line a request: waiting, reading its prompt, decoding."""
    for i, name in enumerate(PARTS):
        lines = []
        for n, s in enumerate(served):
            ends = (s.request.arrival, s.begun, s.first, s.done)
            lines.append([(ends[i] - first, n), (ends[i + 1] - first, n)])
        thick = 1.0 if i == 0 else 2.5
        axes.add_collection(LineCollection(lines, colors=PALETTE[i], linewidths=thick, label=name))
    axes.set_ylim(-1, len(served))
    axes.invert_yaxis()
    axes.set_ylabel("request")
    axes.legend(handles=[Patch(color=PALETTE[i], label=n) for i, n in enumerate(PARTS)])


def _steps(axes: Axes, spans: Sequence[Span], first: float) -> None:
    """Sequences that decode, as an area; steps with prompts are marked, by server."""
    servers = sorted({s.server for s in spans})
    most = max((s.decodes for s in spans), default=0) or 1
    for row, server in enumerate(servers):
        own = [s for s in spans if s.server == server]
        for tokens, color in ((False, PALETTE[2]), (True, PALETTE[1])):
            part = [s for s in own if bool(s.tokens) is tokens]
            axes.bar(
                [s.start - first for s in part],
                [0.9 * max(s.decodes, 0.06 * most if s.tokens else 0) / most for s in part],
                [s.seconds for s in part], bottom=row, align="edge", color=color, linewidth=0,
            )  # fmt: skip
    axes.set_yticks([r + 0.5 for r in range(len(servers))], [f"server {s}" for s in servers])
    axes.set_ylim(0, max(len(servers), 1))
    axes.set_xlabel(f"time; height: sequences that decode, of {most}, with prompts or without")
