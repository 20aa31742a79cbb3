"""What became of requests: times of each, means and quantiles, and whether they were steady."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.asking.serving.requests import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Quantiles that tables show, in per cent.
SHOWN = (50, 90, 99)
#: Parts of a run whose rates tell how far their mean is off.
PARTS = 10
#: Requests at the end over those halfway from which a server is called unsteady, and how many
#: more that takes at least.
GROWTH, FEW = 1.5, 8


@dataclass
class Served:
    """A request on its way.

    Attributes:
        left: tokens that are to be read before it decodes: of its prompt what no cache has;
            of one that was preempted all of it.
        made: tokens that it has got.
        begun, first, done: seconds at which it was admitted first, and at which its first and
            its last token came.
        preempted: how often it gave up its caches.
        servers: those that it came to, by number: one, or one for its prompt and one that decodes.
    """

    request: Request
    left: int
    made: int = 0
    begun: float = float("nan")
    first: float = float("nan")
    done: float = float("nan")
    preempted: int = 0
    servers: tuple[int, ...] = ()

    @classmethod
    def of(cls, request: Request) -> Served:
        """A request that has just come; what of its prompt is cached need not be read."""
        return cls(request, request.prompt - request.cached)

    @property
    def prompt(self) -> int:
        """Tokens of its prompt."""
        return self.request.prompt

    @property
    def goal(self) -> int:
        """Positions that are there when it begins to decode, or goes on."""
        return self.request.prompt + self.made

    @property
    def reserved(self) -> int:
        """Positions of the cache that it has at last."""
        return self.request.prompt + self.request.generate


@dataclass(frozen=True)
class Span:
    """Steps of a server in a row, as a picture shows them.

    Attributes:
        server: its number.
        start, seconds: when, and for how long.
        steps: how many.
        decodes: sequences that decode.
        tokens: tokens of prompts.
    """

    server: int
    start: float
    seconds: float
    steps: int
    decodes: int
    tokens: int


@dataclass(frozen=True)
class Simulated:
    """What became of requests; times in seconds, one place per request that was finished.

    Attributes:
        served: the requests, in order of arrival.
        span: seconds from the first arrival to the last token.
        busy: seconds of steps, over all servers.
        steps: how many there were.
        servers: how many servers there were; of a pipeline each of its groups counts.
        in_system: mean number of requests there, over time, as counted on the way.
        halfway, at_last: requests there when half of them had come, and when the last came;
            of a closed loop none.
        preemptions: how often a sequence gave up its caches.
        spans: the steps, where they were asked for.
        pipelined: servers that are further groups of a pipeline, not machines of their own.
    """

    served: tuple[Served, ...]
    span: float
    busy: float
    steps: int
    servers: int
    in_system: float
    halfway: int = 0
    at_last: int = 0
    preemptions: int = 0
    spans: tuple[Span, ...] = ()
    pipelined: int = 0

    @property
    def replicas(self) -> int:
        """Servers, with all groups of a pipeline as one."""
        return self.servers - self.pipelined

    @property
    def unsteady(self) -> str:
        """What must be said where more and more requests were there; else nothing."""
        if self.at_last <= GROWTH * self.halfway + FEW:
            return ""
        return (
            f"no steady state: {self.halfway} requests were there when half had come, "
            f"{self.at_last} when the last came; times depend on how many requests there are"
        )

    def _column(self, of: Any) -> NDArray[np.float64]:
        return np.array([of(s) for s in self.served], float)

    @cached_property
    def ttft(self) -> NDArray[np.float64]:
        """Arrival to first token."""
        return self._column(lambda s: s.first - s.request.arrival)

    @cached_property
    def latency(self) -> NDArray[np.float64]:
        """Arrival to last token."""
        return self._column(lambda s: s.done - s.request.arrival)

    @cached_property
    def tpot(self) -> NDArray[np.float64]:
        """Mean seconds per token after the first; of requests that have several."""
        found = (
            (s.done - s.first) / (s.request.generate - 1)
            for s in self.served
            if s.request.generate > 1
        )
        return np.array(list(found), float)

    @property
    def utilisation(self) -> float:
        """Share of the time for which servers ran steps."""
        return self.busy / (self.span * self.servers)

    @property
    def rate(self) -> float:
        """Requests finished per second."""
        return len(self.served) / self.span

    @property
    def throughput(self) -> float:
        """Generated tokens per second."""
        return sum(s.request.generate for s in self.served) / self.span

    def full(self, closed: int) -> tuple[float, float] | None:
        """What servers complete whose places are always taken: their largest rate, by simulation.

        Of a closed loop of as many requests as there are places, or more. The first quarter,
        which began together, and those that end without others behind them are left out.

        Args:
            closed: requests in flight.

        Returns:
            Requests per second, and the standard error as a share of it, by ten parts of the
            time; None where too few are left, or parts end in one moment.
        """
        ends = np.sort(self._column(lambda s: s.done))[len(self.served) // 4 :]
        ends = ends[: max(len(ends) - closed, 0)]
        if len(ends) < 2 * PARTS:
            return None
        edges = np.linspace(0, len(ends) - 1, PARTS + 1).astype(int)
        spans = np.diff(ends[edges])
        if (spans <= 0).any():
            return None
        rate = float((len(ends) - 1) / (ends[-1] - ends[0]))
        rates = np.diff(edges) / spans
        return rate, float(rates.std(ddof=1)) / PARTS**0.5 / rate

    def errors(self) -> dict[str, float]:
        """The standard error of each mean, as a share of it, by ten parts of the requests.

        Of requests that are drawn at one rate; where too few were served for ten parts, none. Of
        parts that hang together, as near the limit, it is too small.
        """
        found = {}
        for name in ("ttft", "tpot", "latency"):
            values: NDArray[np.float64] = getattr(self, name)
            if len(values) >= 2 * PARTS and (mean := float(values.mean())):
                parts = [float(part.mean()) for part in np.array_split(values, PARTS)]
                found[name] = float(np.std(parts, ddof=1)) / PARTS**0.5 / mean
        return found

    def quantile(self, of: str, percent: float) -> float:
        """A quantile of ``ttft``, ``tpot`` or ``latency``."""
        return float(np.percentile(getattr(self, of), percent))

    def each(self) -> list[dict[str, Any]]:
        """What became of each request, in order of arrival: tokens, and seconds on one clock.

        A closed loop's arrivals are when one came into it. ``tpot_s`` is the mean after the first
        token, None of an answer of one. Servers are numbered from 0, those of prompts first.
        """
        made = []
        for number, s in enumerate(self.served):
            r, rest = s.request, s.request.generate - 1
            tpot = (s.done - s.first) / rest if rest else None
            made.append({
                "request": number, "arrival_s": r.arrival, "prompt_tokens": r.prompt,
                "cached_tokens": r.cached, "generated_tokens": r.generate,
                "admitted_s": s.begun, "first_token_s": s.first, "last_token_s": s.done,
                "ttft_s": s.first - r.arrival, "tpot_s": tpot,
                "latency_s": s.done - r.arrival, "preemptions": s.preempted, "servers": s.servers,
            })  # fmt: skip
        return made

    def after(self, share: float) -> Simulated:
        """Requests without the first ``share`` of them, which found the server empty."""
        kept = self.served[int(len(self.served) * share) :]
        return replace(self, served=kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        times = {
            name: {"mean": float(values.mean()) if len(values) else None}
            | ({f"p{p}": self.quantile(name, p) for p in SHOWN} if len(values) else {})
            for name in ("ttft", "tpot", "latency")
            for values in (getattr(self, name),)
        }
        return {
            "requests": len(self.served), "seconds": self.span, "steps": self.steps,
            "servers": self.servers, "utilisation": self.utilisation,
            "requests_per_second": self.rate, "tokens_per_second": self.throughput,
            "in_system": self.in_system, "preemptions": self.preemptions, **times,
        }  # fmt: skip
