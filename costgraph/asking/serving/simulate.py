"""Servers event by event: steps take what the formulas say.

The engine is SimPy (the extra ``serve``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from costgraph.asking.serving.pools import Pool, Transfer
from costgraph.asking.serving.requests import Request
from costgraph.asking.serving.served import Served, Simulated
from costgraph.asking.serving.server import Server, Tally
from costgraph.errors import InputError
from costgraph.number import whole

#: Seconds up to which a clock in floating point tells steps apart.
LONGEST = 1e9
COUNTED = (
    "all requests count: the first, which find servers empty, and the last, which are left alone"
)

CACHED = (
    "cached prefixes are there when a request comes, wherever it goes, and are not read again; "
    "room is counted for all of every prompt, as if no two shared any"
)


def simulate(
    requests: Iterable[Request],
    pool: Pool,
    *,
    decode: Pool | None = None,
    transfer: Transfer | None = None,
    closed: int | None = None,
    spans: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Simulated:
    """Serves requests to the last one.

    Args:
        requests: in order of arrival; of a closed loop their times play no part.
        pool: the servers; of prompts alone where there is a pool that decodes.
        decode: servers that take requests after their first token.
        transfer: what it takes to bring caches there; None: no time.
        closed: so many requests are there at any time: each is followed by the next.
        spans: keep every step, for a picture.
        progress: told how many requests are done, and of how many, now and then.

    Raises:
        InputError: a request does not fit in memory, or its prompt is too short for its images,
            they are not in order, there are fewer than a closed loop keeps in flight, servers look
            for requests when none come, or SimPy is not installed.
    """
    simpy = _engine()
    given = list(requests)
    if not given:
        raise InputError("there are no requests to serve")
    pool.times.check(min(r.prompt for r in given))
    if pool.polls > 1 and (closed is not None or decode is not None):
        idle = "servers of prompts do not decode" if decode else "requests come as others end"
        raise InputError(f"{idle}: no looks for new requests while decoding (polls)")
    if closed is None and any(b.arrival < a.arrival for a, b in pairwise(given)):
        raise InputError("requests of open arrivals are in order of arrival: sort them by it")
    if closed is None and given[-1].arrival > LONGEST:
        raise InputError(
            f"requests arrive over {given[-1].arrival:.3g} s: at most {LONGEST:.0e} are simulated"
        )
    env = simpy.Environment()
    tally = Tally(env, spans=[] if spans else None)
    later: list[Server] = []
    handed = None
    if decode is not None:
        later = _started(env, decode, tally, pool.lanes)
        handed = _Moving(env, later, decode.times.lanes, transfer)
    first = _started(env, pool, tally, 0, handed)

    def enter(request: Request) -> None:
        tally.enter()
        min(first, key=lambda s: s.load).give(Served.of(request))

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
        if len(given) < whole(closed, "requests in flight"):
            raise InputError(
                f"a closed loop of {closed} requests in flight needs as many, not {len(given)}"
            )
        coming = iter(given)

        def following() -> None:
            request = next(coming, None)
            if request is not None:
                now = replace(request, arrival=env.now)
                enter(now)

        tally.then = following

        def opening() -> Generator[Any, Any, None]:
            for _ in range(closed):
                following()
            yield env.timeout(0)

        env.process(opening())
    if progress is not None:
        tally.watched = lambda done: progress(done, len(given))
    env.run()
    if len(tally.served) != len(given):
        raise InputError(f"{len(given) - len(tally.served)} requests were never served")
    served = tuple(sorted(tally.served, key=lambda s: s.request.arrival))
    span = env.now - served[0].request.arrival
    servers = len(first) + len(later)
    pipelined = sum(x.servers * (x.times.lanes - 1) for x in (pool, decode) if x is not None)
    halfway, at_last = (seen[len(seen) // 2], seen[-1]) if seen else (0, 0)
    return Simulated(
        served, span, tally.busy, tally.steps, servers, tally.area / span, halfway, at_last,
        tally.preemptions, tuple(tally.spans or ()), pipelined,
    )  # fmt: skip


class _Moving:
    """Caches on their way from servers of prompts to those that decode.

    A replica sends the caches of one request after the other, and takes them in so; they
    hold both ends for as long as their bytes take, and come a latency later. A request goes to
    the server with the fewest, those included whose caches are on their way there.
    """

    def __init__(
        self, env: Any, later: Sequence[Server], lanes: int, transfer: Transfer | None
    ) -> None:
        self.env, self.later, self.transfer = env, later, transfer
        self.ends = [_ports(server.pool, env) for server in later[::lanes]]
        self.coming = [0] * len(later)
        self.lanes = lanes

    def sender(self, pool: Pool) -> Callable[[Served], None]:
        """What one more replica of prompts hands requests on with."""
        start = _ports(pool, self.env)

        def hand(served: Served) -> None:
            self.env.process(self._sent(served, start))

        return hand

    def _sent(self, served: Served, start: Any) -> Generator[Any, Any, None]:
        place = min(range(len(self.later)), key=lambda i: self.later[i].load + self.coming[i])
        self.coming[place] += 1
        if self.transfer is not None:
            with start.request() as out:
                yield out
                with self.ends[place // self.lanes].request() as into:
                    yield into
                    yield self.env.timeout(self.transfer.occupied(served.prompt))
            yield self.env.timeout(self.transfer.latency)
        else:
            yield self.env.timeout(0)
        self.coming[place] -= 1
        self.later[place].give(served)


def _ports(pool: Pool, env: Any) -> Any:
    """A server's links: of replicas that share its steps one each."""
    return _engine().Resource(env, pool.times.replicas)


def _started(
    env: Any, pool: Pool, tally: Tally, first: int, moving: _Moving | None = None
) -> list[Server]:
    made: list[Server] = []
    for replica in range(pool.servers):
        hands_on = None if moving is None else moving.sender(pool)
        stages = tuple(_engine().Resource(env, 1) for _ in pool.times.passed)
        for lane in range(pool.times.lanes):
            number = first + replica * pool.times.lanes + lane
            made.append(Server(env, number, pool, tally, hands_on, stages))
    for server in made:
        server.process = env.process(server.run())
    return made


def _engine() -> Any:
    try:
        import simpy
    except ImportError:
        raise InputError("simulations need SimPy: pip install 'costgraph[serve]'") from None
    return simpy
