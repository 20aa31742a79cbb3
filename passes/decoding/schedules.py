"""When draft and target run in a round: what becomes of a decode step.

Every schedule makes phases whose times come from the graphs of draft and target. Their
weights are such that the phases emit one token per value of the span. What runs at once is
one phase whose graph is a parallel region (:mod:`.together`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.presence import Presence
from costgraph.ir.program import Phase, Resident
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.ahead import FUSING
from costgraph.ops import SelectLast
from costgraph.ops.attending import pattern_of, repatterned
from costgraph.ops.pattern import Branches, Pattern
from costgraph.passes.decoding.acceptance import Acceptance, Constant, whole
from costgraph.passes.decoding.drafting import Drafting, Within
from costgraph.passes.decoding.inner import Chunk, inner_rounds, round_of_inner
from costgraph.passes.decoding.rounds import Check, Round, Steps, chain_steps
from costgraph.passes.decoding.sharing import held_by, less
from costgraph.passes.decoding.together import UNIT, Apart, at_once, elsewhere, side_by_side
from costgraph.rewriting.binding import at, prefixed
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, T, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Pairing:
    """A target's decode steps and what speculates for them.

    Attributes:
        target: the phase of decode steps.
        drafting: what writes the drafts.
        round: what is drafted and verified.
        acceptance: of what is drafted; None where only the mean length is known.
        apart: the other device that the draft runs on, if it is not the target's.
    """

    target: Phase
    drafting: Drafting
    round: Round
    acceptance: Acceptance | None
    apart: Apart | None = None


Schedule = Callable[[Pairing], list[Phase]]


def in_turn(pair: Pairing) -> list[Phase]:
    """The draft writes, then the target verifies."""
    return [*drafting_phases(pair, ONE / pair.round.tokens), *verifying_phases(pair)]


def pearl(pair: Pairing) -> list[Phase]:
    """Draft and target at once: the target verifies what the draft wrote a round before.

    In a *pre-verify* round the target checks the first token of the ``γ`` that the draft
    writes meanwhile; if it stands, the next round is a *post-verify* one: the target
    verifies the ``γ`` while the draft writes the next ``γ``, and so on as long as all stand.
    The modes are a Markov chain: pre goes to post with ``α``, post stays with ``α^γ`` and
    emits ``(1 − α^γ)/(1 − α)`` tokens, so that a round emits
    ``(1 − α^γ)/((1 − α)(1 + α − α^γ))`` on average (Liu et al., PEARL, arXiv 2408.11850).
    """
    gamma, acceptance = _one_chain(pair, "pearl")
    alpha, run = acceptance.alpha, acceptance.chain(gamma - 1)
    before, behind = chain_steps(gamma), chain_steps(gamma, gamma)
    # The long run has (1 − α^γ) : α rounds of the two; (1 − α^γ) + α·run is the run again.
    return [
        *_both(pair, "pre-verify", before, Check(ONE, ONE), ONE, 1 - alpha),
        *_both(pair, "post-verify", behind, Check(ONE, gamma), run, alpha / run),
    ]


def ahead(pair: Pairing) -> list[Phase]:
    """The draft goes on while the target verifies, as if all were accepted.

    It writes its guess of the target's own token and ``γ`` more. If all stand, the guess
    included (``α^(γ+1)``), they are the drafts of the next round; else the draft starts anew
    from where the target corrected it, and the target waits.
    """
    gamma, acceptance = _one_chain(pair, "ahead")
    share = ONE / pair.round.tokens
    again = 1 - acceptance.survival(gamma + 1)
    check = Check(ONE, gamma + 1)
    on = chain_steps(gamma + 1, gamma)
    both = _both(pair, "verify", on, check, pair.round.tokens, share)
    return both if again == 0 else [*drafting_phases(pair, again * share), *both]


def stairs(pair: Pairing) -> list[Phase]:
    """Verification as a batch: ``γ + 1`` rows a sequence, each a token longer than the last.

    Every row has a cache of its own and makes one token. Rows are padded to the longest.
    """
    return _rows(pair, ONE)


def uncached_stairs(pair: Pairing) -> list[Phase]:
    """:func:`stairs` without caches: every row is a whole prefix, forwarded anew.

    Raises:
        PipelineError: not all layers of the target are given the whole prefix.
    """
    patterns = (pattern_of(n.op) for g in pair.target.graph.walk() for n in g.nodes)
    if any(p is not None and p.context != T for p in patterns):
        raise PipelineError(
            "schedule=stairs-uncached forwards whole prefixes, of which some layers of the target "
            "are given fewer positions: state schedule=stairs"
        )
    return _rows(pair, T + pair.round.depth)


def _rows(pair: Pairing, query: Expr) -> list[Phase]:
    gamma, _ = _one_chain(pair, "stairs")
    rows = gamma + 1

    def once(held: Resident) -> Resident:
        """What rests has caches for the sequences, not for their rows."""
        return replace(held, graph=at(held.graph, {B: B / rows}))

    (verify,) = verifying_phases(pair)
    bindings = ((q, query), (T, T + gamma), (B, B * rows))
    rows_ = replace(
        verify,
        graph=pair.target.graph,
        bindings=bindings,
        resident=tuple(map(once, verify.resident)),
    )
    return [*drafting_phases(pair, ONE / pair.round.tokens), rows_]


#: Every schedule by its word, and what it assumes.
SCHEDULES: Mapping[str, tuple[Schedule, tuple[str, ...]]] = MappingProxyType(
    {
        "turns": (in_turn, ()),
        "pearl": (
            pearl,
            ("pearl: rounds are counted as often as each mode is in the long run",),
        ),
        "ahead": (ahead, ()),
        "stairs": (stairs, ("stairs: rows of a sequence are padded to the longest",)),
        "stairs-uncached": (
            uncached_stairs,
            (
                "stairs: rows of a sequence are padded to the longest; the target forwards whole "
                "prefixes, and the draft has its cache",
            ),
        ),
    }
)


def _one_chain(pair: Pairing, name: str) -> tuple[Expr, Constant]:
    """The length of the chain, and its acceptance.

    Raises:
        PipelineError: it is no chain of one acceptance, written token by token.
    """
    steps, checks = pair.round.steps, pair.round.checks
    if pair.drafting.step is None or pair.drafting.at_once or pair.drafting.verifying is not None:
        raise PipelineError(
            f"schedule={name}: needs a draft that writes token by token beside the target"
        )
    if pair.drafting.borrowed:
        raise PipelineError(
            f"schedule={name}: the draft reads states or weights of the target, and waits for it"
        )
    if pair.round.branched or len(steps) != 1 or len(checks) != 1:
        raise PipelineError(f"schedule={name} is only defined for one chain of drafts")
    if not isinstance(pair.acceptance, Constant):
        raise PipelineError(f"schedule={name} needs one acceptance alpha for every token")
    return pair.round.depth, pair.acceptance


def _both(
    pair: Pairing, name: str, steps: Steps, check: Check, tokens: Expr, weight: Expr
) -> list[Phase]:
    """Draft steps beside a pass of the target; nothing where no round is like that."""
    if weight == 0:
        return []
    step = pair.drafting.step
    assert step is not None
    bindings = verified_at(check.positions)
    before = dict(bindings)[T] - T  # the phase's T stands behind what is verified
    draft = at(step.graph, {q: ONE, T: T - before + steps.behind})
    graph = at_once(checking(pair, check), draft, steps.count, pair.apart)
    resident = pair.target.resident
    if not pair.drafting.part and pair.apart is None:
        resident = (*resident, *others(step))
    return [Phase(name, graph, bindings, pair.target.span, tokens, weight, resident)]


def dealt(schedule: Callable[[Pairing], list[Phase]], pair: Pairing) -> list[Phase]:
    """The phases of a schedule, for the sequences of the target's step: a replica's, a group's."""
    batch, rounds = pair.target.substitution.get(B, B), pair.target.rounds
    return [replace(p.with_binding(B, batch), rounds=rounds) for p in schedule(pair)]


