"""The commands ``explore`` (also ``serve``) and ``site``: the explorer, by a server or as files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.values import whole
from costgraph.errors import InputError

if TYPE_CHECKING:
    from costgraph.showing.explorer.catalog import Start

EXPLORE = """\
Opens a page in the browser where model, machines, passes and lengths are chosen, and everything
that a report shows follows. The server answers this computer alone and runs until Ctrl-C."""

EPILOG = """\
examples:
  costgraph explore
  costgraph explore llama-3-70b --on 8xh100,8xh200 --passes '' --passes 'fuse,parallel{tp=8}'
"""


def add_commands(commands: Any) -> None:
    """Register the commands."""
    explore = commands.add_parser(
        "explore",
        aliases=["serve"],
        help="a page in the browser to choose model, machines and passes live",
        description=EXPLORE,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    vocabulary.add_model(explore, nargs="?")
    vocabulary.add_machines(explore)
    explore.add_argument(
        "--passes", action="append", metavar="P", help="a pipeline; repeatable ('': unmodified)"
    )
    vocabulary.add_values(explore)
    explore.add_argument("--port", type=whole, metavar="N", help="to listen at (a free one)")
    explore.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=True, help="open it (default)"
    )
    explore.set_defaults(run=_explore)


def _explore(arguments: argparse.Namespace) -> int:
    try:
        from costgraph.showing.explorer.server import serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"the explorer needs {error.name}: pip install 'costgraph[explore]'"
        ) from None

    def said(address: str) -> None:
        print(f"costgraph explorer at {address}\nCtrl-C stops it", flush=True)

    try:
        serve(_start(arguments), arguments.port or 0, arguments.browser, said)
    except KeyboardInterrupt:  # how a server is stopped
        pass
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
