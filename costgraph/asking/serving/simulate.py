"""A server event by event: steps take what the formulas say.

The engine is SimPy (the extra ``serve``). A server that only decodes runs many steps as one
event, and is woken where a request arrives.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.requests import Request
from costgraph.asking.serving.steps import WHOLE, StepTimes
from costgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Quantiles that tables show, in per cent.
SHOWN = (50, 90, 99)
#: Requests at the end over those halfway from which a server is called unsteady, and how many
#: more that takes at least.
GROWTH, FEW = 1.5, 8
#: Seconds up to which a clock in floating point tells steps apart.
LONGEST = 1e9
COUNTED = (
    "all requests count: the first, which find servers empty, and the last, which are left alone"
)


@dataclass
class Served:
    """A request on its way.

    Attributes:
        left: tokens of its prompt that are to do.
        first, done: seconds at which its first and its last token came.
    """

    request: Request
    left: int
    first: float = float("nan")
    done: float = float("nan")

    @property
    def prompt(self) -> int:
        """Tokens of its prompt."""
        return self.request.prompt

    @property
    def reserved(self) -> int:
        """Positions of the cache that are kept for it."""
        return self.request.prompt + self.request.generate


@dataclass(frozen=True)
class Simulated:
    """What became of requests; times in seconds, one place per request that was finished.

    Attributes:
        served: the requests, in order of arrival.
        span: seconds from the first arrival to the last token.
        busy: seconds of steps, over all servers.
        steps: how many there were.
        servers: how many servers there were.
        in_system: mean number of requests there, over time, as counted on the way.
        halfway, at_last: requests there when half of them had come, and when the last came;
            of a closed loop none.
    """

    served: tuple[Served, ...]
    span: float
    busy: float
    steps: int
    servers: int
    in_system: float
    halfway: int = 0
    at_last: int = 0

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

    def quantile(self, of: str, percent: float) -> float:
        """A quantile of ``ttft``, ``tpot`` or ``latency``."""
        return float(np.percentile(getattr(self, of), percent))

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
            "in_system": self.in_system, **times,
        }  # fmt: skip


@dataclass
class Server:
    """One replica: its queue, and what decodes.

    Attributes:
        env: SimPy's environment.
        times: seconds of its steps.
        policy: what it puts into them.
        pool: whose caches it has room for.
        hands_on: where requests go after their first token; None: they decode here.
    """

    env: Any
    times: StepTimes
    policy: Policy
    pool: Pool
    tally: Tally
    hands_on: Any = None
    queue: deque[Served] = field(default_factory=deque)
    prompts: list[Served] = field(default_factory=list)
    ends: list[tuple[int, int, Served]] = field(default_factory=list)
    width: int = 0
    contexts: float = 0.0
    reserved: int = 0
    count: int = 0
    process: Any = None
    idle: Any = None
    resting: bool = False
    stepping: bool = False
    load: int = 0

    def give(self, served: Served) -> None:
        """A request arrives, with or without its prompt done."""
        self.pool.check(served.reserved)
        self.queue.append(served)
        self.load += 1
        if self.resting:
            self.resting = False
            self.idle.succeed()
        elif self.stepping and self._admissible():
            self.stepping = False
            self.process.interrupt()

    @property
    def decoding(self) -> int:
        """Sequences in a decode step, those that only keep their place included."""
        return self.width

    def _admissible(self) -> bool:
        if not self.queue or len(self.prompts) + self.width >= self.policy.limit:
            return False
        if self.policy.holds and self.width:
            return False
        return self.reserved + self.pool.takes(self.queue[0].reserved) <= self.pool.room

    def _admit(self) -> None:
        while self._admissible():
            served = self.queue.popleft()
            self.reserved += self.pool.takes(served.reserved)
            if served.left:
                self.prompts.append(served)
            else:
                self._decodes(served)

    def _decodes(self, served: Served) -> None:
        self.width += 1
        self.count += 1
        self.contexts += served.prompt + 1
        heapq.heappush(self.ends, (self._steps + served.request.generate - 1, self.count, served))

    _steps: int = 0

    def run(self) -> Generator[Any, Any, None]:
        """The server's life, as a process of SimPy."""
        import simpy

        while True:
            self._admit()
            if not self.prompts and not self.width:
                self.resting, self.idle = True, self.env.event()
                yield self.idle
                continue
            plan = self.policy.step(self.prompts, self.width)
            if plan.chunks:
                yield from self._mixed(plan.chunks, plan.decodes)
                continue
            most = self.ends[0][0] - self._steps
            row, start = self.times.row(self.width), self.times.place(self.contexts / self.width)
            most = min(most, max(1, self.times.longest + 1 - start))
            begun, whole = self.env.now, float(row[start - 1 + most] - row[start - 1])
            done = most
            self.stepping = True
            try:
                yield self.env.timeout(whole)
            except simpy.Interrupt:
                # The step that is running ends first.
                past = row[start - 1] + (self.env.now - begun)
                done = int(np.searchsorted(row[start : start + most], past, "left")) + 1
                done = min(done, most)
                whole = float(row[start - 1 + done] - row[start - 1])
                rest = begun + whole - self.env.now
                if rest > 0:
                    yield self.env.timeout(rest)
            self.stepping = False
            self._advance(done, whole)

    def _mixed(self, chunks: Sequence[int], decodes: bool) -> Generator[Any, Any, None]:
        taken = [(s, n) for s, n in zip(self.prompts, chunks, strict=False)]
        width = self.width if decodes else 0
        parts = [(n, s.prompt - s.left + n) for s, n in taken]
        seconds = self.times.step(width, self.contexts / width if width else 0, parts)
        yield self.env.timeout(seconds)
        for served, n in taken:
            served.left -= n
        finished = [s for s, _ in taken if not s.left]
        self.prompts = [s for s in self.prompts if s.left]
        if width:
            self._advance(1, seconds)
        else:
            self.tally.step(seconds, 1)
        for served in finished:
            served.first = self.env.now
            if served.request.generate == 1:
                self._leave(served)
            elif self.hands_on is not None:
                self.reserved -= self.pool.takes(served.reserved)
                self.load -= 1
                self.hands_on(served)
            else:
                self._decodes(served)

    def _advance(self, steps: int, seconds: float) -> None:
        self._steps += steps
        self.contexts += steps * self.width
        self.tally.step(seconds, steps)
        while self.ends and self.ends[0][0] <= self._steps:
            _, _, served = heapq.heappop(self.ends)
            if not self.policy.holds:
                self.width -= 1
                self.contexts -= served.reserved
            self._leave(served)
        if not self.ends:
            self.width, self.contexts = 0, 0.0

    def _leave(self, served: Served) -> None:
        served.done = self.env.now
        self.reserved -= self.pool.takes(served.reserved)
        self.load -= 1
        self.tally.leave(served)


