"""Caches that are given as they grow, prefixes, drafts and pipelines in simulated servers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.asking.serving import (
    POLICIES,
    ChunkedPrefill,
    Continuous,
    Lengths,
    Paging,
    Pool,
    PrefillBatches,
    PrefillFirst,
    Request,
    StaticBatches,
    StepTimes,
    Transfer,
    WholePrompts,
    at_once,
    poisson,
    simulate,
)  # fmt: skip
from costgraph.asking.serving.caches import AHEAD, WATERMARK
from costgraph.asking.serving.many import Case, simulate_many
from costgraph.asking.serving.requests import hit
from costgraph.cli import main
from costgraph.cli import serving as command
from costgraph.compiling.capacity import room_of
from costgraph.compiling.mixing import stepping
from costgraph.errors import InputError
from costgraph.symbols import B, T, q
from costgraph.timing import roofline

pytest.importorskip("simpy")


@pytest.fixture(scope="module")
def times():
    return StepTimes(cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated"), 2048)


def pages(positions, page):
    return -(-positions // page) * page


def by_hand(requests, times, limit, room, page):
    """A server with prompts first and pages, step by step: (first, done) and preemptions."""
    now, coming, waiting, running = 0.0, list(requests), [], []
    ends, made, gone = {r: [None, None] for r in requests}, dict.fromkeys(requests, 0), 0
    held = {}

    def used(more):
        grow = (pages(min(r.prompt + made[r] + more, r.prompt + r.generate), page) for r in running)
        return sum(grow) + sum(held.values())

    while coming or waiting or running:
        if not waiting and not running and coming[0].arrival > now:
            now = coming[0].arrival
        while coming and coming[0].arrival <= now:
            waiting.append(coming.pop(0))
        while waiting and len(running) + len(held) < limit:
            r = waiting[0]
            wanted = pages(r.prompt + made[r] + 1, page)
            spare = WATERMARK * room if running or held else 0
            if used(AHEAD) + wanted + spare > room:
                break
            held[waiting.pop(0)] = wanted
        if held:
            r = next(iter(held))
            now += times.prompt(r.prompt + made[r])
            del held[r]
            made[r] += 1
            ends[r][0] = ends[r][0] or now
            if made[r] == r.generate:
                ends[r][1] = now
            else:
                running.append(r)
            continue
        if used(1) > room:
            waiting.insert(0, running.pop())
            gone += 1
            continue
        mean = sum(r.prompt + made[r] for r in running) / len(running)
        now += times.decode(len(running), mean)
        for r in list(running):
            made[r] += 1
            if made[r] == r.generate:
                ends[r][1] = now
                running.remove(r)
    return ends, gone


@pytest.mark.parametrize(("room", "page"), [(4096, 1), (4096, 16), (2600, 16), (60000, 16)])
def test_pages_and_preemptions_are_those_of_a_loop_by_hand(times, room, page):
    """Who is preempted when, and every first and last token, to rounding of contexts."""
    made = poisson(9, 120, Lengths.of("uniform:300:0.5"), Lengths.of("uniform:200:0.9"), 5)
    pool = Pool(times, PrefillFirst(32), positions=room, paging=Paging(page))
    seen = simulate(made, pool)
    found, gone = by_hand(made, times, 32, room, page)
    assert seen.preemptions == gone == sum(s.preempted for s in seen.served)
    assert (gone > 0) is (room < 10000)
    for served in seen.served:
        assert [served.first, served.done] == pytest.approx(found[served.request], rel=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("room", [320, 352, 448])
def test_one_may_end_while_all_others_have_given_way(times, count, room):
    """Nobody decodes then but who comes back, whose first end is forgotten."""
    made = [Request(0.0, 100 + i, 200) for i in range(count)]
    seen = simulate(made, Pool(times, PrefillFirst(8), positions=room, paging=Paging(16)))
    found, gone = by_hand(made, times, 8, room, 16)
    assert seen.preemptions == gone > 0
    for served in seen.served:
        assert [served.first, served.done] == pytest.approx(found[served.request], rel=1e-4)


def test_pages_hold_more_than_reservations_and_cost_what_is_given_up(times):
    made = poisson(30, 300, Lengths(400), Lengths(300), 2)
    kept = simulate(made, Pool(times, ChunkedPrefill(64, 512), positions=9000))
    paged = simulate(made, Pool(times, ChunkedPrefill(64, 512), positions=9000, paging=Paging()))
    assert paged.preemptions > 0 == kept.preemptions
    assert paged.ttft.mean() < kept.ttft.mean()
    assert paged.in_system == pytest.approx(300 * paged.latency.mean() / paged.span, rel=1e-9)
    # Computed again or brought back: what is slower decides.
    ways = [Paging(swap=Transfer(1e-5, rate, 131072)) for rate in (1e9, 1e12)]
    slow, fast = (
        simulate(made, Pool(times, ChunkedPrefill(64, 512), positions=9000, paging=w)) for w in ways
    )
    assert fast.latency.mean() < paged.latency.mean() < slow.latency.mean()
    with pytest.raises(InputError, match="no paging"):
        Pool(times, StaticBatches(4), paging=Paging())


def test_memory_in_pages_is_the_memory_of_what_they_hold(times):
    pool = Pool(times, ChunkedPrefill(64, 512), paging=Paging(16))
    for n in (1, 16, 17, 1000):
        assert pool.grown[n] == times.taken(pages(n, 16), pool.reads)
    assert pool.grown[0] == 0


@pytest.mark.parametrize("swap", [None, Transfer(1e-5, 1e10, 131072)])
@pytest.mark.parametrize("page", [1, 7, 16, 64])
def test_what_is_let_in_has_pages_to_its_end(times, page, swap):
    """A request is refused where its pages, not its positions, exceed the room; else served."""
    room = 200
    pool = Pool(times, PrefillFirst(4), positions=room, paging=Paging(page, swap))
    for total in range(room - 70, room + 2, 3):
        asked = [Request(0.0, total - 9, 9)]
        if pages(total, page) > room:
            with pytest.raises(InputError, match=f"{total} positions.* does not fit the {room}"):
                simulate(asked, pool)
        else:
            assert simulate(asked, pool).preemptions == 0


@pytest.mark.parametrize("page", [1, 16, 500])
def test_who_is_checked_takes_what_grows(times, page):
    """One answer to what a sequence takes: of who checks, who admits, who limits."""
    for positions in (None, 4000):
        pool = Pool(times, PrefillFirst(4), positions=positions, paging=Paging(page))
        for n in (1, page, page + 1, 1003):
            assert pool.takes(n) == pool.grown[n]


@pytest.mark.parametrize("policy", [PrefillFirst(16), Continuous(16), ChunkedPrefill(16, 256)])
def test_a_cached_prefix_is_not_read_again(times, policy):
    (alone,) = simulate([Request(0, 1000, 9)], Pool(times, policy)).ttft
    (found,) = simulate([Request(0, 1000, 9, cached=600)], Pool(times, policy)).ttft
    step = policy.budget if isinstance(policy, ChunkedPrefill) else 400
    ends = [*range(600 + step, 1000, step), 1000]
    parts = zip([600, *ends[:-1]], ends, strict=True)
    assert found == pytest.approx(sum(times.step(0, 0, ((e - s, e),)) for s, e in parts))
    assert found < alone
    assert hit(1000, 0.6) == 600
    assert hit(1000, 1) == 999
    with pytest.raises(InputError, match="one is left"):
        Request(0, 10, 1, 10)


def test_drafted_tokens_come_several_at_a_step():
    passes = "fuse,speculative{draft=llama-3.2-1b,gamma=3,alpha=0.7}"
    made = cg.compile("llama-3.1-8b", "h100", passes, fidelity="calibrated")
    times = StepTimes(made, 1024)
    assert times.gain == pytest.approx((1 - 0.7**4) / 0.3)
    seen = simulate(at_once(64, Lengths(512), Lengths(200)), Pool(times, Continuous(8)), closed=8)
    steps = -(-199 // times.gain)
    (alone,) = simulate([Request(0, 512, 200)], Pool(times, Continuous(8))).served
    path = times.path(1, 513, 199 / steps, int(steps))
    assert alone.done - alone.first == pytest.approx(path.seconds(int(steps)))
    each = [times.decode(1, 513 + i * 199 / steps) for i in range(int(steps))]
    assert alone.done - alone.first == pytest.approx(sum(each), rel=1e-3)
    assert seen.tpot.mean() < StepTimes(
        cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated"), 1024
    ).decode(8, 600)  # fmt: skip


@pytest.mark.parametrize("swap", [None, Transfer(1e-5, 1e10, 1e5)])
def test_who_is_let_in_has_room_for_a_step_of_drafted_tokens(swap):
    """Else it gives way at once and comes back at once, without end where nothing is read again."""
    made = cg.compile("llama-3.2-1b", "h100", "fuse,speculative{draft=copy,gamma=3}")
    times = StepTimes(made, 1024)
    sizes = [(215, 169), (151, 184), (138, 255), (257, 125), (241, 165), (248, 45), (211, 262)]
    requests = [Request(0.0, prompt, answer) for prompt, answer in sizes]
    for room in range(480, 900, 5):
        seen = simulate(
            requests, Pool(times, PrefillFirst(5), positions=room, paging=Paging(16, swap))
        )
        assert len(seen.served) == len(sizes)


@pytest.mark.parametrize("spread", ["512", "uniform:512:0.5", "lognormal:512:1"])
def test_static_batches_waste_what_the_longest_leaves(spread):
    """E[len] over E[max], against draws; uniform by the order statistic of a batch."""
    import numpy as np

    lengths, draw = Lengths.of(spread), np.random.default_rng(1)
    for count in (1, 4, 32):
        drawn = lengths.draw(20000 * count, draw).reshape(-1, count).max(1).mean()
        assert lengths.longest(count) == pytest.approx(drawn, rel=0.02)
    assert lengths.waste(1) == pytest.approx(0, abs=1e-3)
    if lengths.spread == "uniform":
        assert lengths.longest(31) == 256 + 512 * 31 / 32


def test_budgets_of_whole_prompts_and_of_batches(times):
    class Left:
        def __init__(self, left):
            self.left = self.prompt = left

    waiting = [Left(300), Left(300), Left(300)]
    assert PrefillBatches(8, 700).step(waiting, 5).chunks == (300, 300, 100)
    assert not PrefillBatches(8, 700).step(waiting, 5).decodes
    assert WholePrompts(8, 700).step(waiting, 50).chunks == (300, 300)
    assert WholePrompts(8, 100).step(waiting, 50).chunks == (300,)
    made = poisson(20, 200, Lengths(300), Lengths(40), 3)
    for policy in (PrefillBatches(32, 700), WholePrompts(32, 700)):
        seen = simulate(made, Pool(times, policy))
        assert seen.in_system == pytest.approx(200 * seen.latency.mean() / seen.span, rel=1e-9)


def test_servers_that_look_seldom_let_requests_wait(times):
    made = poisson(3, 200, Lengths(300), Lengths(100), 3)
    often, seldom = (simulate(made, Pool(times, PrefillFirst(32), polls=n)) for n in (1, 30))
    longer = seldom.ttft.mean() - often.ttft.mean()
    # On average half of the steps between two looks, where the server is not idle.
    wait = often.utilisation * 15 * times.decode(3, 350)
    assert 0.5 * wait < longer < 1.5 * wait


def test_the_command_offers_every_policy():
    assert set(command.POLICIES) == set(POLICIES)


LINE = [
    "serve-simulate", "llama-3.2-1b", "--on", "h100", "--rate", "40", "--prompt", "200",
    "--generate", "30", "--requests", "60",
]  # fmt: skip


def test_the_command_has_pools_pages_and_prefixes(capsys, tmp_path):
    more = ["--policy", "prefill-first", "--decode-replicas", "2", "--paging", "swap"]
    picture = tmp_path / "t.svg"
    pytest.importorskip("matplotlib")
    line = [*LINE, *more, "--prefix-hits", "0.5", "--polls", "4"]
    assert main([*line, "--timeline", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["servers"] == 3
    assert found["arrivals"]["prefix_hits"] == 0.5
    assert found["link_bytes_per_second"] == 50e9
    assert (found["paging"], found["preemptions"]) == ("swap", 0)
    assert picture.read_text().startswith("<?xml")
    assert main(line) == 0
    text = capsys.readouterr().out
    told = "decode replicas 2", "paging swap", "polls 4", "prefix hits 0.5", "to the host"
    for said in (*told, "cached prefixes are there", "8 more steps of others"):
        assert said in text


def test_the_command_says_how_often_caches_were_given_up(capsys):
    line = [
        "serve-simulate", "llama-3.1-8b", "--on", "h100", "--rate", "40", "--prompt", "8000",
        "--generate", "1200", "--paging", "recompute", "--requests", "70",
    ]  # fmt: skip
    assert main(line) == 0
    text = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    count = json.loads(capsys.readouterr().out)["preemptions"]
    assert count > 0
    assert f"{count} times caches were given up" in text


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--link", "5 GB/s"], "--link needs --decode-replicas"),
        (["--decode-on", "h100"], "--decode-on needs"),
        (["--policy", "static", "--paging", "recompute"], "no paging"),
        (["--prefix-hits", "1.5"], "from 0 to 1"),
        (["--polls", "0"], "not a positive whole number"),
    ],
)
def test_options_that_mean_nothing_are_refused(capsys, given, what):
    with pytest.raises(SystemExit) as stop:
        main([*LINE, *given])
    assert stop.value.code == 2
    assert what in capsys.readouterr().err


def test_a_link_must_be_known(capsys):
    line = [x if x != "h100" else "l40s" for x in LINE]
    with pytest.raises(SystemExit):
        main([*line, "--decode-replicas", "1"])
    assert "no network between nodes of l40s" in capsys.readouterr().err
    assert main([*line, "--decode-replicas", "1", "--link", "12.5 GB/s"]) == 0


CASES = [
    Case("llama-3.2-1b", "h100", "fuse", policy, Lengths(200), Lengths(40), rate=rate, requests=80)
    for policy in (PrefillFirst(16), ChunkedPrefill(16, 256))
    for rate in (5.0, 20.0)
]


def test_many_simulations_are_those_one_by_one():
    told = []
    found = simulate_many(CASES, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 4) for i in (1, 2, 3, 4)]
    times = StepTimes(cg.compile("llama-3.2-1b", "h100", "fuse"), 256)
    for case, made in zip(CASES, found, strict=True):
        seen = simulate(case.drawn(), Pool(times, case.policy))
        assert made["ttft"] == seen.to_dict()["ttft"]
        assert made["requests_per_second"] == seen.rate
    with pytest.raises(InputError, match="a rate, or requests in flight"):
        Case("m", "d", "", PrefillFirst(1), Lengths(1), Lengths(1))
    closed = replace(CASES[0], rate=None, closed=4)
    assert simulate_many([closed])[0]["in_system"] == pytest.approx(4, rel=0.1)


def test_many_simulations_run_on_a_cluster():
    distributed = pytest.importorskip("distributed")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        )
        with cluster, distributed.Client(cluster) as client:
            found = simulate_many(CASES[:2], client=client)
    assert found == simulate_many(CASES[:2])


@pytest.mark.parametrize("apart", [[], ["--decode-replicas", "1"]])
def test_paging_lets_in_what_prompts_leave_room_for(apart, capsys):
    """A limit of whole requests would keep pages from ever running out."""
    line = [
        "serve-simulate", "llama-3.1-8b", "--on", "h100", "--rate", "50", "--prompt", "6000",
        "--generate", "900", "--requests", "120", "--passes", "fuse", "--json", *apart,
    ]  # fmt: skip
    found = {}
    for paging in ([], ["--paging", "recompute"]):
        assert main([*line, *paging]) == 0
        found[bool(paging)] = json.loads(capsys.readouterr().out)
    name = "decode_sequences" if apart else "sequences"
    assert found[True][name] == pytest.approx(found[False][name] * 6900 / 6001, abs=1.5)
    assert found[True]["preemptions"] > 0 == found[False]["preemptions"]


DRAFTS = "fuse,speculative{draft=llama-3.2-1b,gamma=2}"


@pytest.mark.parametrize(
    ("both", "decode", "link", "unread"),
    [
        ([], ["--decode-on", "a100-80g"], 25e9, False),
        ([], ["--decode-on", "b200"], 50e9, False),
        ([], ["--decode-passes", DRAFTS], 50e9, True),
        (["--passes", DRAFTS], [], 50e9, False),
        (["--passes", DRAFTS], ["--decode-passes", "fuse"], 50e9, False),
    ],
)
def test_servers_apart_say_what_each_is(both, decode, link, unread, capsys):
    """The slower network counts; passes of each; and drafts whose prompts nobody read."""
    line = [
        "serve-simulate", "llama-3.2-1b", "--on", "h100", "--rate", "9", "--prompt", "300",
        "--generate", "20", "--requests", "20", "--decode-replicas", "1", *both, *decode, "--json",
    ]  # fmt: skip
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["link_bytes_per_second"] == link
    given = dict(zip(decode[::2], decode[1::2], strict=True))
    passes = given.get("--decode-passes", both[1] if both else "")
    assert found["decode_passes"] == passes
    said = found["assumptions"]
    assert any("counted nowhere" in x for x in said) is unread
    drafting = "speculative" in passes or bool(both)
    assert any("drafted tokens are accepted" in x for x in said) is drafting


@pytest.mark.parametrize(
    ("model", "passes", "on"),
    [("llama-3.1-8b", "", "h100"), ("llama-3.1-8b", "fuse,parallel{tp=2,pp=2}", "4xh100")],
)
@pytest.mark.parametrize("policy", [PrefillFirst(4), ChunkedPrefill(4, 512)])
def test_steps_leave_room_for_what_is_live(model, passes, on, policy):
    """Weights, caches and live activations of prompt and decodes fit the memory, just so."""
    made = cg.compile(model, on, passes)
    times = StepTimes.of(made, 30_000)
    for end in (2_000, 20_000):
        read = policy.reads(end), end
        most = times.room(end + 500, read=read) * times.lanes
        assert most <= times.room(end + 500) * times.lanes
        over = []
        for sequences in (most, most + times.lanes):
            used = live_bytes(made, times, sequences, end + 500, read)
            over.append(max(used) / room_of(made))
        assert over[0] <= 1
        shared = times.room(end + 500) * times.lanes == most
        assert shared or over[1] > 1
        # Unfused, the scores of a long prompt are what memory does not hold.
        assert shared is (passes != "" or end < 10_000 or isinstance(policy, ChunkedPrefill))


def live_bytes(made, times, sequences, context, read):
    """Bytes of each unit: weights, caches, live activations of decodes and of a chunk."""
    found = stepping(made.program)
    chunk = replace(found.prefill, bindings=((q, Integer(read[0])), (T, Integer(read[1]))))
    parts = zip(
        roofline.memory_parts(found.decode, at_end=False),
        roofline.memory_parts(chunk, at_end=False),
        strict=True,
    )
    for held, prompt in parts:
        at = {B: Integer(sequences), T: Integer(context)}
        one = {B: Integer(sequences) / times.lanes, T: Integer(context)}
        live = max(float(x.xreplace(one)) for x in held.activations)
        live += max(float(x.xreplace({B: Integer(1)})) for x in prompt.activations)
        yield float(held.weights) + float(held.caches.xreplace(at)) + live


def test_a_prompt_whose_step_does_not_fit_is_refused(capsys):
    line = [
        "serve-simulate", "llama-3.1-8b", "--on", "h100", "--closed", "1", "--requests", "2",
        "--prompt", "60000", "--generate", "5", "--passes", "",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        main([*line, "--policy", "prefill-first"])
    said = capsys.readouterr().err
    assert "live activations of a step that reads 60000 tokens of a prompt alone exceed" in said
    assert main([*line, "--chunk", "512"]) == 0
    assert "live activations" in capsys.readouterr().out
