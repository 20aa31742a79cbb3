"""What a user may write for a system, files of one's own, and every way to get them wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.errors import CostgraphError, HardwareError
from costgraph.hardware import device_names, load_hardware, load_system, system_names
from costgraph.hardware.loader import DEVICES
from costgraph.hardware.machine import Tier
from costgraph.hardware.system_schema import TOP, system_from
from costgraph.hardware.systems import System

GOOD = """\
name = "rig"
title = "A rig of cards"
device = "rtx-4090"
inner = "riser"
aliases = ["rig-1"]
notes = ["built at home"]
[sources]
sheet = "My own notes, page 1"
[layout]
devices = { value = 4, source = "sheet" }
nodes = { value = 2, source = "sheet" }
[links.pcie]
bandwidth = { value = "8 GB/s", source = "sheet" }
[links.riser]
bandwidth = { value = "12 GB/s", source = "sheet" }
latency = { value = "3 us", source = "sheet" }
devices = { value = 8, source = "sheet" }
[network]
bandwidth = { value = "1.25 GB/s", source = "sheet" }
latency = { value = "30 us", source = "sheet" }
in_network = { value = false, source = "sheet" }
[host]
device = "epyc-9654"
count = { value = 2, source = "sheet" }
capacity = { value = "256 GiB", source = "sheet" }
[storage]
bandwidth = { value = "7 GB/s", source = "sheet" }
capacity = { value = "2 TB", source = "sheet" }
"""


def write(folder: Path, text: str, name: str = "rig.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def one_line(error: CostgraphError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 500


def test_a_whole_file_reads_exactly(tmp_path):
    s = load_system(write(tmp_path, GOOD))
    assert (s.name, s.title, s.per_node, s.nodes) == ("rig", "A rig of cards", 4, 2)
    assert (s.inner, s.host_link, s.hosts, s.aliases) == ("riser", "pcie", 2, ("rig-1",))
    links = s.device.links
    assert links["pcie"].bandwidth == 8 * 10**9
    assert (links["riser"].latency, links["riser"].devices) == (Rational(3, 10**6), 8)
    assert (s.network.bandwidth, s.network.in_network) == (Rational(125 * 10**7), False)
    host = load_hardware("epyc-9654")
    assert s.host.peaks == host.peaks
    assert s.host.memory.capacity == 256 * 2**30
    assert s.host.memory.bandwidth == host.memory.bandwidth
    assert s.storage == Tier(Integer(7 * 10**9), Integer(2 * 10**12))
    assert s.notes[0] == "built at home"
    for key in ("layout.nodes", "host.count", "storage.capacity"):
        assert s.figures[key].source == "My own notes, page 1"
    for key in ("links.pcie.bandwidth", "links.riser.latency", "links.network.in_network"):
        assert s.device.figures[key].source == "My own notes, page 1"
    assert s.device.peaks == load_hardware("rtx-4090").peaks
    assert [(h.link, h.ranks) for h in s.hops(Integer(8))] == [("riser", 4), ("network", 2)]


def test_a_link_that_is_restated_keeps_what_is_not(tmp_path):
    text = GOOD.replace('"rtx-4090"', '"h100"').replace("links.pcie", "links.nvlink")
    s = load_system(write(tmp_path, text))
    nvlink, own = s.device.links["nvlink"], load_hardware("h100").links["nvlink"]
    assert nvlink.bandwidth == 8 * 10**9
    assert (nvlink.latency, nvlink.devices, nvlink.in_network) == (own.latency, own.devices, True)


def test_a_host_of_ones_own_needs_only_the_bandwidth_of_its_memory(tmp_path):
    text = swap('device = "epyc-9654"', 'name = "old"\ntitle = "An old one"')
    text = text.replace('capacity = { value = "256 GiB"', 'bandwidth = { value = "50 GB/s"')
    s = load_system(write(tmp_path, text))
    assert (s.host.name, s.host.kind, dict(s.host.peaks)) == ("old", "cpu", {})
    assert (s.host.memory.bandwidth, s.host.memory.capacity) == (50 * 10**9, None)


def test_only_a_device_is_required(tmp_path):
    text = 'name = "n"\ntitle = "t"\ndevice = "h100"\n[sources]\ns = "x"\n'
    s = load_system(write(tmp_path, text))
    assert (s.devices, s.host, s.storage, s.notes) == (1, None, None, ())
    assert s.device == load_hardware("h100")


def test_the_example_of_the_documentation_is_a_system_file(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    example = text.split("### A system file")[1].split("```toml\n")[1].split("```")[0]
    assert set(tomllib.loads(example)) == set(TOP)
    s = load_system(write(tmp_path, example))
    assert (s.devices, s.nodes, s.host.name) == (8, 2, "epyc-9654")
    assert "through the host" in s.notes[1]


BAD = {
    "no device file": (swap('"rtx-4090"', '"rtx-4091"'), ["rtx-4091", "did you mean"]),
    "device a system": (swap('"rtx-4090"', '"dgx-h100"'), ["is a system; one device"]),
    "device a number": (swap('"rtx-4090"', "7"), ["'device'", "text"]),
    "no name": (swap('name = "rig"\n', ""), ["missing key 'name'"]),
    "name with markup": (swap('"rig"', '"<b>"'), ["'name'", "letters"]),
    "no title": (swap('title = "A rig of cards"\n', ""), ["missing key 'title'"]),
    "no sources": (swap('[sources]\nsheet = "My own notes, page 1"\n', ""), ["[sources]"]),
    "unlisted source": (GOOD.replace('"2 TB", source = "sheet"', '"2 TB", source = "x"'),
                        ["storage.capacity", "'x'"]),
    "no inner": (swap('inner = "riser"\n', ""), ["missing key 'inner'"]),
    "inner unknown": (swap('inner = "riser"', 'inner = "rizer"'), ["'rizer'", "pcie, riser"]),
    "inner for one": (swap("devices = { value = 4", "devices = { value = 1"), ["'inner'", "one"]),
    "more than joined": (swap("devices = { value = 4", "devices = { value = 16"),
                         ["rig: riser of rtx-4090 joins 8 devices, not 16"]),
    "no network": (GOOD[: GOOD.index("[network]")] + GOOD[GOOD.index("[host]"):],
                   ["missing table [network]"]),
    "network without bandwidth": (swap('bandwidth = { value = "1.25 GB/s", source = "sheet" }\n',
                                       ""), ["missing key 'network.bandwidth'"]),
    "network among links": (swap("[links.pcie]", "[links.network]"), ["stated in [network]"]),
    "reduces in words": (swap("value = false", 'value = "no"'), ["network.in_network", "true or"]),
    "reduces in numbers": (swap("value = false", "value = 1"), ["network.in_network", "true or"]),
    "new link without bandwidth": (swap('bandwidth = { value = "12 GB/s", source = "sheet" }\n',
                                        ""), ["missing key 'links.riser.bandwidth'"]),
    "wiring": (swap("[links.riser]", '[links.riser]\nwiring = "ring"'), ["unknown wiring 'ring'"]),
    "torus without axes": (swap("[links.riser]", '[links.riser]\nwiring = "torus"'),
                           ["missing key 'links.riser.axes'"]),
    "mesh of nobody knows": (swap("[links.pcie]", '[links.pcie]\nwiring = "mesh"'),
                             ["missing key 'links.pcie.devices'"]),
    "axes of a switch": (swap("[links.riser]",
                              '[links.riser]\naxes = { value = 2, source = "sheet" }'),
                         ["[links.riser]", 'wiring = "torus"']),
    "host a gpu": (swap('"epyc-9654"', '"h100"'), ["[host]", "'gpu'", "'cpu'"]),
    "host unknown": (swap('"epyc-9654"', '"epyc-9655"'), ["epyc-9655", "did you mean"]),
    "host without bandwidth": (swap('device = "epyc-9654"', 'name = "a"\ntitle = "b"'),
                               ["missing key 'host.bandwidth'"]),
    "host without a name": (swap('device = "epyc-9654"\n', ""), ["missing key 'name'"]),
    "host by another link": (swap("[host]", '[host]\nlink = "riser"'), ["[host]", "pcie"]),
    "host by no link": (swap("[host]", '[host]\nlink = "usb"'), ["'usb'", "pcie, riser"]),
    "host count": (swap("count = { value = 2", "count = { value = 0"), ["host.count", "positive"]),
    "storage in words": (swap('"2 TB"', '"a lot"'), ["storage.capacity", "'a lot'"]),
    "unknown table": (GOOD + "[storag]\nx = 1\n", ["'storag'", "'storage'"]),
    "unknown key": (swap("nodes =", "node ="), ["[layout]", "'node'", "'nodes'"]),
    "notes a text": (swap('["built at home"]', '"built at home"'), ["'notes'", "list of texts"]),
    "note of two lines": (swap('"built at home"', r'"a\nb"'), ["'notes'", "list of texts"]),
    "torus of a prime": (swap("[links.riser]", '[links.riser]\nwiring = "torus"\n'
                              'axes = { value = 2, source = "sheet" }')
                         .replace("devices = { value = 4", "devices = { value = 7"),
                         ["7 devices make no block"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_naming_key_and_remedy(tmp_path, case):
    text, words = BAD[case]
    with pytest.raises(HardwareError) as caught:
        load_system(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


TOY = (DEVICES / "i9-13900k.toml").read_text(encoding="utf-8").replace('"cpu"', '"gpu"') + (
    '[links.roce]\nbandwidth = { value = "5 GB/s", source = "cores" }\n'
    '[links.pcie]\nbandwidth = { value = "9 GB/s", source = "cores" }\n'
)


def test_paths_stand_wherever_names_do(tmp_path, monkeypatch):
    write(tmp_path, TOY.replace('name = "i9-13900k"', 'name = "own"'), "own.toml")
    write(tmp_path, GOOD.replace('"rtx-4090"', '"./own.toml"'), "rig.toml")
    monkeypatch.chdir(tmp_path)
    assert load_system("own.toml") == load_system(Path("own.toml")) == load_system("./own.toml")
    two = load_system("2x./own.toml")
    assert (two.name, two.device.name, two.inner) == ("2xown", "own", "roce")
    assert load_system(f"2x{tmp_path}/own.toml") == two
    assert load_system("2xown.toml") == two
    hosted = load_system("2x./own.toml+i9-13900k")
    assert (hosted.name, hosted.host.name) == ("2xown+i9-13900k", "i9-13900k")
    write(tmp_path, TOY.replace('kind = "gpu"', 'kind = "cpu"'), "a+b.toml")
    assert load_system("./own.toml+./a+b.toml").host.kind == "cpu"
    assert load_system("own.toml+13900k").host.name == "i9-13900k"
    assert load_system("a+b.toml").device.kind == "cpu"
    across = load_system("3x1x./own.toml")
    assert across.network.bandwidth == 5 * 10**9
    assert any("roce of own" in note for note in across.notes)
    assert load_system("rig.toml").device.name == "own"
    assert load_system("3x./rig.toml").nodes == 6
    monkeypatch.chdir(tmp_path.parent)  # files named in a file are beside it
    assert load_system(tmp_path / "rig.toml").device.name == "own"
    with pytest.raises(HardwareError, match=r"no network between nodes of own is known"):
        load_system(f"3x2x{tmp_path}/own.toml")
    write(tmp_path, TOY, "2xodd.toml")  # a name that looks like a count
    assert load_system(tmp_path / "2xodd.toml").devices == 1
    monkeypatch.chdir(tmp_path)
    assert load_system("2xodd.toml").devices == 1


@pytest.mark.parametrize(
    ("spec", "name", "devices"),
    [
        ("h100", "h100", 1),
        ("1xh100", "h100", 1),
        ("1x1xh100", "h100", 1),
        ("8xH100", "8xh100", 8),
        (" 8 x h100 ", "8xh100", 8),
        ("8×h100", "8xh100", 8),
        ("8xnvidia_H100", "8xh100", 8),
        ("2x8xh200", "2x8xh200", 16),
        ("2x4xh200", "2x4xh200", 8),
        ("4xl40s", "4xl40s", 4),
        ("rtx-4090+i9-13900k", "rtx-4090+i9-13900k", 1),
        ("2xrtx-4090 + 13900k", "2xrtx-4090+i9-13900k", 2),
        ("rtx-4090+8480+", "rtx-4090+xeon-8480p", 1),
        ("8480+", "xeon-8480p", 1),
        ("DGX_H100", "dgx-h100", 8),
        ("hgx-h100", "dgx-h100", 8),
        ("4xdgx-h100", "4xdgx-h100", 32),
        ("1xdgx-h100", "dgx-h100", 8),
        ("8xmi300x", "8xmi300x", 8),
        ("2x8xmi300x", "2x8xmi300x", 16),
        ("4xmi300x", "4xmi300x", 4),
        ("2xtpu-v5e-4x4", "2xtpu-v5e-4x4", 32),
        ("gb200-nvl72", "gb200-nvl72", 72),
    ],
)
def test_what_a_user_may_write(spec, name, devices):
    s = load_system(spec)
    assert (s.name, s.devices) == (name, devices)
    assert load_system(s) is s
    again = load_system(s.name)
    assert again == s
    assert all(note.isprintable() for note in s.notes)


def test_the_count_of_a_shipped_platform_is_the_platform():
    assert load_system("8xmi300x").host.name == "epyc-9374f"
    assert load_system("2x8xmi300x").host.name == "epyc-9374f"
    assert load_system("4xmi300x").host is None


def test_nodes_of_counted_devices_say_whose_network_joins_them():
    s, reference = load_system("2x8xh200"), load_system("hgx-h200")
    assert s.network == reference.network
    for key in ("bandwidth", "latency"):
        key = f"links.network.{key}"
        assert s.device.figures[key] == reference.device.figures[key]
    (note,) = s.notes
    assert "hgx-h200" in note
    assert "ConnectX-7" in note
    assert load_system("8xh200").notes == ()


def test_a_machine_is_a_system_of_one():
    m = load_hardware("a6000").under("survey")
    assert load_system(m).device is m


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("8xh1000", ["unknown hardware 'h1000'", "'8xh1000'", "did you mean"]),
        ("dgx-h10", ["did you mean 'dgx-h100'"]),
        ("gb200-nvl27", ["did you mean 'gb200-nvl72'"]),
        ("zzzzzzzz", ["unknown hardware", "costgraph hardware"]),
        ("0xh100", ["at least one"]),
        ("0x8xh100", ["at least one"]),
        ("0xdgx-h100", ["at least one"]),
        ("9xh100", ["a node holds 8 of h100", "2x8xh100"]),
        ("99xrtx-4090", ["is taken to hold 8", "13x8xrtx-4090"]),
        ("73xgb200", ["holds 72"]),
        ("33xgh200", ["holds 32"]),
        ("31xtpu-v5p", ["31 devices make", "30 or 32"]),
        ("2x2x2xh100", ["NODESxDEVICESxDEVICE"]),
        ("2x2xdgx-h100", ["dgx-h100 is a system of its own", "one count"]),
        ("2xm2-ultra", ["states no link", "[links.NAME]"]),
        ("2x8xl40s", ["no network between nodes of l40s", "[network]"]),
        ("2x8xgaudi-3", ["no network between nodes of gaudi-3"]),
        ("2x1xxeon-8480p", ["no network between nodes of xeon-8480p"]),
        ("2xdesktop-rtx-4090", ["no network between nodes of rtx-4090"]),
        ("h100+", ["name a processor"]),
        ("h100+b200", ["of kind 'gpu'", "'cpu'"]),
        ("h100+i9-13900", ["did you mean"]),
        ("h100+dgx-h100", ["is a system; one device is needed"]),
        ("dgx-h100+i9-13900k", ["has a host", "write h100+i9-13900k"]),
        ("+i9-13900k", ["unknown hardware ''"]),
        ("8x", ["unknown hardware '8x'"]),
        ("xh100", ["unknown hardware 'xh100'"]),
        ("-2xh100", ["unknown hardware"]),
        ("2.5xh100", ["unknown hardware"]),
        ("9999999xh100", ["unknown hardware"]),
        ("٣xh100", ["unknown hardware"]),
        ("", ["not a device name or path"]),
        ("8x\0h100", ["not a device name or path"]),
        ("8x./no.toml", ["no such file", "no.toml"]),
        ("no/such.toml", ["no such file"]),
        ("8x8x8x8x" * 500, ["NODESxDEVICESxDEVICE"]),
        ("y" * 5000, ["unknown hardware"]),
        (None, ["is a name, a path"]),
        (8, ["is a name, a path"]),
        (["h100"], ["is a name, a path"]),
    ],
    ids=lambda x: x[:20] if isinstance(x, str) else None,
)
def test_a_bad_spec_is_one_line_that_helps(tmp_path, monkeypatch, spec, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HardwareError) as caught:
        load_system(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


PIECES = st.sampled_from(
    ["8", "2", "0", "x", "X", "+", "*", " ", "-", "./", ".toml", "\n", "h100", "i9-13900k",
     "dgx-h100", "tpu-v5e", "mi300x", "gb10", "groq", "99999", "é"]
)  # fmt: skip


@settings(max_examples=150)
@given(st.one_of(st.lists(PIECES, max_size=6).map("".join), st.text(max_size=12)))
def test_any_text_is_a_system_or_one_line(spec):
    try:
        s = load_system(spec)
    except HardwareError as error:
        one_line(error)
    else:
        assert s.devices >= 1
        assert load_system(s.name) == s


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 12), st.text(max_size=6))
def test_no_damage_to_a_file_escapes_as_another_exception(tmp_path, start, length, patch):
    try:
        text = (GOOD[:start] + patch + GOOD[start + length :]).encode("utf-8", "surrogatepass")
        (tmp_path / "rig.toml").write_bytes(text)
        load_system(tmp_path / "rig.toml")
    except CostgraphError as error:
        one_line(error)


TABLE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(
                ["name", "title", "device", "inner", "layout", "devices", "nodes", "links", "pcie",
                 "network", "host", "storage", "bandwidth", "value", "source", "count", "wiring"]
            ),
            inner,
            max_size=4,
        ),
    ),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["layout", "links", "network", "host", "storage", "notes", "inner"]), TABLE
    )
)
def test_any_document_is_a_system_or_a_hardware_error(extra):
    base = {"name": "n", "title": "t", "device": "h100", "sources": {"s": "x"}}
    try:
        assert isinstance(system_from(base | extra, "rig.toml", load_hardware), System)
    except HardwareError as error:
        one_line(error)


def test_one_device_is_wanted_where_a_system_is_given(tmp_path):
    for name in system_names():
        with pytest.raises(HardwareError, match="is a system; one device is needed here"):
            load_hardware(name)
    with pytest.raises(HardwareError, match="describes a system; one device is needed here"):
        load_hardware(write(tmp_path, GOOD))
    assert not set(system_names()) & set(device_names())
