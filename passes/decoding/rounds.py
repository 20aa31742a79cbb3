"""What one round drafts and verifies: chains, trees, independent chains.

Nothing here knows when it runs, or what writes the drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sympy import Add, Expr, Integer

from costgraph.ops.pattern import CAUSAL, Branches

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Steps:
    """Alike draft steps of a round.

    Attributes:
        count: how many, on average over rounds.
        width: positions that each forwards, per sequence.
        behind: drafted rows in the cache after the step, on average over the steps.
        hidden: of these, rows that a position does not see, on average.
        begins: how many of the steps forward the root, and begin a draft.
    """

    count: Expr
    width: Expr
    behind: Expr
    hidden: Expr = ZERO
    begins: Expr = ONE

    @property
    def mask(self) -> Branches | None:
        """Who sees whom, where not every position sees all before it."""
        return None if self.hidden == 0 else Branches(CAUSAL, ((self.width, self.hidden),))


@dataclass(frozen=True)
class Check:
    """One forward pass of the target over the root and what was drafted.

    Attributes:
        share: of the rounds that end with it.
        positions: that it processes at once, per sequence.
        mask: who sees whom, where not every position sees all before it.
        behind: tokens in front of the root that were not there when the round began.
    """

    share: Expr
    positions: Expr
    mask: Branches | None = None
    behind: Expr = ZERO


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
        begins = ONE if level == 0 else ZERO
        single.append(Steps(ONE, width, behind, behind - level, begins))
    steps = tuple(_mean(tuple(g)) for _, g in groupby(single, key=lambda s: s.width))
    new = Add(*nodes)
    levels = tuple((n, new - level) for level, n in enumerate((ONE, *nodes)))
    mask = Branches(CAUSAL, levels)
    return Round(depth, tokens, steps, (Check(ONE, ONE + new, mask),), branched=True)


def triggered(round_: Round, share: Expr) -> Round:
    """The round where only a ``share`` of rounds has a draft; the others are plain steps."""
    return replace(
        round_,
        tokens=1 + share * (round_.tokens - 1),
        steps=tuple(
            replace(s, count=s.count * share, begins=s.begins * share) for s in round_.steps
        ),
        checks=(
            *(replace(c, share=c.share * share) for c in round_.checks),
            Check(1 - share, ONE),
        ),
    )


def _mean(steps: tuple[Steps, ...]) -> Steps:
    count = Integer(len(steps))
    behind, hidden = (Add(*x) / count for x in zip(*((s.behind, s.hidden) for s in steps),
                                                   strict=True))  # fmt: skip
    return Steps(count, steps[0].width, behind, hidden, Add(*(s.begins for s in steps)))


# --- chains of a length that is decided as they are written --------------------------------


def stopping(
    lengths: Sequence[tuple[Expr, Expr]], reach: Sequence[Expr], attempts: Sequence[Expr]
) -> Round:
    """A round over a chain that the draft ends itself.

    Args:
        lengths: the share of the rounds that verify so many drafts.
        reach: probability that more than ``i`` drafts are kept.
        attempts: probability that the draft step at place ``i`` runs.
    """
    longest = lengths[-1][1]
    checks = tuple(Check(share, ONE + n) for share, n in lengths if share != 0)
    places = ((Integer(i), p) for i, p in enumerate(attempts) if p != 0)
    steps = tuple(Steps(p, ONE, i, begins=p if i == 0 else ZERO) for i, p in places)
    if all(p == 1 for p in attempts):
        steps = (chain_steps(longest),)
    return Round(longest, Add(ONE, *reach), steps, checks)


def unsure(stop: Expr, gamma: int, survival: Sequence[Expr]) -> Round:
    """The draft stops behind a token that it is unsure of: with probability ``stop`` each.

    The token is verified with the others (Zhang et al., Draft & Verify, arXiv 2309.08168).
    ``survival[i]`` is the probability that the first ``i + 1`` of a chain are accepted.
    """
    on = [(1 - stop) ** i for i in range(gamma)]
    lengths = [(on[i] * stop, Integer(i + 1)) for i in range(gamma - 1)]
    lengths.append((on[gamma - 1], Integer(gamma)))
    reach = [on[i] * survival[i] for i in range(gamma)]
    return stopping(lengths, reach, on)


def falling_back(fallback: Expr, gamma: int, survival: Sequence[Expr]) -> Round:
    """The draft hands over instead of a token that it is unsure of: with ``fallback`` each.

    That token is not used, the target writes it (Kim et al., BiLD, arXiv 2302.07863); of
    those that stand, the first that is not accepted is rolled back with all behind it.
    """
    on = [(1 - fallback) ** i for i in range(gamma + 1)]
    lengths = [(on[i] * fallback, Integer(i)) for i in range(gamma)]
    lengths.append((on[gamma], Integer(gamma)))
    reach = [on[i + 1] * survival[i] for i in range(gamma)]
    return stopping(lengths, reach, on[:gamma])


# --- no draft but the target itself ---------------------------------------------------------


def windowed(width: int, size: int, guesses: int, tokens: Expr) -> Round:
    """A step of Lookahead: ``W`` columns of ``N − 1`` tokens, and ``G`` guesses of ``N − 1``.

    Everything goes through the target at once, ``1 + (W + G)(N − 1)`` positions: columns make
    new n-grams by Jacobi iteration, guesses from the pool are verified (Fu et al.,
    arXiv 2402.02057). A token of a column sees the first row up to its column and its own
    column; one of a guess the guess up to itself.
    """
    levels = size - 1
    seen: dict[int, int] = {1: 1}  # positions beyond the root's past, itself included

    def note(row: int, count: int) -> None:
        seen[row] = seen.get(row, 0) + count

    for level in range(levels):
        for column in range(1, width + 1):
            note(1 + column + level, 1)
        note(2 + level, guesses)
    new = (width + guesses) * levels
    rows = tuple((Integer(n), Integer(new + 1 - s)) for s, n in sorted(seen.items()) if n)
    check = Check(ONE, Integer(1 + new), Branches(CAUSAL, rows) if new else None)
    return Round(Integer(levels), tokens, (), (check,), branched=True)


def iterated(block: Expr, iterations: Expr) -> Round:
    """A Jacobi iteration: all ``m`` tokens of a block at once, ``k`` times until none changes.

    An iteration emits ``m / k`` tokens on average. Block after block is Gauss–Seidel; with
    blocks of one token nothing is iterated (Song et al., arXiv 2002.03629; Santilli et al.,
    arXiv 2305.10427).
    """
    return Round(block, block / iterations, (), (Check(ONE, block),))
