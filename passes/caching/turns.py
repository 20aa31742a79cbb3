"""A chat of several turns: each a prompt and an answer behind all that was said before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, expand

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.program import Phase, Program
from costgraph.ops.pattern import Distilled
from costgraph.passes.caching.prompts import (
    behind,
    is_tower,
    kept_of,
    level_of,
    of_text,
    overlap_option,
    prompt_of,
    refuse_away,
    refuse_pruned,
    reloaded,
    shown,
    told,
)
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import N, S

ONE = Integer(1)
#: What is said of images and passages.
FRONT = (
    "turns: images and passages come with the first prompt, and are not looked at or looked up "
    "again; prompts that are computed anew encode images anew"
)
#: Turns that are written out.
MOST = 64


@dataclass(frozen=True)
class Turns(Pass):
    """``count`` turns: of a first prompt of ``S`` tokens, then of ``say`` more behind each answer.

    Every answer has ``N`` tokens; each turn is phases of its own. Between turns the cache is
    ``kept`` in memory, ``reloaded`` from host memory or disk, or ``recomputed``. The last
    token of an answer was chosen and never read: the next prompt begins with it.
    """

    name: ClassVar[str] = "turns"
    title: ClassVar[str] = "a chat: caches of earlier turns are kept, reloaded or recomputed"
    formula: ClassVar[str] = (
        "turn i: context C = S + (i - 1)·(N + say); its prompt computes say + 1 positions of C, "
        "or all of them (recomputed); latency = sum over turns"
    )
    source: ClassVar[str] = (
        "Gao et al., CachedAttention, arXiv 2403.19708 (multi-turn conversations; recomputing "
        "against reloading)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "turns: all answers have N tokens; time between turns is not counted, nor who uses the "
        "machine meanwhile",
    )
    stage: ClassVar[Stage] = Stage.TURNS
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    count: Expr = option("integer", Integer(3), "turns", minimum=1, maximum=MOST, symbolic=False)
    say: Expr = option("integer", Integer(64), "tokens that each further turn asks", minimum=1)
    between: str = option(
        "word", "kept", "what becomes of the cache between turns",
        choices=("kept", "reloaded", "recomputed"),
    )  # fmt: skip
    kept: str = option(
        "word", "host", "where it lies meanwhile: host, disk, or a level of the device by name",
        under=("between=reloaded",),
    )  # fmt: skip
    overlap: bool = overlap_option("between=reloaded")

    def run(self, program: Program, system: System) -> Outcome:
        front, first = prompt_of(program, self.name)
        refuse_away(program, self.name)
        if any(p.reach is not None for p in program.phases):
            raise PipelineError(f"turns: {program.name} answers in branches: which one goes on?")
        others = {"disaggregate"} & {s.made_by.name for s in program.history if s.hits}
        if others:
            raise PipelineError(f"turns: {others.pop()}: a chat stays on the machine that decodes")
        if self.between != "recomputed" and any(isinstance(k, Distilled) for k in kept_of(program)):
            raise PipelineError(
                "turns: rows of a prompt are chosen behind it once: how many are there in front of "
                "a second prompt is not counted; give between=recomputed"
            )
        if self.count == 1:
            return Outcome(program, (), (Miss(self.name, first.name, "one turn is no chat"),))
        level = level_of(self.name, self.kept, system) if self.between == "reloaded" else ""
        if shown(first) != 0 and self.between != "recomputed":
            refuse_pruned(program, self.name, "give between=recomputed")
        phases = list(program.phases)
        for turn in range(2, int(self.count) + 1):
            phases += self._turn(program, front, turn, level)
        made = replace(program, phases=tuple(phases), unserved=f"{self.count} turns of a chat")
        if front:
            made = made.assuming(FRONT)
        if level:
            made = made.assuming(*told(self.overlap))
        return Outcome(made, tuple(p.name for p in program.phases))

    def _turn(
        self, program: Program, front: tuple[Phase, ...], turn: int, level: str
    ) -> Iterator[Phase]:
        """The phases of a further turn, in which the first prompt's ``S`` is all before it."""
        context, before = (expand(S + (t - 1) * (N + self.say)) for t in (turn, turn - 1))

        for phase in program.phases:
            prompt = phase.is_prompt
            if phase in front:
                if self.between == "recomputed" and is_tower(phase):
                    yield replace(phase, name=f"turn{turn}-{phase.name}")
                continue
            if phase.span is None and not prompt:
                raise PipelineError(f"turns: phase {phase.name!r} is not one of a prompt")
            made = replace(phase.with_prompt(context), name=f"turn{turn}-{phase.name}")
            if phase.span is None and self.between != "recomputed":
                earlier = phase.query.xreplace({S: before})
                made = behind(made, expand(made.query - earlier - N + ONE))
                made = made if shown(phase) == 0 else of_text(made)
                if level:
                    graph = reloaded(made.graph, level, self.overlap, self.name)
                    made = replace(made, graph=graph)
            yield made
