"""What every placement is in its limits, over all passes that place: nothing moved, links without
a cost, what crosses them, and choices against all there are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from types import MappingProxyType

import pytest
from sympy import Add, Expr, Integer, Rational

import costgraph as cg
from costgraph.hardware import load_hardware, load_system
from costgraph.ir.cost import Direction
from costgraph.ir.tensor import MEMORY, Role
from costgraph.ops.transfer import Carry, Stream
from costgraph.passes import PASSES
from costgraph.symbols import symbol

SMALL, IMAGES = "llama-3.2-1b", "vgg-16"
EDGE = "edge-3x-gtx-1080-ti"
HOSTED = "rtx-4090+i9-13900k"
FAST = 10**40
READ, WRITE = Direction.READ, Direction.WRITE

#: Every pass that places, where nothing of it is left: a model, a system, the pipeline, and what
#: says that it did nothing.
NOTHING = {
    "offload": [
        (SMALL, HOSTED, "offload{weights=host:0}"),
        (SMALL, HOSTED, "offload{weights=host:0,caches=host:0,activations=host:0}"),
        (SMALL, HOSTED, "offload{weights=device,caches=device}"),
    ],
    "place": [
        (SMALL, "a100+5xhbm-pim", "place{attention=device}"),
        (SMALL, "a100+5xhbm-pim", "place{attention=device,ffn=device,experts=device}"),
    ],
    "active": [(SMALL, HOSTED, "active"), (SMALL, HOSTED, "active{neurons=1,heads=1,hot=1}")],
    "chain": [("gpt2", "ipu-gc200", "chain"), (SMALL, "4xh100", "chain{chips=1}")],
}
#: Those that always do something, and are told apart by their links alone.
ALWAYS = {"host-io", "split-rows"}


def rooms(name: str) -> str:
    return PASSES[name].__module__.split(".")[-2]


def test_every_pass_that_places_is_held_to_its_limits():
    placing = {n for n in PASSES if rooms(n) in ("placement", "spatial")} | {"active"}
    assert placing == set(NOTHING) | ALWAYS


@pytest.mark.parametrize("case", [c for cases in NOTHING.values() for c in cases], ids=str)
def test_a_placement_of_nothing_is_the_plain_program_and_says_so(case):
    model, system, passes = case
    plain, found = (cg.compile(model, system, p) for p in ("fuse", f"fuse,{passes}"))
    assert found.program.phases == plain.program.phases
    assert found.program.devices == plain.program.devices
    assert found.trace.misses


# --- links without a cost --------------------------------------------------------------


def wired(system, rate: int = FAST):
    """A system whose links, and farther levels of memory, take no time."""
    found = load_system(system) if isinstance(system, str) else system
    device = found.device
    links = {n: replace(x, bandwidth=Integer(rate), latency=None) for n, x in device.links.items()}
    tiers = {n: replace(t, bandwidth=Integer(rate)) for n, t in device.tiers.items()}
    made = replace(device, links=MappingProxyType(links), tiers=MappingProxyType(tiers))
    host = found.host and replace(
        found.host, memory=replace(found.host.memory, bandwidth=Integer(rate))
    )
    return replace(found, device=made, host=host)


@pytest.mark.parametrize("share", [Rational(1, 3), Rational(1)])
@pytest.mark.parametrize("what", ["weights", "caches"])
def test_over_links_without_a_cost_offloading_leaves_its_copies(what, share):
    """A byte that came is written in the memory, one that goes is read there: in turn here."""
    text = f"fuse,offload{{{what}=host:{share},overlap=false}}"
    plain, found = (cg.compile(SMALL, wired(HOSTED), p) for p in ("fuse", text))
    for batch in (1, 7):
        at = {"B": batch, "T": 100}
        copies = sum(
            float(found.program.phase("decode").bind(row.count * size).xreplace(
                {symbol("B"): Integer(batch), symbol("T"): Integer(100)}))
            for row in found.rows["decode"]
            for (level, *_), size in row.cost.bytes.items()
            if isinstance(row.node.op, Stream) and level == MEMORY
        )  # fmt: skip
        more = copies / float(load_hardware("rtx-4090").memory.bandwidth)
        assert copies > 0
        expected = plain.tpot.evaluate(**at) + more
        assert found.tpot.evaluate(**at) == pytest.approx(expected, rel=1e-9)


def test_over_a_link_without_a_cost_a_card_is_fed_for_nothing_but_its_memory():
    card = "alveo-u50-zebra+epyc-9654"
    plain, found = (
        cg.compile(IMAGES, wired(card), p, weights="int8", activations="int8")
        for p in ("fuse", "fuse,host-io")
    )
    rate = float(load_hardware("alveo-u50-zebra").memory.bandwidth)
    more = 8 * (3 * 224 * 224 + 1000) / rate
    assert found.latency.evaluate(B=8) == pytest.approx(plain.latency.evaluate(B=8) + more)


@pytest.mark.parametrize("scheme", ["halp", "modnn", "once"])
def test_over_links_without_a_cost_more_devices_are_never_slower_than_their_share(scheme):
    plain, found = (
        cg.compile(IMAGES, wired(EDGE), p, weights="fp32", activations="fp32")
        for p in ("fuse", f"fuse,split-rows{{scheme={scheme}}}")
    )
    ratio = plain.latency.evaluate(B=4) / found.latency.evaluate(B=4)
    # Three devices, of which two bear most; one shot makes many rows again.
    assert (0.5 if scheme == "once" else 1.5) < ratio < 3


# --- one unit --------------------------------------------------------------------------


def test_devices_of_another_pace_reduce_to_equal_ones_and_to_the_host_alone():
    @cache
    def latency_of(passes: str):
        made = cg.compile(IMAGES, wired(EDGE), passes, weights="fp32", activations="fp32")
        return made.latency.bind(B=4)

    def latency(passes: str, **more: float) -> float:
        return latency_of(passes).evaluate(**more)

    equal, open_ = "fuse,split-rows", "fuse,split-rows{pace=p}"
    assert latency(open_, p=1) == pytest.approx(latency(equal), rel=1e-12)
    # Twice the rate of the others saves at most half of what they took.
    assert latency(equal) / 2 <= latency(open_, p=2) < latency(equal)
    # Others that take no time leave the host's rows, and what runs on it alone.
    fast, slow = latency(open_, p=1000), latency(open_, p=Rational(1, 1000))
    alone = latency("fuse")
    assert fast < alone
    assert slow > 100 * alone
    # By rate: hardly a row for those that hardly compute.
    few = latency("fuse,split-rows{zone=rate,pace=1/1000}")
    assert few < 1.3 * alone


# --- what crosses ----------------------------------------------------------------------


def crossing(compiled, phase: str, role: Role | None = None) -> Expr:
    """Bytes at farther levels in one step, both ways."""
    bind = compiled.program.phase(phase).bind
    return Add(*(
        bind(row.count * size)
        for row in compiled.rows[phase]
        for (level, of, _), size in row.cost.bytes.items()
        if level != MEMORY and role in (None, of)
    )).expand()  # fmt: skip


@pytest.mark.parametrize("model", [SMALL, "opt-6.7b", "mixtral-8x7b", "deepseek-v2-lite"])
@pytest.mark.parametrize(("what", "role"), [("weights", Role.WEIGHT), ("caches", Role.KV)])
def test_a_share_crosses_as_that_share_of_all(model, what, role):
    some, whole = (cg.compile(model, HOSTED, f"offload{{{what}=host:{x}}}") for x in ("w", 1))
    for phase in ("prefill", "decode"):
        all_of_it = crossing(whole, phase, role)
        assert all_of_it != 0
        assert (crossing(some, phase, role) - symbol("w") * all_of_it).expand() == 0


PLACED = [
    (SMALL, "a100+5xhbm-pim", "fuse,place{attention=hbm-pim,ffn=hbm-pim}"),
    (SMALL, HOSTED, "fuse,place{ffn=host,prompts=there}"),
    (SMALL, HOSTED, "fuse,active{neurons=0.1,rank=8,hot=0.3}"),
    (SMALL, HOSTED, "fuse,offload{weights=host:0.4,caches=host:0.7,activations=host,blocks=2}"),
    (SMALL, HOSTED, "fuse,offload{caches=host,attention=host}"),
    (SMALL, HOSTED, "fuse,host-io"),
    ("mixtral-8x7b", HOSTED, "fuse,place{experts=host},host-io"),
]


@pytest.mark.parametrize("case", PLACED, ids=lambda c: c[2])
def test_what_leaves_one_memory_arrives_in_the_other(case):
    """Of every carrier: as many bytes at the level as in the memory of the device."""
    model, system, passes = case
    found = cg.compile(model, system, passes)
    seen = 0
    for phase in found.program.phases:
        for row in found.rows[phase.name]:
            op = row.node.op
            if not isinstance(op, (Carry, Stream)):
                continue
            seen += 1
            near, far = (
                {way: Add(*(
                    size for (level, _, d), size in row.cost.bytes.items()
                    if (level == MEMORY) is here and d is way
                )) for way in Direction}
                for here in (True, False)
            )  # fmt: skip
            if isinstance(op, Stream) or op.copies == 1:
                pairs = ((far[READ], near[WRITE]), (far[WRITE], near[READ]))
            elif op.back:  # summands come, and are read again to be added
                pairs = ((far[READ], near[READ]),)
            else:
                pairs = ((far[WRITE], op.copies * near[READ]),)
            assert all((a - b).expand() == 0 for a, b in pairs)
    assert seen


# --- choices against all there are -----------------------------------------------------


@pytest.mark.parametrize("batch", [1, 64])
def test_the_best_units_are_those_of_all_ways(batch):
    system = "a100+epyc-9654+5xhbm-pim"
    levels = ("device", "host", "hbm-pim")
    sizes = f"at-batch={batch},at-context=1000"
    times = {}
    for attention, ffn in product(levels, levels):
        text = f"fuse,place{{attention={attention},ffn={ffn}}}"
        times[attention, ffn] = cg.compile(SMALL, system, text).tpot.evaluate(B=batch, T=1000)
    found = cg.compile(SMALL, system, f"fuse,place{{attention=best,ffn=best,{sizes}}}")
    assert found.tpot.evaluate(B=batch, T=1000) == pytest.approx(min(times.values()), rel=1e-9)


# --- beside each other -----------------------------------------------------------------

#: Two devices behind a host, with memory that computes.
ALL = "2xh100+epyc-9654+hbm-pim"
PLACING = (
    "offload{weights=host:0.5}", "offload{caches=host}", "offload{caches=host,attention=host}",
    "place{attention=hbm-pim}", "place{ffn=host}", "active{neurons=0.1,rank=16,hot=0.5}",
    "active{neurons=0.2,heads=0.5}", "host-io",
)  # fmt: skip
BESIDE = (*PLACING, "parallel{tp=2}", "parallel{pp=2}", "page-kv", "quantize{kv=int8}",
          "speculative{gamma=3,draft=llama-3.2-1b}")  # fmt: skip
PAIRS = [(a, b) for a, b in product(PLACING, BESIDE)
         if PLACING.index(a) < BESIDE.index(b) and a.split("{")[0] != b.split("{")[0]]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_placements_mean_one_thing_or_are_refused(pair):
    """In both orders, in a line; and no weight is there twice, or nowhere."""
    made = []
    for order in (pair, pair[::-1]):
        try:
            made.append(cg.compile(SMALL, ALL, ",".join(("fuse", *order))))
        except cg.CostgraphError as error:
            made.append(str(error))
    one, other = made
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        assert "\n" not in one
        return
    assert one.program.phases == other.program.phases
    alone = cg.compile(SMALL, ALL, ",".join(("fuse", *(p for p in pair if p not in PLACING))))
    predictors = 2 * 16 * 16 * (2048 + 8192) if "rank" in "".join(pair) else 0
    assert 0 <= one.parameters - alone.parameters <= predictors
    # Weights on the device, in the host's memory and beside it, with their buffers.
    at = {"B": 4, "S": 64, "N": 4}
    away = sum(f.bytes for f in one.fit(**at).farther)
    assert one.memory.evaluate(**at) + away >= 0.99 * alone.memory.evaluate(**at)


@pytest.mark.parametrize("stages", [2, 4])
def test_each_stage_keeps_its_own_layers_away(stages):
    """A level is each device's own part of it: of half the layers half the weights."""
    made = [
        cg.compile(SMALL, f"{stages}xh100+epyc-9654", f"offload{{weights=host}}{more}")
        for more in ("", f",parallel{{pp={stages}}}")
    ]
    whole, part = (c.fit(B=1, S=64, N=4).farther[0].bytes for c in made)
    # Stages are as large as each other with embedding and output layer, which stay.
    layers = part / (whole / 16)
    assert layers == round(layers)
    assert 16 / stages <= layers < 32 / stages
    assert made[1].farther["ddr"].evaluate(B=1, S=64, N=4) == part
    step = made[1].breakdown("decode", B=1, T=64)
    assert step.fit.farther[0].bytes == part
