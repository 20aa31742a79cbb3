"""Commands that list what there is to choose from: models, hardware, passes, formats."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.values import remark
from costgraph.errors import InputError


def add_commands(commands: Any) -> None:
    """Registers the commands."""
    for name, run, text in (
        ("models", _models, "shipped models"),
        ("hardware", _hardware, "devices and systems, one with its sources, or 'compare A B …'"),
        ("passes", _passes, "optimisation passes, or one pass with its options"),
        ("formats", _formats, "number formats with their bits, or one; what machines run"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", nargs="?", help="show one in detail")
        if name == "hardware":
            command.add_argument("others", nargs="*", help="devices or systems after 'compare'")
        vocabulary.add_format(command, "csv")
        if name == "models":
            vocabulary.add_dims(command)
        if name == "formats":
            vocabulary.add_machines(command)
            command.add_argument(
                "--types",
                action="store_true",
                help="what machines multiply in and what they widen the rest to (all without --on)",
            )
        command.set_defaults(run=run)


def _models(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.models import list_models, show_model

    if arguments.name:
        remark(show_model(arguments.name, arguments.format, **vocabulary.dims(arguments)))
    else:
        list_models(arguments.format)
    return 0


def _hardware(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.machines import compare_hardware, list_hardware, show_hardware

    if arguments.name == "compare":
        compare_hardware(arguments.others, arguments.format)
    elif arguments.others:
        raise InputError("several devices are shown by: costgraph hardware compare A B")
    elif arguments.name:
        show_hardware(arguments.name, arguments.format)
    else:
        list_hardware(arguments.format)
    return 0


def _passes(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.listing import list_passes, show_pass

    if arguments.name:
        show_pass(arguments.name, arguments.format)
    else:
        list_passes(arguments.format)
    return 0


def _formats(arguments: argparse.Namespace) -> int:
    from costgraph.hardware import device_names, load_hardware
    from costgraph.showing.export.formats import list_formats, list_types, show_format

    names = vocabulary.devices(arguments)
    if arguments.types:
        if arguments.name:
            raise InputError("--types is about machines: leave the format out")
        names = names or device_names()
    machines = [load_hardware(name) for name in names]
    if arguments.types:
        list_types(machines, arguments.format)
    elif arguments.name:
        show_format(arguments.name, machines, arguments.format)
    else:
        list_formats(machines, arguments.format)
    return 0
