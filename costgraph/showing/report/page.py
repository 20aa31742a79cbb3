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
from typing import TYPE_CHECKING, Any

from costgraph.compiling.breakdown import symbols_of
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import devices_of, pipelines_of, split_options
from costgraph.errors import InputError, unknown
from costgraph.files.writing import suffix_of, write_whole
from costgraph.hardware import load_system
from costgraph.ir.workload import checked, plain
from costgraph.progress import counted
from costgraph.setting import Setting
from costgraph.showing.report.contents import (
    Contents,
    controls,
    hardware_figures,
    metrics_of,
    option_symbols,
    pipeline_label,
)
from costgraph.showing.report.load import START as LOAD
from costgraph.showing.report.load import queue_script, starting
from costgraph.showing.report.plans import plans_of
from costgraph.showing.report.servers import Asked
from costgraph.showing.report.simulated import USUAL, simulated
from costgraph.showing.report.starting import image_unit, start

if TYPE_CHECKING:
    from costgraph.asking.serving.asked import Arrivals, Servers, Wanted
    from costgraph.compiling.options import Passes

#: The script of every page, in this order, and what a report has beside it.
SCRIPTS = (
    "base.js", "turns.js", "bundle.js", "model.js", "controls.js", "sight.js", "room.js",
    "charts.js", "curve.js", "detail.js", "minimap.js", "load.js", "plans.js",
    "servers.js", "main.js",
)  # fmt: skip
OWN = "report.js"
#: A page with more would be slow to make and to open.
MOST_VARIANTS = 24


@dataclass(frozen=True)
class Report:
    """A report as one HTML page.

    Attributes:
        html: the page.
        notes: remarks on how the model was read, and what passes did not do.
        title: what it is about.
    """

    html: str
    notes: tuple[str, ...] = ()
    title: str = ""

    def __repr__(self) -> str:
        return f"<Report {self.title}, {len(self.html) / 1e6:.1f} MB; save('….html')>"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which runs its script."""
        inner = escape(self.html)
        return (
            f'<iframe srcdoc="{inner}" style="width:100%;height:80vh;border:1px solid #ccc" '
            'sandbox="allow-scripts" title="cost report"></iframe>'
        )

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
    pipelines: Passes | Sequence[Passes] = "",
    *,
    B: int | None = None,
    S: int | None = None,
    N: int | None = None,
    T: int | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    rate: float | None = None,
    limit: int | None = None,
    chunk: int | None = None,
    policy: str | None = None,
    plans: bool = False,
    simulate: int | None = None,
    wanted: Wanted | None = None,
    arrivals: Arrivals | None = None,
    servers: Servers | None = None,
    **options: Any,
) -> Report:
    """A live report of a model on one or several devices through one or several pipelines.

    Args:
        model, accounting, fidelity, calibration, reserve: as for
            :func:`costgraph.compile`.
        hardware: a device, or several for a selector.
        pipelines: a pipeline, or a list; the empty text is the unmodified model. Speed-ups are
            against the first.
        B, S, N, T: where the controls start: by default 1, 1024, 256 and 2048, or less
            where the model has no positions for so many; 77 prompt tokens where it makes pictures.
        rate, limit, chunk, policy: where the load of a server starts: requests per second (by
            default half of what it stands), sequences at a time (64, or what memory holds), tokens
            of a step (2048), and ``chunked``, ``continuous`` or ``prefill-first``.
        simulate: also simulate so many requests where the controls start: of models that are
            served, 400 where a rate is given and there are no ``arrivals``.
        plans: also every way to share the model among the devices of each system.
        wanted: also the cheapest servers of the devices within limits on times, of each pipeline.
        arrivals: also these requests, simulated through each pipeline on each device.
        servers: what serves them; by default one server.
        options: how the model is read, and where other symbols start, such as ``K``
            denoising steps (32), ``G`` image tokens (256, or those of whole images; 4096 of a
            picture that is made) and those of passes.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    load = starting(rate, limit, chunk, policy)
    asked_of = Asked(wanted, arrivals, servers)
    devices = devices_of(hardware)
    texts = list(dict.fromkeys(pipelines_of(pipelines)))
    if not devices or not texts:
        raise InputError("a report needs at least one device and one pipeline")
    if len(devices) * len(texts) > MOST_VARIANTS:
        raise InputError(
            f"{len(devices)} devices and {len(texts)} pipelines make "
            f"{len(devices) * len(texts)} variants; one report holds {MOST_VARIANTS}"
        )
    reading, symbols = split_options(options)
    point = checked({"B": B, "S": S, "N": N, "T": T, **symbols})

    how = {
        "accounting": accounting,
        "fidelity": fidelity,
        "calibration": calibration,
        "reserve": reserve,
        **reading,
    }

    def made(device: Hardware, passes: Passes) -> Compiled:
        return compile(model, device, passes, symbolic_hardware=True, **how)

    pairs = [(device, passes) for device in devices for passes in texts]
    made_all = [made(*pair) for pair in counted(pairs, "variants compiled")]
    grid = [made_all[i : i + len(texts)] for i in range(0, len(pairs), len(texts))]
    _check_names(made_all, plain(point))
    contents, data, setting = bundle(grid, start([c for row in grid for c in row], point))
    data["load"] = load
    asked, sizes = simulate is not None, {c["name"] for c in data["controls"]}
    if rate is not None and not asked and arrivals is None and {"S", "N"} <= sizes:
        simulate = USUAL
    _served(asked_of, data, contents, (model, devices, texts), grid, how)
    for device, row, known in zip(devices, data["variants"], grid, strict=True):
        if plans and load_system(device).devices != 1:
            for passes, variant in zip(texts, row, strict=True):
                variant["plans"] = plans_of(model, device, passes, contents, **how)
        if simulate is not None:
            fixed = [_fixed(c, data["controls"]) for c in known]
            numbers = [
                compile(model, device, passes, **how, **values)
                for passes, values in zip(texts, fixed, strict=True)
            ]
            S, N = _lengths(data["controls"])
            found = simulated(numbers, load, S, N, simulate, contents.text, asked)
            for variant, seen in zip(row, found, strict=True):
                variant["simulated"] = seen
    page = assemble(grid[0][0].program.name, data, contents.texts, contents.scripts.source())
    return Report(page, setting.remarks, setting.text(without=("passes",)))


