"""The draft length, or the tree, that gives the least time per token."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import Expr, Float, Integer, Symbol

from costgraph.errors import InputError, PipelineError
from costgraph.formula.formula import Formula
from costgraph.formula.limits import domain_of
from costgraph.passes.decoding.acceptance import Constant, break_even_alpha
from costgraph.passes.decoding.trees import MOST_NODES
from costgraph.rewriting.choosing import Search, Tried
from costgraph.rewriting.pipeline import Pass
from costgraph.symbols import B, S, T

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

    The search is at the sizes that the pass names (:class:`Sizes`): over whole ``γ`` from 0 on,
    or over trees of 1, 2, … nodes, each the best of its size, more coarsely from 16 on. It
    stops once the time has risen for eight candidates in a row, the largest is reached or the
    model's positions end. Zero (no speculation, what else the pass does to the target done) is
    a candidate. A context or a prompt that nobody gave leaves room for the largest.

    Raises:
        PipelineError: the acceptance or something else is symbolic, or two options are open.
    """
    found = _open(item)
    for value, name in ((_acceptance(item), "alpha"), (item.at_batch, "at-batch")):
        if not value.is_number:
            raise PipelineError(f"{found.name}=optimal needs a number for {name}, not {value}")
    without = yield _undrafted(item)
    alone = longest = without.formula("tpot")
    if item.at_context == type(item).at_context:
        largest = yield _with(item, found, found.values[-1])
        longest = largest.formula("tpot")
    sizes = Sizes.of(item, longest, found)
    plain = sizes.time(alone)
    best, least = yield from _descended(item, found, plain, sizes)
    at = f"decided at {sizes}"
    if best == 0:
        note = f"{found.title} = 0 {at}: drafting never pays there"
        return replace(_undrafted(item), note=note, ready=None)
    chosen = _with(item, found, best)
    note = f"{found.title} = {best} {at}"
    if found.name == "gamma" and isinstance(item.accepting(), Constant) and _is_plain(item):
        # What a round costs does not depend on the acceptance: undo its expectation.
        ratio = least * float(chosen.round().tokens) / plain
        even = break_even_alpha(best, Float(ratio))
        pays = "never pays" if even is None else f"pays above alpha = {float(even):.3f}"
        note = f"{note}; a draft of that length {pays}"
    return replace(chosen, note=note, ready=None)


@dataclass(frozen=True)
class Sizes:
    """Where a search is decided: batch, context, and prompt where decode steps depend on it.

    Behind an encoder a step's time depends on how long the source is.
    """

    values: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, item: Speculative, step: Formula, found: Open) -> Sizes:
        """The sizes that the pass names; those at their defaults as far as ``step`` has room.

        Raises:
            PipelineError: the step depends on something that has no number.
        """
        usual = type(item)
        given = (
            (B, item.at_batch, True),
            (T, item.at_context, item.at_context != usual.at_context),
            (S, item.at_prompt, item.at_prompt != usual.at_prompt),
        )
        names = {s.name for s in step.symbols}
        unknown = sorted(names - {"B", "T", "S"})
        if unknown:
            raise PipelineError(
                f"{found.name}=optimal needs numbers: the time of a step depends on "
                f"{', '.join(unknown)}"
            )
        if item.at_prompt != usual.at_prompt and "S" not in names:
            raise PipelineError("at-prompt: decode steps of this model depend on no prompt")
        return cls(
            tuple(
                (s.name, int(size) if is_given else max(1, _within(int(size), step, s)))
                for s, size, is_given in given
                if s != S or s.name in names
            )
        )

    @property
    def context(self) -> int:
        """The context, ``T``."""
        return dict(self.values)["T"]

    def time(self, step: Formula) -> float:
        """Seconds of a step there."""
        names = {s.name for s in step.symbols} | {"B", "T"}
        return float(step.evaluate(**{n: v for n, v in self.values if n in names}))

    def __str__(self) -> str:
        return ", ".join(f"{n} = {v}" for n, v in self.values)


def _undrafted(item: Speculative) -> Speculative:
    """The same without drafts: what it does to the target besides stays."""
    return _closed(item, gamma=Integer(0), nodes=type(item).nodes, tree="")


def _closed(item: Speculative, **values: Any) -> Speculative:
    """The pass with values for what is open, without what only open options need."""
    usual = type(item)
    sizes = {n: getattr(usual, n) for n in ("at_batch", "at_context", "at_prompt")}
    return replace(item, **sizes, **values)


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
        return _closed(item, gamma=number)
    return _closed(item, nodes=number)


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
    item: Speculative, found: Open, plain: float, sizes: Sizes
) -> Generator[Pass | None, Tried, tuple[int, float]]:
    """The value with the least time, and that time; 0 where none is faster than ``plain``."""
    best, least, risen = 0, plain, 0
    for value in found.values:
        tried = yield _with(item, found, value)
        step = tried.formula("tpot")
        if _within(sizes.context, step, T) < sizes.context:
            break
        now = sizes.time(step)
        if now < least:
            best, least, risen = value, now, 0
        else:
            risen += 1
            if risen >= PATIENCE:
                break
    return best, least


def _within(size: int, step: Formula, symbol: Symbol) -> int:
    """The size, or the last one at which a step's positions suffice; 0 without one."""
    try:
        _, last = domain_of(step, symbol)
    except InputError:
        return 0
    return size if last is None else min(size, int(last))
