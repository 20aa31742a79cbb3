"""A whole generation in closed form equals its decode steps added up."""

from __future__ import annotations

import math

import pytest

import costgraph as cg
from costgraph.errors import InputError
from costgraph.models import model_names

STEPS = 4096
MACHINES = ("h100", "a6000", "tpu-v5e")


def start_of(compiled: cg.Compiled) -> int:
    """A prompt that leaves room for the steps within the model's limits."""
    bounds = [int(limit.bound) for limit in compiled.program.limits]
    return max(1, min([512, *(b - STEPS for b in bounds)]))


@pytest.mark.parametrize("model", model_names())
def test_closed_form_equals_the_loop(model):
    program = cg.load_model(model)
    for machine in MACHINES:
        compiled = cg.compile(program, machine)
        steps = STEPS
        for limit in compiled.program.limits:
            steps = min(steps, int(limit.bound) - 1)
        s = min(512, start_of(compiled))
        for batch in (1, 64):
            try:
                whole = compiled.latency.evaluate(B=batch, S=s, N=steps + 1)
            except InputError:  # a context limit of the model itself
                pytest.fail(f"{model} refuses {s} + {steps} tokens")
            step = compiled.tpot
            loop = math.fsum(step.evaluate(B=batch, T=s + i) for i in range(1, steps + 1))
            total = compiled.ttft.evaluate(B=batch, S=s) + loop
            assert whole == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    "passes",
    [
        "fuse",
        "fuse,quantize{preset=w4a16,kv=int8}",
        "page-kv{block=16}",
        "fuse,page-kv{block=16}",
        "early-exit{distribution=uniform}",
    ],
)
def test_closed_form_equals_the_loop_after_passes(passes):
    compiled = cg.compile("llama-2-7b", "h100", passes)
    whole = compiled.latency.evaluate(B=8, S=100, N=STEPS + 1)
    loop = math.fsum(compiled.tpot.evaluate(B=8, T=100 + i) for i in range(1, STEPS + 1))
    assert whole == pytest.approx(compiled.ttft.evaluate(B=8, S=100) + loop, rel=1e-12)
