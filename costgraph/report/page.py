"""Putting the page together: data, functions, script, style, and a policy without network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sympy import Integer

from costgraph.api import Compiled, Hardware, Model, compile
from costgraph.errors import InputError
from costgraph.export.files import suffix_of, write_whole
from costgraph.given import whole
from costgraph.program import Program
from costgraph.report.contents import (
    Contents,
    controls,
    hardware_figures,
    option_symbols,
    pipeline_label,
)
from costgraph.symbols import symbol

#: The page's script, in this order.
SCRIPTS = ("base.js", "model.js", "controls.js", "charts.js", "curve.js", "detail.js", "main.js")
#: Where the controls start unless something else is said.
START = {"B": 1, "S": 1024, "N": 256, "T": 2048, "K": 32}
#: A page with more would be slow to make and to open.
MOST_VARIANTS = 24


@dataclass(frozen=True)
class Report:
    """A report as one HTML page.

    Attributes:
        html: the page.
        notes: remarks on how the model was read, and what passes did not do.
    """

    html: str
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; the suffix must be ``.html``.

        Raises:
            InputError: another suffix, or no place to write.
        """
        suffix_of(path, (".html", ".htm"), "report")
        return write_whole(path, self.html.encode("utf-8"))


def report(
    model: Model,
    hardware: Hardware | Sequence[Hardware],
    pipelines: Sequence[str] = ("",),
    *,
    B: int | None = None,
    S: int | None = None,
    N: int | None = None,
    T: int | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    **options: Any,
) -> Report:
    """A live report of a model on one or several devices through one or several pipelines.

    Args:
        model, accounting, fidelity, options: as for :func:`costgraph.compile`.
        hardware: a device, or several for a selector.
        pipelines: pipeline texts; the empty one is the unmodified model. Speed-ups are
            against the first.
        B, S, N, T: where the controls start: by default 1, 1024, 256 and 2048, or less
            where the model has no positions for so many.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    single = isinstance(hardware, (str, os.PathLike)) or not isinstance(hardware, Sequence)
    devices: list[Hardware] = [hardware] if single else list(hardware)  # type: ignore[arg-type, list-item]
    texts = list(dict.fromkeys(pipelines))
    if not devices or not texts:
        raise InputError("a report needs at least one device and one pipeline")
    if len(devices) * len(texts) > MOST_VARIANTS:
        raise InputError(
            f"{len(devices)} devices and {len(texts)} pipelines make "
            f"{len(devices) * len(texts)} variants; one report holds {MOST_VARIANTS}"
        )
    given = {"B": B, "S": S, "N": N, "T": T}
    point = {k: whole(v, k) for k, v in given.items() if v is not None}

    def made(device: Hardware, passes: str) -> Compiled:
        return compile(
            model,
            device,
            passes,
            accounting=accounting,
            symbolic_hardware=True,
            fidelity=fidelity,
            **options,
        )

    grid = [[made(device, passes) for passes in texts] for device in devices]
    return _page(grid, start(grid[0][0], point), fidelity)


def start(compiled: Compiled, given: Mapping[str, int]) -> dict[str, int]:
    """Where the controls start; what is not given is halved until the model has it."""
    free = {k: v for k, v in START.items() if k not in given}
    limits = compiled.latency.limits + tuple(
        x for p in compiled.program.phases if p.span for x in compiled.time(p.name).limits
    )
    while True:
        values = {symbol(k): Integer(v) for k, v in (START | dict(given) | free).items()}
        beyond = {s.name for x in limits if x.broken(values) is not None for s in x.symbols}
        tried = [k for k in ("S", "N", "T") if k in beyond and k in free]
        smaller: dict[str, int] = {k: max(1, free[k] // 2) for k in tried}
        if all(free[k] == v for k, v in smaller.items()):
            return START | dict(given) | free
        free |= smaller


def _page(grid: list[list[Compiled]], point: dict[str, int], fidelity: str) -> Report:
    contents = Contents()
    variants = [[contents.variant(c) for c in row] for row in grid]
    devices = [hardware_figures(row[0], contents.symbols) for row in grid]
    first = grid[0][0]
    program: Program = first.program
    meanings = option_symbols(c for row in grid for c in row)
    data = {
        "model": program.name,
        "accounting": first.accounting.name,
        "fidelity": fidelity,
        "controls": controls(contents.symbols, devices, point, meanings),
        "devices": devices,
        "pipelines": [pipeline_label(c) for c in grid[0]],
        "variants": variants,
        "graphs": contents.graphs.made,
        "nodes": contents.graphs.nodes_made,
    }
    notes = dict.fromkeys(n for c in grid[0] for n in (*c.program.notes, *c.undone))
    return Report(
        assemble(program.name, data, contents.texts, contents.scripts.source()), tuple(notes)
    )


def assemble(title: str, data: dict[str, Any], texts: Sequence[str], functions: str) -> str:
    """The page of data and functions; every text from outside is escaped.

    Args:
        title: of the page.
        data: plain values.
        texts: pieces of MathML and SVG that were made by costgraph. They lie in
            templates, which browsers parse but do not lay out.
        functions: JavaScript that defines ``FUNCTIONS``.
    """
    here = files("costgraph.report") / "assets"
    own = "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'\n(() => {{\n"use strict";\n{functions}\n{own}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    parts = {
        "@TITLE@": escape(_line(title)),
        "@HASH@": digest,
        "@STYLE@": (here / "report.css").read_text(encoding="utf-8"),
        "@TEXTS@": "".join(f"<template>{text}</template>" for text in texts),
        "@DATA@": json_text(data),
        "@SCRIPT@": script,
    }
    page = (here / "page.html").read_text(encoding="utf-8")
    # Cut at the marks at once, so that no inserted text is searched for marks.
    pattern = "(" + "|".join(map(re.escape, parts)) + ")"
    return "".join(parts.get(piece, piece) for piece in re.split(pattern, page))


def json_text(data: Any) -> str:
    """JSON that is safe inside ``<script>``: no ``<``, ``>`` or ``&``, plain ASCII.

    Numbers that JSON does not know (infinities) are an error.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
