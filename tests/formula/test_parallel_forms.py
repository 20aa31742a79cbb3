"""The closed forms of docs/parallel.md: derived again, and held against both sides."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.hardware import load_hardware

DOCS = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text(encoding="utf-8")


def table(name):
    """Rows of a table of the page, as cells."""
    text = DOCS.split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0]
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@cache
def made(model, system, passes, **options):
    return cg.compile(model, system, passes, **options)


def dimensions(model):
    """The model's dimensions by their symbols (``L``, ``d`` …)."""
    program = made(model, "a100-80g", "fuse", symbolic_model=True).program
    return {s.name: int(v) for s, v in program.dims}


# --- doubling a tensor-parallel group ---------------------------------------------------


def pair(model, p):
    """Steps of ``p`` and of ``2p`` devices with a link's latency left open."""
    device = load_hardware("a100-80g")
    figures = {s.name: v for s, v in device.bindings().items()}
    steps = [
        made(model, f"{n}xa100-80g", f"fuse,parallel{{tp={n}}}", symbolic_hardware=True).tpot
        for n in (p, 2 * p)
    ]
    names = {s.name for step in steps for s in step.symbols}
    return steps, {n: v for n, v in figures.items() if n in names and n != "alpha_nvlink"}


@pytest.mark.parametrize("row", table("doubling"), ids=lambda row: "-".join(row[:3]))
def test_the_latency_up_to_which_a_doubling_pays(row):
    model, p = row[0], int(row[1])
    assert int(row[2]) == 2 * p
    (few, many), figures = pair(model, p)
    at = {"B": 1, "T": 1000, **figures}
    (found,) = cg.wins(few, many, "alpha_nvlink", **at)
    assert found.lower == 0
    limit = float(found.upper)
    assert f"{limit * 1e6:.4g} µs" == row[3]
    for share, pays in ((0.999, True), (1.001, False)):
        alpha = {"alpha_nvlink": limit * share}
        assert (many.evaluate(**at, **alpha) < few.evaluate(**at, **alpha)) is pays


@pytest.mark.parametrize("row", table("doubling"), ids=lambda row: "-".join(row[:3]))
@pytest.mark.parametrize("batch", [1, 16])
def test_the_closed_form_of_a_doubling(row, batch):
    model, p = row[0], int(row[1])
    (few, many), figures = pair(model, p)
    (found,) = cg.wins(few, many, "alpha_nvlink", B=batch, T=1000, **figures)
    dims = dimensions(model)
    layers, hidden, heads, size = (dims[n] for n in ("L", "d", "Hk", "dh"))
    weights = 2 * int(made(model, "a100-80g", "fuse").parameters)
    read = weights - 2 * dims["V"] * hidden * (model != "llama-3.2-1b")  # one table is looked up
    caches = batch * 1000 * 4 * layers * heads * size
    bandwidth, link = (float(figures[n]) for n in ("BW", "BW_nvlink"))
    gain = (read + caches) / (2 * p * bandwidth)
    wire = (2 * layers + 1) * 2 * batch * hidden / (p * link)
    assert float(found.upper) == pytest.approx((gain - wire) / (2 * layers + 2), rel=0.03)


def test_a_switch_that_adds_up_keeps_its_messages():
    """With reductions in the network no latency eats the gain of more devices."""
    steps = [
        made("llama-3-70b", f"{p}xh100", f"fuse,parallel{{tp={p}}}", symbolic_hardware=True).tpot
        for p in (4, 8)
    ]
    figures = {s.name: v for s, v in load_hardware("h100").bindings().items()}
    for latency in (1e-6, 1e-4, 1e-2):
        at = {**figures, "B": 1, "T": 1000, "alpha_nvlink": latency}
        few, many = (s.evaluate(**{n.name: at[n.name] for n in s.symbols}) for s in steps)
        # The gather of logits alone takes a message more.
        assert many < few + latency * 1.001


# --- stages against splits ----------------------------------------------------------------


@pytest.mark.parametrize("row", table("pipeline"), ids=lambda row: row[1])
def test_the_batch_from_which_a_pipeline_has_more_throughput(row):
    model, system, batch = row
    p = int(system.partition("x")[0])
    split = made(model, system, f"fuse,parallel{{tp={p}}}")
    staged = made(model, system, f"fuse,parallel{{pp={p},micro={p}}}")
    (found,) = cg.wins(split.interval, staged.interval, "B", T=512)
    assert f"{float(found.lower):.1f}" == batch
    for share, wins in ((0.99, False), (1.01, True)):
        at = {"B": float(found.lower) * share, "T": 512}
        assert (staged.interval.evaluate(**at) < split.interval.evaluate(**at)) is wins
    # A single request never gains from stages.
    assert staged.tpot.evaluate(B=p, T=512) > split.tpot.evaluate(B=p, T=512)


@pytest.mark.parametrize("system", ["4xh100", "8xa100-80g", "4xl40s"])
def test_the_groups_from_which_a_prompt_is_faster_in_stages(system):
    p, model = int(system[0]), "llama-3-70b" if "00" in system else "llama-2-13b"
    at = {"B": 64, "S": 1024}
    split = made(model, system, f"fuse,parallel{{tp={p}}}")
    products = made(model, system.partition("x")[2], "fuse").ttft.evaluate(**at) / p
    exchanges = split.ttft.evaluate(**at) - products
    turn = (p - 1) * products / exchanges
    for groups in (1, 2, 4, 8, 16, 32, 64):
        staged = made(model, system, f"fuse,parallel{{pp={p},micro={groups}}}")
        if not 0.8 < groups / turn < 1.25:
            assert (staged.ttft.evaluate(**at) < split.ttft.evaluate(**at)) is (groups > turn)
    # In the symbols of the page, for links that add nothing up on the way.
    if system == "8xa100-80g":
        device, dims = load_hardware("a100-80g"), dimensions(model)
        figures = {s.name: float(v) for s, v in device.bindings().items()}
        closed = int(made(model, "a100-80g", "fuse").parameters) * figures["BW_nvlink"]
        closed /= 2 * (2 * dims["L"] + 1) * dims["d"] * figures["F_bf16"]
        assert f"({closed:.1f} for" in DOCS
        assert f"; {turn:.1f} with everything counted" in DOCS
        assert turn < closed


# --- experts --------------------------------------------------------------------------------


def test_the_batch_at_which_experts_are_compute_bound():
    step = made("deepseek-v3", "2x8xh200", "fuse,parallel{ep=16}", quantization="ignore").tpot
    changes = {c.ops[0]: c for c in step.crossover("B", T=4096)}
    kernels = {
        "gate and up": "expert_gate+expert_up+expert_act+expert_mul",
        "down": "expert_down",
        "dense layers": "gate_proj+up_proj+mlp_act+mlp_mul",
        "dispatch and return: from NVLink to the network": "mlp_norm_dispatch",
    }
    for name, batch in table("experts"):
        found = changes[kernels[name]]
        assert f"{float(found.value):.0f}" == batch
        assert re.match(r"link:network" if "return" in name else "tensor", found.above)
    device = load_hardware("h200")
    figures = {s.name: float(v) for s, v in device.bindings().items()}
    closed = 256 / 8 * figures["F_bf16"] / figures["BW"]
    for kernel in (kernels["gate and up"], kernels["down"]):
        # Activations are read besides: more rows are needed than of weights alone.
        assert closed < float(changes[kernel].value) < 1.2 * closed
