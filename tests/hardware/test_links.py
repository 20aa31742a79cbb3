"""Collectives against a step-by-step simulation that moves real blocks and counts bytes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Min, Rational, log

from costgraph.errors import HardwareError, InputError
from costgraph.hardware import load_hardware
from costgraph.hardware.links import ALGORITHMS, collective, fastest, hierarchical, steps
from costgraph.hardware.machine import Link
from costgraph.symbols import symbol

# The simulator ------------------------------------------------------------------
# A device holds blocks by name; a block is the set of contributions summed in it. A
# step is a list of messages (source, target, blocks); all of a step are sent at once.


class Wire:
    """Counts steps and, per step, the largest message in blocks of ``1/unit`` buffers."""

    def __init__(self, blocks_per_buffer: int) -> None:
        self.unit = blocks_per_buffer
        self.steps = 0
        self.bytes = Fraction(0)

    def step(self, held, messages, add):
        sources = [m[0] for m in messages]
        targets = [m[1] for m in messages]
        assert len(set(sources)) == len(sources), "a device sends two messages at once"
        assert len(set(targets)) == len(targets), "a device receives two messages at once"
        arriving = [(to, {b: held[of][b] for b in blocks}) for of, to, blocks in messages]
        for to, blocks in arriving:
            for name, value in blocks.items():
                if add:
                    old = held[to].get(name, frozenset())
                    assert not old & value, "a contribution is counted twice"
                    held[to][name] = old | value
                else:
                    held[to][name] = value
        self.steps += 1
        self.bytes += Fraction(max(len(m[2]) for m in messages), self.unit)


def private(p, blocks):
    """Before a reduction: every device holds its own contribution to every block."""
    return [{b: frozenset([d]) for b in range(blocks)} for d in range(p)]


def everything(p):
    return frozenset(range(p))


def ring_reduce_scatter(wire, held, p):
    for s in range(p - 1):
        wire.step(held, [(d, (d + 1) % p, [(d - s - 1) % p]) for d in range(p)], add=True)


def ring_all_gather(wire, held, p):
    for s in range(p - 1):
        wire.step(held, [(d, (d + 1) % p, [(d - s) % p]) for d in range(p)], add=False)


def simulate_all_reduce(algorithm, p):
    if algorithm == "ring":
        wire, held = Wire(p), private(p, p)
        ring_reduce_scatter(wire, held, p)
        ring_all_gather(wire, held, p)
        blocks = p
    elif algorithm == "binary-tree":
        wire, held, blocks = Wire(1), private(p, 1), 1
        span = 1
        while span < p:
            pairs = [(d, d - span, [0]) for d in range(span, p, 2 * span)]
            wire.step(held, pairs, add=True)
            span *= 2
        binomial_broadcast(wire, held, p, [0])
    else:
        core = 1
        while core * 2 <= p:
            core *= 2
        blocks = core if algorithm == "halving" else 1
        wire, held = Wire(blocks), private(p, blocks)
        if core < p:
            fold = [(d, d - core, list(range(blocks))) for d in range(core, p)]
            wire.step(held, fold, add=True)
        if algorithm == "tree":
            span = 1
            while span < core:
                wire.step(held, [(d, d ^ span, [0]) for d in range(core)], add=True)
                span *= 2
        else:
            mine = [list(range(core)) for _ in range(core)]
            span = core // 2
            while span:
                messages = []
                for d in range(core):
                    half = len(mine[d]) // 2
                    low, high = mine[d][:half], mine[d][half:]
                    send, keep = (low, high) if d & span else (high, low)
                    messages.append((d, d ^ span, send))
                    mine[d] = keep
                wire.step(held, messages, add=True)
                span //= 2
            span = 1
            while span < core:
                wire.step(held, [(d, d ^ span, mine[d]) for d in range(core)], add=False)
                mine = [sorted(mine[d] + mine[d ^ span]) for d in range(core)]
                span *= 2
        if core < p:
            wire.step(held, [(d - core, d, list(range(blocks))) for d in range(core, p)], add=False)
    assert all(held[d][b] == everything(p) for d in range(p) for b in range(blocks))
    return wire


def binomial_broadcast(wire, held, p, blocks):
    span = 1
    while span < p:
        span *= 2
    span //= 2
    while span:
        wire.step(
            held,
            [(d, d + span, blocks) for d in range(0, p, 2 * span) if d + span < p],
            add=False,
        )
        span //= 2


def bruck_gather_schedule(p):
    schedule, have = [], 1
    while have < p:
        count = min(have, p - have)
        schedule.append(
            [(d, (d - have) % p, [(d + i) % p for i in range(count)]) for d in range(p)]
        )
        have += count
    return schedule


def simulate_all_gather(algorithm, p):
    wire, held = Wire(p), [{d: frozenset([d])} for d in range(p)]
    if algorithm == "ring":
        ring_all_gather(wire, held, p)
    else:
        for messages in bruck_gather_schedule(p):
            wire.step(held, messages, add=False)
    assert all(held[d][b] == frozenset([b]) for d in range(p) for b in range(p))
    return wire


def simulate_reduce_scatter(algorithm, p):
    wire, held = Wire(p), private(p, p)
    if algorithm == "ring":
        ring_reduce_scatter(wire, held, p)
    else:  # the all-gather with every message turned round
        for messages in reversed(bruck_gather_schedule(p)):
            turned = [(to, of, blocks) for of, to, blocks in messages]
            wire.step(held, turned, add=True)
    assert all(held[d][d] == everything(p) for d in range(p))
    return wire


def simulate_all_to_all(algorithm, p):
    wire = Wire(p)
    if algorithm == "ring":
        held = [{(d, to): frozenset([d]) for to in range(p)} for d in range(p)]
        for s in range(1, p):
            wire.step(held, [(d, (d + s) % p, [(d, (d + s) % p)]) for d in range(p)], add=False)
    else:  # what still has to travel i devices up moves by the bits of i
        held = [{(d, to): frozenset([d]) for to in range(p)} for d in range(p)]
        carried = [{i: (d, (d + i) % p) for i in range(p)} for d in range(p)]
        bit = 1
        while bit < p:
            moving = [i for i in range(p) if i & bit]
            messages = [(d, (d + bit) % p, [carried[d][i] for i in moving]) for d in range(p)]
            wire.step(held, messages, add=False)
            fresh = [dict(c) for c in carried]
            for d in range(p):
                for i in moving:
                    fresh[(d + bit) % p][i] = carried[d][i]
            carried = fresh
            bit *= 2
    assert all((of, d) in held[d] for d in range(p) for of in range(p))
    return wire


def simulate_broadcast(algorithm, p):
    blocks = list(range(p)) if algorithm == "ring" else [0]
    wire = Wire(len(blocks))
    held = [{b: frozenset([0]) for b in blocks} if d == 0 else {} for d in range(p)]
    if algorithm == "tree":
        binomial_broadcast(wire, held, p, blocks)
    else:
        span = 1
        while span < p:
            span *= 2
        span //= 2
        while span:
            wire.step(
                held,
                [
                    (d, d + span, list(range(d + span, min(d + 2 * span, p))))
                    for d in range(0, p, 2 * span)
                    if d + span < p
                ],
                add=False,
            )
            span //= 2
        for d in range(1, p):  # after the scatter only the own share counts
            held[d] = {d: held[d][d]}
        ring_all_gather(wire, held, p)
    assert all(set(held[d]) >= set(blocks) for d in range(p))
    return wire


SIMULATED = {
    "all-reduce": simulate_all_reduce,
    "all-gather": simulate_all_gather,
    "reduce-scatter": simulate_reduce_scatter,
    "all-to-all": simulate_all_to_all,
    "broadcast": simulate_broadcast,
}
CASES = [(k, a) for k, table in ALGORITHMS.items() if k in SIMULATED for a in table]


@pytest.mark.parametrize(("kind", "algorithm"), CASES)
def test_steps_and_bytes_are_those_of_the_simulated_algorithm(kind, algorithm):
    for p in range(2, 35):
        wire = SIMULATED[kind](algorithm, p)
        found = steps(kind, algorithm, 1, p)
        assert found.steps == wire.steps, p
        assert found.wire == Rational(wire.bytes.numerator, wire.bytes.denominator), p


def test_every_collective_but_a_message_is_simulated():
    assert set(ALGORITHMS) == {*SIMULATED, "p2p"}
    one = steps("p2p", "direct", 100, 2)
    assert (one.steps, one.wire) == (1, 100)


@pytest.mark.parametrize(("kind", "algorithm"), [*CASES, ("p2p", "direct")])
def test_symbols_and_numbers_agree_for_powers_of_two_and_vanish_for_one(kind, algorithm):
    n, p, alpha, beta = (symbol(x) for x in ("n", "p", "alpha", "beta"))
    general = collective(kind, algorithm, n, p)
    assert general.free_symbols <= {n, p, alpha, beta}
    assert general.subs(p, 1) == 0
    assert collective(kind, algorithm, n, 1) == 0
    for devices in (2, 4, 8, 64):
        found = general.subs(p, devices)
        exact = collective(kind, algorithm, n, devices)
        assert (found - exact).expand().equals(0), devices


def test_formulas_are_those_of_the_literature():
    n, p, alpha, beta = (symbol(x) for x in ("n", "p", "alpha", "beta"))
    ring = collective("all-reduce", "ring", n, p)
    assert (ring - (2 * (p - 1) * alpha + 2 * n * (p - 1) / p / beta)).expand().equals(0)
    tree = collective("all-reduce", "tree", n, p)
    assert (tree - log(p, 2) * (alpha + n / beta)).expand().equals(0)
    gather = collective("all-gather", "ring", n, p)
    assert (gather - ((p - 1) * alpha + n * (p - 1) / p / beta)).expand().equals(0)
    assert collective("p2p", "direct", n, 2) == alpha + n / beta


LINK = Link(Integer(100), Rational(1, 10), Integer(8))


@given(st.integers(1, 10**6), st.integers(1, 8))
def test_best_is_the_smallest_of_all(n, p):
    for kind, table in ALGORITHMS.items():
        times = {a: collective(kind, a, n, p, LINK) for a in table}
        best = collective(kind, "best", n, p, LINK)
        assert best == min(times.values())
        name, value = fastest(kind, n, p, LINK)
        assert times[name] == value == best


def test_small_messages_take_the_tree_and_large_ones_the_ring():
    link = load_hardware("h100").links["nvlink"]
    assert fastest("all-reduce", 256, 8, link)[0] == "tree"
    assert fastest("all-reduce", 2**30, 8, link)[0] in ("ring", "halving")
    assert isinstance(collective("all-reduce", "best", symbol("n"), 8, link), Min)


@given(st.integers(2, 16), st.integers(1, 10**9))
def test_no_algorithm_moves_less_than_the_bound(p, n):
    """Each device must send its share once and get the rest (Thakur et al., section 3)."""
    least = Rational(n * (p - 1), p)
    for kind in ("all-gather", "reduce-scatter", "all-to-all", "broadcast"):
        for algorithm in ALGORITHMS[kind]:
            assert steps(kind, algorithm, n, p).wire >= least
    for algorithm in ALGORITHMS["all-reduce"]:
        assert steps("all-reduce", algorithm, n, p).wire >= 2 * least


def test_a_switch_that_reduces_halves_the_traffic_of_a_ring():
    ring = steps("all-reduce", "ring", 800, 8)
    switch = steps("all-reduce", "in-network", 800, 8)
    assert (ring.wire, switch.wire, switch.steps) == (1400, 800, 2)
    assert collective("all-reduce", "in-network", 800, 1) == 0
    assert collective("all-reduce", "best", 10**9, 8, LINK) > collective(
        "all-reduce", "in-network", 10**9, 8, LINK
    )


# Several servers --------------------------------------------------------------------


def simulated_hierarchy(p, c):
    """Inner and outer steps and bytes (in buffers) of a hierarchical all-reduce, run."""
    inner, outer = Wire(p), Wire(p * c)
    nodes = [[{b: frozenset([(node, d)]) for b in range(p)} for d in range(p)] for node in range(c)]
    for node, held in enumerate(nodes):
        wire = inner if node == 0 else Wire(p)
        ring_reduce_scatter(wire, held, p)
    for d in range(p):  # every device with its peers: its share in c pieces
        wire = outer if d == 0 else Wire(p * c)
        held = [dict.fromkeys(range(c), nodes[node][d][d]) for node in range(c)]
        ring_reduce_scatter(wire, held, c)
        ring_all_gather(wire, held, c)
        for node in range(c):
            assert len({held[node][piece] for piece in range(c)}) == 1
            nodes[node][d] = {d: held[node][0]}
    for node, held in enumerate(nodes):
        wire = inner if node == 0 else Wire(p)
        ring_all_gather(wire, held, p)
    whole = frozenset((node, d) for node in range(c) for d in range(p))
    assert all(held[d][b] == whole for held in nodes for d in range(p) for b in range(p))
    return inner, outer


@pytest.mark.parametrize(("p", "c"), [(2, 2), (8, 4), (4, 3), (1, 5), (8, 1), (3, 7)])
def test_a_hierarchical_all_reduce_costs_what_its_simulation_counts(p, c):
    inner, outer = simulated_hierarchy(p, c)
    near, far = Link(Integer(1000), Integer(3)), Link(Integer(10), Integer(50))
    time = hierarchical("all-reduce", 7000, p, c, near, far)
    expected = (
        3 * inner.steps + 7000 * inner.bytes / 1000 + 50 * outer.steps + 7000 * outer.bytes / 10
    )
    assert time == Rational(expected.numerator, expected.denominator)


@pytest.mark.parametrize("kind", [k for k in ALGORITHMS if k != "p2p"])
def test_one_server_or_one_device_each_is_flat(kind):
    near, far = Link(Integer(1000), Integer(3)), Link(Integer(10), Integer(50))
    flat = collective(kind, "ring", 840, 8, near)
    assert hierarchical(kind, 840, 8, 1, near, far) == flat
    assert hierarchical(kind, 840, 1, 8, near, far) == collective(kind, "ring", 840, 8, far)
    names = {s.name for s in hierarchical(kind, symbol("n"), 8, 2).free_symbols}
    assert names == {"n", "alpha", "beta", "alpha_net", "beta_net"}


def test_the_hierarchy_sends_less_over_the_slow_links_than_a_flat_ring():
    near, far = Link(Integer(450), Rational(1, 10**6)), Link(Integer(50), Rational(5, 10**6))
    flat = collective("all-reduce", "ring", 10**6, 16, far)
    assert hierarchical("all-reduce", 10**6, 8, 2, near, far) < flat


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("all-reduc", "ring", 1, 2), "all-reduce"),
        (("all-reduce", "rng", 1, 2), "ring"),
        (("all-reduce", "ring", 0, 2), "bytes must be positive"),
        (("all-reduce", "ring", -1, 2), "bytes must be positive"),
        (("all-reduce", "ring", 1, 0), "devices must be positive"),
        (("all-reduce", "ring", 1, Rational(3, 2)), "whole number"),
        (("all-reduce", "ring", 1.5, 2), "whole number or an expression"),
        (("all-reduce", "ring", True, 2), "whole number or an expression"),
        ((["ring"], "ring", 1, 2), "unknown collective"),
    ],
    ids=range(9),
)
def test_bad_arguments_are_one_line(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        collective(*arguments)
    assert "\n" not in str(caught.value)


def test_more_devices_than_a_link_joins_are_refused():
    with pytest.raises(HardwareError, match="9 devices, but the link joins 8"):
        collective("all-reduce", "ring", 1, 9, LINK)
    with pytest.raises(HardwareError, match="joins 8"):
        hierarchical("all-reduce", 1, 16, 2, LINK)
    with pytest.raises(InputError, match="crosses one link"):
        hierarchical("p2p", 1, 2, 2)
    with pytest.raises(InputError, match="must be numbers"):
        fastest("p2p", symbol("n"), 2, LINK)
