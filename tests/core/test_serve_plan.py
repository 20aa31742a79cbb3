"""Plans of servers: against every combination, and against simulated servers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import ceil

import pytest

import costgraph as cg
from costgraph.asking.serving import Lengths, Pool, Queue, StepTimes, poisson, simulate
from costgraph.asking.serving import ways as ways_of
from costgraph.asking.serving.forms import HONEST
from costgraph.asking.serving.plan import serve_plan
from costgraph.asking.serving.planner import HALVINGS, Planner
from costgraph.asking.serving.plans import ServePlans
from costgraph.asking.serving.policies import ChunkedPrefill, DecodeOnly, PrefillFirst
from costgraph.asking.serving.ways import Traffic, degrees_of
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.showing.export.serving import plan_text
from tests.ways import shared_ways, way


@pytest.fixture(scope="module")
def ways():
    return [way(1), way(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "experts", "rate", "ttft", "tpot", "wins"),
    [
        ("llama-3.1-8b", False, 4, 0.13, 0.1, "cp"),
        ("llama-3.1-8b", False, 20, 1, 0.006, "tp"),
        ("qwen3-30b-a3b", True, 60, 0.3, 0.006, None),
    ],
)
def test_all_sharings_equal_exhaustive_search(model, experts, rate, ttft, tpot, wins):
    """Tensors, positions, stages and experts with replicas of attention: every one, in turn."""
    traffic = Traffic(rate, Lengths(8000), Lengths(64), ttft, tpot)
    ways = [w for n in (1, 2, 4)
            for w in shared_ways(model, n, degrees_of(n, experts), 8200)]  # fmt: skip
    chunks, limits, most = (512, 2048), (16, 64), 16
    planner = Planner(traffic, ways, chunks, limits, most)
    found = planner.plans()
    together = [p for p in found if not p.pooled]
    every = list(every_plan(ways, traffic, chunks, limits, most))
    assert together[0].devices == min(every)
    pooled = [p.devices for p in found if p.pooled]
    pairs = [n for n in every_pools(planner, ways, traffic) if n <= most]
    assert pooled == [min(pairs)] if pairs else not pooled
    if wins is not None:
        assert wins in dict(together[0].groups[0].way.degrees)
    tried = {n for w in ways for n in dict(w.degrees)}
    assert tried == {"tp", "cp", "pp", *(("dp", "ep") if experts else ())}


def test_replicas_do_as_well_as_plain_data_parallelism():
    """Why ``dp`` of a dense model is no way of its own: two replicas serve at least as much."""
    (alone,) = shared_ways("llama-3.1-8b", 1, [()], 1200)
    (both,) = shared_ways("llama-3.1-8b", 2, [(("dp", 2),)], 1200)
    prompt, answer = Lengths(900), Lengths(128)
    one, two = (Queue(w.times, PrefillFirst(n), prompt, answer)
                for w, n in ((alone, 32), (both, 64)))  # fmt: skip
    assert 2 * one.stable_rate >= two.stable_rate


def every_plan(ways, traffic, chunks, limits, most):
    """Devices of every combination that keeps the limits, replica by replica."""
    for w in ways:
        room = w.times.room(traffic.prompt.mean + traffic.generate.mean)
        for limit in {min(room, x) for x in limits}:
            policies = [PrefillFirst(limit)]
            # Devices that share positions split prompts and decode steps in different ways.
            mixing = () if "cp" in dict(w.degrees) else chunks
            budgets = [x * w.times.replicas for x in mixing]
            policies += [ChunkedPrefill(limit, x) for x in budgets if x > limit]
            for policy in policies:
                queue = Queue(w.times, policy, traffic.prompt, traffic.generate)
                for replicas in range(1, most // w.devices + 1):
                    rate = traffic.rate / replicas / w.times.lanes
                    if rate >= queue.stable_rate:
                        continue
                    steady = queue.at(rate)
                    if steady.ttft <= traffic.ttft and steady.tpot <= traffic.tpot:
                        yield replicas * w.devices
                        break


@pytest.mark.parametrize(
    ("rate", "ttft", "tpot"),
    [(20, 1.0, 0.02), (60, 0.2, 0.01), (150, 0.5, 0.012), (40, 0.05, 0.006), (9, 1, 0.5)],
)
def test_the_best_plan_is_that_of_exhaustive_search(ways, rate, ttft, tpot):
    traffic = Traffic(rate, Lengths(900), Lengths(128), ttft, tpot)
    chunks, limits, most = (512, 2048), (16, 64, 512), 32
    found = Planner(traffic, ways, chunks, limits, most, pools=False).plans()
    assert found[0].devices == min(every_plan(ways, traffic, chunks, limits, most))
    for plan in found:
        (group,) = plan.groups
        assert plan.ttft <= ttft
        assert plan.tpot <= tpot
        assert group.steady.rate * group.replicas == pytest.approx(rate)
        assert plan.most >= rate


def test_a_plan_keeps_its_limits_when_it_is_simulated(ways):
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    best = Planner(traffic, ways, (512, 2048), (64, 512), 32, pools=False).plans()[0]
    (group,) = best.groups
    pytest.importorskip("simpy")
    requests = poisson(group.steady.rate, 3000, traffic.prompt, traffic.generate, 1)
    seen = simulate(requests, Pool(group.way.times, group.policy)).after(0.1)
    assert seen.tpot.mean() <= 1.05 * traffic.tpot
    assert seen.ttft.mean() <= 1.1 * traffic.ttft
    assert best.tpot == pytest.approx(seen.tpot.mean(), rel=0.08)


@pytest.mark.parametrize(("rate", "low"), [(20, False), (40, True)])
def test_times_that_are_too_low_are_marked(rate, low, capsys):
    """Above 60 % of what a replica stands: in the table, in JSON, and in words."""
    line = [
        "serve-plan", "llama-3.1-8b", "--on", "h100", "--prompt", "1000", "--generate", "100",
        "--ttft", "1 s", "--tpot", "1 s", "--devices", "1", "--no-pools", "--rate", str(rate),
    ]  # fmt: skip
    assert main(line) == 0
    plans = capsys.readouterr().out.split("speed for a user")[0].splitlines()
    rows = [row for row in plans if " seqs " in row]
    assert any(re.search(r" ~\S+ m?s\b", row) for row in rows) is low
    assert all(re.search(r" ~[\d.]+ +\w+$", row.rstrip()) for row in rows)  # most/s, binds
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = found["plans"][0]
    assert best["lower_estimates"] == (["ttft"] if low else [])
    assert (best["groups"][0]["load"] > 0.6) is low
    assert best["upper_estimate"]
    assert any("most/s marked ~" in x for x in found["cautions"])
    # Points of the front go up to 90 % of the limit.
    assert any("lower estimates" in x for x in found["cautions"])


def test_pools_are_matched_in_rate_and_pay_for_the_transfer(ways):
    traffic = Traffic(60, Lengths(900), Lengths(128), 0.5, 0.01)
    plan = Planner(traffic, ways, (2048,), (64, 512), 32).apart(ways, traffic)
    prompts, decodes = plan.groups
    for group in plan.groups:
        assert group.replicas == ceil(traffic.rate / group.most)
    # Without a limit on prompts, decodes run as fast as alone, and the caches cross a network.
    alone = Queue(decodes.way.times, decodes.policy, traffic.prompt, traffic.generate)
    transfer = plan.tpot - alone.at(decodes.steady.rate).tpot
    caches = 900 * 32 * 2 * 8 * 128 * 2 / min(prompts.way.devices, decodes.way.devices)
    assert transfer * 127 == pytest.approx(caches / 50e9 + 2.7e-6, rel=1e-6)
    assert plan.ttft == prompts.steady.ttft
    ends = min(g.replicas for g in plan.groups)
    assert plan.carries == pytest.approx(ends * 50e9 / caches, rel=1e-9)
    assert plan.most == min(plan.carries, *(g.replicas * g.most for g in plan.groups))


@pytest.mark.parametrize("load", [0.3, 0.55])
def test_pools_have_the_times_of_simulated_ones(ways, load):
    """One replica for prompts alone (it decodes nothing), so many for decodes."""
    prompts = Queue(ways[0].times, PrefillFirst(64), Lengths(900), Lengths(1))
    traffic = Traffic(load * prompts.stable_rate, Lengths(900), Lengths(128), 0.5, 0.01)
    planner = Planner(traffic, ways[:1], (2048,), (64,), 32)
    plan = planner.apart(ways[:1], traffic)
    first, then = (Pool(g.way.times, g.policy, g.replicas) for g in plan.groups)
    assert first.servers == 1
    assert plan.groups[0].most <= prompts.stable_rate
    pytest.importorskip("simpy")
    requests = poisson(traffic.rate, 1500, traffic.prompt, traffic.generate, 1)
    link = planner.link(ways[0], ways[0])
    seen = simulate(requests, first, decode=then, transfer=link).after(0.1)
    assert plan.ttft == pytest.approx(seen.ttft.mean(), rel=0.05)
    assert plan.tpot == pytest.approx(seen.tpot.mean(), rel=0.05)


@pytest.mark.parametrize(("answer", "load"), [(2, 0.3), (2, 0.9), (4, 0.9)])
def test_answers_of_few_tokens_wait_for_the_step_in_progress(ways, answer, load):
    """That wait is of no place: as one, it filled places, and times fell with load."""
    pytest.importorskip("simpy")
    times, policy = ways[0].times, DecodeOnly(64)
    queue = Queue(times, policy, Lengths(64), Lengths(answer))
    steady = queue.at(load * queue.stable_rate)
    # Prompts of so many servers come as they arrived.
    prompts = Pool(times, PrefillFirst(64), 300)
    requests = poisson(steady.rate, 2500, Lengths(64), Lengths(answer), 1)
    seen = simulate(requests, prompts, decode=Pool(times, policy)).after(0.2)
    assert steady.waited == pytest.approx(seen.tpot.mean(), rel=0.03)
    assert steady.tpot > queue.at(0.8 * steady.rate).tpot
    if load < HONEST:
        for percent in (50, 90):
            found = steady.quantile("tpot", percent)
            assert found == pytest.approx(seen.quantile("tpot", percent), rel=0.03)


def test_caches_that_do_not_grow_cross_the_network_too():
    """States of a recurrent model, and windows that are full: byte by hand."""
    made = cg.compile("mamba-2.8b", "h100", "fuse")
    link = ways_of.between("h100", StepTimes(made, 1200))
    config = {"layers": 64, "inner": 5120, "state": 16, "conv": 3}
    elements = config["layers"] * config["inner"] * (config["state"] + config["conv"])
    assert elements <= link.moved(10) == link.moved(1000) <= 8 * elements
    assert link.position == 0
    window = ways_of.between("h100", StepTimes(cg.compile("gpt-oss-20b", "h100", ""), 4000))
    # 24 layers of 8 heads of 64, keys and values in 2 byte; every second sees 128 positions.
    assert window.moved(3000) == 8 * 64 * 2 * 2 * (12 * 3000 + 12 * 128)


def test_the_front_has_no_point_that_another_beats(ways):
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    front = Planner(traffic, ways, (2048,), (16, 128), 32).front()
    assert len(front) > 5
    for p in front:
        assert not any(o.speed > p.speed and o.per_device >= p.per_device for o in front)
    speeds = [p.speed for p in front]
    assert speeds == sorted(speeds, reverse=True)


def test_a_limit_that_nothing_keeps_is_told_with_what_could_be_had(ways):
    """An empty server's first token is its prompt's own step."""
    traffic = Traffic(1, Lengths(900), Lengths(128), 1e-5, 1)
    planner = Planner(traffic, ways[:1], (512,), (16,), 32, pools=False)
    assert not planner.plans()
    least = re.search(r"ttft \(at least ([\d.]+) ms\) not within", planner.reasons[str(ways[0])])
    assert float(least[1]) == pytest.approx(1e3 * ways[0].times.prompt(900), rel=0.01)


def test_a_rate_that_nothing_stands_is_told_with_what_is_stood(ways):
    """All devices at the largest stable rate; not where a limit on times is in the way."""
    asked = Lengths(900), Lengths(120)
    planner = Planner(Traffic(1e6, *asked, 10, 1), ways, (512,), (16, 64), 7)
    assert not planner.plans()
    for w in ways:
        policies = [p for n in (16, 64) for p in (PrefillFirst(n), ChunkedPrefill(n, 512))]
        most = (7 // w.devices) * max(Queue(w.times, p, *asked).stable_rate for p in policies)
        assert f"throughput (at most {most:.4g} requests/s) not within" in planner.reasons[str(w)]
    tight = Planner(Traffic(1, *asked, 1e-6, 1), ways, (512,), (16, 64), 7)
    assert not tight.plans()
    assert not any("at most" in why for why in tight.reasons.values())


def test_looser_limits_never_take_more(ways):
    traffic = Traffic(100, Lengths(900), Lengths(128), 0.1, 0.006)
    planner = Planner(traffic, ways, (512, 2048), (16, 64, 512), 64, pools=False)
    best = planner.plans()[0]
    assert all(devices <= best.devices for devices in planner.looser(best).values())


def test_the_command_tells_what_it_found(capsys):
    line = [
        "serve-plan", "llama-3.2-1b", "--on", "h100", "--rate", "9", "--prompt", "500",
        "--generate", "uniform:60:0.5", "--devices", "1", "--ttft", "1 s", "--tpot", "10 ms",
    ]  # fmt: skip
    assert main([*line, "--launch", "vllm"]) == 0
    text = capsys.readouterr().out
    assert "vllm serve llama-3.2-1b" in text
    assert "open arrivals: Poisson" in text
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plans"][0]["devices"] == 1
    assert found["plans"][0]["tpot"] < 0.01
    # As the table marks them.
    marked = {bool(p["lower_estimates"]) is (p["load"] > HONEST) for p in found["front"]}
    assert marked == {True}
    with pytest.raises(SystemExit):
        main([*line[:-1], "1 us"])
    assert "no plan keeps the limits" in capsys.readouterr().err


def test_tokens_cost_what_an_hour_costs_over_those_of_an_hour(ways):
    """By the rate that was asked, not what a plan could stand; none where a device has no price."""
    traffic = Traffic(20, Lengths(900), Lengths(120, "uniform", 0.5), 0.5, 0.02)
    plans = Planner(traffic, [ways[0], replace(ways[1], price=None)], (512,), (64,), 8).plans()
    found = ServePlans(traffic, tuple(plans), (), {}, (), 1, ways[0].times.compiled.setting)
    known = [p for p in plans if p.price is not None]
    assert 0 < len(known) < len(plans)
    for plan, told in zip(plans, found.to_dict()["plans"], strict=True):
        costs = None
        if plan in known:  # ways have $3 an hour and device
            costs = pytest.approx(1e6 * 3 * plan.devices / (20 * 120 * 3600))
        assert found.token_price(plan) == told["usd_per_million_tokens"] == costs
    head, _, *rows = plan_text(found).split("\n\n")[1].splitlines()
    start = head.index("$/M tokens")
    cells = [row[start:].split()[0] for row in rows]
    prices = (found.token_price(p) for p in plans[: len(rows)])
    assert cells == ["–" if x is None else f"{x:.4g}" for x in prices]


def test_rates_of_replicas_add_up_in_pipelines_too():
    """Requests of all groups that are in flight, in plans and on the front."""
    traffic = Traffic(20, Lengths(900), Lengths(120), 0.5, 0.02)
    shared = [w for n in (1, 2, 4)
              for w in shared_ways("llama-3.1-8b", n, degrees_of(n, False), 1020)]  # fmt: skip
    planner = Planner(traffic, shared, (512,), (64,), 8)
    plans, front = planner.plans(), planner.front()
    lanes = set()
    for group in (g.to_dict() for p in plans for g in p.groups):
        lanes.add(group["groups_in_flight"])
        assert group["rate_per_replica"] * group["replicas"] == pytest.approx(traffic.rate)
        assert group["rate_per_replica"] <= group["most_per_replica"]
    for point in (p.to_dict() for p in front):
        given = point["requests_per_second"] * 120 / point["devices_per_replica"]
        assert given == pytest.approx(point["tokens_per_second_and_device"])
    assert lanes == {1, 2, 4}
    found = ServePlans(traffic, plans, front, {}, (), 1, shared[0].times.compiled.setting)
    for plan in plans:
        (group, *others) = plan.groups
        told = f"{group.way.times.lanes} × {group.policy.limit} seqs"
        assert others or (told in plan_text(replace(found, plans=(plan,)))) == (
            group.way.times.lanes > 1
        )


def test_wrong_wishes_are_refused():
    asked = {"rate": 1, "prompt": 9, "generate": 9, "ttft": 1, "tpot": 1}
    for wrong in ({"rate": 0}, {"tpot": -1}, {"prompt": 0}, {"devices": 0}):
        with pytest.raises(InputError):
            serve_plan("llama-3.2-1b", "h100", **asked | wrong)
    for on in ("8xh100", ["h100", "2x8xh100"]):
        with pytest.raises(InputError, match="name one device"):
            serve_plan("llama-3.2-1b", on, **asked)
    for on in ("h100", "2xh100"):  # neither sends to the other
        with pytest.raises(InputError, match="is the answer"):
            serve_plan("llama-3.2-1b", on, **asked, passes="fuse,parallel{tp=2}")
    with pytest.raises(InputError, match="not empty"):
        serve_plan("llama-3.2-1b", "h100", **asked, precisions=("native", ""))
    with pytest.raises(InputError, match="preset"):
        serve_plan("llama-3.2-1b", "h100", **asked, precisions=("fp9",))


def every_pools(planner, ways, traffic):
    """Devices of every pair of pools that keeps the limits, replica by replica."""
    later = traffic.generate.mean - 1

    def fewest(way, kinds, asked, keeps):
        for policy in planner.policies(way, kinds, asked):
            queue = Queue(way.times, policy, asked.prompt, asked.generate)
            for replicas in range(1, planner.most // way.devices + 1):
                rate = asked.rate / replicas / way.times.lanes
                if rate < queue.stable_rate:
                    steady = queue.at(rate)
                    if keeps(steady):
                        yield replicas * way.devices
                        break

    # Who reads prompts hands them on with the first token.
    handed = replace(traffic, generate=Lengths(1))
    for first in ways:
        prompts = list(fewest(first, ("prefill-first",), handed, lambda s: s.ttft <= traffic.ttft))
        for then in ways:
            moved = planner.link(first, then).seconds(900)

            def keeps(steady, moved=moved):
                return steady.tpot + (moved + steady.place) / later <= traffic.tpot

            for count in fewest(then, ("decode-only",), traffic, keeps):
                yield from (count + other for other in prompts)


@pytest.mark.parametrize(
    ("rate", "ttft", "tpot"), [(20, 1.0, 0.02), (60, 0.2, 0.01), (150, 0.5, 0.012)]
)
def test_the_best_pools_are_those_of_exhaustive_search(ways, rate, ttft, tpot):
    traffic = Traffic(rate, Lengths(900), Lengths(128), ttft, tpot)
    planner = Planner(traffic, ways, (512,), (16, 64, 512), 32)
    every = list(every_pools(planner, ways, traffic))
    found = planner.apart(ways, traffic)
    assert found.devices == min(every)
    assert found.ttft <= ttft
    assert found.tpot <= tpot


@pytest.mark.parametrize(("rate", "limit"), [(23, 8), (70, 64)])
def test_what_pools_stand_at_most_is_within_their_limits(ways, rate, limit):
    """Waits for a place of who decodes count: near the limit of few places they are most of it."""
    traffic = Traffic(rate, Lengths(900), Lengths(128), 0.5, 0.02)
    planner = Planner(traffic, ways[:1], (2048,), (limit,), 32)
    plan = planner.apart(ways[:1], traffic)
    decodes = plan.groups[1]
    queue = planner.queue(decodes.way, decodes.policy, traffic)
    each = planner.link(ways[0], ways[0]).seconds(900) / 127
    at = {x: queue.at(x * decodes.most) for x in (1, 1 + 2 / 2**HALVINGS)}
    tpots = {x: s.tpot + s.place / 127 + each for x, s in at.items()}
    assert tpots[1] <= traffic.tpot < tpots[1 + 2 / 2**HALVINGS]
    assert at[1].tpot < 0.6 * traffic.tpot  # the wait is the rest
    # As many replicas as that takes, and no fewer.
    again = replace(traffic, rate=0.999 * plan.most)
    assert planner.apart(ways[:1], again).devices == plan.devices


def test_ways_are_all_that_the_pass_allows_and_drafts():
    """Tensors, positions, stages, experts; what the pass refuses is left out with its reason."""
    dense = {
        (("tp", 4),), (("tp", 2), ("cp", 2)), (("cp", 4),), (("tp", 2), ("pp", 2)),
        (("cp", 2), ("pp", 2)), (("pp", 4),),
    }  # fmt: skip
    assert set(degrees_of(4, False)) == dense
    assert set(degrees_of(4, True)) - dense == {
        (("tp", 4), ("ep", 4)), (("tp", 2), ("dp", 2), ("ep", 4)), (("ep", 4),),
        (("tp", 2), ("ep", 2), ("pp", 2)), (("ep", 2), ("pp", 2)),
    }  # fmt: skip
    found = serve_plan(
        "qwen3-30b-a3b", "h100", rate=10, prompt=500, generate=100, ttft=1, tpot=0.02, devices=2,
        limits=(32,), chunks=(512,), pools=False, front=False,
        speculative=("draft=copy,gamma=3,alpha=0.6",),
    )  # fmt: skip
    kinds = {
        (dict(g.way.degrees).get("ep"), bool(g.way.drafts)) for p in found.plans for g in p.groups
    }
    assert {(None, False), (None, True), (2, False)} <= kinds
    drafted = {str(p.groups[0].way): p for p in found.plans}
    alone = drafted["1xh100 native"].tpot
    assert drafted["1xh100 native, drafting"].most > 0 < alone
    (one,) = found.plans[0].to_dict()["groups"][:1]
    assert set(one) >= {"parallel", "speculative"}


def test_models_that_no_node_holds_get_several(monkeypatch):
    """With nodes of one device, so that it is quick: one holds no 70B model, two do."""
    monkeypatch.setattr(ways_of, "NODE", 1)
    found = serve_plan(
        "llama-3.1-70b", "h200", rate=1, prompt=500, generate=100, ttft=5, tpot=0.5, devices=4,
        limits=(8,), chunks=(512,), pools=False, front=False,
    )  # fmt: skip
    used = [p.groups[0].way for p in found.plans]
    assert {w.devices for w in used} == {2}
    assert all("2x1xh200" in w.times.compiled.place for w in used)
    assert any("memory" in why for _, why in found.left_out)
