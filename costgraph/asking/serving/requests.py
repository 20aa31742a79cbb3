"""What arrives at a server: requests with a time, a prompt's length and an answer's."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import erf, floor, inf, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from costgraph.errors import InputError, clip, nearest
from costgraph.number import is_number, parse_number, whole

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


#: Byte of a trace.
LARGEST = 256 * 1024 * 1024
#: Names that columns of traces have; those that need not be there.
OPTIONAL = {"cached": ("cached", "cached_tokens", "prefix_hit", "num_cached_tokens")}
COLUMNS = {
    "arrival": ("timestamp", "arrival", "arrived_at", "time"),
    "prompt": ("input", "prompt", "input_length", "contexttokens", "num_prefill_tokens"),
    "generate": ("output", "generate", "output_length", "generatedtokens", "num_decode_tokens"),
}


def read_trace(path: str | os.PathLike[str]) -> tuple[Request, ...]:
    """Requests of a CSV file with columns ``timestamp,input,output``, by time.

    A column ``cached`` says how many tokens of a prompt a cache of prefixes has.
    Times are seconds from any start, or dates with a time of day; all of one kind.

    Raises:
        InputError: a column or a number is missing, or wrong, or times are of two kinds.
    """
    from costgraph.files import outside

    where = clip(str(path))
    # Lines end as their writer ended them.
    reader = csv.reader(io.StringIO(outside.read_text(path, LARGEST, "a trace"), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: not a CSV table: {error}") from None
    lines = [(i, row) for i, row in enumerate(rows, 1) if any(x.strip() for x in row)]
    if len(lines) < 2:
        raise InputError(f"{where}: a trace has a line of names and one per request")
    names = [name.strip().lower() for name in lines[0][1]]
    places = {}
    for wanted, known in (COLUMNS | OPTIONAL).items():
        found = [i for i, name in enumerate(names) if name in known]
        if not found and wanted in OPTIONAL:
            continue
        if not found:
            one = len(names) == 1 and any(x in names[0] for x in ";\t|")
            hint = ": columns of a CSV are apart by commas" if one else ""
            raise InputError(
                f"{where}: no column {known[0]}; it has {clip(', '.join(names))}{hint}"
            )
        if len(found) > 1:
            twice = " and ".join(names[i] for i in found)
            raise InputError(f"{where}: which column is {known[0]}? It has {clip(twice)}")
        places[wanted] = found[0]
    called = {wanted: names[place] for wanted, place in places.items()}
    for i, row in lines[1:]:
        if any(x.strip() for x in row[len(names) :]):
            raise InputError(
                f"{where}, line {i}: {len(row)} columns, of which {len(names)} have names"
            )
    made = [_values(row, places, called, f"{where}, line {i}") for i, row in lines[1:]]
    at = places["arrival"]
    kinds = [(_kind(row[at]), i, row[at]) for i, row in lines[1:]]
    for kind, i, text in kinds:
        if kind != kinds[0][0]:
            first_is = f"the first is {kinds[0][0]}"
            raise InputError(
                f"{where}, line {i}: arrival: {clip(text.strip())} is {kind}, {first_is}"
            )
    first = min(time for time, *_ in made)
    # Exact until the start is taken off: seconds since 1970 leave a float few digits.
    requests = (Request(float(time - first), *lengths) for time, *lengths in made)
    return tuple(sorted(requests, key=lambda r: r.arrival))


def _values(
    row: Sequence[str], places: dict[str, int], called: dict[str, str], where: str
) -> tuple[Fraction, int, int, int]:
    """Seconds, tokens of the prompt, of the answer, and those that are cached."""
    if len(row) <= max(places.values()):
        raise InputError(f"{where}: too few columns: {len(row)} of {max(places.values()) + 1}")
    prompt, answer = (
        parse_number(row[places[k]], f"{where}: {called[k]}") for k in ("prompt", "generate")
    )
    if prompt.denominator != 1 or answer.denominator != 1 or min(prompt, answer) < 1:
        raise InputError(f"{where}: lengths are whole tokens, at least one")
    cached = Fraction(0)
    if "cached" in places:
        cached = parse_number(row[places["cached"]], f"{where}: {called['cached']}")
    if cached.denominator != 1 or not 0 <= cached < prompt:
        raise InputError(f"{where}: cached tokens are whole, from 0 to one less than the prompt's")
    return _time(row[places["arrival"]].strip(), where), int(prompt), int(answer), int(cached)


def _kind(arrival: str) -> str:
    """What an arrival that is one is written as: a trace has one kind, or gaps are wrong."""
    text = arrival.strip()
    if is_number(text.removeprefix("-")):
        return "seconds"
    return "a date with a zone" if datetime.fromisoformat(text).tzinfo else "a date without a zone"


def _time(text: str, where: str) -> Fraction:
    """Seconds as a number, or since 1970 of a date with a time of day."""
    sign = -1 if text.startswith("-") else 1
    if is_number(text[1:] if sign < 0 else text):
        return sign * parse_number(text[1:] if sign < 0 else text, f"{where}: arrival")
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{where}: arrival: {clip(text)} is neither seconds nor a date such as "
            "2024-05-12 00:00:00.250"
        ) from None
    since = date.replace(tzinfo=date.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return Fraction(since // timedelta(microseconds=1), 10**6)
