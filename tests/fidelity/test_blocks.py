"""Products whose scales belong to blocks of 128 take the fits of such products, if any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import costgraph as cg
from costgraph.counting.count import flat
from costgraph.hardware import device_names, load_hardware
from costgraph.hardware.machine import Engine
from costgraph.timing.fidelity.calibration import shipped
from costgraph.timing.fidelity.labels import alike, stand_in
from costgraph.timing.fidelity.relatives import inherited

CONFIG = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 1024,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 1024, "vocab_size": 2048, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "num_local_experts": 8, "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
#: Ways to say it: passes, and what a checkpoint says of itself.
SAID: dict[str, tuple[str, dict[str, Any]]] = {
    "preset": ("quantize{preset=fp8-block},fuse", {}),
    "groups": ("quantize{weights=fp8,activations=fp8,group=128},fuse", {}),
    "one by one": ("quantize{weights=fp8-block,activations=fp8-block},fuse", {}),
    "split": ("quantize{preset=fp8-block},fuse,parallel{tp=2}", {}),
    "fp8": (
        "fuse",
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    ),
    "modelopt": ("fuse", {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}),
    "trtllm": ("fuse", {"quant_method": "modelopt", "quant_algo": "FP8_BLOCK_SCALES"}),
    "compressed": (
        "fuse",
        {
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "block",
                            "block_structure": [128, 128], "symmetric": True, "dynamic": False},
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "group",
                                      "group_size": 128, "symmetric": True, "dynamic": True},
            }},
        },
    ),
}  # fmt: skip
#: Frameworks whose servers run the experts in blocks that were timed, and where.
THEIRS = {("", "h100"), ("", "h200"), ("", "b200"), ("trtllm", "h100"), ("trtllm", "h200")}
#: One scale per tensor, per row, or in the units' own blocks of 32.
OTHERS = (
    "quantize{preset=fp8},fuse",
    "quantize{preset=mxfp8},fuse",
    "quantize{weights=fp8,activations=fp8,group=row},fuse",
)


def taken(made: Any) -> Iterator[tuple[Any, Any]]:
    """Cases and fits of narrow products, and of what narrows apart from other work."""
    timing = made.timing
    for phase in made.program.phases:
        for row in flat(made.items[phase.name]):
            if row.cost.links or not row.cost.bytes:
                continue
            case, fit, _ = timing.taken(phase, row)
            if case.kind in ("gemm", "moe", "quantize") and "fp8" in case.variants:
                yield case, fit


def compiled(how: str, device: str, fidelity: str = "calibrated") -> Any:
    passes, quantization = SAID[how]
    given = {**CONFIG, **({"quantization_config": quantization} if quantization else {})}
    on = f"2x{device}" if "parallel" in passes else device
    return cg.compile(given, on, passes, fidelity=fidelity)


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize("device", ["h100", "h200", "b200"])
def test_every_way_to_say_blocks_takes_their_fits(how: str, device: str) -> None:
    for fidelity in ("calibrated", "calibrated@sglang", "calibrated@trtllm", "high@vllm"):
        found = list(taken(compiled(how, device, fidelity)))
        assert {c.kind for c, _ in found} >= {"gemm", "moe"}
        # With weights in groups alone operands have a scale per token.
        kinds = ("gemm", "moe") if how == "groups" else ("gemm", "moe", "quantize")
        # Experts in blocks were timed with kernels that not every framework's servers run.
        unit, _, framework = load_hardware(device).instruction, *fidelity.partition("@")[1:]
        experts = stand_in("moe", "fp8_block", framework, unit) or "fp8_block"
        assert experts == ("fp8_block" if (framework, device) in THEIRS else "fp8")
        assert {f.variant for c, f in found if c.kind == "moe"} == {experts}
        assert {f.variant for c, f in found if c.kind in kinds and c.kind != "moe"} == {"fp8_block"}


@pytest.mark.parametrize("size", [1024, 960])
def test_the_preset_stores_what_a_checkpoint_does(size: int) -> None:
    """Blocks at the edges are short and have scales of their own."""
    formats = []
    for how in ("preset", "fp8"):
        passes, quantization = SAID[how]
        given = {**CONFIG, "intermediate_size": size}
        given |= {"quantization_config": quantization} if quantization else {}
        made = cg.compile(given, "h100", passes)
        formats.append({t.name: t.bytes for t, _ in made.program.weights() if "expert" in t.name})
    assert formats[0] == formats[1]
    assert formats[0]


@pytest.mark.parametrize("passes", OTHERS)
def test_other_scales_take_plain_fits(passes: str) -> None:
    found = list(taken(cg.compile(CONFIG, "b200", passes, fidelity="calibrated")))
    assert {f.variant for _, f in found} == {"fp8"}


def native(name: str) -> bool:
    machine = load_hardware(name)
    return machine.kind == "gpu" and machine.resolve(Engine.TENSOR, "fp8")[1] == "fp8"


FP8 = [n for n in device_names() if native(n)]


@pytest.mark.parametrize("device", FP8)
def test_every_device_takes_them_or_says_what_instead(device: str) -> None:
    """The device's own, else a relative's, else of all; a device with plain fp8 alone says so."""
    made = compiled("preset", device)
    machine, own = load_hardware(device), shipped(device)
    said = " ".join((*made.tpot.assumptions, *made.ttft.assumptions))
    for case, fit in taken(made):
        if case.kind == "quantize":
            continue
        has = None if own is None else own.find(case.kind, case.variants)
        wanted = has or inherited(machine, "fp8", case.kind, case.variants)
        assert wanted is not None
        assert fit.variant == wanted.variant
        missing = f"no timings of {case.kind} fp8_block serve {device}: it takes the fit of "
        assert (missing in said) is (fit.variant != "fp8_block")
    # Devices that were timed, but not in blocks (nor, the last two, in fp8 at all).
    assert (own is not None and "no timings of gemm fp8_block" in said) is (
        device in ("h20", "l40s", "rtx-4090", "rtx-pro-6000")
    )


@pytest.mark.parametrize(
    ("device", "passes"), [("l40s", "quantize{preset=fp8-block},fuse"), ("b200", "fuse")]
)
def test_another_type_is_said_and_its_own_is_not(device: str, passes: str) -> None:
    said = " ".join(cg.compile(CONFIG, device, passes, fidelity="calibrated").tpot.assumptions)
    assert ("no timings of" in said) is (device == "l40s")
    assert alike("fp8_block") == ("fp8_block",)
