"""Finding and reading device files: names, paths, and every way to get one wrong."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.errors import CostgraphError, HardwareError
from costgraph.hardware import aliases, device_names, load_device_file, load_hardware
from costgraph.hardware import loader as loader_module
from costgraph.hardware.machine import Engine
from costgraph.hardware.schema import machine_from

DEVICES = Path(loader_module.__file__).parent / "devices"

GOOD = """\
name = "toy"
title = "A toy device"
aliases = ["toy-1"]
[sources]
sheet = "Toy datasheet, page 1"
[peaks.tensor]
bf16 = { value = "10 TFLOP/s", source = "sheet" }
[peaks.vector]
fp32 = { value = "1 TFLOP/s", source = "sheet" }
[memory]
bandwidth = { value = "100 GB/s", source = "sheet" }
capacity = { value = "8 GB", source = "sheet" }
[onchip]
register_files = { value = "256 KiB", source = "sheet" }
shared_per_multiprocessor = { value = "64 KiB", source = "sheet" }
multiprocessors = { value = 4, source = "sheet" }
[power]
board = { value = "50 W", source = "sheet" }
[conventions.survey]
bandwidth = { value = "90 GB/s", source = "sheet" }
"tensor.bf16" = { value = "9 TFLOP/s", source = "sheet" }
"""


def write(folder: Path, text: str | bytes, name: str = "toy.toml") -> Path:
    path = folder / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_file_reads_exactly(tmp_path):
    m = load_hardware(write(tmp_path, GOOD))
    assert (m.name, m.title, m.kind, m.aliases) == ("toy", "A toy device", "gpu", ("toy-1",))
    assert dict(m.peaks) == {
        (Engine.TENSOR, "bf16"): Integer(10**13),
        (Engine.VECTOR, "fp32"): Integer(10**12),
    }
    assert (m.memory.bandwidth, m.memory.capacity) == (10**11, 8 * 10**9)
    assert (m.onchip, m.shared, m.multiprocessors, m.power) == (2**18, 2**16, 4, 50)
    figure = m.figures["peaks.tensor.bf16"]
    assert (figure.value, figure.unit) == (10**13, "FLOP/s")
    assert figure.source == "Toy datasheet, page 1"
    assert m.figures["onchip.multiprocessors"].unit == "count"
    survey = m.under("survey")
    assert survey.memory.bandwidth == 9 * 10**10
    assert survey.peaks[Engine.TENSOR, "bf16"] == 9 * 10**12
    assert survey.peaks[Engine.VECTOR, "fp32"] == 10**12
    assert m.under("exact") is m


def test_only_the_required_keys_are_required(tmp_path):
    text = (
        'name="n"\ntitle="t"\n[sources]\ns="x"\n'
        '[peaks.vector]\nfp32={value="1 GFLOP/s",source="s"}\n'
        '[memory]\nbandwidth={value="1 GB/s",source="s"}\n'
    )
    m = load_device_file(write(tmp_path, text))
    assert m.memory.capacity is m.onchip is m.shared is m.multiprocessors is m.power is None
    assert m.peak(Engine.TENSOR, "bf16") == 10**9


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BW = 'bandwidth = { value = "100 GB/s", source = "sheet" }'
BF16 = 'bf16 = { value = "10 TFLOP/s", source = "sheet" }'
SMS = "multiprocessors = { value = 4,"

BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "malformed": (swap('name = "toy"', "name = "), ["not valid TOML", "line 1"]),
    "malformed later": (GOOD + "[power\n", ["not valid TOML", "line 22"]),
    "duplicate key": (GOOD + '[sources]\nsheet = "again"\n', ["not valid TOML"]),
    "empty": ("", ["[sources]"]),
    "binary": (bytes(range(256)), ["not readable"]),
    "not utf-8": (b'name = "\xff"', ["not readable"]),
    "huge": ("#" * (2**20 + 1), ["larger than"]),
    "deep array": ("aliases = " + "[" * 5000, ["toy.toml"]),
    "deep key": (swap('value = "100 GB/s"', "value" + ".a" * 3000 + " = 1"), ["memory.bandwidth"]),
    "unknown table": (GOOD + "[memmory]\nx = 1\n", ["'memmory'", "'memory'"]),
    "unknown key": (swap("bandwidth =", "bandwith ="), ["'bandwith'", "[memory]", "'bandwidth'"]),
    "unknown on-chip key": (swap("register_files", "register_file"), ["'register_files'"]),
    "unknown power key": (swap("board =", "bord ="), ["[power]", "'board'"]),
    "unknown engine": (swap("peaks.tensor", "peaks.tensr"), ["[peaks]", "'tensor'"]),
    "unknown dtype": (swap("bf16 =", "bf61 ="), ["[peaks.tensor]", "'bf16'"]),
    "unknown figure key": (swap(BW, BW.replace("source", "sorce")), ["'sorce'", "'source'"]),
    "unknown kind": (swap("title", 'kind = "gpo"\ntitle'), ["'gpo'", "'gpu'"]),
    "kind not a text": (swap("title", "kind = [1]\ntitle"), ["kind", "cpu"]),
    "no name": (swap('name = "toy"\n', ""), ["missing key 'name'"]),
    "no title": (swap('title = "A toy device"\n', ""), ["missing key 'title'"]),
    "name is a number": (swap('"toy"', "7"), ["'name'", "text", "7"]),
    "name is empty": (swap('"toy"', '" "'), ["'name'"]),
    "name of two lines": (swap('"toy"', r'"a\nb"'), ["'name'", "one line"]),
    "name with markup": (swap('"toy"', '"<b>"'), ["'name'", "letters"]),
    "title of two lines": (swap('"A toy device"', r'"a\nb"'), ["'title'", "one line"]),
    "aliases a text": (swap('["toy-1"]', '"toy-1"'), ["'aliases'", "list of texts"]),
    "aliases of numbers": (swap('["toy-1"]', "[1]"), ["'aliases'", "list of texts"]),
    "no sources": (swap('[sources]\nsheet = "Toy datasheet, page 1"\n', ""), ["[sources]"]),
    "empty source": (swap('"Toy datasheet, page 1"', '""'), ["'sheet'", "non-empty"]),
    "source of two lines": (swap('"Toy datasheet, page 1"', r'"a\nb"'), ["'sheet'", "one line"]),
    "source a number": (swap('"Toy datasheet, page 1"', "1"), ["'sheet'", "not 1"]),
    "no bandwidth": (swap(BW + "\n", ""), ["missing key 'memory.bandwidth'"]),
    "no peaks": (
        swap(BF16, "").replace("[peaks.vector]\nfp32", "[peaks.special]\nfp32"),
        ["peaks.tensor", "at least one"],
    ),
    "figure a text": (swap(BW, 'bandwidth = "100 GB/s"'), ["memory.bandwidth", "value = "]),
    "figure a number": (swap(BW, "bandwidth = 100e9"), ["memory.bandwidth", "value = "]),
    "figure without value": (swap(BW, 'bandwidth = { source = "sheet" }'), ["missing 'value'"]),
    "figure without source": (
        swap(BW, 'bandwidth = { value = "100 GB/s" }'),
        ["memory.bandwidth", "no source", "'sheet'"],
    ),
    "unlisted source": (
        swap(BW, BW.replace('"sheet"', '"blog"')),
        ["memory.bandwidth", "'blog'", "[sources]", "'sheet'"],
    ),
    "source not a text": (swap(BW, BW.replace('"sheet"', "[1]")), ["memory.bandwidth", "[1]"]),
    "no unit": (swap('"100 GB/s"', '"100"'), ["memory.bandwidth", "no unit", "GB/s"]),
    "wrong unit": (swap('"100 GB/s"', '"100 GFLOP/s"'), ["memory.bandwidth", "rate", "GB/s"]),
    "bits": (swap('"100 GB/s"', '"100 Gb/s"'), ["memory.bandwidth", "bits"]),
    "value a number": (swap('"100 GB/s"', "100"), ["memory.bandwidth", "text with a unit"]),
    "value huge hex": (swap('"100 GB/s"', "0x" + "f" * 6000), ["memory.bandwidth", "too large"]),
    "value nan": (swap('"100 GB/s"', "nan"), ["memory.bandwidth", "text with a unit"]),
    "value a date": (swap('"100 GB/s"', "2024-01-01"), ["memory.bandwidth", "text with a unit"]),
    "negative": (swap('"8 GB"', '"-8 GB"'), ["memory.capacity", "positive"]),
    "peak in bytes": (swap('"10 TFLOP/s"', '"10 TB/s"'), ["peaks.tensor.bf16", "TFLOP/s"]),
    "power in bytes": (swap('"50 W"', '"50 GB"'), ["power.board", "W"]),
    "count a text": (swap(SMS, SMS.replace("4", '"4"')), ["onchip.multiprocessors", "whole"]),
    "count a fraction": (swap(SMS, SMS.replace("4", "4.5")), ["onchip.multiprocessors", "whole"]),
    "count zero": (swap(SMS, SMS.replace("4", "0")), ["onchip.multiprocessors", "positive"]),
    "count true": (swap(SMS, SMS.replace("4", "true")), ["onchip.multiprocessors", "whole"]),
    "count huge hex": (swap(SMS, SMS.replace("4", "0x" + "f" * 6000)), ["onchip.multiproc"]),
    "peaks a list": ("peaks = []\n" + swap("[peaks.tensor]\n" + BF16, "")
                     .replace("[peaks.vector]", "[power2]"), ["toy.toml"]),
    "memory a text": (
        'memory = "big"\n' + GOOD[: GOOD.index("[memory]")], ["'memory'", "table [memory]"]
    ),
    "engine a number": (
        GOOD.replace("[peaks.tensor]\n" + BF16, "[peaks]\ntensor = 1"), ["'tensor'", "table"]
    ),
    "unknown convention key": (
        swap('"tensor.bf16"', '"tensor.bf61"'), ["conventions.survey", "'tensor.bf16'"]
    ),
    "convention not a table": (
        GOOD.replace("[conventions.survey]", "[conventions]\nsurvey = 1\n[power2]"), ["toy.toml"]
    ),
    "convention of two lines": (
        swap("[conventions.survey]", r'[conventions."a\nb"]'), ["[conventions]", "name"]
    ),
    "convention without source": (
        swap('{ value = "90 GB/s", source = "sheet" }', '{ value = "90 GB/s" }'),
        ["conventions.survey.bandwidth", "no source"],
    ),
    "convention in the wrong unit": (
        swap('"90 GB/s"', '"90 GB"'), ["conventions.survey.bandwidth", "GB/s"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_naming_file_key_and_remedy(tmp_path, case):
    text, words = BAD[case]
    with pytest.raises(HardwareError) as caught:
        load_hardware(write(tmp_path, text))
    message = str(caught.value)
    assert "toy.toml" in message
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


def test_a_file_name_of_two_lines_keeps_the_message_on_one(tmp_path):
    with pytest.raises(HardwareError) as caught:
        load_hardware(write(tmp_path, "", "a\nb.toml"))
    assert "\n" not in str(caught.value)


class OfBytes:
    """A path whose file-system form is bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


