"""Operations that are one but for their names take the times that each would take by itself."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.timing.fidelity import alike, apply
from costgraph.timing.fidelity.alike import Likeness
from costgraph.timing.fidelity.apply import Calibrated


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
    # Stages repeat one another.
    assert len(set(keys)) < len(keys)


@pytest.mark.parametrize("most", [1024, 3])
def test_programs_have_what_is_alike_in_common(most, monkeypatch):
    """Half as many layers in each of twice as many stages: what runs in both is derived once."""
    monkeypatch.setattr(alike, "MOST", most)
    asked: list[str] = []
    derive = Calibrated.terms

    def terms(self, phase, row, machine):
        asked.append(row.name)
        return derive(self, phase, row, machine)

    monkeypatch.setattr(Calibrated, "terms", terms)
    apply._kept.cache_clear()
    numbers = []
    for stages in (2, 4):
        asked.clear()
        made = cg.compile(
            "llama-3.2-1b", f"{stages}xh100", f"fuse,parallel{{pp={stages}}}", fidelity="median"
        )
        timing = made.timing_on(made.machine)
        for phase in made.program.phases:
            for row in made.rows[phase.name]:
                found = tuple(timing(phase, row))
                assert found == tuple(derive(made.timing, phase, row, made.machine))
        numbers.append(len(asked))
    # Of a second program the first operations of each step alone.
    assert (numbers[1] == len(made.program.phases)) == (most > 3)
