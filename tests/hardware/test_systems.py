"""Systems: what is shipped, the levels of groups, and how much of a link a group can use."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sympy import Integer, Max, Rational, Symbol

from costgraph.errors import HardwareError
from costgraph.hardware import aliases, device_names, load_hardware, load_system, system_names
from costgraph.hardware.links import collective
from costgraph.hardware.loader import SYSTEMS, other_names
from costgraph.hardware.machine import Link, Machine, Memory
from costgraph.hardware.systems import (
    NETWORK,
    TO_HOST,
    Hop,
    System,
    alone,
    counted,
    with_host,
    with_network,
)
from costgraph.hardware.wiring import share, slice_of

NUMBER = Integer
TOY = Machine("toy", "A toy", {}, Memory(Integer(10)), links={"bus": Link(Integer(100))})


def toy(per_node: int, nodes: int) -> System:
    system = System("toys", "Toys", TOY, per_node, nodes, "bus" if per_node > 1 else "")
    return with_network(system, Link(Integer(10))) if nodes > 1 else system


# --- what is shipped ---------------------------------------------------------------

#: Devices, memory in GB, network of a device in GB/s, hosts; from data sheets and guides.
KNOWN = {
    "dgx-a100": (8, 640, 25, 2),
    "dgx-h100": (8, 640, 50, 2),
    "hgx-h200": (8, 1128, 50, 2),
    "hgx-b200": (8, 1440, 50, 2),
    "gb200-nvl72": (72, 13400, 50, 36),
    "8xmi300x": (8, 1536, 50, 2),
    "tpu-v5e-4x4": (16, 275, 3.125, None),
    "tpu-v5p-pod-slice": (64, 6530, 6.25, None),
    "groq-576": (576, 132, 56, None),
    "desktop-rtx-4090": (1, 24, None, 1),
    "desktop-2x-rtx-4090": (2, 48, None, 1),
    "dgx-spark-pair": (2, 256, 25, None),
    "mac-studio-m2-ultra": (1, 192, None, None),
    "edge-3x-gtx-1080-ti": (3, 33, 1.25, None),
    "dfx-4x-u280": (4, 32, None, None),
}


def test_the_shipped_systems_are_those_that_are_known():
    assert set(system_names()) == set(KNOWN)


@pytest.mark.parametrize("name", system_names())
def test_well_known_figures(name):
    devices, memory, network, hosts = KNOWN[name]
    s = load_system(name)
    assert s.devices == devices
    assert float(devices * s.device.memory.capacity) / 1e9 == pytest.approx(memory, rel=0.01)
    found = None if s.network is None else float(s.network.bandwidth) / 1e9
    assert found == network
    assert (None if s.host is None else s.hosts) == hosts


@pytest.mark.parametrize("name", system_names())
def test_every_figure_is_positive_and_sourced_and_every_source_used(name):
    s = load_system(name)
    assert s.name == name
    assert s.device.name in device_names()
    links = {k: f for k, f in s.device.figures.items() if k.startswith("links.")}
    for key, figure in {**s.figures, **links}.items():
        assert isinstance(figure.value, Rational), key
        assert figure.value > 0, key
        assert len(figure.source.split()) >= 3, key
    text = (SYSTEMS / f"{name}.toml").read_text(encoding="utf-8")
    assert "://" not in text
    assert f'device = "{s.device.name}"' in text
    for line in text.split("[sources]")[1].split("\n\n")[0].strip().splitlines():
        assert f'source = "{line.split(" =")[0]}"' in text, f"unused source: {line}"


@pytest.mark.parametrize("name", system_names())
def test_a_system_hangs_together(name):
    s = load_system(name)
    assert (s.inner in s.device.links) == (s.per_node > 1)
    assert not s.host_link or s.host_link in s.device.links
    assert s.nodes == 1 or s.network is not None
    for link in s.device.links.values():
        assert 10**9 < link.bandwidth < s.device.memory.bandwidth
    used = [s.inner] if s.inner else []
    used += [NETWORK] if s.network is not None else []
    silent = [name for name in used if s.device.links[name].latency is None]
    assert sum("states no latency: none is counted" in n for n in s.notes) == len(silent)
    assert all(n.isprintable() and n.strip() == n for n in s.notes)
    whole = s.hops(Integer(s.devices))
    assert math.prod(int(h.ranks) for h in whole) == s.devices
    for twin in (pickle.loads(pickle.dumps(s)), copy.deepcopy(s)):
        assert twin == s
        with pytest.raises(TypeError):
            twin.figures["x"] = 1
    assert load_system(name) is s


def test_names_of_systems_are_unique_and_none_is_a_devices():
    parsed = {name: load_system(name).aliases for name in system_names()}
    claims = Counter(n.lower() for name, other in parsed.items() for n in (name, *other))
    assert max(claims.values()) == 1
    assert not set(claims) & {*device_names(), *aliases()}
    for name, others in parsed.items():
        for alias in others:
            assert load_system(alias.upper()) is load_system(name)
    assert set(other_names(SYSTEMS)) == {a for others in parsed.values() for a in others}


def test_one_network_is_known_for_a_device():
    """A counted system takes it from the shipped system of its device: there is one."""
    systems = [load_system(n) for n in system_names()]
    networked = Counter(s.device.name for s in systems if s.network is not None)
    assert max(networked.values()) == 1


def test_switches_that_reduce_are_those_of_hopper_and_blackwell():
    found = {
        name
        for name in device_names()
        if any(x.in_network for x in load_hardware(name).links.values())
    }
    assert found == {"h100", "h200", "h20", "h800", "gh200", "b200", "b300", "gb200", "gb300"}
    for name in found:
        m = load_hardware(name)
        assert [n for n, x in m.links.items() if x.in_network] == ["nvlink"]
        assert "SHARP" in m.figures["links.nvlink.in_network"].source
    assert load_system("8xh100").hops(Integer(8)) == (Hop("nvlink", Integer(8), True),)
    assert load_system("dgx-a100").hops(Integer(8)) == (Hop("nvlink", Integer(8)),)


# --- the levels of a group ---------------------------------------------------------


def layouts(per_node: int, nodes: int, ranks: int, stride: int) -> set[tuple[int, ...]]:
    """Members per node of every group, by listing them."""
    reach = ranks * stride
    found = set()
    for block in range(per_node * nodes // reach):
        for offset in range(stride):
            members = [block * reach + offset + k * stride for k in range(ranks)]
            found.add(tuple(sorted(Counter(m // per_node for m in members).values())))
    return found


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
def test_levels_are_those_of_groups_listed_one_by_one(per_node, nodes, ranks, stride):
    system = toy(per_node, nodes)
    found = layouts(per_node, nodes, ranks, stride)
    even = len(found) == 1 and len(set(next(iter(found)))) == 1
    if ranks > 1 and not even:
        with pytest.raises(HardwareError) as caught:
            system.hops(Integer(ranks), Integer(stride))
        assert "\n" not in str(caught.value)
        return
    hops = system.hops(Integer(ranks), Integer(stride))
    if ranks == 1:
        assert hops == ()
        return
    (members,) = found
    within, across = members[0], len(members)
    expected = [("bus", within)] if within > 1 else []
    expected += [(NETWORK, across)] if across > 1 else []
    assert [(h.link, int(h.ranks)) for h in hops] == expected


def test_symbolic_degrees_stay_within_a_node():
    p = Symbol("p", positive=True)
    assert toy(8, 1).hops(p) == (Hop("bus", p),)
    with pytest.raises(HardwareError, match="must be a number"):
        toy(8, 2).hops(p)
    with pytest.raises(HardwareError, match="on a torus must be a number"):
        load_system("tpu-v5e-4x4").hops(p)
    with pytest.raises(HardwareError, match="nothing connects"):
        toy(1, 1).hops(p)
    (hop,) = load_system("8xmi300x").hops(p)
    assert hop.share == Max(p - 1, 1) / 7  # one device alone sends nothing, over no lane


def test_without_a_network_there_is_no_way_across_nodes():
    system = replace(toy(4, 1), nodes=2)
    assert system.hops(Integer(4)) == (Hop("bus", Integer(4)),)
    with pytest.raises(HardwareError, match=r"no network between nodes.*\[network\]"):
        system.hops(Integer(8))


# --- how much of a link a group can use --------------------------------------------


def neighbours(shape, wraps, at):
    """Neighbours of a place in a torus, once for each link."""
    for axis, extent in enumerate(shape):
        for step in (-1, 1):
            to = at[axis] + step
            if extent > 1 and extent % wraps == 0 and extent > 2:
                to %= extent
            if 0 <= to < extent:
                yield (*at[:axis], to, *at[axis + 1 :])


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.sampled_from([2, 3, 4, 99]),
    st.integers(2, 64),
)
def test_a_block_uses_the_links_of_its_corner(shape, wraps, ranks):
    """Contiguous groups: the fewest links that a member has to other members."""
    assume(math.prod(shape) % ranks == 0)
    link = Link(
        Integer(1), None, Integer(10**6), False, "torus", Integer(len(shape)), Integer(wraps)
    )
    found = share(link, Integer(ranks), Integer(1), shape) * 2 * len(shape)
    places = [p[::-1] for p in itertools.product(*(range(e) for e in reversed(shape)))]
    fewest = []
    for start in range(0, len(places), ranks):
        group = set(places[start : start + ranks])
        fewest.append(min(sum(n in group for n in neighbours(shape, wraps, p)) for p in group))
    box = all(
        math.prod(max(c) - min(c) + 1 for c in zip(*places[s : s + ranks], strict=True)) == ranks
        for s in range(0, len(places), ranks)
    )
    if box:
        assert found == min(fewest)
    else:
        assert found == 1  # a path from neighbour to neighbour


@pytest.mark.parametrize(
    ("shape", "ranks", "stride", "links"),
    [
        ((4, 4), 16, 1, Fraction(2)),  # corners have two of their four links
        ((4, 4), 4, 1, Fraction(1)),  # a row, open at both ends
        ((4, 4), 4, 4, Fraction(1)),  # a column
        ((4, 4), 2, 2, Fraction(1, 2)),  # every second: two groups share the links between
        ((4, 4), 8, 2, Fraction(3, 2)),
        ((16, 16), 256, 1, Fraction(4)),  # the whole torus
        ((16, 16), 16, 16, Fraction(2)),
        ((8, 16), 16, 8, Fraction(2)),
        ((8, 16), 8, 1, Fraction(1)),
        ((4, 4), 3, 1, Fraction(1)),  # no block: a path
        ((4, 4), 2, 3, Fraction(1)),
    ],
)
def test_groups_of_a_slice_of_tpu_v5e(shape, ranks, stride, links):
    ici = load_hardware("tpu-v5e").links["ici"]
    found = share(ici, Integer(ranks), Integer(stride), shape)
    assert found == Rational(links.numerator, links.denominator) / 4


def test_a_cube_of_tpu_v5p_has_all_its_links_and_an_axis_a_third():
    s = load_system("tpu-v5p-pod-slice")
    assert s.shape == (4, 4, 4)
    (whole,), (axis,), (plane,) = (s.hops(Integer(n)) for n in (64, 4, 16))
    assert (whole.share, axis.share, plane.share) == (1, Rational(1, 3), Rational(2, 3))
    assert s.usable(whole).bandwidth == 600 * 10**9
    assert s.usable(axis).bandwidth == 200 * 10**9


def test_a_slice_that_is_no_cube_of_tpu_v5p_wraps_nowhere():
    """The book's footnote: a 2x2x4 has no wrap-around, a 4x4x8 has it along all axes."""
    (hop,) = load_system("16xtpu-v5p").hops(Integer(16))
    assert hop.share == Rational(3, 6)
    (hop,) = load_system("128xtpu-v5p").hops(Integer(128))
    assert hop.share == 1
    (hop,) = load_system("128xtpu-v5e").hops(Integer(128))  # 8x16: along the longer axis only
    assert hop.share == Rational(3, 4)


