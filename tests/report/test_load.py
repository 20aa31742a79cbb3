"""The panels of a server under load and of plans, and the map of a graph, in a browser.

Numbers of the page are those of the serving layer: its forms are printed from Python, and
steps from the model's formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    Lengths,
    Policy,
    PrefillFirst,
    Queue,
    StepTimes,
    dealt,
    forms,
    odds,
    rooms,
    settled,
)
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.showing.draw.render import can_render
from costgraph.showing.export.code.functions import javascript_functions
from costgraph.showing.report import report
from costgraph.showing.report.code import Scripts
from costgraph.showing.report.load import load_of, queue_script
from tests.report.conftest import Opened

slow = pytest.mark.slow
#: Pages without what is not looked at here.
plain = pytest.mark.usefixtures("unprinted", "undrawn")
drawn = pytest.mark.skipif(not can_render("svg"), reason="nothing here draws SVG")


# --- the printer of functions


def module_of(text: str, folder: Path) -> ModuleType:
    import importlib.util

    path = folder / "given.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("given", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


OTHER_PYTHON = (
    "def f(x):\n    return x // 2\n",
    "def f(x):\n    while x > 1:\n        x = x - 1\n    return x\n",
    "def f(x=1):\n    return x\n",
    "def f(*x):\n    return 1\n",
    "def f(x):\n    return 0 < x < 1\n",
    "def f(x):\n    return {1: x}\n",
    "def f(x):\n    return sorted(x)\n",
    "def f(x):\n    return [y for y in x if y > 1]\n",
    "def f(x):\n    return None\n",
    "def f(x):\n    return -x\n",
    "x = [1]\n",
)


@pytest.mark.parametrize("text", OTHER_PYTHON)
def test_other_python_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part of Python that is printed"):
        javascript_functions(module_of(text, tmp_path), library="")


def test_every_form_is_printed() -> None:
    text = queue_script()
    for module, least in ((forms, 15), (settled, 8), (odds, 1), (rooms, 2), (dealt, 1)):
        own = {n: f for n, f in vars(module).items()
               if getattr(f, "__module__", "") == module.__name__}  # fmt: skip
        functions = [n for n, f in own.items() if callable(f) and n[0].islower()]
        assert len(functions) > least
        for name in functions:
            assert text.count(f"function {name}(") == 1


# --- numbers


def table(page: Any) -> list[dict[str, float]]:
    found: list[dict[str, float]] = page.eval_on_selector_all(
        "#loadtable tbody tr",
        "rows => rows.map(r => Object.fromEntries([...r.querySelectorAll('[data-load]')]"
        ".map(x => [x.dataset.load, Number(x.dataset.value)])))",
    )
    return found


def policy_of(name: str, limit: int, chunk: int) -> Policy:
    if name == "chunked":
        return ChunkedPrefill(limit, chunk)
    return PrefillFirst(limit) if name == "prefill-first" else Continuous(limit)


CASES = (
    ("llama-3.2-1b", "rtx-4090", ("fuse", "fuse,quantize{weights=int4}"), "calibrated"),
    ("llama-3-8b", "h100", ("fuse,speculative{draft=llama-3.2-1b,gamma=4,alpha=0.7}",), "ideal"),
    ("mixtral-8x7b", "8xh100", ("fuse,parallel{tp=4,dp=2,ep=8}",), "calibrated"),
    ("deepseek-v2-lite", "a100", ("fuse",), "ideal"),
)
POINTS = (
    {"S": 1000, "N": 250, "rate": 0.5, "seqs": 64, "chunk": 512, "policy": "chunked"},
    {"S": 300, "N": 33, "rate": 2, "seqs": 7, "chunk": 2048, "policy": "prefill-first"},
    {"S": 777, "N": 100, "rate": 1, "seqs": 1000, "chunk": 2048, "policy": "continuous"},
    {"S": 4000, "N": 1, "rate": 0.25, "seqs": 16, "chunk": 4096, "policy": "chunked"},
)  # fmt: skip


@plain
@slow
@pytest.mark.parametrize(("model", "on", "passes", "fidelity"), CASES)
def test_the_load_is_that_of_the_serving_layer(
    model: str, on: str, passes: tuple[str, ...], fidelity: str, opening: Callable[..., Opened]
) -> None:
    page = opening(report(model, on, passes, fidelity=fidelity).html)
    every = [cg.compile(model, on, text, fidelity=fidelity) for text in passes]
    times = {}
    checked = 0
    for point in POINTS if model == CASES[0][0] else POINTS[:2]:
        page.page.select_option("#load-policy", str(point["policy"]))
        for name in ("S", "N"):
            page.set(name, point[name])
        for name in ("rate", "seqs"):
            page.set(name, point[name], "load")
        if point["policy"] == "chunked":
            page.set("chunk", point["chunk"], "load")
        page.settle()
        S, N = int(str(point["S"])), int(str(point["N"]))
        rows = table(page.page)
        assert len(rows) == len(passes)
        for index, compiled in enumerate(every):
            steps = times.setdefault((index, S + N), StepTimes(compiled, S + N))
            asked = policy_of(
                str(point["policy"]), int(str(point["seqs"])), int(str(point["chunk"]))
            )
            room = steps.room(S + N, read=(asked.reads(S), S))
            limit = min(int(str(point["seqs"])), room)
            policy = policy_of(asked.name, limit, int(str(point["chunk"])))
            queue = Queue(steps, policy, Lengths(S), Lengths(N))
            seen = rows[index]
            assert seen["room"] == room
            assert math.isclose(seen["largest"], queue.stable_rate, rel_tol=1e-9)
            rate = float(str(point["rate"]))
            if rate >= queue.stable_rate:
                assert math.isnan(seen["ttft"])
                continue
            steady = queue.at(rate)
            for name in ("ttft", "tpot", "latency", "decoding", "load"):
                assert math.isclose(seen[name], getattr(steady, name), rel_tol=1e-9), (point, name)
                checked += 1
    assert checked >= 5 * len(passes)
    page.clean()


WHOLE = (
    ("dit-xl-2", "a100", "", "no tokens"),
    ("whisper-large-v3", "l4", "fuse", "No closed form"),
    ("llama-3-8b", "4xh100", "fuse,parallel{pp=4}", "serve-plan"),
)


@plain
@slow
@pytest.mark.parametrize(("model", "on", "passes", "said"), WHOLE)
def test_other_models_have_one_run_after_another(
    model: str, on: str, passes: str, said: str, opening: Callable[..., Opened]
) -> None:
    page = opening(report(model, on, [passes]).html)
    assert said in page.page.inner_text("#load-about")
    compiled = cg.compile(model, on, passes)
    names = {s.name for s in compiled.latency.symbols}
    for batch in (1, 4):
        page.set("B", batch)
        page.set("rate", 0.125, "load")
        values = {
            n: batch if n == "B" else float(page.page.input_value(f"#value-{n}")) for n in names
        }
        seconds = float(compiled.latency.evaluate(**values))
        largest, load, wait = settled.batches(0.125, seconds, batch)
        (seen,) = table(page.page)
        assert math.isclose(seen["largest"], largest, rel_tol=1e-9)
        assert math.isclose(seen["load"], load, rel_tol=1e-9)
        assert math.isclose(seen["seconds"], seconds, rel_tol=1e-9)
        assert math.isnan(wait) == math.isnan(seen["wait"])
        if not math.isnan(wait):
            assert math.isclose(seen["wait"], wait, rel_tol=1e-9)
    if "ttft" not in compiled.metrics:
        assert "token" not in page.page.inner_text("#load").replace("no tokens", "")
    page.clean()


@plain
@slow
def test_what_no_server_does_is_said_in_one_line(opening: Callable[..., Opened]) -> None:
    page = opening(report("llama-3-70b", "8xh100", ["fuse", "fuse,parallel{tp=8}"]).html)
    # 70B weights do not fit one device; on eight the second pipeline does.
    assert "no room for one sequence" in page.page.inner_text("#loadtable tbody tr:first-child")
    page.page.check("#show-1")
    page.settle()
    second = table(page.page)[1]
    assert second["largest"] > 0
    for name, value, said in (
        ("rate", 1e6, "grows without end"), ("chunk", 32, "no room for a prompt"),
        ("chunk", 66, "more than 512 steps"),
    ):  # fmt: skip
        if name == "chunk":
            page.set("S", 4096)
        page.set(name, value, "load")
        shown = page.page.inner_text("#load")
        assert said in shown, name
    page.set("chunk", 2048, "load")
    page.set("S", 8192)
    assert "8192 by position" in page.page.inner_text("#load") or "positions" in (
        page.page.inner_text("#load")
    )
    page.clean()


@plain
@slow
def test_the_rate_starts_where_it_is_told_or_at_half(
    tmp_path: Path, opening: Callable[..., Opened], capsys: Any
) -> None:
    page = opening(report("gpt2", "h100", rate=3, limit=5, chunk=128, policy="continuous").html)
    assert page.page.input_value("#load-rate") == "3"
    assert page.page.input_value("#load-policy") == "continuous"
    assert page.page.is_hidden("#load-chunk")
    page.page.click("#load-half")
    page.settle()
    (seen,) = table(page.page)
    assert 0.45 < seen["load"] < 0.55
    page.clean()
    target = str(tmp_path / "r.html")
    told = ["report", "gpt2", "--on", "h100", "--rate", "2.5", "--limit", "9", "-o", target]
    assert main(told) == 0
    assert '"load":{"rate":2.5,"seqs":9,' in Path(target).read_text(encoding="utf-8")
    capsys.readouterr()
    for bad in (
        {"rate": -1},
        {"limit": 0},
        {"policy": "static"},
        {"limit": 2.5},
        {"chunk": 1e10},
        {"rate": float("nan")},
    ):
        with pytest.raises(InputError):
            report("gpt2", "h100", **bad)


@plain
@slow
def test_a_simulation_stands_beside_the_forms(opening: Callable[..., Opened]) -> None:
    pytest.importorskip("simpy")
    page = opening(report("gpt2", "h100", ["fuse"], S=128, N=32, rate=200).html)
    cells = page.page.eval_on_selector_all(
        "#simulatedtable [data-simulated]",
        "all => Object.fromEntries(all.map(x => [x.dataset.simulated, Number(x.dataset.value)]))",
    )
    (formed,) = table(page.page)
    assert formed["load"] < 0.6
    for name, within in (("tpot", 0.1), ("ttft", 0.25)):
        assert cells[f"{name} 0"] == pytest.approx(formed[name], rel=within)
        assert cells[f"{name} 1"] <= cells[f"{name} 2"] <= cells[f"{name} 3"]
    assert "do not follow the controls" in page.page.inner_text("#simulated")
    closed = page.page.eval_on_selector_all(
        "#simulatedtable [data-closed]",
        "all => Object.fromEntries(all.map(x => [x.dataset.closed, Number(x.dataset.value)]))",
    )
    for name in ("ttft", "tpot"):
        assert closed[f"{name} 0"] == pytest.approx(formed[name], rel=1e-9)
    timeline = page.page.locator("#simulated svg.timeline")
    assert timeline.count() == 1
    assert timeline.bounding_box()["height"] > 100
    page.clean()
    for model, count in (("gpt2", 3), ("dit-xl-2", 100)):
        with pytest.raises(InputError):
            report(model, "h100", simulate=count)


MODELS = (
    "gpt2",
    "mamba-2.8b",
    "t5-base",
    "jamba-v0.1",
    "deepseek-v3",
    "qwen2.5-vl-7b",
    "sdxl-unet",
)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_functions_or_a_line(model: str) -> None:
    compiled = cg.compile(model, "h100", "fuse", symbolic_hardware=True)
    found = load_of(compiled, Scripts())
    if found["queue"] is None:
        assert found["why"]
        assert "\n" not in found["why"]
        return
    # What the functions take are sizes of a step, and what the page knows.
    known = {s.name for f in ("latency", "tpot", "ttft") for s in getattr(compiled, f).symbols}
    for name in ("decode", "prompt", "joint", "values"):
        assert set(found["queue"][name]["args"]) <= known | {"c", "C", "T", "P", "q"}


@plain
@slow
def test_plans_of_a_system_are_compiled_ways(opening: Callable[..., Opened]) -> None:
    page = opening(report("mixtral-8x7b", ["h100", "2xh100"], ["fuse"], plans=True).html)
    assert page.page.is_hidden("#plans-part")
    page.page.select_option("#device", "1")
    page.set("B", 8)
    page.settle()
    rows = page.page.eval_on_selector_all(
        "#plans tbody tr[data-plan]",
        "rows => rows.map(r => [r.querySelector('th').title, Object.fromEntries("
        "[...r.querySelectorAll('[data-metric]')]"
        ".map(x => [x.dataset.metric, Number(x.dataset.value)]))])",
    )
    assert len(rows) >= 5
    latencies = [values["latency"] for _, values in rows]
    fits = [values["memory"] for _, values in rows]
    capacity = cg.compile("mixtral-8x7b", "h100").machine.memory.room
    inside = [x for x, m in zip(latencies, fits, strict=True) if m <= float(capacity)]
    assert inside == sorted(inside)
    for passes, values in rows:
        compiled = cg.compile("mixtral-8x7b", "2xh100", passes)
        for metric, shown in values.items():
            formula = getattr(compiled, metric)
            point = {"B": 8, "S": 1024, "N": 256, "T": 2048}
            wanted = formula.evaluate(**{s.name: point[s.name] for s in formula.symbols})
            assert math.isclose(shown, float(wanted), rel_tol=1e-9), (passes, metric)
    page.page.select_option("#plans-by", "throughput")
    page.settle()
    page.clean()


@pytest.mark.usefixtures("unprinted", "unloaded")
@slow
@drawn
def test_a_large_graph_has_a_map_that_keys_move(opening: Callable[..., Opened]) -> None:
    page = opening(report("deepseek-v2-lite", "h100", ["fuse"]).html)
    view = "#minimap .view"
    assert page.page.is_visible("#minimap")
    page.page.focus("#minimap")

    def frame() -> tuple[float, ...]:
        return tuple(float(page.page.get_attribute(view, n)) for n in ("x", "y", "width", "height"))

    before = frame()
    page.page.keyboard.press("ArrowDown")
    page.page.wait_for_function(
        f"y => Number(document.querySelector('{view}').getAttribute('y')) > y", arg=before[1]
    )
    page.page.keyboard.press("End")
    page.page.wait_for_function(
        f"y => Number(document.querySelector('{view}').getAttribute('y')) > y", arg=before[1]
    )
    page.page.keyboard.press("+")
    page.settle()
    assert frame()[3] < before[3]
    page.page.keyboard.press("Home")
    small = page.page.locator("#minimap svg")
    box = small.bounding_box()
    small.click(position={"x": box["width"] / 2, "y": box["height"] * 0.8})
    page.settle()
    assert frame()[1] > 0.3 * float(page.page.get_attribute("#graph svg", "data-height"))
    assert page.page.locator("#minimap rect.b-memory").count() > 3
    page.clean()
