"""Which machines, how many and how used: the cheapest plan that keeps limits on times.

A plan is replicas of one way to run the model (device, devices of a replica, precision), a
policy with its chunk and its limit of sequences; or two pools of them, one for prompts and one
for decodes. What a replica may be given follows from the closed forms of
:mod:`.queueing`; times grow with the load, so the largest rate within the limits is found by
bisection, and plans whose stable rate alone needs more than the best known are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, floor, log2
from typing import TYPE_CHECKING, Any

from costgraph.asking.serving.policies import (
    ChunkedPrefill,
    DecodeOnly,
    Policy,
    PrefillFirst,
)
from costgraph.asking.serving.queueing import CONDITIONS, Queue, Steady
from costgraph.asking.serving.requests import Lengths
from costgraph.asking.serving.steps import MEMORY_SHARE, StepTimes
from costgraph.errors import CostgraphError, InputError, clip

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.setting import Setting

#: Tokens of a step that are tried.
CHUNKS = (512, 2048, 8192)
#: Sequences at a time that are tried, up to what memory holds.
LIMITS = (8, 32, 128, 512, 2048)
#: Halvings of a rate.
HALVINGS = 12
#: Devices of one replica: within a node.
NODE = 8
#: Loads of a replica that the front shows.
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
POOLED = (
    "pools: caches cross the network between nodes while nothing waits for them but their "
    "request, every device sends its own part"
)


@dataclass(frozen=True)
class Traffic:
    """What is asked of the servers.

    Attributes:
        rate: requests per second.
        prompt, generate: lengths.
        ttft, tpot: the largest means that are allowed, in seconds.
    """

    rate: float
    prompt: Lengths
    generate: Lengths
    ttft: float
    tpot: float

    def __post_init__(self) -> None:
        for name in ("rate", "ttft", "tpot"):
            if not 0 < getattr(self, name) < 1e12:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Way:
    """One way to run the model on the devices of a replica.

    Attributes:
        device: its name.
        devices: of a replica.
        precision: ``native``, or a preset of the pass ``quantize``.
        times: seconds of its steps.
        price: dollars an hour of one device; None where none is known.
    """

    device: str
    devices: int
    precision: str
    times: StepTimes = field(compare=False)
    price: float | None = None

    def __str__(self) -> str:
        return f"{self.devices}x{self.device} {self.precision}"


@dataclass(frozen=True)
class Group:
    """Equal replicas of a plan.

    Attributes:
        way: how each runs the model.
        policy: what it puts into steps.
        replicas: how many.
        most: requests per second that one may be given.
        steady: means at what it is given.
        binds: what keeps it from more.
    """

    way: Way
    policy: Policy
    replicas: int
    most: float
    steady: Steady
    binds: str

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.way.devices

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "device": self.way.device, "devices_per_replica": self.way.devices,
            "precision": self.way.precision, "policy": self.policy.name,
            "chunk": getattr(self.policy, "budget", None), "sequences": self.policy.limit,
            "replicas": self.replicas, "devices": self.devices,
            "rate_per_replica": self.steady.rate, "most_per_replica": self.most,
            "binds": self.binds,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Groups of replicas that serve the traffic: one, or one for prompts and one for decodes."""

    groups: tuple[Group, ...]
    ttft: float
    tpot: float

    @property
    def devices(self) -> int:
        """All devices."""
        return sum(g.devices for g in self.groups)

    @property
    def price(self) -> float | None:
        """Dollars an hour; None where a device has no price."""
        found = 0.0
        for g in self.groups:
            if g.way.price is None:
                return None
            found += g.devices * g.way.price
        return found

    @property
    def pooled(self) -> bool:
        """Prompts and decodes run on different machines."""
        return len(self.groups) > 1

    @property
    def most(self) -> float:
        """Requests per second that it could serve within the limits."""
        return min(g.replicas * g.most for g in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "devices": self.devices, "usd_per_hour": self.price, "ttft": self.ttft,
            "tpot": self.tpot, "most_requests_per_second": self.most,
            "groups": [g.to_dict() for g in self.groups],
        }  # fmt: skip


@dataclass(frozen=True)
class FrontPoint:
    """A point of speed against use: no other plan is better in both."""

    way: Way
    policy: Policy
    steady: Steady
    speed: float
    per_device: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "device": self.way.device, "devices_per_replica": self.way.devices,
            "precision": self.way.precision, "policy": self.policy.name,
            "chunk": getattr(self.policy, "budget", None), "sequences": self.policy.limit,
            "requests_per_second": self.steady.rate, "ttft": self.steady.ttft,
            "tokens_per_second_and_user": self.speed,
            "tokens_per_second_and_device": self.per_device,
        }  # fmt: skip


