"""What writes drafts: the one thing that a source of drafts gives, and how it is asked.

A round of speculative decoding is four things that know nothing of each other:

* how likely drafted tokens are accepted (:mod:`.acceptance`);
* what is drafted and verified: chains, trees, windows (:mod:`.rounds`);
* when draft and target run: in turn, at once (:mod:`.schedules`);
* what writes the drafts: a :class:`Source`, which makes a :class:`Drafting`.

To add a source: a function from :class:`Asked` to :class:`Drafting`, listed by the word of
``draft=WORD`` in :data:`costgraph.passes.decoding.drafts.SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Asked:
    """What a source is asked for.

    Attributes:
        name: as the option ``draft`` says it.
        target: the program as it stands, passes done.
        model: the program before any pass.
        depth: drafted tokens of a branch: how many heads, say.
        layers: the option ``layers``; zero where it is not given.
        blocks: the options ``skip-attention`` and ``skip-mlp``.
        share: the option ``share``.
        phrases: the option ``phrases``.
    """

    name: str
    target: Program
    model: Program
    depth: Expr
    layers: Expr = ZERO
    blocks: tuple[str, str] = ("", "")
    share: str = ""
    phrases: Expr = ZERO


@dataclass(frozen=True)
class Drafting:
    """A source of drafts for one target.

    Attributes:
        program: what runs. Its phase of decode steps drafts one level a step (``q`` positions
            at context ``T``); phases of the names of the target's run before decoding, too.
            None: nothing runs, drafts are free (copies of what was there).
        at_once: one run of the step drafts all levels (heads).
        width: positions of such a run, per sequence.
        sure: tokens that a round's drafting emits for certain, before verification.
        part: it is made of weights and caches that the target holds anyway.
        extra: positions that the target forwards besides the root and the drafts, per
            sequence (look-ahead tokens).
        verifying: what the source adds to the target's step graph, where it does.
        within: how what runs is speculated itself, where it is.
    """

    program: Program | None
    at_once: bool = False
    width: Expr = ONE
    sure: Expr = ZERO
    part: bool = False
    extra: Expr = ZERO
    verifying: Callable[[Graph], Graph] | None = None
    within: Within | None = None

    @property
    def borrowed(self) -> tuple[str, ...]:
        """Weights of the target that what runs reads as well."""
        return () if self.program is None else self.program.borrowed

    @property
    def step(self) -> Phase | None:
        """The phase of draft steps, where any run."""
        if self.program is None:
            return None
        return next(p for p in self.program.phases if p.span is not None)


@dataclass(frozen=True)
class Within:
    """A draft of a draft.

    Attributes:
        step: the decode steps of the draft that is speculated, without what drafts for it.
        drafting: what drafts for it.
        reach: probability that more than ``i`` tokens of one draft are kept, one for each that
            is drafted at most.
        hit: share of the rounds that have a draft at all.
    """

    step: Phase
    drafting: Drafting
    reach: tuple[Expr, ...]
    hit: Expr = ONE


@dataclass(frozen=True)
class Source:
    """How drafts come about.

    Attributes:
        make: what runs, for a target.
        inherits: passes of the target, and those of ``draft-passes``, run on what it makes.
            Without, it is made of the finished target and has them already.
        takes_layers: the option ``layers`` means something.
    """

    make: Callable[[Asked], Drafting]
    inherits: bool = True
    takes_layers: bool = False
