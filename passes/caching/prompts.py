"""Prompts of which a part is in a cache already: fewer new positions, and what brings the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sympy import Add, Expr, Integer, floor

from costgraph.counting.count import rows
from costgraph.errors import PipelineError
from costgraph.formula.sums import affine
from costgraph.hardware.systems import System
from costgraph.ir.cost import Cost, Direction
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, Tensors
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role
from costgraph.ops import KVAppend
from costgraph.ops.attending import repatterned
from costgraph.ops.pattern import Dense, Hit, Kept, Pattern
from costgraph.ops.transfer import Moved, Stream
from costgraph.passes.context.seeing import is_whole
from costgraph.passes.placement.shares import level_named
from costgraph.passes.placement.streaming import beside, each_layer, layers_of
from costgraph.rewriting.binding import at
from costgraph.rewriting.pipeline import option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, G, q

ONE, ZERO = Integer(1), Integer(0)
#: The memory of the device, as options name it.
MEMORY = "memory"
KEPT = (Role.KV, Role.STATE)
#: What every reload rests on.
SAID = "writing caches to where they are kept happens while nobody waits for it"
STREAMED = (
    "a layer and the rows that come meanwhile begin and end together: the first layer's come "
    "before the prompt"
)


def overlap_option(*under: str) -> bool:
    """The option of when rows come from a farther level."""
    flag: bool = option(
        "flag", True, "the next layer's rows come while a layer computes", under=under
    )
    return flag


def prompt_of(program: Program, name: str) -> tuple[tuple[Phase, ...], Phase]:
    """What comes in front of a prompt (towers, retrieval), and the phase in which it is read.

    Raises:
        PipelineError: there is none, or what is shown has caches of its own.
    """
    place = next((i for i, p in enumerate(program.phases) if p.is_prompt), None)
    found = program.phases[place or 0]
    front = program.phases[: place or 0]
    alone = all(p.span is None and p.tokens == 0 for p in front)
    if place is None or not (program.decoding and alone and found.tokens != 0):
        what = ", ".join(p.name for p in program.phases)
        raise PipelineError(
            f"{name}: {program.name} must read a whole prompt into a cache, one position after the "
            f"other, and then decode; it has {what} (a prompt that is cached in part is none)"
        )
    if any(
        G in t.numel.free_symbols for g in found.graph.walk() for t in g.sources if t.role in KEPT
    ):
        raise PipelineError(
            f"{name}: {program.name} attends to images apart: which of their rows a cache of the "
            "text goes with is not known (a request without images: images=False)"
        )
    return front, found


def shown(phase: Phase) -> Expr:
    """Tokens of images, or of sound, that a prompt is given rows for."""
    given = any(G in t.numel.free_symbols for t in phase.graph.inputs)
    return phase.substitution.get(G, G) if given else ZERO


def is_tower(phase: Phase) -> bool:
    """True for a phase that makes rows of images, or of sound."""
    graphs = phase.graph.walk()
    return any(G in t.numel.free_symbols for g in graphs for n in g.nodes for t in n.outputs)


def of_text(phase: Phase) -> Phase:
    """A prompt's phase where what is shown stands in none of its new positions."""
    return showing(phase, ZERO)


def showing(phase: Phase, share: Expr) -> Phase:
    """A prompt's phase where so much of what is shown stands in its new positions."""
    return replace(phase, graph=at(phase.graph, {G: share * G}))


def of_some(phase: Phase, share: Expr) -> Phase:
    """A phase that so many of the sequences pass through; ``B`` stays the batch."""
    return replace(phase, graph=at(phase.graph, {B: share * B}))


def refuse_pruned(program: Program, name: str, why: str) -> None:
    """Refuses programs whose image tokens leave behind some layers.

    Raises:
        PipelineError: they are.
    """
    if any(s.made_by.name == "prune-tokens" and s.hits for s in program.history):
        raise PipelineError(f"{name}: prune-tokens takes image tokens out of prompts: {why}")


def refuse_away(program: Program, name: str) -> None:
    """Refuses programs whose caches live in a farther level all the time.

    Raises:
        PipelineError: ``offload`` keeps them there.
    """
    for step in program.history:
        item = step.made_by
        if item.name == "offload" and step.hits and (item.caches or item.attention != "device"):
            raise PipelineError(
                f"{name}: offload keeps caches elsewhere: what steps read comes from there already"
            )


def told(overlap: bool) -> tuple[str, ...]:
    """What is assumed of caches that come back from elsewhere."""
    return (SAID, STREAMED) if overlap else (SAID,)


