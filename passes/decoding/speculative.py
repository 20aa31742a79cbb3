"""Speculative decoding: a draft proposes, the target verifies several tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import CostgraphError, PipelineError, clip, nearest
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Tensor
from costgraph.ops import SelectLast
from costgraph.ops.attention import Branches
from costgraph.passes.decoding.acceptance import (
    chain_tokens,
    independent_tokens,
    position_tokens,
    synchronous_tokens,
    tree_tokens,
    whole,
)
from costgraph.passes.decoding.draft_length import best_length
from costgraph.passes.decoding.drafts import (
    first_layers,
    heads,
    is_windowed,
    keeps_state,
    loaded,
    stepping,
)
from costgraph.passes.decoding.rounds import Round, branching
from costgraph.rewriting import pipeline
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, number, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, T, q

ONE, ZERO = Integer(1), Integer(0)
SKIP, HEADS = "skip", "heads"
#: Longest and most drafts of a round, and a thousand times it, most nodes of a tree.
MOST_DRAFTED = 1024
#: Most levels of a tree, and most children of a node.
DEEPEST, WIDEST = 16, 64


@dataclass(frozen=True)
class Speculative(Pass):
    """Decode steps become rounds of draft steps and one verification.

    The draft is a second model, the target with fewer layers, or extra heads. The target
    verifies the last token and all drafted ones in the same step graph; both models and
    both caches are resident. Whatever the pipeline does to the target it does to the draft
    as well, wherever it is written; ``inherit`` and ``draft-passes`` say otherwise.
    """

    name: ClassVar[str] = "speculative"
    title: ClassVar[str] = "draft several tokens cheaply, verify them in one step of the target"
    formula: ClassVar[str] = (
        "tpot = (gamma·t_draft(1) + t_target(gamma + 1)) / E, "
        "E = (1 - alpha^(gamma+1)) / (1 - alpha)"
    )
    source: ClassVar[str] = (
        "Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318; heads and trees: "
        "Cai et al., arXiv 2401.10774"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "drafted tokens are accepted independently of one another",
        "rounds are counted by their expected number; a draft step costs what it costs at the "
        "mean context of its round, and the first one forwards one token",
    )
    stage: ClassVar[Stage] = Stage.DECODING
    inherited: ClassVar[bool] = False

    draft: str = option(
        "text",
        SKIP,
        "a shipped model or the path of a config.json; 'skip' (the target with fewer layers) or "
        "'heads'",
    )
    gamma: Expr | str = option(
        "integer", Integer(4), "drafted tokens per round, or 'optimal'", minimum=0,
        maximum=MOST_DRAFTED, choices=("optimal",),
    )  # fmt: skip
    alpha: Expr = option("probability", Integer(7) / 10, "acceptance of a drafted token")
    alphas: str = option("word", "", "acceptance per position instead, as percent: p80|p70|p60")
    drafts: Expr = option(
        "integer", ONE, "independent drafts verified together", minimum=1, maximum=MOST_DRAFTED
    )
    tree: str = option("word", "", "children per node and depth: t4|2|1 is 4, then 2, then 1")
    layers: Expr = option("integer", ZERO, "layers of a 'skip' draft; 0 means half", minimum=0)
    draft_passes: str = option(
        "pipeline", "", "passes of the draft alone, in quotes; in place of inherited ones of "
        "their name",
    )  # fmt: skip
    inherit: str = option(
        "word", "all", "passes of the target that the draft gets as well: all, none, or names: "
        "fuse|page-kv",
    )  # fmt: skip
    batch: str = option(
        "word", "ragged", "sequences advance each by its own count, or all by the least",
        choices=("ragged", "sync"),
    )  # fmt: skip
    at_batch: Expr = option(
        "integer", ONE, "batch at which 'optimal' is decided", minimum=1, symbolic=False
    )
    at_context: Expr = option(
        "integer", Integer(2048), "context at which 'optimal' is decided", minimum=1,
        symbolic=False,
    )  # fmt: skip

    #: How a searched option was decided, and the draft where it is loaded already; no
    #: options, and no part of the text.
    note: str = ""
    ready: Program | None = field(default=None, compare=False, repr=False)

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return self.gamma == "optimal"

    def search(self, program: Program, system: System) -> Search:
        return best_length(self)

    def prepared(self, program: Program, system: System) -> Speculative:
        if self.draft in (SKIP, HEADS):
            return self
        return replace(self, ready=self._draft(program, system, ZERO))

    def run(self, program: Program, system: System) -> Outcome:
        if self.gamma == "optimal":
            raise PipelineError("gamma=optimal needs a machine to be decided on; use compile")
        try:
            target = stepping(program)
        except PipelineError as error:
            raise PipelineError(f"speculative: {error}") from None
        round_ = self.round()
        if round_.depth == 0:
            reason = self.note or "gamma is 0"
            return Outcome(program, (), (Miss(self.name, "decode", reason),))
        draft = self.ready or self._draft(program, system, round_.depth)
        graphs = (target.graph, stepping(draft).graph)
        stateful = any(map(keeps_state, graphs))
        if round_.nodes and stateful:
            raise PipelineError(
                "speculative: a recurrent state follows one branch: drafts and trees need caches"
            )
        phases = tuple(
            made
            for phase in program.phases
            for made in (
                self._beside(phase, draft)
                if phase.span is None
                else self._round(phase, stepping(draft), round_)
            )
        )
        made = replace(
            program,
            phases=phases,
            limits=tuple(dict.fromkeys((*program.limits, *draft.limits))),
            notes=(*program.notes, *(f"draft: {n}" for n in draft.notes)),
        ).assuming(*draft.assumptions)
        if stateful:
            made = made.assuming(
                "recurrent states are restored without cost where drafted tokens are rejected"
            )
        if self.draft not in (SKIP, HEADS):
            made = made.assuming(
                "the draft reads the prompt before the first token comes out: the time to the "
                "first token contains it"
            )
            if any(s.mask for s in round_.steps) and is_windowed(graphs[1]):
                made = made.assuming(
                    "rows of other branches count into the window of the draft's cache"
                )
            if {p.name for p in program.phases} - {p.name for p in draft.phases}:
                made = made.assuming(
                    "the draft sees no images: their places in its prompt are rows like others"
                )
        missed = pipeline.Trace(pipeline.history(draft)).misses
        misses = (
            *(
                Miss(self.name, "inherit", f"the pipeline has no {name} for the draft")
                for name in self._absent(pipeline.history(program))
            ),
            *(replace(m, node=f"draft: {m.node}") for m in missed),
        )
        return Outcome(made.assuming(self.note) if self.note else made, ("decode",), misses)

    def round(self) -> Round:
        """The steps, nodes and expected tokens of one round.

        Raises:
            PipelineError: the options contradict one another.
        """
        alpha, gamma = self.alpha, self.gamma
        assert isinstance(gamma, Expr)
        if sum((bool(self.alphas), bool(self.tree), self.drafts != 1)) > 1:
            raise PipelineError("alphas, tree and drafts exclude one another")
        if self.batch == "sync":
            if self.alphas or self.tree or self.drafts != 1:
                raise PipelineError("batch=sync is only defined for one chain of constant alpha")
            return Round(gamma, synchronous_tokens(alpha, gamma, B))
        if self.tree:
            widths = _tree(self.tree)
            nodes = [ONE]
            for m in widths:
                nodes.append(nodes[-1] * m)
            total = sum(nodes[1:])
            if total > 1000 * MOST_DRAFTED:
                raise PipelineError(f"tree: {total} drafted positions are too many")
            return branching(Integer(len(widths)), tree_tokens(alpha, widths), nodes[1:])
        if self.alphas:
            given = _alphas(self.alphas)
            return Round(Integer(len(given)), position_tokens(given))
        if self.drafts != 1:
            tokens = independent_tokens(alpha, gamma, self.drafts)
            return branching(gamma, tokens, [self.drafts] * whole(gamma))
        return Round(gamma, chain_tokens(alpha, gamma))

    # --- the draft

    def _draft(self, program: Program, system: System, depth: Expr) -> Program:
        """The draft program, as the passes that are meant for it leave it."""
        if self.draft == SKIP:
            if self.draft_passes or self.inherit != "all":
                raise PipelineError(
                    "draft-passes, inherit: a 'skip' draft is made of the target's layers as they "
                    "are; name the model as its own draft to treat it differently"
                )
            return first_layers(program, self.layers)
        if self.layers != 0:
            raise PipelineError("layers: only a 'skip' draft is made of some of the layers")
        past = pipeline.history(program)
        source = past[0].before if past else program
        own, inherited = self._own(), self._inherited(past)
        names = {p.name for p in own}
        start = heads(source, depth) if self.draft == HEADS else loaded(self.draft, source)
        passes = (*(p for p in inherited if p.name not in names), *own)
        try:
            return pipeline.run(start, passes, system)[0]
        except CostgraphError as error:
            hint = "; what the draft gets of the target's passes: inherit" if inherited else ""
            raise PipelineError(f"draft: {error}{hint}") from None

    def _own(self) -> tuple[Pass, ...]:
        from costgraph.passes import PASSES

        own = pipeline.parse(self.draft_passes, PASSES)
        if any(p.stage is Stage.DECODING for p in own):
            raise PipelineError("draft-passes: a draft does not speculate itself")
        return own

    def _inherited(self, past: Sequence[pipeline.Step]) -> tuple[Pass, ...]:
        """What the draft gets of the target's passes, in the order in which they ran."""
        found = tuple(s.made_by for s in past if s.made_by.inherited)
        if self.inherit == "all":
            return found
        if self.inherit == "none":
            return ()
        names = self.inherit.split("|")
        return tuple(p for p in found if p.name in names)

    def _absent(self, past: Sequence[pipeline.Step]) -> list[str]:
        """Names under ``inherit`` that the pipeline has nothing of.

        Raises:
            PipelineError: one names no pass, or one that no draft inherits.
        """
        from costgraph.passes import PASSES

        if self.inherit in ("all", "none"):
            return []
        known = [name for name, cls in PASSES.items() if cls.inherited]
        there = {s.made_by.name for s in past}
        names = self.inherit.split("|")
        for name in names:
            if name not in known:
                raise PipelineError(
                    f"inherit: no draft gets a pass {clip(name)}"
                    f"{nearest(name, (*known, 'all', 'none'))}"
                )
        return [name for name in names if name not in there]

    # --- phases

    def _beside(self, phase: Phase, draft: Program) -> list[Phase]:
        """A phase in front of decoding, and the draft's own one behind it."""
        if self.draft == SKIP:
            return [phase]  # a draft made of the target's own layers holds nothing besides
        twin = next((p for p in draft.phases if p.name == phase.name), None)
        if twin is None:
            step = stepping(draft)
            return [
                replace(phase, resident=(*phase.resident, Resident(step.graph), *_others(step)))
            ]
        return [
            replace(phase, resident=(*phase.resident, _beside(twin), *_others(twin))),
            replace(
                twin,
                name=f"draft-{phase.name}",
                tokens=ZERO,
                resident=(*_others(twin), _beside(phase), *phase.resident),
            ),
        ]

    def _round(self, phase: Phase, draft: Phase, round_: Round) -> list[Phase]:
        """The decode steps as draft steps and verification."""
        share = 1 / round_.tokens
        own = self.draft != SKIP
        held = (*_others(draft), _beside(phase), *phase.resident) if own else phase.resident
        drafting = []
        for index, steps in enumerate(round_.steps, start=1):
            drafting.append(
                Phase(
                    "draft" if index == 1 else f"draft-{index}",
                    _under(draft.graph, steps.mask),
                    ((q, steps.width), (T, T + steps.behind)),
                    phase.span,
                    ZERO,
                    steps.count * share,
                    held,
                )
            )
        if self.draft == HEADS:  # all heads work on one hidden state
            first = drafting[0]
            drafting = [replace(first, bindings=((q, ONE), (T, T)), weight=share)]
        verifying = Phase(
            "verify",
            _under(_all_logits(phase.graph), round_.mask),
            ((q, round_.verified), (T, T + round_.verified - 1)),
            phase.span,
            round_.tokens,
            share,
            (*phase.resident, _beside(draft), *_others(draft)) if own else phase.resident,
        )
        return [*drafting, verifying]


