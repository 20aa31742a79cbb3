"""``import``: what reading an exported graph found."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.showing import Answer, show


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
    vocabulary.add_values(command, "B=1,S=128", sizes="BS")
    vocabulary.add_format(command, "csv")
    command.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from costgraph.models.account import account
    from costgraph.showing.export.importing import account_object, account_text

    sizes = vocabulary.wholes(vocabulary.values(arguments))
    found = account(arguments.file, at=sizes, **vocabulary.dims(arguments))
    show(
        arguments,
        Answer(lambda: print(account_text(found)), lambda: account_object(found), "parts"),
    )
    return 2 if found.unknown else 0
