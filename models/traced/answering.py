"""Exports of encoder–decoder models in two or three graphs, as one program.

Exporters write the encoder and the decoder as graphs of their own, the decoder twice: for the
first step, which also makes keys and values of the encoder's result, and for later ones, which
find those and their own in caches. Both may stand in one file, behind an ``If`` on an input of
one truth value. What a graph is, is told by its structure, never by a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol

from costgraph.errors import ModelError
from costgraph.formula.terms import Span
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import same
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.recognition.caches import ORDERS, appends, with_caches
from costgraph.models.recognition.generating import NotCertain, looked_up, sizes_in, step_of
from costgraph.models.traced.lowering import Dialect
from costgraph.models.traced.program import Part, Read, lowered, part_of
from costgraph.models.traced.record import Traced, alternatives
from costgraph.ops.views import Transpose
from costgraph.rewriting.binding import at
from costgraph.symbols import B, N, S, T, q

ONE = Integer(1)
ZERO = Integer(0)
Sizes = dict[Symbol, Expr]


def answering(
    encoder: Traced, decoders: Sequence[Traced], dialect: Dialect, mask: str = "skip"
) -> Read:
    """The program of an encoder and the graphs of its decoder: ``encode``, ``prefill``, ``decode``.

    The decoder starts from one token. Without a graph that keeps caches every step computes
    all tokens so far again.

    Raises:
        ModelError: a graph is not what it should be; the text says why.
    """
    first = part_of(encoder, *lowered(encoder, dialect, mask), mask)
    files = [
        (index, variant, *lowered(variant, dialect, mask))
        for index, traced in enumerate(decoders)
        for variant in alternatives(traced)
    ]
    graphs = [with_caches(graph) for _, _, _, graph, _ in files]
    try:
        result = _result(first.graph)
        start, step = _roles(graphs, result)
        said = _hidden(graphs[start], result).shape[1]
        made: dict[int, Part] = {}
        for index in dict.fromkeys((start, start if step is None else step)):
            _, traced, lowering, _, parts = files[index]
            graph = _with_cross(graphs[index], said) if index == step else graphs[index]
            made[index] = part_of(traced, lowering, graph, parts, mask)
        pair = _Pair(made[start], None if step is None else made[step], said)
        apart = step is not None and files[start][0] != files[step][0]
        program = _program(encoder.name, first, result, pair, apart)
    except NotCertain as why:
        raise ModelError(f"{encoder.name} with its decoder: {why}") from None
    parts_ = (first, *made.values())
    return Read(
        program,
        sum(p.constants for p in parts_),
        tuple(h for p in parts_ for h in p.hits),
        tuple(m for p in parts_ for m in p.misses),
    )


@dataclass(frozen=True)
class _Pair:
    """A decoder's graphs.

    Attributes:
        start: of the first step.
        step: of later ones, which keeps caches; None where there is none.
        said: what they call the encoder's positions.
    """

    start: Part
    step: Part | None
    said: Expr


def _result(graph: Graph) -> Tensor:
    """What an encoder makes: ``(batch, positions, width)``."""
    for name in graph.outputs:
        if len(graph.tensors[name].shape) == 3:
            return graph.tensors[name]
    raise NotCertain("none of the encoder's results is (batch, positions, width)")


def _hidden(graph: Graph, result: Tensor) -> Tensor:
    """The operand of a decoder that is the encoder's result."""
    width = result.shape[2]
    found = [
        t
        for t in graph.inputs
        if t.dtype.is_float and len(t.shape) == 3 and same(t.shape[2], width)
    ]
    if len(found) != 1:
        raise NotCertain(f"{len(found)} operands of {graph.name} could be the encoder's result")
    return found[0]


def _roles(graphs: Sequence[Graph], result: Tensor) -> tuple[int, int | None]:
    """Which graph is the first step, and which are later ones; None where none keeps caches."""
    steps = [i for i, g in enumerate(graphs) if any(appends(g))]
    starts = [i for i in range(len(graphs)) if i not in steps]
    if len(steps) > 1 or len(starts) > 1:
        raise NotCertain(
            f"{len(starts)} graphs of the decoder start and {len(steps)} keep caches: one of each, "
            "or one alone, is read"
        )
    if not starts:
        try:
            _hidden(graphs[steps[0]], result)
        except NotCertain:
            raise NotCertain(
                f"{graphs[steps[0]].name} finds keys and values of the encoder's result, which "
                "no graph makes: name the decoder of the first step as well"
            ) from None
        return steps[0], steps[0]
    return starts[0], steps[0] if steps else None


