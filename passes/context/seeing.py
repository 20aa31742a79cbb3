"""Layers that get another pattern: their caches, and all that attends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sympy import Expr, Mul

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, same
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Alibi, AttentionScores, AttentionValues, KVAppend, SoftCap, Softmax
from costgraph.ops.attending import repatterned
from costgraph.ops.index import Choose, Nearest, PageAppend, PromptVotes, ScoreBook
from costgraph.ops.pattern import Causal, Dense, Pattern
from costgraph.rewriting.pipeline import Miss, Outcome
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import S, T, q

#: What a pass does to one layer: the layer anew, or why it does not apply.
Change = Callable[[Graph], Graph | str]


@dataclass
class Seen:
    """Layers that were changed, and those that were not and why.

    Attributes:
        hits: operations that attend, by name.
        layers: where the layers are that they are in: names of regions, from outside.
        misses: why a layer stays, by where it is.
    """

    hits: dict[str, None] = field(default_factory=dict)
    layers: set[str] = field(default_factory=set)
    misses: dict[str, Miss] = field(default_factory=dict)


def in_all_phases(
    program: Program, done: Callable[[Program, Seen], Program]
) -> tuple[Program, Seen]:
    """What ``done`` makes of a program, where no layer is changed in some phases only.

    A layer that cannot be changed in one phase stays in all of them: it is one layer.
    """
    made = done(program, seen := Seen())
    apart = {n: m for n, m in seen.misses.items() if n in seen.layers}
    return (done(program, seen := Seen(misses=apart)), seen) if apart else (made, seen)


def changed(program: Program, name: str, change: Change) -> tuple[Program, Seen]:
    """The program with ``change`` done to every graph that attends a cache of the context."""

    def done(program: Program, seen: Seen) -> Program:
        return program.rewritten(lambda graph: rebuild(walked(graph, name, change, seen)))

    return in_all_phases(program, done)


def with_longer_prompt(
    name: str, program: Program, added: Callable[[Expr], Expr]
) -> tuple[Program, Phase]:
    """The program whose prompt of so many positions takes ``added`` more, and its prompt.

    Raises:
        PipelineError: it reads no prompt.
    """
    first = next((p for p in program.phases if p.is_prompt), None)
    if first is None or not program.decoding:
        raise PipelineError(f"{name}: {program.name} reads no prompt of S tokens into a cache")
    length = S + added(first.query)
    phases = tuple(p.with_prompt(length) for p in program.phases)
    made = replace(program, phases=phases)
    return made, phases[program.phases.index(first)]


def prompt_and_answer(name: str, program: Program) -> tuple[Phase, Phase]:
    """The two phases of a program that reads a prompt and then decodes, and does nothing else.

    Raises:
        PipelineError: it has other phases.
    """
    found = [p.name for p in program.phases]
    if found != ["prefill", "decode"]:
        raise PipelineError(
            f"{name}: {program.name} must read a prompt and then decode, not {', '.join(found)}"
        )
    prompt, answer = program.phases
    return prompt, answer


def in_prompts(program: Program, steps: Program, front: Program) -> Program:
    """The phases of ``front`` where a prompt is read, and those of ``steps`` along contexts."""
    phases = tuple(
        a if p.span is not None else b
        for p, a, b in zip(program.phases, steps.phases, front.phases, strict=True)
    )
    return replace(steps, phases=phases)


def told(
    name: str,
    program: Program,
    made: Program,
    seen: Seen,
    none: str = "no layer attends a cache of its context",
) -> Outcome:
    """What a pass did to layers, and why not to others; ``none`` where there was none to change."""
    misses = tuple(dict.fromkeys(seen.misses.values()))
    if not seen.hits and not misses:
        misses = (Miss(name, program.name, none),)
    return Outcome(made, tuple(seen.hits), misses)


def walked(graph: Graph, name: str, change: Change, seen: Seen, place: str = "") -> Graph:
    """A graph, its regions included, with ``change`` done to what attends a cache of the context.

    ``place`` is where the graph is, as phases have it in common. ``seen`` notes what was changed;
    sizes are those of before until the graph is rebuilt.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            inner = [
                walked(g, name, change, seen, f"{place}{node.name}.{number}/")
                for number, g in enumerate(node.op.graphs)
            ]
            node = replace(node, op=node.op.with_graphs(inner))
        nodes.append(node)
    graph = replace(graph, nodes=tuple(nodes))
    if place in seen.misses:
        return graph
    for node in graph.nodes:
        if not isinstance(node.op, AttentionScores) or not node.op.pattern.causal:
            continue
        if not _appended(graph, node):
            continue
        if not is_whole(node.op.pattern):
            why = f"its positions do not see all before them already: {node.op.pattern}"
            seen.misses[place] = Miss(name, node.name, why)
            return graph
        other = _handed_on(graph) or chosen(graph) or _between(graph, node)
        made = other or change(graph)
        if isinstance(made, str):
            seen.misses[place] = Miss(name, node.name, made)
            return graph
        seen.hits[node.name] = None
        seen.layers.add(place)
        return made
    return graph