def appends(program: Program) -> Iterator[KVAppend]:
    """What extends each cache of the text."""
    for phase in program.phases:
        for graph in phase.graph.walk():
            yield from (n.op for n in graph.nodes if isinstance(n.op, KVAppend))


def kept_of(program: Program) -> Iterator[Pattern]:
    """What each cache of the text keeps."""
    return (op.keeps for op in appends(program))


def as_found(name: str, program: Program) -> tuple[str, ...]:
    """What is assumed of what an earlier request left, where that is not every row."""
    said = []
    graphs = (g for p in program.phases for g in p.graph.walk())
    if any(t.role is Role.STATE for g in graphs for t in g.sources):
        said.append(f"{name}: states are kept as they were behind the last token that is found")
    if any(isinstance(k, Kept) for k in kept_of(program)):
        said.append(f"{name}: of the tokens found those rows are there that stayed of them")
    return tuple(said)


def whole_blocks(tokens: Expr, block: Expr) -> Expr:
    """Tokens of the whole blocks among ``tokens``."""
    return tokens if block == 1 else floor(tokens / block) * block


def behind(phase: Phase, new: Expr) -> Phase:
    """A prompt's phase that computes its last ``new`` positions and attends all of them."""
    bindings = {**phase.substitution, q: new}
    return replace(phase, bindings=tuple(bindings.items()))


def hitting(name: str, graph: Graph, chance: Expr, cached: Expr) -> Graph:
    """A prompt's graph where sequences find ``cached`` tokens with a chance, and else nothing.

    Raises:
        PipelineError: its rows are not those of the whole context either way.
    """

    def seen(pattern: Pattern) -> Pattern:
        if not pattern.causal or (isinstance(pattern, Dense) and is_whole(pattern)):
            return pattern  # of all pairs those of the mean are the mean
        if not is_whole(pattern):
            raise PipelineError(f"{name}: chance: hits and misses see other rows: {pattern}")
        whole = pattern.context  # that of the layer: image tokens may have left in front of it
        return Hit(pattern, chance, whole - cached, whole)

    def op(node: Node, operands: Tensors) -> Op:
        return repatterned(node.op, seen)

    return rebuild(graph, op)


def of_the_mean(graph: Graph) -> tuple[str, ...]:
    """Operations that do not cost a line in new tokens: their cost at the mean is not the mean.

    Of what :func:`hitting` made: attention is not among them.
    """

    def bent(cost: Cost) -> bool:
        amounts = (*cost.flops.values(), *cost.bytes.values(), cost.launches, cost.total_wire)
        return any(affine(e, q) is None for e in amounts)

    return tuple(dict.fromkeys(r.node.name for r in rows(graph) if bent(r.cost)))


def level_of(name: str, word: str, system: System) -> str:
    """The level of memory that an option names; empty for the memory of the device.

    Raises:
        PipelineError: the machine states no such level.
    """
    return "" if word == MEMORY else level_named(name, "kept", word, system)


def reloaded(graph: Graph, level: str, overlap: bool, made_by: str) -> Graph:
    """``graph`` with the earlier rows of every layer's caches, and states, read from a level.

    Raises:
        PipelineError: caches lie in no layer, or in parts that layers share.
    """
    if not lie_in_layers(graph):
        raise PipelineError(
            f"{made_by}: {graph.name}: caches outside of layers, or that layers share, are not "
            "read from elsewhere (an imported graph: write fold in front of it)"
        )
    return in_layers(graph, lambda body: _stream(body, level), overlap, made_by)


def lie_in_layers(graph: Graph) -> bool:
    """True where every cache and state lies in a layer, and each layer has its own."""
    layers = tuple(layers_of(graph))
    alone = all(r.instances == r.count for r in layers if _held(r.body) != 0)
    return alone and Add(*(_held(r.body) for r in layers)) == _held(graph)


def in_layers(
    graph: Graph, moving: Callable[[Graph], Op | None], overlap: bool, made_by: str
) -> Graph:
    """``graph`` with an operation beside each layer, or before it, where ``moving`` has one."""

    def new(body: Graph, name: str) -> Graph:
        found = moving(body)
        return body if found is None else beside(body, found, overlap, name, made_by)

    return each_layer(graph, new)


def _held(graph: Graph) -> Expr:
    """Bytes of one set of the caches of a graph and the graphs in it, as a step finds them."""
    return Add(*(t.bytes for g in graph.walk() for t in g.sources if t.role in KEPT))


def _stream(body: Graph, level: str) -> Stream | None:
    rows = tuple(
        Moved(level, role, Direction.READ, size)
        for role in KEPT
        if (size := Add(*(t.bytes for t in body.sources if t.role is role))) != 0
    )
    return Stream(rows) if rows else None
