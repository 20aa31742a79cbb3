"""The parser of arguments: errors in one line that name what is near, options given once."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from costgraph.cli.output import fail
from costgraph.errors import clip, closest, nearest

#: Words that are all named where one is wrong.
_FEW = 5
#: How much a word must be like an option to be taken for it: one of two or three letters with
#: two of them swapped; any other; where another command has one, whose name or slip it may be.
_SHORT, _LONG, _ELSEWHERE = 0.5, 0.55, 0.85


class _Once(argparse.Action):
    """Stores a value; a second one is refused, where the usual action drops the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        self.check(parser, values)
        given: set[str] = namespace.__dict__.setdefault("_given", set())
        if option_string is not None and self.dest in given:
            raise argparse.ArgumentError(self, self.twice(parser))
        given.add(self.dest)
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)

    def check(self, parser: argparse.ArgumentParser, values: str | Sequence[Any] | None) -> None:
        """Refuse a value that the option does not take."""

    def twice(self, parser: argparse.ArgumentParser) -> str:
        """What is said of a second value."""
        return "is given twice, and takes one value"


class OnlyOne(_Once):
    """Stores the only one of something that other commands take several of.

    Args:
        what: what the command takes, in words.
        splits: what would separate several in one value; empty where nothing does.
    """

    def __init__(self, *args: Any, what: str, splits: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._what, self._splits = what, splits

    def check(self, parser: argparse.ArgumentParser, values: str | Sequence[Any] | None) -> None:
        if self._splits and self._splits in str(values):
            raise argparse.ArgumentError(self, f"{clip(values)}: {self.twice(parser)}")

    def twice(self, parser: argparse.ArgumentParser) -> str:
        return f"{parser.prog.split()[-1]} takes {self._what}"


class _Short(_Once):
    """A flag that is short for one value of another option."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str, help: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, const=const, default=argparse.SUPPRESS, help=help
        )


#: A line of a list: a word and what is said of it, with at least two spaces between.
_ITEM = re.compile(r"( *\S.*? {2,})(?=\S)")


class _Help(argparse.HelpFormatter):
    """Prose and lists are filled; examples stand as they are written, for a line to be copied.

    Lines end between words alone: names of options hold hyphens.
    """

    def _format_usage(self, *args: Any) -> str:
        found = super()._format_usage(*args)
        if all(len(line) <= self._width for line in found.splitlines()):
            return found
        # Options that stand beside a long name have no room: they stand below it.
        return re.sub(r"(?m)^ +", " " * len("usage: "), found)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _filled(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n  " not in text:
            return "\n".join(_filled(text, width, indent, indent))
        found: list[str] = []
        for line in text.splitlines():
            item = _ITEM.match(line)
            if item is None:
                found.append(f"{indent}{line}")
            else:
                hang = " " * len(item[1])
                found += _filled(line[item.end() :], width, f"{indent}{item[1]}", indent + hang)
        return "".join(f"{line}\n" for line in found)


def _filled(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    import textwrap

    return textwrap.wrap(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _bare(options: Sequence[str]) -> dict[str, str]:
    """Long options by their names without the hyphens in front."""
    return {text.lstrip("-"): text for text in options if text.startswith("--")}


class Parser(argparse.ArgumentParser):
    """Errors in one line and exit code 2; what is not known is answered with what is near.

    Attributes:
        elsewhere: the options of all commands, and which commands take each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(*args, **kwargs)
        self.elsewhere: Callable[[], Mapping[str, Sequence[str]]] = dict
        for name in (None, "store"):
            self.register("action", name, _Once)
        self.register("action", "short", _Short)

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._subparsers is None and args is not None:
            self._check_options(args)
        found, rest = super().parse_known_args(args, namespace)
        # Of names on both sides of an option argparse takes the latter for left out.
        for action in self._get_positional_actions():
            free = not getattr(found, action.dest, None) and action.nargs in ("?", "*")
            if free and rest and not rest[0].startswith("-"):
                taken = rest[: 1 if action.nargs == "?" else None]
                del rest[: len(taken)]
                setattr(found, action.dest, taken[0] if action.nargs == "?" else taken)
        unknown = next((a for a in rest if a.startswith("-") and len(a) > 1), None)
        if unknown is not None:
            self._refuse(unknown.split("=")[0])
        if rest:
            self.error(f"more than is taken: {' '.join(clip(a) for a in rest[:3])}")
        return found, rest

    def takes(self, option: str) -> bool:
        """Whether there is an option of this name, that help shows."""
        action = self._option_string_actions.get(option)
        return action is not None and action.help != argparse.SUPPRESS

    def _check_options(self, given: Sequence[str]) -> None:
        """Refuses long options that there are none of, before what is missing is told: a slip
        in the name of a required one is both."""
        for text in given:
            if text == "--":
                return
            name = text.split("=")[0]
            if not text.startswith("--") or " " in text:  # which argparse takes for a value
                continue
            if not any(known.startswith(name) for known in self._option_string_actions):
                self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        """Says that there is no such option, which is near, and which commands have one."""
        shown = [text for text in self._option_string_actions if self.takes(text)]
        others = self.elsewhere()
        own, every = _bare(shown), _bare([*shown, *others])
        word = name.lstrip("-")
        far = name if name in others else every.get(closest(word, every, _ELSEWHERE) or "", "")
        takers = () if far in shown else others.get(far, ())
        alike = _ELSEWHERE if far == name else _SHORT if len(word) <= 3 else _LONG
        near = closest(word, own, alike)
        said = f"; did you mean {own[near]!r}?" if near is not None else ""
        if not takers and near is None and len(shown) <= _FEW:
            said = f"; known: {', '.join(shown)}"
        if takers:
            it = "it" if far == name else repr(far)
            more = f" and {len(takers) - _FEW} more" if len(takers) > _FEW else ""
            said = f" here: {it} is an option of {', '.join(takers[:_FEW])}{more}{said}"
        self.error(f"no option {clip(name)}{said}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(c) for c in action.choices]
        near = "" if len(known) <= _FEW else nearest(str(value), known)
        said = "not known" if near else f"none of {', '.join(known)}"
        raise argparse.ArgumentError(action, f"{clip(value)} is {said}{near}")

    def _print_message(self, message: str, file: Any = None) -> None:
        # The usual one drops what cannot be written in silence.
        if message:
            print(message, end="", file=file or sys.stderr)

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see: {self.prog} --help)")
