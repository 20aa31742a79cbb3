"""Servers of a report that stand still: plans within limits on times, and simulated requests.

Both are what ``serve-plan`` and ``serve-simulate`` say, as plain values for the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from costgraph.asking.serving.asked import Arrivals, Came, Run, Servers, Wanted, run
from costgraph.asking.serving.plans import FrontPoint, ServePlans
from costgraph.compiling.compilation import Hardware, Model
from costgraph.compiling.options import passes_of
from costgraph.errors import CostgraphError, InputError
from costgraph.progress import tell
from costgraph.rewriting.pipeline import text_of
from costgraph.setting import Setting
from costgraph.showing.export.serving import (
    FRONT,
    Part,
    asked_text,
    plan_parts,
    policy_text,
    served_text,
    simulated_part,
)
from costgraph.showing.report.simulated import picture

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes


@dataclass(frozen=True)
class Asked:
    """What a report is asked of servers.

    Attributes:
        wanted: what a plan is wanted for.
        arrivals: requests that are simulated.
        servers: what serves those.
    """

    wanted: Wanted | None = None
    arrivals: Arrivals | None = None
    servers: Servers | None = None

    def __post_init__(self) -> None:
        if self.servers is not None and self.arrivals is None:
            raise InputError("servers are simulated with requests: arrivals are needed")

    def lengths(self, prompt: int, generate: int) -> Asked:
        """With lengths of requests where none are said: those where the controls start."""
        usual = {"prompt": prompt, "generate": generate}

        def filled(what: Wanted | Arrivals) -> dict[str, Any]:
            return {k: v for k, v in usual.items() if getattr(what, k) is None}

        wanted, arrivals = self.wanted, self.arrivals
        if wanted is not None:
            wanted = replace(wanted, **filled(wanted))
        if arrivals is not None and arrivals.trace is None:
            arrivals = replace(arrivals, **filled(arrivals))
        return replace(self, wanted=wanted, arrivals=arrivals)

    def planned(
        self, model: Model, hardware: Sequence[Hardware], passes: Passes, **options: Any
    ) -> dict[str, Any]:
        """Plans of one pipeline on whatever device; or ``why`` there are none.

        Raises:
            InputError: a device has no name.
        """
        assert self.wanted is not None
        names = [os.fspath(d) for d in hardware if isinstance(d, (str, os.PathLike))]
        if len(names) < len(hardware):
            raise InputError("plans of servers need devices by name or file")
        try:
            found = self.wanted.plans(
                model,
                names,
                text_of(passes_of(passes)),
                lambda done, all_: tell("planning", done, all_),
                **options,
            )
            _ = found.best
        except CostgraphError as error:
            return {"why": str(error)}
        traffic, limits = asked_text(found)
        parts = [_table(p) for p in plan_parts(found)]
        parts[0]["best"] = True  # its first row
        for part in parts:
            part["chart"] = part["title"] == FRONT
        return _about(found.setting, traffic, limits) | {"parts": parts, "front": _front(found)}

    def simulated(
        self,
        model: Model,
        on: Hardware,
        passes: Passes,
        came: Came,
        text: Callable[[str], int],
        **options: Any,
    ) -> dict[str, Any]:
        """What became of requests of one pipeline on one device; or ``why`` none were served.

        Args:
            came: the requests.
            text: keeps a piece of HTML among the page's, and says where.
        """
        assert self.arrivals is not None
        try:
            found = run(
                model, on, passes, came, self.servers, closed=self.arrivals.closed, spans=True,
                progress=lambda done, all_: tell("simulating", done, all_), **options,
            )  # fmt: skip
        except CostgraphError as error:
            return {"why": str(error)}
        window = None if self.arrivals.closed is not None else found.seen.served
        about = ", ".join(served_text(found))
        drawn, undrawn = picture(found.seen, window, found.setting, about, text)
        parts = [_table(simulated_part(found))]
        said = _about(found.setting, *served_text(found))
        return said | {"parts": parts, "picture": drawn, "unpictured": undrawn} | _whole(found)


def _about(setting: Setting, *more: str) -> dict[str, Any]:
    """What a section is about, what must be said of it, and what it rests on."""
    return {
        "why": "", "about": setting.parts(*more), "warnings": list(setting.said()),
        "said": [*setting.assumptions, *setting.remarks],
    }  # fmt: skip


def _table(part: Part) -> dict[str, Any]:
    return {
        "title": part.title, "head": list(part.head), "rows": [list(r) for r in part.rows],
        "notes": list(part.notes),
    }  # fmt: skip


def _front(found: ServePlans) -> list[list[Any]]:
    """Points of the front: speed, use, what they run on, how, and whether a time is low."""

    def point(p: FrontPoint) -> list[Any]:
        how = f"{p.way}, {policy_text(p.policy, p.way.times.lanes)}"
        return [p.speed, p.per_device, p.way.named, how, p.steady.low]

    return [point(p) for p in found.front]


def _whole(found: Run) -> dict[str, Any]:
    """Exact values of the times, by name: mean and quantiles in seconds."""
    made: Mapping[str, Any] = found.seen.to_dict()
    return {"times": {n: made[n] for n in ("ttft", "tpot", "latency")}}
