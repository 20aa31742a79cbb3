"""The search for servers that keep limits on times.

What a replica may be given follows from the closed forms of :mod:`.queueing`; times grow with
the load, so the largest rate within the limits is found by bisection, and plans whose stable
rate alone needs more than the best known are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product
from math import ceil, floor, inf

from costgraph.asking.serving.memory import MEMORY_SHARE
from costgraph.asking.serving.plans import FrontPoint, Group, Plan
from costgraph.asking.serving.policies import (
    ChunkedPrefill,
    DecodeOnly,
    Policy,
    PrefillFirst,
)
from costgraph.asking.serving.pools import Transfer
from costgraph.asking.serving.queueing import Queue, Steady
from costgraph.asking.serving.requests import Lengths
from costgraph.asking.serving.rooms import MANY
from costgraph.asking.serving.steps import StepTimes
from costgraph.asking.serving.ways import Traffic, Way, between, held
from costgraph.units import format_quantity

#: Tokens of a step that are tried, of each replica that shares it.
CHUNKS = (512, 2048, 8192)
#: Sequences at a time that are tried, up to what memory holds.
LIMITS = (8, 32, 128, 512, 2048)
#: Halvings of a rate; the share of the stable one that is left is next to no load.
HALVINGS = 12
IDLE = 2.0**-HALVINGS
#: Guesses along a line, after which parts are halved.
LINES = 6
#: Times as many requests that a limit a tenth looser lets a replica serve, where it binds.
GAIN = 1.01
#: Times as many sequences that more memory would hold, where it is full: does it bind?
ROOMIER = 1.1
#: A limit on times that none breaks, in seconds.
ANY = 1e9
#: Loads of a replica that the front shows.
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Apart:
    """Prompts and decodes on different machines: what each pool is asked, and what both make.

    Attributes:
        traffic: what is asked of both together.
        link: what caches cross from one replica to another.
    """

    traffic: Traffic
    link: Transfer

    @staticmethod
    def prompts(traffic: Traffic) -> Traffic:
        """What the pool for prompts is asked."""
        return replace(traffic, generate=Lengths(1), tpot=ANY)

    @property
    def decodes(self) -> Traffic:
        """What the pool for decodes is asked: the second token waits for the caches."""
        tpot = max(self.traffic.tpot - self._each(self._crossing), 1e-12)
        return replace(self.traffic, ttft=ANY, tpot=tpot)

    def tpot(self, decodes: Steady) -> float:
        """Seconds per token after the first, waits for the caches and for a place with them."""
        return decodes.waited + self._each(self._crossing)

    def carries(self, prompts: int, decodes: int) -> float:
        """Requests per second whose caches fit so many links of either pool.

        Each carries its share of the caches of all requests.
        """
        busy = self.link.occupied(self.traffic.prompt.mean)
        return min(prompts, decodes) / busy if busy > 0 else inf

    @property
    def _crossing(self) -> float:
        return self.link.seconds(self.traffic.prompt.mean)

    def _each(self, seconds: float) -> float:
        return seconds / (self.traffic.generate.mean - 1)


@dataclass
class Planner:
    """A search for plans.

    Attributes:
        traffic: what is asked.
        ways: how replicas may run the model.
        chunks, limits: what is tried; chunks are tokens of each replica that shares a step.
        most: devices in all.
        pools: plans with two pools are tried as well.
        tried: plans evaluated so far.
        progress: told how many of the ways are done, and of how many.
    """

    traffic: Traffic
    ways: Sequence[Way]
    chunks: Sequence[int] = CHUNKS
    limits: Sequence[int] = LIMITS
    most: int = 64
    pools: bool = True
    tried: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    queues: dict[tuple[int, Policy, Lengths], Queue] = field(default_factory=dict, repr=False)
    groups: dict[tuple[int, tuple[str, ...], Traffic], Group | None] = field(
        default_factory=dict, repr=False
    )
    links: dict[int, tuple[StepTimes, Transfer | None]] = field(default_factory=dict, repr=False)
    progress: Callable[[int, int], None] | None = None

    def policies(
        self, way: Way, kinds: Sequence[str], traffic: Traffic | None = None
    ) -> Iterator[Policy]:
        """The policies that are tried on a replica, of a pool under its part of the traffic."""
        asked = traffic or self.traffic
        found: dict[Policy, None] = {}
        for limit, kind in product(sorted(self.limits, reverse=True), kinds):
            made: Iterable[Policy]
            if kind == "prefill-first":
                made = (PrefillFirst(limit),)
            elif kind == "decode-only":
                made = (DecodeOnly(limit),)
            else:
                sizes = () if way.times.unmixed else self.chunks
                made = (ChunkedPrefill(limit, x * way.times.replicas) for x in sizes)
            for policy in made:
                most = min(limit, held(way, asked, policy))
                if 0 < most < getattr(policy, "budget", most + 1):
                    found[replace(policy, limit=most)] = None
        yield from found

    def queue(self, way: Way, policy: Policy, traffic: Traffic | None = None) -> Queue:
        """A replica under its share of the traffic; of prompts alone, answers are of one token."""
        asked = traffic or self.traffic
        key = id(way.times), policy, asked.generate
        if key not in self.queues:
            self.queues[key] = Queue(way.times, policy, asked.prompt, asked.generate)
        return self.queues[key]

    def broken(self, queue: Queue, rate: float, traffic: Traffic) -> tuple[str, float]:
        """What the means at a rate break, if anything, and how much more the tighter limit is."""
        self.tried += 1
        if rate >= queue.stable_rate:
            return "throughput", -1.0
        return self._beyond(queue, queue.at(rate), traffic)

    @staticmethod
    def _beyond(queue: Queue, steady: Steady, traffic: Traffic) -> tuple[str, float]:
        """The limit that means break, if any, and how much more the tighter one is.

        Of a server that only decodes the first token is there: later ones wait for its places.
        """
        tpot = steady.waited if queue.kind == "decode-only" else steady.tpot
        limits = (traffic.tpot, tpot), (traffic.ttft, steady.ttft)
        slack = min(limit / max(time, 1e-300) for limit, time in limits) - 1
        if tpot > traffic.tpot:
            return "tpot", slack
        return ("" if steady.ttft <= traffic.ttft else "ttft"), slack

    def largest(self, queue: Queue, traffic: Traffic) -> tuple[float, str]:
        """The largest rate within the limits, and what binds there.

        That of halving :data:`HALVINGS` times. Limits over times fall nearly in a line with the
        load, so the part that halving ends in is looked for along one.
        """
        top = queue.stable_rate * (1 - 1e-6)
        why, over = self.broken(queue, queue.stable_rate * IDLE, traffic)
        if why:
            return 0.0, why
        why, under = self.broken(queue, top, traffic)
        if not why:
            return top, "throughput"
        low, high = 0, 2**HALVINGS
        for i in count():
            if high - low == 1:
                break
            guess = low + (high - low) * over / (over - under) if i < LINES else (low + high) / 2
            place = min(max(floor(guess), low + 1), high - 1)
            found, slack = self.broken(queue, _part(top, place), traffic)
            if found:
                high, under, why = place, slack, found
            else:
                low, over = place, slack
        return _part(top, low), why

    def group(self, way: Way, kinds: Sequence[str], traffic: Traffic) -> Group | None:
        """The fewest replicas of a way that serve the traffic; None where it cannot be."""
        key = id(way.times), tuple(kinds), traffic
        if key not in self.groups:
            self.groups[key] = self._group(way, kinds, traffic)
        return self.groups[key]

    def _group(self, way: Way, kinds: Sequence[str], traffic: Traffic) -> Group | None:
        best: Group | None = None
        places, lanes = floor(self.most / way.devices), way.times.lanes
        if not held(way, traffic):
            why = f"weights and one request exceed {MEMORY_SHARE:.0%} of memory"
            self.reasons.setdefault(str(way), why)
            return None
        broken: dict[str, float] = {}
        stood = 0.0
        for policy in self.policies(way, kinds, traffic):
            queue = self.queue(way, policy, traffic)
            stood = max(stood, places * lanes * queue.stable_rate)
            # No limit makes it serve more than is stable.
            need = ceil(traffic.rate / (lanes * queue.stable_rate))
            if need > places or (best is not None and need > best.replicas):
                broken["throughput"] = 0.0
                continue
            # Times grow with the load: what breaks a limit at the best one's rate stands less.
            if best is not None and self.broken(queue, best.most / lanes, traffic)[0]:
                continue
            most, why = self.largest(queue, traffic)
            most *= lanes
            if most <= 0 or ceil(traffic.rate / most) > places:
                # What not even an idle replica keeps is told with what it has.
                least = 0.0 if most > 0 else getattr(queue.at(queue.stable_rate * IDLE), why)
                broken[why] = min(broken.get(why, least), least)
                continue
            replicas = ceil(traffic.rate / most)
            steady = queue.at(traffic.rate / replicas / lanes)
            # What grows with the load keeps limits below the largest rate; should it not, no plan.
            if over := self._beyond(queue, steady, traffic)[0]:
                broken.setdefault(over, getattr(steady, over))
                continue
            found = Group(way, policy, replicas, most, steady, why)
            if best is None or (replicas, -most) < (best.replicas, -best.most):
                best = found
        if best is None:
            devices = "one device" if self.most == 1 else f"{self.most} devices or fewer"
            live = "weights, one request and live activations of its prompt exceed memory"
            least_of = ((name, format_quantity(x, "s")) for name, x in broken.items() if x)
            far = {name: f" (at least {x})" for name, x in least_of}
            if stood < traffic.rate:  # whatever the limits on times
                far["throughput"] = f" (at most {stood:.4g} requests/s)"
            told = " and ".join(f"{name}{far.get(name, '')}" for name in broken)
            why = f"{told} not within limits on {devices}"
            # Of servers that do all, which are tried first, not of one for prompts or decodes.
            self.reasons.setdefault(str(way), why if broken else live)
            return None
        return replace(best, binds=self._binds(best, traffic))

    def _binds(self, group: Group, traffic: Traffic) -> str:
        """What keeps a replica from more: a limit on times only where a looser one buys something.

        Near the stable rate times grow without end, and no limit is far from another. Memory that
        is full likewise: only where room for more sequences buys something.
        """
        queue = self.queue(group.way, group.policy, traffic)
        more = GAIN * group.most / group.way.times.lanes
        limit = group.binds
        if limit != "throughput" and not self.broken(queue, more, traffic.looser(limit))[0]:
            return limit
        had = group.policy.limit
        if had < held(group.way, traffic, group.policy):
            return "throughput"
        # A chunk has a token of each sequence, and one of a prompt at least.
        roomier = min(ceil(ROOMIER * had), getattr(group.policy, "budget", MANY) - 1)
        larger = self.queue(group.way, replace(group.policy, limit=roomier), traffic)
        return "throughput" if self.broken(larger, more, traffic)[0] else "memory"

    def together(self, way: Way, traffic: Traffic) -> Plan | None:
        """The best plan whose replicas do prompts and decodes."""
        group = self.group(way, ("prefill-first", "chunked"), traffic)
        if group is None:
            return None
        return Plan((group,), group.steady.ttft, group.steady.tpot)

    def apart(self, ways: Sequence[Way], traffic: Traffic) -> Plan | None:
        """The best plan with a pool for prompts and one for decodes, of one device and format."""
        if traffic.generate.mean <= 1:
            return None
        alone, waiting = Apart.prompts(traffic), replace(traffic, ttft=ANY)
        pairs = []
        for first, then in product(ways, repeat=2):
            prompts = self.group(first, ("prefill-first",), alone)
            decodes = self.group(then, ("decode-only",), waiting)
            if prompts is not None and decodes is not None:
                pairs.append((prompts, then, prompts.devices + decodes.devices))
        best: tuple[tuple[float, int, float], int, Plan] | None = None
        # Caches on their way leave decodes less time, so none takes fewer devices than without.
        for i, (prompts, then, least) in sorted(enumerate(pairs), key=lambda x: x[1][2]):
            if least > min(self.most, self.most if best is None else best[2].devices):
                break
            plan = self._pools(prompts, then, waiting)
            if plan is not None and (best is None or (_cost(plan), i) < best[:2]):
                best = _cost(plan), i, plan
        return None if best is None else best[2]

    def _pools(self, prompts: Group, then: Way, traffic: Traffic) -> Plan | None:
        """A pool for prompts, and one of a way for decodes; None where it breaks a limit."""
        link = self.link(prompts.way, then)
        if link is None:
            return None
        pools = Apart(traffic, link)
        decodes = self.group(then, ("decode-only",), pools.decodes)
        if decodes is None:
            return None
        tpot = pools.tpot(decodes.steady)
        carries = pools.carries(prompts.links, decodes.links)
        plan = Plan((prompts, decodes), prompts.steady.ttft, tpot, carries)
        within = traffic.rate < carries and tpot <= traffic.tpot
        return plan if within and plan.devices <= self.most else None

    def link(self, first: Way, then: Way) -> Transfer | None:
        """The network that caches cross from one replica to another; None where none is known.

        Both ends hold their own part of the caches: the larger part takes longest.
        """
        one, other = self._link_of(first), self._link_of(then)
        if one is None or other is None:
            return None
        return max(one, other, key=lambda x: x.moved(self.traffic.prompt.mean))

    def _link_of(self, way: Way) -> Transfer | None:
        # The times are kept beside what is known of them, so that no others take their place.
        if id(way.times) not in self.links:
            self.links[id(way.times)] = way.times, between(way.device, way.times)
        return self.links[id(way.times)][1]

    def plans(self, traffic: Traffic | None = None) -> tuple[Plan, ...]:
        """The best plan of each way, and of each pair of pools, the cheapest first."""
        asked = traffic or self.traffic
        found = []
        for i, way in enumerate(self.ways):
            found.append(self.together(way, asked))
            if self.progress is not None:
                self.progress(i + 1, len(self.ways))
        if self.pools:
            kinds = dict.fromkeys(w.kind for w in self.ways)
            for kind in kinds:
                same = [w for w in self.ways if w.kind == kind]
                found.append(self.apart(same, asked))
        return tuple(sorted((p for p in found if p is not None), key=_cost))

    def front(self) -> tuple[FrontPoint, ...]:
        """Speed for a user against tokens a second and device, over all loads."""
        asked: list[tuple[float, int, Way, Queue, float]] = []
        for way in self.ways:
            for policy in self.policies(way, ("prefill-first", "chunked")):
                queue = self.queue(way, policy)
                for load in LOADS:
                    rate = load * queue.stable_rate
                    given = rate * way.times.lanes * self.traffic.generate.mean / way.devices
                    asked.append((given, len(asked), way, queue, rate))
        points: list[tuple[int, FrontPoint]] = []
        fastest = 0.0
        # The most for a device first: what follows is on the front where it is faster.
        for given, i, way, queue, rate in sorted(asked, key=lambda x: (-x[0], x[1])):
            if 1 / max(queue.least_tpot(rate), 1e-300) <= fastest:
                continue
            self.tried += 1
            steady = queue.at(rate)
            if steady.tpot > 0 and steady.ttft <= self.traffic.ttft:
                point = FrontPoint(way, queue.policy, steady, 1 / steady.tpot, given)
                points.append((i, point))
                fastest = max(fastest, point.speed)
        kept: list[FrontPoint] = []
        for _, p in sorted(points, key=lambda x: (-x[1].speed, -x[1].per_device, x[0])):
            if not kept or p.per_device > kept[-1].per_device:
                kept.append(p)
        return tuple(kept)

    def looser(self, best: Plan) -> dict[str, int]:
        """Devices of the best plan's ways with one limit a tenth looser."""
        found = {}
        for name in ("ttft", "tpot"):
            traffic = self.traffic.looser(name)
            ways = list(dict.fromkeys(g.way for g in best.groups))
            plan = self.apart(ways, traffic) if best.pooled else self.together(ways[0], traffic)
            found[name] = best.devices if plan is None else min(plan.devices, best.devices)
        return found


def _cost(plan: Plan) -> tuple[float, int, float]:
    """Cheapest first; where prices are not known, the fewest devices."""
    price = float("inf") if plan.price is None else plan.price
    return price, plan.devices, -plan.most


def _part(top: float, place: int) -> float:
    """The rate at a place of ``2**HALVINGS`` up to ``top``, as halving has it to the digit."""
    low, high, first, last = 0.0, top, 0, 2**HALVINGS
    while first < place:
        middle, half = (low + high) / 2, (first + last) // 2
        if half <= place:
            low, first = middle, half
        else:
            high, last = middle, half
    return low
