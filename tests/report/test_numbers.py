"""Numbers of further pages, each of a test, equal Python's: other kinds of models, systems and
fidelities; what a model or a memory does not allow is said.

Skipped without a browser, as ``conftest.py`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

import costgraph as cg
from costgraph.showing.report import report
from tests.report.conftest import METRICS, Opened, close, expected, plain

pytestmark = pytest.mark.slow

MODEL = "llama-3-8b"

#: Programs of which something runs, or comes from, elsewhere than on the device.
PLACED = (
    ("llama-3.2-1b", "rtx-4090+i9-13900k", "fuse,offload{weights=host:0.5,attention=host}"),
    ("llama-3.2-1b", "a100+5xhbm-pim", "fuse,place{attention=hbm-pim,ffn=hbm-pim}"),
    ("llama-3.2-1b", "576xgroqchip", "fuse,chain"),
)


@plain
@pytest.mark.parametrize(("model", "system", "passes"), PLACED, ids=[p[2] for p in PLACED])
def test_rows_of_other_units_and_over_links_equal_the_breakdown(
    model: str, system: str, passes: str, opening: Callable[..., Opened]
) -> None:
    page = opening(report(model, system, [passes]).html)
    compiled = cg.compile(model, system, passes)
    page.set("B", 5)
    given = {"B": 5}
    phase = compiled.program.phases[-1].name
    if phase == "decode":
        page.set("T", 700)
        given["T"] = 700
    page.page.select_option("#phase", phase)
    page.settle()
    shown = {
        name: (seconds, bound)
        for name, seconds, bound in page.page.eval_on_selector_all(
            "#ops tbody tr",
            "rows => rows.map(r => [r.dataset.row, Number(r.querySelector("
            "'[data-field=seconds]').dataset.value), r.lastChild.textContent])",
        )
    }
    table = compiled.breakdown(phase, **given)
    for row in table:
        assert close(shown[row.name][0], row.seconds), row.name
        assert row.bound in shown[row.name][1], row.name
    total = float(page.page.get_attribute("#step-total", "data-value"))
    assert close(total, table.totals["seconds"])
    page.clean()


CALIBRATED = (
    ("llama-3-8b", "h100", "fuse", "calibrated"),
    ("mixtral-8x7b", "h100", "", "high"),
    ("deepseek-v2-lite", "a100", "fuse", "low"),
    ("mistral-7b", "l40s", "fuse", "calibrated@vllm"),
)


@plain
@pytest.mark.parametrize(("model", "device", "passes", "fidelity"), CALIBRATED)
def test_calibrated_numbers_equal_pythons(
    model: str, device: str, passes: str, fidelity: str, opening: Callable[..., Opened]
) -> None:
    page = opening(report(model, device, [passes], fidelity=fidelity).html)
    compiled = cg.compile(model, device, passes, fidelity=fidelity)
    assert f"fidelity {fidelity}" in page.page.inner_text("#facts")
    bounds = set()
    for B, S, N, T in ((1, 1024, 256, 2048), (37, 3001, 6500, 7777), (512, 16, 1, 33)):
        point = {"B": B, "S": S, "N": N, "T": T}
        for name, value in point.items():
            page.set(name, value)
        checked = 0
        for metric in METRICS:
            wanted = expected(compiled, metric, dict(point))
            if wanted is not None:
                assert close(page.card(metric), wanted), (point, metric)
                checked += 1
        assert checked >= 9
        for phase, given in (("decode", {"T": T}), ("prefill", {"S": S})):
            page.page.select_option("#phase", phase)
            page.settle()
            shown = {
                name: (seconds, bound)
                for name, seconds, bound in page.page.eval_on_selector_all(
                    "#ops tbody tr",
                    "rows => rows.map(r => [r.dataset.row, Number(r.querySelector("
                    "'[data-field=seconds]').dataset.value), r.lastChild.textContent])",
                )
            }
            table = compiled.breakdown(phase, B=B, **given)
            assert len(shown) == len(table)
            for row in table:
                assert close(shown[row.name][0], row.seconds), (phase, row.name)
                assert row.bound in shown[row.name][1], (phase, row.name)
                bounds.add(shown[row.name][1])
            total = float(page.page.get_attribute("#step-total", "data-value"))
            assert close(total, table.totals["seconds"])
    assert {"● memory", "■ compute", "▲ latency"} <= bounds
    page.clean()


NESTED = (
    "fuse,parallel{tp=8}",
    "fuse,parallel{tp=8},overlap",
    "fuse,parallel{tp=8},overlap{by=halves}",
    "fuse,parallel{tp=2,pp=4,micro=4}",
)


@plain
@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_systems_and_what_runs_at_once_equal_pythons(
    fidelity: str, opening: Callable[..., Opened]
) -> None:
    page = opening(report(MODEL, "8xh100", NESTED, fidelity=fidelity).html)
    everything = [cg.compile(MODEL, "8xh100", p, fidelity=fidelity) for p in NESTED]
    for B, S, N, T in ((4, 1024, 256, 2048), (64, 300, 9, 7777)):
        point = {"B": B, "S": S, "N": N, "T": T}
        for name, value in point.items():
            page.set(name, value)
        for index, compiled in enumerate(everything):
            page.page.check(f"#show-{index}")
            page.settle()
            for metric in METRICS:
                wanted = expected(compiled, metric, dict(point))
                if wanted is not None:
                    assert close(page.card(metric), wanted), (point, index, metric)
            for phase, given in (("decode", {"T": T}), ("prefill", {"S": S})):
                page.page.select_option("#phase", phase)
                page.settle()
                total = float(page.page.get_attribute("#step-total", "data-value"))
                table = compiled.breakdown(phase, B=B, **given)
                assert close(total, table.totals["seconds"]), (index, phase)
                time = compiled.time(phase).evaluate(B=B, **given)
                assert math.isclose(total, time, rel_tol=1e-8)
                bounds = page.page.eval_on_selector_all(
                    "#ops tbody tr",
                    "rows => rows.map(r => [r.dataset.row, r.lastChild.textContent])",
                )
                shown = dict(bounds)
                assert all(row.bound in shown[row.name] for row in table)
    page.page.select_option("#stack", "races")
    page.settle()
    label = page.page.get_attribute("#bars svg", "aria-label")
    for text in ("kernel", "link nvlink", "first half", "of all bodies", "stage 2"):
        assert text in label
    page.page.select_option("#stack", "memory")
    page.settle()
    assert "activations -" not in page.page.get_attribute("#bars svg", "aria-label")
    page.page.check("#show-0")
    page.settle()
    page.page.select_option("#phase", "decode")
    page.settle()
    # A fitted exchange of few bytes waits for its messages more than for the wire.
    bound = {"ideal": "link", "calibrated": "latency"}[fidelity]
    assert bound in page.page.inner_text('#ops tr[data-row="o_proj_sum"] td:last-child')
    assert "8 devices" in page.page.inner_text("#facts")
    page.clean()


@plain
def test_figures_of_links_move_the_numbers(opening: Callable[..., Opened]) -> None:
    page = opening(report(MODEL, "8xh100", [NESTED[0]]).html)
    assert "latency of a message" in page.page.inner_text("#figures")
    page.set("BW_nvlink", 100, "figure")
    page.set("alpha_nvlink", 20, "figure")
    compiled = cg.compile(MODEL, "8xh100", NESTED[0], symbolic_hardware=True)
    assert compiled.bound is not None
    values = {s.name: float(v) for s, v in compiled.bound.bindings().items()}
    values |= {"B": 1.0, "S": 1024.0, "N": 256.0, "T": 2048.0}
    values |= {"BW_nvlink": 100e9, "alpha_nvlink": 20e-6}
    for metric in METRICS[:4]:
        wanted = expected(compiled, metric, values)
        assert wanted is not None
        assert close(page.card(metric), wanted)
    page.clean()


@plain
def test_a_calibrated_page_says_so_and_follows_the_figures(opening: Callable[..., Opened]) -> None:
    page = opening(report(MODEL, "h100", ["fuse"], fidelity="calibrated").html)
    assert "fixed times" in page.page.inner_text("#controls")
    assert "fitted" in page.page.inner_text("footer")
    assert page.page.locator("#roofline .point.latency polygon").count() > 0
    page.page.select_option("#stack", "bounds")
    page.settle()
    assert "latency " in page.page.get_attribute("#bars svg", "aria-label")
    page.set("BW", 1234.5, "figure")
    page.set("F_bf16", 321, "figure")
    compiled = cg.compile(MODEL, "h100", "fuse", symbolic_hardware=True, fidelity="calibrated")
    values: dict[str, float] = {"B": 1, "S": 1024, "N": 256, "T": 2048}
    values |= {"BW": 1234.5e9, "F_bf16": 321e12}
    for metric in METRICS[:4]:
        wanted = expected(compiled, metric, values)
        assert wanted is not None
        assert close(page.card(metric), wanted)
    page.clean()


@plain
def test_nothing_is_said_of_an_unknown_memory(opening: Callable[..., Opened]) -> None:
    machine = cg.load_hardware("a6000")
    machine = replace(machine, memory=replace(machine.memory, capacity=None))
    page = opening(report("gpt2", machine).html)
    assert "too large" not in page.page.inner_text("#pipelines")
    assert "fit" not in page.page.inner_text("#cards")
    page.clean()


@plain
def test_per_token_figures_of_windowed_models(opening: Callable[..., Opened]) -> None:
    page = opening(report("mistral-7b", "h100").html)
    compiled = cg.compile("mistral-7b", "h100")
    point = {"B": 2, "S": 1024, "N": 100}
    for name, value in point.items():
        page.set(name, value)
    assert close(page.card("energy_per_token"), compiled.energy.evaluate(**point) / 200)
    dollars = compiled.latency.evaluate(**point) / 3600 * float(compiled.machine.price.hour or 0)
    assert close(page.card("cost_per_token"), dollars / 200)
    page.clean()


@plain
def test_encoders_have_a_page_too(opening: Callable[..., Opened]) -> None:
    page = opening(report("bert-base", "a6000").html)
    assert page.page.is_hidden("#limits")
    page.set("S", 77)
    wanted = expected(cg.compile("bert-base", "a6000"), "latency", {"B": 1, "S": 77})
    assert wanted is not None
    assert close(page.card("latency"), wanted)
    page.clean()


@plain
def test_limits_are_shown(opening: Callable[..., Opened]) -> None:
    page = opening(report("bert-base", "a6000").html)
    assert page.page.is_hidden("#limits")  # the start is within what the model describes
    assert page.page.input_value("#value-S") == "512"
    page.set("S", 513)
    assert "exceeds 512" in page.page.inner_text("#limits")
    page.set("S", 100)
    assert page.page.is_hidden("#limits")
    page.clean()


@plain
def test_positions_beyond_those_that_a_file_states_are_said(opening: Callable[..., Opened]) -> None:
    page = opening(report("pythia-160m", "a6000", S=2000, N=48).html)
    assert page.page.is_hidden("#limits")
    page.set("N", 49)
    assert page.page.inner_text("#limits") == (
        "⚠ prompt and answer have up to 2049 positions, more than the 2048 that the file of "
        "pythia-160m states"
    )
    page.set("N", 48)
    assert page.page.is_hidden("#limits")
