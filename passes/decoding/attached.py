"""Drafts that read the target's hidden states: Medusa, blockwise heads, EAGLE, MTP, PaSS."""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr, Integer

from costgraph.errors import InputError, ModelError, PipelineError
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.ahead import EMBEDDING
from costgraph.models.catalog import config_at
from costgraph.models.heads import (
    EAGLE,
    EAGLE3,
    Target,
    head_of,
    kind_of_head,
    target_of,
    usual_head,
)
from costgraph.ops import Activation, Add, Linear, Sample, SelectLast
from costgraph.passes.decoding.drafting import Asked, Drafting
from costgraph.passes.decoding.schedules import all_logits
from costgraph.passes.decoding.target import stepping
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, T, q

ONE = Integer(1)
#: Hidden width of a blockwise head over the hidden size, as in the paper's base model.
BLOCKWISE = 4


def heads(asked: Asked) -> Drafting:
    """Medusa's heads (arXiv 2401.10774): ``d·d + d + d·V`` weights each, on one hidden state."""
    target, step = _target(asked)
    table = target.projection
    vocab, d = table.shape
    body = Builder("head")
    x = body.source(_hidden(target, d))
    mixed = _linear(body, "head_mix", x, table, d, d, bias=True)
    mixed = body.add("head_act", Activation("silu"), mixed)
    mixed = body.add("head_add", Add(), mixed, x)
    body.add("head_sample", Sample(), _linear(body, "head_out", mixed, table, vocab, d))
    g = Builder(f"{target.name}-heads")
    region = Repeat(body.build(x), asked.depth, rounds="other")
    graph = g.build(g.add("heads", region, g.source(_hidden(target, d))))
    return Drafting(_alone(step, graph, f"{target.name}'s heads"), at_once=True)


def blockwise(asked: Asked) -> Drafting:
    """Projections of Stern et al. (arXiv 1811.03115) in front of the target's own logits.

    Each is a feed-forward block ``d → 4d → d`` with a residual; the target's projection to
    logits is read once for all of them.
    """
    target, step = _target(asked)
    table = target.projection
    _, d = table.shape
    body = Builder("projection")
    x = body.source(_hidden(target, d))
    inner = _linear(body, "block_up", x, table, BLOCKWISE * d, d, bias=True)
    inner = body.add("block_act", Activation("relu"), inner)
    out = _linear(body, "block_down", inner, table, d, BLOCKWISE * d, bias=True)
    made = body.add("block_add", Add(), out, x)
    g = Builder(f"{target.name}-projections")
    region = Repeat(body.build(made), asked.depth, 0, rounds="other", gathered=1)
    hidden = g.add("projections", region, g.source(_hidden(target, d)))
    logits = g.add("lm_head", Linear(), hidden, g.source(table))
    graph = g.build(g.add("sample", Sample(), logits))
    program = _alone(step, graph, f"{target.name}'s projections").assuming(
        f"a blockwise head is as wide inside as {BLOCKWISE} hidden states"
    )
    return Drafting(replace(program, borrowed=(table.name,)), at_once=True)


def next_token(asked: Asked) -> Drafting:
    """The model's own module for multi-token prediction, run once for each drafted token.

    Raises:
        PipelineError: the model has none.
    """
    ahead = asked.model.ahead
    if ahead is None:
        raise PipelineError(
            f"draft=mtp: {asked.model.name} has no module for multi-token prediction that is "
            "known here"
        )
    return Drafting(ahead)


def eagle(asked: Asked) -> Drafting:
    """An EAGLE head: ``eagle`` or ``eagle3``, as published ones are or as a file says.

    Raises:
        PipelineError: it cannot be read, or is not for this target.
    """
    kind, _, spec = asked.name.partition(":")
    step = stepping(asked.model)
    target, _ = _target(asked)
    try:
        if not spec:
            return Drafting(usual_head(kind, target, step.graph))
        config, name = config_at(spec)
        known = kind_of_head(config)
        if known not in (None, kind):
            raise ModelError(f"{name}: not of the kind {kind!r}, but {known!r}")
        return Drafting(head_of(config, name, kind, target))
    except InputError as error:
        raise PipelineError(f"draft: {error}") from None


