"""Every shipped model under calibrated formulas; which form each operation takes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.models.catalog import model_names
from costgraph.symbols import B, T
from costgraph.timing.fidelity.bands import factor
from costgraph.timing.fidelity.calibration import shipped
from costgraph.timing.fidelity.classify import Case, classify
from costgraph.timing.fidelity.frameworks import exact

#: A device with timings of its own, and one that takes transferred parameters.
DEVICES = ("h100", "rtx-4090")


@cache
def compiled(model: str, device: str, fidelity: str, pipeline: str = "") -> Any:
    if fidelity != "ideal" or device != DEVICES[0]:  # passes run once per model
        program = compiled(model, DEVICES[0], "ideal", pipeline).program
        return cg.compile(program, device, fidelity=fidelity)
    return cg.compile(model, device, pipeline)


def evaluated(formula: Formula, batch: int, tokens: int) -> float:
    # CLIP's text tower ends at 77 positions; images are 256 tokens each.
    for limit in formula.limits:
        if limit.bound.is_number:
            tokens = min(tokens, int(limit.bound) // 2)
    values = {"B": batch, "S": tokens, "N": tokens, "T": tokens, "G": min(tokens, 256), "K": 4}
    return float(formula(**{s.name: values[s.name] for s in formula.symbols}))


def bound_holds(model: str, device: str, pipeline: str, batch: int, tokens: int) -> None:
    ideal = compiled(model, device, "ideal", pipeline)
    fitted = compiled(model, device, "calibrated", pipeline)
    for metric in times_of(ideal):
        low, high = (evaluated(getattr(c, metric), batch, tokens) for c in (ideal, fitted))
        assert low <= high


def times_of(made: Any) -> list[str]:
    """Times of single steps that a model has."""
    return [m for m in ("ttft", "tpot") if m in made.metrics] or ["latency"]


@pytest.mark.parametrize(
    ("model", "device"), [(m, DEVICES[i % 2]) for i, m in enumerate(model_names())]
)
def test_every_model_is_timed_above_its_roofline_with_bands_in_order(
    model: str, device: str
) -> None:
    """One device a model: whatever is calibrated apart on another has the tests below."""
    bound_holds(model, device, "fuse", 3, 400)
    times = []
    for fidelity in ("low", "median", "high"):
        made = compiled(model, device, fidelity, "fuse")
        times.append([evaluated(getattr(made, m), 3, 400) for m in times_of(made)])
    assert all(low <= mid <= high for low, mid, high in zip(*times, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_operations_around_experts_share_the_band_of_their_block(device: str) -> None:
    plain = compiled("mixtral-8x7b", device, "calibrated", "fuse")
    band = compiled("mixtral-8x7b", device, "high", "fuse")
    found = dict(cases(band, "decode"))
    members = [n for n, c in found.items() if c.kind == "elementwise" and not c.floor]
    grouped = next(c for c in found.values() if c.kind == "moe")
    quantile = exact(factor("q90", band.timing.fit(grouped)[1].quantile("q90"), "gpu"))
    assert members
    for name in members:
        counts = []
        for made in (plain, band):
            (phase,) = (p for p in made.program.phases if p.name == "decode")
            row = next(r for r in made.rows["decode"] if r.name == name)
            (term,) = made.timing.terms(phase, row, made.machine)
            counts.append(term.count)
        assert counts[1] == counts[0] * quantile


FEW = ("deepseek-v2-lite", "mixtral-8x7b", "gpt-oss-20b", "whisper-tiny", "mamba-130m",
       "zamba2-default", "qwen3-next-80b-a3b", "recurrentgemma-2b", "modernbert-base")  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FEW), st.sampled_from(DEVICES), st.sampled_from(("", "fuse")),
    st.integers(1, 512), st.integers(1, 440),
)  # fmt: skip
def test_the_bound_holds_over_batches_and_contexts(
    model: str, device: str, pipeline: str, batch: int, tokens: int
) -> None:
    bound_holds(model, device, pipeline, batch, tokens)


@pytest.mark.parametrize("tokens", [4096, 32768, 131072])
@pytest.mark.parametrize("device", [*DEVICES, "b200"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_the_bound_holds_for_long_prompts(model: str, device: str, tokens: int) -> None:
    bound_holds(model, device, "fuse", 1, tokens)


def cases(made: Any, phase: str) -> list[tuple[str, Case]]:
    (chosen,) = (p for p in made.program.phases if p.name == phase)
    return [
        (row.name, classify(chosen, row, made.machine))
        for row in made.rows[phase]
        if row.cost.bytes
    ]


@pytest.mark.parametrize("pipeline", ["", "fuse", "quantize{weights=fp8,activations=fp8},fuse"])
@pytest.mark.parametrize("model", ["mixtral-8x7b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_a_block_of_experts_has_one_floor(model: str, pipeline: str) -> None:
    made = cg.compile(model, "h100", pipeline, fidelity="calibrated")
    found = cases(made, "decode")
    grouped = [case for _, case in found if case.kind == "moe"]
    assert len(grouped) >= 2
    # Layers of two kinds in turn are one region with two blocks.
    blocks = 2 if model == "gpt-oss-20b" else 1
    assert sum(case.floor for case in grouped) == blocks
    width = {str(case.features["inner"]) for case in grouped}
    assert width == {{"mixtral-8x7b": "14336", "gpt-oss-20b": "2880"}.get(model, "1408")}
    inside = [name for name, case in found if case.kind == "elementwise" and not case.floor]
    assert any("combine" in name for name in inside)
    assert any("route" in name for name in inside)
    # The floor stands once per layer in the formula: t0 + tn·B.
    floors = [
        arm.expr for term in made.tpot.terms for arm in term.arms
        if arm.resource == "latency" and len(term.arms) == 1
        and any("expert" in op for op in term.ops)
        and [str(s) for s in arm.expr.free_symbols] == ["B"]
    ]  # fmt: skip
    assert len(floors) <= blocks
    assert floors


def first_variants(made: Any, phase: str, kind: str) -> set[str]:
    return {c.variants[0] for _, c in cases(made, phase) if c.kind == kind}


def test_latent_attention_takes_its_form() -> None:
    made = cg.compile("deepseek-v3", "h100", "fuse", fidelity="calibrated")
    assert first_variants(made, "decode", "mla") == {"decode-bf16-bf16"}
    naive = cg.compile("deepseek-v3", "h100", "fuse", fidelity="calibrated", mla="naive")
    assert first_variants(naive, "prefill", "mla") == {"prefill-bf16-bf16"}
    narrow = cg.compile("deepseek-v3", "h100", "fuse,quantize{kv=fp8}", fidelity="calibrated")
    assert first_variants(narrow, "decode", "mla") == {"decode-bf16-fp8"}


def test_products_have_the_size_of_their_second_operand() -> None:
    whisper = cg.compile("whisper-tiny", "h100", fidelity="calibrated")
    phase = whisper.program.phases[0].name
    sizes = {n: c.features for n, c in cases(whisper, phase) if c.kind == "gemm"}
    conv = [(f["k"], f["n"]) for n, f in sizes.items() if "conv" in n]
    assert (80 * 3, 384) in conv  # mel bands times taps
    latent = cg.compile("deepseek-v2-lite", "h100", fidelity="calibrated")
    heads = {n.rpartition(".")[2]: c for n, c in cases(latent, "decode")}
    assert (heads["q_absorb"].features["k"], heads["q_absorb"].features["n"]) == (128, 16 * 512)
    assert heads["qk_matmul"].features["k"] == 512 + 64


def test_kernels_that_give_a_row_a_block_take_a_time_for_each_column() -> None:
    made = cg.compile("llama-2-7b", "h100", fidelity="calibrated")
    columns = {n: c.features.get("cols") for n, c in cases(made, "decode")}
    assert (columns["attn_norm"], columns["softmax"]) == (4096, T)
    # Sums and moves cut all elements alike.
    assert columns["attn_add"] == columns["k_append"] == 0
    own = shipped("h100")
    assert own is not None
    fit = own.find("elementwise", ("norm",))
    assert fit is not None
    phase = next(p for p in made.program.phases if p.name == "decode")
    row = next(r for r in made.rows["decode"] if r.name == "attn_norm")

    def seconds(batch: int) -> float:
        """Of one norm."""
        terms = made.timing.terms(phase, row, made.machine)
        return sum(float(t.value.subs({B: batch})) for t in terms)

    # Few rows: a block's way through its columns, however many there are; many: memory.
    alone = fit.values["t0"] + 4096 * fit.values["tr"]
    assert seconds(1) == pytest.approx(alone)
    assert seconds(32) == pytest.approx(alone)
    moved = float(phase.bind(row.cost.total_bytes).subs({B: 4096})) / 3350e9
    assert seconds(4096) == pytest.approx(fit.values["t0"] + moved / fit.values["em"])


def test_scans_are_element_wise() -> None:
    for model in ("zamba2-default", "qwen3-next-80b-a3b", "falcon-mamba-7b", "rwkv-4-169m"):
        made = cg.compile(model, "h100", fidelity="calibrated")
        rows = {r.name: r for r in made.rows["prefill"]}
        found = {n: c for n, c in cases(made, "prefill") if rows[n].kind in SCANNED}
        assert found
        assert {c.kind for c in found.values()} == {"elementwise"}


SCANNED = {"ssd-scan", "gated-delta", "selective-scan", "wkv", "conv1d", "rg-lru"}


def test_cross_attention_takes_the_attention_forms() -> None:
    made = cg.compile("whisper-tiny", "h100", "fuse", fidelity="calibrated")
    kinds = [c.kind for _, c in cases(made, "decode")]
    assert kinds.count("decode") >= 2
    assert "prefill" not in kinds


def test_a_separate_quantisation_and_its_product_add_up_to_the_fitted_time() -> None:
    made = cg.compile(
        "llama-2-7b", "h100", "quantize{weights=fp8,activations=fp8}", fidelity="calibrated"
    )
    own = shipped("h100")
    assert own is not None
    fit = own.find("gemm", ("fp8",))
    assert fit is not None
    found = dict(cases(made, "prefill"))
    quantising = {n: c for n, c in found.items() if c.kind == "quantize"}
    assert quantising
    assert all(c.variants[0] == "fp8" for c in quantising.values())
    row = next(r for r in made.rows["prefill"] if r.name in quantising)
    phase = next(p for p in made.program.phases if p.name == "prefill")
    at = {"B": 1, "S": 64}

    def number(expr: Any) -> float:
        return float(expr.subs({symbol: at[symbol.name] for symbol in expr.free_symbols}))

    total = sum(
        number(term.count) * sum(number(arm.expr) ** 4 for arm in term.arms) ** 0.25
        for term in made.timing.terms(phase, row, made.machine)
    )
    moved = number(phase.bind(row.cost.total_bytes))
    share = fit.values["tq"] + moved / 3350e9 / min(fit.values["eq"], 1.0)
    assert total == pytest.approx(number(phase.bind(row.count)) * share, rel=1e-3)


def test_data_types_timed_alike_have_nearly_one_floor() -> None:
    for device in ("h100", "h200", "b200", "l40s"):
        own = shipped(device)
        assert own is not None
        floors = [
            f.values["t0"] for (k, v), f in own.fits.items()
            if k == "gemm" and v in ("bf16", "fp8", "fp8_block", "nvfp4")
        ]  # fmt: skip
        # What narrow types take longer is their quantisation, in a parameter of its own.
        assert max(floors) < 2 * min(floors)


def test_frameworks_have_kernels_of_their_own() -> None:
    times = {
        f: compiled("llama-2-7b", "h100", f, "fuse").ttft(B=1, S=2000)
        for f in ("calibrated", "calibrated@vllm", "calibrated@trtllm")
    }
    assert len(set(times.values())) == 3
    with pytest.raises(InputError, match="did you mean 'vllm'"):
        cg.compile("llama-2-7b", "h100", fidelity="calibrated@vlm")
    with pytest.raises(InputError, match="none of any framework"):
        cg.compile("llama-2-7b", "xeon-8480p", fidelity="calibrated@vllm")
    with pytest.raises(InputError, match="does not depend"):
        cg.compile("llama-2-7b", "h100", fidelity="ideal@vllm")
    band = cg.compile("llama-2-7b", "h100", fidelity="high@vllm")
    assert band.ttft(B=1, S=2000) > times["calibrated@vllm"]