@dataclass
class Tally:
    """Counts on the way: requests in the system over time, steps, what follows a departure."""

    env: Any
    then: Any = None
    served: list[Served] = field(default_factory=list)
    inside: int = 0
    area: float = 0.0
    at: float = 0.0
    busy: float = 0.0
    steps: int = 0

    def _move(self, by: int) -> None:
        self.area += self.inside * (self.env.now - self.at)
        self.at = self.env.now
        self.inside += by

    def enter(self) -> None:
        """A request arrives."""
        self._move(1)

    def leave(self, served: Served) -> None:
        """A request has its last token."""
        self._move(-1)
        self.served.append(served)
        if self.then is not None:
            self.then()

    def step(self, seconds: float, count: int) -> None:
        """Steps were run."""
        self.busy += seconds
        self.steps += count


@dataclass(frozen=True)
class Pool:
    """Equal servers.

    Attributes:
        times: seconds of their steps.
        policy: what they put into them.
        servers: how many; requests go to the one with the fewest.
        positions: positions of caches that each holds; None: what its memory has room for.
    """

    times: StepTimes
    policy: Policy
    servers: int = 1
    positions: int | None = None

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise InputError(f"a pool has at least one server, not {self.servers}")

    @property
    def room(self) -> int:
        """What each server has for caches: positions, or parts of its memory."""
        return WHOLE if self.positions is None else self.positions

    def takes(self, positions: int) -> int:
        """How much of it a request takes."""
        return self.times.taken(positions) if self.positions is None else positions

    def check(self, positions: int) -> None:
        """Refuse a request that no server has room for."""
        taken = self.takes(positions)
        if taken <= self.room:
            return
        if self.positions is None:
            room = f"the memory: its caches are {taken / WHOLE:.4g} times what weights leave"
        else:
            room = f"the {self.room} of caches"
        raise InputError(f"a request of {positions} positions does not fit {room}")


