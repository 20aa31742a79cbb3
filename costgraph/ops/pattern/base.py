"""What each position sees: the pattern of attention, one small object.

A pattern answers, for ``q`` new positions at the end of a context: how many
(query, key) pairs are computed, how many rows of the context a step finds, how many
of them its attention reads, and how many rows stay in the cache. Scores, softmax,
values, tiled kernels and caches ask it; none of them knows a design by name.

Contexts are counted from one: the ``q`` queries of a step at context ``T`` are the
positions ``T − q + 1 … T``. What a design does besides (index scores, selection,
pooling, bookkeeping) is operations of their own in the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from sympy import Add, Expr, Integer, ceiling

from costgraph.errors import VerifyError
from costgraph.symbols import T

ZERO, ONE = Integer(0), Integer(1)

#: How masked pairs of causal attention are counted: ``skip`` counts useful (unmasked)
#: pairs only, as the definition requires and tiled kernels do; ``compute`` counts every
#: pair, as a dense product does; ``none`` is bidirectional attention.
COUNTED = ("skip", "compute", "none")

#: How rows become one: their mean (a sum and one scaling), their maximum, or a product with a
#: kernel of all heads together.
MERGING = ("mean", "max", "conv")


@dataclass(frozen=True)
class Pattern(ABC):
    """Which positions each position sees.

    ``rows`` in what follows are those that a step finds (:meth:`seen`), its new ones
    included: the length of the keys that attention is given.
    """

    #: No position sees a later one.
    causal: ClassVar[bool] = True
    #: Positions that no later one sees leave the cache.
    drops: ClassVar[bool] = False
    #: Queries and keys are the same positions: a step processes all of them.
    square: ClassVar[bool] = False

    @property
    def context(self) -> Expr:
        """Positions of the sequence, new ones included.

        The rows at hand do not tell them where a pattern drops some. A pass that shortens what
        layers are given binds them anew with all other sizes of these layers.
        """
        return T

    @property
    def compact(self) -> bool:
        """Only the scores of pairs exist: nothing is computed, written or read for the others."""
        return False

    @property
    def indexed(self) -> bool:
        """Attention is given an index of the rows that each query sees, as its last operand."""
        return False

    def at(self, context: Expr) -> Self:
        """The pattern where the last new position is ``context``."""
        return self

    @abstractmethod
    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """(query, key) pairs that are computed, per head and sequence."""

    def dense(self, q: Expr, rows: Expr) -> Expr:
        """Pairs of a product that computes masked ones as well, per head and sequence."""
        return q * rows

    def seen(self, q: Expr, context: Expr) -> Expr:
        """Rows that ``q`` new positions at ``context`` find, themselves included."""
        return context

    def keys(self, q: Expr, rows: Expr) -> Expr:
        """Rows of the keys that are read, each once for all queries of the step."""
        return rows

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr | None:
        """Rows that blocks of ``block`` queries read, each block on its own.

        None where that is not known in closed form.
        """
        return None

    def kept(self, rows: Expr) -> Expr:
        """Rows set aside in the cache behind a step that found ``rows``."""
        return rows

    def written(self, q: Expr) -> Expr:
        """Rows of ``q`` new ones that are written to the cache."""
        return q

    @property
    def merging(self) -> str:
        """How rows that leave the cache become fewer, one of :data:`MERGING`; empty: none do."""
        return ""

    @property
    def into_one(self) -> Expr:
        """How many rows become one where they do."""
        return ONE

    def made(self, q: Expr) -> Expr:
        """Rows that a step makes of others that leave, per sequence."""
        return ZERO

    def cells(self, q: Expr, rows: Expr) -> Expr:
        """Scores that exist, per head and sequence."""
        return self.pairs(q, rows) if self.compact else q * rows

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        """The pattern of positions that stand on branches (:class:`Branches`).

        Where all pairs are computed, or all are useful, it stays.
        """
        return Branches(self, levels)


@dataclass(frozen=True)
class Full(Pattern):
    """Every query sees every key: attention in both directions, or to another sequence."""

    causal: ClassVar[bool] = False

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return q * rows

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr:
        return ceiling(q / block) * rows

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return "full"


@dataclass(frozen=True)
class InContext(Pattern):
    """A pattern of the positions of one sequence, which it knows the length of.

    Attributes:
        context: positions of the sequence, new ones included.
    """

    context: Expr = field(default=T, kw_only=True)

    def at(self, context: Expr) -> Self:
        return replace(self, context=context)


@dataclass(frozen=True)
class Causal(InContext):
    """Every position sees itself and all before it: ``q·t − q(q−1)/2`` pairs.

    ``n`` blocks of ``p`` queries that stop at their last visible key read
    ``nT − (n−1)q + p·n(n−1)/2`` keys.
    """

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return q * rows - q * (q - 1) / 2

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr:
        blocks = ceiling(q / block)
        return blocks * rows - (blocks - 1) * q + block * blocks * (blocks - 1) / 2

    def __str__(self) -> str:
        return "causal"


FULL, CAUSAL = Full(), Causal()


@dataclass(frozen=True)
class Around(Pattern):
    """What changes how pairs of another pattern count, and leaves the rows read and kept.

    Blocks of queries read all rows.

    Attributes:
        of: the pattern inside.
    """

    of: Pattern

    @property
    def context(self) -> Expr:
        return self.of.context

    def at(self, context: Expr) -> Self:
        return replace(self, of=self.of.at(context))

    def kept(self, rows: Expr) -> Expr:
        return self.of.kept(rows)

    def written(self, q: Expr) -> Expr:
        return self.of.written(q)

    @property
    def indexed(self) -> bool:
        return self.of.indexed

    @property
    def compact(self) -> bool:
        return self.of.compact

    def seen(self, q: Expr, context: Expr) -> Expr:
        return self.of.seen(q, context)

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return self.of.keys(q, rows)

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr:
        return FULL.tiled(q, rows, block)


@dataclass(frozen=True)
class Dense(Around):
    """A pattern of which every pair is computed, masked or not, as dense products do."""

    of: Pattern = CAUSAL

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return self.of.dense(q, rows)

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"{self.of}, every pair computed"


@dataclass(frozen=True)
class Branches(Around):
    """New positions stand on branches of a tree and see their own only.

    Attributes:
        of: what a position sees of its own branch.
        levels: (positions, hidden) of each depth: so many new positions see all of the
            context but the hidden ones, which are on other branches.
    """

    of: Pattern
    levels: tuple[tuple[Expr, Expr], ...]

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return Add(*(n * self._of_one(self.context - hidden) for n, hidden in self.levels))

    def _of_one(self, context: Expr) -> Expr:
        of = self.of.at(context)
        return of.pairs(ONE, of.seen(ONE, context))

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return replace(self, levels=levels)

    def __str__(self) -> str:
        return f"{self.of}, branches " + ", ".join(
            f"{n} × ({self.context} - {hidden})" for n, hidden in self.levels
        )


@dataclass(frozen=True)
class Parted(Around):
    """Devices have equal parts of a pattern each: of the queries, or of the keys.

    Parts are such that all have equally many pairs: from both ends of a causal prompt.

    Attributes:
        of: the pattern of all queries and keys.
        queries, keys: in how many parts they are.
    """

    of: Pattern
    queries: Expr = ONE
    keys_in: Expr = ONE

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        whole = self.of.pairs(q * self.queries, rows * self.keys_in)
        return whole / (self.queries * self.keys_in)

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return replace(self, of=self.of.branched(levels))

    def __str__(self) -> str:
        return f"{self.of} / {self.queries * self.keys_in}"


def counted(mask: str, pattern: Pattern = CAUSAL) -> Pattern:
    """The pattern, its masked pairs counted as ``mask`` (:data:`COUNTED`) says.

    Raises:
        VerifyError: there is no such way to count.
    """
    if mask not in COUNTED:
        raise VerifyError(f"unknown mask {mask!r}; known: {', '.join(COUNTED)}")
    if mask == "none":
        return FULL
    return Dense(pattern) if mask == "compute" else pattern
