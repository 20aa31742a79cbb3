"""When draft and target run in a round: what becomes of a decode step.

Every schedule makes phases whose times come from the graphs of draft and target. Their
weights are such that the phases emit one token per value of the span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.presence import Presence
from costgraph.ir.program import Phase, Resident
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.ahead import FUSING
from costgraph.ops import SelectLast
from costgraph.ops.attention import Branches
from costgraph.passes.decoding.acceptance import Acceptance
from costgraph.passes.decoding.drafting import Drafting
from costgraph.passes.decoding.rounds import Check, Round
from costgraph.passes.decoding.sharing import held_by, less
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import T, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Pairing:
    """A target's decode steps and what speculates for them.

    Attributes:
        target: the phase of decode steps.
        drafting: what writes the drafts.
        round: what is drafted and verified.
        acceptance: of what is drafted.
    """

    target: Phase
    drafting: Drafting
    round: Round
    acceptance: Acceptance


Schedule = Callable[[Pairing], list[Phase]]


def in_turn(pair: Pairing) -> list[Phase]:
    """The draft writes, then the target verifies."""
    return [*drafting_phases(pair, ONE / pair.round.tokens), *verifying_phases(pair)]


def drafting_phases(pair: Pairing, weight: Expr) -> list[Phase]:
    """The draft's steps, ``weight`` rounds of them per value of the span."""
    step = pair.drafting.step
    if step is None:
        return []
    target, resident = pair.target, pair.target.resident
    if not pair.drafting.part:
        shared = pair.drafting.borrowed
        theirs = less((beside(target), *resident), held_by(step.graph, shared))
        resident = (*less(others(step), shared), *theirs)
    if pair.drafting.at_once:
        bindings = verified_at(pair.drafting.width)
        return [Phase("draft", step.graph, bindings, target.span, ZERO, weight, resident)]
    return [
        Phase(
            "draft" if index == 1 else f"draft-{index}",
            under(fusing_once(step.graph, steps.count if index == 1 else None), steps.mask),
            ((q, steps.width), (T, T + steps.behind)),
            target.span,
            ZERO,
            steps.count * weight,
            resident,
        )
        for index, steps in enumerate(pair.round.steps, start=1)
    ]


def verifying_phases(pair: Pairing) -> list[Phase]:
    """The target's passes over what was drafted; together they emit the round's tokens."""
    share = ONE / pair.round.tokens
    return [
        Phase(
            "verify" if index == 1 else f"verify-{index}",
            checking(pair, check),
            verified_at(check.positions + pair.drafting.extra, pair.drafting.sure),
            pair.target.span,
            pair.round.tokens,
            share * check.share,
            held(pair),
        )
        for index, check in enumerate(pair.round.checks, start=1)
    ]


def checking(pair: Pairing, check: Check) -> Graph:
    """The target's graph as it verifies: logits everywhere, branches apart."""
    graph = under(all_logits(pair.target.graph), check.mask)
    adds = pair.drafting.verifying
    return graph if adds is None else adds(graph)


def verified_at(positions: Expr, behind: Expr = ZERO) -> tuple[tuple[Expr, Expr], ...]:
    """Bindings of a pass over so many positions, the first ``behind`` more than context ``T``."""
    return ((q, positions), (T, T + behind + positions - 1))


def held(pair: Pairing) -> tuple[Resident, ...]:
    """What is in memory besides the target while it runs alone."""
    step, resident = pair.drafting.step, pair.target.resident
    if step is None or pair.drafting.part:
        return resident
    return (*resident, *less((beside(step), *others(step)), pair.drafting.borrowed))


def beside(phase: Phase) -> Resident:
    """A phase's graph with its caches, while another phase runs."""
    return Resident(phase.graph, caches=True)


def fusing_once(graph: Graph, steps: Expr | None) -> Graph:
    """The graph of a draft step, the target's hidden states fused in one of ``steps`` only.

    None: in none. What does not fuse stays as it is.
    """
    runs = ZERO if steps is None else ONE / steps
    nodes = tuple(
        replace(n, op=replace(n.op, presence=Presence(runs=runs)))
        if n.name == FUSING and isinstance(n.op, Repeat)
        else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes)


def others(draft: Phase) -> tuple[Resident, ...]:
    """What is in memory with the draft: parts of its model, not of the target."""
    return tuple(replace(r, part=False) for r in draft.resident)


def all_logits(graph: Graph) -> Graph:
    """The graph with logits for every processed position, as verification needs."""

    def kept(node: Node, operands: tuple[Tensor, ...]) -> Op:
        return SelectLast(q) if isinstance(node.op, SelectLast) else node.op

    return rebuild(graph, kept)


def under(graph: Graph, mask: Branches | None) -> Graph:
    """The graph with useful pairs counted by ``mask`` where attention is causal."""
    if mask is None:
        return graph

    def masked(node: Node, operands: tuple[Tensor, ...]) -> Op:
        causal = getattr(node.op, "mask", None) == "skip"
        return replace(node.op, mask=mask) if causal else node.op  # type: ignore[type-var]

    return rebuild(graph, masked)