@dataclass(frozen=True)
class Transfer:
    """Caches on their way from prompts to decodes.

    Attributes:
        latency: seconds before the first byte arrives.
        bytes_per_second: of the link between two servers.
        position: byte of caches per position.
    """

    latency: float
    bytes_per_second: float
    position: float

    def seconds(self, prompt: int) -> float:
        """Seconds for the caches of a prompt."""
        return self.latency + self.position * prompt / self.bytes_per_second


def simulate(
    requests: Iterable[Request],
    pool: Pool,
    *,
    decode: Pool | None = None,
    transfer: Transfer | None = None,
    closed: int | None = None,
) -> Simulated:
    """Serves requests to the last one.

    Args:
        requests: in order of arrival; of a closed loop their times play no part.
        pool: the servers; of prompts alone where there is a pool that decodes.
        decode: servers that take requests after their first token.
        transfer: what it takes to bring caches there; None: no time.
        closed: so many requests are there at any time: each is followed by the next.

    Raises:
        InputError: a request does not fit in memory, or SimPy is not installed.
    """
    simpy = _engine()
    given = list(requests)
    if not given:
        raise InputError("there are no requests to serve")
    if closed is None and given[-1].arrival > LONGEST:
        raise InputError(
            f"requests arrive over {given[-1].arrival:.3g} s: at most {LONGEST:.0e} are simulated"
        )
    env = simpy.Environment()
    tally = Tally(env)
    later: list[Server] = []
    if decode is not None:
        later = _started(env, decode, tally)

    def moved(served: Served) -> None:
        def process() -> Generator[Any, Any, None]:
            yield env.timeout(0 if transfer is None else transfer.seconds(served.prompt))
            min(later, key=lambda s: s.load).give(served)

        env.process(process())

    first = _started(env, pool, tally, moved if later else None)

    def enter(request: Request) -> None:
        tally.enter()
        min(first, key=lambda s: s.load).give(Served(request, request.prompt))

    seen: list[int] = []
    if closed is None:

        def arrivals() -> Generator[Any, Any, None]:
            for request in given:
                if request.arrival > env.now:
                    yield env.timeout(request.arrival - env.now)
                seen.append(tally.inside)
                enter(request)

        env.process(arrivals())
    else:
        if closed < 1:
            raise InputError(f"a closed loop keeps at least one request, not {closed}")
        coming = iter(given)

        def following() -> None:
            request = next(coming, None)
            if request is not None:
                now = Request(env.now, request.prompt, request.generate)
                enter(now)

        tally.then = following

        def opening() -> Generator[Any, Any, None]:
            for _ in range(min(closed, len(given))):
                following()
            yield env.timeout(0)

        env.process(opening())
    env.run()
    if len(tally.served) != len(given):
        raise InputError(f"{len(given) - len(tally.served)} requests were never served")
    served = tuple(sorted(tally.served, key=lambda s: s.request.arrival))
    span = env.now - served[0].request.arrival
    servers = len(first) + len(later)
    halfway, at_last = (seen[len(seen) // 2], seen[-1]) if seen else (0, 0)
    return Simulated(
        served, span, tally.busy, tally.steps, servers, tally.area / span, halfway, at_last
    )


def _started(env: Any, pool: Pool, tally: Tally, hands_on: Any = None) -> list[Server]:
    made = [
        Server(env, pool.times, pool.policy, pool, tally, hands_on) for _ in range(pool.servers)
    ]
    for server in made:
        server.process = env.process(server.run())
    return made


def _engine() -> Any:
    try:
        import simpy
    except ImportError:
        raise InputError("simulations need SimPy: pip install 'costgraph[serve]'") from None
    return simpy
