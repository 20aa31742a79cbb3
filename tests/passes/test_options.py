"""Every option of every pass takes what it says and refuses anything else in one line."""

from __future__ import annotations

import contextlib
import json
import signal
from fractions import Fraction

import pytest
from sympy import Float, Integer, Rational, oo, sqrt

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import CostgraphError, PipelineError
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import Pass, _value
from costgraph.symbols import symbol

OPTIONS = [(name, key) for name, cls in PASSES.items() for key in cls.options()]
IDS = [f"{name}-{key}" for name, key in OPTIONS]
TEXTS = (
    "x", "B", "-1", "0", "1", "1/3", "1e12", "3", "7.5", "1e6", "1e13",
    "1e9999999999", "9" * 5000, "1/0", "1e-400", "", "text with blanks", "none", "inf", "nan",
    "true", "p10|p20", "t2|1", "é", "__import__('os')",
)  # fmt: skip
VALUES = (
    4, 0, -3, 2.5, 0.5, True, None, "x", Fraction(1, 3), 10**5000, float("nan"), oo, sqrt(2),
    Float(0.5), Rational(1, 3), symbol("x"), Integer(10) ** 30, [], object(),
)  # fmt: skip


def asked(passes: str | tuple[Pass, ...], metrics: tuple[str, ...] = ("tpot", "memory")) -> None:
    """A compiled pipeline and all that is asked of it at a point, or one line."""

    def late(*_: object) -> None:
        raise TimeoutError(passes)

    message = ""
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 20)  # of its own time, however busy the machine is
    try:
        compiled = cg.compile("gpt2", "a6000", passes)
        for metric in metrics:
            formula = getattr(compiled, metric)
            known = {"B": 2, "S": 40, "N": 6, "T": 45}
            formula.evaluate(**{s.name: known.get(s.name, 0.5) for s in formula.symbols})
    except CostgraphError as error:
        message = str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert "\n" not in message
    assert len(message) < 900


#: What makes an option count, where it does not by itself.
CONTEXT = {
    ("early-exit", "a"): "distribution=beta", ("early-exit", "b"): "distribution=beta",
    ("early-exit", "first"): "distribution=geometric",
    ("early-exit", "every"): "distribution=geometric",
    ("early-exit", "shares"): "distribution=layers", ("early-exit", "low"): "distribution=schedule",
    ("early-exit", "together"): "propagate=recompute",
    ("speculative", "at-batch"): "gamma=optimal,draft=skip",
    ("speculative", "at-context"): "gamma=optimal,draft=skip",
    ("speculative", "drafts"): "gamma=2",
    **{("quantize", k): "preset=w4a16" for k in PASSES["quantize"].options() if k != "preset"},
    ("quantize", "kv-group"): "kv=int8", ("quantize", "kv-scale-bits"): "kv=int8",
    ("quantize", "kv-zero-bits"): "kv=int8", ("quantize", "kv-recent"): "kv=int8",
    ("quantize", "mu"): "preset=w4a16,kernel=tables",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), OPTIONS, ids=IDS)
def test_any_text_is_used_or_refused(name, key):
    more = CONTEXT.get((name, key))
    # A search over drafts each time, or many candidates for the peak of memory.
    costly = name == "nsa" or (more is not None and "optimal" in more)
    for text in TEXTS[:7] if costly else TEXTS:
        asked(f"{name}{{{more + ',' if more else ''}{key}={text}}}")


@pytest.mark.parametrize(("name", "key"), OPTIONS, ids=IDS)
def test_any_value_of_python_is_used_or_refused(name, key):
    for value in VALUES:
        with contextlib.suppress(CostgraphError):
            asked((PASSES[name](**{key.replace("-", "_"): value}),), ("tpot",))


def test_numbers_of_python_and_of_text_are_one():
    from costgraph.passes import EarlyExit, PageKV, Speculative

    for made, text in (
        (Speculative(gamma=3, alpha=0.5), "speculative{gamma=3,alpha=1/2}"),
        (PageKV(block=8, kernel=Fraction(6, 5)), "page-kv{block=8,kernel=1.2}"),
        (EarlyExit(exit=4, p=0.25), "early-exit{exit=4,p=0.25}"),
    ):
        one, other = cg.compile("gpt2", "a6000", (made,)), cg.compile("gpt2", "a6000", text)
        assert one.passes == other.passes
        assert one.tpot == other.tpot


def test_a_probability_that_is_a_symbol_stays_below_one():
    tpot = cg.compile("gpt2", "a6000", "speculative{alpha=a,batch=sync}").tpot
    assert tpot.evaluate(B=4, T=9, a=0.5) > 0
    for a in (1.5, 3):
        with pytest.raises(CostgraphError, match=f"a = {a} exceeds 1: alpha of speculative"):
            tpot.evaluate(B=10**12, T=9, a=a)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fold{shortest=x}", "fold: shortest must be a number here, not 'x'"),
        ("fold{shortest=3.5}", "a whole number"),
        ("speculative{gamma=100000}", "at most 1024"),
        ("speculative{gamma=1e9}", "at most 1024"),
        ("speculative{drafts=100000}", "at most 1024"),
        ("speculative{tree=t64|64|64|64}", "too many"),
        ("early-exit{distribution=beta,a=10000}", "at most 100"),
        ("page-kv{block=1e9999999999}", "neither a number nor a symbol"),
    ],
)
def test_work_that_grows_with_a_number_is_bounded(text, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile("gpt2", "a6000", text)


def test_the_largest_numbers_that_are_taken_answer_soon():
    for text in (
        "speculative{gamma=1024,alpha=0.123456789012345678901234567}",
        "speculative{gamma=1024,alpha=a}",
        "speculative{gamma=1024,drafts=1024}",
        "speculative{gamma=300,batch=sync}",
        "early-exit{distribution=beta,a=100,b=100}",
    ):
        asked(text, ("tpot", "latency", "memory", "flops"))


def test_defaults_are_shown_as_they_are_typed(capsys):
    """What the list of passes prints as a default can be given, and means the default."""
    assert main(["passes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    shown = {(p["name"], o["name"]): o["default"] for p in listed for o in p["options"]}
    assert shown.keys() == set(OPTIONS)
    for (name, key), text in shown.items():
        spec, default = PASSES[name].options()[key], getattr(PASSES[name], key.replace("-", "_"))
        if text:
            assert _value(f"{name}: {key}", spec, text) == default, (name, key)
