"""References as BibTeX, as the list at the end of a document, and as what cites them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from costgraph.showing.export.escaping import Tex, text_latex

if TYPE_CHECKING:
    from costgraph.asking.references import Reference

_KEY = re.compile(r"^\s*@\w+\s*\{\s*([^,\s]+)\s*,", re.MULTILINE)
#: What references are called where they are cited.
_WORDS = {
    "model": "model", "machine": "figures of the machine", "passes": "passes",
    "counting": "counting convention", "timing": "calibration", "program": "computed by",
}  # fmt: skip


def bibtex(references: Sequence[Reference]) -> str:
    """A BibTeX file: an entry each, under the key that documents cite."""
    return "\n".join(_entry(r) for r in references)


def added(text: str, references: Sequence[Reference]) -> tuple[str, int]:
    """A BibTeX file with the references that it lacks behind its own entries; how many it did."""
    there = set(_KEY.findall(text))
    new = [r for r in references if r.key not in there]
    parts = [*([text.rstrip() + "\n"] if text.strip() else []), *map(_entry, new)]
    return "\n".join(parts), len(new)


def _entry(reference: Reference) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in _fields(reference)]
    return "\n".join([f"@misc{{{reference.key},", *lines, "}", ""])


def _fields(r: Reference) -> Iterator[tuple[str, str]]:
    if r.author:
        yield "author", f"{{{text_latex(r.author)}}}" + (" and others" if r.others else "")
    else:  # styles sort and abbreviate by it where nobody is named
        yield "key", text_latex(r.title)
    # Capitals of names stay as they are.
    yield "title", f"{{{text_latex(r.title)}}}"
    if r.arxiv:
        yield "eprint", r.arxiv
        yield "archiveprefix", "arXiv"
    if r.url:
        yield "url", r.url
    if note := _note(r):
        yield "note", note
    if r.year is not None:
        yield "year", str(r.year)


def _note(r: Reference) -> str:
    parts = [f"arXiv:{r.arxiv}" if r.arxiv else r.url, r.note]
    return ", ".join(text_latex(part) for part in parts if part)


def bibliography(references: Sequence[Reference]) -> str:
    """The list of references of a document that needs no other file."""
    items = [rf"\bibitem{{{r.key}}} {_item(r)}" for r in references]
    return "\n".join([r"\begin{thebibliography}{99}", *items, r"\end{thebibliography}"])


def _item(r: Reference) -> str:
    author = f"{text_latex(r.author)}{' et al' if r.others else ''}" if r.author else ""
    year = "" if r.year is None else str(r.year)
    last = ", ".join(part for part in (_note(r), year) if part)
    return " ".join(f"{part}." for part in (author, text_latex(r.title), last) if part)


def citing(references: Sequence[Reference]) -> Tex:
    r"""A sentence that cites them all: ``model \cite{…}; passes \cite{…}``."""
    keys: dict[str, list[str]] = {}
    for r in references:
        keys.setdefault(r.about, []).append(r.key)
    parts = [rf"{_WORDS[about]} \cite{{{','.join(found)}}}" for about, found in keys.items()]
    return Tex(f"Sources: {'; '.join(parts)}.")
