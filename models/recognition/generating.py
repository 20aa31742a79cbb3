"""Phases of graphs that keep caches: a traced step of a language model as prefill and decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol

from costgraph.formula.terms import Limit, Span
from costgraph.ir.graph import Graph
from costgraph.ir.op import same
from costgraph.ir.program import Phase, Program, autoregressive
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.recognition.caches import appends, unattended
from costgraph.ops import AttentionScores, Embedding
from costgraph.ops.arrays import Gather
from costgraph.ops.pattern import FULL
from costgraph.rewriting.binding import at
from costgraph.symbols import SIZES, B, N, S, T, q

ONE = Integer(1)
#: Names that mean something else than the length of a past.
OURS = frozenset(SIZES)


class NotCertain(Exception):
    """Why a graph with caches is not read as a language model's step."""


@dataclass(frozen=True)
class Step:
    """A step of a language model.

    Attributes:
        batch: sequences.
        new: positions that it processes: a symbol, or one.
        before: what its caches hold beside them: a symbol, or how many are left of a cache
            of fixed size.
        logits: its result ``(…, V)``.
    """

    batch: Expr
    new: Expr
    before: Expr
    logits: Tensor

    @property
    def most(self) -> Expr | None:
        """Positions of a cache of fixed size; None where it grows."""
        whole = self.before + self.new
        return whole if whole.is_number else None


def in_phases(program: Program) -> Program:
    """The program of one pass over a graph with caches, as prefill and decode steps.

    A past of any length becomes ``T - q``. A graph of one position takes a prompt position
    by position: the phase ``prompt`` all but the last, which is the ``prefill``. A cache of
    fixed size is read as a whole in every step.

    Raises:
        NotCertain: the graph is not certainly the step of a language model; the text says why.
    """
    graph = program.graph
    step = step_of(graph)
    values: dict[Symbol, Expr] = {}
    if isinstance(step.new, Symbol):
        values[step.new] = q
    if isinstance(step.before, Symbol):
        values[step.before] = T - values.get(step.new, ONE)
    named = at(graph, values)
    limits = [x.mapped(lambda e: e.xreplace(values)) for x in program.limits]
    if step.most is not None:
        limits.append(Limit(T, step.most, "the cache that was exported has no more positions"))
    if step.new == ONE:
        prompt = Phase("prompt", named, ((q, ONE),), Span(T, ONE, S - 1), Integer(0))
        prefill = Phase("prefill", named, ((q, ONE), (T, S)))
        decode = Phase("decode", named, ((q, ONE),), Span(T, S + 1, S + N - 1))
        phases: tuple[Phase, ...] = (prompt, prefill, decode)
    else:
        phases = autoregressive(program.name, named).phases
    return replace(
        program,
        phases=phases,
        unserved=_unserved(step),
        fixed=((B, step.batch),) if step.batch.is_number else (),
        limits=tuple(dict.fromkeys(limits)),
        notes=(*program.notes, *_notes(step)),
    ).assuming(*_assumptions(named, step))


def _unserved(step: Step) -> str:
    """Why no server runs the step for its requests; empty where one can."""
    if step.batch.is_number:
        return f"its steps are exported for a batch of {step.batch}"
    return "its step takes one position of a prompt" if step.new == ONE else ""


def _notes(step: Step) -> Iterator[str]:
    if step.most is None:
        past = "T - q" if step.new != ONE else "T - 1"
        yield f"read as prefill and decode: the {step.before} positions of its caches are {past}"
    else:
        yield f"read as prefill and decode: caches of {step.most} positions stay with the program"
    if step.batch.is_number:
        yield f"exported for a batch of {step.batch}: that is what every step processes"


def _assumptions(graph: Graph, step: Step) -> Iterator[str]:
    if step.new == ONE:
        yield "the exported step takes one position: a prompt passes through it one by one"
    elif step.new in step.logits.shape:
        yield "logits are computed for every position of a prompt, as the program does"
    if step.most is not None:
        yield f"every step reads all {step.most} positions of its caches, whatever the context"
    elif step.new != ONE and any(
        isinstance(n.op, AttentionScores) and n.op.pattern == FULL
        for inner in graph.walk()
        for n in inner.nodes
    ):
        yield "what positions see is data of the exported program: all pairs count"


def step_of(graph: Graph, beside: Expr | None = None) -> Step:
    """What a graph that appends to caches is, as the step of a language model.

    ``beside`` is a further length of it, that of an encoder's result.

    Raises:
        NotCertain: it is not certainly one; the text says why.
    """
    loose = unattended(graph)
    if loose:
        raise NotCertain(f"{loose!r} holds rows of a step that attention alone does not read")
    sizes = {
        tuple(tensors[name].shape[i] for name in node.inputs for i in (0, 1))
        for inner, node in appends(graph)
        for tensors in (inner.tensors,)
    }
    if len(sizes) != 1:
        raise NotCertain("its caches have several lengths")
    batch, before, _, new = next(iter(sizes))
    vocabulary = _vocabulary(graph, new)
    for name in graph.outputs:
        tensor = graph.tensors[name]
        if tensor.shape and same(tensor.shape[-1], vocabulary) and tensor.dtype.bits >= 8:
            break
    else:
        raise NotCertain(f"none of its results are logits of {vocabulary} tokens")
    step = Step(batch, new, before, tensor)
    _check_lengths(graph, step, beside)
    return step


def _vocabulary(graph: Graph, new: Expr) -> Expr:
    """Rows of the table in which the new tokens are looked up."""
    for ids, table in looked_up(graph):
        if ids.shape[-1] == new:
            return table.shape[0]
    raise NotCertain("no token ids of as many positions as its caches take are looked up")


def looked_up(graph: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    """Operands of a graph that are looked up in a table of weights, each with its table."""
    for node in graph.nodes:
        if not isinstance(node.op, (Embedding, Gather)):
            continue
        operands = graph.operands(node)
        tables = [t for t in operands if t.role is Role.WEIGHT and len(t.shape) == 2]
        given = [t for t in operands if t in graph.inputs and t.shape]
        if len(operands) == 2 and tables and given:
            yield given[0], tables[0]


def sizes_in(graph: Graph) -> set[Symbol]:
    """Symbols of the sizes in a graph."""
    return {
        s for inner in graph.walk() for t in inner.tensors.values() for s in t.numel.free_symbols
    }


def _check_lengths(graph: Graph, step: Step, beside: Expr | None) -> None:
    new, before = step.new, step.before
    if not (new == ONE or isinstance(new, Symbol)):
        raise NotCertain(f"its caches take {new} positions a step: neither one nor any number")
    if step.most is None and (not isinstance(before, Symbol) or before.name in OURS):
        raise NotCertain(f"its caches hold {before} positions before a step, as the sizes say")
    if new == before or (step.batch.free_symbols and step.batch in (new, before)):
        raise NotCertain(f"{before} is the length of more than its caches")
    known = {new, before, B} | step.batch.free_symbols
    known |= set() if beside is None else beside.free_symbols
    others = sorted(str(s) for s in sizes_in(graph) - known)
    if others:
        whole = "" if step.most is not None else f"; where one is {before + new}, dims can say so"
        raise NotCertain(f"it has lengths beside those of its caches: {', '.join(others)}{whole}")
