"""What one more of anything buys, against plans that were made by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from sympy import Rational

import costgraph as cg
from costgraph.asking.serving import ChunkedPrefill, Lengths, Queue, StepTimes
from costgraph.asking.serving.gains import MEANT, Gain, _in_kind, _State, gains
from costgraph.asking.serving.planner import GAIN, Planner
from costgraph.asking.serving.plans import ServePlans
from costgraph.asking.serving.ways import Traffic, Way
from costgraph.hardware import load_hardware
from costgraph.showing.export.serving import plan_text

DRAFTS = "draft=copy,gamma=3,alpha=0.6"
TRAFFIC = Traffic(30, Lengths(512), Lengths(128), 0.5, 0.02)


def planner_of(machine, fidelity="ideal", **given):
    made = cg.compile("llama-3.2-1b", machine, "fuse", fidelity=fidelity)
    way = Way("h100", 1, "native", StepTimes(made, 700), 3.0)
    return Planner(TRAFFIC, [way], (2048,), (64,), 8, **given)


@pytest.fixture(scope="module")
def planner():
    return planner_of("h100")


@pytest.fixture(scope="module")
def found(planner):
    best = planner.plans()[0]
    return best, {(g.what, g.of): g for g in gains(planner, best)}


def test_a_replica_more_serves_its_share_more(found):
    best, gained = found
    group, more = best.groups[0], gained["1 replica", ""]
    assert more.most == pytest.approx((group.replicas + 1) * group.most, rel=1e-9)
    assert more.devices == best.devices + 1
    assert more.tpot < best.tpot


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_figures_are_those_of_a_machine_with_them(fidelity):
    """The neighbour is the same plan on a device whose memory is a tenth faster."""
    planner = planner_of("h100", fidelity)
    best = planner.plans()[0]
    gained = {g.what: g for g in gains(planner, best)}
    had = load_hardware("h100")
    memory = replace(had.memory, bandwidth=had.memory.bandwidth * Rational(11, 10))
    other = planner_of(replace(had, memory=memory), fidelity)
    queue = Queue(other.ways[0].times, best.groups[0].policy, TRAFFIC.prompt, TRAFFIC.generate)
    more = gained["10 % memory bandwidth"]
    assert more.most == pytest.approx(best.groups[0].replicas * other.largest(queue, TRAFFIC)[0])
    assert 0 < more.elasticity <= 1
    assert more.tpot < best.tpot


def test_more_of_what_does_not_bind_buys_nothing_and_looser_limits_never_cost(found):
    best, gained = found
    assert best.groups[0].policy.limit == 64  # memory has room for more
    assert gained["1 GB of memory a device", ""].most == pytest.approx(best.most)
    for what in ("10 % peak", "10 % ttft limit", "10 % tpot limit"):
        assert gained[what, ""].most >= best.most * (1 - 1e-9)
    assert ("10 % link bandwidth", "") not in gained  # one device, no pools


def test_full_memory_gains_sequences():
    """Where memory was full, a gigabyte more is room for so many sequences more."""
    planner = planner_of("h100")
    planner.limits = (10**6,)
    best = planner.plans()[0]
    gained = {g.what: g for g in gains(planner, best)}
    assert "memory holds" in next(g.why for w, g in gained.items() if "sequences" in w)
    assert not gained["1 GB of memory a device"].why
    # What cannot be had has no numbers, neither those of the plan as it is.
    refused = [g.to_dict() for g in gained.values() if g.why]
    numbers = ("devices", "most_requests_per_second", "ttft", "tpot", "elasticity")
    assert all(values[name] is None for values in refused for name in numbers)
    assert all(g.most > 0 for g in gained.values() if not g.why)


def test_pools_have_their_own(planner):
    pooled = planner.apart(planner.ways, TRAFFIC)
    gained = {(g.what, g.of): g for g in gains(planner, pooled)}
    assert {of for _, of in gained} == {"prompts", "decodes", ""}
    first, then = gained["1 replica", "prompts"], gained["1 replica", "decodes"]
    assert min(first.most, then.most) >= pooled.most * (1 - 1e-9)
    assert first.tpot == pytest.approx(pooled.tpot)
    assert then.ttft == pytest.approx(pooled.ttft)
    assert gained["10 % link bandwidth", ""].tpot < pooled.tpot
    # Of two pools the other one's replicas buy nothing.
    binding = re.search(r"\((prompts|decodes)\)$", pooled.binds)[1]
    more = {name: gained["1 replica", name].most / pooled.most for name in ("prompts", "decodes")}
    assert {name for name, ratio in more.items() if ratio > GAIN} == {binding}


@pytest.mark.parametrize(
    ("ttft", "tpot", "binds"),
    [(0.5, 0.0009, "tpot"), (0.003, 0.02, "ttft"), (0.05, 0.02, "throughput")],
)
def test_a_limit_binds_where_a_looser_one_serves_more(planner, ttft, tpot, binds):
    """Near the stable rate first tokens meet any limit, and a looser one buys nothing."""
    traffic = replace(TRAFFIC, ttft=ttft, tpot=tpot)
    tried = Planner(traffic, planner.ways, (2048,), (64,), 8, pools=False)
    best = tried.plans()[0]
    (group,) = best.groups
    queue = tried.queue(group.way, group.policy)
    assert tried.largest(queue, traffic)[1] == ("tpot" if binds == "tpot" else "ttft")
    more = {x: tried.largest(queue, traffic.looser(x))[0] / group.most for x in ("ttft", "tpot")}
    assert {name for name, ratio in more.items() if ratio > GAIN} == {binds} - {"throughput"}
    assert best.binds == binds


@pytest.mark.parametrize(("device", "binds"), [("l4", "memory"), ("h100", "throughput")])
def test_memory_binds_where_room_for_more_sequences_serves_more(device, binds):
    """Full it is on both: of an H100, steps are as many requests as the peak is good for."""
    made = cg.compile("llama-3.1-8b", device, "fuse")
    way = Way(device, 1, "native", StepTimes(made, 1280), 3.0)
    traffic = Traffic(0.5, Lengths(1024), Lengths(256), 5, 0.2)
    tried = Planner(traffic, [way], (512, 2048), (512,), 8, pools=False)
    (group,) = tried.plans()[0].groups
    had = group.policy.limit
    assert had < 512  # what memory holds
    more = Queue(way.times, replace(group.policy, limit=11 * had // 10 + 1),
                 traffic.prompt, traffic.generate)  # fmt: skip
    assert (tried.largest(more, traffic)[0] > GAIN * group.most) == (binds == "memory")
    assert group.binds == binds


def test_elasticities_above_one_are_those_of_tight_limits(planner, found):
    """Shorter steps are more of them, and each may hold more where a limit on times binds."""
    _, gained = found
    tight = Planner(replace(TRAFFIC, tpot=0.0009), planner.ways, (2048,), (64,), 8, pools=False)
    best = tight.plans()[0]
    assert best.groups[0].binds == "tpot"
    more = {g.what: g for g in gains(tight, best)}["10 % memory bandwidth"]
    assert more.elasticity > 1 > gained[more.what, ""].elasticity
    assert "above one where a limit on times is tight" in MEANT


@pytest.fixture(scope="module")
def shown(planner, found):
    """Plans with gains made by hand, as text and as values."""
    best, _ = found
    setting = planner.ways[0].times.compiled.setting
    return lambda *made: ServePlans(TRAFFIC, (best,), (), {}, (), 1, setting, one_more=made)


def cells(plans):
    """Of the only gain."""
    *_, row = plan_text(plans).split("elasticity\n")[1].split("\n\n")[0].splitlines()
    return re.split(r"\s{2,}", row.strip())


@pytest.mark.parametrize(
    ("share", "change"),
    [(1 - 1e-9, "+0.0%"), (1 + 1e-9, "+0.0%"), (0.9, "-10.0%"), (1.1, "+10.0%")],
)
def test_what_rounds_to_no_change_has_no_sign_of_a_loss(found, shown, share, change):
    best, _ = found
    row = cells(shown(Gain("10 % peak", "", 1, share * best.most, 0.1, 0.1, (share - 1) / 10)))
    assert change in row
    assert "-0.00" not in row


@pytest.mark.parametrize(
    ("limit", "budget", "said"),
    [
        (8, 10, {"1 more sequence at a time", "1 more token of a chunk"}),
        (64, 2048, {"7 more sequences at a time", "205 more tokens of a chunk"}),
    ],
)
def test_one_sequence_more_is_singular(planner, found, limit, budget, said):
    best, _ = found
    group = replace(best.groups[0], policy=ChunkedPrefill(limit, budget))
    whats = {g.what for g in gains(planner, replace(best, groups=(group,)))}
    assert {what for what in whats if " more " in what} == said


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_times_that_are_too_low_are_marked_as_the_plans_own(found, planner, shown, share):
    """Above 60 % of what a replica stands; two of them are below it again."""
    best, _ = found
    rate = share * planner.queue(planner.ways[0], best.groups[0].policy).stable_rate
    other = Planner(replace(TRAFFIC, rate=rate), planner.ways, (2048,), (64,), 8, pools=False)
    plan = other.plans()[0]
    gained = {g.what: g for g in gains(other, plan)}
    same, more = gained["1 GB of memory a device"], gained["1 replica"]
    assert same.low == plan.low == (("ttft",) if share > 0.6 else ())
    assert more.low == ()
    # The most that is stood is within limits by times of that kind, whatever the rate.
    assert same.over
    assert plan.over
    queue = planner.queue(planner.ways[0], best.groups[0].policy)
    tight = replace(TRAFFIC, rate=1, tpot=queue.at(share / 2 * queue.stable_rate).tpot)
    idle = Planner(tight, planner.ways, (2048,), (64,), 8, pools=False).plans()[0]
    assert idle.most == pytest.approx(share / 2 * idle.groups[0].stable_rate, rel=0.01)
    assert not idle.over
    assert same.to_dict()["lower_estimates"] == list(plan.low)
    marked = [[x for x in cells(shown(g)) if x.startswith("~")] for g in (same, more)]
    assert [any(x.endswith("s") for x in row) for row in marked] == [bool(plan.low), False]
    assert all(f"~{g.most:.4g}" in row for g, row in zip((same, more), marked, strict=True))


def test_another_precision_or_drafts_that_were_tried_are_a_neighbour():
    """Recomputed with the plan's own policy; with what was not tried there is none."""
    made = {
        passes: StepTimes(cg.compile("llama-3.2-1b", "h100", passes), 700)
        for passes in ("fuse", "quantize{preset=fp8},fuse", f"fuse,speculative{{{DRAFTS}}}")
    }
    ways = [
        Way("h100", 1, precision, times, 3.0, drafts=drafts)
        for (precision, drafts), times in zip(
            (("native", ""), ("fp8", ""), ("native", DRAFTS)), made.values(), strict=True
        )
    ]
    planner = Planner(TRAFFIC, ways, (2048,), (64,), 8, pools=False)
    plan = planner.together(ways[0], TRAFFIC)
    gained = {g.what: g for g in gains(planner, plan)}
    (group,) = plan.groups
    for what, way in (("precision fp8", ways[1]), (f"drafts {DRAFTS}", ways[2])):
        queue = Queue(way.times, group.policy, TRAFFIC.prompt, TRAFFIC.generate)
        assert gained[what].most == pytest.approx(planner.largest(queue, TRAFFIC)[0], rel=1e-9)
        assert gained[what].tpot == queue.at(TRAFFIC.rate).tpot
    assert "drafts none" in {g.what for g in gains(planner, planner.together(ways[2], TRAFFIC))}
    assert not {"precision native", "precision fp8"} & {
        g.what for g in gains(planner_of("h100"), plan)
    }


def test_memory_that_was_full_is_filled_in_another_precision():
    """Narrower weights and caches leave room for more; the native plan has as many as it holds."""
    made = [
        StepTimes(cg.compile("llama-3.2-1b", "h100", passes), 30_000)
        for passes in ("fuse", "quantize{preset=fp8kv8},fuse")
    ]
    ways = [
        Way("h100", 1, name, t, 3.0) for name, t in zip(("native", "fp8kv8"), made, strict=True)
    ]
    asked = Traffic(1, Lengths(29_000), Lengths(900), 9, 0.05)
    planner = Planner(asked, ways, (2048,), (2048,), 8, pools=False)
    (group,) = planner.together(ways[0], asked).groups
    state = _State((group,), asked)
    narrow = _in_kind(state, ways[1:])
    assert group.policy.limit == state.room(0) < narrow.room(0)
    assert narrow.groups[0].policy.limit == narrow.room(0)
    assert _in_kind(narrow, ways[:1]).groups[0].policy.limit == state.room(0)
