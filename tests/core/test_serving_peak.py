"""No rate that servers are said to stand needs more than the peak of their device."""

from __future__ import annotations

from functools import cache

import pytest

import costgraph as cg
from costgraph.asking.serving import ChunkedPrefill, Continuous, Lengths, StepTimes
from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.queueing import Queue
from costgraph.hardware.machine import Engine

MODEL, DEVICE = "llama-3.1-8b", "h100"


@cache
def _times() -> StepTimes:
    return StepTimes(cg.compile(MODEL, DEVICE, "fuse"), 2048)


def _most(policy: Policy, prompt: int, generate: int) -> float:
    return Queue(_times(), policy, Lengths(prompt), Lengths(generate)).stable_rate


@pytest.mark.parametrize(("prompt", "generate"), [(100, 1), (16, 2), (100, 10), (1024, 256)])
@pytest.mark.parametrize(
    "policy",
    [ChunkedPrefill(8, 512), ChunkedPrefill(512, 8192), ChunkedPrefill(2048, 8192), Continuous(64)],
)
def test_the_largest_rate_is_within_the_peak(policy: Policy, prompt: int, generate: int) -> None:
    compiled = _times().compiled
    peak = float(compiled.machine.peaks[Engine.TENSOR, "bf16"])
    prefill = compiled.breakdown("prefill", B=1, S=prompt).totals["flops"]
    decode = compiled.breakdown("decode", B=1, T=prompt).totals["flops"]
    needed = float(prefill) + (generate - 1) * float(decode)
    assert 0 < _most(policy, prompt, generate) * needed < 1.02 * peak


def test_prompts_that_fill_steps_are_read_as_fast_as_steps_of_that_size() -> None:
    most = _most(ChunkedPrefill(2048, 8000), 100, 1)
    step = _times().step(0, 0, ((100, 100),) * 80)
    assert most == pytest.approx(80 / step, rel=1e-9)
