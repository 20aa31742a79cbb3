"""The search for servers that keep limits on times.

What a replica may be given follows from the closed forms of :mod:`.queueing`; times grow with
the load, so the largest rate within the limits is found by bisection, and plans whose stable
rate alone needs more than the best known are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
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
from costgraph.asking.serving.ways import Traffic, Way, between, held
from costgraph.units import format_quantity

#: Tokens of a step that are tried.
CHUNKS = (512, 2048, 8192)
#: Sequences at a time that are tried, up to what memory holds.
LIMITS = (8, 32, 128, 512, 2048)
#: Halvings of a rate; the share of the stable one that is left is next to no load.
HALVINGS = 12
IDLE = 2.0**-HALVINGS
#: Loads of a replica that the front shows.
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass
class Planner:
    """A search for plans.

    Attributes:
        traffic: what is asked.
        ways: how replicas may run the model.
        chunks, limits: what is tried.
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
    queues: dict[tuple[int, Policy], Queue] = field(default_factory=dict, repr=False)
    groups: dict[tuple[int, tuple[str, ...], Traffic], Group | None] = field(
        default_factory=dict, repr=False
    )
    links: dict[int, Transfer | None] = field(default_factory=dict, repr=False)
    progress: Callable[[int, int], None] | None = None

    def policies(self, way: Way, kinds: Sequence[str]) -> Iterator[Policy]:
        """The policies that are tried on a replica."""
        found: dict[Policy, None] = {}
        for limit, kind in product(sorted(self.limits, reverse=True), kinds):
            made: Iterable[Policy]
            if kind == "prefill-first":
                made = (PrefillFirst(limit),)
            elif kind == "decode-only":
                made = (DecodeOnly(limit),)
            else:
                made = (ChunkedPrefill(limit, x) for x in self.chunks if not way.times.unmixed)
            for policy in made:
                most = min(limit, held(way, self.traffic, policy))
                if 0 < most < getattr(policy, "budget", most + 1):
                    found[replace(policy, limit=most)] = None
        yield from found

    def queue(self, way: Way, policy: Policy) -> Queue:
        """A replica under its share of the traffic."""
        key = id(way.times), policy
        if key not in self.queues:
            self.queues[key] = Queue(way.times, policy, self.traffic.prompt, self.traffic.generate)
        return self.queues[key]

    def keeps(self, queue: Queue, rate: float, traffic: Traffic) -> tuple[Steady | None, str]:
        """The means at a rate, or what they break."""
        self.tried += 1
        if rate >= queue.stable_rate:
            return None, "throughput"
        steady = queue.at(rate)
        if steady.tpot > traffic.tpot:
            return None, "tpot"
        return (steady, "") if steady.ttft <= traffic.ttft else (None, "ttft")

    def largest(self, queue: Queue, traffic: Traffic) -> tuple[float, str]:
        """The largest rate within the limits, and what binds there."""
        low, high = 0.0, queue.stable_rate * (1 - 1e-6)
        least, why = self.keeps(queue, queue.stable_rate * IDLE, traffic)
        if least is None:
            return 0.0, why
        steady, why = self.keeps(queue, high, traffic)
        if steady is not None:
            return high, "throughput"
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            steady, broken = self.keeps(queue, middle, traffic)
            if steady is None:
                high, why = middle, broken
            else:
                low = middle
        return low, why

    def group(self, way: Way, kinds: Sequence[str], traffic: Traffic) -> Group | None:
        """The fewest replicas of a way that serve the traffic; None where it cannot be."""
        key = id(way.times), tuple(kinds), traffic
        if key not in self.groups:
            self.groups[key] = self._group(way, kinds, traffic)
        return self.groups[key]

    def _group(self, way: Way, kinds: Sequence[str], traffic: Traffic) -> Group | None:
        best: Group | None = None
        places, lanes = floor(self.most / way.devices), way.times.lanes
        if not held(way, self.traffic):
            why = f"weights and one request exceed {MEMORY_SHARE:.0%} of memory"
            self.reasons.setdefault(str(way), why)
            return None
        broken: dict[str, float] = {}
        for policy in self.policies(way, kinds):
            queue = self.queue(way, policy)
            # No limit makes it serve more than is stable.
            need = ceil(traffic.rate / (lanes * queue.stable_rate))
            if need > places or (best is not None and need > best.replicas):
                broken["throughput"] = 0.0
                continue
            most, why = self.largest(queue, traffic)
            most *= lanes
            if most <= 0 or ceil(traffic.rate / most) > places:
                # What not even an idle replica keeps is told with what it has.
                least = 0.0 if most > 0 else getattr(queue.at(queue.stable_rate * IDLE), why)
                broken[why] = min(broken.get(why, least), least)
                continue
            count = ceil(traffic.rate / most)
            steady = queue.at(traffic.rate / count / lanes)
            full = policy.limit == held(way, self.traffic, policy)
            binds = "memory" if why == "throughput" and full else why
            found = Group(way, policy, count, most, steady, binds)
            if best is None or (count, -most) < (best.replicas, -best.most):
                best = found
        if best is None:
            devices = "one device" if self.most == 1 else f"{self.most} devices or fewer"
            live = "weights, one request and live activations of its prompt exceed memory"
            told = (
                f"{name} (at least {format_quantity(x, 's')})" if x else name
                for name, x in broken.items()
            )
            why = f"{' and '.join(told)} not within limits on {devices}"
            # Of servers that do all, which are tried first, not of one for prompts or decodes.
            self.reasons.setdefault(str(way), why if broken else live)
        return best

    def together(self, way: Way, traffic: Traffic) -> Plan | None:
        """The best plan whose replicas do prompts and decodes."""
        group = self.group(way, ("prefill-first", "chunked"), traffic)
        if group is None:
            return None
        return Plan((group,), group.steady.ttft, group.steady.tpot)

    def apart(self, ways: Sequence[Way], traffic: Traffic) -> Plan | None:
        """The best plan with a pool for prompts and one for decodes, of one device and format."""
        plans = []
        for first, then in product(ways, repeat=2):
            link = self.link(first, then)
            if link is None or traffic.generate.mean <= 1:
                continue
            transfer = link.seconds(traffic.prompt.mean)
            # The second token waits for the caches.
            later = transfer / (traffic.generate.mean - 1)
            inner = replace(traffic, tpot=max(traffic.tpot - later, 1e-12))
            prompts = self.group(first, ("prefill-first",), replace(
                traffic, generate=Lengths(1), tpot=1e9))  # fmt: skip
            decodes = self.group(then, ("decode-only",), replace(inner, ttft=1e9))
            if prompts is None or decodes is None:
                continue
            tpot = decodes.steady.tpot + (transfer + decodes.steady.place) / (
                traffic.generate.mean - 1
            )
            # The link of one replica carries its share of the caches of all requests.
            ends = min(prompts.replicas, decodes.replicas)
            busy = link.occupied(traffic.prompt.mean)
            carries = ends / busy if busy > 0 else inf
            plan = Plan((prompts, decodes), prompts.steady.ttft, tpot, carries)
            within = traffic.rate < carries and tpot <= traffic.tpot
            if within and plan.devices <= self.most:
                plans.append(plan)
        return min(plans, key=_cost, default=None)

    def link(self, first: Way, then: Way) -> Transfer | None:
        """The network that caches cross from one replica to another; None where none is known.

        Both ends hold their own part of the caches: the larger part takes longest.
        """
        one, other = self._link_of(first), self._link_of(then)
        if one is None or other is None:
            return None
        return max(one, other, key=lambda x: x.moved(self.traffic.prompt.mean))

    def _link_of(self, way: Way) -> Transfer | None:
        if id(way.times) not in self.links:
            self.links[id(way.times)] = between(way.device, way.times)
        return self.links[id(way.times)]

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
        points = []
        for way in self.ways:
            for policy in self.policies(way, ("prefill-first", "chunked")):
                queue = self.queue(way, policy)
                for load in LOADS:
                    self.tried += 1
                    steady = queue.at(load * queue.stable_rate)
                    if steady.tpot > 0 and steady.ttft <= self.traffic.ttft:
                        given = steady.rate * way.times.lanes
                        rate = given * self.traffic.generate.mean / way.devices
                        points.append(FrontPoint(way, policy, steady, 1 / steady.tpot, rate))
        kept: list[FrontPoint] = []
        for p in sorted(points, key=lambda p: (-p.speed, -p.per_device)):
            if not kept or p.per_device > kept[-1].per_device:
                kept.append(p)
        return tuple(kept)

    def looser(self, best: Plan) -> dict[str, int]:
        """Devices of the best plan's ways with one limit a tenth looser."""
        found = {}
        for name in ("ttft", "tpot"):
            traffic = replace(self.traffic, **{name: 1.1 * getattr(self.traffic, name)})
            ways = list(dict.fromkeys(g.way for g in best.groups))
            plan = self.apart(ways, traffic) if best.pooled else self.together(ways[0], traffic)
            found[name] = best.devices if plan is None else min(plan.devices, best.devices)
        return found


def _cost(plan: Plan) -> tuple[float, int, float]:
    """Cheapest first; where prices are not known, the fewest devices."""
    price = float("inf") if plan.price is None else plan.price
    return price, plan.devices, -plan.most
