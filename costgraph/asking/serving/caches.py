"""Room for caches of a server: reserved for whole requests, or given page by page.

Caches that are given as they grow may run out. Then the sequence that was admitted last gives
up its pages and waits in front: its caches are computed again (recompute) or were moved to the
host and come back (swap).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Protocol

import numpy as np

from costgraph.errors import InputError
from costgraph.number import whole

if TYPE_CHECKING:
    from costgraph.asking.serving.pools import Pool, Transfer
    from costgraph.asking.serving.served import Served

#: Share of its room that a server leaves free when it admits a sequence (vLLM's watermark).
WATERMARK = 0.01
#: Steps for which there must be room for all when a sequence is admitted.
AHEAD = 8
RESERVED = "a request's whole length is reserved, so nobody is preempted"


@dataclass
class Running:
    """A sequence that decodes.

    Attributes:
        since: the server's step at which it began.
        context: positions of its first step.
        pace: tokens a step; its steps up to ``end`` make all that are left.
    """

    served: Served
    since: int
    end: int
    context: int
    pace: float

    def made(self, step: int) -> int:
        """Tokens that it has made up to a step of the server."""
        return int(self.pace * (step - self.since) + 1e-9)


class Room(Protocol):
    """What a server's memory holds, and who may come."""

    def admits(self, served: Served, running: Iterable[Running], step: int) -> bool:
        """Whether there is room for one more."""

    def enter(self, served: Served) -> None:
        """It was admitted."""

    def leave(self, served: Served) -> None:
        """It is done, or went elsewhere."""

    def steps(self, running: Iterable[Running], step: int, most: int) -> int:
        """Decode steps, up to ``most``, until room runs out."""


@dataclass
class Reserving:
    """Every request has room for its whole length from the start."""

    pool: Pool
    held: int = 0

    def admits(self, served: Served, running: Iterable[Running], step: int) -> bool:
        return self.held + self.pool.takes(served.reserved) <= self.pool.room

    def enter(self, served: Served) -> None:
        self.held += self.pool.takes(served.reserved)

    def leave(self, served: Served) -> None:
        self.held -= self.pool.takes(served.reserved)

    def steps(self, running: Iterable[Running], step: int, most: int) -> int:
        return most


@dataclass
class Growing:
    """Sequences hold the positions that they have, in pages.

    ``held`` is what those hold whose prompts are in work: all of their prompt.
    """

    pool: Pool
    held: int = 0

    def admits(self, served: Served, running: Iterable[Running], step: int) -> bool:
        inside = list(running)
        # A step of its own at least, of several tokens where they are drafted: else it would give
        # way at once, and come back at once.
        first = min(served.goal + ceil(self.pool.times.gain), served.reserved)
        wanted = self.pool.grown[first]
        kept = WATERMARK * self.pool.room if inside or self.held else 0
        ahead = self._used(inside, step, AHEAD)
        return bool(self.held + ahead + wanted + kept <= self.pool.room)

    def enter(self, served: Served) -> None:
        if served.left:
            self.held += int(self.pool.grown[served.goal + 1])

    def leave(self, served: Served) -> None:
        """It has its prompt, and grows from here; or it is gone."""
        self.held -= int(self.pool.grown[served.goal + 1])

    def _used(self, running: list[Running], step: int, more: int) -> float:
        if not running:
            return 0.0
        rows = self.pool.grown
        at = [r.context + r.pace * (min(step + more, r.end) - r.since) for r in running]
        return float(rows[np.minimum(np.ceil(at).astype(int), len(rows) - 1)].sum())

    def steps(self, running: Iterable[Running], step: int, most: int) -> int:
        inside = list(running)
        if self.held + self._used(inside, step, most) <= self.pool.room:
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.held + self._used(inside, step, middle) <= self.pool.room
            low, high = (middle, high) if fits else (low, middle)
        return low


@dataclass(frozen=True)
class Paging:
    """Caches are given page by page.

    Attributes:
        page: positions of one (vLLM: 16).
        swap: the way to the host's memory; None: caches that were given up are computed again.
    """

    page: int = 16
    swap: Transfer | None = None

    def __post_init__(self) -> None:
        if self.page < 1:
            raise InputError(f"a page has at least one position, not {self.page}")
        whole(self.page, "positions of a page")

    def whole(self, positions: int) -> int:
        """Positions of the pages that hold so many."""
        return -(-positions // self.page) * self.page

    @property
    def told(self) -> str:
        """What it does, in words."""
        how = "computed again" if self.swap is None else "swapped to the host and back"
        return (
            f"caches grow in pages of {self.page}; where they run out, the sequence admitted last "
            f"gives up its own, which are {how} before it goes on; one is let in where "
            f"{WATERMARK:.0%} of the room is left by its prompt and {AHEAD} more steps of others"
        )