def _with_cross(graph: Graph, said: Expr) -> Graph:
    """The graph with keys and values of the encoder's positions as caches.

    They are operands in four axes to which nothing is appended, ``said`` positions long, or
    of a length of their own.
    """
    own = {s for inner, node in appends(graph) for s in inner.tensors[node.inputs[0]].shape}
    made: dict[str, Node] = {}
    caches: dict[str, Tensor] = {}
    for tensor in graph.inputs:
        if len(tensor.shape) != 4 or not tensor.dtype.is_float or tensor.role is Role.KV:
            continue
        axes = [a for a in (2, 1, 3) if same(tensor.shape[a], said)]
        axes += [a for a in (2, 1, 3) if isinstance(tensor.shape[a], Symbol)]
        axes = [a for a in axes if tensor.shape[a] not in own]
        if not axes:
            continue
        order = ORDERS[axes[0]]
        shape = tuple(tensor.shape[a] for a in order)
        caches[tensor.name] = placed = Tensor(tensor.name, shape, tensor.dtype, Role.KV)
        back = Transpose(tuple(order.index(i) for i in range(4)))
        name = f"{tensor.name}.read"
        made[tensor.name] = Node(
            name, back, (tensor.name,), (back.infer((placed,))[0].named(name),)
        )
    nodes = (
        replace(n, inputs=tuple(made[i].name if i in made else i for i in n.inputs))
        for n in graph.nodes
    )
    return Graph(
        graph.name,
        tuple(caches.get(t.name, t) for t in graph.sources),
        (*made.values(), *nodes),
        tuple(o for o in graph.outputs if o not in made),
    )


def _program(name: str, encoder: Part, result: Tensor, pair: _Pair, apart: bool) -> Program:
    """One program of three phases; ``apart``: the decoder's graphs are from two files."""
    start, step, said = pair.start, pair.step, pair.said
    own = _source(encoder.graph)
    heard = result.shape[1].xreplace(own)
    given: Sizes = {said: heard} if isinstance(said, Symbol) else {}
    if not given and not same(said, heard):
        raise NotCertain(f"the decoder takes {said} positions, the encoder makes {heard}")
    batch, new = _tokens(start.graph)
    first: Sizes = dict(given)
    if isinstance(new, Symbol):
        first[new] = q
    elif new != ONE:
        raise NotCertain(f"its first step takes {new} tokens, neither one nor any number")
    if step is None:
        if new == ONE:
            raise NotCertain("it takes one token a step and keeps no caches")
        later = {**given, new: T}
    else:
        one = step_of(step.graph, said)
        later = dict(given)
        if isinstance(one.new, Symbol):
            later[one.new] = q
        if isinstance(one.before, Symbol):
            later[one.before] = T - later.get(one.new, ONE)
        first = later if start is step else first
    _known(start.graph, {B, *batch.free_symbols, *first})
    encode, begin = at(encoder.graph, own), at(start.graph, first)
    after = begin if start is step else at((step or start).graph, later)
    phases = _phases(encode, begin, after, heard, shared=not apart)
    assumed = ["the decoder starts from one token; S counts the encoder's positions"]
    if step is None:
        assumed.append("no graph keeps caches: every step computes all tokens so far again")
    if apart:
        assumed.append("the decoder's weights are in memory twice, once for each of its files")
    limits = [x.mapped(lambda e: e.xreplace(own)) for x in encoder.limits]
    limits += [x.mapped(lambda e: e.xreplace(later)) for x in (step or start).limits]
    said_before = (*encoder.notes, *start.notes, *(step.notes if step else ()))
    return Program(
        name,
        phases,
        tuple(assumed),
        tuple(dict.fromkeys(limits)),
        notes=tuple(dict.fromkeys(said_before)),
        unserved=f"its steps are exported for a batch of {batch}" if batch.is_number else "",
        fixed=((B, batch),) if batch.is_number else (),
    )


def _phases(
    encode: Graph, begin: Graph, after: Graph, heard: Expr, shared: bool
) -> tuple[Phase, ...]:
    """The phases; ``shared``: the decoder's graphs have their weights in common."""
    alone = begin is after

    def beside(graph: Graph, other: Graph, part: bool) -> tuple[Resident, ...]:
        names = tuple(t.name for t, _ in other.weights()) if shared else ()
        return () if alone else (Resident(graph, shared=names, part=part),)

    encoder = Resident(encode, part=True)
    decoder = (Resident(begin, part=True), *beside(after, begin, False))
    first, one = ((q, ONE), (T, ONE)), ((q, ONE),)
    return (
        Phase("encode", encode, ((q, heard), (T, ONE)), tokens=ZERO, resident=decoder),
        Phase("prefill", begin, first, resident=(encoder, *beside(after, begin, False))),
        Phase(
            "decode",
            after,
            one,
            Span(T, Integer(2), N),
            resident=(encoder, *beside(begin, after, True)),
        ),
    )


def _source(graph: Graph) -> Sizes:
    """What the encoder's own length becomes."""
    free = sizes_in(graph) - {B}
    if len(free) > 1:
        named = ", ".join(sorted(map(str, free)))
        raise NotCertain(f"the encoder has several lengths: {named}; dims can say what they are")
    return dict.fromkeys(free, S)


def _tokens(graph: Graph) -> tuple[Expr, Expr]:
    """Batch and tokens of a decoder's step."""
    for ids, _ in looked_up(graph):
        if len(ids.shape) == 2:
            return ids.shape[0], ids.shape[1]
    raise NotCertain("the decoder's first step looks up no token ids")


def _known(graph: Graph, known: set[Symbol]) -> None:
    others = sorted(str(s) for s in sizes_in(graph) - known)
    if others:
        raise NotCertain(
            f"{graph.name} has lengths beside those of its tokens and of the encoder's result: "
            f"{', '.join(others)}; dims can say what they are"
        )
