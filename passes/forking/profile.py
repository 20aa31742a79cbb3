"""Trees of text: which branches live when, and what they hold.

A tree is written as the tokens of its root, then its children between parentheses:
``100(200,300(50,50))``. All branches take one step at a time, so a branch that lives has
gone as far as the request has run: the tree's time is its longest path, and the number of
its branches at each depth the batch (APAR, Liu et al., arXiv 2401.06761).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from costgraph.errors import PipelineError, clip

_TOKEN = re.compile(r"\s*([0-9]{1,9}|[(),])\s*")
#: Branches of a tree, and how deep they may be nested.
MOST_BRANCHES, DEEPEST = 256, 16


@dataclass(frozen=True)
class Segment:
    """A piece of text, and what goes on from its end at once."""

    length: int
    children: tuple[Segment, ...] = ()

    def all(self) -> Iterator[Segment]:
        """The segment and all below it."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def total(self) -> int:
        """Tokens of the tree."""
        return sum(s.length for s in self.all())

    @property
    def longest(self) -> int:
        """Tokens of the longest path: the critical path."""
        return self.length + max((c.longest for c in self.children), default=0)

    def divided(self, by: int) -> Segment:
        """The tree with all lengths over a common divisor."""
        return Segment(self.length // by, tuple(c.divided(by) for c in self.children))

    @property
    def shares(self) -> Segment:
        """The tree with lengths that have no common divisor."""
        return self.divided(gcd(*(s.length for s in self.all())))


@dataclass(frozen=True)
class Interval:
    """Depths between which the same branches live.

    Attributes:
        first, last: tokens of a path in front of it, and at its end.
        branches: how many live.
        held: tokens on the paths that lead to them, each once.
        begun: pieces at the beginning of these paths. A first token comes out of what is in
            front of the tree; every other is made by a step of its own branch, which leaves
            a row there (a copy of the parent's last token, or a mark of the fork).
    """

    first: int
    last: int
    branches: int
    held: int
    begun: int


def read_tree(text: str) -> Segment:
    """The tree that a text describes.

    Raises:
        PipelineError: the text is none, or the tree is too large.
    """
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise PipelineError(f"tree: {clip(text)}: write lengths as 100(200,300(50,50))")
        tokens.append(found[1])
        at = found.end()
    tree, rest = _segment(tokens, text, 1)
    if rest:
        raise PipelineError(f"tree: {clip(text)}: {clip(rest[0])} after the end of the root")
    if sum(1 for _ in tree.all()) > MOST_BRANCHES:
        raise PipelineError(f"tree: more than {MOST_BRANCHES} pieces")
    return tree


def _segment(tokens: list[str], text: str, depth: int) -> tuple[Segment, list[str]]:
    if depth > DEEPEST:
        raise PipelineError(f"tree: more than {DEEPEST} levels")
    if not tokens or not tokens[0].isdigit() or int(tokens[0]) == 0:
        raise PipelineError(f"tree: {clip(text)}: a length of at least one token is missing")
    length, rest = int(tokens[0]), tokens[1:]
    if rest[:1] != ["("]:
        return Segment(length), rest
    children = []
    while rest[:1] in (["("], [","]):
        child, rest = _segment(rest[1:], text, depth + 1)
        children.append(child)
    if rest[:1] != [")"]:
        raise PipelineError(f"tree: {clip(text)}: a closing parenthesis is missing")
    return Segment(length, tuple(children)), rest[1:]


def side_by_side(lengths: tuple[int, ...]) -> Segment:
    """Pieces that all start at once, from nothing: a root of no length."""
    return Segment(0, tuple(Segment(n) for n in lengths))


def intervals(tree: Segment) -> tuple[Interval, ...]:
    """Depths at which the number of branches changes, and who lives in between."""
    pieces = list(_placed(tree, 0, 0))
    ends = sorted({end for _, end, _ in pieces} - {0})
    found = []
    first = 0
    for last in ends:
        live = [i for i, (start, end, _) in enumerate(pieces) if start <= first < end]
        above = {a for i in live for a in _above(pieces, i)}
        held = sum(min(pieces[i][1], first) - pieces[i][0] for i in above | set(live))
        begun = sum(1 for i in above | set(live) if pieces[i][0] == 0 < pieces[i][1])
        found.append(Interval(first, last, len(live), held, begun if first else 0))
        first = last
    return tuple(found)


def _placed(segment: Segment, start: int, index: int, above: int = -1) -> Iterator[_Piece]:
    """(start, end, index of the piece above) of each piece, in the order of ``all``."""
    end = start + segment.length
    yield start, end, above
    below = index + 1
    for child in segment.children:
        yield from _placed(child, end, below, index)
        below += sum(1 for _ in child.all())


_Piece = tuple[int, int, int]


def _above(pieces: list[_Piece], index: int) -> Iterator[int]:
    while (index := pieces[index][2]) >= 0:
        yield index
