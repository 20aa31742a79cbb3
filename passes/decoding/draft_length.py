"""The draft length that gives the least time per token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sympy import Float, Integer

from costgraph.errors import InputError, PipelineError
from costgraph.formula.formula import Formula
from costgraph.formula.limits import domain_of
from costgraph.passes.decoding.acceptance import break_even_alpha
from costgraph.rewriting.choosing import Search
from costgraph.symbols import T

if TYPE_CHECKING:
    from costgraph.passes.decoding.speculative import Speculative

#: Longest draft that the search considers.
LONGEST = 64


def best_length(item: Speculative) -> Search:
    """``item`` with the draft length that gives the least time per token.

    The search is over whole ``γ`` from 0 on, at the batch and context that the
    pass names; it stops once the time has risen for eight lengths in a row, the
    longest draft is reached or the model's positions end. Zero (no speculation)
    is a candidate. A context that nobody gave leaves room for the longest draft.

    Raises:
        PipelineError: the acceptance is symbolic.
    """
    for value, name in ((item.alpha, "alpha"), (item.at_batch, "at-batch")):
        if not value.is_number:
            raise PipelineError(f"gamma=optimal needs a number for {name}, not {value}")
    batch, context = int(item.at_batch), int(item.at_context)
    if item.at_context == type(item).at_context:
        longest = yield replace(item, gamma=Integer(LONGEST))
        context = max(1, _within(context, longest.formula("tpot")))
    without = yield None
    plain = float(without.formula("tpot").evaluate(B=batch, T=context))
    best, least, risen = 0, plain, 0
    for gamma in range(1, LONGEST + 1):
        tried = yield replace(item, gamma=Integer(gamma))
        step = tried.formula("tpot")
        if _within(context, step) < context:
            break
        now = float(step.evaluate(B=batch, T=context))
        if now < least:
            best, least, risen = gamma, now, 0
        else:
            risen += 1
            if risen >= 8:
                break
    at = f"decided at B = {batch}, T = {context}"
    if best == 0:
        note = f"gamma = 0 {at}: drafting never pays there"
        return replace(item, gamma=Integer(0), note=note, ready=None)
    chosen = replace(item, gamma=Integer(best), ready=None)
    # What a round costs does not depend on the acceptance: undo its expectation.
    ratio = least * float(chosen.round().tokens) / plain
    even = break_even_alpha(best, Float(ratio))
    pays = "never pays" if even is None else f"pays above alpha = {float(even):.3f}"
    return replace(chosen, note=f"gamma = {best} {at}; a draft of that length {pays}")


def _within(context: int, step: Formula) -> int:
    """The context, or the last one at which a step's positions suffice; 0 without one."""
    try:
        _, last = domain_of(step, T)
    except InputError:
        return 0
    return context if last is None else min(context, int(last))