def _served(
    asked: Asked,
    data: dict[str, Any],
    contents: Contents,
    made_of: tuple[Model, Sequence[Hardware], Sequence[Passes]],
    grid: Sequence[Sequence[Compiled]],
    how: Mapping[str, Any],
) -> None:
    """Plans and simulated requests, put beside what a page has already.

    Raises:
        InputError: no pipeline has a plan, or none serves the requests.
    """
    model, devices, texts = made_of
    if asked.wanted is None and asked.arrivals is None:
        return
    asked = asked.lengths(*_lengths(data["controls"]))
    fixed = [[_fixed(c, data["controls"]) for c in row] for row in grid]
    if asked.wanted is not None:
        data["wanted"] = [
            asked.planned(model, devices, passes, **how, **values)
            for passes, values in zip(texts, fixed[0], strict=True)
        ]
        _some(data["wanted"])
    if asked.arrivals is not None:
        came = asked.arrivals.come()
        found = []
        for device, row, values in zip(devices, data["variants"], fixed, strict=True):
            for passes, variant, point in zip(texts, row, values, strict=True):
                variant["served"] = asked.simulated(
                    model, device, passes, came, contents.text, **how, **point
                )
                found.append(variant["served"])
        _some(found)


def _some(found: Sequence[Mapping[str, Any]]) -> None:
    """Raises: InputError: there is nothing but reasons, the first of which is said."""
    if all(item["why"] for item in found):
        raise InputError(found[0]["why"])


def _check_names(variants: Sequence[Compiled], given: Mapping[str, Any]) -> None:
    """Before all that takes long: that what is given is a symbol of some variant.

    Figures of the devices are none that the page starts with: its fields have those that are
    stated, and a price where none is.

    Raises:
        InputError: it is none, or a figure.
    """
    known = {"B", *option_symbols(variants)}
    for compiled in variants:
        known |= {s.name for f in metrics_of(compiled).values() for s in f.symbols}
    if not given.keys() <= known:
        phases = ((c, p) for c in variants for p in c.program.phases)
        known |= {s.name for c, p in phases for s in symbols_of(c, p)}
    figures = {"price"}
    for compiled in variants:
        figures |= hardware_figures(compiled, known)["figures"].keys()
    for name in given:
        if name in figures:
            raise InputError(f"{name} is a figure of the device: it is set on the page")
        if name not in known:
            raise unknown(variants[0].setting.model, name, known - figures)