def test_every_spelling_of_a_path_is_a_path(tmp_path, monkeypatch):
    path = write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    upper = write(tmp_path, GOOD, "TOY2.TOML")
    bare = write(tmp_path, GOOD, "toy3")
    specs = (path, str(path), "toy.toml", "./toy.toml", str(upper), bare, "./toy3", OfBytes(path))
    for spec in specs:
        assert load_hardware(spec).name == "toy"
    for same in (path, str(path), OfBytes(path)):
        assert load_device_file(same) == load_hardware(path)


def test_files_are_read_again_but_shipped_devices_once(tmp_path):
    path = write(tmp_path, GOOD)
    assert load_hardware(path).power == 50
    write(tmp_path, swap("50 W", "60 W"))
    assert load_hardware(path).power == 60
    assert load_hardware("A6000") is load_hardware("nvidia_A6000") is load_hardware(" a6000 ")


def test_a_machine_passes_through():
    machine = load_hardware("a6000").under("survey")
    assert load_hardware(machine) is machine


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("a600", ["unknown hardware", "'a6000'"]),
        ("h100_sxn", ["unknown hardware", "'H100"]),
        ("zzzzzzzz", ["unknown hardware", "costgraph hardware"]),
        ("x" * 10_000, ["unknown hardware"]),
        ("a\nb", ["unknown hardware"]),
        ("\udcff", ["unknown hardware"]),
        ("", ["not a device name or path"]),
        ("  ", ["not a device name or path"]),
        ("a6000\0", ["not a device name or path"]),
        ("./\0.toml", ["not a device name or path"]),
        ("no-such.toml", ["no such file", "no-such.toml"]),
        ("/no/such/device", ["no such file", "/no/such/device"]),
        ("/" + "n" * 5000, ["not readable"]),
        ("../devices/a6000", ["no such file"]),
        (Path("a6000"), ["no such file"]),
        (".", ["unknown hardware"]),
        ("..", ["unknown hardware"]),
        (None, ["is a name, a path or a Machine"]),
        (5, ["is a name, a path or a Machine"]),
        (b"a6000", ["is a name, a path or a Machine"]),
        (["a6000"], ["is a name, a path or a Machine"]),
    ],
    ids=range(21),
)
def test_a_bad_name_is_one_line_that_helps(tmp_path, monkeypatch, spec, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HardwareError) as caught:
        load_hardware(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word.lower() in message.lower()


def test_a_directory_and_a_device_node_are_refused(tmp_path):
    folder = tmp_path / "dir.toml"
    folder.mkdir()
    with pytest.raises(HardwareError, match="is a directory"):
        load_hardware(folder)
    with pytest.raises(HardwareError, match="a device, not a regular file"):
        load_hardware(os.devnull)


def one_line(error: CostgraphError) -> None:
    assert "toy.toml" in str(error)
    assert "\n" not in str(error)


TABLE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["name", "title", "sources", "peaks", "tensor", "bf16", "memory", "bandwidth",
                 "value", "source", "conventions", "onchip", "aliases", "kind", "power", "s"]
            ),
            inner,
            max_size=5,
        ),
    ),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["peaks", "memory", "onchip", "kind", "power"]), TABLE))
