"""How likely a deadline is kept where the rate of a link is random, in closed form.

A time falls as a link gets faster: on each of its regimes it is ``A + C/R`` with the rate
``R``. So a deadline ``D`` is kept from the rate ``C/(D − A)`` on, and how likely that is the
distribution of the rate says. The rate is drawn once, and stays for the whole task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr, Integer, Rational, expand, oo

from costgraph.asking.channels import Channel, Exponential, LogNormal, Rayleigh, Uniform, parse
from costgraph.compiling.capacity import fit
from costgraph.compiling.fits import Fit
from costgraph.errors import InputError, clip, nearest, unbound
from costgraph.formula.regimes import regimes
from costgraph.hardware.machine import link_symbol_name
from costgraph.ir.metrics import TIMES
from costgraph.number import parse_number
from costgraph.symbols import symbol, unnamed
from costgraph.units import parse_quantity
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Kept:
    """One range of deadlines: the rate that is needed, and how likely it is there.

    Attributes:
        lower, upper: the range, in seconds.
        steady, share: ``A`` and ``C`` of the time ``A + C/R`` there, in seconds and byte.
        rate: ``C/(D − A)`` in byte/s.
        probability: that the link has it.
    """

    lower: Expr
    upper: Expr
    steady: Expr
    share: Expr
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
        fit: the memory that the workload needs, against what there is.
        workload: the sizes that it was asked for.
        setting: what it is about.
    """

    metric: str
    over: str
    channel: Channel
    pieces: tuple[Kept, ...]
    deadline: Expr
    time: Formula = field(compare=False, repr=False)
    fit: Fit = field(compare=False, repr=False)
    setting: Setting | None = field(default=None, compare=False, repr=False)
    workload: Mapping[str, Any] = field(default_factory=dict)

    def at(self, deadline: str | float) -> float:
        """``P(time <= deadline)``.

        Raises:
            InputError: it is no time.
        """
        seconds = self.seconds(deadline)
        for piece in reversed(self.pieces):
            if seconds > piece.lower:
                return float(piece.probability.xreplace({self.deadline: seconds}))
        first = self.pieces[0]
        steady = bool(seconds == first.lower and first.rate.has(self.deadline))
        return float(first.probability.subs(self.deadline, seconds)) if steady else 0.0

    @staticmethod
    def seconds(deadline: str | float) -> Expr:
        """A deadline in seconds, of a number or a text with its unit.

        Raises:
            InputError: it is no time.
        """
        found = (
            parse_quantity(deadline, "time", "deadline")
            if isinstance(deadline, str)
            else Rational(parse_number(str(deadline), "deadline"))
        )
        if not found > 0:
            raise InputError(f"deadline: a time is positive, not {clip(str(deadline))}")
        return found

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
    channel: Channel | str,
    metric: str = "latency",
    at: Mapping[str, Any] | None = None,
    **values: Any,
) -> Reliability:
    """How likely a program keeps each deadline where the rate of a link is random.

    Args:
        compiled: the program on its machine.
        link: the link, by name: ``network``, ``pcie`` …
        channel: how its rate is distributed, or the text of a channel
            (:func:`costgraph.asking.channels.parse`).
        metric: the time, one of :data:`costgraph.ir.metrics.TIMES`.
        at, values: numbers for the sizes of the workload.

    Raises:
        InputError: the time does not depend on the link, or not as the reciprocal of its rate.
        UnboundSymbolError: a size has no number.
        HardwareError: there is no such link.
    """
    if metric not in TIMES:
        raise InputError(f"{clip(metric)} is no time{nearest(metric, TIMES)}")
    channel = parse(channel) if isinstance(channel, str) else channel
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
        raise unbound("reliability", others, time.meanings)
    deadline = unnamed("D")
    found = []
    for regime in reversed(tuple(regimes(time, over))):
        steady, share = _parts(regime.expr, symbol(over), metric)
        if share == 0:
            continue
        lower = steady if regime.upper == oo else steady + share / regime.upper
        upper = oo if regime.lower == 0 else steady + share / regime.lower
        rate = share / (deadline - steady)
        found.append(Kept(lower, upper, steady, share, rate, channel.survival(rate)))
    setting = None
    if compiled.setting is not None:
        setting = compiled.setting.assuming(*_said(link, compiled.setting.fidelity))
    return Reliability(
        metric, over, channel, tuple(found), deadline, time, fit(compiled, sizes), setting, sizes
    )


def _said(link: str, fidelity: str) -> Iterator[str]:
    """What a probability rests on."""
    yield f"reliability: the rate of {link} is drawn once for a request, and stays for all of it"
    if fidelity == "ideal":
        yield (
            "reliability: all else takes the least time that it can, so that deadlines are kept "
            "at most as often"
        )


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
