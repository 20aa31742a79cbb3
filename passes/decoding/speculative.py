"""Speculative decoding: a draft proposes, the target verifies several tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import CostgraphError, PipelineError, clip, nearest
from costgraph.hardware.systems import System
from costgraph.ir.program import Phase, Program, Resident
from costgraph.passes.decoding.acceptance import (
    Acceptance,
    Constant,
    Positions,
    emitted,
    independent_reach,
    tree_reach,
    whole,
)
from costgraph.passes.decoding.draft_length import best_length
from costgraph.passes.decoding.drafting import Asked, Drafting
from costgraph.passes.decoding.drafts import MODEL, source_of
from costgraph.passes.decoding.rounds import Round, branching, chained, triggered
from costgraph.passes.decoding.schedules import Pairing, beside, in_turn, others
from costgraph.passes.decoding.sharing import held_by, less, still_shared, weights_at
from costgraph.passes.decoding.target import is_windowed, keeps_state, stepping
from costgraph.rewriting import pipeline
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, number, option
from costgraph.symbols import B

ONE, ZERO = Integer(1), Integer(0)
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
        "skip",
        "a shipped model or the path of a config.json (of a model, or of an EAGLE head); "
        "'skip': the target with fewer layers or blocks; 'heads' (Medusa), 'blockwise'; 'eagle', "
        "'eagle3', or with a file's path eagle:PATH; 'mtp': the model's own module; 'pass': "
        "look-ahead tokens; 'copy': what stands in the prompt or a store, free",
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
    skip_attention: str = option(
        "text", "", "attention blocks that a 'skip' draft leaves out: a number, or layers from "
        "zero on: l3|5|8-12",
    )  # fmt: skip
    skip_mlp: str = option(
        "text", "", "feed-forward blocks that a 'skip' draft leaves out: 10, or l3|5|8-12"
    )
    share: str = option(
        "word", "", "parts of a draft model that are the target's own: encoder, vocabulary, or "
        "both: encoder|vocabulary",
    )  # fmt: skip
    target_at: str = option(
        "word", "", "level of memory where the target's weights lie, to be read anew for each "
        "pass of it: ddr, nvme; the draft is resident",
    )  # fmt: skip
    hit: Expr = option(
        "probability", ONE, "share of rounds that have a draft at all: copies need a match"
    )
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
    ready: Drafting | None = field(default=None, compare=False, repr=False)

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return self.gamma == "optimal"

    def search(self, program: Program, system: System) -> Search:
        return best_length(self)

    def prepared(self, program: Program, system: System) -> Speculative:
        if source_of(self.draft) is not MODEL:
            return self
        return replace(self, ready=self._drafting(program, system, ZERO))

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
        if self.target_at:
            program = program.rewritten(partial(weights_at, level=self.target_at))
            target = stepping(program)
        drafting = self.ready or self._drafting(program, system, round_.depth)
        if self.hit != 1:
            round_ = triggered(round_, self.hit)
        if drafting.sure != 0:
            round_ = replace(round_, tokens=round_.tokens + drafting.sure)
        step = drafting.step
        graphs = (target.graph, *(() if step is None else (step.graph,)))
        stateful = any(map(keeps_state, graphs))
        if round_.branched and stateful:
            raise PipelineError(
                "speculative: a recurrent state follows one branch: drafts and trees need caches"
            )
        phases = tuple(
            made
            for phase in program.phases
            for made in (
                _in_front(phase, drafting)
                if phase.span is None
                else in_turn(Pairing(phase, drafting, round_, self.acceptance))
            )
        )
        made = replace(program, phases=phases)
        if stateful:
            made = made.assuming(
                "recurrent states are restored without cost where drafted tokens are rejected"
            )
        misses = [
            Miss(self.name, "inherit", f"the pipeline has no {name} for the draft")
            for name in self._absent(pipeline.history(program))
        ]
        if drafting.program is not None:
            made = _told(made, program, drafting.program, round_)
            missed = pipeline.Trace(pipeline.history(drafting.program)).misses
            misses += [replace(m, node=f"draft: {m.node}") for m in missed]
        return Outcome(made.assuming(self.note) if self.note else made, ("decode",), tuple(misses))

    @property
    def acceptance(self) -> Acceptance:
        """How likely what is drafted is accepted.

        Raises:
            PipelineError: what is given is no acceptance.
        """
        return Positions(tuple(_alphas(self.alphas))) if self.alphas else Constant(self.alpha)

    def round(self) -> Round:
        """What is drafted and verified in one round, and the expected tokens.

        Raises:
            PipelineError: the options contradict one another.
        """
        gamma, acceptance = self.gamma, self.acceptance
        assert isinstance(gamma, Expr)
        if sum((bool(self.alphas), bool(self.tree), self.drafts != 1)) > 1:
            raise PipelineError("alphas, tree and drafts exclude one another")
        batch = B if self.batch == "sync" else ONE
        if self.tree:
            widths = _tree(self.tree)
            nodes = [ONE]
            for m in widths:
                nodes.append(nodes[-1] * m)
            total = sum(nodes[1:])
            if total > 1000 * MOST_DRAFTED:
                raise PipelineError(f"tree: {total} drafted positions are too many")
            tokens = emitted(tree_reach(acceptance, widths), batch)
            return branching(Integer(len(widths)), tokens, nodes[1:])
        if acceptance.depths is not None:
            gamma = Integer(acceptance.depths)
        if self.drafts != 1:
            tokens = emitted(independent_reach(acceptance, gamma, self.drafts), batch)
            return branching(gamma, tokens, [self.drafts] * whole(gamma))
        if batch == 1:
            return chained(gamma, acceptance.chain(gamma))
        reach = (acceptance.survival(Integer(i)) for i in range(1, whole(gamma) + 1))
        return chained(gamma, emitted(tuple(reach), batch))

    # --- the draft

    def _drafting(self, program: Program, system: System, depth: Expr) -> Drafting:
        """What drafts, as the passes that are meant for it leave it."""
        blocks = (self.skip_attention, self.skip_mlp)
        source = source_of(self.draft, blocks)
        if any(blocks) and self.draft != "skip":
            raise PipelineError("skip-attention, skip-mlp: only a 'skip' draft leaves out blocks")
        if not source.inherits and (self.draft_passes or self.inherit != "all"):
            raise PipelineError(
                f"draft-passes, inherit: a {self.draft!r} draft is made of the target's layers as "
                "they are; name the model as its own draft to treat it differently"
            )
        if not source.takes_layers and self.layers != 0:
            raise PipelineError("layers: only a 'skip' draft is made of some of the layers")
        past = pipeline.history(program)
        model = past[0].before if past else program
        if self.share and source is not MODEL:
            raise PipelineError("share: only a draft that is a model of its own has parts to share")
        drafting = source.make(
            Asked(self.draft, program, model, depth, self.layers, blocks, self.share)
        )
        if not source.inherits or drafting.program is None:
            return drafting
        own, inherited = self._own(), self._inherited(past)
        names = {p.name for p in own}
        passes = (*(p for p in inherited if p.name not in names), *own)
        try:
            made = pipeline.run(drafting.program, passes, system)[0]
            made = replace(made, borrowed=still_shared(made, stepping(program)))
        except CostgraphError as error:
            hint = "; what the draft gets of the target's passes: inherit" if inherited else ""
            raise PipelineError(f"draft: {error}{hint}") from None
        return replace(drafting, program=made)

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


def _in_front(phase: Phase, drafting: Drafting) -> list[Phase]:
    """A phase in front of decoding, and the draft's own one behind it."""
    step = drafting.step
    if drafting.program is None or step is None or drafting.part:
        return [phase]  # a draft made of the target's own layers holds nothing besides
    twin = next((p for p in drafting.program.phases if p.name == phase.name), None)
    shared = drafting.program.borrowed
    if twin is None:
        mine = less((Resident(step.graph), *others(step)), shared)
        return [replace(phase, resident=(*phase.resident, *mine))]
    mine = less((beside(twin), *others(twin)), shared)
    theirs = less((beside(phase), *phase.resident), held_by(twin.graph, shared))
    own = less(others(twin), shared)
    return [
        replace(phase, resident=(*phase.resident, *mine)),
        replace(twin, name=f"draft-{phase.name}", tokens=ZERO, resident=(*own, *theirs)),
    ]


def _told(made: Program, target: Program, draft: Program, round_: Round) -> Program:
    """The program with what its draft assumes and is limited by."""
    made = replace(
        made,
        limits=tuple(dict.fromkeys((*made.limits, *draft.limits))),
        notes=(*made.notes, *(f"draft: {n}" for n in draft.notes)),
    ).assuming(*draft.assumptions)
    if all(p.span is not None for p in draft.phases):
        return made  # it reads no prompt
    made = made.assuming(
        "the draft reads the prompt before the first token comes out: the time to the "
        "first token contains it"
    )
    if any(s.mask for s in round_.steps) and is_windowed(stepping(draft).graph):
        made = made.assuming("rows of other branches count into the window of the draft's cache")
    if {p.name for p in target.phases} - {p.name for p in draft.phases}:
        made = made.assuming(
            "the draft sees no images: their places in its prompt are rows like others"
        )
    return made


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
