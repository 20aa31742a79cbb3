"""``import``: what reading an exported graph found."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.values import print_json


def add_commands(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "import",
        help="what an exported graph is read as: recognised, folded, unknown",
        description="Read an .onnx or .pt2 file and report what was recognised, which layers "
        "were folded, which operators are unknown (exit code 2), which constants were folded, "
        "what dimensions became, and the share of FLOP in operations that passes know.",
    )
    command.add_argument("file", help=".onnx or .pt2 file; nothing in it is run")
    vocabulary.add_dims(command)
    vocabulary.add_values(command, "BS", "B=1,S=128")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from costgraph.models.account import account
    from costgraph.showing.export.importing import account_object, account_text

    sizes = vocabulary.wholes(vocabulary.values(arguments))
    found = account(arguments.file, at=sizes, **vocabulary.dims(arguments))
    if arguments.json:
        print_json(account_object(found))
    else:
        print(account_text(found))
    return 2 if found.unknown else 0
