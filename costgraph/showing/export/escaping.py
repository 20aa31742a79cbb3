"""Texts as LaTeX sets them."""

from __future__ import annotations

import re
import unicodedata

from costgraph.errors import InputError, clip

_ESCAPES = {
    **{c: rf"\{c}" for c in "#$%&_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "←": "", "…": r"\dots{}", "−": "-", "–": "--", "·": r"\textperiodcentered{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "‖": r"$\Vert$", "µ": r"$\mu$",
    "→": r"$\to$", "∞": r"$\infty$", "Σ": r"$\sum$", "√": r"$\surd$",
}  # fmt: skip
#: Marks on letters that the usual fonts lack with them, and what sets each.
_MARKS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_LABEL = re.compile(r"[A-Za-z0-9:._-]{1,200}")
#: What a caption may not hold: a brace that is left, and what would end its line.
_PARTS = re.compile(r"\\.|[{}%\x00-\x1f\x7f]", re.DOTALL)


class Tex(str):
    """A text that is LaTeX already."""

    __slots__ = ()


def text_latex(text: str) -> str:
    """A text as it is shown; characters that LaTeX's usual fonts lack become ``?``."""
    if isinstance(text, Tex):
        return text
    return "".join(_ESCAPES.get(c, c if ord(c) < 256 else _marked(c)) for c in text)


def _marked(c: str) -> str:
    """A letter with its mark (``\\={u}`` of ū); ``?`` for any other character."""
    letter, mark = (*unicodedata.normalize("NFD", c), "")[:2]
    if not (letter.isascii() and letter.isalpha() and mark in _MARKS):
        return "?"
    return rf"\{_MARKS[mark]}{{{letter}}}"


def anchor_latex(label: str) -> str:
    r"""``\label{…}`` of a name.

    Raises:
        InputError: it has other characters than letters, digits and ``:._-``.
    """
    if not _LABEL.fullmatch(label):
        raise InputError(f"label {clip(label)}: letters, digits and :._- alone, such as eq:tpot")
    return rf"\label{{{label}}}"


def caption_latex(caption: str) -> str:
    r"""``\caption{…}`` of a text that is LaTeX: ``Cost of $S$ tokens``.

    Raises:
        InputError: a brace is left open or too many, the text ends in a backslash, or holds
            ``%`` or a line break.
    """
    depth = 0
    for part in _PARTS.findall(caption):
        depth += {"{": 1, "}": -1}.get(part, 0)
        if depth < 0 or part == "%" or not part.isprintable():
            depth = -1
            break
    ends = len(caption) - len(caption.rstrip("\\"))
    if depth or ends % 2 or not caption.strip():
        raise InputError(
            f"caption {clip(caption)}: LaTeX in one line, braces in pairs, % written \\%"
        )
    return rf"\caption{{{caption}}}"