def test_the_scaling_books_examples():
    """How to Scale Your Model, chapters 2 and 3, with 50 GB/s a link as the documentation has."""
    s = load_system("tpu-v5e-4x4")
    link = replace(s.usable(s.hops(Integer(16))[0]), latency=None)
    gather = collective("all-gather", "ring", 16 * 10**9, 16, link)
    assert float(gather) == pytest.approx(0.150)  # question 6: 15e9 / (2 * 5e10)
    wide = load_system("32xtpu-v5e")
    assert wide.shape == (4, 8)
    link = replace(wide.usable(wide.hops(Integer(4))[0]), latency=None)
    shard = 512 * 8192 * 2
    gather = collective("all-gather", "ring", 4 * shard, 4, link)  # quiz 2: three hops
    assert float(gather) == pytest.approx(3 * shard / 50e9)


@pytest.mark.parametrize("name", ["mi300x", "gaudi-2", "gaudi-3", "mi210", "groqchip1"])
def test_members_of_a_mesh_use_the_links_between_them(name):
    m = load_hardware(name)
    (link,) = [x for x in m.links.values() if x.wiring == "mesh"]
    single = link.bandwidth / (link.devices - 1)
    for p in range(2, int(link.devices) + 1):
        system = counted(m, p)
        (hop,) = system.hops(Integer(p))
        assert system.usable(hop).bandwidth == single * (p - 1)
        assert any("is a mesh" in note for note in system.notes)


