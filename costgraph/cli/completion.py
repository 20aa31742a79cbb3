"""``costgraph completion SHELL``: a script that completes commands, options and names.

The script holds every word itself: completing starts no program.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

#: How each shell is told, as a line of its start file.
SHELLS = {
    "bash": 'eval "$(costgraph completion bash)"',
    "zsh": 'eval "$(costgraph completion zsh)"',
    "fish": "costgraph completion fish | source",
}
#: One word after the other, each after the command and what stands before it: an option,
#: ``-`` where one is begun, nothing for a name.
_BASH = """\
_costgraph() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command= before= head=
  [ "$COMP_CWORD" -gt 1 ] && command="${COMP_WORDS[1]}"
  case "$cur" in
    -*) before=- ;;
    *) case "$prev" in -*) before="$prev" ;; esac ;;
  esac
  case "$cur" in *,*) head="${cur%,*}," ;; esac
  COMPREPLY=($(compgen -P "$head" -W "$(_costgraph_words "$command" "$before")" -- "${cur##*,}"))
}
complete -o default -F _costgraph costgraph
"""
_ZSH = """\
_costgraph() {
  local cur="${words[CURRENT]}" prev="${words[CURRENT-1]}" command= before=
  (( CURRENT > 2 )) && command="${words[2]}"
  case "$cur" in
    -*) before=- ;;
    *) case "$prev" in -*) before="$prev" ;; esac ;;
  esac
  local -a found
  found=(${=$(_costgraph_words "$command" "$before")})
  compset -P '*,'
  compadd -a found || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _costgraph costgraph
"""


def add_commands(commands: Any) -> None:
    """Registers the command."""
    command = commands.add_parser(
        "completion",
        help="completion of commands, options and names in a shell",
        description="A script for a shell, which completes commands, options, and the names of "
        "models, machines, passes and formats as they are now. In the shell's start file: "
        + "; ".join(f"{shell}: {line}" for shell, line in SHELLS.items()),
    )
    command.add_argument("shell", choices=tuple(SHELLS))

    def run(arguments: argparse.Namespace) -> int:
        print(script(arguments.shell, commands.choices, _helps(commands)), end="")
        return 0

    command.set_defaults(run=run)


def script(
    shell: str, commands: Mapping[str, argparse.ArgumentParser], helps: Mapping[str, str]
) -> str:
    """The script for a shell.

    Args:
        shell: a key of :data:`SHELLS`.
        commands: the commands by name.
        helps: what each does, in a line.
    """
    if shell == "fish":
        return _fish(commands, helps)
    return _words(commands) + (_BASH if shell == "bash" else _ZSH)


def _helps(commands: Any) -> dict[str, str]:
    return {action.dest: action.help or "" for action in commands._choices_actions}


def _words(commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """A function of command and option that prints words, for shells like ``sh``."""
    cases: dict[str, list[str]] = {}

    def case(pattern: str, words: Iterable[str]) -> None:
        text = " ".join(words)
        if text:
            cases.setdefault(text, []).append(shlex.quote(pattern))

    case(" ", commands)
    case(" -", ("--help", "--version"))
    for name, command in commands.items():
        options = _options(command)
        case(f"{name} -", (s for a in options for s in a.option_strings if s.startswith("--")))
        for action in options:
            for option in action.option_strings:
                found = _values(name, action) if action.nargs != 0 else _names(name, command)
                case(f"{name} {option}", found)
        case(f"{name} ", _names(name, command))
    lines = [f"    {'|'.join(p)}) echo {shlex.quote(w)} ;;" for w, p in cases.items()]
    return "\n".join(['_costgraph_words() {\n  case "$1 $2" in', *lines, "  esac\n}\n"])


def _fish(commands: Mapping[str, argparse.ArgumentParser], helps: Mapping[str, str]) -> str:
    lines = [
        f"complete -c costgraph -n __fish_use_subcommand -f -a {name} -d {_quoted(helps.get(name))}"
        for name in commands
    ]
    rules: dict[str, list[str]] = {}
    for name, command in commands.items():
        names = _names(name, command)
        if names:
            rules.setdefault(f"-a {_quoted(' '.join(names))}", []).append(name)
        for action in _options(command):
            rules.setdefault(_fish_option(name, action), []).append(name)
    for rule, names in rules.items():
        where = f"__fish_seen_subcommand_from {' '.join(names)}"
        lines.append(f"complete -c costgraph -n '{where}' {rule}")
    return "\n".join(lines) + "\n"


def _fish_option(command: str, action: argparse.Action) -> str:
    flags = (f"-l {s[2:]}" if s.startswith("--") else f"-s {s[1:]}" for s in action.option_strings)
    words = () if action.nargs == 0 else _values(command, action)
    # With -x no file is offered beside the words.
    takes = "" if action.nargs == 0 else "-x" if action.choices else "-r"
    parts = [*flags, f"-d {_quoted(action.help)}", takes]
    parts.append(f"-a {_quoted(' '.join(words))}" if words else "")
    return " ".join(p for p in parts if p)


def _quoted(text: str | None) -> str:
    """A text in single quotes, as fish reads them."""
    line = " ".join((text or "").replace("%%", "%").split())
    return "'" + line.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _options(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that its help shows."""
    shown = (a for a in command._actions if a.help != argparse.SUPPRESS)
    return [a for a in shown if a.option_strings]


def _names(command: str, parser: argparse.ArgumentParser) -> Sequence[str]:
    """What may stand in a command without an option."""
    found = (_values(command, a) for a in parser._actions if not a.option_strings)
    return list(dict.fromkeys(word for words in found for word in words))


def _values(command: str, action: argparse.Action) -> Sequence[str]:
    """Words that an option or a place of a command takes; none where it takes any text."""
    if action.choices:
        return [str(choice) for choice in action.choices]
    known = _KNOWN.get(command if action.dest in ("name", "others") else action.dest)
    return known() if known else ()


@cache
def _models() -> Sequence[str]:
    from costgraph.models.catalog import model_names

    return model_names()


@cache
def _machines() -> Sequence[str]:
    from costgraph.hardware.loader import device_names
    from costgraph.hardware.specs import system_names

    return sorted({*device_names(), *system_names()})


def _passes() -> Sequence[str]:
    from costgraph.passes import PASSES

    return list(PASSES)


def _formats() -> Sequence[str]:
    from costgraph.passes.precision.catalogue import entries

    return list(dict.fromkeys(entry.name for entry in entries()))


def _accountings() -> Sequence[str]:
    from costgraph.counting.accounting import ACCOUNTINGS

    return list(ACCOUNTINGS)


def _fidelities() -> Sequence[str]:
    from costgraph.timing.fidelity.apply import FIDELITIES

    return list(FIDELITIES)


#: Words by what takes them: the name of an argument, or of a command that shows one thing.
_KNOWN: Mapping[str, Callable[[], Sequence[str]]] = {
    "model": _models,
    "models": _models,
    "beside": _models,
    "on": _machines,
    "decode_on": _machines,
    "hardware": _machines,
    "passes": _passes,
    "decode_passes": _passes,
    "formats": _formats,
    "weights": _formats,
    "activations": _formats,
    "kv": _formats,
    "accounting": _accountings,
    "fidelity": _fidelities,
}