def head_in(spec: str) -> str | None:
    """The kind of head that a name or path is of; None for a model, and what is no file of one."""
    try:
        kind = kind_of_head(config_at(spec)[0])
    except InputError:
        return None
    return kind if kind in (EAGLE, EAGLE3) else None


def looking_ahead(asked: Asked) -> Drafting:
    """PaSS (arXiv 2311.13581): the target itself, with learned tokens behind the last one.

    One run of ``γ + 1`` positions makes the next token for certain and drafts ``γ`` more. Of
    its own it has one embedding for each of these tokens.
    """
    step = stepping(asked.target)
    graph = _longer_table(all_logits(step.graph), asked.depth)
    phase = replace(step, graph=graph)
    program = Program(f"{asked.target.name} with look-ahead tokens", (phase,))
    return Drafting(program, at_once=True, part=True, width=asked.depth + 1, sure=ONE)


def phrases(asked: Asked) -> Drafting:
    """Copy is all you need (arXiv 2307.06962): a step also scores every phrase of an index.

    One matrix ``(N, d)`` of phrases is multiplied by the last hidden state: ``2·N·d`` FLOP.
    What is chosen stands, so that only the last position needs logits.

    Raises:
        PipelineError: no number of phrases is given.
    """
    if asked.phrases == 0:
        raise PipelineError("draft=phrases: phrases says how many the index holds")
    target, _ = _target(asked)

    d = target.projection.shape[1]
    m = Builder("phrases")
    query = m.source(replace(_hidden(target, d), name="phrase_query"))
    index = Tensor("phrases.weight", (asked.phrases, d), target.projection.dtype, Role.WEIGHT)
    m.add("phrase", Sample(), m.add("phrase_scores", Linear(), query, m.source(index)))
    made = m.build("phrase")

    def scoring(graph: Graph) -> Graph:
        graph = rebuild(
            graph, lambda node, _: SelectLast() if isinstance(node.op, SelectLast) else node.op
        )
        return replace(
            graph,
            sources=(*graph.sources, *made.sources),
            nodes=(*graph.nodes, *made.nodes),
            outputs=(*graph.outputs, *made.outputs),
        )

    return Drafting(None, verifying=scoring)


def _longer_table(graph: Graph, rows: Expr) -> Graph:
    """The graph with ``rows`` more embeddings."""
    sources = tuple(
        replace(t, shape=(t.shape[0] + rows, *t.shape[1:]))
        if t.name == EMBEDDING and graph.consumers[t.name] == (_reader(graph, t.name),)
        else t
        for t in graph.sources
    )
    return rebuild(replace(graph, sources=sources))


def _reader(graph: Graph, name: str) -> Node | None:
    """The look-up that reads a table; a tied table that makes logits as well stays as it is."""
    found = graph.consumers[name]
    return found[0] if len(found) == 1 and found[0].op.kind == "embedding" else None


def _target(asked: Asked) -> tuple[Target, Phase]:
    step = stepping(asked.model)
    try:
        return target_of(asked.model.name, step.graph), step
    except ModelError as error:
        raise PipelineError(f"draft={asked.name}: {error}") from None


def _hidden(target: Target, d: Expr) -> Tensor:
    return Tensor("hidden", (B, ONE, d), target.style.acts)


def _linear(
    m: Builder, name: str, x: str, like: Tensor, oc: Expr, ic: Expr, bias: bool = False
) -> str:
    """``y = x Wᵀ (+ b)`` with weights in the format of ``like``."""
    operands = [x, m.source(Tensor(f"{name}.weight", (oc, ic), like.dtype, Role.WEIGHT))]
    if bias:
        operands.append(m.source(Tensor(f"{name}.bias", (oc,), like.dtype, Role.WEIGHT)))
    return m.add(name, Linear(bias), *operands)


def _alone(step: Phase, graph: Graph, name: str) -> Program:
    """A program of one step that reads no prompt."""
    phase = replace(step, graph=graph, bindings=((q, ONE), (T, T)), resident=())
    return Program(name, (phase,))
