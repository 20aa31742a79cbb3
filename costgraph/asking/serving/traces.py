"""Traces: what came to a server, and when, from a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from costgraph.asking.serving.requests import Request
from costgraph.errors import InputError, clip
from costgraph.number import is_number, parse_number

#: Byte of a trace.
LARGEST = 256 * 1024 * 1024
#: What numbers are read as.
SECONDS = "seconds"
#: Seconds since 1970 in the year 5138: milliseconds since 1970 are more, from 1973 on.
FAR = 10**11
#: Mean seconds between requests from which it is asked whether they are seconds.
GAP = 10
#: Names that columns of traces have; those that need not be there.
OPTIONAL = {"cached": ("cached", "cached_tokens", "prefix_hit", "num_cached_tokens")}
COLUMNS = {
    "arrival": ("timestamp", "arrival", "arrived_at", "time"),
    "prompt": ("input", "prompt", "input_length", "contexttokens", "num_prefill_tokens"),
    "generate": ("output", "generate", "output_length", "generatedtokens", "num_decode_tokens"),
}


@dataclass(frozen=True)
class Trace:
    """Requests of a file, from the first one's arrival on.

    Attributes:
        requests: by time; the first comes at 0 s.
        start: the first one's arrival as it is written, in seconds; of dates since 1970.
        dated: arrivals are dates, which leave no doubt of their unit.
    """

    requests: tuple[Request, ...]
    start: Fraction
    dated: bool = False

    @property
    def span(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival

    @property
    def gap(self) -> float:
        """Mean seconds from one arrival to the next; of one request 0."""
        return self.span / max(len(self.requests) - 1, 1)

    @property
    def rate(self) -> float | None:
        """Requests per second, one over the mean gap; None where all come at once."""
        return 1 / self.gap if self.gap > 0 else None

    @property
    def doubtful(self) -> str:
        """What must be said where arrivals are hardly meant as seconds; else nothing.

        Nothing tells a count of milliseconds from one of seconds but its size.
        """
        if self.dated:
            return ""
        if self.start >= FAR:
            sure = f"its first, {float(self.start):.6g} s, is after the year 5000 if since 1970"
        elif self.gap > GAP:
            sure = f"from one request to the next are {self.gap:.4g} s on average, over {GAP} s"
        else:
            return ""
        return (
            f"arrivals of the trace are read as seconds, and {sure}: if they are milliseconds, "
            "divide them by 1000"
        )


def read_trace(path: str | os.PathLike[str]) -> tuple[Request, ...]:
    """Requests of a CSV file, as :func:`trace_of` reads them."""
    return trace_of(path).requests


def trace_of(path: str | os.PathLike[str]) -> Trace:
    """A CSV file with columns ``timestamp,input,output``, by time.

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
    return Trace(tuple(sorted(requests, key=lambda r: r.arrival)), first, kinds[0][0] != SECONDS)


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
        return SECONDS
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
