"""A step as a trace of events, the JSON that Chrome and Perfetto read.

Format: "Trace Event Format", complete events (``ph: X``) with times in microseconds. A lane is
a thread: of the device, and of each body of a region whose bodies run at the same time. Events
of all lanes stand in the order of their ``ts``.

Viewers count whole nanoseconds, and cut begin and length each for itself: times are rounded
here, to ends that lie within one another as the spans do; ``args`` has the seconds as they are.
"""

from __future__ import annotations

import os
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costgraph.files.writing import suffix_of, write_whole
from costgraph.showing.export.plain_json import json_text

if TYPE_CHECKING:
    from costgraph.compiling.timeline import Span, Timeline

#: Nanoseconds of a second, and of a microsecond.
NANO, EACH = 1e9, 1000
#: Of a nanosecond: by how much sums of the same seconds may differ.
SLACK = 1e-6


def timeline_chrome(made: Timeline) -> dict[str, Any]:
    """The trace as plain values."""
    table = made.breakdown
    setting = table.setting.to_dict(*table.fit.cautions)
    lanes = {lane: i for i, lane in enumerate(dict.fromkeys(s.lane for s in made.spans), 1)}
    title = f"{setting['model']}, {table.phase}"
    events: list[dict[str, Any]] = [_named("process_name", title, 0)]
    for lane, thread in lanes.items():
        events += [_named("thread_name", lane, thread), _placed(thread)]
    events += [_event(span, lanes[span.lane]) for span in made.spans]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            **setting,
            "phase": table.phase,
            "bindings": dict(table.bindings),
            "seconds": made.seconds,
            "about": list(table.about),
            "fit": table.fit.to_dict(),
        },
    }


def write_timeline(made: Timeline, path: str | os.PathLike[str]) -> Path:
    """Writes the trace as a file of JSON.

    Raises:
        InputError: the place cannot be written to, or the name does not end in ``.json``.
    """
    suffix_of(path, (".json",), "a timeline")
    return write_whole(path, json_text(timeline_chrome(made), indent=0).encode("utf-8"))


def _named(what: str, name: str, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": 1, "tid": thread, "args": {"name": name}}


def _placed(thread: int) -> dict[str, Any]:
    """Lanes stand in the order in which they begin, the device above its regions' bodies."""
    return {
        "ph": "M", "name": "thread_sort_index", "pid": 1, "tid": thread,
        "args": {"sort_index": thread},
    }  # fmt: skip


def _event(span: Span, thread: int) -> dict[str, Any]:
    row = span.row
    begin, end = _nanoseconds(span.start), _nanoseconds(span.start + span.seconds)
    shown: dict[str, Any] = {"seconds": span.seconds}
    if row is not None:
        shown |= {"bound": row.bound, "FLOP": row.flops, "byte": row.bytes, **row.links}
    return {
        "ph": "X",
        "name": span.name,
        "cat": "region" if row is None else row.kind,
        "pid": 1,
        "tid": thread,
        "ts": begin / EACH,
        "dur": (end - begin) / EACH,
        "args": shown,
    }


def _nanoseconds(seconds: float) -> int:
    return floor(seconds * NANO + 0.5 + SLACK)
