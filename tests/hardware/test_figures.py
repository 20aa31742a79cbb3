"""Figures of the shipped devices against others that share no source with them."""

from __future__ import annotations

import copy
import math
import pickle
import re
from fractions import Fraction

import pytest

import costgraph as cg
from costgraph.hardware import device_names, load_hardware
from costgraph.hardware.machine import Engine

#: Multiprocessors (or cores), dense 16-bit FLOP per clock in each, clock in GHz.
UNITS = {
    "v100-sxm2": (80, 1024, "1.53"),
    "t4": (40, 1024, "1.59"),
    "a10": (72, 1024, "1.695"),
    "a30": (56, 2048, "1.44"),
    "a100-pcie": (108, 2048, "1.41"),
    "l4": (58, 1024, "2.04"),
    "l40s": (142, 1024, "2.49"),
    "a10g": (80, 512, "1.71"),
    "rtx-6000-ada": (142, 1024, "2.505"),
    "rtx-4080": (76, 512, "2.505"),
    "gb10": (48, 1024, "2.525"),
    "jetson-thor": (20, 8192, "1.575"),
    "mi100": (120, 512, "1.502"),
    "mi350x": (256, 4096, "2.2"),
    "rx-7900-xtx": (96, 512, "2.5"),
    "b300": (148, 8192, "1.86"),
    "rtx-3090": (82, 512, "1.695"),
    "rtx-5090": (170, 512, "2.407"),
    "h200": (132, 4096, "1.83"),
    "mi210": (104, 1024, "1.7"),
    "mi250x": (220, 1024, "1.7"),
    "mi325x": (304, 2048, "2.1"),
    "mi355x": (256, 4096, "2.4"),
    "arc-pro-b60": (20, 2048, "2.4"),
    "jetson-agx-orin": (16, 2048, "1.3"),
    # Matrix units of 128 x 128 multiply-adds: cores x units, at the clock.
    "tpu-v4": (8, 2 * 128 * 128, "1.05"),
    "tpu-v5e": (4, 2 * 128 * 128, "1.5"),
    "tpu-v5p": (8, 2 * 128 * 128, "1.75"),
    "tpu-v3": (4, 2 * 128 * 128, "0.94"),
    # 1472 tiles, 128 FLOP per clock in FP16.
    "ipu-gc200": (1472, 128, "1.325"),
}


@pytest.mark.parametrize("name", UNITS)
def test_a_16_bit_peak_is_units_times_width_times_clock(name):
    units, width, clock = UNITS[name]
    machine = load_hardware(name)
    derived = float(units * width * Fraction(clock) * 10**9)
    stated = float(machine.peak(Engine.TENSOR, machine.main_type()))
    assert stated == pytest.approx(derived, rel=0.012)


#: Width of the memory bus in bits, data rate of a pin in Gb/s.
BUSES = {
    "v100-sxm2": (4096, "1.752"),
    "t4": (256, "10"),
    "a10": (384, "12.5"),
    "a30": (3072, "2.43"),
    "a100-80g": (5120, "3.186"),
    "a40": (384, "14.5"),
    "a6000": (384, "16"),
    "l4": (192, "12.5"),
    "l40s": (384, "18"),
    "rtx-3090": (384, "19.5"),
    "rtx-4090": (384, "21"),
    "rtx-5090": (512, "28"),
    "rtx-pro-6000": (512, "25"),
    "a10g": (384, "12.5"),
    "rtx-4080": (256, "22.4"),
    "rtx-6000-ada": (384, "20"),
    "gb10": (256, "8.533"),
    "jetson-thor": (256, "8.533"),
    "mi100": (4096, "2.4"),
    "rx-7900-xtx": (384, "20"),
    "h200-nvl": (6144, "6.25"),
    "tpu-v3": (4096, "1.758"),
    "gtx-1080-ti": (352, "11"),
    "mi250x": (8192, "3.2"),
    "mi300x": (8192, "5.2"),
    "mi355x": (8192, "8"),
    "arc-a770": (256, "17.5"),
    "arc-b580": (192, "19"),
    "arc-pro-b60": (192, "19"),
    "jetson-agx-xavier": (256, "4.266"),
    "jetson-agx-orin": (256, "6.4"),
    "m4-max": (512, "8.533"),
    "epyc-9654": (768, "4.8"),
    "i9-13900k": (128, "5.6"),
    "raspberry-pi-4": (32, "3.2"),
}


@pytest.mark.parametrize("name", BUSES)
def test_a_bandwidth_is_bus_width_times_data_rate(name):
    bits, rate = BUSES[name]
    derived = float(bits * Fraction(rate) * 10**9 / 8)
    assert float(load_hardware(name).memory.bandwidth) == pytest.approx(derived, rel=0.03)


