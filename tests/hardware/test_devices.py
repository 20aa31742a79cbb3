"""Shipped devices, units and what a machine executes."""

from __future__ import annotations

import pytest
from sympy import Integer, Rational

from costgraph.errors import HardwareError, InputError
from costgraph.hardware import aliases, device_names, load_hardware, load_system
from costgraph.hardware.machine import Engine, Machine, Memory
from costgraph.hardware.systems import with_levels
from costgraph.units import format_quantity, parse_quantity

#: The survey's table: bandwidth, FP16, INT8, on-chip buffer.
SURVEY = {
    "nvidia_V100": (900e9, 112e12, 62e12, 20480e3),
    "nvidia_A6000": (768e9, 154.8385e12, 309.7e12, 21504e3),
    "nvidia_A100": (1555e9, 312e12, 624e12, 27648e3),
    "nvidia_A100_80G": (2039e9, 312e12, 624e12, 27648e3),
    "nvidia_A40": (696e9, 149.7e12, 299.3e12, 21504e3),
    "nvidia_H100": (3072e9, 989.5e12, 1979e12, 33792e3),
    "nvidia_H100_PCIe": (2048e9, 756.5e12, 1513e12, 29184e3),
    "nvidia_L40": (864e9, 181e12, 362e12, 36352e3),
    "intel_13900k": (89.6e9, 1.3824e12, None, 36e6),
}


@pytest.mark.parametrize("name", SURVEY)
def test_the_survey_convention_gives_its_figures(name):
    machine = load_hardware(name).under("survey")
    bandwidth, fp16, int8, onchip = SURVEY[name]
    assert machine.memory.bandwidth == Integer(int(bandwidth))
    assert machine.peak(Engine.TENSOR, "fp16") == Integer(int(fp16))
    if int8 is not None:
        assert machine.peak(Engine.TENSOR, "int8") == Integer(int(int8))
    assert machine.onchip == Integer(int(onchip))


def test_the_datasheet_wins_outside_the_convention():
    assert load_hardware("h100").memory.bandwidth == Rational("3.35e12")


#: Devices whose makers state no buffer that a fused kernel could tile in.
WITHOUT_ONCHIP = {
    "arc-a770", "arc-b580", "arc-pro-b60", "gddr6-aim", "groqchip1", "hbm-pim", "ipu-gc200",
    "m1-ultra", "m2-ultra", "m3-max", "m4-max", "strix-halo", "upmem-dimm",
}  # fmt: skip
#: Pairs that do not get faster with fewer bits: no INT8 matrix units to speak of.
SLOWER_NARROW = {(n, "int8") for n in ("v100", "v100-sxm2", "b300", "gb300")}


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_whole_and_sourced(name):
    machine = load_hardware(name)
    assert machine.name == name
    assert machine.memory.capacity is not None
    assert (machine.onchip is None) == (name in WITHOUT_ONCHIP)
    for key, figure in machine.figures.items():
        assert len(figure.source) > 10, key
        assert figure.value > 0
    dense = {d: v for (e, d), v in machine.peaks.items() if e is Engine.TENSOR}
    for narrow, wide in (("fp8", "bf16"), ("int8", "bf16"), ("bf16", "tf32"), ("int4", "int8")):
        if narrow in dense and wide in dense and (name, narrow) not in SLOWER_NARROW:
            assert dense[narrow] >= dense[wide]


def test_at_least_the_promised_devices_are_shipped():
    assert set(device_names()) >= {
        "v100", "a6000", "a100", "a100-80g", "a40", "h100", "h100-pcie", "l40", "i9-13900k",
        "h200", "b200", "l40s", "mi300x", "tpu-v5e", "rtx-4090",
    }  # fmt: skip
    assert len(device_names()) >= 80


def test_aliases_find_their_device_and_no_other():
    for alias, name in aliases().items():
        assert load_hardware(alias).name == name
        assert alias == name or alias not in device_names()
    assert load_hardware("A100_40G").name == "a100"
    assert load_hardware("NVIDIA_a6000").name == "a6000"


def test_ridge_points_of_the_survey():
    machine = load_hardware("a6000").under("survey")
    assert round(float(machine.ridge("fp16")), 3) == 201.613
    assert round(float(machine.ridge("int8")), 1) == 403.3


def test_work_runs_in_the_next_wider_type_the_machine_has():
    h100, a6000, v100 = (load_hardware(n) for n in ("h100", "a6000", "v100"))
    assert a6000.resolve(Engine.TENSOR, "int4") == (Engine.TENSOR, "int4")
    assert h100.resolve(Engine.TENSOR, "int4") == (Engine.TENSOR, "int8")
    assert a6000.resolve(Engine.TENSOR, "fp8") == (Engine.TENSOR, "fp16")
    assert v100.resolve(Engine.TENSOR, "bf16") == (Engine.TENSOR, "fp16")
    assert h100.resolve(Engine.SPECIAL, "fp32") == (Engine.SPECIAL, "fp32")


def test_engines_without_figures_fall_back_and_impossible_work_is_an_error():
    only = Machine("m", "M", {(Engine.TENSOR, "bf16"): Integer(10)}, Memory(Integer(1)))
    assert only.resolve(Engine.SPECIAL, "fp32") == (Engine.TENSOR, "bf16")
    with pytest.raises(HardwareError, match="fp32"):
        only.resolve(Engine.TENSOR, "fp32")


@pytest.mark.parametrize(
    "name", ["h100", "a100+5xhbm-pim", "dgx-h100", "2x8xh200", "rtx-4090+i9-13900k"]
)
def test_a_symbolic_machine_binds_back_to_itself(name):
    machine = with_levels(load_system(name))
    symbolic, values = machine.symbolic(), machine.bindings()
    for key, peak in symbolic.peaks.items():
        assert peak.xreplace(values) == machine.peaks[key]
    assert symbolic.memory.bandwidth.xreplace(values) == machine.memory.bandwidth
    # A memory level and the link to it may have one name; their bandwidths are two figures.
    for own, made in ((machine.links, symbolic.links), (machine.tiers, symbolic.tiers)):
        for key, figure in made.items():
            if figure.bandwidth is not None:
                assert figure.bandwidth.xreplace(values) == own[key].bandwidth


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("768 GB/s", "bandwidth", 768 * 10**9),
        ("3.35TB/s", "bandwidth", 3350 * 10**9),
        ("100 KiB", "size", 102400),
        ("48 GB", "size", 48 * 10**9),
        ("154.8385 TFLOP/s", "rate", 154838500000000),
        ("309.7 TOPS", "rate", 309700000000000),
        ("1.5e3 GFLOPS", "rate", 1500 * 10**9),
        ("300 W", "power", 300),
        ("5 us", "time", Rational(5, 10**6)),
    ],
)
def test_quantities_read_exactly(text, dimension, value):
    assert parse_quantity(text, dimension, "x") == value


@pytest.mark.parametrize(
    "text",
    ["768", "GB/s", "768 GB", "768 Gb/s", "768 Gbit/s", "-1 GB/s", "0 GB/s", "nan GB/s",
     "inf GB/s", "1e99 GB/s", "1 GB/s; import os", "__import__('os')", "", "1 " * 100, None, 5,
     True, ["1 GB/s"]],
)  # fmt: skip
def test_bad_quantities_are_refused(text):
    with pytest.raises(InputError):
        parse_quantity(text, "bandwidth", "memory.bandwidth")


def test_quantities_print_with_prefixes():
    assert format_quantity(768e9, "B/s") == "768 GB/s"
    assert format_quantity(4.371e-5, "s") == "43.71 µs"
    assert format_quantity(300, "W") == "300 W"
