"""The command line. Heavy modules are imported only by the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from costgraph.cli import vocabulary
from costgraph.cli.answers import COMMANDS, OPTION
from costgraph.cli.examples import EXAMPLES, FIRST, show_examples
from costgraph.cli.output import Screen, Tape, ended, fail
from costgraph.cli.parser import Parser
from costgraph.cli.progress import waiting
from costgraph.errors import NoMetricError, UnboundSymbolError

if TYPE_CHECKING:
    from costgraph.cli.cases import Cases

#: Modules of commands, in the order of the help, and what is in each. One is loaded alone
#: where it is named.
MODULES = {
    "basic": ("formula", "analyze", "compare"),
    "formula": ("explain", "regimes", "solve", "wins", "reliability"),
    "sweep": ("sweep", "search"),
    "serving": ("serve-plan", "serve-simulate"),
    "draw": ("draw", "plot"),
    "report": ("report",),
    "listings": ("models", "hardware", "passes", "formats"),
    "importing": ("import",),
    "calibrate": ("calibrate", "validate"),
    "explorer": ("explore", "serve", "site"),
    "completion": ("completion",),
}


def main(
    argv: Sequence[str] | None = None, tape: Tape | None = None, kept: Cases | None = None
) -> int:
    """Entry point; returns the exit code: 0, 2 for errors, 130 when interrupted."""
    return ended(lambda: _run(argv, kept), tape)


def _run(argv: Sequence[str] | None, kept: Cases | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    parser = _build_parser(given[0] if given else "")
    arguments = parser.parse_args(argv)
    arguments.cases = kept
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    vocabulary.check_paper(arguments)
    run: Callable[[argparse.Namespace], int] = arguments.run
    if getattr(arguments, "format", "text") == "text" and isinstance(sys.stdout, Screen):
        from costgraph.showing.export.terminal import width

        sys.stdout.columns = width()
    try:
        with waiting(f"costgraph {arguments.command}"):
            return run(arguments)
    except UnboundSymbolError as error:
        fail(f"{error}{vocabulary.hint(error.names, arguments)}")
    except NoMetricError as error:
        asked = getattr(arguments, "metric", None) == error.metric
        fail(f"{error}: --metric {error.instead}" if asked else str(error))


def _build_parser(command: str = "") -> argparse.ArgumentParser:
    """The parser of all commands, or of those that are in one module with ``command``."""
    parser = Parser(
        prog="costgraph",
        description="The cost of model inference as a formula: latency, memory and traffic, "
        "symbolic in batch and sequence length.",
    )
    from costgraph import __version__

    parser.add_argument("--version", action="version", version=f"costgraph {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", parser_class=Parser
    )
    # A script that completes commands holds them all.
    alone = [m for m, names in MODULES.items() if command in names and m != "completion"]
    for module in alone or MODULES:
        import_module(f"costgraph.cli.{module}").add_commands(commands)
    show_examples(parser, FIRST)
    for name in commands.choices.keys() & EXAMPLES.keys():
        show_examples(commands.choices[name], EXAMPLES[name])
    for name in COMMANDS & commands.choices.keys():
        commands.choices[name].add_argument(
            OPTION,
            action="store_true",
            help="answer anew: neither repeat a kept answer nor keep this one (kept below "
            "~/.cache/costgraph, or in the folder that COSTGRAPH_CACHE names)",
        )
    for known in commands.choices.values():
        known.elsewhere = _options
    return parser


@cache
def _options() -> dict[str, list[str]]:
    """Every option that a help shows, and the commands that take it."""
    commands: dict[str, Parser] = next(
        a.choices for a in _build_parser()._actions if isinstance(a.choices, dict)
    )
    found: dict[str, list[str]] = {}
    for name, command in commands.items():
        if command.prog.endswith(f" {name}"):  # and is no other name of one
            for option in filter(command.takes, command._option_string_actions):
                found.setdefault(option, []).append(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