#: What attention does between scores and values that takes any number of rows.
_ANY_ROWS = (Softmax, SoftCap, Alibi)


#: What says that rows are chosen, in this phase or a later one.
_CHOOSING = (PageAppend, Choose, Nearest, ScoreBook, PromptVotes)


def _handed_on(graph: Graph) -> str:
    """Why a layer stays whose cache other layers read as well."""
    found = (
        n.name for n in graph.nodes if isinstance(n.op, KVAppend) and n.output in graph.outputs
    )
    name = next(found, "")
    return f"other layers read what {name!r} keeps" if name else ""


def chosen(graph: Graph) -> str:
    """Why a layer stays that keeps what another pass chooses by, in this phase or a later one."""
    found = (n.name for n in graph.nodes if isinstance(n.op, _CHOOSING))
    name = next(found, "")
    return f"its rows are chosen already, by {name!r}" if name else ""


def _between(graph: Graph, node: Node) -> str:
    """Why scores are bound to all rows: what is put on them is made for each of them."""
    scores = {node.output}
    for user in graph.nodes:
        if isinstance(user.op, AttentionValues) or not scores & set(user.inputs):
            continue
        if not isinstance(user.op, _ANY_ROWS):
            return f"{user.name!r} puts a number on the scores of all rows"
        scores.add(user.output)
    return ""


def is_whole(pattern: Pattern) -> bool:
    """True where each position sees all before it."""
    return isinstance(pattern.of if isinstance(pattern, Dense) else pattern, Causal)


def _appended(graph: Graph, node: Node) -> bool:
    return any(isinstance(n.op, KVAppend) for n in behind(graph, node))


def behind(graph: Graph, node: Node) -> tuple[Node, ...]:
    """All nodes that lead to one, the nearest first."""
    found: dict[str, Node] = {}
    queue = list(node.inputs)
    while queue:
        made_by = graph.producer.get(queue.pop(0))
        if made_by is not None and made_by.name not in found:
            found[made_by.name] = made_by
            queue.extend(made_by.inputs)
    return tuple(found.values())


def keeping(graph: Graph, keeps: Pattern) -> Graph:
    """The layer with caches of the context that keep what a pattern says, attended by it.

    Where a pattern merges rows by a kernel, each cache gets one.
    """
    length = keeps.seen(q, T) - q
    caches = {
        n.inputs[0]
        for n in graph.nodes
        if isinstance(n.op, KVAppend) and same(graph.tensors[n.inputs[0]].shape[1], T - q)
    }
    sources = [_shortened(t, length) if t.name in caches else t for t in graph.sources]
    nodes = []
    for node in graph.nodes:
        op: Op = node.op
        if isinstance(op, KVAppend) and node.inputs[0] in caches:
            op = replace(op, keeps=keeps)
            if keeps.merging == "conv":
                sources.append(_kernel(node.name, graph.tensors[node.inputs[1]], keeps))
                node = replace(node, inputs=(*node.inputs, sources[-1].name))
        nodes.append(replace(node, op=seeing(op, keeps)))
    made = replace(graph, sources=tuple(sources), nodes=tuple(nodes))
    return rebuild(made)


def _kernel(name: str, new: Tensor, keeps: Pattern) -> Tensor:
    """The kernel that makes one row of several of ``new (B, q, Hk, dh)``."""
    width = Mul(*new.shape[2:])
    shape = (width, keeps.into_one * width)
    return Tensor(f"{name}_kernel.weight", shape, new.dtype, Role.WEIGHT)


def _shortened(cache: Tensor, length: Expr) -> Tensor:
    batch, _, *rest = cache.shape
    return replace(cache, shape=(batch, length, *rest))


def seeing(op: Op, pattern: Pattern) -> Op:
    """The operation of attention under a pattern, counted as it was."""

    def new(old: Pattern) -> Pattern:
        if not is_whole(old):
            return old
        return Dense(pattern) if isinstance(old, Dense) else pattern

    return repatterned(op, new)
