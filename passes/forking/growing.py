"""Decode steps along a tree of text: a phase for every stretch with as many branches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, expand

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit, whole
from costgraph.ir.program import Phase
from costgraph.passes.forking.branches import Stretch, forked, whole_span
from costgraph.passes.forking.profile import Segment, intervals
from costgraph.symbols import N

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Base:
    """What stands in the cache when the tree begins to grow.

    Attributes:
        context: positions that a branch sees.
        stem: of these, rows that all branches share; ``own``: rows of each alone.
    """

    context: Expr
    stem: Expr
    own: Expr = ZERO


def whole_pieces(tree: Segment, name: str) -> tuple[Limit, ...]:
    """That every piece of the tree has a whole number of the answer's ``N`` tokens."""
    many = tree.total
    return (
        whole(N / many, f"{name}: N must be a multiple of {many}: pieces have whole tokens"),
        Limit(Integer(many), N, "every piece has a token at least"),
    )


def branching(
    steps: tuple[Phase, ...], tree: Segment, prefix: str, base: Base | None = None
) -> tuple[Phase, ...]:
    """Decode steps as the branches of a tree run them.

    Args:
        steps: the phases of one branch; first tokens stand before them.
        tree: lengths as whole shares of ``N``.
        prefix: ``shared`` or ``copied``.
        base: what is there before; by default the prompt of the steps.

    Raises:
        PipelineError: the steps do not emit one token after another.
    """
    span = whole_span(steps)
    if expand(span.upper - span.lower + 2 - N) != 0:
        raise PipelineError("branches need a decode step for every token after the first")
    if base is None:
        base = Base(span.lower - 1, span.lower - 1)
    unit = N / tree.total
    found: list[Phase] = []
    for index, part in enumerate(intervals(tree), start=1):
        first, live = part.first * unit, Integer(part.branches)
        # The first token of a path came out of what was in front of the steps.
        lower = base.context + (first if part.first else ONE)
        start = base.context + (first - 1 if part.first else ZERO)
        kept = base.stem + live * base.own + part.held * unit - part.begun
        stretch = Stretch(live, lower, base.context + part.last * unit - 1, start, kept)
        for phase in steps:
            made = forked(phase, stretch, prefix)
            found.append(made if index == 1 else replace(made, name=f"{made.name}-part{index}"))
    return tuple(found)