#: Well-known figures, typed from memory tables of reviews: TFLOP/s (dense), GB/s, GB, W.
KNOWN = {
    "a100": ("bf16", 312, 1555, 40, 400),
    "h100": ("bf16", 989, 3350, 80, 700),
    "h100-nvl": ("bf16", 835, 3900, 94, 400),
    "h20": ("bf16", 148, 4000, 96, 400),
    "gh200": ("bf16", 989, 4000, 96, 1000),
    "b200": ("fp4", 9000, 8000, 180, 1000),
    "gb200": ("fp4", 10000, 8000, 186, 1200),
    "b300": ("fp4", 13500, 8000, 270, 1100),
    "gb300": ("fp4", 15000, 8000, 279, 1400),
    "h200-nvl": ("bf16", 835, 4800, 141, 600),
    "h800": ("bf16", 989, 3350, 80, 700),
    "mi300x": ("fp8", 2615, 5300, 192, 750),
    "mi355x": ("fp4", 10066, 8000, 288, 1400),
    "gaudi-1": ("bf16", 60, 900, 32, 400),
    "gaudi-2": ("bf16", 432, 2460, 96, 600),
    "gaudi-3": ("fp8", 1835, 3700, 128, 900),
    "tpu-v4": ("bf16", 275, 1200, 34.4, 192),
    "tpu-v5e": ("int4", 788, 820, 17.2, None),
    "tpu-v5p": ("int4", 1840, 2765, 102, None),
    "tpu-v6e": ("int8", 1840, 1640, 34.4, None),
    "tpu-v7": ("fp8", 4600, 7400, 206, None),
    "trainium1": ("bf16", 190, 820, 34.36, None),
    "trainium2": ("fp8", 1299, 2900, 103.08, None),
    "trainium3": ("fp8", 2517, 4900, 154.6, None),
    "strix-halo": ("fp16", 59.4, 256, 128, 120),
    "groqchip1": ("int8", 750, 80000, 0.23, None),
    "ipu-gc200": ("fp16", 250, 47500, 0.9, None),
    "m2-ultra": ("fp32", 27.2, 800, 192, None),
    "xeon-8480p": ("fp32", 7.17, 307.2, 4000, 350),
    "hbm-pim": ("fp16", 1.2, 2000, 6, None),
    "gddr6-aim": ("bf16", 1, 1000, 1.074, None),
    "upmem-dimm": ("int8", 0.0438, 80.4, 8.59, 23.22),
}


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_figures(name):
    dtype, tera, giga, size, watt = KNOWN[name]
    machine = load_hardware(name)
    assert machine.resolve(Engine.TENSOR, dtype)[1] == dtype
    assert float(machine.peak(Engine.TENSOR, dtype)) / 1e12 == pytest.approx(tera, rel=0.01)
    assert float(machine.memory.bandwidth) / 1e9 == pytest.approx(giga, rel=0.01)
    assert float(machine.memory.capacity) / 1e9 == pytest.approx(size, rel=0.01)
    assert (machine.power is None) == (watt is None)
    assert watt is None or float(machine.power) == pytest.approx(watt)


@pytest.mark.parametrize("name", device_names())
def test_ridge_points_are_plausible(name):
    for dtype, ridge in load_hardware(name).ridges().items():
        if (name, dtype) == ("upmem-dimm", "fp32"):  # emulated in software
            assert 0.001 < ridge < 0.1
        else:
            assert 0.1 < ridge < 5000, dtype


@pytest.mark.parametrize("name", device_names())
def test_every_device_times_a_model(name):
    compiled = cg.compile("gpt2", name)
    for formula, point in (
        (compiled.tpot, {"B": 1, "T": 100}),
        (compiled.latency, {"B": 4, "S": 64, "N": 8}),
    ):
        assert 0 < formula.evaluate(**point) < math.inf
    quantized = cg.compile("gpt2", name, "fuse,quantize{preset=w4a16}")
    assert 0 < quantized.tpot(B=1, T=100) < math.inf


def test_element_wise_work_stays_on_the_vector_engine_in_its_widest_type():
    gaudi, pim = load_hardware("gaudi-3"), load_hardware("hbm-pim")
    assert gaudi.resolve(Engine.VECTOR, "fp32") == (Engine.VECTOR, "bf16")
    assert gaudi.resolve(Engine.TENSOR, "fp16") == (Engine.TENSOR, "bf16")
    assert pim.resolve(Engine.SPECIAL, "fp32") == (Engine.VECTOR, "fp16")
    assert pim.resolve(Engine.TENSOR, "bf16") == (Engine.VECTOR, "fp16")


@pytest.mark.parametrize("name", device_names())
def test_the_type_by_which_a_device_is_compared_is_one_it_has(name):
    machine = load_hardware(name)
    assert machine.main_type() in machine.ridges()
    assert machine.ridge(machine.main_type()) == machine.ridges()[machine.main_type()]


