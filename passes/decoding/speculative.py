"""Speculative decoding: a draft proposes, the target verifies several tokens at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from sympy import Expr, Integer

from costgraph.errors import CostgraphError, PipelineError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.program import Phase, Program
from costgraph.passes.decoding.acceptance import Acceptance, Constant
from costgraph.passes.decoding.cascades import (
    cascade,
    refuse_all_but_turns,
    steps_of,
    uncalled_for,
)
from costgraph.passes.decoding.draft_length import best_length
from costgraph.passes.decoding.drafting import Asked, Drafting
from costgraph.passes.decoding.drafts import MODEL, source_of
from costgraph.passes.decoding.measured import percents, shares
from costgraph.passes.decoding.rounds import Round, triggered
from costgraph.passes.decoding.schedules import SCHEDULES, Pairing, dealt, in_front
from costgraph.passes.decoding.sharing import still_shared, weights_at
from costgraph.passes.decoding.structures import MOST_DRAFTED, round_of
from costgraph.passes.decoding.target import keeps_state, logits_of, stepping
from costgraph.passes.decoding.together import Apart
from costgraph.passes.decoding.told import told
from costgraph.passes.decoding.trees import MOST_NODES
from costgraph.rewriting import pipeline
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.timing.roofline import reach

ONE, ZERO = Integer(1), Integer(0)
#: Options of which one says how likely drafts are accepted.
ACCEPTING = ("alpha", "alphas", "acceptance", "accepted")


#: What an option that says where something is decided counts beside.
DECIDING = ("gamma=optimal", "nodes=optimal")


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
        "E = (1 - alpha^(gamma+1)) / (1 - alpha); trees: E = 1 + sum of each node's probability; "
        "pearl: tpot = (1 - alpha)·max(gamma·t_draft, t_target(1)) + "
        "alpha/E(gamma-1)·max(gamma·t_draft, t_target(gamma))"
    )
    source: ClassVar[str] = (
        "Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318; heads and trees: "
        "Cai et al., arXiv 2401.10774; best trees: Chen et al., arXiv 2402.12374; lookahead: Fu et "
        "al., arXiv 2402.02057; Jacobi: Santilli et al., arXiv 2305.10427; fallback: Kim et al., "
        "arXiv 2302.07863; pearl: Liu et al., arXiv 2408.11850; stairs: arXiv 2407.19947"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "rounds are the tokens over the expected number of one: what the last makes beyond an "
        "answer, up to about a round, is left out; a draft step costs what it costs at the "
        "mean context of its round, and the first one forwards one token",
    )
    stage: ClassVar[Stage] = Stage.DECODING
    inherited: ClassVar[bool] = False

    draft: str = option(
        "text",
        "skip",
        "a shipped model or the path of a config.json (of a model, or of an EAGLE head); "
        "'skip': the target with fewer layers or blocks; 'heads' (Medusa), 'blockwise'; 'eagle', "
        "'eagle3', or with a file's path eagle:PATH, eagle3:PATH; 'mtp': the model's own module; "
        "'pass': look-ahead tokens; or no draft at all: 'copy' of the prompt or a store, "
        "'phrases', 'lookahead', 'jacobi'",
    )
    gamma: Expr | str = option(
        "integer", Integer(4), "drafted tokens per round, or 'optimal'", minimum=0,
        maximum=MOST_DRAFTED, choices=("optimal",),
    )  # fmt: skip
    alpha: Expr = option("probability", Integer(7) / 10, "acceptance of a drafted token")
    alphas: str = option("word", "", "acceptance per position instead, as percent: p80|p70|p60")
    acceptance: str = option(
        "text", "", "shares per position and candidate instead: '0.7,0.1;0.6,0.1', or the path "
        "of a CSV or JSON file",
    )  # fmt: skip
    accepted: Expr = option(
        "number", ZERO, "tokens that a round emits on average, as measured, instead of all these",
        minimum=0,
    )  # fmt: skip
    gain: Expr = option("probability", ZERO, "what distilling the draft adds to the acceptance")
    epsilon: Expr = option(
        "probability", ZERO, "drafts accepted beyond the lossless rule: acceptance that is added, "
        "and the output's total variation from the target's",
    )  # fmt: skip
    drafts: Expr = option(
        "integer", ONE, "independent drafts verified together", minimum=1, maximum=MOST_DRAFTED
    )
    tree: str = option(
        "word", "", "children per node and depth: t4|2|1 is 4, then 2, then 1; or 'optimal'"
    )
    nodes: Expr | str = option(
        "integer", Integer(32), "nodes of tree=optimal, or 'optimal'", minimum=0,
        maximum=MOST_NODES, symbolic=False, choices=("optimal",),
    )  # fmt: skip
    stop: Expr = option(
        "probability", ZERO, "share of drafted tokens that the draft is unsure of and stops behind"
    )
    fallback: Expr = option(
        "probability", ZERO, "share of tokens that the draft leaves to the target (BiLD)"
    )
    window: str = option(
        "word", "w15|n5|g15", "draft=lookahead: columns, length of n-grams, guesses"
    )
    every: Expr = option(
        "number", ONE, "draft=lookahead: one step in so many has guesses in the pool", minimum=1
    )
    iterations: Expr = option(
        "number", ONE, "draft=jacobi: iterations until a block of gamma tokens stands", minimum=1
    )
    schedule: str = option(
        "word", "turns", "when draft and target run: in turn, at once (pearl), the draft ahead of "
        "the target, or verification as a batch of prefixes (stairs)",
        choices=tuple(SCHEDULES),
    )  # fmt: skip
    draft_on: str = option(
        "word", "shared", "pearl, ahead: the draft shares the target's devices, or has as many of "
        "its own",
        choices=("shared", "separate"), under=("schedule=pearl|ahead",),
    )  # fmt: skip
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
        "pass of it: ddr, nvme; drafts are resident. With gamma=0: the target alone",
    )  # fmt: skip
    phrases: Expr = option(
        "integer", ZERO, "draft=phrases: how many the index holds that every step scores; gamma "
        "is the tokens of one beyond the first",
        minimum=0,
    )  # fmt: skip
    hit: Expr = option(
        "probability", ONE, "share of rounds that have a draft at all: copies need a match"
    )
    draft_passes: str = option(
        "pipeline", "", "passes of the draft alone, in quotes; in place of inherited ones of "
        "their name; 'speculative{…}': the draft has a draft of its own",
    )  # fmt: skip
    inherit: str = option(
        "word", "all", "passes of the target that the draft gets as well: all, none, or names: "
        "fuse|page-kv",
    )  # fmt: skip
    batch: str = option(
        "word", "ragged", "sequences advance each by its own count, or all by the least",
        choices=("ragged", "sync"),
        under=("accepted=0&schedule=turns|stairs|stairs-uncached",),
    )  # fmt: skip
    at_batch: Expr = option(
        "integer",
        ONE,
        "batch at which 'optimal' is decided",
        minimum=1,
        symbolic=False,
        under=DECIDING,
    )
    at_context: Expr = option(
        "integer", Integer(2048), "context at which 'optimal' is decided, or less where the model "
        "has no room", minimum=1, symbolic=False, under=DECIDING,
    )  # fmt: skip
    at_prompt: Expr = option(
        "integer", Integer(1024), "length of the source at which 'optimal' is decided where decode "
        "steps attend what an encoder made of it, or less where there is no room", minimum=1,
        symbolic=False, under=DECIDING,
    )  # fmt: skip

    #: How a searched option was decided, and the draft where it is loaded already; no
    #: options, and no part of the text.
    note: str = ""
    ready: Drafting | None = field(default=None, compare=False, repr=False)

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return "optimal" in (self.gamma, self.nodes)

    @property
    def nested(self) -> Mapping[str, tuple[Pass, ...]]:
        return {"draft-passes": self._own()}

    @property
    def is_cascade(self) -> bool:
        """True where the draft is speculated itself."""
        return any(isinstance(p, Speculative) for p in self._own())

    def search(self, program: Program, system: System) -> Search:
        return best_length(self)

    def prepared(self, program: Program, system: System) -> Speculative:
        if source_of(self.draft) is not MODEL:
            return self
        return replace(self, ready=self._drafting(program, system, ZERO))

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError("'optimal' needs a machine to be decided on; use compile")
        try:
            stepping(program)
        except PipelineError as error:
            raise PipelineError(f"speculative: {error}") from None
        round_ = self.round()
        if round_.depth == 0 or self.hit == 0:
            return self._without_drafts(program, system)
        if program.groups is not None:
            raise PipelineError("speculative: a row of chips (chain) has no room for drafts yet")
        missing = self._absent(pipeline.history(program))
        program, pair = self.paired(program, system)
        drafting, target, apart = pair.drafting, pair.target, pair.apart
        schedule, said = SCHEDULES[self.schedule]
        phases: list[Phase] = []
        for phase in program.phases:
            phases += dealt(schedule, pair) if phase is target else in_front(phase, drafting, apart)
        made = replace(program, phases=tuple(phases)).assuming(*said, *self._said())
        if apart is not None:
            made = replace(made, devices=2 * program.devices, stages=2)
        made = replace(made, limits=(*made.limits, *self._limits(round_)))
        if any(map(keeps_state, (target.graph, *steps_of(drafting)))):
            made = made.assuming(
                "recurrent states are restored without cost where drafted tokens are rejected"
            )
        misses = [
            Miss(self.name, "inherit", f"the pipeline has no {name} for the draft")
            for name in missing
        ]
        if drafting.program is not None:
            made = told(made, program, drafting.program, round_, apart)
            missed = pipeline.Trace(drafting.program.history).misses
            misses += [replace(m, node=f"draft: {m.node}") for m in missed]
            misses += uncalled_for(pair)
        return Outcome(made.assuming(self.note) if self.note else made, ("decode",), tuple(misses))

    def paired(self, program: Program, system: System) -> tuple[Program, Pairing]:
        """The program, its weights where they are put, and its decode steps with their drafts.

        Raises:
            PipelineError: the options, the draft and the target do not go together.
        """
        round_ = self.round()
        drafting = self.ready or self._drafting(program, system, round_.depth)
        program = self._placed(program, system)
        target = stepping(program)
        ending = next((n for n in ("stop", "fallback") if getattr(self, n) != 0), None)
        if ending is not None and (drafting.step is None or drafting.at_once):
            raise PipelineError(
                f"{ending}: needs a draft that writes token by token; {self.draft!r} is sure or "
                "unsure of all its tokens at once"
            )
        if self.hit != 1:
            if self.draft in ("lookahead", "jacobi"):
                raise PipelineError(f"hit says nothing about draft={self.draft}")
            round_ = triggered(round_, self.hit)
        if drafting.sure != 0:
            round_ = replace(round_, tokens=round_.tokens + drafting.sure)
        stateful = any(map(keeps_state, (target.graph, *steps_of(drafting))))
        if round_.branched and stateful:
            raise PipelineError(
                "speculative: a recurrent state follows one branch: drafts and trees need caches"
            )
        if drafting.within is not None:
            refuse_all_but_turns(self)
        apart = self._apart(program, drafting, system)
        known = None if self.accepted != 0 else self.accepting()
        return program, Pairing(target, drafting, round_, known, apart)

    def _placed(self, program: Program, system: System) -> Program:
        """The program with the target's weights where ``target-at`` puts them, if it does.

        Raises:
            HardwareError: the device has no such level, or nothing says how fast it is read.
        """
        if not self.target_at:
            return program
        reach(system.device, self.target_at)
        return program.rewritten(partial(weights_at, level=self.target_at))

    def _without_drafts(self, program: Program, system: System) -> Outcome:
        """Rounds that draft nothing: the target alone, its weights where they are put.

        Every option is looked at as in a round of one draft.

        Raises:
            PipelineError: one contradicts another, or does not fit the target.
        """
        more: dict[str, Any] = {"hit": self.hit if self.hit != 0 else ONE / 2}
        if self.draft == "lookahead":
            more["window"] = "w1|n2|g1"
        elif self.draft == "jacobi":
            more["gamma"] = Integer(2)
        elif self.gamma == 0:
            more["gamma"] = ONE
        if self.nodes == 0:
            more["nodes"] = ONE
        replace(self, **more).run(program, system)
        reason = self.note or "nothing is drafted: a round is one token of the target"
        misses = (Miss(self.name, "decode", reason),)
        if not self.target_at:
            return Outcome(program, (), misses)
        return Outcome(self._placed(program, system), ("decode",), misses)

    def accepting(self) -> Acceptance:
        """How likely what is drafted is accepted.

        Raises:
            PipelineError: what is given is no acceptance, or is given twice.
        """
        given = {f for f in ACCEPTING if getattr(self, f) != getattr(type(self), f)}
        if len(given) > 1:
            raise PipelineError(f"{' and '.join(sorted(given))} exclude one another")
        found: Acceptance = Constant(self.alpha)
        if self.alphas:
            found = percents(self.alphas)
        elif self.acceptance:
            found = shares(self.acceptance)
        more = self.gain + self.epsilon
        return found if more == 0 else found.raised(more)

    def round(self) -> Round:
        """What is drafted and verified in one round, and the expected tokens.

        Raises:
            PipelineError: the options contradict one another.
        """
        made = round_of(self, self.accepting())
        if self.accepted == 0:
            return made
        if self.tree == "optimal":
            raise PipelineError("accepted says how long rounds are, not which tree is best")
        if self.gain + self.epsilon != 0:
            raise PipelineError("gain and epsilon change an acceptance, not accepted, the tokens")
        least, most = ONE, made.depth + 1
        if self.accepted.is_number and most.is_number and not least <= self.accepted <= most:
            raise PipelineError(
                f"accepted: rounds of {made.depth} drafts emit from 1 to {most} tokens, not "
                f"{self.accepted}"
            )
        return replace(made, tokens=self.accepted)

    def _said(self) -> tuple[str, ...]:
        """What the options assume."""
        found = []
        if self.accepted == 0 and self.draft not in ("jacobi", "phrases"):
            found.append("drafted tokens are accepted independently of one another")
        if self.epsilon != 0:
            found.append(
                "drafts are accepted beyond what keeps the output's distribution: each token is "
                f"off the target's by up to {self.epsilon} in total variation, as much as "
                "rejections are fewer (Yin et al., arXiv 2411.00841)"
            )
        if self.draft == "phrases":
            found.append("a phrase that is chosen stands as it is: nothing verifies it")
        if self.fallback != 0:
            found.append(
                "what the draft is sure of and the target does not roll back stands: the output is "
                "not distributed as the target's"
            )
        return tuple(found)

    def _limits(self, round_: Round) -> tuple[Limit, ...]:
        """What symbols among the options may be, together with others."""
        pairs: list[tuple[Expr, Expr, str]] = []
        if self.gain + self.epsilon != 0:
            pairs.append((self.alpha + self.gain + self.epsilon, ONE, "an acceptance"))
        if self.accepted != 0:
            said = "tokens that a round emits"
            pairs += [(self.accepted, round_.depth + 1, said), (ONE, self.accepted, said)]
        return tuple(
            Limit(low, high, f"{why} of speculative")
            for low, high, why in pairs
            if not (high - low).is_number
        )

    def _apart(self, program: Program, drafting: Drafting, system: System) -> Apart | None:
        """The devices that the draft has for itself, where it has."""
        if self.draft_on == "shared":
            return None
        if drafting.program is None or drafting.part:
            raise PipelineError(
                f"draft-on=separate: a {self.draft!r} draft is not a model of its own"
            )
        if program.stages > 1:
            raise PipelineError("draft-on=separate: the target is in stages of devices already")
        need = 2 * program.devices
        if need.is_number and need > system.devices:
            raise PipelineError(
                f"draft-on=separate: draft and target take {need} devices, and {system.name} is "
                f"{system.devices}; --on {need}x{system.device.name}, or draft-on=shared"
            )
        logits = logits_of(drafting.program)
        if logits is None:
            raise PipelineError(f"draft-on=separate: {drafting.program.name} makes no logits")
        return Apart(system.hops(Integer(2), program.devices)[-1], logits)

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
        if self.phrases != 0 and self.draft != "phrases":
            raise PipelineError("phrases: only draft=phrases has an index of them")
        if not source.takes_layers and self.layers != 0:
            raise PipelineError("layers: only a 'skip' draft is made of some of the layers")
        past = pipeline.history(program)
        model = past[0].before if past else program
        if self.share and source is not MODEL:
            raise PipelineError("share: only a draft that is a model of its own has parts to share")
        placed = self._placed(program, system)
        drafting = source.make(
            Asked(self.draft, placed, model, depth, self.layers, blocks, self.share, self.phrases)
        )
        if not source.inherits or drafting.program is None:
            return drafting
        own, inherited = self._own(), self._inherited(past)
        names = {p.name for p in own}
        passes = (*(p for p in inherited if p.name not in names), *own)
        try:
            made = pipeline.run(drafting.program, passes, system)[0]
            last = made.history[-1] if made.history else None
            if last is not None and isinstance(last.made_by, Speculative) and last.hits:
                return cascade(drafting, made, last.made_by, system)
            made = replace(made, borrowed=still_shared(made, stepping(placed)))
        except CostgraphError as error:
            hint = "; what the draft gets of the target's passes: inherit" if inherited else ""
            raise PipelineError(f"draft: {error}{hint}") from None
        return replace(drafting, program=made)

    def _own(self) -> tuple[Pass, ...]:
        from costgraph.passes import PASSES

        own = pipeline.parse(self.draft_passes, PASSES)
        if any(p.needs_tuning for p in own):
            raise PipelineError(
                "draft-passes: 'optimal' is decided for the target alone: give the draft a number"
            )
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
