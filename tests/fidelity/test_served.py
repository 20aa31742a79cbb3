"""Which fit every shipped device takes for every class of operations, and how good it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import HardwareError
from costgraph.hardware import device_names, load_hardware
from costgraph.hardware.machine import Machine
from costgraph.timing.fidelity.apply import Calibrated
from costgraph.timing.fidelity.calibration import (
    EVERY,
    calibrated_devices,
    calibration_from,
    shipped,
    transfer,
)
from costgraph.timing.fidelity.classify import GEMM, Case, attention_variants
from costgraph.timing.fidelity.forms import TILE, filled_tiles
from costgraph.timing.fidelity.labels import (
    UNSERVED,
    Unserved,
    alike,
    attended,
    run_by,
    stand_in,
    types_of,
    unmarked,
)
from costgraph.timing.fidelity.relatives import relatives

GPUS = [n for n in device_names() if load_hardware(n).kind == "gpu"]
WIDE, NARROW = Integer(16), Integer(8)
#: A case per class of operations: kind, variants as :mod:`.classify` gives them.
CLASSES = {
    **{f"gemm {t}": Case("gemm", GEMM[t], {}) for t in ("bf16", "fp16", "fp8", "fp4", "fp32")},
    **{
        f"{kind} {name}": Case(kind, attention_variants("bf16", bits), {})
        for kind in ("prefill", "decode")
        for name, bits in (("bf16", WIDE), ("narrow cache", NARROW))
    },
    "prefill fp8": Case("prefill", attention_variants("fp8", NARROW), {}),
    "mla decode": Case("mla", ("decode-bf16-bf16", "decode-bf16-fp8"), {}),
    "mla prefill": Case("mla", ("prefill-bf16-bf16", "prefill-bf16-fp8"), {}),
    **{f"moe {t}": Case("moe", GEMM[t], {}) for t in ("bf16", "fp8", "fp4")},
    **{
        f"elementwise {c}": Case("elementwise", (c, "map", "any"), {})
        for c in ("norm", "activation", "gelu", "map")
    },
}


def serving(machine: Machine, case: Case) -> tuple[str, str, bool]:
    """Origin, variant and whether the fit is another device's."""
    timing = Calibrated("calibrated", machine, shipped(machine.name))
    _, fit, moved = timing.fit(case)
    return fit.origin, fit.variant, moved