def test_any_document_is_a_machine_or_a_hardware_error(extra):
    base = {
        "name": "n",
        "title": "t",
        "sources": {"s": "x"},
        "peaks": {"vector": {"fp32": {"value": "1 GFLOP/s", "source": "s"}}},
        "memory": {"bandwidth": {"value": "1 GB/s", "source": "s"}},
    }
    try:
        machine_from(base | extra, "toy.toml")
    except HardwareError as error:
        one_line(error)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 12), st.text(max_size=6))
def test_no_damage_to_a_file_escapes_as_another_exception(tmp_path, start, length, patch):
    try:
        text = (GOOD[:start] + patch + GOOD[start + length :]).encode("utf-8", "surrogatepass")
        load_hardware(write(tmp_path, text))
    except CostgraphError as error:
        one_line(error)


# The shipped devices -----------------------------------------------------------

#: The survey tool's table in giga (bandwidth), tera (rates) and kilo (buffer).
SURVEY = {
    "v100": ("900", "112", "62", "20480"),
    "a6000": ("768", "154.8385", "309.7", "21504"),
    "a100": ("1555", "312", "624", "27648"),
    "a100-80g": ("2039", "312", "624", "27648"),
    "a40": ("696", "149.7", "299.3", "21504"),
    "h100": ("3072", "989.5", "1979", "33792"),
    "h100-pcie": ("2048", "756.5", "1513", "29184"),
    "l40": ("864", "181", "362", "36352"),
    "i9-13900k": ("89.6", "1.3824", None, "36000"),
}