def _fixed(compiled: Compiled, controls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where controls of symbols start that are no size of a request."""
    names = {s.name for s in compiled.latency.symbols} - {"B", "S", "N", "T", "price"}
    return {c["name"]: c["value"] for c in controls if c["name"] in names}


def _lengths(controls: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Prompt and answer where the controls start.

    Raises:
        InputError: the model has none.
    """
    begun = {c["name"]: c["value"] for c in controls}
    if "S" not in begun or "N" not in begun:
        raise InputError("only what reads prompts and generates tokens is simulated")
    return int(begun["S"]), int(begun["N"])


def bundle(
    grid: Sequence[Sequence[Compiled]], point: Mapping[str, Any], contents: Contents | None = None
) -> tuple[Contents, dict[str, Any], Setting]:
    """What a page shows of variants: the data of devices (rows) and pipelines (columns).

    Args:
        grid: compiled with ``symbolic_hardware``.
        point: where the controls start.
        contents: collects what the data refer to by indices; new by default.
    """
    setting = Setting.shared([c.setting for row in grid for c in row])
    contents = contents or Contents()
    every = [c for row in grid for c in row]
    made = iter([contents.variant(c) for c in counted(every, "variants written")])
    variants = [[next(made) for _ in row] for row in grid]
    devices = [hardware_figures(row[0], contents.symbols) for row in grid]
    meanings = option_symbols(c for row in grid for c in row)
    data = {
        **headed(setting),
        "controls": controls(contents.symbols, devices, plain(point), meanings, image_unit(every)),
        "devices": devices,
        "pipelines": [pipeline_label(c) for c in grid[0]],
        "variants": variants,
        "graphs": contents.graphs.made,
        "nodes": contents.graphs.nodes_made,
        "load": dict(LOAD),
    }
    return contents, data, setting


def headed(setting: Setting) -> dict[str, Any]:
    """What a page says of its variants together; what one rests on stands with it."""
    about = {k: v for k, v in setting.to_dict().items() if k not in ("assumptions", "not_done")}
    return {
        "setting": about,
        "remarks": [*setting.cautions, *setting.remarks],
        "conventions": list(setting.conventions),
    }


def assemble(title: str, data: dict[str, Any], texts: Sequence[str], functions: str) -> str:
    """The page of data and functions; every text from outside is escaped.

    Args:
        title: of the page.
        data: plain values.
        texts: pieces of MathML and SVG that were made by costgraph. They lie in
            templates, which browsers parse but do not lay out.
        functions: JavaScript that defines ``FUNCTIONS``.
    """
    code = f"{functions}\n{queue_script()}\n{scripts((*SCRIPTS, OWN))}"
    script = f'\n(() => {{\n"use strict";\n{code}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    templates = "".join(f"<template>{text}</template>" for text in texts)
    return page_of(
        title=escape(_line(title)),
        kind="report",
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src blob:; base-uri 'none'; form-action 'none'",
        style=f"<style>\n{asset('report.css')}\n</style>",
        chooser="",
        network="Made by costgraph; this file is complete and uses no network.",
        tail=f'<div id="texts" hidden>{templates}</div>\n'
        f'<script type="application/json" id="data">{json_text(data)}</script>\n'
        f"<script>{script}</script>",
    )


def page_of(**parts: str) -> str:
    """The page with its parts, which are HTML: what stands between ``@…@`` in ``page.html``."""
    # Cut at the marks at once, so that no inserted text is searched for marks.
    marks = {f"@{name.upper()}@": text for name, text in parts.items()}
    pattern = "(" + "|".join(map(re.escape, marks)) + ")"
    return "".join(marks.get(piece, piece) for piece in re.split(pattern, asset("page.html")))


def scripts(names: Sequence[str], package: str = "costgraph.showing.report") -> str:
    """Parts of a page's script, one after another."""
    return "\n".join(asset(name, package) for name in names)


def asset(name: str, package: str = "costgraph.showing.report") -> str:
    """A file that is shipped beside the modules of a package."""
    return (files(package) / "assets" / name).read_text(encoding="utf-8")


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
