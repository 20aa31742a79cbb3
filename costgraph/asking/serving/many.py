"""Many simulated servers: every combination of loads, policies and replicas, also on dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from costgraph.asking.serving.caches import Paging
from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.pools import Pool
from costgraph.asking.serving.requests import Lengths, Request, at_once, poisson, same_prompt
from costgraph.asking.serving.simulate import simulate
from costgraph.asking.serving.steps import StepTimes
from costgraph.errors import InputError


@dataclass(frozen=True)
class Case:
    """One simulation, as plain values: it goes to other processes as it is.

    Attributes:
        model, on, passes: what is compiled; by name.
        policy: what steps take.
        prompt, generate: lengths.
        rate: requests per second; None in a closed loop.
        closed: requests in flight; None with a rate.
        requests, seed: how many, and of what is drawn.
        servers, paging, polls: as of a :class:`.Pool`.
        cached: share of each prompt that a cache of prefixes has.
        conventions: pairs for :func:`costgraph.compile`: ``(("fidelity", "calibrated"),)``.
    """

    model: str
    on: str
    passes: str
    policy: Policy
    prompt: Lengths
    generate: Lengths
    rate: float | None = None
    closed: int | None = None
    requests: int = 1000
    seed: int = 0
    servers: int = 1
    paging: Paging | None = None
    polls: int = 1
    cached: float = 0.0
    conventions: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if (self.rate is None) is (self.closed is None):
            raise InputError("a case has a rate, or requests in flight (closed)")

    @property
    def longest(self) -> int:
        """The longest context that one of its requests has."""
        return max(r.prompt + r.generate for r in self.drawn())

    def drawn(self) -> tuple[Request, ...]:
        """Its requests."""
        if self.rate is None:
            return at_once(self.requests, self.prompt, self.generate, self.seed, self.cached)
        return poisson(self.rate, self.requests, self.prompt, self.generate, self.seed, self.cached)


def run(case: Case) -> dict[str, Any]:
    """Means, quantiles and counts of one case; see :meth:`.Simulated.to_dict`.

    Raises:
        CostgraphError: what is wrong with it, in one line.
    """
    asked = case.model, case.on, case.passes, case.conventions, _reach(case.longest)
    times, requests = _times(*asked), case.drawn()
    if times.memories.asks_prompt:
        times = _times(*asked, same_prompt(requests))
    pool = Pool(
        times, case.policy, case.servers, paging=case.paging, polls=case.polls,
        prompt=max(r.prompt for r in requests),
    )  # fmt: skip
    seen = simulate(requests, pool, closed=case.closed)
    beyond = times.compiled.program.beyond(case.longest)
    return seen.to_dict() | {"caution": "; ".join(filter(None, (beyond, seen.unsteady)))}


def _reach(longest: int) -> int:
    """The next power of two: cases of about one length share their tables."""
    return 1 << max(longest - 1, 1).bit_length()


@lru_cache(maxsize=16)
def _times(
    model: str,
    on: str,
    passes: str,
    conventions: tuple[tuple[str, Any], ...],
    longest: int,
    prompt: int | None = None,
) -> StepTimes:
    from costgraph.compiling.compilation import compile

    return StepTimes.of(compile(model, on, passes, **dict(conventions)), longest, prompt)


def simulate_many(
    cases: Sequence[Case],
    *,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Runs every case; the results stand in the order of the cases.

    Args:
        cases: what is simulated.
        client: a ``dask.distributed`` client whose workers run them; None: here, one by one.
        progress: told how many are done, and of how many.
    """
    found: list[dict[str, Any]] = []
    results: Iterator[dict[str, Any]] = map(run, cases)
    if client is not None:
        futures = client.map(run, list(cases), pure=True)
        results = (f.result() for f in futures)
    for i, result in enumerate(results, 1):
        found.append(result)
        if progress is not None:
            progress(i, len(cases))
    return found
