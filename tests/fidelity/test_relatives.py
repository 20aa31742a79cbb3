"""Parameters of devices that were never fitted."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costgraph as cg
from costgraph.hardware import device_names, load_hardware
from costgraph.hardware.machine import Machine
from costgraph.timing.fidelity.calibration import calibrated_devices, shipped, transfer
from costgraph.timing.fidelity.forms import CARRIED, FIGURES, FORMS, carried
from costgraph.timing.fidelity.relatives import (
    NEAR,
    Figures,
    figures_on,
    inherited,
    nearest_first,
    relatives,
)

RATIO = st.floats(0.1, 10)


def test_devices_of_one_architecture_are_relatives() -> None:
    assert set(relatives(load_hardware("gh200"))) == {"h100", "h200"}
    assert relatives(load_hardware("h100-pcie"))[0] == "h100"
    assert relatives(load_hardware("h200-nvl"))[0] == "h200"
    for name in ("gb200", "b300", "gb300"):
        assert relatives(load_hardware(name)) == ("b200",)
    assert "l40s" in relatives(load_hardware("l40"))
    assert "a100-80g" in relatives(load_hardware("a100-pcie"))


def test_other_instructions_or_far_figures_are_no_relatives() -> None:
    h100 = load_hardware("h100")
    assert math.isinf(figures_on(h100, "bf16").distance(figures_on(load_hardware("b200"), "bf16")))
    # Hopper as well, but with a seventh of the compute.
    assert "h20" not in relatives(h100)
    assert relatives(replace(h100, instruction="")) == ()
    for name in device_names():
        machine = load_hardware(name)
        assert set(relatives(machine)) <= set(calibrated_devices())


@given(RATIO, RATIO, RATIO, RATIO)
def test_distance_is_a_symmetric_factor(a: float, b: float, c: float, d: float) -> None:
    one, other = Figures("mma", 1.0, 1.0, 1.0, 1.0), Figures("mma", a, b, c, d)
    assert one.distance(other) == pytest.approx(other.distance(one))
    assert one.distance(one) == 1
    # How much power a board gives its peak moves products, and makes nobody a stranger.
    assert one.distance(replace(other, power=9.0)) == one.distance(other)
    near = nearest_first(one, {"other": other, "one": one})
    assert near == (("one", "other") if one.distance(other) <= NEAR else ("one",))


@given(st.sampled_from(sorted(CARRIED)), st.dictionaries(st.sampled_from(FIGURES), RATIO))
def test_carried_there_and_back_is_the_same(kind: str, figures: dict[str, float]) -> None:
    there = dict.fromkeys(FIGURES, 1.0) | figures
    back = {k: 1 / v for k, v in there.items()}
    v = {p.name: p.start for p in FORMS[kind].parameters} | {"slope": 0.2}
    moved = carried(kind, there, v)
    again = carried(kind, back, moved)
    for name, value in v.items():
        capped = moved[name] == 1.0 and name in ("ec", "l2")
        assert capped or float(again[name]) == pytest.approx(value)
    assert moved.get("ec", 0.5) <= 1
    assert carried(kind, dict.fromkeys(FIGURES, 1.0), v) == pytest.approx(v)


def test_carried_exponents_name_parameters_and_figures() -> None:
    for kind, table in CARRIED.items():
        assert set(table) <= {p.name for p in FORMS[kind].parameters}
        for exponents in table.values():
            assert set(exponents) <= set(FIGURES)
            assert {x for x in exponents.values() if isinstance(x, str)} <= {"slope"}


def test_a_relative_lends_its_parameters_moved_by_figures() -> None:
    h200 = shipped("h200")
    assert h200 is not None
    fit = inherited(load_hardware("h200-nvl"), "bf16", "gemm", ("bf16",))
    own, general = h200.fits["gemm", "bf16"], transfer().fits["gemm", "bf16"]
    assert fit is not None
    assert fit.values["k0"] == own.values["k0"] != general.values["k0"]
    # Nothing of the relative's own errors: those of devices left out.
    assert fit.heldout == general.heldout
    # A variant that no relative has comes from all devices together.
    a10 = inherited(load_hardware("a10"), "bf16", "mla", ("decode-bf16-bf16",))
    assert a10 is not None
    assert a10.values["tn"] == transfer().fits["mla", "decode-bf16-bf16"].values["tn"]


def test_products_of_a_board_with_more_power_come_nearer_to_its_peak() -> None:
    card = load_hardware("l4")
    assert card.power is not None

    def efficiency(machine: Machine, kind: str, variant: str) -> float:
        fit = inherited(machine, "bf16", kind, (variant,))
        assert fit is not None
        return fit.values["ec"]

    richer = replace(card, power=2 * card.power)
    assert efficiency(richer, "gemm", "bf16") == pytest.approx(
        2**0.15 * efficiency(card, "gemm", "bf16")
    )
    for kind, variant in (("prefill", "bf16-bf16"), ("moe", "bf16")):
        assert efficiency(richer, kind, variant) == efficiency(card, kind, variant)


def test_frameworks_transfer_too() -> None:
    pooled = cg.compile("llama-2-7b", "b300", "fuse", fidelity="calibrated").tpot(B=1, T=1000)
    framework = cg.compile("llama-2-7b", "b300", "fuse", fidelity="calibrated@trtllm")
    assert framework.tpot(B=1, T=1000) != pooled
    with pytest.raises(cg.CostgraphError, match=r"framework 'vlm'.*vllm"):
        cg.compile("llama-2-7b", "b300", "fuse", fidelity="calibrated@vlm")
