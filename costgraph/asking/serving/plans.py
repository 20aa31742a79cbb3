"""What a search for servers finds: groups of replicas, plans, the front of speed against use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from costgraph.asking.serving.forms import HONEST
from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.queueing import Steady
from costgraph.asking.serving.ways import Traffic, Way
from costgraph.errors import InputError

if TYPE_CHECKING:
    from costgraph.asking.serving.gains import Gain
    from costgraph.setting import Setting


@dataclass(frozen=True)
class Group:
    """Equal replicas of a plan.

    Attributes:
        way: how each runs the model.
        policy: what it puts into steps; of a pipeline, what each group in flight does.
        replicas: how many.
        most: requests per second that one may be given.
        steady: means at what it is given; of a pipeline, at what each group in flight is.
        binds: what keeps one from more: ``ttft`` or ``tpot`` where a looser limit lets it serve
            more, else ``memory`` where that is full and more sequences would, or ``throughput``.
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

    @property
    def stable_rate(self) -> float:
        """Requests per second below which no replica's queue grows without end."""
        return self.replicas * self.way.times.lanes * self.steady.stable_rate

    @property
    def links(self) -> int:
        """Links that take caches of different requests at the same time."""
        return self.replicas * self.way.times.replicas

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **self.way.to_dict(), "policy": self.policy.name,
            "chunk": getattr(self.policy, "budget", None), "sequences": self.policy.limit,
            "replicas": self.replicas, "devices": self.devices,
            "groups_in_flight": self.way.times.lanes,
            "rate_per_replica": self.way.times.lanes * self.steady.rate,
            "most_per_replica": self.most,
            "load": self.steady.load, "binds": self.binds,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Groups of replicas that serve the traffic: one, or one for prompts and one for decodes.

    Attributes:
        groups: the replicas.
        ttft, tpot: means.
        carries: requests per second whose caches fit the links between groups.
    """

    groups: tuple[Group, ...]
    ttft: float
    tpot: float
    carries: float = inf

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
    def low(self) -> tuple[str, ...]:
        """Times that are mostly lower estimates: first tokens, of pools the wait behind them."""
        return low_of([g.steady for g in self.groups])

    @property
    def brief(self) -> bool:
        """Whether answers are too short beside prompts for its times; see :data:`.BRIEF`."""
        return any(g.steady.brief for g in self.groups)

    @property
    def in_step(self) -> bool:
        """Whether :attr:`most` is a lower estimate: see :data:`.ALIKE`."""
        return any(g.steady.in_step for g in self.groups)

    @property
    def most(self) -> float:
        """Requests per second that it could serve within the limits."""
        return min(self.carries, *(g.replicas * g.most for g in self.groups))

    @property
    def over(self) -> bool:
        """Whether :attr:`most` is mostly an upper estimate: waits there are lower ones."""
        return over_of(self.most, [g.stable_rate for g in self.groups if not g.steady.exact])

    @property
    def binds(self) -> str:
        """What keeps it from more: of pools the one that serves least, or what links carry."""
        least = min(self.groups, key=lambda g: g.replicas * g.most)
        if not self.pooled:
            return least.binds
        if self.carries < least.replicas * least.most:
            return "network"
        return f"{least.binds} ({'prompts' if least is self.groups[0] else 'decodes'})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "devices": self.devices, "usd_per_hour": self.price, "ttft": self.ttft,
            "tpot": self.tpot, "lower_estimates": list(self.low), "brief_answers": self.brief,
            "most_requests_per_second": self.most, "upper_estimate": self.over,
            "most_is_lower_estimate": self.in_step, "binds": self.binds,
            "groups": [g.to_dict() for g in self.groups],
        }  # fmt: skip


def low_of(states: Sequence[Steady | None]) -> tuple[str, ...]:
    """Which times of a plan are mostly lower estimates, by the steady states of its groups."""
    named = zip(states, ("ttft", "tpot"), strict=False)
    return tuple(name for steady, name in named if steady is not None and steady.low)


def over_of(most: float, limits: Sequence[float]) -> bool:
    """Whether a rate within limits is mostly an upper estimate, by stable rates of groups."""
    return any(most > HONEST * limit for limit in limits)


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
            **self.way.to_dict(), "policy": self.policy.name,
            "chunk": getattr(self.policy, "budget", None), "sequences": self.policy.limit,
            "groups_in_flight": self.way.times.lanes,
            "requests_per_second": self.way.times.lanes * self.steady.rate,
            "load": self.steady.load,
            "ttft": self.steady.ttft, "lower_estimates": list(low_of([self.steady])),
            "brief_answers": self.steady.brief,
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
        beyond: what must be said of requests with more positions than the model's file states;
            else nothing.
        one_more: the best plan with one more of each thing that it has.
        setting: what the numbers rest on.
    """

    traffic: Traffic
    plans: tuple[Plan, ...]
    front: tuple[FrontPoint, ...]
    looser: Mapping[str, int]
    left_out: tuple[tuple[str, str], ...]
    tried: int
    setting: Setting
    beyond: str = ""
    one_more: tuple[Gain, ...] = ()

    @property
    def best(self) -> Plan:
        """The cheapest.

        Raises:
            InputError: no plan keeps the limits.
        """
        if not self.plans:
            reasons = "; ".join(f"{way}: {why}" for way, why in self.left_out)
            first = f"{self.beyond}; " if self.beyond else ""
            raise InputError(f"{first}no plan keeps the limits: {reasons}")
        return self.plans[0]

    def token_price(self, plan: Plan) -> float | None:
        """Dollars for a million generated tokens at the rate asked for; None without prices."""
        made = 3600 * self.traffic.rate * self.traffic.generate.mean
        return None if plan.price is None else 1e6 * plan.price / made

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        t = self.traffic
        return {
            **self.setting.to_dict(),
            "traffic": {
                "requests_per_second": t.rate, "prompt": t.prompt.mean,
                "generate": t.generate.mean, "ttft": t.ttft, "tpot": t.tpot,
                "prompt_lengths": str(t.prompt), "generate_lengths": str(t.generate),
            },
            "plans": [
                {**p.to_dict(), "usd_per_million_tokens": self.token_price(p)} for p in self.plans
            ],
            "front": [p.to_dict() for p in self.front],
            "devices_with_a_limit_a_tenth_looser": dict(self.looser),
            "one_more": [g.to_dict() for g in self.one_more],
            "left_out": [list(x) for x in self.left_out],
            "tried": self.tried,
        }  # fmt: skip
