"""Trees of drafts: given widths, and the best tree of so many nodes.

A node's worth is the probability that it is kept: the product of the shares on its path.
A tree's expected tokens are one and the sum of its nodes' worth (Miao et al., SpecInfer,
arXiv 2305.09781; Cai et al., Medusa, arXiv 2401.10774).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError
from costgraph.passes.decoding.acceptance import Acceptance

ONE, ZERO = Integer(1), Integer(0)
#: Most nodes of a tree that is searched for, and most levels.
MOST_NODES, DEEPEST = 256, 64
#: Worths nearer than this are equal: of equal trees the one with fewer nodes counts.
CLOSE, DIGITS = 1e-12, 12


@dataclass(frozen=True)
class Tree:
    """A drafted tree below its root: for every node in turn the trees of its candidates.

    Children are the candidates of the first ranks: nothing is drafted second that was not
    drafted first.
    """

    children: tuple[Tree, ...] = ()

    @property
    def size(self) -> int:
        """Nodes below this one."""
        return sum(1 + child.size for child in self.children)

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Nodes of each level below this one, and how many of them have children."""
        found: list[tuple[int, int]] = []
        level = self.children
        while level:
            found.append((len(level), sum(bool(n.children) for n in level)))
            level = tuple(c for n in level for c in n.children)
        return tuple(found)

    def reach(self, acceptance: Acceptance) -> tuple[Expr, ...]:
        """Probability that a branch is kept to each depth."""
        worth: dict[int, list[Expr]] = {}
        for depth, value in self._worth(acceptance, 1, ONE):
            worth.setdefault(depth, []).append(value)
        return tuple(Add(*worth[depth]) for depth in sorted(worth))

    def _worth(
        self, acceptance: Acceptance, depth: int, reached: Expr
    ) -> Iterator[tuple[int, Expr]]:
        for rank, child in enumerate(self.children, 1):
            value = reached * acceptance.share(depth, rank)
            yield depth, value
            yield from child._worth(acceptance, depth + 1, value)


def best_tree(acceptance: Acceptance, nodes: int, deepest: int) -> Tree:
    """The tree of at most ``nodes`` nodes and ``deepest`` levels with the most expected tokens.

    No node is worth more than its parent. Where no candidate is worth more than one of an
    earlier rank either, the best tree is made of the nodes that are worth most, whatever hangs
    below them: each is added behind those that it needs. Else by dynamic programming over
    depth, rank and nodes (Chen et al., Sequoia, arXiv 2402.12374). Worths are compared as
    floats; of equal ones the shallower is taken.

    Raises:
        PipelineError: the acceptance has symbols, or the tree is too large to search for.
    """
    if nodes > MOST_NODES or deepest > DEEPEST:
        raise PipelineError(
            f"tree=optimal searches trees of at most {MOST_NODES} nodes and {DEEPEST} levels, not "
            f"{nodes} and {deepest}"
        )
    known = deepest if acceptance.depths is None else min(deepest, acceptance.depths)
    shares = [_shares(acceptance, depth, nodes) for depth in range(1, known + 1)]
    if all(a >= b for row in shares for a, b in pairwise(row)):
        return _worthiest(shares, nodes)
    return _split(shares, nodes)


def _worthiest(shares: list[list[float]], nodes: int) -> Tree:
    """The nodes that are worth most, of shares that fall from rank to rank."""
    children: dict[tuple[int, ...], int] = {}
    waiting: list[tuple[float, int, tuple[int, ...], float]] = []

    def offer(path: tuple[int, ...], above: float) -> None:
        """A node as its ranks from the root on, and the worth of its parent."""
        depth, rank = len(path), path[-1]
        if depth <= len(shares) and rank <= len(shares[depth - 1]):
            worth = above * shares[depth - 1][rank - 1]
            if worth > CLOSE:
                heappush(waiting, (-round(worth, DIGITS), depth, path, above))

    offer((1,), 1.0)
    for _ in range(nodes):
        if not waiting:
            break
        _, depth, path, above = heappop(waiting)
        children[path[:-1]] = path[-1]
        offer((*path, 1), above * shares[depth - 1][path[-1] - 1])
        offer((*path[:-1], path[-1] + 1), above)

    def grown(path: tuple[int, ...]) -> Tree:
        return Tree(tuple(grown((*path, r + 1)) for r in range(children.get(path, 0))))

    return grown(())


def _split(shares: list[list[float]], nodes: int) -> Tree:
    """The best tree by dynamic programming, whatever the shares.

    The best tree below a node whose depth is ``d`` shares its nodes out among its candidates,
    from the first rank on.
    """
    # below[m]: worth of the best forest of at most m nodes below a node of the depth at hand.
    below: NDArray[np.float64] = np.zeros(nodes + 1)
    plans: list[list[NDArray[np.int64]]] = []
    for row in reversed(shares):
        rest: NDArray[np.float64] = np.zeros(nodes + 1)
        splits: list[NDArray[np.int64]] = []
        for share in reversed(row):
            # Without this candidate there is none of a later rank, and nothing is gained.
            made, split = np.zeros(nodes + 1), np.zeros(nodes + 1, dtype=np.int64)
            for mine in range(1, nodes + 1):
                gain = share * (1 + below[mine - 1]) + rest[: nodes + 1 - mine]
                better = gain > made[mine:] + CLOSE
                made[mine:][better] = gain[better]
                split[mine:][better] = mine
            rest = made
            splits.append(split)
        plans.append(splits[::-1])
        below = rest
    return _planted(plans[::-1], 0, nodes)


def _shares(acceptance: Acceptance, depth: int, nodes: int) -> list[float]:
    widest = acceptance.widest(depth)
    count = nodes if widest is None else min(widest, nodes)
    found = [acceptance.share(depth, rank) for rank in range(1, count + 1)]
    symbols = {s.name for share in found for s in share.free_symbols}
    if symbols:
        raise PipelineError(
            f"tree=optimal needs numbers for {', '.join(sorted(symbols))}: which tree is best "
            "depends on them; give numbers, or a tree whose shape is given, such as tree=t4|2|1"
        )
    return [float(share) for share in found]


def _planted(plans: list[list[NDArray[np.int64]]], depth: int, count: int) -> Tree:
    children: list[Tree] = []
    for split in plans[depth] if depth < len(plans) else ():
        mine = int(split[count])
        if mine == 0:
            break
        children.append(_planted(plans, depth + 1, mine - 1))
        count -= mine
    return Tree(tuple(children))