@pytest.mark.parametrize("name", device_names())
def test_the_survey_table_is_stated_exactly_and_nothing_else(name):
    expected = {}
    if name in SURVEY:
        bandwidth, fp16, int8, onchip = SURVEY[name]
        expected = {
            "bandwidth": Rational(bandwidth) * 10**9,
            "tensor.fp16": Rational(fp16) * 10**12,
            "onchip": Rational(onchip) * 10**3,
        }
        if int8 is not None:
            expected["tensor.int8"] = Rational(int8) * 10**12
    machine = load_hardware(name)
    assert dict(machine.conventions.get("survey", {})) == expected
    assert set(machine.conventions) == ({"survey"} if expected else set())
    under = machine.under("survey")
    for key, value in expected.items():
        found = {"bandwidth": under.memory.bandwidth, "onchip": under.onchip}
        found |= {f"{e.value}.{d}": v for (e, d), v in under.peaks.items()}
        assert found[key] == value


def test_the_ridge_point_of_the_survey():
    ridge = load_hardware("a6000").under("survey").ridge("fp16")
    assert ridge == Rational("154838.5") / 768
    assert f"{float(ridge):.3f}" == "201.613"


@pytest.mark.parametrize("name", device_names())
def test_every_figure_is_exact_positive_and_sourced(name):
    machine = load_hardware(name)
    assert machine.name == name
    assert {"memory.bandwidth", "memory.capacity"} <= set(machine.figures)
    for key, figure in machine.figures.items():
        assert isinstance(figure.value, Rational), key
        assert figure.value > 0, key
        assert len(figure.source.split()) >= 3, key
    text = (DEVICES / f"{name}.toml").read_text(encoding="utf-8")
    assert "://" not in text
    sources = text.split("[sources]")[1].split("\n\n")[0]
    for line in sources.strip().splitlines():
        assert f'source = "{line.split(" =")[0]}"' in text, f"unused source: {line}"