def test_every_device_takes_the_nearest_fit_for_every_class(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own; else a relative's, also of the other 16-bit type; else that of all together."""
    for name in GPUS:
        machine = load_hardware(name)
        for label, case in CLASSES.items():
            origin, variant, moved = serving(machine, case)
            print(f"{name:20} {label:22} {origin} {variant}")
            own = shipped(name)
            has = own is not None and own.find(case.kind, case.variants) is not None
            assert moved is not has
            assert (origin == name) is has
            if has or case.kind == "elementwise":
                continue
            # The first variant that a relative or the pool has, the relative first.
            for wanted in case.variants:
                near = next(
                    (
                        r
                        for r in relatives(machine, case.kind)
                        if (f := shipped(r).find(case.kind, alike(wanted))) and not f.kernel
                    ),
                    None,
                )
                if near is not None:
                    assert origin == near, label
                    assert variant in alike(wanted), label
                    break
                if (case.kind, wanted) in transfer().fits:
                    assert (origin, variant) == (EVERY, wanted)
                    break
    # No fit of a kernel that says nothing of other devices, nor of a host's clock.
    assert not any("@triton" in v or "@host" in v for _, v in transfer().fits)
    assert len(capsys.readouterr().out.splitlines()) == len(GPUS) * len(CLASSES)


def test_a_calibration_is_its_devices() -> None:
    for name in calibrated_devices():
        made = shipped(name)
        assert made is not None
        assert {f.origin for f in made.fits.values()} == {name} == {made.device}
    text = {"device": "x", "provenance": "test"}
    assert calibration_from(text, "x").fits == {}


#: By what calibrated time may exceed the bound, for a prompt of 2048 tokens and a batch of 16
#: at a context of 2048 …
USUAL = 2.3
#: … and where it exceeds that, with the reason.
SLOW = {
    "a100-80g": 6.6,  # its experts are timed in untuned Triton
    **dict.fromkeys(("l40s", "l4", "gb10", "rtx-6000-ada"), 2.7),  # L40S's experts
    **dict.fromkeys(("mi210", "mi250x"), 2.8),  # nine products, at half of the bandwidth
}


@pytest.mark.parametrize("device", GPUS)
def test_calibrated_times_are_near_their_bound(device: str) -> None:
    """``ideal <= calibrated <= k·ideal`` for a model with experts and a dense one."""
    for model in ("mixtral-8x7b", "llama-3.1-8b"):
        ideal = cg.compile(model, device, "fuse")
        fitted = cg.compile(ideal.program, device, fidelity="calibrated")
        for metric, at in (("ttft", {"B": 1, "S": 2048}), ("tpot", {"B": 16, "T": 2048})):
            low, made = (float(getattr(c, metric)(**at)) for c in (ideal, fitted))
            assert low <= made <= SLOW.get(device, USUAL) * low, (model, metric, made / low)


def test_a_kernel_of_one_device_serves_no_other() -> None:
    own = shipped("a100-80g")
    assert own is not None
    assert own.fits["moe", "bf16"].kernel == "triton"
    for name in ("a100", "a30", "a100-pcie", "v100-sxm2"):
        assert "a100-80g" in relatives(load_hardware(name))
        assert serving(load_hardware(name), CLASSES["moe bf16"])[0] != "a100-80g"
    made = cg.compile("mixtral-8x7b", "mi300x", "fuse")
    fitted = cg.compile(made.program, "mi300x", fidelity="calibrated")
    assert fitted.ttft(B=1, S=2048) < 1.6 * made.ttft(B=1, S=2048)


@pytest.mark.parametrize("group", [1, 4, 8, 16, 32, 128])
def test_grouped_queries_fill_tiles(group: int) -> None:
    heads = 128
    found = filled_tiles(heads, heads // group, max)
    assert found == max(1, TILE * (heads // group) / heads)


@pytest.mark.parametrize("device", ["h100", "h200", "b200", "l40s", "mi300x", "rtx-4090"])
def test_decode_of_wide_groups_stays_near_its_bound(device: str) -> None:
    """128 query heads over one cached head: work is paid once per tile, not per head."""
    config = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 2,
        "num_attention_heads": 128, "num_key_value_heads": 1, "head_dim": 128,
        "intermediate_size": 4096, "vocab_size": 1024, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    rows = [
        cg.compile(config, device, "fuse", fidelity=f).breakdown("decode", B=64, T=8192)
        for f in ("ideal", "calibrated")
    ]
    low, made = (table["attention"].seconds for table in rows)
    assert low <= made < 6 * low


def test_rows_say_which_fit_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    made = cg.compile("mixtral-8x7b", "h200", "fuse", fidelity="calibrated@trtllm")
    table = made.breakdown("decode", B=1, T=100)
    assert table["attention"].fit.startswith("own h200 trtllm, median ")
    assert all(r.fit for r in table.rows if r.bytes)
    other = cg.compile("mixtral-8x7b", "mi300x", "fuse", fidelity="calibrated")
    found = {r.fit.partition(",")[0] for r in other.breakdown("decode", B=1, T=100).rows if r.fit}
    assert found == {"transferred from all fitted devices"}
    pair = cg.compile("llama-2-7b", "2xrtx-4090", "fuse,parallel{tp=2}", fidelity="calibrated")
    found = {r.fit for r in pair.breakdown("decode", B=1, T=100).rows if r.links}
    assert found == {"ideal: no fit"}  # exchanged through the host, which nobody timed there
    main(["analyze", "llama-2-7b", "--on", "gh200", "--context", "100", "--fidelity", "calibrated"])
    assert "transferred from h100, median" in capsys.readouterr().out
    main(["analyze", "llama-2-7b", "--on", "h100", "--context", "100", "--json"])
    assert {r["fit"] for r in json.loads(capsys.readouterr().out)["ops"]} == {""}


#: What a fit says of itself.
SAID = re.compile(r"(own|transferred from) [a-z0-9 -]+( \([a-z]+\))?, median \d+ %")


@pytest.mark.parametrize("label", CLASSES)
def test_every_device_says_whose_fit_it_takes_or_how_to_make_one(label: str) -> None:
    """All devices, of all kinds: a fit with its error, or one line that says what to do."""
    for name in device_names():
        machine = load_hardware(name)
        timing = Calibrated("calibrated", machine, shipped(name))
        if machine.kind != "gpu":
            with pytest.raises(HardwareError, match=f"{name!r}.*calibrate --from") as refused:
                timing.fit(CLASSES[label])
            assert ("--this-machine" in str(refused.value)) is (machine.kind == "cpu")
            assert "\n" not in str(refused.value)
            continue
        _, fit, moved = timing.fit(CLASSES[label])
        said = fit.trust(moved)
        assert SAID.fullmatch(said), (name, said)
        assert said.startswith(f"own {name}") is not moved
        assert f"median {fit.heldout['median']:.0f} %" in said


@pytest.mark.parametrize(
    ("device", "model", "passes", "metric", "at"),
    [
        ("h200", "mixtral-8x7b", "fuse", "tpot", {"B": 2, "T": 500}),
        ("rtx-3090", "llama-2-7b", "fuse", "ttft", {"B": 1, "S": 300}),
        ("l40s", "llama-2-7b", "fuse,parallel{tp=2}", "tpot", {"B": 2, "T": 500}),
    ],
)
def test_an_explanation_says_what_its_time_hangs_on(
    device: str, model: str, passes: str, metric: str, at: dict[str, int]
) -> None:
    """By the fits of its operations and the time they take, as a breakdown states both."""
    on = f"2x{device}" if "parallel" in passes else device
    made = cg.compile(model, on, passes, fidelity="calibrated")
    told = made.explain(metric, **at)
    sizes = {"B": at["B"], "T": at["T"]} if "T" in at else at
    rows = made.breakdown("decode" if "T" in at else "prefill", **sizes).rows
    busy = sum(r.count * r.seconds for r in rows)
    wanted: dict[str, float] = {}
    for r in rows:
        if r.seconds:
            wanted[r.fit] = wanted.get(r.fit, 0.0) + r.count * r.seconds / busy
    assert {x.fit: x.share for x in told.timed} == pytest.approx(wanted)
    assert sum(x.share for x in told.timed) == pytest.approx(1)
    for x in told.timed:
        assert f"{100 * x.share:5.1f}%  {x.fit}: " in str(told)
        assert {r.name for r in rows if r.fit == x.fit and r.seconds} == set(x.ops)
    assert [x["fit"] for x in told.to_dict()["timed"]] == [x.fit for x in told.timed]


def test_an_explanation_of_the_ideal_has_no_fits() -> None:
    told = cg.compile("llama-2-7b", "h200").explain("tpot", B=1, T=500)
    assert told.timed == ()
    assert "\nfit\n" not in str(told)


def test_two_machines_of_one_card_never_overwrite_one_another(
    from_benchmarks: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bench = from_benchmarks("fidelity_write")
    by_card: dict[str, list[str]] = {}
    for machine, card in bench.DEVICES.items():
        by_card.setdefault(card, []).append(machine)
    one, other, *_ = next(names for names in by_card.values() if len(names) > 1)
    found = shipped("h100")
    assert found is not None
    fit = found.fits["gemm", "bf16"]
    made = {(name, "gemm", "bf16"): fit for name in (one, other)}
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr(bench, "groups", lambda _: made)
    monkeypatch.setattr(bench, "beside", dict)
    with pytest.raises(ValueError, match="two fits of gemm bf16: no calibration may be over"):
        bench.write_all({}, None, None)


@pytest.mark.parametrize("row", UNSERVED, ids=lambda r: f"{r.kind} {r.variant} {r.stand}")
def test_kernels_that_are_not_run_have_a_stand_in_that_was_timed(row: Unserved) -> None:
    """The stand-in serves by name wherever it was fitted; what was timed is the last resort."""
    for device in calibrated_devices():
        own, machine = shipped(device), load_hardware(device)
        assert own is not None
        there = not row.instructions or machine.instruction in row.instructions
        case = Case(row.kind, (row.variant, "bf16", "fp16"), {})
        for framework in row.frameworks:
            stand = stand_in(row.kind, row.variant, framework, machine.instruction)
            assert stand == (row.stand if there else None)
            order = run_by(row.kind, case.variants, framework, machine.instruction)
            assert order[0] == (stand or row.variant)
            assert set(order) == {*case.variants, *([stand] if stand else [])}
            _, fit, moved = Calibrated("calibrated", machine, own, framework).fit(case)
            if stand and (row.kind, stand) in own.fits:
                assert (fit.variant, moved) == (stand, False)
        # Without a name, and with that of nobody, what was timed.
        for framework in ("", "llama.cpp"):
            assert run_by(row.kind, case.variants, framework, machine.instruction) == case.variants


def test_attention_that_shares_nothing_takes_the_kernel_that_runs_it() -> None:
    """TensorRT-LLM's for groups is not taken where every query head has its own cached head."""
    for device in GPUS:
        machine = load_hardware(device)
        apart = machine.instruction in ("mma", "wgmma")
        for bits, types in ((WIDE, "bf16-bf16"), (NARROW, "bf16-fp8")):
            case = Case("decode", attention_variants("bf16", bits), {}, lone=True)
            shared = replace(case, lone=False)
            for framework in ("trtllm", "vllm", ""):
                timing = Calibrated("calibrated", machine, shipped(device), framework)
                found, plain = (timing.fit(c)[1].variant for c in (case, shared))
                own = apart and framework == "trtllm" and plain == f"{types}@trtllm"
                expected = attended("decode", plain, framework, machine.instruction, True, None)
                assert found == (expected if own else plain)
                assert ("-lone@" in found) is own
    marked = attended("decode", "bf16-fp8@trtllm", "trtllm", "wgmma", True, None)
    assert marked == "bf16-fp8-lone@trtllm"


def test_narrow_prompts_take_the_kernel_timed_for_their_heads() -> None:
    """TensorRT-LLM's fp8 kernel on Ada is quick for heads of 128 alone: the others are a fit of
    their own, which no device takes whose instructions are others."""
    marked = set()
    for device in GPUS:
        machine = load_hardware(device)
        for framework in ("trtllm", "vllm", ""):
            timing = Calibrated("calibrated", machine, shipped(device), framework)
            found = {
                head: timing.fit(
                    Case("prefill", attention_variants("fp8", NARROW), {"dh": Integer(head)})
                )[1].variant
                for head in (64, 128, 256)
            }
            assert found[64] == found[256]
            assert unmarked(found[64]) == found[128] == unmarked(found[128])
            # What is said of data types that were not timed looks at types alone.
            assert types_of(found[64]) == types_of(found[128]) == found[128].partition("@")[0]
            if found[64] != found[128]:
                assert machine.instruction == "mma"
                assert framework != "vllm"
                marked.add(device)
    assert "l40s" in marked
    # As fast as they were timed: 8 sequences of 10240 tokens, 32 heads of 128 and 40 of 256.
    own = shipped("l40s")
    assert own is not None
    quick, slow = (own.fits["prefill", f"fp8-fp8{m}@trtllm"].values for m in ("", "-untuned"))
    assert quick["ec"] > 2 * slow["ec"]


def test_flash_attention_3_packs_queries_that_share_a_cached_head() -> None:
    """Short prompts pay a block per cached head on Hopper under vLLM, one per query head elsewhere.

    Measured with 40 query heads of 64, 128 prompts of 16 tokens on an H100: 33 us over 2 cached
    heads and 193 us over 40 (attention_prefill.csv).
    """

    def ratio(device: str, framework: str) -> float:
        """Of a model with a cached head for each query head to one whose heads share by fours."""
        alone, shared = (
            cg.compile(model, device, "fuse", fidelity=f"calibrated@{framework}")
            .breakdown("prefill", B=128, S=16)["attention"]
            .seconds
            for model in ("llama-2-7b", "llama-3-8b")
        )
        return alone / shared

    assert ratio("h100", "vllm") > 2 > 1.4 > ratio("h100", "trtllm")
    assert ratio("a100", "vllm") < 1.4


def test_a_lone_head_is_timed_by_its_own_kernel() -> None:
    """What the classes tell apart is in the graph: MHA on an H200 with an 8-bit cache is slower
    per byte than grouped queries, whose kernel multiplies on tensor units."""
    seconds = {}
    for model in ("llama-2-7b", "llama-3-8b"):
        made = cg.compile(model, "h200", "quantize{kv=fp8},fuse", fidelity="calibrated@trtllm")
        row = made.breakdown("decode", B=64, T=8192)["attention"]
        seconds[model] = row.seconds / float(row.bytes)
    assert seconds["llama-2-7b"] > 1.3 * seconds["llama-3-8b"]
