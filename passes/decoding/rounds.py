"""What one round of draft and verify processes: chains, trees, independent chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sympy import Add, Expr, Integer

from costgraph.ops.attention import Branches

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Steps:
    """Alike draft steps of a round.

    Attributes:
        count: how many.
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
class Round:
    """What one round does, per sequence.

    The last accepted token is the root. A draft step forwards what the step before it
    drafted: first the root, then the nodes of the first level, and so on; those of the
    last level are drafted and never forwarded. The target verifies the root and all
    nodes at once.

    Attributes:
        depth: draft steps, the length of a branch.
        tokens: expected tokens emitted.
        nodes: drafted nodes of each level; empty for a single chain.
    """

    depth: Expr
    tokens: Expr
    nodes: tuple[Expr, ...] = ()

    @property
    def verified(self) -> Expr:
        """Positions that the target processes at once: the root and every node."""
        return ONE + (Add(*self.nodes) if self.nodes else self.depth)

    @property
    def steps(self) -> tuple[Steps, ...]:
        """The draft steps, those of equal width together."""
        if not self.nodes:
            return (Steps(self.depth, ONE, (self.depth - 1) / 2),)
        widths = (ONE, *self.nodes[:-1])
        single = []
        for level, width in enumerate(widths):
            behind = Add(*widths[1 : level + 1])
            single.append(Steps(ONE, width, behind, behind - level))
        return tuple(_mean(tuple(g)) for _, g in groupby(single, key=lambda s: s.width))

    @property
    def mask(self) -> Branches | None:
        """Who sees whom while the target verifies."""
        if not self.nodes:
            return None
        new = self.verified - 1
        levels = enumerate((ONE, *self.nodes))
        return Branches(tuple((count, new - depth) for depth, count in levels))


def branching(depth: Expr, tokens: Expr, nodes: Sequence[Expr]) -> Round:
    """A round over levels of ``nodes``; levels of one node each are a chain."""
    return Round(depth, tokens, () if all(n == 1 for n in nodes) else tuple(nodes))


def _mean(steps: tuple[Steps, ...]) -> Steps:
    count = Integer(len(steps))
    behind, hidden = (Add(*x) / count for x in zip(*((s.behind, s.hidden) for s in steps),
                                                   strict=True))  # fmt: skip
    return Steps(count, steps[0].width, behind, hidden)
