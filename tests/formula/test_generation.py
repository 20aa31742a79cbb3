"""A whole generation in closed form equals its decode steps added up."""

from __future__ import annotations

import math

import pytest

import costgraph as cg
from costgraph.models import model_names
from costgraph.symbols import symbol

STEPS = 4096
MACHINES = ("h100", "a6000", "tpu-v5e")


@pytest.mark.parametrize(
    ("model", "machine"), [(m, MACHINES[i % 3]) for i, m in enumerate(model_names())]
)
def test_closed_form_equals_the_loop(model, machine):
    program = cg.load_model(model)
    if not (program.emits and program.decoding):
        pytest.skip("has no decode steps that make tokens")
    compiled = cg.compile(program, machine)
    step = compiled.tpot
    # Learned positions end somewhere.
    bounds = [int(x.bound) for x in compiled.latency.limits if symbol("N") in x.expr.free_symbols]
    steps = min([STEPS, *(b - 513 if b > 513 else b - 1 for b in bounds)])
    for batch in (1, 64):
        at = {"B": batch, "S": 512, "G": 256}
        whole = compiled.latency.evaluate(**at, N=steps + 1)
        names = {s.name for s in step.symbols}
        given = {k: v for k, v in at.items() if k in names}
        # Encoder–decoders start from one token of their own; others from the prompt.
        start = 1 if "S" in names else 512
        contexts = [start + i for i in range(1, steps + 1)]
        if "T" in names:
            loop = math.fsum(step.evaluate(**given, T=t) for t in contexts)
        else:  # a constant state: every step costs the same
            loop = steps * step.evaluate(**given)
        total = compiled.ttft.evaluate(**at) + loop
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
