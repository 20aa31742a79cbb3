"""The commands ``explore`` (also ``serve``) and ``site``: the explorer, by a server or as files."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.progress import bar
from costgraph.cli.values import remark, whole
from costgraph.errors import InputError, ModelError, clip

if TYPE_CHECKING:
    from costgraph.ir.program import Program
    from costgraph.showing.explorer.catalog import Start

#: Variants that are not in a site and are named one by one.
MOST_TOLD = 20
EXPLORE = """\
Opens a page in the browser where model, machines, passes and lengths are chosen, and everything
that a report shows follows. The server answers this computer alone and runs until Ctrl-C."""

SITE = """\
Writes the explorer's page as one folder that needs no server: put it on any web host, or open its
index.html from a disk. Models, machines and pipelines to choose from are those named here; the
numbers are computed in the page. All shipped models on all machines take hours and gigabytes."""


def add_commands(commands: Any) -> None:
    """Register the commands."""
    explore = commands.add_parser(
        "explore",
        aliases=["serve"],
        help="a page in the browser to choose model, machines and passes live",
        description=EXPLORE,
    )
    vocabulary.add_model(explore, nargs="?")
    vocabulary.add_machines(explore)
    vocabulary.add_pipelines(explore)
    vocabulary.add_values(explore)
    explore.add_argument("--port", type=whole, metavar="N", help="to listen at (a free one)")
    explore.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=True, help="open it (default)"
    )
    explore.set_defaults(run=_explore)
    made = commands.add_parser(
        "site",
        help="the explorer as a folder of files, for any web host",
        description=SITE,
    )
    made.add_argument("-o", "--output", required=True, metavar="FOLDER", help="new or empty")
    made.add_argument(
        "--models", metavar="M[,M]", action="append", help="shipped models (all); repeatable"
    )
    vocabulary.add_machines(
        made, what="shipped devices and systems, also 8xh100 (all of them), separated by commas"
    )
    vocabulary.add_pipelines(
        made, usual="without any: that one, fuse, and fuse with weights of int4"
    )
    made.add_argument(
        "--jobs", type=whole, metavar="N", help="processes at the same time (one a core)"
    )
    made.add_argument(
        "--plans",
        action="store_true",
        help="also every way to share a model among the devices of each system (slow)",
    )
    made.set_defaults(run=_site)


def _explore(arguments: argparse.Namespace) -> int:
    try:
        from costgraph.showing.explorer.server import serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"the explorer needs {error.name}: pip install 'costgraph[explore]'"
        ) from None

    def said(address: str) -> None:
        print(f"costgraph explorer at {address}\nCtrl-C stops it", flush=True)

    start, given = _checked(_start(arguments), arguments.model)
    serve(start, given, arguments.port or 0, arguments.browser, said)
    print("stopped")
    return 0


def _start(arguments: argparse.Namespace) -> Start:
    from costgraph.showing.explorer.catalog import Start

    usual = Start()
    return Start(
        arguments.model or usual.model,
        tuple(dict.fromkeys(vocabulary.devices(arguments))) or usual.on,
        tuple(dict.fromkeys(arguments.passes or usual.passes)),
        tuple((name, float(v)) for name, v in vocabulary.values(arguments).items()),
    )


def _checked(start: Start, model: str | None) -> tuple[Start, Program | None]:
    """The start with names as shipped, and the model where the command line names a file.

    Raises:
        CostgraphError: what, in one line.
    """
    from costgraph.hardware import load_system
    from costgraph.models import load_model
    from costgraph.models.catalog import find
    from costgraph.passes import PASSES
    from costgraph.rewriting.pipeline import parse

    for name in start.on:
        if name.lower().endswith(".toml") or "/" in name:
            raise InputError(f"--on: {clip(name)}: the explorer shows shipped machines alone")
        load_system(name)
    for text in start.passes:
        parse(text, PASSES)
    program = load_model(model or start.model)
    with suppress(ModelError):
        return replace(start, model=find(model or start.model)), None
    return replace(start, model=program.name), program


def _site(arguments: argparse.Namespace) -> int:
    import os

    from costgraph.models.catalog import model_names
    from costgraph.showing.explorer import catalog
    from costgraph.showing.explorer.site import PIPELINES, site

    models = [m.strip() for text in arguments.models or () for m in text.split(",")]
    everything = [m["value"] for m in catalog.machines()]
    with bar("pairs of model and pipeline") as told:
        made = site(
            arguments.output,
            models or model_names(),
            vocabulary.devices(arguments) or everything,
            arguments.passes or PIPELINES,
            jobs=arguments.jobs or os.cpu_count() or 1,
            plans=arguments.plans,
            told=told,
        )
    for model, machine, passes, why in made.refused[:MOST_TOLD]:
        remark([f"{model} on {machine}, {passes or 'unmodified'}: {why}"])
    if len(made.refused) > MOST_TOLD:
        remark([f"and {len(made.refused) - MOST_TOLD} more that do not go together"])
    print(f"wrote {made.folder}: {made.files} files, {made.size / 1e6:.1f} MB; open its index.html")
    return 0
