"""What one round drafts and verifies: chains, trees, independent chains.

Nothing here knows when it runs, or what writes the drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sympy import Add, Expr, Integer

from costgraph.ops.attention import Branches

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Steps:
    """Alike draft steps of a round.

    Attributes:
        count: how many, on average over rounds.
        width: positions that each forwards, per sequence.
        behind: drafted rows in the cache after the step, on average over the steps.
        hidden: of these, rows that a position does not see, on average.
    """

    count: Expr
    width: Expr
    behind: Expr
    hidden: Expr = ZERO

    @property
    def mask(self) -> Branches | None:
        """Who sees whom, where not every position sees all before it."""
        return None if self.hidden == 0 else Branches(((self.width, self.hidden),))


@dataclass(frozen=True)
class Check:
    """One forward pass of the target over the root and what was drafted.

    Attributes:
        share: of the rounds that end with it.
        positions: that it processes at once, per sequence.
        mask: who sees whom, where not every position sees all before it.
    """

    share: Expr
    positions: Expr
    mask: Branches | None = None


@dataclass(frozen=True)
class Round:
    """What one round does, per sequence.

    The last accepted token is the root. A draft step forwards what the step before it
    drafted: first the root, then the nodes of the first level, and so on; those of the
    last level are drafted and never forwarded. The target verifies the root and all
    nodes at once.

    Attributes:
        depth: tokens of the longest branch that may be drafted.
        tokens: expected tokens emitted.
        steps: the draft steps, those of equal width together.
        checks: the target's passes of which one ends a round; their shares add up to one.
        branched: there are nodes beside one another.
    """

    depth: Expr
    tokens: Expr
    steps: tuple[Steps, ...]
    checks: tuple[Check, ...]
    branched: bool = False

    @property
    def verified(self) -> Expr:
        """Positions that the target processes at once, on average."""
        return Add(*(c.share * c.positions for c in self.checks))

    @property
    def mask(self) -> Branches | None:
        """Who sees whom while the target verifies, where every round verifies alike."""
        (check,) = self.checks
        return check.mask


def chained(gamma: Expr, tokens: Expr) -> Round:
    """A round over one chain of ``γ`` drafts."""
    return Round(gamma, tokens, (chain_steps(gamma),), (Check(ONE, ONE + gamma),))


def chain_steps(gamma: Expr, behind: Expr = ZERO) -> Steps:
    """The steps that draft a chain of ``γ`` behind so many drafts that stand already."""
    return Steps(gamma, ONE, behind + (gamma - 1) / 2)


def branching(
    depth: Expr, tokens: Expr, nodes: Sequence[Expr], inner: Sequence[Expr] | None = None
) -> Round:
    """A round over levels of ``nodes``, ``inner`` of which have children.

    Every node of all levels but the last has, if that is not said. Levels of one node each
    are a chain.
    """
    if all(n == 1 for n in nodes):
        return chained(depth, tokens)
    forwarded = (ONE, *(nodes[:-1] if inner is None else inner))
    single = []
    for level, width in enumerate(forwarded):
        behind = Add(*forwarded[1 : level + 1])
        single.append(Steps(ONE, width, behind, behind - level))
    steps = tuple(_mean(tuple(g)) for _, g in groupby(single, key=lambda s: s.width))
    new = Add(*nodes)
    mask = Branches(tuple((n, new - level) for level, n in enumerate((ONE, *nodes))))
    return Round(depth, tokens, steps, (Check(ONE, ONE + new, mask),), branched=True)


def triggered(round_: Round, share: Expr) -> Round:
    """The round where only a ``share`` of rounds has a draft; the others are plain steps."""
    return replace(
        round_,
        tokens=1 + share * (round_.tokens - 1),
        steps=tuple(replace(s, count=s.count * share) for s in round_.steps),
        checks=(
            *(replace(c, share=c.share * share) for c in round_.checks),
            Check(1 - share, ONE),
        ),
    )


def _mean(steps: tuple[Steps, ...]) -> Steps:
    count = Integer(len(steps))
    behind, hidden = (Add(*x) / count for x in zip(*((s.behind, s.hidden) for s in steps),
                                                   strict=True))  # fmt: skip
    return Steps(count, steps[0].width, behind, hidden)
