"""Tiers, links, node, topology, energy and price in device files: right and wrong."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.errors import CostgraphError, HardwareError
from costgraph.hardware import device_names, load_device_file, load_hardware
from costgraph.hardware.loader import DEVICES
from costgraph.hardware.machine import Engine, Link, Tier
from costgraph.hardware.schema import TOP, machine_from

GOOD = """\
name = "toy"
title = "A toy device"
kind = "pim"
[sources]
sheet = "Toy datasheet, page 1"
[peaks.tensor]
bf16 = { value = "10 TFLOP/s", source = "sheet" }
[memory]
bandwidth = { value = "100 GB/s", source = "sheet" }
capacity = { value = "8 GB", source = "sheet" }
[onchip]
l2 = { value = "4 MiB", source = "sheet" }
[tiers.l2]
bandwidth = { value = "1 TB/s", source = "sheet" }
[tiers.nvme]
bandwidth = { value = "7 GB/s", source = "sheet" }
capacity = { value = "2 TB", source = "sheet" }
[tiers.pim]
bandwidth = { value = "800 GB/s", source = "sheet" }
[tiers.pim.peaks.vector]
fp16 = { value = "1.2 TFLOP/s", source = "sheet" }
[links.nvlink]
bandwidth = { value = "300 GB/s", source = "sheet" }
latency = { value = "1.5 us", source = "sheet" }
devices = { value = 8, source = "sheet" }
[links.ethernet]
bandwidth = { value = "12.5 GB/s", source = "sheet" }
[node]
devices = { value = 8, source = "sheet" }
[topology]
numa_domains = { value = 2, source = "sheet" }
cores = { value = 64, source = "sheet" }
clock = { value = "2.5 GHz", source = "sheet" }
[power]
board = { value = "50 W", source = "sheet" }
idle = { value = "9 W", source = "sheet" }
[energy.tensor]
bf16 = { value = "1.3 pJ/FLOP", source = "sheet" }
[energy.byte]
memory = { value = "31.36 pJ/B", source = "sheet" }
l2 = { value = "2 pJ/B", source = "sheet" }
[price]
hour = { value = "2.5 USD/h", source = "sheet" }
"""


def write(folder, text):
    path = folder / "toy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_table_reads_exactly(tmp_path):
    m = load_hardware(write(tmp_path, GOOD))
    assert m.kind == "pim"
    assert m.tiers["l2"] == Tier(Integer(10**12), Integer(4 * 2**20))  # the size from [onchip]
    assert m.tiers["nvme"] == Tier(Integer(7 * 10**9), Integer(2 * 10**12))
    assert dict(m.tiers["pim"].peaks) == {(Engine.VECTOR, "fp16"): 12 * 10**11}
    assert m.links["nvlink"] == Link(Integer(3 * 10**11), Rational(3, 2 * 10**6), Integer(8))
    assert m.links["ethernet"] == Link(Rational(125 * 10**8))
    assert m.link() is m.links["nvlink"]
    assert m.node.devices == 8
    assert (m.topology.numa_domains, m.topology.cores, m.topology.clock) == (2, 64, 25 * 10**8)
    assert (m.power, m.idle) == (50, 9)
    assert m.energy.flop[Engine.TENSOR, "bf16"] == Rational("1.3e-12")
    assert m.energy.byte["memory"] == Rational("31.36e-12")
    assert m.price.hour == Rational(5, 2)
    assert m.inside("pim").memory.bandwidth == 8 * 10**11
    for key in (
        "tiers.l2.bandwidth", "tiers.pim.peaks.vector.fp16", "links.nvlink.latency",
        "node.devices", "topology.clock", "power.idle", "energy.tensor.bf16",
        "energy.byte.l2", "price.hour",
    ):  # fmt: skip
        assert m.figures[key].source == "Toy datasheet, page 1"


def test_none_of_it_is_required(tmp_path):
    text = GOOD[: GOOD.index("[onchip]")]
    m = load_device_file(write(tmp_path, text))
    assert not m.tiers
    assert not m.links
    assert not m.energy.flop
    assert not m.energy.byte
    assert (m.node.devices, m.price.hour, m.topology.clock, m.idle) == (None,) * 4


def test_the_example_of_the_documentation_is_a_device_file(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    m = load_hardware(write(tmp_path, example))
    assert {*m.tiers} == {"l2", "nvme", "pim"}
    assert set(tomllib.loads(example)) >= set(TOP) - {"conventions"}


def swap(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BAD = {
    "tier key": (swap('bandwidth = { value = "7', 'bandwith = { value = "7'),
                 ["[tiers.nvme]", "'bandwith'", "'bandwidth'"]),
    "tier without figures": (GOOD + "[tiers.ddr]\n", ["[tiers.ddr]", "bandwidth, a capacity"]),
    "tier of main memory": (GOOD + '[tiers.memory]\ncapacity={value="1 B",source="sheet"}\n',
                            ["[tiers.memory]", "[memory]"]),
    "tier name": (GOOD + '[tiers."a b"]\ncapacity={value="1 B",source="sheet"}\n',
                  ["[tiers]", "'a b'"]),
    "tier not a table": ("tiers = 3\n" + GOOD[: GOOD.index("[tiers.l2]")], ["'tiers'", "table"]),
    "tier a text": (GOOD[: GOOD.index("[tiers.l2]")] + '[tiers]\nl2 = "1 TB/s"\n', ["'l2'"]),
    "two sizes of the cache": (
        swap('[tiers.nvme]', 'capacity = { value = "4 MiB", source = "sheet" }\n[tiers.nvme]'),
        ["tiers.l2.capacity", "onchip.l2", "leave one out"],
    ),
    "compute without bandwidth": (
        swap('[tiers.pim]\nbandwidth = { value = "800 GB/s", source = "sheet" }\n',
             '[tiers.pim]\ncapacity = { value = "8 GB", source = "sheet" }\n'),
        ["missing key 'tiers.pim.bandwidth'"],
    ),
    "compute of a tier": (swap("[tiers.pim.peaks.vector]", "[tiers.pim.peaks.vektor]"),
                          ["[tiers.pim.peaks]", "'vector'"]),
    "type of a tier": (swap("fp16 = {", "fp61 = {"), ["[tiers.pim.peaks.vector]", "'fp16'"]),
    "link key": (swap("latency = {", "latancy = {"), ["[links.nvlink]", "'latency'"]),
    "link without bandwidth": (
        swap('[links.ethernet]\nbandwidth = { value = "12.5 GB/s", source = "sheet" }\n',
             "[links.ethernet]\n"),
        ["missing key 'links.ethernet.bandwidth'", "one direction"],
    ),
    "link in bits": (swap('"12.5 GB/s"', '"100 Gb/s"'), ["links.ethernet.bandwidth", "bits"]),
    "latency in bytes": (swap('"1.5 us"', '"1.5 GB"'), ["links.nvlink.latency", "us"]),
    "devices a text": (swap("devices = { value = 8", 'devices = { value = "8"'),
                       ["links.nvlink.devices", "whole"]),
    "node key": (swap("[node]\ndevices", "[node]\ndevice"), ["[node]", "'devices'"]),
    "topology key": (swap("numa_domains", "numa_domain"), ["[topology]", "'numa_domains'"]),
    "clock in bytes": (swap('"2.5 GHz"', '"2.5 GB/s"'), ["topology.clock", "frequency"]),
    "power key": (swap("idle = {", "idel = {"), ["[power]", "'idle'"]),
    "energy engine": (swap("[energy.tensor]", "[energy.tensr]"), ["[energy]", "'tensor'"]),
    "energy type": (swap('bf16 = { value = "1.3', 'bf61 = { value = "1.3'),
                    ["[energy.tensor]", "'bf16'"]),
    "energy of FLOP in bytes": (swap('"1.3 pJ/FLOP"', '"1.3 pJ/B"'),
                                ["energy.tensor.bf16", "energy per byte", "'1.3 pJ/FLOP'"]),
    "energy of a byte in FLOP": (swap('"31.36 pJ/B"', '"31.36 pJ/FLOP"'),
                                 ["energy.byte.memory", "energy per FLOP"]),
    "energy of an unknown level": (swap("l2 = { value = \"2 pJ/B", "l3 = { value = \"2 pJ/B"),
                                   ["[energy.byte]", "'l3'", "known: l2, memory"]),
    "energy per bit": (swap('"31.36 pJ/B"', '"3.92 pJ/b"'), ["energy.byte.memory", "unknown unit"]),
    "price key": (swap("[price]\nhour", "[price]\nhours"), ["[price]", "'hour'"]),
    "price in euro": (swap('"2.5 USD/h"', '"2.5 EUR/h"'), ["price.hour", "'USD/h'"]),
    "price a number": (swap('"2.5 USD/h"', "2.5"), ["price.hour", "text with a unit"]),
    "price without source": (swap('{ value = "2.5 USD/h", source = "sheet" }',
                                  '{ value = "2.5 USD/h" }'), ["price.hour", "no source"]),
    "table name": (GOOD + "[tires.l2]\n", ["'tires'", "'tiers'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_line_naming_key_and_remedy(tmp_path, case):
    text, words = BAD[case]
    with pytest.raises(HardwareError) as caught:
        load_hardware(write(tmp_path, text))
    message = str(caught.value)
    assert message.startswith("toy.toml: ")
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


def one_line(error):
    assert str(error).startswith("toy.toml: ") or "/toy.toml" in str(error)
    assert "\n" not in str(error)


# Mutations of whole documents ---------------------------------------------------------

DOCUMENT = tomllib.loads(GOOD)
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(
        st.sampled_from(["value", "source", "bandwidth", "peaks", "vector", "byte", "bf16"]),
        st.one_of(st.integers(), st.text(max_size=6), st.dictionaries(st.text(max_size=3),
                  st.integers(), max_size=2)),
        max_size=3,
    ),
)  # fmt: skip


def places(node, path=()):
    """Paths of every key in a nested document."""
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


PLACES = list(places(DOCUMENT))


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", "set", "rename"]), JUNK),
        min_size=1,
        max_size=3,
    )
)
def test_a_mutated_document_is_a_machine_or_a_hardware_error(changes):
    document = copy.deepcopy(DOCUMENT)
    for path, what, junk in changes:
        node = document
        for key in path[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or path[-1] not in node:
            continue
        if what == "drop":
            del node[path[-1]]
        elif what == "rename":
            node[str(junk)[:10]] = node.pop(path[-1])
        else:
            node[path[-1]] = junk
    try:
        machine = machine_from(document, "toy.toml")
    except HardwareError as error:
        one_line(error)
    else:
        assert all(figure.value > 0 for figure in machine.figures.values())


TEXTS = [(DEVICES / f"{name}.toml").read_text(encoding="utf-8") for name in device_names()]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(TEXTS), st.floats(0, 0.999), st.integers(1, 40), st.text(max_size=8))
def test_no_damage_to_a_shipped_file_escapes_as_another_exception(tmp_path, text, at, length, junk):
    start = int(len(text) * at)
    damaged = text[:start] + junk + text[start + length :]
    path = tmp_path / "toy.toml"
    path.write_bytes(damaged.encode("utf-8", "surrogatepass"))
    try:
        load_hardware(path)
    except CostgraphError as error:
        one_line(error)