@pytest.mark.parametrize("name", ["tpu-v5e", "tpu-v5p"])
def test_slices_are_as_square_as_they_can_be(name):
    link = load_hardware(name).links["ici"]
    axes, devices = int(link.axes), int(link.devices)
    pod = {2: (16, 16), 3: (16, 20, 28)}[axes]
    assert math.prod(pod) == devices
    best = {}
    for block in itertools.product(*(range(1, e + 1) for e in pod)):
        if list(block) == sorted(block):
            best[math.prod(block)] = min(max(block), best.get(math.prod(block), 99))
    for count in [*range(1, 257), 512, devices]:
        if count in best:
            shape = slice_of(link, count)
            assert math.prod(shape) == count
            assert max(shape) == best[count]
        else:
            with pytest.raises(HardwareError) as caught:
                slice_of(link, count)
            near = [int(w) for w in str(caught.value).split("nearest:")[1].split(" or ")]
            assert all(n in best for n in near)
            assert not [n for n in range(min(near) + 1, max(near)) if n in best and n != count]


def test_slices_have_the_shapes_that_are_offered():
    v5e, v5p = (load_hardware(n).links["ici"] for n in ("tpu-v5e", "tpu-v5p"))
    offered = {4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16)}
    assert {n: slice_of(v5e, n) for n in offered} == offered
    offered = {8: (2, 2, 2), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 2048: (8, 16, 16)}
    assert {n: slice_of(v5p, n) for n in offered} == offered


