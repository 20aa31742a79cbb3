"""Host time of a framework: once a step, said, and only where it was fitted."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.errors import InputError
from costgraph.timing.fidelity.host import HOST

MODELS = (
    ("llama-3-8b", "h100", "fuse"),
    ("mixtral-8x7b", "h200", ""),
    ("deepseek-v3", "8xb200", "fuse,parallel{tp=8}"),
    ("whisper-tiny", "h100", "fuse"),
    ("mamba-130m", "h100", ""),
)


@pytest.mark.parametrize(("model", "device", "passes"), MODELS)
def test_every_step_takes_it_once(model: str, device: str, passes: str) -> None:
    plain = cg.compile(model, device, passes, fidelity="calibrated@vllm")
    hosted = cg.compile(model, device, passes, fidelity="calibrated@vllm+host")
    at = {s.name: 64 for s in plain.tpot.symbols}
    assert hosted.tpot(**at) - plain.tpot(**at) == pytest.approx(HOST["vllm"], rel=1e-6)
    at = {s.name: 64 for s in plain.latency.symbols}
    steps = (hosted.latency(**at) - plain.latency(**at)) / HOST["vllm"]
    # One per token; an encoder's phase is a step as well.
    assert steps == pytest.approx(64 + (model == "whisper-tiny"), rel=1e-6)
    assert any("0.58 ms of vllm's host" in text for text in hosted.tpot.assumptions)
    assert not any("host besides" in text for text in plain.tpot.assumptions)
    # A name that changes nothing else is not said to change nothing.
    idle = [text for text in plain.tpot.assumptions if text.endswith("changes nothing")]
    assert set(hosted.tpot.assumptions) >= {f"{text} but its host's time" for text in idle}
    assert not set(hosted.tpot.assumptions) & set(idle)
    assert bool(idle) == (not passes)  # attention that is not fused is timed as products


def test_a_mixed_step_takes_it_once() -> None:
    groups = (("c", 1, "T"), (1, "C", "P"))
    plain, hosted = (
        cg.compile("llama-3-8b", "h100", "fuse", fidelity=f"calibrated@vllm{x}").step(*groups)
        for x in ("", "+host")
    )
    at = {"c": 8, "T": 1000, "C": 256, "P": 512}
    assert hosted(**at) - plain(**at) == pytest.approx(HOST["vllm"], rel=1e-6)


@pytest.mark.parametrize("name", ["@trtllm+host", "@sglang+host", "@llama.cpp+host"])
def test_others_have_none(name: str) -> None:
    with pytest.raises(InputError, match="no host time was fitted"):
        cg.compile("llama-3-8b", "h100", fidelity=f"calibrated{name}")
