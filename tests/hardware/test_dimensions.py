"""Units and dimensions, checked by an independent library: no quantity is mistaken for another."""

from __future__ import annotations

import pint
import pytest

import costgraph as cg
from costgraph.compiling.energy import step_energy
from costgraph.hardware import device_names, load_hardware, load_system, system_names
from costgraph.hardware.links import collective
from costgraph.hardware.machine import Engine
from costgraph.hardware.schema import CONVENTION
from costgraph.timing.roofline import arms
from costgraph.units import DIMENSIONS, UNITS, parse_quantity

UREG = pint.UnitRegistry()
# The library's own byte has no dimension, which would make byte/s a frequency.
for line in ("FLOP = [work]", "OP = FLOP", "USD = [money]", "octet = [storage]"):
    UREG.define(line)

#: What the letters of the device files mean to the library, which reads B as bel.
SPELLED = {"B": "octet", "h": "hour", "FLOPS": "FLOP/s", "OPS": "OP/s", "FLOPs": "FLOP"}
#: Dimension of each figure, by the last part of its key.
EXPECTED = {
    "bandwidth": "octet/second", "capacity": "octet", "usable_capacity": "octet", "l2": "octet",
    "register_files": "octet",
    "shared_per_multiprocessor": "octet", "board": "watt", "idle": "watt", "latency": "second",
    "clock": "hertz", "hour": "USD/hour",
}  # fmt: skip
COUNTS = {"multiprocessors", "devices", "cores", "numa_domains", "axes", "wraps", "nodes", "count"}
FACTS = {"in_network", "cubes"}


def unit(text: str) -> pint.Unit:
    """A unit of the device files, as the library's."""
    parts = []
    for part in text.split("/"):
        for letters, word in SPELLED.items():
            if part == letters or (part.endswith(letters) and part[: -len(letters)] in PREFIXES):
                part = part[: -len(letters)] + word
                break
        parts.append(part)
    return UREG.Unit("/".join(parts))


PREFIXES = {"k", "K", "M", "G", "T", "P", "E", "m", "u", "µ", "n", "p", "Ki", "Mi", "Gi", "Ti"}


def spelled_for_pint(text: str) -> str:
    return text.replace("K", "k") if text.startswith("K") and not text.startswith("Ki") else text


@pytest.mark.parametrize("text", sorted(UNITS))
def test_every_unit_has_the_size_and_dimension_that_it_claims(text):
    dimension, factor = UNITS[text]
    shown = spelled_for_pint(text).replace("Bps", "B/s")
    found = (1 * unit(shown)).to(unit(DIMENSIONS[dimension][0]))
    assert found.magnitude == pytest.approx(float(factor), rel=1e-12)


def test_the_dimensions_are_all_different():
    bases = {name: unit(base).dimensionality for name, (base, _) in DIMENSIONS.items()}
    assert len({str(d) for d in bases.values()}) == len(bases)


def dimension_of(key: str) -> str | None:
    """The unit that a figure's key calls for; None for a count or a fact."""
    section, last = key.split(".")[0], key.split(".")[-1]
    if section == "peaks" or ".peaks." in key:
        return "FLOP/second"
    if section == "energy":
        return "joule/octet" if ".byte." in key else "joule/FLOP"
    if section == "sparsity":  # times the dense rate
        return None
    return None if last in COUNTS | FACTS else EXPECTED[last]


def check(figures):
    for key, figure in figures.items():
        expected = dimension_of(key)
        if expected is None:
            assert figure.unit == ("fact" if key.split(".")[-1] in FACTS else "count")
        else:
            assert unit(figure.unit).dimensionality == UREG.Unit(expected).dimensionality, key


@pytest.mark.parametrize("name", device_names())
def test_every_figure_of_a_device_has_the_dimension_of_its_key(name):
    check(load_hardware(name).figures)


@pytest.mark.parametrize("name", system_names())
def test_every_figure_of_a_system_has_the_dimension_of_its_key(name):
    system = load_system(name)
    check(system.figures)
    check({k: f for k, f in system.device.figures.items() if k.startswith("links.")})


def quantities(machine):
    """The peaks and bandwidth of a machine as quantities, from its figures alone."""
    peaks = {
        key.removeprefix("peaks."): float(f.value) * unit(f.unit)
        for key, f in machine.figures.items()
        if key.startswith("peaks.")
    }
    bandwidth = machine.figures["memory.bandwidth"]
    return peaks, float(bandwidth.value) * unit(bandwidth.unit)


