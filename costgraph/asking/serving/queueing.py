"""Open arrivals in closed form: stability, utilisation, mean times.

Requests come as a Poisson process of ``λ`` a second. ``x = λ·τ`` prompts are in each step of
``c`` sequences, and with ``t(c, j)`` the seconds of one with ``j`` prompts

    τ(c) = E[t(c, j)],   j binomial over the m places with mean x:

several prompts in a step cost more than as often one. Those that find the budget full run in
later steps, which fill up. Where prompts have steps one by one, or share full ones, a prompt keeps
``c`` sequences from decoding for ``X(c)`` seconds, and ``τ(c) = t(c) / (1 − λ·X(c))``.

``c`` sequences get ``c/τ(c)`` tokens a second between them, in equal shares:
processor sharing with a rate that depends on the number there. Its distribution depends on
the answers' mean length ``N`` alone (Cohen, Acta Informatica 12, 1979; insensitivity):

    π(c) ∝ Π_{i ≤ c} λ·((N − 1)·τ(i) + R) / i,

with ``R`` the seconds that prompts behind a request take when its own is done. Beside more
sequences than leave room in a step for the prompts that come, as many come through as have room.
That holds up to the limit ``m`` of sequences; who finds them all there waits, with a geometric
number of others: an approximation, as ``R`` is. For who waits, ``π`` is taken with the seconds
of a prompt in ``R``, since it takes a place as well, and the queue falls with ``λ/λ*``; its mean is
that of an M/M/m queue and becomes that of an M/G/m one by :func:`.settled.regular` (between M/M/m
and Cosmetatos' M/D/m). **One place** is an M/G/1 queue: with ``V`` the seconds of a request
alone its wait is ``λ·E[V²]/(2·(1 − λ·E[V]))`` (Pollaczek and Khinchine), exact. Hence by Little's
law

    tpot = E[min(n, m)] / (λ·(N − 1)),   stable for   λ < λ* = c / ((N − 1)·τ(c)),

at the ``c`` that leaves places for the prompts that are being read: each is read in ``s`` steps (a
whole prompt in one, chunks in ``S/(budget − c)`` and those in front, M/D/1), so
``c + s·x = m`` with ``x = c/(N − 1)``. Where prompts run **whole** nothing of that is approximate:
every place has one prompt's step and ``N − 1`` others for a request, whatever the rest do, so
``j`` prompts beside ``m − j`` sequences are binomial with ``1/N`` each, and ``λ* = m/(N·E[t])``;
prompts in steps of their own leave ``m`` to decode, ``λ* = m/((N − 1)·t(m) + m·E[Q])`` (renewal
and reward). What is left are contexts, taken at their mean, and tokens of several prompts, whose
spread is that of one by the root. Sequences are taken in all phases of their answers; requests
all alike that begin together stay in step, and a server may stand fewer. Where it only decodes,
the wait for the step in progress, half of one if there is any, comes to ``tpot``, in no place.

The first token waits for the step in progress, for prompts in front and for a place. Where
prompts have the server one by one (``Q`` seconds each, in a row),

    ttft = G + λ·E[Q²] / (2·(1 − λ·Q)) + (1 − π(0))·t/2 + E[(n − m)⁺]/λ

(M/G/1 with vacations, which decode steps are), with ``G`` the steps in which a prompt runs.
Where all that wait join the next step, its length follows from how many came in the last one, with
``X = (τ − t)/x`` what each adds on average; a prompt is read in the step that it joins, which has
more than ``x`` others, as most come in long steps:

    E[L] = τ,   Var[L] = Var[t(c, j)] / (1 − λ²·X²),   Λ = E[L²]/E[L],
    ttft = Λ/2 + E[t(c, j + 1)] + λ·X·(Λ − τ) + E[(n − m)⁺]/λ     (Λ = 0 where the server is empty).

**Replicas.** ``k`` servers with a router that gives a request to the one with the fewest hold
nearly equal numbers. So ``n`` sequences among them are ``n/k`` on each, and the same product
form has ``τ(n/k)`` with ``k·m`` places (an M/G/k of places whose pace depends on the number);
prompts queue at each as they would alone, at ``λ/k``.

**Pipelines.** The ``K`` groups in flight pass the stages one behind another, and none overtakes:
each step takes as long as the longest of theirs. Where a share ``y`` of steps has a prompt and
then takes ``s`` seconds, steps take ``t + (s − t)·(1 − (1 − y)^K)``; of those with ``j`` prompts
the distribution of the largest of ``K`` is taken. ``λ`` and ``λ*`` are one group's.

**Prompts whose lengths differ.** ``G`` is a mean over parts of all lengths, and ``E[Q²]`` where
prompts run one by one; else that has the second moment of lengths. In ``t(c, j)`` prompts that join
a step have what looks at positions as a mean over lengths, and ``Var[t(c, j)]`` has
``x·X²·(E[S²]/E[S]² − 1)`` more.

**Quantiles.** :mod:`.waits` has the distribution of a first token. Time per token is a mean of
``τ(c)`` over a request's own stay, normal with a share of the variance of ``τ(c)`` in one moment:
``2/3`` where answers are equal, as the number of an M/D/∞ queue averaged over one service time has.
Of servers that only decode the wait for the step in progress, evenly any part of it, is in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, e, hypot, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.asking.serving import forms, settled
from costgraph.asking.serving.policies import (
    ChunkedPrefill,
    Continuous,
    DecodeOnly,
    Policy,
    PrefillFirst,
)
from costgraph.asking.serving.requests import Lengths, hit
from costgraph.asking.serving.steps import StepTimes
from costgraph.asking.serving.waits import Waits
from costgraph.errors import InputError, clip
from costgraph.number import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Share of the variance of the pace in one moment that its mean over a stay has: answers that
#: are not equal, taken as exponential (2/e), and equal ones.
AVERAGED = (2 / e, 2 / 3)
#: Load up to which quantiles of first tokens are given.
HONEST = forms.HONEST
#: Parts of the lengths of prompts at which their steps are taken, where they differ.
LENGTHS = 24
#: The farthest quantile: tails beyond it are off by up to a third.
FARTHEST = 90
#: Places from which on quantiles of first tokens above the median are given (but for one place):
#: with fewer who waits for one, and how long, moves them by up to half (docs/serving.md).
SEVERAL = 12
#: How far first tokens above that load were below simulated ones, at most (docs/serving.md).
SHORT = 0.82
#: How far they were above, at most (benchmarks/serving_forms.py).
LONG = 1.3
CONDITIONS = (
    "open arrivals: Poisson, requests alike and independent, in all phases of their answers, "
    "steady state, mean contexts; "
    "sequences that decode share the server equally (exact below the limit of sequences), those "
    "above it wait in a geometric queue"
)
#: Times a prompt's own that an answer takes at least where the forms are honest.
ANSWERS = 20
BRIEF = (
    f"answers that take less than {ANSWERS} times as long as their prompts overlap too little for "
    "the closed forms: first tokens were down to half of simulated ones there, times per token up "
    "to twice: simulate"
)
LOW = (
    f"times marked ~: waits above {HONEST:.0%} of what a replica stands are mostly lower "
    f"estimates, by up to {SHORT:.0%} against the simulation, but up to {LONG:.0%} too long, as "
    "with drafts or cached prefixes; of one sequence at a time they are exact: simulate such a plan"
)
OVER = (
    "most/s marked ~: within limits by such waits, so mostly an upper estimate, by up to a third "
    "where a limit on first tokens is tight: simulate it at that rate"
)

ALIKE = (
    "requests all alike stay in step: where replicas of attention share a step (dp, or ep alone) "
    "their prompts fill the replicas together, and what such a server stands at most (most/s, λ*) "
    "is a lower estimate: DeepSeek-V3 with dp=8 completed 1.09 to 1.44 times as many in the "
    "simulation; lengths that vary do not"
)


def second_moment(lengths: Lengths) -> float:
    """Mean of the squared length over the square of the mean."""
    if lengths.spread == "uniform":
        return 1 + lengths.width**2 / 3
    return 1 + lengths.width**2 if lengths.spread == "lognormal" else 1.0


@dataclass(frozen=True)
class Queue:
    """Replicas under open arrivals; one unless told.

    Attributes:
        times: seconds of its steps.
        policy: prompts before decodes, whole in a step, or in chunks.
        prompt, generate: lengths.
        servers: replicas, of which the one with the fewest requests takes the next.
        cached: share of each prompt whose caches are there already.
    """

    times: StepTimes
    policy: Policy
    prompt: Lengths
    generate: Lengths
    servers: int = 1
    cached: float = 0.0

    def __post_init__(self) -> None:
        if type(self.policy) not in (PrefillFirst, Continuous, ChunkedPrefill, DecodeOnly):
            raise InputError(f"no closed form for the policy {self.policy.name}: simulate it")
        whole(self.servers, "servers of a queue")
        self.times.check(min(tokens for tokens, *_ in self.parts))
        if (end := max(self.S, self.context)) > self.times.longest:
            raise InputError(
                f"prompts end, or decodes are, at {end:g} positions, beyond the steps that are "
                f"tabulated: StepTimes(…, {ceil(end)}), not {self.times.longest}"
            )

    @property
    def S(self) -> int:
        """Tokens of a mean prompt."""
        return max(1, round(self.prompt.mean))

    @cached_property
    def fresh(self) -> int:
        """Tokens of a mean prompt that are read."""
        return self.S - hit(self.S, self.cached)

    @cached_property
    def parts(self) -> tuple[tuple[int, int, float], ...]:
        """Tokens of prompts, those that are read, and their share; one where all are alike."""
        found = zip(*self.prompt.weighed(LENGTHS), strict=True)
        each = ((max(1, round(tokens)), float(share)) for tokens, share in found)
        return tuple((s, s - hit(s, self.cached), share) for s, share in each)

    @property
    def kind(self) -> str:
        """The policy's name."""
        return self.policy.name

    @property
    def budget(self) -> int:
        """Tokens of a step, where the policy has such a number."""
        return getattr(self.policy, "budget", 0)

    @property
    def moment(self) -> float:
        """Mean of a prompt's squared length over the square of the mean."""
        return second_moment(self.prompt)

    @cached_property
    def varies(self) -> float:
        """Squared coefficient of variation of the time for which a request alone has a place.

        Over parts of the lengths of prompts and answers, whose variances are scaled to those of
        all lengths.
        """
        prompts, often = self.prompt.weighed(LENGTHS)
        answers, seldom = self.generate.weighed(LENGTHS)
        reads = [forms.reading(self, 0, *part[:2]) for part in self.parts]
        decodes = [
            max(n - 1, 0.0) / self.times.gain * self.times.decode(1, s + n / 2)
            for s, *_ in self.parts
            for n in answers
        ]
        read, decode = np.array(reads), np.array(decodes).reshape(len(reads), len(answers))
        by_prompt = read + decode @ seldom
        by_answer = often @ decode
        found = 0.0
        for values, tokens, shares, lengths in (
            (by_prompt, prompts, often, self.prompt),
            (by_answer, answers, seldom, self.generate),
        ):
            if len(values) > 1:
                told = _varied(tokens, shares) / float(shares @ tokens) ** 2
                found += _varied(values, shares) * (second_moment(lengths) - 1) / told
        return found / float(often @ by_prompt) ** 2

    @property
    def rounds(self) -> float:
        """Decode steps of a request: fewer than tokens where they are drafted."""
        return self.further / self.times.gain

    @property
    def further(self) -> float:
        """Tokens after the first, on average."""
        return forms.further_of(self.generate.mean)

    @property
    def context(self) -> float:
        """Mean context of sequences that decode: long answers are there longer."""
        return forms.context_of(self.prompt.mean, self.generate.mean, second_moment(self.generate))

    @property
    def limit(self) -> int:
        """Sequences at a time."""
        return self.policy.limit

    @cached_property
    def _known(self) -> dict[tuple[str, int], float]:
        return {}

    def _once(self, name: str, c: int, of: Callable[[Queue, int], float]) -> float:
        """A value at ``c`` sequences, kept: loads share them, and where nothing mixes all ``c``."""
        key = name, c if forms.mixes(self) else 0
        if key not in self._known:
            self._known[key] = of(self, c)
        return self._known[key]

    def step(self, c: int) -> float:
        """``t(c)``: seconds of a decode step of ``c`` sequences."""
        return self.times.decode(c, self.context) if c else 0.0

    def through(self, c: int) -> float:
        """``G``: seconds of the steps in which a prompt runs beside ``c`` sequences."""
        return self._once("through", c, forms.through)

    def own(self, c: int) -> float:
        """``Q``: seconds that prompts in a row need each: several may share a step."""
        return self._once("own", c, forms.own)

    def longer(self, c: int) -> float:
        """Seconds that a prompt of mixed length adds to a step that it joins above a mean one."""
        return self._once("longer", c, forms.longer)

    def squared(self, c: int) -> float:
        """``E[Q²]``, over lengths of prompts."""
        return self._once("squared", c, forms.squared)

    @cached_property
    def stable_rate(self) -> float:
        """``λ*``: requests per second below which the queue does not grow without end."""
        return float(self.servers * self._limit[0])

    @cached_property
    def _limit(self) -> tuple[float, float, float]:
        return forms.stable(self)

    @property
    def in_step(self) -> bool:
        """Whether requests all alike fill the replicas of a step together: see :data:`ALIKE`."""
        alike = self.prompt.spread == self.generate.spread == "fixed"
        return alike and self.times.replicas > 1 and self.limit > 1

    @property
    def exact(self) -> bool:
        """Whether one request at a time is served, whose mean wait has an exact form."""
        return settled.alone(self)

    @property
    def largest(self) -> float:
        """The stable rate of one replica."""
        return float(self._limit[0])

    @property
    def decoding(self) -> float:
        """Sequences that decode on a replica at the largest rate."""
        return self._limit[1]

    @property
    def brief(self) -> bool:
        """Whether answers are too short beside prompts for the forms: see :data:`BRIEF`.

        Prompts alone, in steps of their own, are an M/G/1 queue.
        """
        if (
            self.exact
            or self.kind == "decode-only"
            or (self.kind == "prefill-first" and self.further == 0)
        ):
            return False
        return self.rounds * self.step(1) < ANSWERS * self.own(1)

    @cached_property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Numbers of sequences, and the steps and prompts beside them; all places."""
        return forms.sampled(self)

    def least_tpot(self, rate: float) -> float:
        """Seconds per token that no number of sequences gets below at a rate: a lower bound."""
        if not self.further:
            return 0.0
        paces = forms.pace_at(self.tables[1], rate / self.servers)
        return self.rounds * float(paces.min()) / self.further

    def at(self, rate: float) -> Steady:
        """The steady state at ``rate`` requests per second.

        Raises:
            InputError: there is none.
        """
        if not 0 < rate < self.stable_rate:
            raise InputError(
                f"at {rate:.4g} requests a second the queue grows without end: the limit is "
                f"{self.stable_rate:.4g}"
            )
        seen, begun = settled.steady(self, rate)
        many = _Places(*map(float, seen))
        ttft, tpot, place, _ = map(float, settled.means_of(self, rate, seen, begun))
        spread = sqrt(many.variance * AVERAGED[self.generate.spread == "fixed"])
        spread = spread * tpot / many.pace if many.pace else 0.0
        if self.kind == "decode-only":
            spread = hypot(spread, self._behind(1 - many.empty, float(begun[6])))
        waits = Waits(
            self, rate / self.servers, int(begun[5]), many.empty, float(begun[6]),
            float(begun[1]), float(begun[2]), float(begun[3]), place, many.full,
        )  # fmt: skip
        return Steady(
            rate, self.stable_rate, many.inside, many.empty, ttft, tpot, place,
            self.further, waits, spread, self.brief, self.exact, self.in_step,
        )  # fmt: skip

    def _behind(self, busy: float, tau: float) -> float:
        """What the wait for the step in progress, of ``tau`` seconds, adds to the standard
        deviation of time per token: evenly any part of it where the server is busy."""
        return tau * sqrt(busy / 3 - busy**2 / 4) / self.further if self.further else 0.0


def _varied(values: NDArray[Any], shares: NDArray[Any]) -> float:
    """Variance of values that have a share each."""
    return float(shares @ (values - shares @ values) ** 2)


@dataclass(frozen=True)
class _Places:
    """Sequences that decode: the share of time without any, their mean, who waits for a place,
    variance and mean of the pace that a sequence sees, and how often all places are taken."""

    empty: float
    inside: float
    waiting: float
    variance: float
    pace: float
    full: float = 0.0


@dataclass(frozen=True)
class Steady:
    """Mean values of a server in steady state.

    Attributes:
        rate: requests per second.
        stable_rate: where there would be no steady state any more.
        decoding: sequences that decode.
        empty: share of the time without any.
        ttft: seconds to the first token.
        tpot: seconds per token after it, over all tokens.
        place: seconds of ``ttft`` that a request waits for a place.
        further: tokens after the first.
        waits: what the first token waits for.
        spread: standard deviation of a request's time per token.
        brief: answers are too short beside prompts for the forms; see :data:`BRIEF`.
        exact: one request at a time is served, whose mean wait has an exact form.
        in_step: the stable rate is a lower estimate; see :data:`ALIKE`.
    """

    rate: float
    stable_rate: float
    decoding: float
    empty: float
    ttft: float
    tpot: float
    place: float
    further: float
    waits: Waits = field(repr=False)
    spread: float
    brief: bool = False
    exact: bool = False
    in_step: bool = False

    @property
    def load(self) -> float:
        """The rate over the largest."""
        return self.rate / self.stable_rate

    @property
    def low(self) -> bool:
        """Whether waits are mostly lower estimates: above :data:`HONEST` of the largest rate."""
        return self.load > HONEST and not self.exact

    @property
    def waited(self) -> float:
        """Seconds per token after the first of who waits for a place with it already."""
        return self.tpot + (self.place / self.further if self.further > 0 else 0.0)

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return self.ttft + self.further * self.tpot

    @property
    def in_system(self) -> float:
        """Requests that are there (Little's law)."""
        return self.rate * self.latency

    def quantile(self, of: str, percent: float) -> float:
        """A quantile of ``ttft`` or ``tpot``; see above for what they rest on.

        Raises:
            InputError: there is no form: of others, beyond :data:`FARTHEST`, and of first
                tokens above :data:`HONEST` of the limit, or above the median of fewer than
                :data:`SEVERAL` places, but for one.
        """
        if not 0 < percent <= FARTHEST:
            raise InputError(
                f"quantiles have a closed form above 0 and up to {FARTHEST} %, not at {percent:g}: "
                "simulate"
            )
        if of == "tpot":
            return max(self.tpot + NormalDist().inv_cdf(percent / 100) * self.spread, 0.0)
        if of != "ttft":
            raise InputError(f"quantiles of {clip(of)} have no closed form: simulate")
        if self.load > HONEST:
            raise InputError(
                f"quantiles of ttft have a closed form up to {HONEST:.0%} of the limit, not at "
                f"{self.load:.0%}: simulate"
            )
        if percent > 50 and self.further and not self.exact and self.waits.places < SEVERAL:
            raise InputError(
                f"quantiles of ttft above the median have a closed form for one place and from "
                f"{SEVERAL} on, not for {self.waits.places}: simulate"
            )
        return float(np.quantile(self.waits.drawn(), percent / 100))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rate": self.rate, "stable_rate": self.stable_rate, "load": self.load,
            "decoding": self.decoding, "ttft": self.ttft, "tpot": self.tpot,
            "latency": self.latency, "in_system": self.in_system, "brief": self.brief,
        }  # fmt: skip
