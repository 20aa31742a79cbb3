"""Open arrivals in closed form: stability, utilisation, mean times.

Requests come as a Poisson process of ``λ`` a second; a prompt keeps the server for ``X``
seconds more than the step that it joins would take without it (a step of its own: ``P``).
So steps of ``c`` sequences follow each other every

    τ(c) = t(c) / (1 − λ·X(c))

seconds, and ``c`` sequences get ``c/τ(c)`` tokens a second between them, in equal shares:
processor sharing with a rate that depends on the number there. Its distribution depends on
the answers' mean length ``N`` alone (Cohen, Acta Informatica 12, 1979; insensitivity):

    π(c) ∝ Π_{i ≤ c} λ·((N − 1)·τ(i) + R) / i,

with ``R`` the seconds that prompts behind a request take when its own is done. That holds up
to the limit ``m`` of sequences; who finds them all there waits, with a geometric number of
others: an approximation, as ``R`` is. Hence by Little's law

    tpot = E[min(n, m)] / (λ·(N − 1)),   stable for   λ < λ* = m / ((N − 1)·t(m) + m·X(m)).

The first token waits for the step in progress, for prompts in front and for a place. Where
prompts have the server one by one (``Q`` seconds each, in a row),

    ttft = G + λ·E[Q²] / (2·(1 − λ·Q)) + (1 − π(0))·t/2 + E[(n − m)⁺]/λ

(M/G/1 with vacations, which decode steps are), with ``G`` the steps in which a prompt runs.
Where all that wait join the next step, its length follows from how many came in the last one:

    E[L] = τ,   Var[L] = λ·X²·τ / (1 − λ²·X²),   Λ = E[L²]/E[L],
    ttft = Λ/2 + t + X + λ·X·Λ + E[(n − m)⁺]/λ       (Λ = 0 where the server is empty).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.asking.serving.policies import (
    ChunkedPrefill,
    Continuous,
    DecodeOnly,
    Policy,
    PrefillFirst,
)
from costgraph.asking.serving.requests import Lengths
from costgraph.asking.serving.steps import StepTimes
from costgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rounds in which the time of first tokens and the sequences that decode are made to agree.
ROUNDS = 8
CONDITIONS = (
    "open arrivals: Poisson, requests alike and independent, steady state, mean contexts; "
    "sequences that decode share the server equally (exact below the limit of sequences), those "
    "above it wait in a geometric queue"
)


def second_moment(lengths: Lengths) -> float:
    """Mean of the squared length over the square of the mean."""
    if lengths.spread == "uniform":
        return 1 + lengths.width**2 / 3
    return 1 + lengths.width**2 if lengths.spread == "lognormal" else 1.0


@dataclass(frozen=True)
class Queue:
    """One replica under open arrivals.

    Attributes:
        times: seconds of its steps.
        policy: prompts before decodes, whole in a step, or in chunks.
        prompt, generate: lengths.
    """

    times: StepTimes
    policy: Policy
    prompt: Lengths
    generate: Lengths

    def __post_init__(self) -> None:
        if type(self.policy) not in (PrefillFirst, Continuous, ChunkedPrefill, DecodeOnly):
            raise InputError(f"no closed form for the policy {self.policy.name}: simulate it")

    @property
    def S(self) -> int:
        """Tokens of a mean prompt."""
        return max(1, round(self.prompt.mean))

    @property
    def further(self) -> float:
        """Tokens after the first, on average."""
        return max(self.generate.mean - 1, 0.0)

    @property
    def context(self) -> float:
        """Mean context of sequences that decode: long answers are there longer."""
        return self.prompt.mean + self.generate.mean * second_moment(self.generate) / 2

    @property
    def limit(self) -> int:
        """Sequences at a time."""
        return self.policy.limit

    def step(self, c: int) -> float:
        """``t(c)``: seconds of a decode step of ``c`` sequences."""
        return self.times.decode(c, self.context) if c else 0.0

    def free(self, c: int) -> int:
        """Tokens of a prompt that one step takes beside ``c`` sequences."""
        if isinstance(self.policy, ChunkedPrefill):
            return max(1, self.policy.budget - c)
        return self.S

    def through(self, c: int) -> float:
        """``G``: seconds of the steps in which a prompt runs beside ``c`` sequences."""
        if isinstance(self.policy, DecodeOnly):
            return 0.0
        if isinstance(self.policy, PrefillFirst):
            return self.times.prompt(self.S)
        return self.times.chunked(self.S, self.free(c), c, self.context)

    def extra(self, c: int) -> float:
        """``X(c)``: seconds for which a prompt keeps ``c`` sequences from decoding."""
        if isinstance(self.policy, DecodeOnly):
            return 0.0
        if isinstance(self.policy, PrefillFirst):
            return self.through(c)
        if self.joins(c):
            return self.through(c) - self.step(c)
        return self.own(c) - self.S / self.free(c) * self.step(c)

    def joins(self, c: int) -> bool:
        """Whether all prompts that wait join the next step, as a rule."""
        if isinstance(self.policy, ChunkedPrefill):
            return 2 * self.free(c) >= 3 * self.S
        return isinstance(self.policy, Continuous)

    def own(self, c: int) -> float:
        """``Q``: seconds that prompts in a row need each: several may share a step."""
        if isinstance(self.policy, DecodeOnly):
            return 0.0
        free = self.free(c)
        if isinstance(self.policy, PrefillFirst):
            return self.through(c)
        if self.joins(c):
            return self.extra(c)
        # Steps are full: each takes so many tokens of prompts in a row.
        ends = [*range(free, self.S, free), self.S]
        steps = (self.times.step(c, self.context, ((free, max(free, end)),)) for end in ends)
        return sum(steps) / len(ends) * self.S / free

    @cached_property
    def stable_rate(self) -> float:
        """``λ*``: requests per second below which the queue does not grow without end."""
        m = self.limit
        taken = self.further * self.step(m) + m * self.extra(m)
        decodes = m / taken if taken else float("inf")
        own = self.own(m)
        return min(decodes, 1 / own) if own else decodes

    def at(self, rate: float) -> Steady:
        """The steady state at ``rate`` requests per second.

        Raises:
            InputError: there is none.
        """
        if not 0 < rate < self.stable_rate:
            raise InputError(
                f"at {rate:.4g} requests a second the queue grows without end: the limit is "
                f"{self.stable_rate:.4g}"
            )
        m = self.limit
        places = np.arange(1, m + 1)
        sample = np.unique(np.rint(np.geomspace(1, m, 25)).astype(int))
        steps = np.array([self.step(c) for c in sample])
        extras = np.array([self.extra(int(c)) for c in sample])
        pace = np.interp(places, sample, steps / np.maximum(1 - rate * extras, 1e-9))
        inside, empty, waiting = 0.0, 1.0, 0.0
        ttft = late = 0.0
        # What a first token waits for depends on how many decode, and they on it.
        for _ in range(ROUNDS):
            inside, empty, waiting = self._places(rate, pace, late)
            mean = max(1, round(inside)) if inside >= 0.5 else 0
            tau = float(np.interp(max(inside, 1), places, pace))
            ttft, behind = self._first(rate, mean, empty, tau)
            extra = self.extra(max(mean, 1))
            late = rate * behind * extra / max(1 - rate * extra, 1e-9)
        place = waiting / rate
        tpot = inside / (rate * self.further) if self.further else 0.0
        return Steady(
            rate, self.stable_rate, inside, empty, ttft + place, tpot, place, self.further
        )

    def _places(
        self, rate: float, pace: NDArray[np.float64], late: float
    ) -> tuple[float, float, float]:
        """Sequences that decode on average, the share of time without any, and who waits."""
        m, places = self.limit, np.arange(1, self.limit + 1)
        ratios = rate * (self.further * pace + late) / places
        last = min(float(rate * self.further * pace[-1] / m), 1 - 1e-9)
        logs = np.concatenate(([0.0], np.cumsum(np.log(np.maximum(ratios, 1e-300)))))
        weights = np.exp(logs - logs.max())
        # The geometric queue above the limit, its number and its mean.
        above = float(weights[-1]) * last / (1 - last)
        waiting = float(weights[-1]) * last / (1 - last) ** 2
        whole = float(weights.sum()) + above
        inside = (float(weights @ np.arange(m + 1)) + above * m) / whole
        return inside, float(weights[0]) / whole, waiting / whole

    def _first(self, rate: float, mean: int, empty: float, tau: float) -> tuple[float, float]:
        """Seconds to the first token with a place, and those in which prompts come behind it."""
        plain, through, own = self.step(max(mean, 1)), self.through(mean), self.own(mean)
        if self.joins(mean):
            extra = self.extra(max(mean, 1))
            busy = min(rate * extra, 1 - 1e-9)
            length = (1 - empty) * (tau + rate * extra**2 / (1 - busy**2))
            mine = plain + extra if mean else through
            return length / 2 + mine + busy * length, mine + busy * length
        queue = rate * second_moment(self.prompt) * own**2 / (2 * max(1 - rate * own, 1e-9))
        step = plain if isinstance(self.policy, PrefillFirst) else tau
        ttft = through + queue + (1 - empty) * step / 2
        return ttft, ttft


@dataclass(frozen=True)
class Steady:
    """Mean values of a server in steady state.

    Attributes:
        rate: requests per second.
        stable_rate: where there would be no steady state any more.
        decoding: sequences that decode.
        empty: share of the time without any.
        ttft: seconds to the first token.
        tpot: seconds per token after it, over all tokens.
        place: seconds of ``ttft`` that a request waits for a place.
        further: tokens after the first.
    """

    rate: float
    stable_rate: float
    decoding: float
    empty: float
    ttft: float
    tpot: float
    place: float
    further: float

    @property
    def load(self) -> float:
        """The rate over the largest."""
        return self.rate / self.stable_rate

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return self.ttft + self.further * self.tpot

    @property
    def in_system(self) -> float:
        """Requests that are there (Little's law)."""
        return self.rate * self.latency

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rate": self.rate, "stable_rate": self.stable_rate, "load": self.load,
            "decoding": self.decoding, "ttft": self.ttft, "tpot": self.tpot,
            "latency": self.latency, "in_system": self.in_system,
        }  # fmt: skip