@pytest.mark.parametrize("name", ["h100", "tpu-v5e", "raspberry-pi-4", "hbm-pim", "upmem-dimm"])
def test_an_arm_of_the_roofline_is_a_time(name):
    """FLOP over FLOP/s and bytes over byte/s are seconds, and the arms' own values."""
    machine = load_hardware(name)
    peaks, bandwidth = quantities(machine)
    compiled = cg.compile("llama-2-7b", machine)
    (row,) = [r for r in compiled.rows["decode"] if r.name == "q_proj"]
    values = dict.fromkeys((row.cost.total_flops + row.cost.total_bytes).free_symbols, 7)
    cost = row.cost.mapped(lambda e: e.subs(values))
    by_resource = {a.resource: float(a.expr) for a in arms(cost, machine)}
    ((engine, dtype),) = cost.flops
    used, kind = machine.resolve(engine, dtype)
    work = float(cost.total_flops) * UREG.FLOP / peaks[f"{used.value}.{kind}"]
    moved = float(cost.total_bytes) * UREG.octet / bandwidth
    assert by_resource[f"{used.value}:{kind}"] == pytest.approx(work.to("s").magnitude)
    assert by_resource["memory"] == pytest.approx(moved.to("s").magnitude)


def test_a_ridge_point_is_work_per_byte():
    machine = load_hardware("h100")
    peaks, bandwidth = quantities(machine)
    ridge = (peaks["tensor.bf16"] / bandwidth).to("FLOP/octet")
    assert ridge.magnitude == pytest.approx(float(machine.ridge("bf16")))


def test_energy_and_money_come_out_in_joule_and_dollar():
    machine = load_hardware("a100")
    compiled = cg.compile("gpt2", machine)
    point = {"B": 3, "S": 100, "N": 20}
    joules = 0 * UREG.joule
    for phase in compiled.program.phases:
        for row in compiled.rows[phase.name]:
            steps = 1 if phase.span is None else point["N"] - 1
            for i in range(1, steps + 1):
                at = {"B": 3, "q": 100, "T": 100} if phase.span is None else {"B": 3, "q": 1}
                at |= {} if phase.span is None else {"T": 100 + i}

                def value(expr, at=at):
                    return float(expr.subs({s: at[s.name] for s in expr.free_symbols}))

                for (engine, dtype), flops in row.cost.flops.items():
                    used, kind = machine.resolve(engine, dtype)
                    figure = machine.figures[f"energy.{used.value}.{kind}"]
                    times = value(row.count) * value(flops)
                    joules += times * UREG.FLOP * float(figure.value) * unit(figure.unit)
                figure = machine.figures["energy.byte.memory"]
                moved = value(row.count) * value(row.cost.total_bytes)
                joules += moved * UREG.octet * float(figure.value) * unit(figure.unit)
    assert compiled.energy(**point) == pytest.approx(joules.to("J").magnitude)
    hour = machine.figures["price.hour"]
    dollars = compiled.latency(**point) * UREG.second * float(hour.value) * unit(hour.unit)
    per_token = compiled.cost_per_token(**point)
    assert per_token == pytest.approx(dollars.to("USD").magnitude / 60)


def test_a_collective_is_a_time():
    link = load_hardware("h100").links["nvlink"]
    n, p = 10**6, 8
    ring = 2 * (p - 1) * float(link.latency) * UREG.second + (
        2 * (p - 1) / p * n * UREG.octet / (float(link.bandwidth) * unit("B/s"))
    )
    found = float(collective("all-reduce", "ring", n, p, link))
    assert found == pytest.approx(ring.to("s").magnitude)


def test_a_wrong_dimension_is_refused_where_the_library_would_refuse_it():
    for name, (base, _) in DIMENSIONS.items():
        for other in DIMENSIONS:
            if other == name:
                assert parse_quantity(f"2 {base}", other, "x") == 2
            else:
                with pytest.raises(cg.CostgraphError, match="is a"):
                    parse_quantity(f"2 {base}", other, "x")
                with pytest.raises(pint.DimensionalityError):
                    (2 * unit(base)).to(unit(DIMENSIONS[other][0]))


def test_conventions_override_figures_of_the_same_dimension():
    assert set(CONVENTION.values()) <= set(DIMENSIONS)
    survey = load_hardware("h100").under("survey")
    assert survey.memory.bandwidth != load_hardware("h100").memory.bandwidth
    assert step_energy(cg.compile("gpt2", "h100").rows["decode"][0].cost, survey) is None
    assert (Engine.TENSOR, "fp16") in survey.peaks