@pytest.mark.parametrize("name", device_names())
def test_energies_at_full_load_stay_within_the_board_power(name):
    machine = load_hardware(name)
    if not machine.energy.flop:
        assert not machine.energy.byte
        return
    assert set(machine.energy.flop) == set(machine.peaks)
    moving = machine.memory.bandwidth * machine.energy.byte["memory"]
    assert 0 < moving < machine.power / 2
    for key, joule in machine.energy.flop.items():
        drawn = float(machine.peaks[key] * joule + moving)
        assert 0.998 * float(machine.power) <= drawn <= float(machine.power), key


@pytest.mark.parametrize("name", device_names())
def test_tiers_links_and_the_rest_are_plausible(name):
    machine = load_hardware(name)
    for level, tier in machine.tiers.items():
        nearer = level in ("l2", "sram", "cmem")
        assert tier.bandwidth is not None or tier.capacity is not None
        if tier.bandwidth is not None:
            assert (tier.bandwidth > machine.memory.bandwidth) == nearer
        if nearer and tier.capacity is not None:
            assert tier.capacity < machine.memory.capacity
    for kind, link in machine.links.items():
        # Small boards have Gigabit Ethernet.
        assert (10**8 if kind == "ethernet" else 10**9) < link.bandwidth < machine.memory.bandwidth
        assert link.devices is None or link.devices >= 2
        assert link.latency is None or 1e-7 < float(link.latency) < 1e-4
    for node in (machine.node.devices, machine.topology.numa_domains, machine.topology.cores):
        assert node is None or node >= 1
    if machine.price.hour is not None:
        assert 0.1 < machine.price.hour < 100
        source = machine.figures["price.hour"].source
        assert re.search(r"\b20\d\d\b", source)
        assert "list price" in source


def test_links_of_machines_with_measured_collectives_agree_with_their_tables():
    """One direction, in GB/s, as tables of measured collectives state them."""
    stated = {"a100_sxm": 300, "a40": 56, "h100_sxm": 450, "h200_sxm": 450, "h20": 450,
              "b200_sxm": 900, "l40s": 32}  # fmt: skip
    for name, giga in stated.items():
        assert int(load_hardware(name).link().bandwidth / 10**9) == giga


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("a100_sxm", "a100-80g"), ("a100_dgx", "a100-80g"), ("a100_80g", "a100-80g"),
        ("a40", "a40"), ("b200_sxm", "b200"), ("h100_sxm", "h100"), ("h100_dgx", "h100"),
        ("h20", "h20"), ("h200_sxm", "h200"), ("l40s", "l40s"), ("mi210", "mi210"),
        ("b60", "arc-pro-b60"), ("gb200", "gb200"), ("rtx_pro_6000", "rtx-pro-6000"),
    ],
)  # fmt: skip
def test_machines_of_measured_data_are_found_by_the_names_used_there(alias, name):
    assert load_hardware(alias).name == name


def test_processing_in_memory_is_a_memory_level_with_compute():
    pim = load_hardware("hbm-pim")
    host = load_hardware("v100-sxm2").with_tier("pim", pim.as_tier())
    inside = host.inside("pim")
    assert inside.memory.bandwidth == 2 * 10**12
    assert inside.peak(Engine.VECTOR, "fp16") == 12 * 10**11
    assert inside.ridge("fp16") == cg.compile("gpt2", pim).machine.ridge("fp16")
    outer, inner = cg.compile("llama-2-7b", host), cg.compile("llama-2-7b", inside)
    assert inner.tpot(B=1, T=100) < outer.tpot(B=1, T=100)  # one vector at a time
    assert inner.tpot(B=64, T=100) > outer.tpot(B=64, T=100)  # products of matrices
    assert "pim" not in load_hardware("v100-sxm2").tiers
    for level in ("memory", "l2"):
        with pytest.raises(cg.CostgraphError, match="nothing computes"):
            host.inside(level)
    with pytest.raises(cg.CostgraphError, match="did you mean 'pim'"):
        host.tier("pin")
    with pytest.raises(cg.CostgraphError, match="did you mean 'nvlink'"):
        host.link("nvlnk")
    with pytest.raises(cg.CostgraphError, match="states no links"):
        load_hardware("m1-ultra").link()
    assert host.tier("memory").capacity == host.memory.room


@pytest.mark.parametrize("name", device_names())
def test_a_machine_survives_pickling_and_copying(name):
    machine = load_hardware(name)
    for twin in (pickle.loads(pickle.dumps(machine)), copy.deepcopy(machine)):
        assert twin == machine
        assert twin.ridges() == machine.ridges()
        with pytest.raises(TypeError):
            twin.peaks["x"] = 1
        assert twin.under("survey") == machine.under("survey")
