"""What arrives at a server: requests with a time, a prompt's length and an answer's."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from costgraph.errors import InputError, clip, nearest
from costgraph.number import is_number, parse_number

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """A request: seconds of its arrival, tokens of its prompt, tokens that it generates."""

    arrival: float
    prompt: int
    generate: int

    def __post_init__(self) -> None:
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
        if self.mean < 1:
            raise InputError(f"lengths have a mean of at least one token, not {self.mean}")
        if self.spread == "uniform" and not 0 < self.width <= 1:
            raise InputError("uniform lengths need a width above 0 and at most 1")
        if self.spread == "lognormal" and not 0 < self.width <= 10:
            raise InputError("log-normal lengths need a width above 0 and at most 10")

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


def poisson(
    rate: float, count: int, prompt: Lengths, generate: Lengths, seed: int = 0
) -> tuple[Request, ...]:
    """Requests that come independently, ``rate`` a second on average."""
    if not rate > 0:
        raise InputError(f"a rate is above 0 requests a second, not {rate}")
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.exponential(1 / rate, count))
    prompts, answers = prompt.draw(count, generator), generate.draw(count, generator)
    return tuple(
        Request(float(t), int(s), int(n)) for t, s, n in zip(times, prompts, answers, strict=True)
    )


def at_once(count: int, prompt: Lengths, generate: Lengths, seed: int = 0) -> tuple[Request, ...]:
    """Requests that are all there from the start: those of a closed loop."""
    generator = np.random.default_rng(seed)
    prompts, answers = prompt.draw(count, generator), generate.draw(count, generator)
    return tuple(Request(0.0, int(s), int(n)) for s, n in zip(prompts, answers, strict=True))


#: Byte of a trace.
LARGEST = 256 * 1024 * 1024
#: Names that columns of traces have.
COLUMNS = {
    "arrival": ("timestamp", "arrival", "arrived_at", "time"),
    "prompt": ("input", "prompt", "input_length", "contexttokens", "num_prefill_tokens"),
    "generate": ("output", "generate", "output_length", "generatedtokens", "num_decode_tokens"),
}


def read_trace(path: str | os.PathLike[str]) -> tuple[Request, ...]:
    """Requests of a CSV file with columns ``timestamp,input,output``, by time.

    Times are seconds from any start, or dates with a time of day.

    Raises:
        InputError: a column or a number is missing, or wrong.
    """
    from costgraph.files import outside

    rows = list(csv.reader(io.StringIO(outside.read_text(path, LARGEST, "a trace"))))
    where = clip(str(path))
    lines = [(i, row) for i, row in enumerate(rows, 1) if any(x.strip() for x in row)]
    if len(lines) < 2:
        raise InputError(f"{where}: a trace has a line of names and one per request")
    names = [name.strip().lower() for name in lines[0][1]]
    places = {}
    for wanted, known in COLUMNS.items():
        found = [i for i, name in enumerate(names) if name in known]
        if not found:
            raise InputError(f"{where}: no column {known[0]}; it has {clip(str(names))}")
        if len(found) > 1:
            twice = " and ".join(names[i] for i in found)
            raise InputError(f"{where}: which column is {known[0]}? It has {clip(twice)}")
        places[wanted] = found[0]
    made = [_values(row, places, f"{where}, line {i}") for i, row in lines[1:]]
    first = min(time for time, _, _ in made)
    # Exact until the start is taken off: seconds since 1970 leave a float few digits.
    requests = (Request(float(time - first), *lengths) for time, *lengths in made)
    return tuple(sorted(requests, key=lambda r: r.arrival))


def _values(row: Sequence[str], places: dict[str, int], where: str) -> tuple[Fraction, int, int]:
    """Seconds, tokens of the prompt and of the answer."""
    if len(row) <= max(places.values()):
        raise InputError(f"{where}: too few columns")
    prompt, answer = (parse_number(row[places[k]], f"{where}: {k}") for k in ("prompt", "generate"))
    if prompt.denominator != 1 or answer.denominator != 1 or min(prompt, answer) < 1:
        raise InputError(f"{where}: lengths are whole tokens, at least one")
    return _time(row[places["arrival"]].strip(), where), int(prompt), int(answer)


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
