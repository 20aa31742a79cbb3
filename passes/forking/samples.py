"""Several samples of one prompt: all of them are answers, or the best one is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import CostgraphError, PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.ops import Linear, Sample
from costgraph.passes.forking.branches import (
    ONE,
    SAID,
    Stretch,
    forked,
    prefix_option,
    steps_of,
    times,
    whole_span,
)
from costgraph.rewriting import pipeline
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import live
from costgraph.symbols import N, S, T, q

ZERO = Integer(0)
#: Names under which the projection to logits finds its table.
TABLES = ("lm_head.weight", "embed.weight")


@dataclass(frozen=True)
class Samples(Pass):
    """A prompt is read once and answered several times.

    With ``keep=all`` every answer counts as generated; with ``keep=best`` one of them does,
    and a reward model may read them all to tell which.
    """

    name: ClassVar[str] = "samples"
    title: ClassVar[str] = "several answers to a prompt, all of them kept or the best"
    formula: ClassVar[str] = (
        "latency = t_prefill(B) + Σ t_decode(count·B) + t_reward(count·B, S + N)"
    )
    source: ClassVar[str] = (
        "parallel sampling: Kwon et al., arXiv 2309.06180; best of n: Cobbe et al., arXiv "
        "2110.14168; one read of a shared prefix: Juravsky et al., arXiv 2402.05099"
    )
    assumptions: ClassVar[tuple[str, ...]] = ("all answers to a prompt are equally long",)
    stage: ClassVar[Stage] = Stage.FORKING
    inherited: ClassVar[bool] = False

    count: Expr = option("integer", Integer(4), "answers per prompt", minimum=1)
    keep: str = option("word", "all", "which answers count", choices=("all", "best"))
    prefix: str = prefix_option()
    reward: str = option(
        "text", "", "a model that reads prompt and answers and gives each a number: a shipped "
        "name or a path",
    )  # fmt: skip
    reward_passes: str = option("pipeline", "", "passes of the reward model, in quotes")

    def run(self, program: Program, system: System) -> Outcome:
        if self.reward and self.keep != "best":
            raise PipelineError("samples: a reward model chooses: give keep=best")
        if self.reward_passes and not self.reward:
            raise PipelineError("samples: reward-passes: there is no reward model")
        steps = steps_of(program, self.name)
        span = whole_span(steps)
        if self.count == 1 and not self.reward:
            return Outcome(program, (), (Miss(self.name, program.name, "one answer is no choice"),))
        every = self.keep == "all"
        before = span.lower - 1
        stretch = Stretch(self.count, span.lower, span.upper, before, before)
        phases = tuple(
            forked(p, stretch, self.prefix, every)
            if p in steps
            # The first tokens of all answers come from one row of logits.
            else replace(p, tokens=p.tokens * (self.count if every else ONE))
            for p in program.phases
        )
        made = replace(program, phases=phases)
        if self.count != 1:
            made = made.assuming(SAID[self.prefix])
        if self.reward:
            made = self._judged(made, system)
        return Outcome(made, tuple(p.name for p in steps))

    def _judged(self, program: Program, system: System) -> Program:
        """The program with a phase in which the reward model reads all answers."""
        from costgraph.passes import PASSES

        if whole_span(program.decoding).lower != S + 1:
            raise PipelineError("samples: reward: the model must read its prompt itself")
        try:
            judge = load_model(self.reward)
            given = next((p for p in judge.phases if p.name == "prefill"), None)
            if given is None or len(judge.phases) != 2:
                raise PipelineError("it must be a decoder of text")
            reading = replace(given, graph=scored(given.graph))
            start = Program(judge.name, (reading,), judge.assumptions, judge.limits)
            passes = pipeline.parse(self.reward_passes, PASSES)
            ready = pipeline.run(start, passes, system)[0]
        except CostgraphError as error:
            raise PipelineError(f"samples: reward: {error}") from None
        graph = ready.phases[0].graph
        end = S + N
        target = Resident(program.phases[0].graph)
        phase = Phase("reward", graph, ((q, end), (T, end)), tokens=ZERO, resident=(target,))
        beside = Resident(graph)
        phases = tuple(replace(p, resident=(*p.resident, beside)) for p in program.phases)
        # Its limits are on what it reads itself.
        return replace(program, phases=(*phases, times(phase, self.count))).assuming(
            "the reward model reads prompt and answer of every sample anew, after the last token",
            *ready.assumptions,
        )


def scored(graph: Graph) -> Graph:
    """A language model's graph with one number per sequence in place of logits.

    Raises:
        PipelineError: where its logits come from is not known.
    """
    head = next(
        (n for n in graph.nodes if isinstance(n.op, Linear) and n.inputs[1] in TABLES), None
    )
    if head is None or not any(isinstance(n.op, Sample) for n in graph.nodes):
        raise PipelineError(f"{graph.name} has no projection to logits to replace")
    hidden, table = graph.tensors[head.inputs[0]], graph.tensors[head.inputs[1]]
    kept = live(replace(graph, outputs=(hidden.name,)))
    body = Builder("reward")
    x = body.source(hidden)
    weight = Tensor("reward_head.weight", (ONE, table.shape[1]), table.dtype, Role.WEIGHT)
    body.add("reward_head", Linear(), x, body.source(weight))
    extra = body.build("reward_head")
    sources = (*kept.sources, weight)
    return replace(kept, sources=sources, nodes=(*kept.nodes, *extra.nodes), outputs=extra.outputs)
