"""Formulas of a report as MathML: each distinct one printed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from sympy import Expr

from costgraph.compiling.compiled import Compiled
from costgraph.compiling.energy import POWER, SECONDS_PER_HOUR
from costgraph.errors import CostgraphError
from costgraph.formula import Formula
from costgraph.formula.naming import DETAILS, named
from costgraph.showing.export.layout import of_expr, to_mathml
from costgraph.symbols import B, symbol

#: Longer formulas (in characters of MathML) help no reader and slow the page down.
_LONG = 120_000


class Printed:
    """Prints formulas; those of other devices are often equal, and are printed once.

    Args:
        text: keeps a piece of HTML and returns its index.
    """

    def __init__(self, text: Callable[[str], int]) -> None:
        self._text = text
        self._known: dict[Formula, dict[str, int]] = {}

    def of(self, compiled: Compiled, metrics: Mapping[str, Formula]) -> dict[str, dict[str, int]]:
        """For each metric the indices of its texts by detail."""
        twin = _Twin(compiled)
        found = {}
        for metric, formula in metrics.items():
            short = _relation(metric, compiled, formula)
            if short is not None:
                found[metric] = {"ops": self._text(short)}
                continue
            if formula not in self._known:
                self._known[formula] = self._details(metric, formula, twin)
            found[metric] = self._known[formula]
        return found

    def _details(self, metric: str, formula: Formula, twin: _Twin) -> dict[str, int]:
        other, dims = twin.formula(metric)
        found = {}
        for detail in DETAILS:
            if detail == "summary" and formula.unit != "s":
                continue  # amounts and rates have no lines per resource
            with suppress(CostgraphError):  # no closed form to summarise
                # The page lists the rates itself, with their values of the moment.
                shown = named(replace(formula, setting=None), detail, other, dims)
                html = replace(shown, rates={}).mathml()
                found[detail] = self._text(html if len(html) <= _LONG else _too_long(formula))
        return found


class _Twin:
    """The same model over symbols for its dimensions, compiled when first asked for."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self._made: Compiled | None = None
        self._tried = False

    def formula(self, metric: str) -> tuple[Formula | None, Mapping[Expr, Expr]]:
        """A metric over dimensions, if it has one, and the dimensions' values."""
        if not self._tried and self._compiled.twin is not None:
            # Some families and passes keep no symbolic dimensions: no derivations then.
            with suppress(CostgraphError):
                self._made = self._compiled.twin()
        self._tried = True
        # Pruning candidates of the memory peak in symbols takes seconds.
        if self._made is None or metric == "memory":
            return None, {}
        with suppress(CostgraphError):
            return getattr(self._made, metric), dict(self._made.program.dims)
        return None, {}


def _too_long(formula: Formula) -> str:
    return (
        f"<p>This formula has {len(formula.terms)} terms, too many to read here; "
        "<code>costgraph formula</code> prints it.</p>"
    )


def _relation(metric: str, compiled: Compiled, formula: Formula) -> str | None:
    """Metrics that are another one times a factor, as that; None for all others."""
    machine = compiled.machine
    generated = B * compiled.program.generated
    tokens, devices = math_of(generated), compiled.program.devices
    if metric == "throughput":
        return _equation(metric, f"<mfrac>{tokens}<mtext>latency</mtext></mfrac>")
    if metric == "energy" and POWER in formula.assumptions and machine.power is not None:
        watt = f"{math_of(devices * machine.power)}<mtext>W</mtext><mo>&#xB7;</mo>"
        return _equation(metric, f"<mrow>{watt}<mtext>latency</mtext></mrow>")
    if metric == "energy_per_token":
        return _equation(metric, f"<mfrac><mtext>energy</mtext>{tokens}</mfrac>")
    if metric == "cost_per_token":
        hour = machine.price.hour
        price = math_of(devices * (symbol("price") if hour is None else hour))
        top = f"<mrow>{price}<mo>&#xB7;</mo><mtext>latency</mtext></mrow>"
        body = f"<mfrac>{top}{math_of(SECONDS_PER_HOUR * generated)}</mfrac>"
        return _equation(metric, body) + f"<p>The price is in USD per hour {_payers(devices)}.</p>"
    return None


def _payers(devices: Expr) -> str:
    return "of the device" if devices == 1 else f"of each of {devices} devices"


def math_of(expr: Expr) -> str:
    """An expression as MathML, without the outermost element."""
    return to_mathml(of_expr(expr))


def _equation(metric: str, right: str) -> str:
    name = metric.replace("_", " ")
    return f'<math display="block"><mtext>{name}</mtext><mo>=</mo>{right}</math>'
