"""What is to be simulated, as it is asked for: which requests come, and what serves them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from costgraph.asking.serving.caches import Paging
from costgraph.asking.serving.loop import first_tokens
from costgraph.asking.serving.plan import serve_plan
from costgraph.asking.serving.plans import ServePlans
from costgraph.asking.serving.policies import POLICIES, Budgeted, DecodeOnly, Policy
from costgraph.asking.serving.pools import Pool, Transfer, apart_assumed
from costgraph.asking.serving.requests import Lengths, Request, at_once, poisson, same_prompt
from costgraph.asking.serving.served import Simulated
from costgraph.asking.serving.simulate import CACHED, COUNTED, simulate
from costgraph.asking.serving.steps import StepTimes
from costgraph.asking.serving.traces import trace_of
from costgraph.asking.serving.ways import between, lengths_of
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError, clip, nearest
from costgraph.hardware import load_system
from costgraph.setting import Setting
from costgraph.units import parse_quantity

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

#: Requests of one simulation, at most, and where nothing is said; tokens of a step.
MOST, REQUESTS, CHUNK = 10**7, 1000, 2048
PAGINGS = ("recompute", "swap")


class Unused(InputError):
    """Something that was asked for has no effect, or lacks something else.

    Attributes:
        template: the text, with a place ``{0}``, ``{1}`` … for each name.
        names: of fields of :class:`Arrivals` and :class:`Servers`.
    """

    def __init__(self, template: str, *names: str) -> None:
        self.template, self.names = template, names
        super().__init__(template.format(*names))

    def spelled(self, spell: Callable[[str], str]) -> InputError:
        """The same with names as another tongue has them: ``--decode-on``."""
        return InputError(self.template.format(*map(spell, self.names)))


@dataclass(frozen=True)
class Came:
    """The requests, what was asked for, and what must be said of both."""

    requests: tuple[Request, ...]
    asked: dict[str, Any]
    doubtful: str = ""


@dataclass(frozen=True)
class Arrivals:
    """Which requests come: at a rate, of a trace, or so many at a time.

    Attributes:
        rate: requests per second, which come independently (Poisson).
        trace: a CSV file with columns ``timestamp,input,output``; see :func:`.read_trace`.
        closed: requests in flight, each followed by the next.
        prompt, generate: lengths, where there is no trace; see :meth:`.Lengths.of`.
        requests: how many; by default 1000.
        seed: of what is drawn; by default 0.
        prefix_hits: share of each prompt whose caches are there already.
    """

    rate: float | None = None
    trace: str | os.PathLike[str] | None = None
    closed: int | None = None
    prompt: Lengths | str | float | None = None
    generate: Lengths | str | float | None = None
    requests: int | None = None
    seed: int | None = None
    prefix_hits: float = 0.0

    def come(self) -> Came:
        """The requests.

        Raises:
            InputError: something is missing, out of range or has no effect.
        """
        ways = [n for n in ("rate", "trace", "closed") if getattr(self, n) is not None]
        if len(ways) != 1:
            raise Unused("requests come by one of {0}, {1} and {2}", *("rate", "trace", "closed"))
        if self.trace is not None:
            return self._read()
        for name in ("prompt", "generate"):
            if getattr(self, name) is None:
                raise Unused("{0} is needed where there is no trace", name)
        assert self.prompt is not None
        assert self.generate is not None
        prompt, generate = lengths_of(self.prompt), lengths_of(self.generate)
        count = REQUESTS if self.requests is None else self.requests
        seed, hits = self.seed or 0, self.prefix_hits
        if count > MOST:
            raise Unused(f"{{0}}: at most {MOST}, not {count}", "requests")
        if seed < 0:
            raise Unused(f"{{0}} is a whole number from zero on, not {seed}", "seed")
        lengths: dict[str, Any] = {"prompt": str(prompt), "generate": str(generate)}
        lengths |= {"prefix_hits": hits} if hits else {}
        if self.closed is None:
            assert self.rate is not None
            made = poisson(self.rate, count, prompt, generate, seed, hits)
            return Came(made, {"rate": self.rate, **lengths, "seed": seed})
        if count < self.closed:
            raise Unused(f"{{0}}: {self.closed} in flight need as many, not {count}", "requests")
        drawn = {prompt.spread, generate.spread} != {"fixed"}
        if self.seed is not None and not drawn:
            raise Unused("{0}: a closed loop of fixed lengths draws nothing", "seed")
        asked = {"closed": self.closed, **lengths} | ({"seed": seed} if drawn else {})
        return Came(at_once(count, prompt, generate, seed, hits), asked)

    def _read(self) -> Came:
        for name in ("prompt", "generate", "requests", "seed"):
            if getattr(self, name) is not None:
                raise Unused("{0}: a trace says that itself", name)
        if self.prefix_hits:
            raise Unused("{0}: a trace says that itself, in a column cached", "prefix_hits")
        assert self.trace is not None
        trace = trace_of(self.trace)
        asked = {
            "trace": os.fspath(self.trace), "trace_seconds": trace.span,
            "trace_requests_per_second": trace.rate,
        }  # fmt: skip
        return Came(trace.requests, asked, trace.doubtful)


@dataclass(frozen=True)
class Servers:
    """What serves requests: equal servers, or some for prompts and some that only decode.

    Attributes:
        policy: what a step takes: a name of :data:`.POLICIES`.
        chunk: tokens of a step, where the policy has a budget; by default 2048.
        limit: sequences at a time; by default the mean requests that memory holds.
        replicas: how many.
        paging: ``recompute`` or ``swap``: caches grow in pages; else whole requests have room.
        polls: steps between two looks for new requests while decoding.
        decode_replicas: servers that only decode; None: no pools.
        decode_on, decode_passes, decode_limit: of those servers; by default as of the others.
        link: bytes per second between the two kinds (``50 GB/s``); by default the network's.
    """

    policy: str = "chunked"
    chunk: int | None = None
    limit: int | None = None
    replicas: int = 1
    paging: str | None = None
    polls: int = 1
    decode_replicas: int | None = None
    decode_on: Hardware | None = None
    decode_passes: Passes | None = None
    decode_limit: int | None = None
    link: str | float | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InputError(f"unknown policy {clip(self.policy)}{nearest(self.policy, POLICIES)}")
        if self.paging not in (None, *PAGINGS):
            raise InputError(f"unknown paging {clip(self.paging)}{nearest(self.paging, PAGINGS)}")
        if self.chunk is not None and not issubclass(POLICIES[self.policy], Budgeted):
            raise Unused(f"{{0}}: the policy {self.policy} has none", "chunk")
        if self.decode_replicas is None:
            for name in ("decode_on", "decode_passes", "decode_limit", "link"):
                if getattr(self, name) is not None:
                    raise Unused("{0} needs {1}", name, "decode_replicas")

    def pool(self, times: StepTimes, requests: Sequence[Request]) -> Pool:
        """The servers that read prompts."""
        kind = POLICIES[self.policy]
        policy: Policy = kind(1, self.chunk or CHUNK) if issubclass(kind, Budgeted) else kind(1)
        made = Pool(
            times, policy, self.replicas, paging=self._paging(times),
            polls=self.polls if self.decode_replicas is None else 1,
            prompt=max(r.prompt for r in requests),
        )  # fmt: skip
        return _limited(made, self.limit, requests)

    def _paging(self, times: StepTimes) -> Paging | None:
        if self.paging is None:
            return None
        if self.paging == "recompute":
            return Paging()
        swap = Transfer.over(times.compiled.machine.links.get("pcie"), times)
        if swap is None:
            place = times.compiled.place
            raise Unused(f"{{0}} swap: no link to the host of {place} is known", "paging")
        return Paging(swap=swap)

    def decoding(
        self,
        model: Model,
        on: Hardware,
        passes: Passes,
        pool: Pool,
        requests: Sequence[Request],
        **options: Any,
    ) -> tuple[Pool, Transfer, dict[str, Any]] | None:
        """The servers that only decode, the way to them, and what is said of both; None without."""
        if self.decode_replicas is None:
            return None
        place = on if self.decode_on is None else self.decode_on
        pipeline = passes if self.decode_passes is None else self.decode_passes
        compiled = compile(model, place, pipeline, **options)
        longest = max(r.prompt + r.generate for r in requests)
        times = StepTimes.of(compiled, longest, same_prompt(requests))
        decode = _limited(
            Pool(
                times, DecodeOnly(1), self.decode_replicas, paging=pool.paging,
                polls=self.polls, prompt=pool.prompt,
            ),
            self.decode_limit, requests,
        )  # fmt: skip
        # Both ends hold their own part of the caches: the larger part takes longest.
        longer = max(r.prompt for r in requests)
        larger = max((pool.times, times), key=lambda t: t.caches(longer))
        transfer = self._transfer((on,) if self.decode_on is None else (on, place), larger)
        told = {
            "decode_replicas": decode.servers,
            "decode_on": place if isinstance(place, str) else compiled.place,
            "decode_passes": pipeline if isinstance(pipeline, str) else compiled.setting.passes,
            "decode_sequences": decode.policy.limit,
            "link_bytes_per_second": transfer.bytes_per_second,
        }  # fmt: skip
        return decode, transfer, told

    def _transfer(self, places: Sequence[Hardware], larger: StepTimes) -> Transfer:
        if self.link is not None:
            rate = self.link
            if isinstance(rate, str):
                rate = float(parse_quantity(rate, "bandwidth", "link"))
            return Transfer(0.0, rate, larger.position(), larger.caches)
        ends = []
        for place in places:
            system = load_system(place)
            found = between(system.device.name, larger)
            if found is None:
                raise Unused(f"{{0}}: no network between nodes of {system.name} is known", "link")
            ends.append(found)
        # The slower of both ends.
        return replace(
            ends[0], latency=max(e.latency for e in ends),
            bytes_per_second=min(e.bytes_per_second for e in ends),
        )  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a plan of servers is wanted for, and what it may be made of; see :func:`.serve_plan`.

    Attributes:
        rate: requests per second.
        ttft, tpot: limits on the means, in seconds.
        prompt, generate: lengths; see :meth:`.Lengths.of`.
        devices: how many there may be.
        precisions: ``native``, or presets of the pass ``quantize``.
        speculative: options of the pass ``speculative`` that are tried beside none.
        pools: also with prompts and decodes on different machines.
    """

    rate: float
    ttft: float
    tpot: float
    prompt: Lengths | str | float | None = None
    generate: Lengths | str | float | None = None
    devices: int = 64
    precisions: Sequence[str] = ("native",)
    speculative: Sequence[str] = ()
    pools: bool = True

    def plans(
        self,
        model: Model,
        on: Sequence[str],
        passes: str,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> ServePlans:
        """The cheapest servers that keep the limits, and what else there is.

        Raises:
            CostgraphError: anything that is wrong with the input, in one line.
        """
        for name in ("prompt", "generate"):
            if getattr(self, name) is None:
                raise Unused("{0} is needed", name)
        assert self.prompt is not None
        assert self.generate is not None
        return serve_plan(
            model, on, rate=self.rate, prompt=self.prompt, generate=self.generate,
            devices=self.devices, precisions=self.precisions, pools=self.pools, passes=passes,
            speculative=self.speculative, ttft=self.ttft, tpot=self.tpot, progress=progress,
            **options,
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Requests that were served, by what, and what the numbers rest on.

    Attributes:
        seen: what became of them.
        policy: of the servers, of those for prompts where others decode.
        setting: what it is about.
        asked: which requests came.
        told: the servers that only decode.
        servers: as they were asked for.
        ttft_served: mean seconds to the first token as servers were measured, of a closed loop
            where that is known.
        full: requests per second of servers whose places are always taken, and the standard
            error as a share of it; of others nothing.
    """

    seen: Simulated
    policy: Policy
    setting: Setting
    asked: dict[str, Any]
    told: dict[str, Any]
    servers: Servers
    ttft_served: float | None = None
    full: tuple[float, float] | None = None

    @property
    def more(self) -> dict[str, Any]:
        """What is said of the servers beside their policy, for a reader."""
        s = self.servers
        more = {k.replace("_", " "): v for k, v in self.told.items() if v is not None}
        if (rate := more.pop("link bytes per second", None)) is not None:
            more["link"] = rate
        more |= {"replicas": s.replicas} if s.replicas > 1 else {}
        more |= {"paging": s.paging} if s.paging else {}
        return more | ({"polls": s.polls} if s.polls > 1 else {})

    @cached_property
    def errors(self) -> dict[str, float]:
        """:meth:`.Simulated.errors` where requests are drawn at a rate; else none."""
        return self.seen.errors() if "rate" in self.asked else {}

    def head(self) -> dict[str, Any]:
        """What was asked, as plain values."""
        return {
            "arrivals": self.asked, "policy": self.policy.name, "sequences": self.policy.limit,
            "chunk": getattr(self.policy, "budget", None), "replicas": self.servers.replicas,
            "paging": self.servers.paging, **self.told,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        more: dict[str, Any] = {}
        if self.ttft_served is not None:
            more["ttft_served"] = self.ttft_served
        if self.errors:
            more["standard_errors"] = self.errors
        if self.full is not None:
            more |= {"full_requests_per_second": self.full[0], "full_standard_error": self.full[1]}
        return self.setting.to_dict() | self.head() | more | self.seen.to_dict()


def run(
    model: Model,
    on: Hardware,
    passes: Passes,
    came: Came,
    servers: Servers | None = None,
    *,
    closed: int | None = None,
    spans: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Run:
    """Serves requests event by event.

    Args:
        model, on, passes, options: as for :func:`costgraph.compile`.
        came: the requests; see :meth:`Arrivals.come`.
        servers: what serves them.
        closed: requests in flight, of a closed loop.
        spans: keep every step, for a picture.
        progress: told how many requests are done, and of how many.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    servers = servers or Servers()
    requests = came.requests
    compiled = compile(model, on, passes, **options)
    longest = max(r.prompt + r.generate for r in requests)
    times = StepTimes.of(compiled, longest, same_prompt(requests))
    pool = servers.pool(times, requests)
    found = servers.decoding(model, on, passes, pool, requests, **options)
    decode, transfer, told = (None, None, dict[str, Any]()) if found is None else found
    seen = simulate(
        requests, pool, decode=decode, transfer=transfer, closed=closed, spans=spans,
        progress=progress,
    )  # fmt: skip
    served = None
    if closed is not None and decode is None:
        served = first_tokens(compiled, requests, closed / servers.replicas)
    setting = _setting(compiled, came, pool, decode, longest, seen)
    if served is not None:
        setting = setting.assuming(served[1])
    full = None
    if closed is not None and decode is None and closed >= pool.policy.limit * pool.lanes:
        full = seen.full(closed)
    return Run(
        seen, pool.policy, setting, came.asked, told, servers,
        None if served is None else served[0], full,
    )  # fmt: skip


def _setting(
    compiled: Compiled, came: Came, pool: Pool, decode: Pool | None, longest: int, seen: Simulated
) -> Setting:
    later = () if decode is None else apart_assumed(pool, decode)
    cached = (CACHED,) if any(r.cached for r in came.requests) else ()
    setting = compiled.setting.assuming(
        *pool.times.assumed, *pool.assumed, *later, *cached, COUNTED
    )
    return setting.warned(compiled.program.beyond(longest), came.doubtful, seen.unsteady)


def _limited(pool: Pool, limit: int | None, requests: Sequence[Request]) -> Pool:
    """The pool with a limit of sequences: as told, or the mean requests that memory holds.

    Whole ones, or the pages with which they begin to decode.
    """
    if limit is None:
        if pool.paging is None:
            held = [r.prompt + r.generate for r in requests]
        else:
            held = [pool.paging.whole(r.prompt + 1) for r in requests]
        limit = max(1, pool.times.room(sum(held) / len(held), read=pool.reads))
    return replace(pool, policy=replace(pool.policy, limit=limit))
