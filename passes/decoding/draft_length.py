"""The draft length, or the tree, that gives the least time per token."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from sympy import Expr, Float, Integer

from costgraph.errors import PipelineError
from costgraph.passes.decoding.acceptance import Constant, break_even_alpha
from costgraph.passes.decoding.rounds import Round
from costgraph.passes.decoding.trees import DEEPEST, MOST_NODES
from costgraph.rewriting.choosing import Search, Tried
from costgraph.rewriting.pipeline import Pass
from costgraph.rewriting.sizes import Sizes

if TYPE_CHECKING:
    from costgraph.passes.decoding.speculative import Speculative

#: Longest draft that the search considers.
LONGEST = DEEPEST
#: And the longest that ends itself or is speculated, each place of which is a pass of its own.
LONGEST_UNSURE = 16
#: Values that a search of trees tries first, of each option that is open.
COARSE = frozenset(4**i for i in range(16))
#: Candidates in a row that may be slower before the search ends.
PATIENCE = 8


@dataclass(frozen=True)
class Axis:
    """An option that is open: its field, what is said of it, and its values in their order."""

    name: str
    title: str
    values: tuple[int, ...]


def best_length(item: Speculative) -> Search:
    """``item`` with the draft length, or the tree, that gives the least time per token.

    The search is at the sizes that the pass names (:mod:`costgraph.rewriting.sizes`). Over
    whole ``γ`` it goes from 1 on until the time has risen for eight candidates in a row, the
    largest is reached or the model's positions end. Trees are the best of so many nodes and
    levels: powers of four first, then what lies around the best; where the levels are open,
    chains are candidates as well. Zero (no speculation, what else the pass does to the target
    done) is one always. A context or a prompt that nobody gave leaves room for the largest.

    Raises:
        PipelineError: the acceptance or something else is symbolic, or there is nothing to choose
            from.
    """
    axes = _open(item)
    names = ", ".join(a.name for a in axes)
    for value, name in ((_acceptance(item), "alpha"), (item.at_batch, "at-batch")):
        if not value.is_number:
            raise PipelineError(f"{names}=optimal needs a number for {name}, not {value}")
    without = yield _undrafted(item)
    alone = longest = without.formula("tpot")
    if item.at_context == type(item).at_context:
        largest = yield _with(item, axes, [a.values[-1] for a in axes])
        longest = largest.formula("tpot")
    sizes = Sizes.of(item, [longest], always="BT")
    trials, plain = Trials(sizes), sizes.evaluate(alone)
    best = None
    if item.tree == "optimal":
        best = yield from _surrounded(item, axes, trials)
        if item.gamma == "optimal":  # a chain is a tree
            chain, levels = _chain(item), (replace(axes[0], title="gamma"),)
            one = yield from _surrounded(chain, levels, trials)
            if one is not None and (best is None or one.seconds < best.seconds):
                best = one
    else:
        best = yield from _descended(item, axes[0], trials, plain)
    at = f"decided at {sizes}"
    if best is None or best.seconds >= plain:
        said = " and ".join(f"{a.title} = 0" for a in axes[-1:])
        note = f"{said} {at}: drafting never pays there"
        return replace(_undrafted(item), note=note, ready=None)
    chosen = best.item
    note = f"{best.said} {at}"
    if item.tree == "optimal" and not best.item.tree:
        note = f"{note}: the best tree is a chain"
    chains = item.gamma == "optimal" and not item.tree and _is_plain(item)
    if chains and isinstance(item.accepting(), Constant):
        # What a round costs does not depend on the acceptance: undo its expectation.
        ratio = best.seconds * float(chosen.round().tokens) / plain
        even = break_even_alpha(int(chosen.gamma), Float(ratio))
        pays = "never pays" if even is None else f"pays above alpha = {float(even):.3f}"
        note = f"{note}; a draft of that length {pays}"
    return replace(chosen, note=note, ready=None)


def _undrafted(item: Speculative) -> Speculative:
    """The same without drafts: what it does to the target besides stays."""
    return _closed(item, gamma=Integer(0), nodes=type(item).nodes, tree="")


def _closed(item: Speculative, **values: Any) -> Speculative:
    """The pass with values for what is open, without what only open options need."""
    usual = type(item)
    sizes = {n: getattr(usual, n) for n in ("at_batch", "at_context", "at_prompt")}
    return replace(item, **sizes, **values)


def _chain(item: Speculative) -> Speculative:
    return replace(item, tree="", nodes=type(item).nodes)


def _open(item: Speculative) -> tuple[Axis, ...]:
    known = item.accepting().depths
    axes = []
    if item.gamma == "optimal":
        if item.tree not in ("", "optimal") or item.accepted != 0:
            what = "accepted" if item.accepted != 0 else "tree"
            raise PipelineError(f"gamma=optimal has nothing to choose from with {what}")
        placed = item.stop != 0 or item.fallback != 0 or item.is_cascade
        most = LONGEST_UNSURE if placed else LONGEST
        most = most if known is None else min(most, known)
        title = "levels of the tree" if item.tree else "gamma"
        axes.append(Axis("gamma", title, tuple(range(1, most + 1))))
    if item.nodes == "optimal":
        if item.tree != "optimal":
            raise PipelineError("nodes=optimal is about tree=optimal")
        axes.append(Axis("nodes", "nodes of the tree", tuple(_sizes())))
    return tuple(axes)


def _sizes() -> Iterator[int]:
    """Sizes of trees: each to 16, then each about an eighth larger."""
    size = 1
    while size < MOST_NODES:
        yield size
        size += max(1, size // 8)
    yield MOST_NODES


def _with(item: Speculative, axes: Sequence[Axis], values: Sequence[int]) -> Speculative:
    return _closed(item, **{a.name: Integer(v) for a, v in zip(axes, values, strict=True)})


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


@dataclass(frozen=True)
class Found:
    """A candidate, its seconds per token, and what is said of it."""

    item: Speculative
    seconds: float
    said: str


@dataclass(frozen=True)
class Trials:
    """Times of candidates at the same sizes, those of one round once."""

    sizes: Sizes
    known: dict[Round, float] = field(default_factory=dict)

    def of(self, item: Speculative) -> Generator[Pass | None, Tried, float]:
        """Seconds per token of a candidate; infinite where positions do not suffice."""
        made = item.round()
        if made not in self.known:
            tried = yield item
            step = tried.formula("tpot")
            fits = all(x.broken(self.sizes.bindings) is None for x in step.limits)
            self.known[made] = self.sizes.evaluate(step) if fits else math.inf
        return self.known[made]


def _descended(
    item: Speculative, axis: Axis, trials: Trials, plain: float
) -> Generator[Pass | None, Tried, Found | None]:
    """The value with the least time; None where none is faster than ``plain``."""
    best, least, risen = None, plain, 0
    for value in axis.values:
        tried = _with(item, (axis,), (value,))
        now = yield from trials.of(tried)
        if now == math.inf:
            break
        if now < least:
            best, least, risen = Found(tried, now, f"{axis.title} = {value}"), now, 0
        else:
            risen += 1
            if risen >= PATIENCE:
                break
    return best


def _surrounded(
    item: Speculative, axes: Sequence[Axis], trials: Trials
) -> Generator[Pass | None, Tried, Found | None]:
    """The values with the least time, from powers of four on; None where none has a time.

    Around the best of all powers of four others are tried at ever smaller distances, as long as
    one is better.
    """
    found: Found | None = None
    at: tuple[int, ...] = ()

    def tried(places: tuple[int, ...]) -> Generator[Pass | None, Tried, bool]:
        nonlocal found, at
        values = [a.values[i] for a, i in zip(axes, places, strict=True)]
        candidate = _with(item, axes, values)
        now = yield from trials.of(candidate)
        if now == math.inf or (found is not None and now >= found.seconds):
            return False
        said = ", ".join(f"{a.title} = {v}" for a, v in zip(axes, values, strict=True))
        found, at = Found(candidate, now, said), places
        return True

    powers = [[i for i, v in enumerate(a.values) if v in COARSE or v == a.values[-1]] for a in axes]
    for places in product(*powers):
        yield from tried(places)
    stride = max(b - a for row in powers for a, b in pairwise([*row, row[-1] + 1])) // 2
    while found is not None and stride > 0:
        near = [
            (*at[:k], i, *at[k + 1 :])
            for k, a in enumerate(axes)
            for i in (at[k] - stride, at[k] + stride)
            if 0 <= i < len(a.values)
        ]
        better = False
        for places in near:
            better = (yield from tried(places)) or better
        if not better:
            stride //= 2
    return found
