"""What every printed function says about itself, and safe names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip

if TYPE_CHECKING:
    from costgraph.formula import Formula

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}\Z")


@dataclass(frozen=True)
class Signature:
    """The function to write.

    Attributes:
        name: its name, an identifier that is not reserved.
        names: for each symbol of the formulas, sorted, the name of its argument.
        comment: lines of plain text that describe it.
    """

    name: str
    names: dict[str, str]
    comment: tuple[str, ...]


def signature(
    formulas: Sequence[Formula],
    name: str | None,
    reserved: Collection[str],
    fold_case: bool = False,
    given: Mapping[str, str] | None = None,
) -> Signature:
    """Safe names and the describing comment of a function.

    Args:
        formulas: what it computes.
        name: of the function, or None for one made from the formulas' names.
        reserved: words that no name may be; a ``_`` is appended to those.
        fold_case: the language does not tell ``D`` from ``d``.
        given: what to write for some symbols, as it is.

    Raises:
        InputError: ``name`` is not an identifier.
    """
    if name is None:
        joined = "_".join(dict.fromkeys(f.name for f in formulas))
        name = re.sub(r"[^A-Za-z0-9]+", "_", joined).strip("_")[:60].rstrip("_")
        name = name if _IDENTIFIER.match(name) else f"f_{name}".rstrip("_")
    elif not _IDENTIFIER.match(name):
        raise InputError(
            f"{clip(name)} is not a function name: use letters, digits and '_', "
            "starting with a letter"
        )
    words = {w.lower() for w in reserved} if fold_case else set(reserved)

    def free(word: str) -> str:
        while (word.lower() if fold_case else word) in words:
            word += "_"
        words.add(word.lower() if fold_case else word)
        return word

    function = free(name)
    symbols = sorted({s.name for f in formulas for s in f.symbols})
    fixed = given or {}
    names = {symbol: fixed[symbol] if symbol in fixed else free(symbol) for symbol in symbols}
    return Signature(function, names, tuple(_comment(function, names, formulas)))


def _comment(function: str, names: dict[str, str], formulas: Sequence[Formula]) -> list[str]:
    lines = [f"{function}({', '.join(names.values())})"]
    settings = dict.fromkeys(f.setting for f in formulas if f.setting is not None)
    lines += [_line(text) for setting in settings for text in setting.lines()]
    if len(formulas) == 1:
        lines.append(f"Result: {_line(formulas[0].name)} [{_line(formulas[0].unit)}]")
    else:
        lines.append("Results, in this order:")
        lines += [f"  {_line(f.name)} [{_line(f.unit)}]" for f in formulas]
    lines += ["Arguments (positive numbers):"] if names else []
    meanings = {k: v for f in formulas for k, v in f.meanings.items()}
    for symbol, written in names.items():
        renamed = "" if written == symbol else f" (the symbol {symbol})"
        lines.append(f"  {written}{renamed}: {_line(meanings.get(symbol, _other(symbol)))}")
    assumptions = dict.fromkeys(a for f in formulas for a in f.assumptions)
    lines += ["Assumptions:"] if assumptions else []
    lines += [f"  {_line(a)}" for a in assumptions]
    remarks = dict.fromkeys(text for setting in settings for text in setting.remarks)
    lines += ["Notes:"] if remarks else []
    lines += [f"  {_line(text)}" for text in remarks]
    limits = dict.fromkeys(x for f in formulas for x in f.limits)
    lines += ["Limits (not checked by this code):"] if limits else []
    lines += [f"  {_line(x.text)}" for x in limits]
    return lines


def _other(symbol: str) -> str:
    """The meaning of symbols outside the legend: machine figures and others."""
    if symbol.startswith("F_"):
        return f"peak rate of {symbol[2:]}, FLOP/s"
    return {"BW": "memory bandwidth, byte/s"}.get(symbol, "a positive number")


def _line(text: str) -> str:
    """Text on one line, in which nothing ends or nests a comment of any language.

    Control and format characters (also those that change the direction of
    writing) become spaces; ``*/`` and the like are spread.
    """
    shown = "".join(c if c.isprintable() else " " for c in text)
    for mark in ("*/", "/*", "=#", "#=", '"""', "-->", "<!--", "</", "??", "\\"):
        shown = shown.replace(mark, " ".join(mark) if len(mark) > 1 else "/")
    return " ".join(shown.split())


def commented(lines: Sequence[str], mark: str) -> str:
    """Line comments."""
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in lines)