@pytest.mark.parametrize("name", device_names())
def test_register_files_are_256_kib_per_multiprocessor(name):
    machine = load_hardware(name)
    if "NVIDIA" in machine.title:
        assert machine.onchip == machine.multiprocessors * 256 * 1024


def test_aliases_are_unique_and_match_the_parsed_files():
    parsed = {name: load_hardware(name).aliases for name in device_names()}
    claims = Counter(
        text.lower().replace("_", "-") for name, other in parsed.items() for text in (name, *other)
    )
    twice = [text for text, times in claims.items() if times > 1]
    assert not [t for t in twice if t not in device_names()], "claimed by two devices"
    for name, others in parsed.items():
        for alias in others:
            for spelling in (alias, alias.upper(), alias.lower(), alias.replace("_", "-")):
                assert load_hardware(spelling) is load_hardware(name)
    listed = {alias for others in parsed.values() for alias in others}
    assert set(aliases()) == {a.lower().replace("_", "-") for a in listed}


def test_shipped_machines_cannot_be_changed():
    machine = load_hardware("h100")
    for table in (machine.peaks, machine.figures, machine.conventions["survey"]):
        with pytest.raises(TypeError):
            table["x"] = 1
    with pytest.raises(AttributeError):
        machine.name = "x"


#: Published dense figures in tera and giga, read from tables of measured timings.
PUBLISHED = """\
name,bf16,fp8,fp4,bandwidth,multiprocessors
a100-80g,312,,,2039,108
a40,149.7,,,696,84
h100,989,1979,,3350,132
h200,989,1979,,4800,132
b200,2250,4500,9000,8000,148
l40s,362,733,,864,142
"""


@pytest.mark.parametrize(
    "row", list(csv.DictReader(PUBLISHED.splitlines())), ids=lambda r: r["name"]
)
def test_figures_agree_with_an_independent_table(row):
    machine = load_hardware(row["name"])
    for dtype in ("bf16", "fp8", "fp4"):
        if row[dtype]:
            found = float(machine.peaks[Engine.TENSOR, dtype]) / 1e12
            assert found == pytest.approx(float(row[dtype]), rel=1e-3)
        else:
            assert (Engine.TENSOR, dtype) not in machine.peaks
    assert machine.memory.bandwidth == Integer(int(row["bandwidth"])) * 10**9
    assert machine.multiprocessors == int(row["multiprocessors"])


#: SMs, dense FP16 FLOP per clock and SM (FP32 accumulation), clock in GHz.
CLOCKS = {
    "v100": (80, 1024, "1.367"),
    "a100": (108, 2048, "1.41"),
    "a6000": (84, 1024, "1.8"),
    "a40": (84, 1024, "1.74"),
    "h100": (132, 4096, "1.83"),
    "h100-pcie": (114, 4096, "1.62"),
    "l40": (142, 512, "2.49"),
    "rtx-4090": (128, 512, "2.52"),
    "mi300x": (304, 2048, "2.1"),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_a_peak_is_units_times_clock_times_width(name):
    units, width, clock = CLOCKS[name]
    derived = float(units * width * Fraction(clock) * 10**9)
    assert float(load_hardware(name).peak(Engine.TENSOR, "fp16")) == pytest.approx(
        derived, rel=2e-3
    )


def test_one_device_is_read_without_parsing_the_others():
    code = (
        "import tomllib\n"
        "read = []\n"
        "whole = tomllib.loads\n"
        "tomllib.loads = lambda text: (read.append(1), whole(text))[1]\n"
        "from costgraph.hardware import load_hardware\n"
        "assert not read\n"
        "load_hardware('a6000')\n"
        "assert len(read) == 1\n"
        "load_hardware('nvidia_V100')\n"
        "assert len(read) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
