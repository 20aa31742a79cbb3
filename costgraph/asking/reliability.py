"""How likely a deadline is kept where the rate of a link is random, in closed form.

A time falls as a link gets faster: on each of its regimes it is ``A + C/R`` with the rate
``R``. So a deadline ``D`` is kept from the rate ``C/(D − A)`` on, and how likely that is the
distribution of the rate says. The rate is drawn once, and stays for the whole task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import exp, log, log1p
from statistics import NormalDist
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy
from sympy import Expr, Integer, Max, Min, Rational, erfc, expand, oo

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.regimes import regimes
from costgraph.hardware.machine import link_symbol_name
from costgraph.number import parse_number
from costgraph.symbols import symbol, unnamed
from costgraph.units import parse_quantity
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting

#: Metrics that have a deadline.
TIMES = ("latency", "ttft", "tpot", "interval")
ONE, ZERO = Integer(1), Integer(0)
Rate: TypeAlias = "str | int | float | Expr"


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
    if isinstance(given, Expr):
        return given
    return Rational(parse_number(str(given), what))


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

    ``width`` is the bandwidth ``W`` in Hz, ``snr`` the mean signal-to-noise ratio.
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


@dataclass(frozen=True)
class Kept:
    """One range of deadlines: the rate that is needed, and how likely it is there."""

    lower: Expr
    upper: Expr
    rate: Expr
    probability: Expr


@dataclass(frozen=True)
class Reliability:
    """How likely each deadline is kept.

    Attributes:
        metric: what has to be done in time.
        over: the symbol of the random rate.
        channel: its distribution.
        pieces: by deadline, shorter ones first; below the first, none is kept.
        deadline: the symbol of the deadline in their expressions.
        time: the time as a formula of the rate alone.
        workload: the sizes that it was asked for.
        setting: what it is about.
    """

    metric: str
    over: str
    channel: Channel
    pieces: tuple[Kept, ...]
    deadline: Expr
    time: Formula = field(compare=False, repr=False)
    setting: Setting | None = field(default=None, compare=False, repr=False)
    workload: Mapping[str, Any] = field(default_factory=dict)

    def at(self, deadline: str | float) -> float:
        """``P(time <= deadline)``.

        Raises:
            InputError: it is no time.
        """
        seconds = (
            parse_quantity(deadline, "time", "deadline")
            if isinstance(deadline, str)
            else Rational(parse_number(str(deadline), "deadline"))
        )
        if not seconds > 0:
            raise InputError(f"deadline: a time is positive, not {clip(str(deadline))}")
        for piece in reversed(self.pieces):
            if seconds > piece.lower:
                return float(piece.probability.xreplace({self.deadline: seconds}))
        first = self.pieces[0]
        steady = bool(seconds == first.lower and first.rate.has(self.deadline))
        return float(first.probability.subs(self.deadline, seconds)) if steady else 0.0

    def within(self, probability: float) -> float:
        """The shortest deadline in seconds that is kept with a probability.

        Raises:
            InputError: it is none.
        """
        if not 0 < probability < 1:
            raise InputError(f"a probability lies between 0 and 1, not {clip(str(probability))}")
        return float(self.time.evaluate(**{self.over: self.channel.exceeded(probability)}))

    def __str__(self) -> str:
        return view_text("reliability_text", self)

    def _repr_html_(self) -> str:
        return view_text("text_html", str(self))


def reliability(
    compiled: Compiled,
    link: str,
    channel: Channel,
    metric: str = "latency",
    at: Mapping[str, Any] | None = None,
    **values: Any,
) -> Reliability:
    """How likely a program keeps each deadline where the rate of a link is random.

    Args:
        compiled: the program on its machine.
        link: the link, by name: ``network``, ``pcie`` …
        channel: how its rate is distributed.
        metric: the time, one of :data:`TIMES`.
        at, values: numbers for the sizes of the workload.

    Raises:
        InputError: the time does not depend on the link, or not as the reciprocal of its rate.
        HardwareError: there is no such link.
    """
    if metric not in TIMES:
        raise InputError(f"{clip(metric)} is no time{nearest(metric, TIMES)}")
    machine = compiled.bound or compiled.machine
    over = link_symbol_name("BW", link)
    wired = replace(machine.link(link), bandwidth=symbol(over))
    random = replace(machine, links=MappingProxyType({**machine.links, link: wired}))
    whole: Formula = getattr(replace(compiled, machine=random), metric)
    sizes = {**dict(at or {}), **values}
    time = whole.bind(**sizes)
    if symbol(over) not in time.symbols:
        raise InputError(f"{metric} does not depend on {link}: nothing waits for it")
    others = [s.name for s in time.symbols if s.name != over]
    if others:
        raise InputError(f"give numbers for {', '.join(others)}")
    deadline = unnamed("D")
    found = []
    for regime in reversed(tuple(regimes(time, over))):
        steady, share = _parts(regime.expr, symbol(over), metric)
        if share == 0:
            continue
        lower = steady if regime.upper == oo else steady + share / regime.upper
        upper = oo if regime.lower == 0 else steady + share / regime.lower
        rate = share / (deadline - steady)
        found.append(Kept(lower, upper, rate, channel.survival(rate)))
    return Reliability(metric, over, channel, tuple(found), deadline, time, compiled.setting, sizes)


def _parts(expr: Expr, rate: Expr, metric: str) -> tuple[Expr, Expr]:
    """``A`` and ``C`` of ``A + C/rate``.

    Raises:
        InputError: it is no such expression.
    """
    cleared = sympy.Poly(expand(expr * rate), rate) if expr.has(rate) else None
    if cleared is None:
        return expr, ZERO
    if cleared.degree() > 1 or any(c.has(rate) for c in cleared.all_coeffs()):
        raise InputError(f"{metric} is not a constant and a reciprocal of {rate}")
    return cleared.coeff_monomial(rate), cleared.coeff_monomial(ONE)


__all__ = [
    "Channel",
    "Exponential",
    "LogNormal",
    "Rayleigh",
    "Reliability",
    "Uniform",
    "reliability",
]
