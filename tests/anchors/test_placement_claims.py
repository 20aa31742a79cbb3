"""What papers and makers claim of placements, beside what comes out: tables of the pages.

Each claim is computed here, and its row of the page says both numbers. What the tables say of
FlexGen, ZeRO-Inference and HALP is computed in tests/passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Tier
from costgraph.ir.dtypes import dtype
from costgraph.symbols import B, T

DOCS = Path(__file__).parents[2] / "docs"
GB, HALF = Integer(10) ** 9, Rational(1, 2)
#: By what is claimed, the page whose table has it, and what says the number there.
CLAIMS: dict[str, tuple[str, Callable[[], str]]] = {}
HOSTED = "rtx-4090+i9-13900k"
POWERINFER = "fuse,active{neurons=0.1,rank=512,hot=fit,curve=0.26:0.8}"


def claim(page: str, published: str):
    """Keeps what computes the number that stands beside a claim."""

    def kept(f: Callable[[], str]) -> Callable[[], str]:
        CLAIMS[published] = (page, f)
        return f

    return kept


# --- neurons that are needed -----------------------------------------------------------

#: What runs of OPT-6.7B with 3 % of neurons of which three times as many are predicted.
SPARSE = "fuse,active{neurons=0.03,over=3,rank=240}"


def predictors(rate: float, published: float) -> str:
    """Seconds that predictors read their weights for, as a part of the time of a token."""
    plain, made = (cg.compile("opt-6.7b", "a100", p).parameters for p in ("fuse", SPARSE))
    share = 2 * float(made - plain) / rate / published
    return f"at least {100 * share:.1f} %"


@claim("units.md", "predictors take 2.75 % of the 669 ms of a token on an M1 Max's processor")
def predictors_on_a_processor() -> str:
    # Two of its chips make an M1 Ultra: 400 GB/s.
    return predictors(float(load_hardware("m1-ultra").memory.bandwidth) / 2, 0.669)


@claim("units.md", "and 4.8 % of the 84 ms on an RTX 4090")
def predictors_on_a_card() -> str:
    return predictors(float(load_hardware("rtx-4090").memory.bandwidth), 0.084)


@claim("units.md", "Deja Vu more than 6 times Hugging Face's program on OPT-175B")
def deja_vu_beside_a_slow_program() -> str:
    at = {"B": 1, "T": 512}
    made = "fuse,active{neurons=0.2,heads=0.2,rank=1024}"
    dense, sparse = (
        cg.compile("opt-175b", "a100-80g", p).tpot.evaluate(**at) for p in ("fuse", made)
    )
    slower = 6 / (dense / sparse)
    assert 1 < slower < 2
    return f"at most {dense / sparse:.1f}: that program takes {slower:.1f} times its bound or more"


@claim("units.md", "PowerInfer on an RTX 4090 within 18 % of an A100")
def powerinfer_beside_an_a100() -> str:
    at = {"B": 1, "T": 512}
    near = 1 / cg.compile("opt-30b", HOSTED, POWERINFER).tpot.evaluate(**at)
    dense = 1 / cg.compile("opt-30b", "a100-80g", "fuse").tpot.evaluate(**at)
    reached = 13.20 / 0.82 / dense
    assert reached < 1
    return (
        f"OPT-30B {near:.1f} and {dense:.1f} token/s at most: their A100 reaches "
        f"{100 * reached:.0f} % of its bound, their card 81 %"
    )


# --- memory that computes --------------------------------------------------------------


@claim("units.md", "operations a byte where it stops to pay: UPMEM 0.545, HBM-PIM 0.60, AiM 1.0")
def ridges() -> str:
    found = []
    for name, kind in (("upmem-dimm", "int8"), ("hbm-pim", "fp16"), ("gddr6-aim", "bf16")):
        machine = load_hardware(name)
        ((_, peak),) = [(k, p) for k, p in machine.peaks.items() if k[1] == kind]
        found.append(float(peak / machine.memory.bandwidth))
    return ", ".join(f"{x:.3f}" for x in found)


@claim("units.md", "attention over caches does H/Hk operations a byte, whatever the batch")
def intensity() -> str:
    found = []
    for model in ("llama-2-7b", "llama-2-70b"):
        made = cg.compile(model, "a100+5xhbm-pim", "fuse,place{attention=hbm-pim}")
        rows = [r for r in made.rows["decode"] if r.unit and r.cost.flops]
        for batch in (1, 64):
            at = {B: Integer(batch), T: Integer(10**6)}
            bind = made.program.phase("decode").bind
            flops = sum(bind(r.count * r.cost.total_flops).xreplace(at) for r in rows)
            bytes_ = sum(bind(r.count * r.cost.total_bytes).xreplace(at) for r in rows)
            found.append(float(flops / bytes_))
    assert found[0] == pytest.approx(found[1])
    assert found[2] == pytest.approx(found[3])
    return f"LLaMA-2-7B {found[0]:.2f}, 70B {found[2]:.2f}"


# --- chips in a row --------------------------------------------------------------------


@claim("units.md", "LLaMA-2-70B in 16 bit needs 140 GB/230 MB = 609 chips")
def chips() -> str:
    with pytest.raises(cg.CostgraphError) as error:
        cg.compile("llama-2-70b", "576xgroqchip", "fuse,chain")
    (count,) = [w for w in str(error.value).split() if w.isdigit() and w != "576"][:1]
    assert -(-140 * 10**9 // (230 * 10**6)) == 609
    size = 2 * float(cg.compile("llama-2-70b", "a100").parameters)
    return f"{count}: it has {size / 2e9:.2f} billion weights, {size / 1e9:.0f} GB"


# --- flash -----------------------------------------------------------------------------


def from_flash(device: str, rate: Rational, passes: str) -> float:
    """Milliseconds of a token of OPT-6.7B whose weights come from flash at so many GB/s."""
    # An M1 Ultra is two M1 Max.
    name, half = ("m1-ultra", HALF) if device == "m1-max" else (device, Integer(1))
    machine = load_hardware(name).paced(half).with_tier("flash", Tier(rate * GB, 1000 * GB))
    return 1e3 * cg.compile("opt-6.7b", machine, passes).tpot.evaluate(B=1, T=100)


NAIVE = "fuse,offload{weights=flash,overlap=false}"
WINDOW = "fuse,offload{weights=flash,on=up_proj|down_proj,active=0.03,window=5,overlap=false}"


def flash_row(device: str, rates: tuple[str, str], published: tuple[int, int]) -> str:
    """What both ways take at least, and so how many times faster one can be."""
    naive = from_flash(device, Rational(rates[0]), NAIVE)
    best = from_flash(device, Rational(rates[1]), WINDOW)
    assert naive < published[0]
    assert best < published[1]
    assert published[0] / published[1] < naive / best
    return f"{naive:.0f} and {best:.0f}: bounds, at most {naive / best:.1f} times"


@claim("offloading.md", "M1 Max, its processor | 3182 and 669: 4.8 times")
def flash_on_a_processor() -> str:
    return flash_row("m1-max", ("6.10", "2.25"), (3182, 669))


@claim("offloading.md", "M1 Max, Metal | 2389 and 565: 4.2 times")
def flash_on_metal() -> str:
    return flash_row("m1-max", ("6.10", "2.25"), (2389, 565))


@claim("offloading.md", "M2 Ultra, Metal | 2270 and 305: 7.4 times")
def flash_on_a_newer_one() -> str:
    return flash_row("m2-ultra", ("6.10", "2.25"), (2270, 305))


@claim("offloading.md", "RTX 4090 | 2218 and 84: 26 times")
def flash_on_a_card() -> str:
    # 84 ms, 30 of them for reads of 0.2 GB: its disk reads bundles at 6.7 GB/s or more.
    return flash_row("rtx-4090", ("6.10", "6.7"), (2218, 84))


# --- processors ------------------------------------------------------------------------

#: A processor with the one bandwidth that explains both single requests of arXiv 2406.07553.
EFFECTIVE = 58 * GB
SINGLE = {"starcoder2-3b": (9.31, 63.29), "llama-2-7b": (4.36, 32.17)}


def effective():
    """That processor."""
    xeon = load_hardware("xeon-8480p")
    return replace(xeon, memory=replace(xeon.memory, bandwidth=EFFECTIVE))


def processed(model: str, batch: tuple[float, float]) -> str:
    """Tokens of prompts and answers a second of 100 requests whose prompts are as much longer."""
    generated, all_of_them = batch
    answers = 100
    prompts = round(answers * (all_of_them / generated - 1))
    made = cg.compile(model, effective(), "fuse")
    seconds = made.latency.evaluate(B=100, S=prompts, N=answers)
    most = 100 * (prompts + answers) / seconds
    assert all_of_them < most
    return f"at most {most:.0f}"


@claim("hosts.md", "StarCoderBase-3B, 100 requests: 992.36 token/s with prompts")
def processed_of_the_small_model() -> str:
    return processed("starcoder2-3b", (167.58, 992.36))


@claim("hosts.md", "CodeLlama-7B, 100 requests: 593.74 token/s with prompts")
def processed_of_the_larger_model() -> str:
    return processed("llama-2-7b", (93.69, 593.74))


def curve(model: str) -> list[float]:
    made = cg.compile(model, effective(), "fuse")
    return [b / made.tpot.evaluate(B=b, T=100) for b in (100, 200, 300, 400, 500)]


@claim("hosts.md", "3B, 100 to 500 requests: about 170, 220, 230, 240, 250 token/s")
def curve_of_the_small_model() -> str:
    found = curve("starcoder2-3b")
    assert all(m < f for m, f in zip((170, 220, 230, 240, 250), found, strict=True))
    return "at most " + ", ".join(f"{x:.0f}" for x in found)


@claim("hosts.md", "13B, 100 to 500 requests: about 50, 80, 90, 100, 110 token/s")
def curve_of_the_large_model() -> str:
    found = curve("llama-2-13b")
    assert all(m < f for m, f in zip((50, 80, 90, 100, 110), found, strict=True))
    return "at most " + ", ".join(f"{x:.0f}" for x in found)


# --- cards -----------------------------------------------------------------------------

#: GPT-2 XL with 24 of its 25 heads, which four cards do not share.
GPT2_XL = {"model_type": "gpt2", "n_embd": 1536, "n_head": 24, "n_layer": 48,
           "n_positions": 1024, "vocab_size": 50257}  # fmt: skip


@claim("hosts.md", "DFX, four U280: 6.9 ms a token of GPT-2 XL behind a prompt of 64")
def dfx_step() -> str:
    made = cg.compile(GPT2_XL, "dfx-4x-u280", "fuse,parallel{tp=4}")
    least = 1e3 * made.tpot.evaluate(B=1, T=64 + 128)
    assert least < 6.9
    return f"at least {least:.2f} ms"


@claim("hosts.md", "DFX: 2,642 ms for a prompt of 128 and 256 tokens")
def dfx_request() -> str:
    made = cg.compile(GPT2_XL, "dfx-4x-u280", "fuse,parallel{tp=4}")
    least = 1e3 * made.latency.evaluate(B=1, S=128, N=256)
    assert least < 2642
    return f"at least {least:.0f} ms"


@claim("hosts.md", "DFX 5.58 times as fast as four V100 on GPT-2 XL")
def dfx_ratio() -> str:
    cards, gpus = (
        cg.compile(GPT2_XL, on, "fuse,parallel{tp=4}").latency.evaluate(B=1, S=64, N=64)
        for on in ("dfx-4x-u280", "4xv100-sxm2")
    )
    ratio = gpus / cards
    assert ratio < 1
    return f"{ratio:.2f} by peaks: see below"


@claim("hosts.md", "H100: FP8 twice the rate and half the bytes of 16 bit")
def fp8() -> str:
    peaks = load_hardware("h100").peaks
    by_kind = {kind: peak for (engine, kind), peak in peaks.items() if engine.value == "tensor"}
    rate = by_kind["fp8"] / by_kind["fp16"]
    size = dtype("fp16").size((Integer(16),)) / dtype("fp8").size((Integer(16),))
    return f"{float(rate):.3f} and {float(size):.0f}"


@pytest.mark.parametrize("published", CLAIMS)
def test_pages_say_what_comes_out(published):
    page, here = CLAIMS[published]
    text = (DOCS / page).read_text(encoding="utf-8")
    assert f"| {published} | {here()} |" in text
