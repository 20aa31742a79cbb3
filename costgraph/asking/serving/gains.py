"""What one more of anything buys: a plan again with a little more of one thing, all else as it is.

Every neighbour is computed by the same closed forms as the plan: nothing is extrapolated. Of
figures of the hardware the change over that of the figure is the elasticity of the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import inf, log
from typing import TYPE_CHECKING, Any

from sympy import Rational

from costgraph.asking.serving.planner import Apart, Planner
from costgraph.asking.serving.plans import Group, Plan, low_of, over_of
from costgraph.asking.serving.queueing import Steady
from costgraph.asking.serving.rooms import MANY
from costgraph.asking.serving.steps import StepTimes
from costgraph.asking.serving.ways import Traffic, Way, held
from costgraph.errors import CostgraphError, InputError, many

if TYPE_CHECKING:
    from costgraph.hardware.machine import Machine

#: How much more there is of figures and of limits.
MORE = Rational(11, 10)
GIGABYTE = 10**9
MEANT = (
    "one more: the best plan again, recomputed with one thing more and the rest as it is, its "
    "sequences and chunks as well (with more memory or another precision, as many sequences as it "
    "holds where it was full): requests/s are the most within limits, times at the rate that was "
    "asked for; elasticity is the relative change of that most over the figure's, above one where "
    "a limit on times is tight: shorter steps allow a higher load as well; calibrated efficiencies "
    "stay"
)


@dataclass(frozen=True)
class Gain:
    """A plan with more of one thing.

    Attributes:
        what: the thing, and how much more.
        of: whose: ``prompts`` or ``decodes`` of plans with pools, else nothing.
        devices: in all, then; None where there is no such plan.
        most: requests per second within limits, then; None likewise.
        ttft, tpot: means in seconds at the rate that was asked for; None where it is not stood.
        elasticity: of figures of the hardware: relative change of ``most`` over that of the figure.
        why: why there is no such plan; empty where there is.
        low, over: which of the times are mostly lower estimates, and whether ``most`` is mostly an
            upper one, as of a plan.
    """

    what: str
    of: str
    devices: int | None = None
    most: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    elasticity: float | None = None
    why: str = ""
    low: tuple[str, ...] = ()
    over: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "one_more": self.what, "of": self.of or None, "devices": self.devices,
            "most_requests_per_second": self.most, "upper_estimate": self.over,
            "ttft": self.ttft, "tpot": self.tpot,
            "lower_estimates": list(self.low), "elasticity": self.elasticity,
            "why": self.why or None,
        }  # fmt: skip


@dataclass(frozen=True)
class _State:
    """Groups of a plan as they would be, the limits, and the network's rate over today's."""

    groups: tuple[Group, ...]
    traffic: Traffic
    network: float = 1.0

    def asked(self, i: int) -> Traffic:
        """What the requests of a group are; of pools the first has prompts alone."""
        pooled = len(self.groups) > 1
        return Apart.prompts(self.traffic) if pooled and i == 0 else self.traffic

    def room(self, i: int) -> int:
        """Sequences that a replica of a group holds."""
        return held(self.groups[i].way, self.asked(i), self.groups[i].policy)

    def filled(self, i: int) -> int:
        """Sequences of a group that fill memory and leave a step room for a prompt."""
        return min(self.room(i), getattr(self.groups[i].policy, "budget", MANY) - 1)

    def changed(self, i: int, **more: Any) -> _State:
        """With one group changed."""
        made = replace(self.groups[i], **more)
        return replace(self, groups=(*self.groups[:i], made, *self.groups[i + 1 :]))

    def sized(self, i: int, **sizes: int) -> _State:
        """With sizes of the policy of one group changed."""
        return self.changed(i, policy=replace(self.groups[i].policy, **sizes))


#: What is more, whose it is, the state then, and whether it is a figure of the hardware.
_Neighbour = tuple[str, str, Callable[[], _State], bool]


def gains(planner: Planner, best: Plan) -> tuple[Gain, ...]:
    """The best plan with one more of each thing that it has, in order."""
    start = _State(best.groups, planner.traffic)
    names = ("prompts", "decodes") if best.pooled else ("",)
    of_groups = (_of_group(planner, start, i, name) for i, name in enumerate(names))
    found = []
    for what, of, made, figure in chain(*of_groups, _of_kinds(planner, start), _of_all(start)):
        try:
            found.append(_gain(planner, best, what, of, made(), figure))
        except CostgraphError as error:
            found.append(Gain(what, of, why=str(error)))
    return tuple(found)


def _gain(planner: Planner, best: Plan, what: str, of: str, state: _State, figure: bool) -> Gain:
    found = _evaluated(planner, state)
    devices = sum(g.devices for g in state.groups)
    ratio = found.most / best.most if best.most > 0 else 0.0
    elastic = log(ratio) / log(float(MORE)) if figure and ratio > 0 else None
    return Gain(
        what, of, devices, found.most, found.ttft, found.tpot, elastic, low=found.low,
        over=found.over,
    )  # fmt: skip


def _of_group(planner: Planner, start: _State, i: int, name: str) -> Iterator[_Neighbour]:
    """More of what one group has."""
    group = start.groups[i]
    yield "1 replica", name, partial(start.changed, i, replicas=group.replicas + 1), False
    wider = _wider(planner, group.way)
    if wider is not None:
        yield f"tp {dict(wider.degrees)['tp']}", name, partial(start.changed, i, way=wider), False
    # One sequence or token would fall on the edges of kernels' tiles as often as not.
    for size, unit, where in (
        ("limit", "sequence", "at a time"),
        ("budget", "token", "of a chunk"),
    ):
        had = getattr(group.policy, size, None)
        if had is not None:
            more = -(-had // 10)  # a tenth
            what = f"{more} more {unit}{'s' if more > 1 else ''} {where}"
            yield what, name, partial(_larger, start, i, size, had + more), False


def _of_kinds(planner: Planner, start: _State) -> Iterator[_Neighbour]:
    """Another precision, or other drafts, of all groups, among those that were tried."""
    device, precision, drafts = start.groups[0].way.kind
    for kind in dict.fromkeys(w.kind for w in planner.ways):
        if kind[0] != device or (kind[1] != precision) is (kind[2] != drafts):
            continue
        alike = (_shared_alike(planner, kind, dict(g.way.degrees)) for g in start.groups)
        ways = [way for way in alike if way is not None]
        what = f"precision {kind[1]}" if kind[1] != precision else f"drafts {kind[2] or 'none'}"
        if len(ways) == len(start.groups):
            yield what, "", partial(_in_kind, start, ways), False


def _of_all(start: _State) -> Iterator[_Neighbour]:
    """More of what all groups have: figures of their devices, and limits."""
    yield "1 GB of memory a device", "", partial(_roomier, start), False
    yield "10 % memory bandwidth", "", partial(_on, start, _bandwidth), True
    yield "10 % peak", "", partial(_on, start, _peaks), True
    if len(start.groups) > 1 or any(g.way.devices > 1 for g in start.groups):
        linked = replace(start, network=float(MORE))
        yield "10 % link bandwidth", "", partial(_on, linked, _links), True
    for limit in ("ttft", "tpot"):
        looser = replace(start, traffic=start.traffic.looser(limit))
        yield f"10 % {limit} limit", "", partial(replace, looser), False


def _wider(planner: Planner, way: Way) -> Way | None:
    """The way that shares tensors among twice as many devices, where it was tried."""
    degrees = dict(way.degrees)
    return _shared_alike(planner, way.kind, degrees | {"tp": 2 * degrees.get("tp", 1)})


def _shared_alike(
    planner: Planner, kind: tuple[str, str, str], degrees: dict[str, int]
) -> Way | None:
    """The way of a kind that shares the model so, where it was tried."""
    for other in planner.ways:
        if other.kind == kind and dict(other.degrees) == degrees:
            return other
    return None


def _in_kind(start: _State, ways: Sequence[Way]) -> _State:
    """In another way each; where memory was full, with all sequences that it then holds."""
    made = start
    for i, (group, way) in enumerate(zip(start.groups, ways, strict=True)):
        made = made.changed(i, way=way)
        limit, room = group.policy.limit, made.room(i)
        if room and (limit > room or limit >= start.room(i)):
            made = made.sized(i, limit=made.filled(i))
        elif not room:
            raise InputError("memory holds no request beside its weights")
    return made


def _larger(start: _State, i: int, name: str, size: int) -> _State:
    """With a larger size of a policy, which must fit in memory."""
    made = start.sized(i, **{name: size})
    if made.groups[i].policy.limit > made.room(i):
        raise InputError(f"memory holds {many(made.room(i), 'sequence')} beside such a step")
    return made


def _roomier(start: _State) -> _State:
    """With more memory; where that was full, with all sequences that it then holds."""
    made = _on(start, _memory)
    for i, group in enumerate(start.groups):
        limit = group.policy.limit
        if limit >= start.room(i):
            made = made.sized(i, limit=max(limit, made.filled(i)))
    return made


def _on(start: _State, change: Callable[[Machine], Machine]) -> _State:
    """On changed devices."""
    ways = {way: _timed(way, change) for way in {g.way for g in start.groups}}
    return replace(start, groups=tuple(replace(g, way=ways[g.way]) for g in start.groups))


def _timed(way: Way, change: Callable[[Machine], Machine]) -> Way:
    """A way on a changed device: the same graphs, timed again."""
    compiled, times = way.times.compiled, way.times
    machine = change(compiled.bound or compiled.machine)
    timing, system = compiled.timing, compiled.system
    made = replace(
        compiled, machine=machine, bound=machine,
        timing=None if timing is None else replace(timing, machine=machine),
        system=None if system is None else replace(system, device=machine),
    )  # fmt: skip
    return replace(way, times=StepTimes.of(made, times.longest, times.prompts))


def _peaks(machine: Machine) -> Machine:
    return replace(machine, peaks={k: v * MORE for k, v in machine.peaks.items()})


def _bandwidth(machine: Machine) -> Machine:
    return replace(
        machine, memory=replace(machine.memory, bandwidth=machine.memory.bandwidth * MORE)
    )


def _links(machine: Machine) -> Machine:
    faster = {k: replace(v, bandwidth=v.bandwidth * MORE) for k, v in machine.links.items()}
    return replace(machine, links=faster)


def _memory(machine: Machine) -> Machine:
    had = machine.memory
    more = {
        name: size + GIGABYTE
        for name in ("capacity", "usable")
        if (size := getattr(had, name)) is not None
    }
    return replace(machine, memory=replace(had, **more))


@dataclass(frozen=True)
class _Found:
    """What a state stands within limits, and times at the rate (None beyond what is stood)."""

    most: float
    ttft: float | None
    tpot: float | None
    low: tuple[str, ...]
    over: bool


def _evaluated(planner: Planner, state: _State) -> _Found:
    traffic = state.traffic
    if len(state.groups) == 1:
        most, limit, steady = _loaded(planner, state.groups[0], traffic)
        ttft, tpot = (None, None) if steady is None else (steady.ttft, steady.tpot)
        return _Found(most, ttft, tpot, low_of([steady]), over_of(most, [limit]))
    prompts, decodes = state.groups
    link = planner.link(prompts.way, decodes.way)
    assert link is not None
    link = replace(link, bytes_per_second=link.bytes_per_second * state.network)
    pools = Apart(traffic, link)
    carries = pools.carries(prompts.links, decodes.links)
    first, one, begun = _loaded(planner, prompts, state.asked(0))
    then, other, steady = _loaded(planner, decodes, pools.decodes)
    if traffic.rate >= carries:  # caches wait without end
        steady = None
    ttft = None if begun is None else begun.ttft
    tpot = None if steady is None else pools.tpot(steady)
    most = min(carries, first, then)
    return _Found(most, ttft, tpot, low_of([begun, steady]), over_of(most, [one, other]))


def _loaded(planner: Planner, group: Group, traffic: Traffic) -> tuple[float, float, Steady | None]:
    """The most of equal replicas, the stable rate that :func:`.over_of` takes a share of (none
    where waits are exact), and their steady state at the rate; None beyond it."""
    queue, lanes = planner.queue(group.way, group.policy, traffic), group.way.times.lanes
    many = lanes * group.replicas
    each = traffic.rate / many
    steady = queue.at(each) if each < queue.stable_rate else None
    limit = inf if queue.exact else queue.stable_rate * many
    return planner.largest(queue, traffic)[0] * many, limit, steady
