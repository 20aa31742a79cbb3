"""What a server cannot be: parts of sequences and tokens, lengths beyond its tables, odd traces."""

from __future__ import annotations

import re

import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Lengths,
    Paging,
    Pool,
    PrefillFirst,
    Queue,
    Request,
    StepTimes,
    Transfer,
    at_once,
    poisson,
    read_trace,
    simulate,
)  # fmt: skip
from costgraph.asking.serving.plan import serve_plan
from costgraph.compiling.mixing import assumed, stepping
from costgraph.errors import InputError

ONE = Lengths(10)
PLAN = {
    "rate": 3, "prompt": 100, "generate": 10, "ttft": 1, "tpot": 0.1, "devices": 1, "pools": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def times():
    return StepTimes(cg.compile("llama-3.2-1b", "h100", "fuse"), 1000)


def planned(**given):
    return serve_plan("llama-3.2-1b", "h100", **(PLAN | given))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: ChunkedPrefill(64.5, 512), "whole number"),
        (lambda t: ChunkedPrefill(64, float("nan")), "finite"),
        (lambda t: Pool(t, PrefillFirst(4), servers=1.5), "whole number"),
        (lambda t: Pool(t, PrefillFirst(4), polls=2.5), "whole number"),
        (lambda t: Paging(page=16.5), "whole number"),
        (lambda t: Queue(t, PrefillFirst(4), ONE, ONE, servers=0), "whole number"),
        (lambda t: Queue(t, PrefillFirst(4), Lengths(5000), ONE), "tabulated"),
        (lambda t: Queue(t, PrefillFirst(4), ONE, Lengths(5000)), "tabulated"),
        (lambda t: StepTimes(t.compiled, 100.5), "whole number"),
        (lambda t: Request(0.0, 10.5, 3), "whole"),
        (lambda t: Lengths(float("nan")), "at least one token"),
        (lambda t: poisson(float("inf"), 3, ONE, ONE), "above 0"),
        (lambda t: poisson(1, 0.5, ONE, ONE), "whole number"),
        (lambda t: at_once(-1, ONE, ONE), "whole number"),
        (lambda t: Transfer(-1.0, 1e9, 1.0), "at least zero"),
        (lambda t: Transfer(0.0, 0.0, 1.0), "rates above"),
        (lambda t: simulate((Request(0.0, 5000, 3),), Pool(t, PrefillFirst(4))), "tabulated"),
        (
            lambda t: simulate((Request(0.0, 9, 3),), Pool(t, PrefillFirst(4)), closed=9),
            "9 requests in flight needs as many, not 1",
        ),
        (lambda t: planned(devices=1.5), "whole number"),
        (lambda t: planned(limits=()), "without a limit"),
        (lambda t: planned(precisions=()), "without a precision"),
        (lambda t: planned(rate="x"), "not a number"),
        (lambda t: planned(rate=1e13), "below 1e12"),
    ],
)
def test_odd_numbers_are_refused_where_they_are_given(make, said, times):
    with pytest.raises(InputError, match=said):
        make(times)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0,10,5\n1,-3,4", "line 3: lengths"),
        ("0,10,5\n1,3.5,4", "line 3: lengths"),
        ("0,10,5\nnan,3,4", "line 3: arrival"),
        ("0,10,5\n1,3", "line 3: too few"),
        ("0,10,5\n1,3,4,5", "line 3: 4 columns, of which 3"),
        ("0,10,5\n2024-05-12 00:00:01,3,4", "line 3: arrival"),
        ("", "one per request"),
    ],
)
def test_bad_rows_of_a_trace_are_named(rows, said, tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(f"timestamp,input,output\n{rows}\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_trace(file)


def test_answers_that_differ_much_are_planned_at_contexts_that_are_tabulated():
    """Of a variation above 2.4 those that decode are longer than a mean and its deviation."""
    assert planned(generate="lognormal:100:4", tpot=1, ttft=5).best.devices == 1


def test_requests_beyond_the_models_positions_are_told_so_before_limits():
    found = planned(prompt=200000, tpot=1e-5)
    with pytest.raises(InputError, match=r"^prompt and answer have .*131072.*; no plan keeps"):
        _ = found.best


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("bert-base", "generates no tokens (it has the phase forward)"),
        ("vit-base-16", "generates no tokens (it has the phase forward)"),
        ("dit-xl-2", "generates no tokens (it has the phase denoise)"),
        ("sdxl-unet", "generates no tokens (it has the phase denoise)"),
        ("whisper-small", "reads prompts in an encoder (it has the phase encode first)"),
    ],
)
def test_models_that_no_server_steps_through_are_told_why(model, said):
    with pytest.raises(InputError, match=re.escape(said)) as told:
        stepping(cg.load_model(model))
    assert "take the latency of a batch" in str(told.value)


def test_prompts_hold_their_images_however_long_answers_are():
    """Contexts are longer than prompts: those of what is served say, not the longest context."""
    times = StepTimes(cg.compile("llava-1.5-7b", "h100", "fuse", G=576), 700)
    pool = Pool(times, PrefillFirst(4))
    for prompts in ((570,), (600, 570)):
        made = [Request(0.0, prompt, 100) for prompt in prompts]
        with pytest.raises(InputError, match="S = 570 is below 576"):
            simulate(made, pool)
    assert len(simulate([Request(0.0, 576, 100)], pool).served) == 1
    with pytest.raises(InputError, match="S = 570 is below 576"):
        Queue(times, PrefillFirst(4), Lengths(570), Lengths(100))
    with pytest.raises(InputError, match="is below 576"):
        Queue(times, PrefillFirst(4), Lengths(600, "uniform", 0.1), Lengths(20))
    # A chunk may end within an image, as the rest of its prompt follows.
    assert Queue(times, ChunkedPrefill(4, 64), Lengths(580), Lengths(100)).stable_rate > 0


def test_phases_that_are_in_no_step_are_said():
    """The eyes of a model run before its prompt is read."""
    said = assumed(cg.load_model("llava-1.5-7b"))
    assert any("the phase vision of a request is in no step" in text for text in said)
    assert not any("is in no step" in text for text in assumed(cg.load_model("llama-3.2-1b")))
