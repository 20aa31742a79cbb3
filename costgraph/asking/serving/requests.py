"""What arrives at a server: requests with a time, a prompt's length and an answer's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import erf, floor, inf, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from costgraph.errors import InputError, clip, nearest
from costgraph.number import parse_number, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """A request: seconds of its arrival, tokens of its prompt, tokens that it generates.

    Attributes:
        cached: tokens at the start of its prompt whose caches are there already.
    """

    arrival: float
    prompt: int
    generate: int
    cached: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cached < self.prompt:
            raise InputError(
                f"{self.cached} of {self.prompt} tokens of a prompt are cached: at least none, and "
                "one is left to be read"
            )
        if self.prompt % 1 or self.generate % 1 or self.cached % 1:
            raise InputError(
                f"a request of {self.prompt} and {self.generate} tokens, {self.cached} cached: "
                "tokens are whole"
            )
        if self.prompt < 1 or self.generate < 1 or not 0 <= self.arrival < float("inf"):
            raise InputError(
                f"a request of {self.prompt} and {self.generate} tokens at {self.arrival} s: "
                "lengths are at least one token, times at least zero"
            )


@dataclass(frozen=True)
class Lengths:
    """How many tokens a prompt or an answer has.

    Attributes:
        mean: their mean.
        spread: ``fixed``, ``uniform`` (from ``1 − width`` to ``1 + width`` times the mean) or
            ``lognormal`` (with a coefficient of variation of ``width``).
        width: see ``spread``.
    """

    mean: float
    spread: str = "fixed"
    width: float = 0.0

    def __post_init__(self) -> None:
        if self.spread not in SPREADS:
            raise InputError(f"unknown spread {clip(self.spread)}{nearest(self.spread, SPREADS)}")
        if not 1 <= self.mean < inf:
            raise InputError(f"lengths have a mean of at least one token, not {self.mean}")
        if self.spread == "uniform" and not 0 < self.width <= 1:
            raise InputError("uniform lengths need a width above 0 and at most 1")
        if self.spread == "lognormal" and not 0 < self.width <= 10:
            raise InputError("log-normal lengths need a width above 0 and at most 10")
        if abs(self.drawn / self.mean - 1) > OFF:
            raise InputError(
                f"lengths {self}: as whole tokens, at least one, they have a mean of "
                f"{self.drawn:.3g}: take a larger mean or a smaller width"
            )

    @classmethod
    def of(cls, text: str | float) -> Lengths:
        """From text: ``512``, ``uniform:512:0.5`` or ``lognormal:512:1``."""
        first, *rest = str(text).split(":")
        if not rest:
            fixed = parse_number(first, "a length")
            if fixed.denominator != 1:
                raise InputError(f"a fixed length is a whole number of tokens, not {clip(first)}")
            return cls(float(fixed))
        if len(rest) > 2 or first not in SPREADS:
            raise InputError(f"lengths {clip(text)}: use 512, uniform:512:0.5 or lognormal:512:1")
        values = [float(parse_number(x, f"lengths {clip(text)}")) for x in rest]
        return cls(values[0], first, values[1] if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        mean = f"{self.mean:.15g}"
        return mean if self.spread == "fixed" else f"{self.spread}:{mean}:{self.width:.15g}"

    @property
    def drawn(self) -> float:
        """Mean of what :meth:`draw` makes: whole tokens, at least one.

        Rounding moves the mean of few tokens; of many it evens out.
        """
        if self.spread == "fixed":
            return max(1.0, round(self.mean))
        found, share, part = self.mean, 0.0, 0.0
        for tokens in range(1, 65):
            upto, sums = self._below(tokens + 0.5)
            found += tokens * (upto - share) - (sums - part)
            share, part = upto, sums
        return found

    def _below(self, length: float) -> tuple[float, float]:
        """Share of lengths below one, and their part of the mean."""
        if self.spread == "uniform":
            low, high = self.mean * (1 - self.width), self.mean * (1 + self.width)
            if not low < length < high:  # a tiny width leaves nothing between them
                return (0.0, 0.0) if length <= low else (1.0, self.mean)
            share = (length - low) / (high - low)
            return share, share * (low + length) / 2
        normal, sigma = NormalDist(), sqrt(log1p(self.width**2))
        place = (log(length / self.mean) + sigma**2 / 2) / sigma
        return normal.cdf(place), self.mean * normal.cdf(place - sigma)

    def longest(self, count: int) -> float:
        """Mean of the longest of so many: what a batch that ends together waits for."""
        if count < 1:
            raise InputError(f"a batch has at least one sequence, not {count}")
        if self.spread == "fixed":
            return self.mean
        if self.spread == "uniform":
            low, high = self.mean * (1 - self.width), self.mean * (1 + self.width)
            return low + (high - low) * count / (count + 1)
        sigma = sqrt(log1p(self.width**2))
        places = np.linspace(-8, 40, 24001)  # of a standard normal, in the variable's own scale
        below = np.array([(1 + erf(z / sqrt(2))) / 2 for z in places])
        values = np.exp(log(self.mean) - sigma**2 / 2 + sigma * places)
        above = 1 - below**count
        means = (above[1:] + above[:-1]) / 2  # trapezoids; NumPy 1 has another name for them
        return float(values[0] + (means * np.diff(values)).sum())

    def waste(self, count: int) -> float:
        """Share of a static batch's places that are done and wait: ``1 − E[len]/E[max]``."""
        return 1 - self.mean / self.longest(count)

    def parts(self, count: int) -> NDArray[np.float64]:
        """Means of so many equally likely parts of all lengths, from the shortest on."""
        if self.spread == "fixed":
            return np.full(count, self.mean)
        edges = np.arange(count + 1) / count
        if self.spread == "uniform":
            found = self.mean * (1 + self.width * (edges[1:] + edges[:-1] - 1))
            return np.maximum(found, 1.0)
        normal, sigma = NormalDist(), sqrt(log1p(self.width**2))
        # Of a log-normal, the part of the mean below a place is normal, a deviation farther.
        below = [normal.cdf(normal.inv_cdf(x) - sigma) for x in edges[1:-1]]
        return np.maximum(self.mean * count * np.diff([0.0, *below, 1.0]), 1.0)

    def weighed(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of parts of all lengths, from the shortest on, and the share that each has.

        They are equally likely, one where lengths are all alike; of log-normal lengths the last
        is cut further, as the few longest have much of the squares.
        """
        if self.spread == "fixed":
            return np.array([self.mean]), np.ones(1)
        if self.spread == "uniform":
            return self.parts(count), np.full(count, 1 / count)
        above = np.concatenate(
            (1 - np.arange(count) / count, TAIL ** -np.arange(1.0, TAILS) / count)
        )
        normal, sigma = NormalDist(), sqrt(log1p(self.width**2))
        beyond = [1.0, *(normal.cdf(sigma + normal.inv_cdf(x)) for x in above[1:])]
        shares = -np.diff(above, append=0.0)
        return np.maximum(-self.mean * np.diff(beyond, append=0.0) / shares, 1.0), shares

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """So many lengths, of at least one token."""
        if self.spread == "fixed":
            return np.full(count, max(1, round(self.mean)))
        if self.spread == "uniform":
            low, high = self.mean * (1 - self.width), self.mean * (1 + self.width)
            found = generator.uniform(low, high, count)
        else:
            sigma = np.sqrt(np.log1p(self.width**2))
            found = generator.lognormal(np.log(self.mean) - sigma**2 / 2, sigma, count)
        return np.maximum(1, np.rint(found)).astype(np.int64)


SPREADS = ("fixed", "uniform", "lognormal")
#: Of the longest part of log-normal lengths one in so many is told apart, so many times.
TAIL, TAILS = 4.0, 6
#: How far rounding may move a mean of lengths.
OFF = 0.02


def poisson(
    rate: float, count: int, prompt: Lengths, generate: Lengths, seed: int = 0, cached: float = 0.0
) -> tuple[Request, ...]:
    """Requests that come independently, ``rate`` a second on average.

    Of each prompt a share of ``cached`` is in a cache of prefixes.
    """
    if not 0 < rate < inf:
        raise InputError(f"a rate is above 0 requests a second, not {rate}")
    count = whole(count, "requests")
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.exponential(1 / rate, count))
    prompts, answers = prompt.draw(count, generator), generate.draw(count, generator)
    return tuple(
        Request(float(t), int(s), int(n), hit(int(s), cached))
        for t, s, n in zip(times, prompts, answers, strict=True)
    )


def hit(prompt: int, share: float) -> int:
    """Tokens of a prompt that are cached: a share, but for its last token."""
    if not 0 <= share <= 1:
        raise InputError(f"the share of a prompt that is cached is from 0 to 1, not {share}")
    return min(floor(share * prompt), prompt - 1)


def at_once(
    count: int, prompt: Lengths, generate: Lengths, seed: int = 0, cached: float = 0.0
) -> tuple[Request, ...]:
    """Requests that are all there from the start: those of a closed loop."""
    count = whole(count, "requests")
    generator = np.random.default_rng(seed)
    prompts, answers = prompt.draw(count, generator), generate.draw(count, generator)
    return tuple(
        Request(0.0, int(s), int(n), hit(int(s), cached))
        for s, n in zip(prompts, answers, strict=True)
    )


def same_prompt(requests: Iterable[Request]) -> int | None:
    """Tokens of every prompt; None where they differ."""
    found = {r.prompt for r in requests}
    return found.pop() if len(found) == 1 else None
