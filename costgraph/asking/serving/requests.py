"""What arrives at a server: requests with a time, a prompt's length and an answer's."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from costgraph.errors import InputError, clip, nearest
from costgraph.number import parse_number

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """A request: seconds of its arrival, tokens of its prompt, tokens that it generates."""

    arrival: float
    prompt: int
    generate: int

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.generate < 1 or not self.arrival >= 0:
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
        if not isinstance(text, str):
            return cls(float(text))
        first, *rest = text.split(":")
        if not rest:
            return cls(float(parse_number(first, "a length")))
        if len(rest) > 2 or first not in SPREADS:
            raise InputError(f"lengths {clip(text)}: use 512, uniform:512:0.5 or lognormal:512:1")
        values = [float(parse_number(x, f"lengths {clip(text)}")) for x in rest]
        return cls(values[0], first, values[1] if len(values) > 1 else 0.0)

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

    Times are seconds, from any start.

    Raises:
        InputError: a column or a number is missing, or wrong.
    """
    from costgraph.files import outside

    rows = list(csv.reader(io.StringIO(outside.read_text(path, LARGEST, "a trace"))))
    if len(rows) < 2:
        raise InputError(f"{clip(str(path))}: a trace has a line of names and one per request")
    names = [name.strip().lower() for name in rows[0]]
    places = {}
    for wanted, known in COLUMNS.items():
        found = [names.index(k) for k in known if k in names]
        if not found:
            raise InputError(f"{clip(str(path))}: no column {known[0]}; it has {clip(str(names))}")
        places[wanted] = found[0]
    made = [_request(row, places, i, str(path)) for i, row in enumerate(rows[1:], 2) if row]
    first = min(r.arrival for r in made)
    shifted = (Request(r.arrival - first, r.prompt, r.generate) for r in made)
    return tuple(sorted(shifted, key=lambda r: r.arrival))


def _request(row: Sequence[str], places: dict[str, int], line: int, path: str) -> Request:
    if len(row) <= max(places.values()):
        raise InputError(f"{clip(path)}, line {line}: too few columns")
    values = {
        k: float(parse_number(row[i].strip(), f"{clip(path)}, line {line}: {k}"))
        for k, i in places.items()
    }
    if values["prompt"] % 1 or values["generate"] % 1:
        raise InputError(f"{clip(path)}, line {line}: lengths are whole tokens")
    return Request(values["arrival"], int(values["prompt"]), int(values["generate"]))
