"""Calibrated exchanges: the measured rows, which fit serves which, bounds, and what has no fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import costgraph as cg
from costgraph.errors import InputError
from costgraph.hardware.links import least
from costgraph.timing.fidelity import relatives as _relatives
from costgraph.timing.fidelity.bands import UNTIMED, factor
from costgraph.timing.fidelity.calibration import Fit, shipped, transfer
from costgraph.timing.fidelity.forms import form_of, value
from costgraph.timing.fidelity.said import UNFITTED
from costgraph.timing.fidelity.study import Study, crossfit
from costgraph.timing.fidelity.table import read_table

SWITCHES = ("a100-80g", "b200", "h100", "h200")
#: Mean error in percent on rows held out, at most, by collective and topology; seen: see
#: docs/fidelity.md.
BOUNDS = {
    ("all-reduce", "switch"): 13, ("all-gather", "switch"): 11, ("reduce-scatter", "switch"): 11,
    ("all-to-all", "switch"): 15, ("all-reduce", "pcie"): 11, ("all-gather", "pcie"): 13,
    ("reduce-scatter", "pcie"): 8, ("all-to-all", "pcie"): 13, ("all-reduce", "nodes"): 16,
    ("all-gather", "nodes"): 14, ("reduce-scatter", "nodes"): 15, ("all-to-all", "nodes"): 13,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    return from_benchmarks("fidelity"), from_benchmarks("fidelity_exchanges")


@pytest.fixture(scope="module")
def rows(bench) -> Study:
    fidelity, _ = bench
    return fidelity.load("exchange", fidelity.datasheets())


def mean(predicted: np.ndarray, seconds: np.ndarray) -> float:
    return float(np.abs(predicted / seconds - 1).mean() * 100)


def test_errors_on_rows_held_out_by_collective_and_topology(bench, rows) -> None:
    made, ideal = crossfit(rows)[0], rows.roofline()
    kind, topology, *_ = bench[1].split(rows)
    place = np.array(["nodes" if t.endswith("nodes") else t for t in topology])
    assert set(zip(kind, place, strict=True)) == BOUNDS.keys()
    for (collective, where), bound in BOUNDS.items():
        m = (kind == collective) & (place == where)
        assert mean(made[m], rows.seconds[m]) < bound
        assert mean(ideal[m], rows.seconds[m]) > 3 * mean(made[m], rows.seconds[m])


def test_every_machine_and_library_has_a_fit_of_its_own(rows) -> None:
    """None overwrites another: the shipped values give back the errors that they state."""
    for group in np.unique(rows.labels["group"]):
        m = rows.labels["group"] == group
        here = rows.where(m)
        device, variant = here.labels["device"][0], here.labels["variant"][0]
        fit = shipped(str(device)).fits["exchange", str(variant)]
        predicted = value(here.form.build(here.f, dict(fit.values)))
        assert fit.heldout["rows"] == m.sum()
        assert mean(predicted, here.seconds) < 1.15 * fit.heldout["mean"] + 0.5


def test_at_most_a_row_in_a_thousand_is_faster_than_the_bound(rows) -> None:
    assert (rows.seconds < rows.roofline()).mean() < 1e-3


# --- which fit serves an exchange of a program ------------------------------------------


def said(compiled) -> str:
    return " ".join(compiled.assumptions)


def seconds(fit: Fit, latency: float, wire: float) -> float:
    parts = form_of("exchange").build({"A": latency, "V": wire}, fit.values)
    return float(value(parts))


SERVED = [
    ("8xh100", "tp=8", "calibrated", "all-reduce switch:8", "h100"),
    ("8xh100", "tp=8", "calibrated@nccl", "all-reduce switch:8@nccl", "h100"),
    ("dgx-h100", "tp=8", "calibrated@nccl-eager", "all-reduce switch:8@nccl-eager", "h100"),
    ("dgx-a100", "tp=8", "calibrated@vllm", "all-reduce switch:8@vllm", "a100-80g"),
    ("8xb200", "tp=4,dp=2", "calibrated@trtllm", "all-reduce switch:4@trtllm", "b200"),
    ("2x8xh200", "tp=8,dp=2", "calibrated@sglang", "all-reduce switch:8@sglang", "h200"),
    ("4xl40s", "tp=4", "calibrated", "all-reduce pcie:4", "l40s"),
]


@pytest.mark.parametrize(("system", "degrees", "fidelity", "variant", "device"), SERVED)
def test_an_all_reduce_takes_the_time_of_its_form(
    system, degrees, fidelity, variant, device
) -> None:
    made = cg.compile("llama-3-8b", system, f"parallel{{{degrees}}}", fidelity=fidelity)
    name, ranks = made.machine.name, int(degrees[3])
    assert name == device
    assert f"{variant} fitted, held out" in said(made)
    link = made.system.device.link(made.system.inner)
    tokens = 64 / (2 if "dp" in degrees else 1)
    steps = least("all-reduce", cg.symbols.B, cg.symbols.B * 0 + ranks, link.in_network)
    size = tokens * 4096 * 2
    latency = float(steps.steps * (link.latency or 0))
    wire = float(steps.wire.subs(cg.symbols.B, size) / link.bandwidth)
    fit = shipped(device).fits["exchange", variant]
    row = made.breakdown("decode", B=64, T=100)["o_proj_sum"]
    assert row.seconds == pytest.approx(seconds(fit, latency, wire), rel=1e-4)


FALLBACKS = [
    ("h100-pcie", 2, "all-reduce bridge:2 as all-reduce switch:2 transferred, devices left out"),
    ("gb200", 8, "all-reduce switch:8 transferred, devices left out"),
    ("h20", 8, "all-reduce switch:8 transferred, devices left out"),
    ("h100", 6, "as all-reduce switch:any transferred, devices and numbers of ranks left out"),
    ("mi300x", 8, "no timings serve all-reduce mesh:8"),
    ("rtx-4090", 2, "no timings serve all-reduce pcie:2"),
]


@pytest.mark.parametrize(("device", "count", "words"), FALLBACKS)
def test_what_was_not_timed_is_said(device, count, words) -> None:
    model = "llama-3-8b"
    passes = f"parallel{{tp={count}}}" if count != 6 else "parallel{cp=6}"
    made = cg.compile(model, f"{count}x{device}", passes, fidelity="calibrated")
    assert words in said(made)
    if words.startswith("no timings"):
        ideal = cg.compile(model, f"{count}x{device}", passes).breakdown("decode", B=4, T=100)
        row = made.breakdown("decode", B=4, T=100)["o_proj_sum"]
        assert row.seconds == pytest.approx(ideal["o_proj_sum"].seconds, rel=1e-9)


def test_levels_follow_each_other_and_each_has_its_fit() -> None:
    made = cg.compile("llama-3-70b", "2x8xh200", "parallel{tp=16}", fidelity="calibrated@nccl")
    text = said(made)
    assert "all-reduce switch:8@nccl fitted" in text
    assert "no timings serve all-reduce network:2" in text
    inside = cg.compile("llama-3-70b", "8xh200", "parallel{tp=8}", fidelity="calibrated@nccl")
    row, part = (c.breakdown("decode", B=8, T=9)["o_proj_sum"].seconds for c in (made, inside))
    n, network = 8 * 8192 * 2 / 8, made.system.network
    across = float(2 * n / 2 / network.bandwidth + network.latency)
    assert row == pytest.approx(part + across, rel=1e-4)


NODES = """
name = "cluster"
title = "four nodes of V100"
device = "v100"
inner = "pcie"

