"""How long first tokens take in steady state, as a distribution.

A first token waits for the rest of the step in progress, for its own steps with whatever prompts
are in them, for prompts in front, and for a place. Each is told apart here by equally spread
points of all at once (a Kronecker sequence, so that nothing is random): a quantile of what they
make is that of the first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.asking.serving import forms, settled
from costgraph.asking.serving.odds import shares

if TYPE_CHECKING:
    from costgraph.asking.serving.queueing import Queue

Array = Any

#: Points, and what each tells apart: two queues, the step in progress and how far it is, prompts
#: that join with this one and how many of them are in front, their lengths, and its own.
POINTS, APART = 4096, 9


@dataclass(frozen=True)
class Waits:
    """What a first token waits for.

    Attributes:
        queue: the server.
        rate: requests per second of one replica.
        beside: sequences that decode beside it.
        empty: share of time without any.
        tau: mean seconds of a step.
        running: up to so many seconds of the step in progress are left, where it joins none.
        front, busy: mean seconds for prompts in front, and how often there are any.
        place, full: mean seconds for a place, and how often there is none.
    """

    queue: Queue
    rate: float
    beside: int
    empty: float
    tau: float
    running: float
    front: float
    busy: float
    place: float
    full: float

    @property
    def places(self) -> int:
        """Sequences that all replicas take at a time."""
        return self.queue.limit * self.queue.servers

    def drawn(self) -> Array:
        """Seconds to the first token of equally likely requests."""
        even = _spread()
        if settled.alone(self.queue):
            return self._single(even)
        waits = _seldom(self.place, self.full, even[0]) + _seldom(self.front, self.busy, even[1])
        if forms.joins(self.queue, self.beside):
            return waits + self._joined(even[2:])
        return waits + self._at(even[2], self._own()) + even[3] * self.running

    def _own(self) -> Array:
        """Seconds of the steps of parts of all prompts."""
        parts = self.queue.parts
        return np.array([forms.reading(self.queue, self.beside, *part[:2]) for part in parts])

    def _at(self, even: Array, values: Array) -> Array:
        """Values at shares, of those of parts of all prompts in order."""
        shares = np.array([share for *_, share in self.queue.parts])
        return np.interp(even, np.cumsum(shares) - shares / 2, values)

    def _single(self, even: Array) -> Array:
        """One request at a time: a wait is a geometric number of what is left of requests in
        service (M/G/1; Pollaczek and Khinchine). Their sum is taken as of a gamma distribution:
        what is left of equal ones is evenly any part, of exponential ones exponential.
        """
        own, busy = self._at(even[2], self._own()), self.full
        if busy <= 0:
            return own
        many = np.floor(np.log1p(-even[0]) / np.log(busy))
        shape = np.maximum(many, 1.0) * 3 / (1 + 2 * self.queue.varies)
        normal = np.array([NormalDist().inv_cdf(x) for x in even[1]])
        # The quantile of a gamma distribution (Wilson and Hilferty).
        over = np.maximum(1 - 1 / (9 * shape) + normal / (3 * np.sqrt(shape)), 0.0) ** 3
        return own + many * over * self.place * (1 - busy) / busy

    def _joined(self, even: Array) -> Array:
        """Where all that wait join the next step: the rest of the running one, and its own.

        Who comes is in a long step more often than in a short one, and so are those that join
        with it. What exceeds the room of a step takes further ones, which are full.
        """
        q, c = self.queue, self.beside
        each, taken = forms.crowds(q, c, self.rate * self.tau)
        among = np.cumsum(shares(q.limit, self.rate * self.tau, each) * taken)
        some = np.maximum(even[0] - self.empty, 0.0) / max(1 - self.empty, 1e-9)
        step = np.minimum(np.searchsorted(among, some * among[-1]), len(taken) - 1)
        running = np.where(even[0] < self.empty, 0.0, taken[step])
        others = poisson_at(self.rate * running, even[1])
        front = np.floor(even[2] * (others + 1))
        until = self._prompts(even[3], np.ones(POINTS)) + self._prompts(even[4], front)
        behind = self._prompts(even[5], others - front)
        room = forms.fits(q, c)
        whole = np.maximum(np.ceil(until / room) - 1, 0.0)
        last = np.minimum(until - whole * room + behind, room)
        steep = (taken[-1] - taken[0]) / max(each[-1], 1e-9)
        seconds = np.interp(last, each, taken) + steep * np.maximum(last - each[-1], 0.0)
        full = taken[-1] + steep * max(room - each[-1], 0.0)
        return even[6] * running + whole * full + seconds

    def _prompts(self, even: Array, count: Array) -> Array:
        """So many prompts, in mean ones: of several the spread is that of one by their root."""
        _, fresh, shares = np.array(self.queue.parts).T
        one = self._at(even, fresh) / float(shares @ fresh) - 1
        return np.maximum(count + np.sqrt(count) * one, 0.0)


def _spread() -> Array:
    """Points spread evenly in so many directions (M. Roberts' sequence R)."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (APART + 1))
    steps = root ** -np.arange(1.0, APART + 1)[:, None]
    return (0.5 + steps * np.arange(1, POINTS + 1)) % 1


def _seldom(mean: float, share: float, even: Array) -> Array:
    """A wait of a mean that a share of requests have, exponential among them."""
    if mean <= 0 or share <= 0:
        return np.zeros(len(even))
    return -mean / share * np.log1p(-np.maximum(1 - (1 - even) / share, 0.0))


def poisson_at(means: Array, even: Array) -> Array:
    """Poisson numbers of a mean each, at shares of them; in logarithms, as ``exp(-m)`` may be 0."""
    found = np.zeros(len(means))
    chance, more = -means, np.log(np.maximum(means, 1e-300))
    below = np.exp(chance)
    most = means.max()
    for number in range(1, int(most + 8 * most**0.5 + 10)):
        found += even > below
        chance = chance + more - np.log(number)
        below += np.exp(chance)
    return found
