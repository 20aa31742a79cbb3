"""Skeleton-of-Thought: an outline first, then all its points at the same time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError, clip
from costgraph.formula.terms import Span
from costgraph.hardware.systems import System
from costgraph.ir.program import Phase, Program
from costgraph.passes.caching.prompts import of_text, refuse_pruned, shown
from costgraph.passes.forking.branches import (
    COPIED,
    SAID,
    SHARED,
    branched,
    check_shared,
    prefix_option,
    steps_of,
    times,
    whole_span,
)
from costgraph.passes.forking.growing import Base, branching, whole_pieces
from costgraph.passes.forking.profile import MOST_BRANCHES, Segment, side_by_side
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import S, T, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Skeleton(Pass):
    """The model writes an outline of the answer, then every point of it in parallel.

    The ``N`` tokens of the answer are those of the points; the outline comes on top.
    """

    name: ClassVar[str] = "skeleton"
    title: ClassVar[str] = "write an outline, then all its points at the same time"
    formula: ClassVar[str] = (
        "latency = t_prefill(S + ask) + outline·t_decode(1) + t_prefill(points) "
        "+ max_i(l_i)·t_decode(points that are not done)"
    )
    source: ClassVar[str] = "Ning et al., Skeleton-of-Thought, arXiv 2307.15337"
    assumptions: ClassVar[tuple[str, ...]] = (
        "N counts the tokens of the points; those of the outline come on top, and the time to "
        "the first token contains it",
    )
    stage: ClassVar[Stage] = Stage.FORKING
    inherited: ClassVar[bool] = False

    points: Expr = option(
        "integer", Integer(8), "points of the outline", minimum=1, maximum=MOST_BRANCHES,
        symbolic=False,
    )  # fmt: skip
    lengths: str = option("word", "", "relative lengths of the points where they differ: t3|2|1")
    outline: Expr = option("integer", Integer(40), "tokens of the outline; 0: none", minimum=0)
    ask: Expr = option("integer", ZERO, "tokens around the question that ask for it", minimum=0)
    expand: Expr = option(
        "integer", ZERO, "tokens behind the outline that ask for one point", minimum=0
    )
    prefix: str = prefix_option()

    def run(self, program: Program, system: System) -> Outcome:
        steps = steps_of(program, self.name)
        span = whole_span(steps)
        if span.lower != S + 1:
            raise PipelineError("skeleton: the model must read its prompt itself")
        tree = self._tree()
        if self.outline == 0:
            if self.ask != 0 or self.expand != 0:
                raise PipelineError("skeleton: ask, expand: without an outline nothing asks for it")
            first = tuple(
                replace(p, tokens=p.tokens * self._count) for p in program.until_first_token
            )
            phases = (*first, *branching(steps, tree, self.prefix))
        else:
            if self.prefix == SHARED and any(shown(p) != 0 for p in program.until_first_token):
                refuse_pruned(program, self.name, "give prefix=copied")
            phases = self._phases(program.until_first_token, steps, span, tree)
        limits = (*program.limits, *whole_pieces(tree, self.name))
        made = replace(program, phases=phases, limits=limits)
        if self._count != 1:
            made = made.assuming(SAID[self.prefix])
        return Outcome(made, tuple(p.name for p in steps))

    @property
    def _count(self) -> Expr:
        return Integer(len(self.lengths.split("|"))) if self.lengths else self.points

    def _tree(self) -> Segment:
        if not self.lengths:
            return side_by_side((1,) * int(self.points))
        parts = self.lengths.removeprefix("t").split("|")
        if not all(p.isascii() and p.isdigit() and len(p) < 8 and int(p) for p in parts):
            raise PipelineError(
                f"skeleton: lengths: {clip(self.lengths)} is no list of lengths such as t3|2|1"
            )
        if len(parts) > MOST_BRANCHES:
            raise PipelineError(f"skeleton: lengths: more than {MOST_BRANCHES} points")
        if self.points not in (Integer(8), Integer(len(parts))):
            raise PipelineError("skeleton: points, lengths: they say different numbers of points")
        found = [int(p) for p in parts]
        return side_by_side(tuple(n // gcd(*found) for n in found))

    def _phases(
        self, front: tuple[Phase, ...], steps: tuple[Phase, ...], span: Span, tree: Segment
    ) -> tuple[Phase, ...]:
        asked = S + self.ask
        reading = tuple(replace(p.with_prompt(asked), tokens=ZERO) for p in front)
        written = Span(T, asked + 1, asked + self.outline - 1)
        outlining = tuple(
            replace(p.with_prompt(asked), name=f"{p.name}-outline", span=written, tokens=ZERO)
            for p in steps
        )
        again = tuple(self._point(p) for p in front if p.query.has(S))
        if self.prefix == COPIED:
            end = S + self.outline + self.expand
            base = Base(end, end)
            steps = tuple(p.with_prompt(end) for p in steps)
        else:
            # The last token of the outline is read with what asks for a point.
            base = Base(
                asked + self.outline + self.expand, asked + self.outline - 1, self.expand + 1
            )
        return (*reading, *outlining, *again, *branching(steps, tree, self.prefix, base))

    def _point(self, phase: Phase) -> Phase:
        """The phase in which all points' prompts are read."""
        named = replace(phase, name=f"{phase.name}-points", tokens=phase.tokens * self._count)
        if self.prefix == COPIED or self._count == 1:
            return times(named.with_prompt(S + self.outline + self.expand), self._count)
        check_shared(phase.graph)
        named = of_text(named)  # what is shown stands in the prompt that was read
        new, before = self.expand + 1, S + self.ask + self.outline - 1
        many = new * self._count
        graph = branched(named.graph, self._count, new, many - new)
        bindings = {**phase.substitution, q: many, T: before + many}
        return replace(named, graph=graph, bindings=tuple(bindings.items()), reach=before + new)