def drafting_phases(pair: Pairing, weight: Expr) -> list[Phase]:
    """The draft's steps, ``weight`` rounds of them per value of the span."""
    step = pair.drafting.step
    if step is None:
        return []
    if pair.drafting.within is not None:
        (steps,) = pair.round.steps
        wanted = Chunk(whole(pair.round.depth), steps.begins)
        return _cascade(pair, pair.drafting.within, (wanted,), weight)
    target, resident = pair.target, pair.target.resident
    if pair.apart is not None:
        resident = ()
    elif not pair.drafting.part:
        shared = pair.drafting.borrowed
        theirs = less((beside(target), *resident), held_by(step.graph, shared))
        resident = (*less(others(step), shared), *theirs)
    placed = elsewhere if pair.apart is not None else (lambda graph: graph)
    if pair.drafting.at_once:
        bindings = verified_at(pair.drafting.width)
        return [Phase("draft", step.graph, bindings, target.span, ZERO, weight, resident)]
    return [
        Phase(
            "draft" if index == 1 else f"draft-{index}",
            placed(under(fusing_once(step.graph, steps.begins / steps.count), steps.mask)),
            ((q, steps.width), (T, T + steps.behind)),
            target.span,
            ZERO,
            steps.count * weight,
            resident,
        )
        for index, steps in enumerate(pair.round.steps, start=1)
    ]


