"""Speculative decoding: a draft proposes, the target verifies several tokens at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import InputError, PipelineError, clip
from costgraph.graph import Builder, Graph, Repeat
from costgraph.machine import Machine
from costgraph.models import load_model
from costgraph.ops import Activation, Add, Linear, Sample, SelectLast
from costgraph.passes.acceptance import (
    chain_tokens,
    independent_tokens,
    position_tokens,
    synchronous_tokens,
    tree_tokens,
    whole,
)
from costgraph.pipeline import Miss, Option, Outcome, Pass, number, option
from costgraph.program import Phase, Program
from costgraph.symbols import B, T, q
from costgraph.tensor import Role, Tensor

ONE, ZERO = Integer(1), Integer(0)
#: Longest and most drafts of a round, and a thousand times it, most nodes of a tree.
MOST_DRAFTED = 1024


@dataclass(frozen=True)
class Round:
    """What one round does, per sequence.

    Attributes:
        steps: draft steps; ``width`` drafted positions in each.
        verified: positions that the target processes at once.
        tokens: expected tokens emitted.
    """

    steps: Expr
    width: Expr
    verified: Expr
    tokens: Expr


@dataclass(frozen=True)
class Speculative(Pass):
    """Decode steps become rounds of ``γ`` draft steps and one verification.

    The draft is a second model, the target with fewer layers, or extra heads.
    The target verifies at ``q = γ + 1`` in the same step graph; both models and
    both caches are resident.
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
        "mean context of its round",
    )

    draft: str = option(
        "word", "skip", "a shipped model, 'skip' (the target with fewer layers) or 'heads'"
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

    #: How a searched option was decided; no option, and no part of the text.
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return self.gamma == "optimal"

    def run(self, program: Program, machine: Machine) -> Outcome:
        if self.gamma == "optimal":
            raise PipelineError("gamma=optimal needs a machine to be decided on; use compile")
        if any(p.tokens != 1 or p.weight != 1 for p in program.phases):
            raise PipelineError("speculative: the program already emits several tokens per step")
        round_ = self.round()
        if round_.steps == 0:
            reason = self.note or "gamma is 0"
            return Outcome(program, (), (Miss(self.name, "decode", reason),))
        phases = tuple(
            made for phase in program.phases for made in self._rewritten(program, phase, round_)
        )
        made = replace(program, phases=phases)
        if any(_has_state(phase.graph) for phase in program.phases):
            made = made.assuming(
                "recurrent states are restored without cost where drafted tokens are rejected"
            )
        return Outcome(made.assuming(self.note) if self.note else made, ("decode",))

    def round(self) -> Round:
        """Steps, widths and expected tokens of one round.

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
            return Round(gamma, ONE, gamma + 1, synchronous_tokens(alpha, gamma, B))
        if self.tree:
            widths = _tree(self.tree)
            nodes = [1]
            for m in widths:
                nodes.append(nodes[-1] * m)
            total = sum(nodes[1:])
            if total > 1000 * MOST_DRAFTED:
                raise PipelineError(f"tree: {total} drafted positions are too many")
            steps = Integer(len(widths))
            return Round(
                steps, Integer(total) / steps, Integer(total + 1), tree_tokens(alpha, widths)
            )
        if self.alphas:
            given = _alphas(self.alphas)
            steps = Integer(len(given))
            return Round(steps, ONE, steps + 1, position_tokens(given))
        if self.drafts != 1:
            whole(gamma)
            tokens = independent_tokens(alpha, gamma, self.drafts)
            return Round(gamma, self.drafts, self.drafts * gamma + 1, tokens)
        return Round(gamma, ONE, gamma + 1, chain_tokens(alpha, gamma))

    def _rewritten(self, program: Program, phase: Phase, round_: Round) -> list[Phase]:
        draft = self._draft(phase)
        own_memory = self.draft != "skip"
        beside = (draft,) if own_memory else ()
        if phase.span is None:
            made = [replace(phase, resident=(*phase.resident, *beside))]
            if own_memory and self.draft != "heads":
                made.append(
                    replace(
                        phase,
                        name=f"draft-{phase.name}",
                        graph=draft,
                        tokens=ZERO,
                        resident=(phase.graph,),
                    )
                )
            return made
        share = 1 / round_.tokens
        heads = self.draft == "heads"
        middle = ZERO if heads else (round_.steps - 1) / 2
        drafting = Phase(
            "draft",
            draft,
            ((q, ONE if heads else round_.width), (T, T + middle)),
            phase.span,
            ZERO,
            share if heads else round_.steps * share,
            # A draft made of the target's own layers holds nothing besides them.
            (phase.graph,) if own_memory else (),
        )
        verifying = Phase(
            "verify",
            _all_logits(phase.graph),
            ((q, round_.verified), (T, T + round_.verified - 1)),
            phase.span,
            round_.tokens,
            share,
            beside,
        )
        return [drafting, verifying]

    def _draft(self, phase: Phase) -> Graph:
        target = phase.graph
        if self.draft == "skip":
            return _fewer_layers(target, self.layers)
        if self.draft == "heads":
            return _heads(target, self.round().steps)
        try:
            model = load_model(self.draft)
        except InputError as error:
            raise PipelineError(f"draft: {error}") from None
        # A model may run its decode steps in another form than its prefill.
        alike = (p.graph for p in model.phases if (p.span is None) == (phase.span is None))
        return next(alike, model.graph)


def _has_state(graph: Graph) -> bool:
    """True if some operation of the graph or its regions keeps a recurrent state."""
    inside = (n.op.body for n in graph.nodes if isinstance(n.op, Repeat))
    return any(t.role is Role.STATE for t in graph.sources) or any(map(_has_state, inside))


def _tree(text: str) -> list[int]:
    parts = text.removeprefix("t").split("|")
    if not all(p.isdigit() and 0 < int(p) <= 64 for p in parts) or len(parts) > 16:
        raise PipelineError(f"tree: {clip(text)} is not a list of widths such as t4|2|1")
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
    g = Builder(graph.name)
    names = {t.name: g.source(t) for t in graph.sources}
    for node in graph.nodes:
        op = SelectLast(q) if isinstance(node.op, SelectLast) else node.op
        made = g.add_many(node.name, op, *(names[i] for i in node.inputs))
        names.update(zip((t.name for t in node.outputs), made, strict=True))
    return g.build(*(names[o] for o in graph.outputs))


def _fewer_layers(graph: Graph, layers: Expr) -> Graph:
    """The graph with fewer rounds in its regions; weights and caches are the target's own."""
    regions = [n for n in graph.nodes if isinstance(n.op, Repeat)]
    if len(regions) != 1:
        raise PipelineError("draft=skip needs a model whose layers are all alike")
    region = regions[0].op
    assert isinstance(region, Repeat)
    if any(isinstance(n.op, Repeat) for n in region.body.nodes):
        raise PipelineError("draft=skip needs a model whose layers are all alike")
    kept = layers if layers != 0 else region.count / 2
    if kept.is_number and region.count.is_number and kept > region.count:
        raise PipelineError(f"layers: the model has only {region.count} layers")
    nodes = tuple(
        replace(n, op=replace(region, count=kept)) if n is regions[0] else n for n in graph.nodes
    )
    return replace(graph, name=f"{graph.name}-draft", nodes=nodes)


def _heads(target: Graph, count: Expr) -> Graph:
    """``count`` extra heads on the last hidden state: ``d·d + d·V`` weights each."""
    head = next(
        (t for t in target.sources if t.role is Role.WEIGHT and t.name == "lm_head.weight"),
        None,
    ) or next(t for t in target.sources if t.name == "embed.weight")
    vocab, d = head.shape
    body = Builder("head")
    x = body.source(Tensor("hidden", (B, ONE, d), head.dtype))
    mixed = body.add(
        "head_mix",
        Linear(),
        x,
        body.source(Tensor("head_mix.weight", (d, d), head.dtype, Role.WEIGHT)),
    )
    mixed = body.add("head_act", Activation("silu"), mixed)
    mixed = body.add("head_add", Add(), mixed, x)
    logits = body.add(
        "head_out",
        Linear(),
        mixed,
        body.source(Tensor("head_out.weight", (vocab, d), head.dtype, Role.WEIGHT)),
    )
    body.add("head_sample", Sample(), logits)
    g = Builder(f"{target.name}-heads")
    hidden = g.source(Tensor("hidden", (B, ONE, d), head.dtype))
    return g.build(g.add("heads", Repeat(body.build(x), count), hidden))
