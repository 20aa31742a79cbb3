"""How the rate of a link is distributed: channels, as closed forms, and written as text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import exp, log, log1p
from statistics import NormalDist
from types import MappingProxyType
from typing import TypeAlias

import sympy
from sympy import Expr, Integer, Max, Min, Rational, erfc

from costgraph.errors import InputError, clip, nearest
from costgraph.number import parse_number
from costgraph.units import parse_quantity

ONE, ZERO = Integer(1), Integer(0)
Rate: TypeAlias = "str | int | float | Expr"
#: The end of a ratio in decibels.
DECIBEL = "dB"


class Channel(ABC):
    """How the rate of a link is distributed, in byte/s."""

    @abstractmethod
    def survival(self, rate: Expr) -> Expr:
        """``P(R >= rate)`` as an expression."""

    @abstractmethod
    def exceeded(self, probability: float) -> float:
        """The rate that is reached with a probability."""

    @property
    @abstractmethod
    def text(self) -> str:
        """In words."""


def _rate(given: Rate, what: str) -> Expr:
    """Byte/s of a text with its unit, or of a number.

    Raises:
        InputError: it is none, or not positive.
    """
    found = _quantity(given, "bandwidth", what)
    if found.is_number and not found > 0:
        raise InputError(f"{what}: a rate is positive, not {clip(str(given))}")
    return found


def _quantity(given: Rate, dimension: str, what: str) -> Expr:
    """A figure in base units, of a text with its unit or of a number."""
    return (
        parse_quantity(given, dimension, what) if isinstance(given, str) else _number(given, what)
    )


def _number(given: Rate, what: str) -> Expr:
    """A number; a ratio may be written in decibels."""
    if isinstance(given, Expr):
        return given
    text = str(given).strip()
    if text.endswith(DECIBEL):
        level = Rational(parse_number(text.removesuffix(DECIBEL).strip(), what))
        if not -300 < level < 300:
            raise InputError(f"{what}: {clip(text)} is no ratio of powers")
        made: Expr = Integer(10) ** (level / 10)
        return made
    return Rational(parse_number(text, what))


@dataclass(frozen=True)
class Uniform(Channel):
    """Any rate between two is as likely as any other."""

    low: Rate
    high: Rate

    def _ends(self) -> tuple[Expr, Expr]:
        low, high = _rate(self.low, "uniform: low"), _rate(self.high, "uniform: high")
        if not low < high:
            raise InputError("uniform: low is below high")
        return low, high

    def survival(self, rate: Expr) -> Expr:
        low, high = self._ends()
        return Max(ZERO, Min(ONE, (high - rate) / (high - low)))

    def exceeded(self, probability: float) -> float:
        low, high = map(float, self._ends())
        return high - probability * (high - low)

    @property
    def text(self) -> str:
        return f"uniform from {self.low} to {self.high}"


@dataclass(frozen=True)
class Exponential(Channel):
    """Rates around a mean, small ones most often."""

    mean: Rate

    def survival(self, rate: Expr) -> Expr:
        made: Expr = sympy.exp(-rate / _rate(self.mean, "exponential: mean"))
        return made

    def exceeded(self, probability: float) -> float:
        return -log(probability) * float(_rate(self.mean, "exponential: mean"))

    @property
    def text(self) -> str:
        return f"exponential of mean {self.mean}"


@dataclass(frozen=True)
class LogNormal(Channel):
    """Shadowing: the logarithm of the rate is normal, of deviation ``sigma``."""

    median: Rate
    sigma: Rate

    def _deviation(self) -> Expr:
        found = _number(self.sigma, "lognormal: sigma")
        if found.is_number and not found > 0:
            raise InputError("lognormal: sigma is positive")
        return found

    def survival(self, rate: Expr) -> Expr:
        median, sigma = _rate(self.median, "lognormal: median"), self._deviation()
        made: Expr = erfc(sympy.log(rate / median) / (sigma * sympy.sqrt(2))) / 2
        return made

    def exceeded(self, probability: float) -> float:
        away = NormalDist().inv_cdf(1 - probability) * float(self._deviation())
        return float(_rate(self.median, "lognormal: median")) * exp(away)

    @property
    def text(self) -> str:
        return f"log-normal of median {self.median}, sigma {self.sigma}"


@dataclass(frozen=True)
class Rayleigh(Channel):
    """Rayleigh fading: ``R = W·log2(1 + snr·X)/8`` byte/s with exponential ``X`` of mean one.

    ``width`` is the bandwidth ``W`` in Hz, ``snr`` the mean signal-to-noise ratio, a number or in
    decibels (``"15 dB"``).
    """

    width: Rate
    snr: Rate

    def _figures(self) -> tuple[Expr, Expr]:
        width = _quantity(self.width, "frequency", "rayleigh: width")
        snr = _number(self.snr, "rayleigh: snr")
        if (width.is_number and not width > 0) or (snr.is_number and not snr > 0):
            raise InputError("rayleigh: width and snr are positive")
        return width, snr

    def survival(self, rate: Expr) -> Expr:
        width, snr = self._figures()
        made: Expr = sympy.exp(-(2 ** (8 * rate / width) - 1) / snr)
        return made

    def exceeded(self, probability: float) -> float:
        width, snr = map(float, self._figures())
        return width * log1p(-snr * log(probability)) / log(2) / 8

    @property
    def text(self) -> str:
        return f"Rayleigh fading, {self.width} wide, signal to noise {self.snr}"


#: Channels by the name that texts give them.
CHANNELS: Mapping[str, type[Uniform | Exponential | LogNormal | Rayleigh]] = MappingProxyType(
    {
        "exponential": Exponential,
        "uniform": Uniform,
        "lognormal": LogNormal,
        "rayleigh": Rayleigh,
    }
)


def forms() -> str:
    """How each channel is written."""
    return ", ".join(
        f"{name}:{','.join(f.name.upper() for f in fields(kind))}"
        for name, kind in CHANNELS.items()
    )


def parse(text: str) -> Channel:
    """A channel of its text: ``exponential:1.25 GB/s``, ``rayleigh:20 MHz,15 dB``.

    Raises:
        InputError: there is no such channel, or its figures are others.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in CHANNELS:
        raise InputError(
            f"channel: unknown {clip(name)}{nearest(name, CHANNELS)}; channels are {forms()}"
        )
    kind, values = CHANNELS[name], [v.strip() for v in rest.split(",") if v.strip()]
    asked = [f.name for f in fields(kind)]
    if len(values) != len(asked):
        raise InputError(
            f"channel: {name} has {' and '.join(asked)}: write "
            f"{name}:{','.join(n.upper() for n in asked)}, not {clip(text)}"
        )
    made = kind(*values)
    made.exceeded(0.5)  # refuses figures that are none
    return made