def _cascade(pair: Pairing, within: Within, wanted: Sequence[Chunk], weight: Expr) -> list[Phase]:
    """Inner rounds that write what is wanted of the draft, ``weight`` times per value of the span.

    Their phases are those of draft and target in turn, the draft in the target's place.
    """
    rounds = inner_rounds(wanted, within.reach)
    inner = Pairing(within.step, within.drafting, round_of_inner(rounds, within.hit), None)
    deeper = within.drafting.within
    if deeper is None:
        drafting = drafting_phases(inner, ONE)
    else:
        drafted = [replace(c, times=c.times * within.hit) for c in rounds if c.tokens]
        drafting = _cascade(inner, deeper, drafted, ONE)
    theirs = (beside(pair.target), *pair.target.resident)
    return [
        replace(
            phase,
            name=f"draft-{phase.name}",
            tokens=ZERO,
            weight=phase.weight * weight,
            resident=(*others(phase), *theirs),
        )
        for phase in (*drafting, *verifying_phases(inner))
    ]


def verifying_phases(pair: Pairing) -> list[Phase]:
    """The target's passes over what was drafted; together they emit the round's tokens."""
    share = ONE / pair.round.tokens
    return [
        Phase(
            "verify" if index == 1 else f"verify-{index}",
            checking(pair, check),
            verified_at(check.positions + pair.drafting.extra, pair.drafting.sure + check.behind),
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


def fusing_once(graph: Graph, runs: Expr) -> Graph:
    """The graph of a draft step, the target's hidden states fused in a share of the steps.

    What does not fuse stays as it is.
    """
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
    levels = mask.levels

    def masked(node: Node, operands: tuple[Tensor, ...]) -> Op:
        def branched(pattern: Pattern) -> Pattern:
            return pattern if isinstance(pattern, Branches) else pattern.branched(levels)

        return repatterned(node.op, branched)

    return rebuild(graph, masked)


# --- in front of the rounds -----------------------------------------------------------------


def in_front(phase: Phase, drafting: Drafting, apart: Apart | None = None) -> list[Phase]:
    """A phase in front of decoding, and those of its drafts behind it, or beside it."""
    step = drafting.step
    if drafting.program is None or step is None or drafting.part:
        return [phase]  # a draft made of the target's own layers holds nothing besides
    twin = next((p for p in drafting.program.phases if p.name == phase.name), None)
    if apart is not None:
        return _at_once_in_front(phase, twin)
    shared = drafting.borrowed
    if twin is None:
        idle = (replace(r, caches=False) for r in others(step))
        mine = less((Resident(step.graph), *idle), shared)
        return [replace(phase, resident=(*phase.resident, *mine))]
    mine = less((beside(twin), *others(twin)), shared)
    found = [replace(phase, resident=(*phase.resident, *mine))]
    for draft in _of_drafts(drafting, phase.name):
        theirs = less((beside(phase), *phase.resident), held_by(draft.graph, shared))
        own = less(others(draft), shared)
        name = f"draft-{draft.name}"
        found.append(replace(draft, name=name, tokens=ZERO, resident=(*own, *theirs)))
    return found


def _of_drafts(drafting: Drafting, name: str) -> list[Phase]:
    """The phases of one name of a draft, of what drafts for it, and so on down."""
    assert drafting.program is not None
    names, within = [name], drafting.within
    while within is not None:
        names.append(f"draft-{names[-1]}")
        within = within.drafting.within
    return [p for p in drafting.program.phases if p.name in names]


def _at_once_in_front(phase: Phase, twin: Phase | None) -> list[Phase]:
    """The same on devices of their own: at once where both read the same."""
    if twin is None:
        return [phase]
    draft = prefixed(twin.graph, "draft.")
    if twin.bindings != phase.bindings:
        name, graph = f"draft-{phase.name}", elsewhere(twin.graph)
        return [phase, replace(twin, name=name, graph=graph, tokens=ZERO, resident=())]
    both = side_by_side([("target", phase.graph, ""), ("draft", draft, UNIT)])
    return [replace(phase, graph=both)]