@dataclass(frozen=True)
class ServePlans:
    """What was found.

    Attributes:
        traffic: what was asked.
        plans: the best of each way and kind, the cheapest first.
        front: speed for a user against throughput per device.
        looser: devices that the best plan would need with a limit a tenth looser.
        left_out: ways that do not do, and why.
        tried: plans that were evaluated.
        setting: what the numbers rest on.
    """

    traffic: Traffic
    plans: tuple[Plan, ...]
    front: tuple[FrontPoint, ...]
    looser: Mapping[str, int]
    left_out: tuple[tuple[str, str], ...]
    tried: int
    setting: Setting

    @property
    def best(self) -> Plan:
        """The cheapest.

        Raises:
            InputError: no plan keeps the limits.
        """
        if not self.plans:
            reasons = "; ".join(f"{way}: {why}" for way, why in self.left_out)
            raise InputError(f"no plan keeps the limits: {reasons}")
        return self.plans[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        t = self.traffic
        return {
            **self.setting.to_dict(),
            "traffic": {
                "requests_per_second": t.rate, "prompt": t.prompt.mean,
                "generate": t.generate.mean, "ttft": t.ttft, "tpot": t.tpot,
            },
            "plans": [p.to_dict() for p in self.plans],
            "front": [p.to_dict() for p in self.front],
            "devices_with_a_limit_a_tenth_looser": dict(self.looser),
            "left_out": [list(x) for x in self.left_out],
            "tried": self.tried,
        }  # fmt: skip


Compile = Callable[[str, str], "Compiled"]


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
    """

    traffic: Traffic
    ways: Sequence[Way]
    chunks: Sequence[int] = CHUNKS
    limits: Sequence[int] = LIMITS
    most: int = 64
    pools: bool = True
    tried: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def policies(self, way: Way, kinds: Sequence[str]) -> Iterator[Policy]:
        """The policies that are tried on a replica."""
        room = self.room(way)
        fitting = sorted({min(room, x) for x in self.limits}) if room else []
        for limit, kind in product(reversed(fitting), kinds):
            if kind == "prefill-first":
                yield PrefillFirst(limit)
            elif kind == "decode-only":
                yield DecodeOnly(limit)
            else:
                yield from (ChunkedPrefill(limit, x) for x in self.chunks if x > limit)

    def room(self, way: Way) -> int:
        """Sequences of the mean request that a replica holds, whole lengths reserved."""
        return way.times.room(self.traffic.prompt.mean + self.traffic.generate.mean)

    def queue(self, way: Way, policy: Policy) -> Queue:
        """A replica under its share of the traffic."""
        return Queue(way.times, policy, self.traffic.prompt, self.traffic.generate)

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
        least, why = self.keeps(queue, queue.stable_rate * 2.0**-HALVINGS, traffic)
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
        best: Group | None = None
        held = floor(self.most / way.devices)
        room = self.room(way)
        if not room:
            self.reasons[str(way)] = f"weights and one request exceed {MEMORY_SHARE:.0%} of memory"
            return None
        broken: dict[str, None] = {}
        for policy in self.policies(way, kinds):
            queue = self.queue(way, policy)
            # No limit makes it serve more than is stable.
            need = ceil(traffic.rate / queue.stable_rate)
            if need > held or (best is not None and need > best.replicas):
                broken["throughput"] = None
                continue
            most, why = self.largest(queue, traffic)
            if most <= 0 or ceil(traffic.rate / most) > held:
                broken[why] = None
                continue
            count = ceil(traffic.rate / most)
            steady = queue.at(traffic.rate / count)
            binds = "memory" if why == "throughput" and policy.limit == room else why
            found = Group(way, policy, count, most, steady, binds)
            if best is None or (count, -most) < (best.replicas, -best.most):
                best = found
        if best is None:
            self.reasons[str(way)] = f"{' and '.join(broken)}: not with {self.most} at most"
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
            transfer = self.transfer(first)
            if transfer is None or traffic.generate.mean <= 1:
                continue
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
            plan = Plan((prompts, decodes), prompts.steady.ttft, tpot)
            if tpot <= traffic.tpot and plan.devices <= self.most:
                plans.append(plan)
        return min(plans, key=_cost, default=None)

    def transfer(self, way: Way) -> float | None:
        """Seconds in which the caches of a prompt cross the network; None where none is known."""
        from costgraph.hardware import load_system

        try:
            network = load_system(f"2x{NODE}x{way.device}").device.links.get("network")
        except CostgraphError:
            return None
        if network is None or network.bandwidth is None:
            return None
        amount = way.times.position() * self.traffic.prompt.mean
        return float(network.latency or 0) + amount / float(network.bandwidth)

    def plans(self, traffic: Traffic | None = None) -> tuple[Plan, ...]:
        """The best plan of each way, and of each pair of pools, the cheapest first."""
        asked = traffic or self.traffic
        found = [self.together(way, asked) for way in self.ways]
        if self.pools:
            kinds = dict.fromkeys((w.device, w.precision) for w in self.ways)
            for kind in kinds:
                same = [w for w in self.ways if (w.device, w.precision) == kind]
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
                        rate = steady.rate * self.traffic.generate.mean / way.devices
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


def degrees_of(most: int) -> tuple[int, ...]:
    """Devices of a replica that are tried: powers of two within a node."""
    return tuple(2**i for i in range(int(log2(min(most, NODE))) + 1))


def serve_plan(
    model: Any,
    on: str | Sequence[str],
    *,
    rate: float,
    prompt: Lengths | str | float,
    generate: Lengths | str | float,
    ttft: float,
    tpot: float,
    devices: int = 64,
    precisions: Sequence[str] = ("native",),
    chunks: Sequence[int] = CHUNKS,
    limits: Sequence[int] = LIMITS,
    pools: bool = True,
    passes: str = "fuse",
    front: bool = True,
    **conventions: Any,
) -> ServePlans:
    """The cheapest servers that keep limits on times, and what else there is.

    Args:
        model: as for :func:`costgraph.compile`.
        on: devices by name or file.
        rate: requests per second.
        prompt, generate: lengths; see :meth:`.Lengths.of`.
        ttft, tpot: limits on the means, in seconds.
        devices: how many there may be.
        precisions: ``native``, or presets of the pass ``quantize`` (``fp8``, ``nvfp4``).
        chunks, limits: tokens and sequences of a step that are tried.
        pools: also with prompts and decodes on different machines.
        passes: the pipeline of each replica, before it is shared among its devices.
        front: also the front of speed against use.
        conventions: ``fidelity``, ``kv`` and so on, as for :func:`costgraph.compile`.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    from costgraph.hardware import load_system

    names = list(dict.fromkeys([on] if isinstance(on, str) else on))
    precisions = tuple(dict.fromkeys(precisions))
    for name in names:
        if (count := load_system(name).devices) > 1:
            raise InputError(
                f"{clip(name)} is {count} devices: name one device, how many are used is the answer"
            )
    if "" in precisions:
        raise InputError("a precision is native or a preset of the pass quantize, not empty")
    traffic = Traffic(float(rate), _lengths(prompt), _lengths(generate), float(ttft), float(tpot))
    if devices < 1:
        raise InputError(f"there is at least one device, not {devices}")
    ways: list[Way] = []
    left: dict[str, str] = {}
    for device, precision, degree in product(names, precisions, degrees_of(devices)):
        made = _way(model, device, precision, degree, passes, traffic, conventions)
        if isinstance(made, Way):
            ways.append(made)
        else:
            left[f"{degree}x{device} {precision}"] = str(made)
    if not ways:
        raise InputError("; ".join(f"{k}: {v}" for k, v in left.items()))
    planner = Planner(traffic, ways, chunks, limits, devices, pools)
    found = planner.plans()
    said = [CONDITIONS, *(x for w in ways for x in w.times.assumed)]
    if any(p.pooled for p in found):
        said.append(POOLED)
    if any(w.price is None for w in ways):
        said.append("devices without a price come after those with one, the fewest first")
    setting = replace(
        ways[0].times.compiled.setting, hardware=", ".join(names), passes=passes, warnings=()
    )
    every = (x for w in ways for x in w.times.compiled.setting.assumptions)
    looser = planner.looser(found[0]) if found else {}
    served = {str(g.way) for p in found for g in p.groups}
    for name, why in planner.reasons.items():
        if name not in served:
            left[name] = why
    return ServePlans(
        traffic, found, planner.front() if front else (), looser, tuple(left.items()),
        planner.tried, setting.assuming(*every, *said),
    )  # fmt: skip


def _lengths(given: Lengths | str | float) -> Lengths:
    return given if isinstance(given, Lengths) else Lengths.of(given)


def _way(
    model: Any,
    device: str,
    precision: str,
    degree: int,
    passes: str,
    traffic: Traffic,
    conventions: Mapping[str, Any],
) -> Way | CostgraphError:
    """A way to run the model, or why there is none."""
    from costgraph.compiling.compilation import compile

    narrowed = "" if precision == "native" else f"quantize{{preset={precision}}}"
    shared = "" if degree == 1 else f"parallel{{tp={degree}}}"
    pipeline = ",".join(p for p in (narrowed, passes, shared) if p)
    place = device if degree == 1 else f"{degree}x{device}"
    longest = ceil(traffic.prompt.mean + traffic.generate.mean * (1 + traffic.generate.width))
    try:
        compiled = compile(model, place, pipeline, **conventions)
        times = StepTimes(compiled, longest)
        times.room(1)
    except CostgraphError as error:
        if degree == 1:
            raise
        return error
    hour = (compiled.bound or compiled.machine).price.hour
    return Way(device, degree, precision, times, None if hour is None else float(hour))
