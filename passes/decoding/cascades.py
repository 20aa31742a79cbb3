"""A draft that is speculated itself: what ``draft-passes='speculative{…}'`` makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sympy import Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.passes.decoding.acceptance import whole
from costgraph.passes.decoding.drafting import Drafting, Within
from costgraph.passes.decoding.schedules import Pairing, held
from costgraph.passes.decoding.structures import structure_of
from costgraph.rewriting.pipeline import Miss

if TYPE_CHECKING:
    from costgraph.passes.decoding.speculative import Speculative

ASSUMED = (
    "cascade: an inner round drafts no more than the tokens that are left, less one, which the "
    "draft writes itself; inner rounds are counted by their expected number, and no sequence "
    "waits for those of another"
)


def cascade(drafting: Drafting, made: Program, item: Speculative, system: System) -> Drafting:
    """What drafts, where its model is speculated itself.

    Args:
        drafting: the draft as the source gives it.
        made: its program behind all passes, the last of which speculated.
        item: that pass.
        system: for which it ran.

    Raises:
        PipelineError: one of the two is not what cascades are defined for.
    """
    if drafting.part or drafting.at_once or drafting.borrowed:
        raise PipelineError(
            "speculative: only a draft that is a model of its own, with tables of its own, is "
            "speculated itself"
        )
    refuse_all_but_turns(item)
    if item.accepted != 0:
        raise PipelineError(
            "accepted says how long whole rounds are, and those of a cascade are cut: give an "
            "acceptance"
        )
    before = made.history[-1].before
    _, pair = item.paired(before, system)
    inner = pair.drafting
    if inner.at_once or inner.extra != 0 or inner.sure != 0 or inner.verifying is not None:
        raise PipelineError(
            f"draft={item.draft}: what drafts for a draft writes token by token, or copies"
        )
    known = item.accepting()
    kept = (known.survival(Integer(i)) for i in range(1, whole(pair.round.depth) + 1))
    within = Within(pair.target, inner, tuple(p * item.hit for p in kept), item.hit)
    front = tuple(p for p in made.phases if p.span is None)
    step = replace(pair.target, resident=held(pair))
    program = replace(made, phases=(*front, step)).assuming(ASSUMED)
    return replace(drafting, program=program, within=within)


def refuse_all_but_turns(item: Speculative) -> None:
    """Refuses rounds of which no cascade can be made: all but chains, in turn.

    Raises:
        PipelineError: says what is in the way.
    """
    found = structure_of(item)
    wrong = {
        found: found != "a chain",
        f"schedule={item.schedule}": item.schedule != "turns",
        f"batch={item.batch}": item.batch != "ragged",
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise PipelineError(
                "a draft that is speculated itself goes with chains that are verified in turn, "
                f"each sequence by its own count, not with {what}"
            )


def uncalled_for(pair: Pairing) -> Iterator[Miss]:
    """What a draft's own draft is asked for and never does."""
    within = pair.drafting.within
    if within is not None and (most := whole(pair.round.depth) - 1) < len(within.reach):
        reason = (
            f"of {most + 1} tokens that are wanted at a time the draft writes the last itself: no "
            f"more than {most} are drafted for it, not {len(within.reach)}"
        )
        yield Miss("speculative", "draft: gamma", reason)


def steps_of(drafting: Drafting) -> Iterator[Graph]:
    """The step graphs of a draft, of what drafts for it, and so on down."""
    found: Drafting | None = drafting
    while found is not None:
        if found.step is not None:
            yield found.step.graph
        found = None if found.within is None else found.within.drafting