def _beside(phase: Phase) -> Resident:
    """A phase's graph with its caches, while another phase runs."""
    return Resident(phase.graph, caches=True)


def _others(draft: Phase) -> tuple[Resident, ...]:
    """What is in memory with the draft: parts of its model, not of the target."""
    return tuple(replace(r, part=False) for r in draft.resident)


def _tree(text: str) -> list[int]:
    parts = text.removeprefix("t").split("|")
    if not all(p.isascii() and p.isdigit() for p in parts):
        raise PipelineError(f"tree: {clip(text)} is not a list of widths such as t4|2|1")
    if len(parts) > DEEPEST:
        raise PipelineError(f"tree: {clip(text)} has {len(parts)} levels; at most {DEEPEST}")
    for part in parts:
        if len(part) > 9 or not 0 < int(part) <= WIDEST:
            raise PipelineError(f"tree: a width is from 1 to {WIDEST}, not {clip(part)}")
    return [int(p) for p in parts]


def _alphas(text: str) -> list[Expr]:
    spec = Option("number", "", minimum=0)
    values = [number("alphas", spec, p.removeprefix("p")) / 100 for p in text.split("|")]
    for value in values:
        if value.is_number and value > 1:
            raise PipelineError(f"alphas: {value * 100} percent is beyond 100")
    return values


def _all_logits(graph: Graph) -> Graph:
    """The graph with logits for every processed position, as verification needs."""

    def kept(node: Node, operands: tuple[Tensor, ...]) -> Op:
        return SelectLast(q) if isinstance(node.op, SelectLast) else node.op

    return rebuild(graph, kept)


def _under(graph: Graph, mask: Branches | None) -> Graph:
    """The graph with useful pairs counted by ``mask`` where attention is causal."""
    if mask is None:
        return graph

    def masked(node: Node, operands: tuple[Tensor, ...]) -> Op:
        causal = getattr(node.op, "mask", None) == "skip"
        return replace(node.op, mask=mask) if causal else node.op  # type: ignore[type-var]

    return rebuild(graph, masked)