# --- counted devices and hosts -----------------------------------------------------


def counts_of(name: str) -> dict[int, System | HardwareError]:
    """One, two, four and eight of a device."""
    machine = load_hardware(name)
    found: dict[int, System | HardwareError] = {}
    for count in (1, 2, 4, 8):
        try:
            found[count] = counted(machine, count)
        except HardwareError as error:
            found[count] = error
    return found


@pytest.mark.parametrize("name", device_names())
def test_a_device_in_any_count_is_a_system_or_one_line(name):
    for count, s in counts_of(name).items():
        if isinstance(s, HardwareError):
            assert count > 1
            assert "\n" not in str(s)
            assert name in str(s)
            continue
        assert s.devices == count
        if count == 1:
            assert s == alone(load_hardware(name))
            continue
        (hop,) = s.hops(Integer(count))
        assert 0 < hop.share <= 1
        link = s.device.links[s.inner]
        assert link.devices is None or link.devices >= count
        assert any("through the host" in n for n in s.notes) == (s.inner in TO_HOST)
        assert any("states no latency" in n for n in s.notes) == (link.latency is None)


def test_a_device_alone_is_the_system_of_one():
    for name in device_names():
        s = load_system(name)
        assert s == alone(load_hardware(name))
        assert s.is_device
        assert (s.devices, s.inner, s.notes, s.network) == (1, "", (), None)
        assert not s.host_link or s.host_link in s.device.links
    assert not load_system("desktop-rtx-4090").is_device


@pytest.mark.parametrize(
    ("spec", "link", "hosts"),
    [
        ("8xh100", "nvlink", 1),
        ("4xl40s", "pcie", 1),
        ("2xa100-pcie", "nvlink", 1),
        ("8xa100-pcie", "pcie", 1),  # bridges join pairs only
        ("72xgb200", "nvlink", 18),
        ("256xtpu-v5e", "ici", 32),
        ("12xtpu-v5e", "ici", 2),
        ("32xgh200", "nvlink", 1),
        ("8xgaudi-3", "roce", 1),
        ("2xgb10", "roce", 1),
    ],
)
def test_devices_are_joined_by_the_widest_link_that_joins_so_many(spec, link, hosts):
    s = load_system(spec)
    assert (s.inner, s.hosts) == (link, hosts)


def test_a_host_is_a_processor():
    gpu, cpu = load_hardware("rtx-4090"), load_hardware("i9-13900k")
    s = with_host(counted(gpu, 2), cpu)
    assert (s.name, s.host, s.host_link) == ("2xrtx-4090+i9-13900k", cpu, "pcie")
    with pytest.raises(HardwareError, match="of kind 'gpu'; a host is a 'cpu'"):
        with_host(alone(gpu), gpu)
    with pytest.raises(HardwareError, match=r"has a host.*write h100\+i9"):
        with_host(load_system("dgx-h100"), cpu)
    linkless = with_host(alone(load_hardware("gb10")), cpu)
    assert any("no link to a host" in note for note in linkless.notes)
