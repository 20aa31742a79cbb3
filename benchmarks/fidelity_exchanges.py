"""Exchanges between devices in the measured timings (see fidelity.py).

Machines of one card are one device; what differs between them stands in the variant: the
collective, how the link joins devices, how many take part, and the library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from costgraph.timing.fidelity.collective import ANY, CARRIED_OVER
from costgraph.timing.fidelity.fit import errors, fit
from costgraph.timing.fidelity.labels import library_of
from costgraph.timing.fidelity.study import (
    Study,
    crossfit,
    leave_one_out,
    study,
    transferred,
)
from costgraph.timing.fidelity.table import Datasheet, read_table

#: Libraries with kernels of their own; without a name, formulas take all of them together.
FRAMEWORKS = ("sglang", "trtllm", "vllm")
HEAD = ("collective", "topology", "library", "device", "rows", "ideal", "calibrated")
LEFT_OUT = ("collective", "topology", "library", "rows", "ideal", "device left out",
            "device and ranks left out")  # fmt: skip


def load(
    path: Path, sheets: Mapping[str, Datasheet], cards: Mapping[str, str], apart: bool
) -> Study:
    """The rows of a table by card; libraries ``apart``, or all frameworks' own kernels as one."""
    table = read_table(path, "exchange")
    c = table.columns
    if not apart:
        named = zip(c["backend"], c["timing"], strict=True)
        theirs = [library_of(str(b), str(t)) in FRAMEWORKS for b, t in named]
        table = table.where(np.array(theirs))
    own = np.array([cards[str(hw)] for hw in table.columns["hw"]])
    table = replace(table, columns={**table.columns, "hw": own})
    return study(table, {cards[name]: sheet for name, sheet in sheets.items()}, apart)


def parts(variant: str) -> tuple[str, str, str, str]:
    """Collective, topology, ranks and library of a variant."""
    name, _, library = variant.partition("@")
    kind, _, place = name.partition(" ")
    topology, _, ranks = place.partition(":")
    return kind, topology, ranks, library


def split(s: Study) -> tuple[np.ndarray, ...]:
    """:func:`parts` of every row, as arrays."""
    found = [parts(str(v)) for v in s.labels["variant"]]
    return tuple(np.array(column) for column in zip(*found, strict=True))


def table(s: Study) -> list[tuple[str, ...]]:
    """Held-out errors per collective, topology, library and device."""
    made, _ = crossfit(s)
    kind, topology, _, library = split(s)
    place = np.array(["nodes" if t.endswith("-nodes") else t for t in topology])
    out = []
    for key in sorted(set(zip(kind, place, library, s.labels["device"], strict=True))):
        m = np.ones(len(made), bool)
        for column, value in zip((kind, place, library, s.labels["device"]), key, strict=True):
            m &= column == value
        ideal, t = s.roofline()[m], s.seconds[m]
        out.append((*map(str, key), str(m.sum()), pair(errors(ideal, t)), pair(errors(made[m], t))))
    return out


def carried_over(s: Study) -> Study:
    """The rows whose fits serve other devices."""
    return s.where(np.isin(split(s)[1], CARRIED_OVER))


def any_ranks(s: Study) -> Study:
    """The rows as those of fits over all numbers of devices."""
    kind, topology, _, library = split(s)
    named = [
        f"{k} {t}:{ANY}" + (f"@{b}" if b else "")
        for k, t, b in zip(kind, topology, library, strict=True)
    ]
    return replace(s, labels={**s.labels, "variant": np.array(named), "kernel": np.array(named)})


def strangers(s: Study) -> np.ndarray:
    """Predictions of each device's rows with as many ranks by fits that saw neither."""
    model, parameters = transferred(s.form)
    scopes = {p.name: p.scope for p in parameters}
    device, ranks = s.labels["device"], s.table.columns["n_gpus"]
    out = np.empty(len(device))
    for name, number in set(zip(device, ranks, strict=True)):
        there = s.where((device != name) & (ranks != number))
        unseen = (device == name) & (ranks == number)
        made = fit(model, parameters, there.f, there.seconds, there.labels)
        here = s.where(unseen)
        out[unseen] = model(here.f, made.rows(here.labels, scopes))
    return out


def transfer_table(s: Study, relatives: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Errors on devices that were left out, and on numbers of ranks that were as well."""
    s = carried_over(s)
    known, unknown, ideal = leave_one_out(s, relatives), strangers(any_ranks(s)), s.roofline()
    kind, topology, _, library = split(s)
    out = []
    for key in sorted(set(zip(kind, topology, library, strict=True))):
        m = (kind == key[0]) & (topology == key[1]) & (library == key[2])
        shown = (pair(errors(x[m], s.seconds[m])) for x in (ideal, known, unknown))
        out.append((*map(str, key), str(m.sum()), *shown))
    return out


def pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.0f}/{values[1]:.0f}"