[sources]
it = "a test"

[layout]
devices = { value = 4, source = "it" }
nodes = { value = 2, source = "it" }

[network]
bandwidth = { value = "RATE", source = "it" }
"""


@pytest.mark.parametrize(("rate", "serves"), [("0.78 GB/s", True), ("12.5 GB/s", False)])
def test_fits_over_nodes_serve_networks_like_the_one_timed(tmp_path, rate, serves) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(NODES.replace("RATE", rate))
    made = cg.compile("llama-3-8b", str(path), "parallel{tp=8}", fidelity="calibrated")
    assert ("all-reduce 2-nodes:4@nccl fitted" in said(made)) is serves
    assert ("no timings serve all-reduce network:2" in said(made)) is not serves
    ideal = cg.compile("llama-3-8b", str(path), "parallel{tp=8}")
    for batch in (8, 64, 4096):
        assert made.tpot(B=batch, T=10) >= ideal.tpot(B=batch, T=10)


def test_a_card_of_which_exchanges_alone_were_timed_is_nobodys_relative(monkeypatch) -> None:
    v100 = shipped("v100")
    alone = replace(v100, fits={k: f for k, f in v100.fits.items() if k[0] == "exchange"})
    assert v100.has_kernels
    assert not alone.has_kernels
    monkeypatch.setattr(_relatives, "shipped", lambda n: alone if n == "v100" else shipped(n))
    _relatives._fitted.cache_clear()
    try:
        assert "v100" not in _relatives._fitted()
    finally:
        monkeypatch.undo()
        _relatives._fitted.cache_clear()
    assert "v100" in _relatives._fitted()


def test_a_framework_without_timings_of_anything_used_is_said() -> None:
    single = cg.compile("llama-3-8b", "h100", fidelity="calibrated@sglang")
    assert "timings of sglang alone" in said(single)
    shared = cg.compile("llama-3-8b", "2xh100", "parallel{tp=2}", fidelity="calibrated@sglang")
    assert "all-reduce switch:2@sglang fitted" in said(shared)
    assert "timings of sglang alone" not in said(shared)


def test_transferred_fits_state_errors_of_devices_left_out(rows) -> None:
    """Larger than those of devices that were fitted, and of unseen ranks larger still."""
    general = transfer()
    for kind in ("all-reduce", "all-gather", "reduce-scatter"):
        own = [shipped(d).fits["exchange", f"{kind} switch:8@nccl"] for d in SWITCHES]
        moved, loose = (general.fits["exchange", f"{kind} switch:{n}@nccl"] for n in ("8", "any"))
        fitted = np.mean([f.heldout["mean"] for f in own])
        assert loose.heldout["mean"] > max(fitted, moved.heldout["mean"])


# --- bounds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "system", "passes"),
    [
        ("llama-3-8b", "8xh100", "fuse,parallel{tp=8}"),
        ("llama-3-8b", "8xh100", "fuse,parallel{tp=4,sequence=true,dp=2}"),
        ("llama-3-8b", "4xl40s", "fuse,parallel{tp=2,pp=2}"),
        ("llama-3-8b", "8xb200", "fuse,parallel{cp=8}"),
        ("llama-3-8b", "8xh100", "fuse,parallel{tp=8},overlap"),
        ("llama-3-8b", "8xmi300x", "fuse,parallel{tp=8}"),
        ("mixtral-8x7b", "2x4xh200", "fuse,parallel{ep=8}"),
        ("deepseek-v2-lite", "8xa100-80g", "fuse,parallel{tp=2,dp=4,ep=8}"),
    ],
)
def test_the_roofline_stays_a_lower_bound(model, system, passes) -> None:
    ideal = cg.compile(model, system, passes)
    fitted = cg.compile(model, system, passes, fidelity="calibrated")
    for batch, size in ((8, 16), (16, 2048), (64, 512)):
        assert ideal.tpot(B=batch, T=size) <= fitted.tpot(B=batch, T=size)
        assert ideal.ttft(B=batch, S=size) <= fitted.ttft(B=batch, S=size)
    again = fitted.breakdown("decode", B=8, T=100)
    for row in ideal.breakdown("decode", B=8, T=100):
        assert again[row.name].seconds >= row.seconds * (1 - 1e-9)


def test_bands_of_exchanges_are_those_of_their_fits() -> None:
    times = [
        cg.compile("llama-3-8b", "8xh100", "parallel{tp=8}", fidelity=f)
        .breakdown("decode", B=8, T=100)["o_proj_sum"]
        .seconds
        for f in ("calibrated", "low", "high")
    ]
    held = shipped("h100").fits["exchange", "all-reduce switch:8"].heldout
    for time, name in zip(times[1:], ("q10", "q90"), strict=True):
        assert time == pytest.approx(times[0] * factor(name, held[name], "gpu"), rel=1e-4)


def test_bands_of_exchanges_that_nobody_timed_are_those_of_all_that_were(rows):
    ratio = rows.seconds / rows.roofline()
    for name, quantile in UNTIMED.items():
        assert np.quantile(ratio, float(name[1:]) / 100) == pytest.approx(quantile, rel=0.01)
    program = cg.compile("llama-2-7b", "2xrtx-4090", "parallel{tp=2}").program
    made = {
        f: cg.compile(program, "2xrtx-4090", fidelity=f)
        for f in ("calibrated", "low", "median", "high")
    }
    seconds = {f: m.breakdown("decode", B=8, T=100)["o_proj_sum"].seconds for f, m in made.items()}
    for f, name in (("low", "q10"), ("median", "q50"), ("high", "q90")):
        moved = factor(name, UNTIMED[name], "gpu")
        assert seconds[f] == pytest.approx(seconds["calibrated"] * moved, rel=1e-4)
        assert any("at the same quantile" in t for t in made[f].tpot.assumptions)
    # Levels that were timed beside others that were not: each takes its own.
    nodes = [
        cg.compile("llama-2-7b", "2x8xh100", "parallel{tp=16}", fidelity=f).breakdown(
            "decode", B=8, T=100
        )["o_proj_sum"]
        for f in ("calibrated", "high")
    ]
    assert UNFITTED in nodes[0].fit != UNFITTED
    assert nodes[1].seconds > nodes[0].seconds * 1.05


def test_a_symbol_for_the_degree_takes_the_fit_of_any_number() -> None:
    made = cg.compile("llama-3-8b", "8xh100", "parallel{tp=t}", fidelity="calibrated")
    assert "all-reduce switch:t as all-reduce switch:any transferred" in said(made)
    assert made.tpot(B=1, T=100, t=8) > 0


def test_a_table_of_exchanges_names_what_is_wrong(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("hw,op,nodes,n_gpus,bytes,seconds\nx,all_reduce,1,8,1024,1e-5\n")
    with pytest.raises(InputError, match=r"column 'op'.*did you mean 'all-reduce'"):
        read_table(path)
