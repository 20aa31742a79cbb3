"""Calibrated formulas: bounds, sums, totals, transfer, printing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import HardwareError, InputError
from costgraph.formula.runtime import norm, sum_loop, sum_smooth

PIPELINES = ("", "fuse", "fuse,quantize{weights=int4,group=128}", "quantize{weights=int8}")


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(PIPELINES),
    st.sampled_from(("h100", "a100-80g", "l40s", "rtx-4090")),
    st.integers(1, 300),
    st.integers(1, 20000),
)
def test_the_roofline_stays_a_lower_bound(
    pipeline: str, device: str, batch: int, context: int
) -> None:
    ideal = cg.compile("llama-2-7b", device, pipeline).program
    bound = cg.compile(ideal, device)
    fitted = cg.compile(ideal, device, fidelity="calibrated")
    batch, context = min(batch, 64), min(context, 4096)
    assert fitted.tpot(B=batch, T=context) >= bound.tpot(B=batch, T=context)
    assert fitted.ttft(B=batch, S=context) >= bound.ttft(B=batch, S=context)


def test_sums_over_contexts_equal_the_sum_of_steps() -> None:
    for pipeline in ("", "fuse"):
        fitted = cg.compile("llama-2-7b", "h100", pipeline, fidelity="calibrated")
        steps = fitted.ttft(B=3, S=500)
        steps += sum(fitted.tpot(B=3, T=500 + i) for i in range(1, 1200))
        assert fitted.latency(B=3, S=500, N=1200) == pytest.approx(steps, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1.0, 12.0), st.integers(1, 5000), st.integers(300, 30000),
    st.floats(1e-9, 1e-3), st.floats(0, 1e-6), st.floats(0, 1e-3), st.floats(1e-9, 1e-6),
)  # fmt: skip
def test_quadrature_keeps_its_tolerance(
    p: float, lower: int, count: int, a: float, b: float, c: float, d: float
) -> None:
    def f(t: float) -> float:
        return norm(p, a + b * t, c + d * t)

    exact = sum_loop(lower, lower + count, f)
    made = sum_smooth(lower, lower + count, lambda ts: [f(t) for t in ts])
    assert made == pytest.approx(exact, rel=2e-10)


def test_totals_of_a_breakdown_are_those_of_the_formula() -> None:
    fitted = cg.compile("llama-3-8b", "h200", "fuse", fidelity="calibrated")
    table = fitted.breakdown("decode", B=8, T=2000)
    assert table.totals["seconds"] == pytest.approx(fitted.tpot(B=8, T=2000), rel=1e-9)
    assert {r.bound for r in table} <= {"memory", "compute", "latency", "none"}


def test_bands_are_ordered_around_the_median() -> None:
    times = {
        f: cg.compile("llama-2-7b", "h100", fidelity=f).tpot(B=4, T=1000)
        for f in ("low", "median", "high", "calibrated")
    }
    assert times["low"] < times["median"] < times["high"]
    assert times["low"] < times["calibrated"] < times["high"]


def test_counts_do_not_depend_on_the_fidelity() -> None:
    a = cg.compile("llama-2-7b", "h100")
    b = cg.compile("llama-2-7b", "h100", fidelity="calibrated")
    assert a.flops == b.flops
    assert a.memory == b.memory


def test_assumptions_say_what_was_fitted_and_what_was_transferred() -> None:
    own = " ".join(cg.compile("llama-2-7b", "h100", fidelity="calibrated").assumptions)
    other = " ".join(cg.compile("llama-2-7b", "l4", fidelity="calibrated").assumptions)
    assert "gemm bf16 fitted, held out" in own
    assert "gemm bf16 transferred, devices left out" in other


def test_symbols_of_the_hardware_stay_symbols() -> None:
    formula = cg.compile("llama-2-7b", "h100", fidelity="calibrated", symbolic_hardware=True).tpot
    names = {s.name for s in formula.symbols}
    assert {"BW", "F_fp16"} <= names or {"BW", "F_bf16"} <= names
    numbers = cg.compile("llama-2-7b", "h100", fidelity="calibrated")
    bound = formula.substitute(numbers.machine.symbolic() and numbers.machine.bindings())
    assert bound(B=2, T=100) == pytest.approx(numbers.tpot(B=2, T=100), rel=1e-9)


def test_text_and_latex_show_norms() -> None:
    formula = cg.compile("llama-2-7b", "h100", fidelity="calibrated").tpot
    assert "‖" in formula.text()
    assert "smooth maximum" in formula.text()
    assert r"\right\Vert_{" in formula.latex()


def test_the_expression_equals_the_evaluation() -> None:
    formula = cg.compile("llama-2-7b", "h100", fidelity="calibrated").tpot
    at = {s: {"B": 4, "T": 777}[s.name] for s in formula.symbols}
    assert float(formula.expr.subs(at)) == pytest.approx(formula(B=4, T=777), rel=1e-9)


def test_wrong_fidelities_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'calibrated'"):
        cg.compile("llama-2-7b", "h100", fidelity="calibrate")
    with pytest.raises(HardwareError, match="calibrate --from"):
        cg.compile("llama-2-7b", "i9-13900k", fidelity="calibrated").tpot


def test_the_command_line_takes_a_fidelity(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyze", "llama-2-7b", "--on", "h100", "--context", "100", "--json"]
    main(command)
    ideal = json.loads(capsys.readouterr().out)["totals"]["seconds"]
    main([*command, "--fidelity", "calibrated"])
    assert json.loads(capsys.readouterr().out)["totals"]["seconds"] > ideal
    main(["compare", "llama-2-7b", "--on", "h100", "--passes", "fuse", "--fidelity", "high"])
    assert "high band" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        main([*command, "--fidelity", "exact"])
    assert error.value.code == 2
    assert "unknown fidelity" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pipeline",
    [
        "speculative{draft=llama-2-7b,alpha=0.8,gamma=4}",
        "fuse,page-kv{block=16}",
        "early-exit",
        "fuse,quantize{weights=fp8,activations=fp8,kv=fp8}",
    ],
)
def test_passes_keep_the_bound(pipeline: str) -> None:
    ideal = cg.compile("llama-2-7b", "h100", pipeline).latency
    fitted = cg.compile("llama-2-7b", "h100", pipeline, fidelity="calibrated").latency
    assert fitted(B=2, S=300, N=200) > ideal(B=2, S=300, N=200)


def test_other_accountings_can_be_calibrated() -> None:
    fitted = cg.compile("llama-2-7b", "h100", fidelity="calibrated", accounting="survey")
    assert fitted.tpot(B=1, T=100) > 0
    symbolic = cg.compile("llama-2-7b", "h100", fidelity="calibrated", symbolic_model=True)
    assert "d" in {s.name for s in symbolic.tpot.symbols}
