"""Operations that are one but for their names take the times that each would take by itself."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.timing.fidelity.alike import Likeness


@pytest.mark.parametrize(
    ("model", "on", "passes", "fidelity"),
    [
        ("llama-3.2-1b", "4xh100", "fuse,parallel{tp=2,pp=2}", "calibrated"),
        ("llama-3.2-1b", "4xh100", "fuse,quantize{preset=fp8},parallel{pp=4}",
         "calibrated@vllm+host"),
        ("qwen3-30b-a3b", "2xh100", "fuse,parallel{pp=2}", "high"),
    ],
)  # fmt: skip
def test_times_of_what_is_alike_are_its_own(model, on, passes, fidelity):
    made = cg.compile(model, on, passes, fidelity=fidelity)
    timing, likeness, keys = made.timing_on(made.machine), Likeness(), []
    for phase in made.program.phases:
        for row in made.rows[phase.name]:
            own = tuple(made.timing.terms(phase, row, made.machine))
            assert tuple(timing(phase, row)) == own
            keys.append(likeness.of(phase, row))
    known = [k for k in keys if k is not None]
    # Stages repeat one another; layers with experts are looked at one by one.
    assert len(set(known)) < len(known) or "a3b" in model
