"""What is said of fits: of each operation the one that timed it, errors of what was held back."""

from __future__ import annotations

import re

import pytest

import costgraph as cg
from costgraph.compiling.mixing import step_items
from costgraph.counting.count import flat
from costgraph.ir.mix import Mix
from costgraph.timing.fidelity import apply
from costgraph.timing.fidelity.frameworks import framework

LLAMA_CPP = "fuse,quantize{weights=q4_1,keep=none}"


@pytest.mark.parametrize("band", ["calibrated", "low", "median", "high"])
@pytest.mark.parametrize("device", ["rtx-4090", "m2-ultra"])
def test_errors_of_whole_runs_are_not_said_to_be_of_operations(band: str, device: str) -> None:
    made = cg.compile("llama-3-8b", device, LLAMA_CPP, fidelity=f"{band}@llama.cpp")
    first = next(t for t in made.tpot.assumptions if "whole runs of llama.cpp" in t)
    held = framework("llama.cpp").heldout
    assert "per operation" not in first
    for step, metric in (("decode", made.tpot), ("prompt", made.ttft)):
        errors = f"{held[step]['mean']:.0f}/{held[step]['median']:.0f} %"
        said = [t for t in metric.assumptions if "mean/median error per whole step: " in t]
        assert len(said) == 1
        assert f"{step} of llama.cpp on" in said[0]
        assert errors in said[0]
    fits = {r.fit for r in made.breakdown("decode", B=1, T=500) if r.seconds}
    assert fits == {
        f"llama.cpp on {'metal' if device == 'm2-ultra' else 'cuda'}, median of whole steps "
        f"{held['decode']['median']:.0f} %"
    }


def test_exchanges_beside_whole_runs_have_errors_of_their_own() -> None:
    passes = f"{LLAMA_CPP},parallel{{tp=2}}"
    plain, low = (
        cg.compile("llama-3-8b", "2xa100-80g", passes, fidelity=f"{f}@llama.cpp")
        for f in ("calibrated", "low")
    )
    first = next(t for t in plain.tpot.assumptions if "whole runs of llama.cpp" in t)
    assert re.search(r"per whole step: .*decode of llama.cpp on cuda, runs kept back", first)
    assert re.search(r"per operation: .*all-reduce.*\d+/\d+ %", first)
    # A band moves them by all of their own quantile, as it says.
    rows = [m.breakdown("decode", B=1, T=500) for m in (plain, low)]
    name = next(r.name for r in rows[0].rows if r.links)
    moved = rows[1][name].seconds / rows[0][name].seconds
    assert any("exchanges at that of their own" in t for t in low.tpot.assumptions)
    assert moved < 1
    timing = plain.timing
    assert timing is not None
    phase = next(p for p in plain.program.phases if p.name == "decode")
    row = next(r for r in flat(plain.items["decode"]) if r.name == name)
    (part,) = apply.parts(phase, row, timing.machine)
    fit, _ = timing.exchange_fit(part)
    assert fit is not None
    assert moved == pytest.approx(fit.quantile("q10"), rel=1e-6)


#: Models whose steps have every class of operation, on cards of every kind of fit.
TOLD = (
    ("llama-3-8b", "h200", "fuse", "calibrated@trtllm"),
    ("llama-3-8b", "rtx-4090", "fuse", "calibrated@vllm"),
    ("deepseek-v2-lite", "b300", "fuse", "calibrated"),
    ("mixtral-8x7b", "b200", "quantize{preset=nvfp4},fuse", "calibrated@vllm"),
    ("llama-3-8b", "h100", "speculative{draft=heads,gamma=3},fuse", "calibrated@vllm"),
)


@pytest.mark.parametrize(("model", "device", "passes", "fidelity"), TOLD)
def test_the_fit_that_is_said_is_the_one_that_times(
    model: str, device: str, passes: str, fidelity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters of no other fit move an operation's time, in mixed steps as well."""
    made = cg.compile(model, device, passes, fidelity=fidelity)
    timing = made.timing
    assert timing is not None
    rows = [
        (p, r)
        for p in made.program.phases
        for r in flat(made.items[p.name])
        if r.cost.bytes and not r.cost.links
    ]
    mixed = step_items(made, Mix.of((8, 1, 2048), (1, 256, 1024)))
    rows += [(r.phase, r) for r in flat(mixed) if r.cost.bytes and not r.cost.links]
    assert rows
    seen = []
    timed = apply.Calibrated._timed

    def watched(self, phase, row, machine, case, fit, arms):
        seen.append((case, fit))
        yield from timed(self, phase, row, machine, case, fit, arms)

    monkeypatch.setattr(apply.Calibrated, "_timed", watched)
    for phase, row in rows:
        seen.clear()
        assert list(timing.terms(phase, row, timing.machine))
        ((case, fit),) = seen
        said = timing.trust(phase, row)
        if not case.floor and case.kind == "elementwise":
            continue  # inside a block of experts, whose fit is said
        assert said.startswith(fit.trust(said.startswith("transferred"))), (row.name, said)
        assert ("further queries" in said) is ("further" in case.features)


@pytest.mark.parametrize("name", ["trtllm", "vllm", "sglang"])
def test_kernels_that_servers_do_not_run_are_not_theirs(name: str) -> None:
    """NVFP4 experts were timed in CUTLASS alone: by name the servers' take fp8's efficiencies."""
    passes = "quantize{preset=nvfp4},fuse"
    plain, served, wide = (
        cg.compile("mixtral-8x7b", "b200", p, fidelity=f)
        for p, f in (
            (passes, "calibrated"),
            (passes, f"calibrated@{name}"),
            ("quantize{preset=fp8},fuse", f"calibrated@{name}"),
        )
    )
    at = {"B": 64, "T": 1024}
    experts = [m.breakdown("decode", **at)["expert_down"] for m in (plain, served, wide)]
    assert experts[1].seconds < experts[0].seconds
    assert experts[1].seconds < experts[2].seconds
    said = [t for t in served.tpot.assumptions if "kernels alone that servers of" in t]
    assert len(said) == 1
    assert name in said[0]
    assert not any("kernels alone that servers" in t for t in plain.tpot.assumptions)
    assert "own b200" in plain.breakdown("decode", **at)["expert_down"].fit
    # Other cards too: what is lent is lent of the same kernels.
    lent = cg.compile("mixtral-8x7b", "b300", passes, fidelity=f"calibrated@{name}")
    assert any("kernels alone that servers of" in t for t in lent.tpot.assumptions)
    dense = cg.compile("llama-3-8b", "b200", passes, fidelity=f"calibrated@{name}")
    assert not any("kernels alone that servers" in t for t in dense.tpot.assumptions)
