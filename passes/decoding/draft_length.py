"""The draft length, or the tree, that gives the least time per token."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sympy import Expr, Float, Integer

from costgraph.errors import InputError, PipelineError
from costgraph.formula.formula import Formula
from costgraph.formula.limits import domain_of
from costgraph.passes.decoding.acceptance import Constant, break_even_alpha
from costgraph.passes.decoding.trees import MOST_NODES
from costgraph.rewriting.choosing import Search, Tried
from costgraph.rewriting.pipeline import Pass
from costgraph.symbols import T

if TYPE_CHECKING:
    from costgraph.passes.decoding.speculative import Speculative

#: Longest draft that the search considers.
LONGEST = 64
#: And the longest that ends itself, each length of which is a pass of its own.
LONGEST_UNSURE = 16
#: Candidates in a row that may be slower before the search ends.
PATIENCE = 8


@dataclass(frozen=True)
class Open:
    """The option that is open: its name, what is said of it, and its values in their order."""

    name: str
    title: str
    values: tuple[int, ...]


def best_length(item: Speculative) -> Search:
    """``item`` with the draft length, or size of the tree, that gives the least time per token.

    The search is at the batch and context that the pass names: over whole ``γ`` from 0 on, or
    over trees of 1, 2, … nodes, each the best of its size, more coarsely from 16 on. It
    stops once the time has risen for eight candidates in a row, the largest is reached or the
    model's positions end. Zero (no speculation) is a candidate. A context that nobody
    gave leaves room for the largest.

    Raises:
        PipelineError: the acceptance is symbolic, or two options are open.
    """
    found = _open(item)
    for value, name in ((_acceptance(item), "alpha"), (item.at_batch, "at-batch")):
        if not value.is_number:
            raise PipelineError(f"{found.name}=optimal needs a number for {name}, not {value}")
    batch, context = int(item.at_batch), int(item.at_context)
    if item.at_context == type(item).at_context:
        largest = yield _with(item, found, found.values[-1])
        context = max(1, _within(context, largest.formula("tpot")))
    without = yield None
    plain = float(without.formula("tpot").evaluate(B=batch, T=context))
    best, least = yield from _descended(item, found, plain, batch, context)
    at = f"decided at B = {batch}, T = {context}"
    if best == 0:
        note = f"{found.title} = 0 {at}: drafting never pays there"
        chosen = replace(item, gamma=Integer(0), nodes=type(item).nodes, tree="")
        return replace(chosen, note=note, ready=None)
    chosen = replace(_with(item, found, best), ready=None)
    note = f"{found.title} = {best} {at}"
    if found.name == "gamma" and isinstance(item.accepting(), Constant) and _is_plain(item):
        # What a round costs does not depend on the acceptance: undo its expectation.
        ratio = least * float(chosen.round().tokens) / plain
        even = break_even_alpha(best, Float(ratio))
        pays = "never pays" if even is None else f"pays above alpha = {float(even):.3f}"
        note = f"{note}; a draft of that length {pays}"
    return replace(chosen, note=note)


def _open(item: Speculative) -> Open:
    if item.gamma == "optimal" and item.nodes == "optimal":
        raise PipelineError("gamma=optimal, nodes=optimal: decide one of them")
    if item.gamma == "optimal":
        if item.tree or item.accepted != 0:
            what = "tree" if item.tree else "accepted"
            raise PipelineError(f"gamma=optimal has nothing to choose from with {what}")
        known = item.accepting().depths
        most = LONGEST if item.stop == item.fallback == 0 else LONGEST_UNSURE
        most = most if known is None else min(most, known)
        return Open("gamma", "gamma", tuple(range(1, most + 1)))
    if item.tree != "optimal":
        raise PipelineError("nodes=optimal is about tree=optimal")
    return Open("nodes", "nodes of the tree", tuple(_sizes()))


def _sizes() -> Iterator[int]:
    """Sizes of trees: each to 16, then each about an eighth larger."""
    size = 1
    while size < MOST_NODES:
        yield size
        size += max(1, size // 8)
    yield MOST_NODES


def _with(item: Speculative, found: Open, value: int) -> Speculative:
    number = Integer(value)
    if found.name == "gamma":
        return replace(item, gamma=number)
    return replace(item, nodes=number)


def _acceptance(item: Speculative) -> Expr:
    """The acceptance as far as it may be symbolic."""
    return item.alpha + item.gain + item.epsilon + item.stop + item.fallback


def _is_plain(item: Speculative) -> bool:
    """Whether a round is one chain that both sides write and verify in turn."""
    return (
        (item.drafts, item.stop, item.fallback) == (1, 0, 0)
        and item.batch == "ragged"
        and (item.schedule != "pearl")
    )


def _descended(
    item: Speculative, found: Open, plain: float, batch: int, context: int
) -> Generator[Pass | None, Tried, tuple[int, float]]:
    """The value with the least time, and that time; 0 where none is faster than ``plain``."""
    best, least, risen = 0, plain, 0
    for value in found.values:
        tried = yield _with(item, found, value)
        step = tried.formula("tpot")
        if _within(context, step) < context:
            break
        now = float(step.evaluate(B=batch, T=context))
        if now < least:
            best, least, risen = value, now, 0
        else:
            risen += 1
            if risen >= PATIENCE:
                break
    return best, least


def _within(context: int, step: Formula) -> int:
    """The context, or the last one at which a step's positions suffice; 0 without one."""
    try:
        _, last = domain_of(step, T)
    except InputError:
        return 0
    return context if last is None else min(context, int(last))
