"""A server under constant load: time per token and latency as formulas.

A closed loop keeps ``c`` requests in flight: each has a prompt of ``S`` tokens,
generates ``N`` and is replaced as soon as it ends. The server runs one step at a
time: a prefill of one prompt, ``P(S)``, or a decode step of all ``c`` requests.
Every decode step advances every request, so ``N − 1`` of them pass per request,
``D = Σ step(c, T)`` over ``T = S + 1 … S + N − 1`` seconds; meanwhile each of the
``c`` places takes one prefill. A request therefore stays

    latency = D + c·P,

whatever the order in which prefills and decode steps run. The order only shares
this time between the wait for the first token and the time per token:

    tpot = (D + α·(c − 1)·P) / (N − 1),      ttft = P + (1 − α)·(c − 1)·P.

``α`` is the share of the other requests' prefills that fall between a request's
first and last token: 1 if requests come and go at different times, 1/2 if they
start together and end together (request ``i`` of ``c`` then waits for ``i − 1``
prefills and is held up by ``c − i``).

A mean-field approximation: all places hold the mean request, no decode step runs
with fewer than ``c`` requests, host work and the step that is running when a
request arrives are left out. Servers that put a prompt into a decode step instead
of a step of its own read the weights once for both: such a joint step takes at
least as long as each part, so it saves at most ``min(P, D / (N − 1))`` per prompt
(:func:`shared_tpot` is the lower bound).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from sympy import Integer, Rational, Symbol

from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.terms import Arm, Limit, Term, merged
from costgraph.symbols import B, N, symbol
from costgraph.timing import roofline
from costgraph.timing.fidelity.first_token import first_token, served_frameworks
from costgraph.timing.fidelity.frameworks import exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costgraph.asking.serving.requests import Request
    from costgraph.compiling.compiled import Compiled

ONE = Integer(1)
HALF = Rational(1, 2)
#: Requests in flight.
c: Symbol = symbol("c")
IN_FLIGHT = Limit(ONE, c, "a request is in flight in every formula")
MEAN_FIELD = (
    "closed loop in steady state, mean field: c equal requests in flight, one prefill or one "
    "decode step of all of them at a time, no host time"
)


@dataclass(frozen=True)
class Serving:
    """Formulas of a server with ``c`` requests in flight, over ``c``, ``S`` and ``N``.

    ``N`` must exceed one. For ``c = 1`` they are those of a single request.

    Attributes:
        compiled: the model on its device.
    """

    compiled: Compiled

    def __post_init__(self) -> None:
        self.compiled.program.check_served()
        if not any(p.span is not None for p in self.compiled.program.phases):
            raise InputError(f"{self.compiled.program.name} has no decode steps to serve")

    @cached_property
    def prefill(self) -> Formula:
        """``P``: seconds until the first token of one request alone, over ``S``."""
        alone = self.compiled.ttft.substitute({B: ONE})
        return replace(alone, limits=(*alone.limits, IN_FLIGHT))

    @cached_property
    def step(self) -> Formula:
        """Mean seconds of a decode step of ``c`` requests, over a request's contexts."""
        compiled = self.compiled
        # Divided term by term: what does not depend on the context loses its N.
        terms = (
            replace(term, count=term.count / (N - 1))
            for phase in compiled.program.phases
            if phase.span is not None
            for term in roofline.spanned(phase, compiled.time(phase.name).terms)
        )
        whole = replace(compiled.latency, name="step", terms=merged(terms))
        return whole.substitute({B: c})

    @cached_property
    def latency(self) -> Formula:
        """Mean seconds that a request stays, from its arrival to its last token."""
        return self._named("latency", self.step * (N - 1) + self.prefill * c)

    @cached_property
    def tpot(self) -> Formula:
        """Mean seconds per token after the first; requests start at different times."""
        return self._tpot("tpot", ONE)

    @cached_property
    def tpot_in_step(self) -> Formula:
        """The same if all requests start together and end together."""
        return self._tpot("tpot_in_step", HALF)

    @cached_property
    def ttft(self) -> Formula:
        """Seconds to the first token without any wait: the least there is."""
        return self._named("ttft", self.prefill)

    @cached_property
    def ttft_in_step(self) -> Formula:
        """Mean seconds to the first token if all requests start together."""
        return self._named("ttft_in_step", self.prefill * ((c + 1) / 2))

    @cached_property
    def ttft_served(self) -> Formula:
        """Mean seconds to the first token as servers of the framework were measured to have it.

        Fitted to whole runs (:mod:`costgraph.timing.fidelity.first_token`): what waits before and
        between steps is in it, which the other formulas leave out.

        Raises:
            InputError: the fidelity is not ``calibrated@`` a framework whose servers were timed.
        """
        timing = self.compiled.timing
        if timing is None or timing.band:
            raise InputError(
                "first tokens of loaded servers were fitted to calibrated times of a framework: "
                "compile with fidelity calibrated@vllm, @trtllm or @sglang"
            )
        form = first_token(timing.framework)
        plain = self
        if timing.host:  # which the form has seen in the runs
            plain = Serving(replace(self.compiled, timing=replace(timing, host=0.0)))
        v = {name: exact(value) for name, value in form.values.items()}
        before = replace(
            plain.prefill, terms=(Term(ONE, (Arm(v["h0"], "latency"),), ("server",)),), limits=()
        )
        waits = plain.prefill * (v["a"] * c ** v["g"])
        made: Formula = before + waits + plain.step * v["b"]
        told = None if made.setting is None else made.setting.assuming(form.said, *self._stated)
        return replace(made, name="ttft_served", setting=told)

    @cached_property
    def throughput(self) -> Formula:
        """Generated tokens per second of the server: ``c·N / latency``."""
        return replace(self.latency, name="throughput", unit="token/s", numerator=c * N)

    def _tpot(self, name: str, share: Rational) -> Formula:
        return self._named(name, self.step + self.prefill * (share * (c - 1) / (N - 1)))

    def _named(self, name: str, formula: Formula) -> Formula:
        setting = formula.setting
        told = None if setting is None else setting.assuming(MEAN_FIELD, *self._stated)
        return replace(formula, name=name, setting=told)

    @property
    def _stated(self) -> tuple[str, ...]:
        return self.compiled.program.stated


def first_tokens(
    compiled: Compiled, requests: Sequence[Request], each: float
) -> tuple[float, str] | None:
    """Mean seconds to the first token as a framework's servers were measured, and what is said.

    Of requests of a closed loop with ``each`` in flight on a server, at their mean lengths; None
    where no framework is named whose servers were timed, or replicas share a step.
    """
    timing = compiled.timing
    if timing is None or timing.band or timing.framework not in served_frameworks():
        return None
    if compiled.program.replicas != 1:  # the form is of a prompt on all of a server's devices
        return None
    prompt, answer = (
        max(least, round(sum(getattr(r, of) for r in requests) / len(requests)))
        for of, least in (("prompt", 1), ("generate", 2))
    )
    seconds = float(Serving(compiled).ttft_served(c=each, S=prompt, N=answer))
    return seconds, first_token(timing.framework).said


def shared_tpot(step: float, prefill: float, c: float, N: float) -> float:
    """Least seconds per token where every prompt joins a decode step.

    Args:
        step: seconds of a decode step.
        prefill: seconds of a prompt in a step of its own.
        c: requests in flight.
        N: generated tokens.
    """
    joined = min(c - 1, N - 1)  # no more prompts than steps to join
    return step + ((c - 1) * prefill - joined * min(step, prefill)) / (N - 1)
