"""Memory tokens that segments hand on (Recurrent Memory Transformer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role
from costgraph.ops import SelectLast
from costgraph.ops.pattern import Chunks, Fronted
from costgraph.passes.context.seeing import Seen, changed, keeping, prompt_and_answer, told
from costgraph.rewriting.binding import at
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import live
from costgraph.symbols import S, T, q

ZERO = Integer(0)


@dataclass(frozen=True)
class MemoryTokens(Pass):
    """A text is read in segments that see themselves and what the one in front wrote.

    In front of a segment stand ``tokens`` that hold the memory, behind it as many that write
    it for the next. Segments of a prompt pass one after another, each through the whole model
    at once; an answer does token by token, its memory tokens in steps of their own.
    """

    name: ClassVar[str] = "memory-tokens"
    title: ClassVar[str] = "read in segments that hand a few memory tokens on"
    formula: ClassVar[str] = (
        "prompt: S/segment steps of segment + 2·tokens positions; a token sees tokens + its "
        "segment so far; for each segment two steps of tokens; cache = segment + 2·tokens rows"
    )
    source: ClassVar[str] = "Bulatov et al., Recurrent Memory Transformer, arXiv 2207.06881"
    assumptions: ClassVar[tuple[str, ...]] = (
        "what memory tokens do not hold is lost: what the model answers changes, and no quality is "
        "counted",
        "a prompt is whole segments; segments of an answer end once in so many of its tokens",
        "memory tokens see those in front of them, and are seen as all are",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT
    once: ClassVar[bool] = True

    segment: Expr = option("integer", Integer(512), "tokens of a segment", minimum=1)
    tokens: Expr = option("integer", Integer(10), "tokens of memory", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        prompt, answer = prompt_and_answer(self.name, program)
        pattern = Fronted(Chunks(self.segment), self.tokens)
        near, seen = changed(program, self.name, lambda graph: keeping(graph, pattern))
        if seen.misses or not seen.hits:
            return told(self.name, program, program, Seen(misses=seen.misses))
        whole = self.segment + 2 * self.tokens
        phases = (
            *in_segments(prompt, self.segment, whole),
            # Positions begin anew with each segment: limits are on its own.
            replace(answer, graph=near.phase("decode").graph, reach=whole),
            self._handing(answer, "write", whole),
            self._handing(answer, "read", self.tokens),
        )
        made = replace(
            program,
            phases=phases,
            limits=(*program.limits, whole_segments(self.segment)),
            unserved="segments pass one after another, with steps of memory tokens between them",
        )
        return told(self.name, program, made, seen)

    def _handing(self, answer: Phase, name: str, context: Expr) -> Phase:
        """Steps of memory tokens alone, at the end of ``context`` positions."""
        graph = without_logits(at(answer.graph, {T: context}))
        return replace(
            answer, name=name, graph=graph, bindings=((q, self.tokens), (T, context)),
            tokens=ZERO, weight=1 / self.segment, reach=context,
        )  # fmt: skip


def in_segments(prompt: Phase, segment: Expr, positions: Expr) -> tuple[Phase, Phase]:
    """The prompt segment after segment, each of so many ``positions`` at once.

    All but the last give no token.
    """
    last = replace(prompt, bindings=((q, positions), (T, positions)))
    rest = replace(
        last, name="segments", graph=without_logits(prompt.graph), tokens=ZERO,
        weight=S / segment - 1,
    )  # fmt: skip
    return rest, last


def whole_segments(segment: Expr) -> Limit:
    """That a prompt has one at least."""
    return Limit(segment, S, "a prompt is whole segments")


def without_logits(graph: Graph) -> Graph:
    """The graph up to its last hidden states, and what it keeps."""
    last = next((n for n in graph.nodes if isinstance(n.op, SelectLast)), None)
    if last is None:
        return graph
    kept = (o for o in graph.outputs if graph.tensors[o].role is Role.KV)
    return live(replace(graph, outputs=(last.inputs[0], *kept)))
