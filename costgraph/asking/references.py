"""What an answer rests on, as references: configurations, figures of machines, papers.

What is known of each source stands at one place: of shipped configurations in their index, of
figures in the file of their device, of papers in :mod:`costgraph.passes.papers`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from costgraph.formula.outline import kind_of, link_of, split_level
from costgraph.hardware.machine import Figure
from costgraph.models.catalog import entries, find
from costgraph.passes.papers import Paper, papers_in
from costgraph.rewriting.pipeline import Pass
from costgraph.version import VERSION

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.formula.terms import Term

#: What a source is about, in the order in which sources are named.
ABOUT = ("model", "machine", "passes", "counting", "timing", "program")
_HUB = "https://huggingface.co/"
#: Figures that are asked whatever the metric: does it fit?
_ROOM = ("memory.capacity", "memory.usable_capacity")
#: Figures that only some metrics rest on, by their unit.
_PRICED = {"J": ("energy.", "power."), "USD": ("price.",)}


@dataclass(frozen=True)
class Reference:
    """A source.

    Attributes:
        key: what documents cite it by: letters, digits and ``:._-``.
        about: one of :data:`ABOUT`.
        title: of a paper or a configuration; of figures the text of their source.
        author: surname of the first author; empty where it is not on file.
        others: whether there are more.
        year: of a paper.
        arxiv: its number.
        url: where it is, if that is known.
        note: what else is said of it.
    """

    key: str
    about: str
    title: str
    author: str = ""
    others: bool = False
    year: int | None = None
    arxiv: str = ""
    url: str = ""
    note: str = ""


def references(found: Iterable[tuple[Compiled, Sequence[Formula]]]) -> tuple[Reference, ...]:
    """The sources of answers, each once, in the order of :data:`ABOUT`.

    Args:
        found: compiled models, each with the formulas that were asked. Of the machine those
            figures count that the formulas hang on; all of its rates where no formula is named.
    """
    every: dict[str, Reference] = {}
    for compiled, formulas in found:
        for reference in _of(compiled, formulas):
            every.setdefault(reference.key, reference)
    every.setdefault(
        "costgraph",
        Reference("costgraph", "program", "costgraph", note=f"version {VERSION}"),
    )
    return tuple(sorted(every.values(), key=lambda r: ABOUT.index(r.about)))


def _of(compiled: Compiled, formulas: Sequence[Formula]) -> Iterator[Reference]:
    program = compiled.program
    passes = compiled.trace.passes or compiled.passes
    yield _model(program.origin, program.name)
    for name in _named(passes):
        yield _model(name, name)
    yield from _machine(compiled, formulas, bool(passes))
    for item in passes:
        yield from _papers(type(item).source, "passes", item.name)
    convention = compiled.accounting
    if convention.rules:
        yield from _papers(f"{convention.title}; {convention.source}", "counting", convention.name)
    if compiled.timing is not None:
        yield from _timing(compiled)


def _model(origin: str, name: str) -> Reference:
    if not origin:
        return Reference(
            _key("model", name), "model", name, note="a configuration or graph of one's own"
        )
    entry = entries()[origin]
    url = _HUB + entry.hub[0] if entry.hub else ""
    note = f"configuration: {entry.source}"
    return Reference(_key("model", origin), "model", entry.title, url=url, note=note)


def _named(passes: Iterable[Pass]) -> Iterator[str]:
    """Shipped models that options of passes name, such as drafts."""
    for item in passes:
        for option in fields(item):
            value = getattr(item, option.name)
            if isinstance(value, str) and value in entries():
                yield find(value)


def _machine(compiled: Compiled, formulas: Sequence[Formula], shaped: bool) -> Iterator[Reference]:
    """The sources of figures; of symbolic machines none but of how much they hold."""
    machine = compiled.bound or compiled.machine
    stated = dict(machine.figures)
    symbolic = compiled.bound is not None and compiled.bound != compiled.machine
    wanted = [*_ROOM, *([] if symbolic else _rates(formulas, stated))]
    if shaped:  # tiles of fused kernels, shared files
        wanted.append("onchip.")
    for key, figure in stated.items():
        if any(key == w or (w.endswith(".") and key.startswith(w)) for w in wanted):
            yield _figure(machine.name, figure)
    system = compiled.system
    if system is not None:
        for figure in system.figures.values():
            yield _figure(system.name, figure)


def _figure(whose: str, figure: Figure) -> Reference:
    return Reference(_key(whose, figure.key or "source"), "machine", figure.source)


def _rates(formulas: Sequence[Formula], stated: Collection[str]) -> Iterator[str]:
    """Keys of the rates that formulas hang on, or where they begin; all where none is named."""
    if not formulas:
        yield from ("peaks.", "memory.bandwidth")
    for formula in formulas:
        for unit, keys in _PRICED.items():
            if unit in formula.unit:
                yield from keys
        for resource in set(_resources(formula.terms)):
            yield from _rate(resource, stated)


def _resources(terms: Iterable[Term]) -> Iterator[str]:
    for term in terms:
        for arm in term.arms:
            yield arm.resource
            yield from _resources(arm.chain)


def _rate(resource: str, stated: Collection[str]) -> Iterator[str]:
    """Keys of the figures that a resource's rate comes from."""
    kind = kind_of(resource)
    if link := link_of(kind):
        yield f"links.{link}."
        return
    level, own = split_level(kind)
    before = f"tiers.{level}." if level else ""
    if own == "memory":
        yield f"{before}bandwidth" if level else "memory.bandwidth"
    engine, colon, of = own.partition(":")
    if colon:
        exact = f"{before}peaks.{engine}.{of}"
        yield exact if exact in stated else f"{before}peaks.{engine}."


def _papers(text: str, about: str, whose: str) -> Iterator[Reference]:
    """The sources that a text names; what begins small and names no paper is a remark."""
    for index, (part, paper) in enumerate(papers_in(text), 1):
        if paper is not None:
            yield _paper(paper, about, part)
        elif part[:1].isupper():
            yield Reference(_key(whose, str(index)), about, part)


def _paper(paper: Paper, about: str, said: str) -> Reference:
    return Reference(
        f"arXiv:{paper.number}",
        about,
        paper.title or said,
        paper.author,
        bool(paper.author) and not paper.alone,
        paper.year,
        paper.number,
        f"https://arxiv.org/abs/{paper.number}",
    )


def _timing(compiled: Compiled) -> Iterator[Reference]:
    from costgraph.timing.fidelity.calibration import transfer

    timing = compiled.timing
    assert timing is not None
    own = timing.own or transfer()
    yield Reference(
        _key("timing", own.device), "timing", f"Timings: {own.provenance}", note=timing.file
    )
    if timing.served is not None:
        text = f"Timings: {timing.served.provenance}"
        yield Reference(_key("timing", timing.framework), "timing", text)


def _key(*parts: str) -> str:
    return ":".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in parts)
