"""Traced graphs as programs of one phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sympy import Add, Expr, Integer, Symbol

from costgraph.errors import ModelError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role
from costgraph.models.recognition.caches import appends, with_caches
from costgraph.models.recognition.generating import NotCertain, in_phases
from costgraph.models.recognition.recognise import recognised
from costgraph.models.traced.emitter import Decided, Misfit
from costgraph.models.traced.lowering import Dialect, Lowering
from costgraph.models.traced.record import Traced, alternatives
from costgraph.ops.experts import ExpertLinear, Routing
from costgraph.rewriting.binding import at
from costgraph.rewriting.pipeline import Miss
from costgraph.symbols import B, S, T, q, symbol

ONE = Integer(1)
#: What sizes are tried as multiples of, where an exact reading does not fit together.
MULTIPLES = (2, 4, 8, 16, 32, 64)
#: Symbols of sizes that are a part of one: part, whole, and how many parts.
Parts = tuple[tuple[Symbol, Symbol, int], ...]


def program_of(
    traced: Traced, dialect: Dialect, mask: str = "skip", recognise: bool = True
) -> Program:
    """The program of a traced graph: as a rule a single phase, ``forward``, that runs it once.

    It processes ``S`` positions per sequence where the graph depends on ``S``. ``q`` and
    ``T`` stand for that length, unless they are dimensions of the graph itself: then they
    stay free. No tokens are counted: a traced graph does not say how its results are used,
    unless it is the step of a language model that keeps caches: then there are two phases,
    ``prefill`` and ``decode`` (:mod:`costgraph.models.recognition.generating`).

    Raises:
        UnknownOperators: an operator has no rule.
        ModelError: one does not fit its operands.
    """
    if recognise:
        return read(traced, dialect, mask).program
    lowering, graph, parts = lowered(traced, dialect, mask)
    return _checked(_forward(traced, lowering, graph, parts))


@dataclass(frozen=True)
class Read:
    """A traced graph as a program, and how it became one.

    Attributes:
        program: what costs are asked of.
        constants: how many calls gave nothing but known numbers: shapes, scales, indices.
        hits, misses: what recognition and folding found, and what nearly was a pattern.
    """

    program: Program
    constants: int
    hits: tuple[str, ...]
    misses: tuple[Miss, ...]


def read(traced: Traced, dialect: Dialect, mask: str = "skip") -> Read:
    """The program of a traced graph, recognised, with an account of the reading.

    Raises:
        ModelError: as for :func:`program_of`.
    """
    traced, lowering, graph, parts = _chosen(traced, dialect, mask)
    held = with_caches(graph)
    found = recognised(_forward(traced, lowering, held, parts), mask)
    program = found.program
    if held is not graph or any(appends(graph)):
        try:
            program = in_phases(program)
        except NotCertain as why:
            if held is not graph:
                found = recognised(_forward(traced, lowering, graph, parts), mask)
            notes = (*found.program.notes, f"one phase, since {why}")
            program = replace(found.program, notes=notes)
    return Read(_checked(program), lowering.constants, found.hits, found.misses)


def _chosen(traced: Traced, dialect: Dialect, mask: str) -> tuple[Traced, Lowering, Graph, Parts]:
    """The graph; of two that a truth value divides, the one that keeps caches."""
    either = alternatives(traced)
    for one in either:
        made = lowered(one, dialect, mask)
        if len(either) == 1:
            return one, *made
        if any(appends(with_caches(made[1]))):
            said = "of two graphs that an input chooses between the one with caches is read"
            return replace(one, notes=(*one.notes, said)), *made
    return traced, *lowered(traced, dialect, mask)


@dataclass(frozen=True)
class Part:
    """One of several graphs that are a program together, recognised.

    Attributes:
        graph: what runs.
        constants, hits, misses: as in :class:`Read`.
        notes, limits: as of a program.
    """

    graph: Graph
    constants: int
    hits: tuple[str, ...]
    misses: tuple[Miss, ...]
    notes: tuple[str, ...]
    limits: tuple[Limit, ...]


def part_of(traced: Traced, lowering: Lowering, graph: Graph, parts: Parts, mask: str) -> Part:
    """``graph``, as it was lowered or changed since, as a part of a program."""
    found = recognised(_forward(traced, lowering, graph, ()), mask)
    program = found.program
    whole: dict[Symbol, Expr] = {part: size / n for part, size, n in parts}
    limits = tuple(_back(x, whole) for x in program.limits)
    made = at(program.graph, whole) if whole else program.graph
    return Part(made, lowering.constants, found.hits, found.misses, program.notes, limits)


def _checked(program: Program) -> Program:
    """The program, with what it takes for granted of experts."""
    return program.assuming(*(a for r in _routings(program.graph) for a in r.assumptions))


def _forward(traced: Traced, lowering: Lowering, graph: Graph, parts: Parts) -> Program:
    """One pass over a graph."""
    free = {s for t in graph.tensors.values() for s in t.numel.free_symbols}
    free |= {whole for part, whole, _ in parts if part in free}
    length: Expr = S if S in free else ONE
    bindings = (
        *((s, length) for s in (q, T) if s not in free),
        *((part, whole / n) for part, whole, n in parts),
    )
    phase = Phase("forward", graph, bindings, tokens=Integer(0))
    notes = tuple(
        f"{whole} is taken as a multiple of {n}: other sizes do not fit the graph"
        for _, whole, n in parts
    )
    stated = (
        Limit(e, Integer(most), "the graph was written down for values up to there")
        for e, most in traced.bounds
        if not e.is_number
    )
    return Program(
        graph.name,
        (phase,),
        limits=tuple(dict.fromkeys((*stated, *lowering.limits))),
        notes=(*traced.notes, *_buffers(traced, graph), *lowering.notes, *notes),
    )


def _buffers(traced: Traced, graph: Graph) -> Iterator[str]:
    """What of the weights are buffers: those that no step writes."""
    kept = [t.numel for t in graph.sources if t.name in traced.buffers and t.role is Role.WEIGHT]
    if kept:
        yield f"{Add(*kept)} elements of buffers count as parameters"


def _routings(graph: Graph) -> set[Routing]:
    """How experts are counted, where there are any."""
    operations = (n.op for inner in graph.walk() for n in inner.nodes)
    return {op.routing for op in operations if isinstance(op, ExpertLinear)}


def lowered(traced: Traced, dialect: Dialect, mask: str) -> tuple[Lowering, Graph, Parts]:
    """The graph, with sizes that it leaves open and that an operator decides.

    Returns:
        As :func:`_fitted`.
    """
    decided: dict[Symbol, Expr] = {}
    while True:
        try:
            lowering, graph, parts = _fitted(traced, dialect, mask)
        except Decided as found:
            decided[found.size] = found.value
            traced = _sized(traced, decided)
            continue
        except Misfit as error:
            raise _with_open_sizes(error, traced) from None
        lowering.notes += [f"{size} is {n}: no other size fits" for size, n in decided.items()]
        return lowering, graph, parts


def _with_open_sizes(error: Misfit, traced: Traced) -> ModelError:
    """The error, and which sizes the file leaves open that might be the reason."""
    sizes = {s for x in traced.sources for d in x.shape for s in d.free_symbols} - {B, S}
    if not sizes:
        return error
    named = sorted(map(str, sizes))
    example = ",".join(f"{name}=…" for name in named)
    return ModelError(f"{error}; the file leaves open {', '.join(named)}: --dims {example}")


def _fitted(traced: Traced, dialect: Dialect, mask: str) -> tuple[Lowering, Graph, Parts]:
    """The graph; if sizes fit only where they divide evenly, in parts of them.

    Returns:
        The state of reading, the graph, and its symbols that are a part of one: part, whole,
        and how many parts.
    """
    exact = Lowering(traced, dialect, mask)
    try:
        return exact, exact.run(), ()
    except Decided:
        raise
    except ModelError as error:
        uneven = sorted(exact.rounded(), key=str)
        if not uneven:
            raise
        refused = error
    for step in MULTIPLES:
        parts = [(symbol(f"{s}_by_{step}"[-40:]), s, step) for s in uneven]
        wide = {whole: part * step for part, whole, _ in parts}
        lowering = Lowering(_sized(traced, wide), dialect, mask)
        try:
            graph = lowering.run()
        except Decided:
            raise
        except ModelError:
            continue
        back = {part: whole / n for part, whole, n in parts}
        lowering.limits = [_back(x, back) for x in lowering.limits]
        return lowering, graph, tuple(parts)
    raise refused


def _sized(traced: Traced, sizes: Mapping[Symbol, Expr]) -> Traced:
    """The graph with other sizes of what it is given."""
    told = dict(sizes)
    sources = (replace(x, shape=tuple(d.xreplace(told) for d in x.shape)) for x in traced.sources)
    return replace(traced, sources=tuple(sources))


def _back(limit: Limit, whole: Mapping[Symbol, Expr]) -> Limit:
    """A limit in terms of the whole sizes."""
    return limit.mapped(lambda e: e.xreplace(dict(whole)))
