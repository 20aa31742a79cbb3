"""What a result that rests on a draft says of it."""

from __future__ import annotations

from dataclasses import replace

from costgraph.ir.program import Program
from costgraph.passes.decoding.rounds import Round
from costgraph.passes.decoding.target import is_windowed, stepping
from costgraph.passes.decoding.together import Apart


def told(
    made: Program, target: Program, draft: Program, round_: Round, apart: Apart | None = None
) -> Program:
    """A program with what its draft assumes and is limited by."""
    made = replace(
        made,
        limits=tuple(dict.fromkeys((*made.limits, *draft.limits))),
        notes=(*made.notes, *(f"draft: {n}" for n in draft.notes)),
    ).assuming(*draft.assumptions)
    if all(p.span is not None for p in draft.phases):
        return made  # it reads no prompt
    if apart is None:
        made = made.assuming(
            "the draft reads the prompt before the first token comes out: the time to the "
            "first token contains it"
        )
    else:
        made = made.assuming(
            "the draft has devices of its own, reads the prompt while the target does, and sends "
            "the distribution of each drafted token (greedy decoding needs only the token)"
        )
    if any(s.mask for s in round_.steps) and is_windowed(stepping(draft).graph):
        made = made.assuming("rows of other branches count into the window of the draft's cache")
    if {p.name for p in target.phases} - {p.name for p in draft.phases}:
        made = made.assuming(
            "the draft sees no images: their places in its prompt are rows like others"
        )
    return made
