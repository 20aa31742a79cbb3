"""How passes leave options open, and decide them by trying candidates.

A pass with open options is a search: a generator of candidates that is sent what came of
each, and returns the pass as decided (see :meth:`.Pass.search`). Whoever
runs it compiles each candidate in place of the pass, with everything that is done later
(:mod:`costgraph.compiling.tune`); no pass knows how, and nothing there knows any pass.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.rewriting.pipeline import Pass


@dataclass(frozen=True)
class Goal:
    """What is made small (of rates: large), where, and within which limits.

    Attributes:
        metric: by name.
        values: sizes of the request that were given; without ``B`` the best batch counts,
            others are the usual ones or as much less as the model has room for.
        limits: upper ends of other metrics, in base units. Memory never exceeds what the
            device has for programs, where that is known.
    """

    metric: str
    values: Mapping[str, int]
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Score:
    """What a candidate reaches.

    Attributes:
        value: of the goal's metric; None if the candidate is refused or keeps no limit.
        shown: the value with its unit.
        at: sizes of the request, and the batch, at which it is reached.
        why: why there is no value.
    """

    value: float | None
    shown: str = ""
    at: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    why: str = ""


class Tried(Protocol):
    """A candidate in its place in the pipeline."""

    def formula(self, metric: str) -> Formula:
        """A metric of the program.

        Raises:
            CostgraphError: the candidate does not fit the program.
        """
        ...

    def score(self, goal: Goal) -> Score:
        """How well it does; a candidate that does not fit has no value."""
        ...


#: Yields candidates (None: the pipeline without the pass), returns the pass as decided.
Search: TypeAlias = "Generator[Pass | None, Tried, Pass]"
