"""Searches equal brute force over every whole batch."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.asking.searching.front import Cloud, front_of
from costgraph.errors import InputError
from costgraph.formula.batch import Line, growing

METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes")
PIPELINES = ("", "fuse", "page-kv{block=16}", "early-exit", "quantize{weights=int4}")
S, N = 48, 20


@cache
def compiled(passes: str = "", hardware: str = "h100"):
    return cg.compile("opt-125m", hardware, passes)


@cache
def table(passes: str, hardware: str, high: int):
    """Each metric at every batch up to ``high``, one by one."""
    values = {"S": S, "N": N, "T": S + N - 1}
    found = {}
    for metric in METRICS:
        formula = getattr(compiled(passes, hardware), metric)
        given_ = {s.name: values[s.name] for s in formula.symbols if s.name != "B"}
        found[metric] = [float(formula.evaluate(B=b, **given_)) for b in range(1, high + 1)]
    return found


def kept(values, limits):
    return all(values[m] >= x if m == "throughput" else values[m] <= x for m, x in limits.items())


def brute(passes, hardware, objective, limits, low, high):
    """The best objective and every batch that reaches it."""
    columns = table(passes, hardware, high)
    rows = {b: {m: columns[m][b - 1] for m in METRICS} for b in range(low, high + 1)}
    good = {b: r[objective] for b, r in rows.items() if kept(r, limits)}
    if not good:
        return None, set()
    best = max(good.values()) if objective == "throughput" else min(good.values())
    return best, {b for b, v in good.items() if v == pytest.approx(best, rel=1e-12)}


@st.composite
def problems(draw):
    passes, hardware = draw(st.sampled_from(PIPELINES)), draw(st.sampled_from(["h100", "a6000"]))
    low = draw(st.integers(1, 12))
    high = draw(st.integers(low, 60))
    columns = table(passes, hardware, 60)
    limits = {}
    for metric in draw(st.sets(st.sampled_from(METRICS), max_size=3)):
        at = columns[metric][draw(st.integers(0, 59))]
        limits[metric] = at * draw(st.sampled_from([0.9, 1.0, 1.0001, 1.5]))
    objective = draw(st.sampled_from(METRICS))
    return passes, hardware, objective, limits, low, high


@given(problems())
@settings(max_examples=30)
@example(("early-exit", "h100", "throughput", {}, 1, 60))
@example(("", "h100", "throughput", {"memory": 1.0}, 1, 60))
def test_the_best_batch_is_that_of_brute_force(problem):
    passes, hardware, objective, limits, low, high = problem
    result = cg.search(
        "opt-125m", hardware, passes, objective=objective,
        limits={"memory": None, **limits}, B=(low, high), S=S, N=N,
    )  # fmt: skip
    (found,) = result.candidates
    best, batches = brute(passes, hardware, objective, limits, low, high)
    assert found.batch in batches or (best is None and found.batch is None)
    assert found.binding
    if found.batch is None:
        return
    assert found.values[objective] == pytest.approx(best, rel=1e-12)
    assert kept(found.values, limits)
    assert found.exact in ("proved", "all batches tried")


def test_growth_is_proved_for_what_passes_make():
    at = {"S": 48, "N": 20, "T": 67}
    for passes in ("", "fuse", "page-kv{block=16}", "quantize{weights=int4,group=128}"):
        for metric in METRICS:
            assert growing(
                getattr(compiled(passes), metric),
                {n: v for n, v in at.items() if n in "SNT"},
            ), (passes, metric)


def test_growth_is_not_claimed_where_the_proof_fails():
    from sympy import Integer

    from costgraph.formula import Arm, Formula, Term
    from costgraph.symbols import B

    def formula(expr, numerator=None):
        return Formula("x", "s", (Term(Integer(1), (Arm(expr, "r"),)),), numerator)

    assert growing(formula(3 * B**2 + 1), {})
    assert not growing(formula(10 - B), {})
    assert not growing(formula(B**2 - 3 * B), {})
    assert not growing(formula(1 / B), {})
    assert growing(formula(B + 2, B), {})
    assert not growing(formula(B**2 + 2, B), {})  # falls once B is large
    assert not growing(formula(B + 2, B + 1), {})
    assert not growing(formula(B + 2, Integer(3)), {})


def test_a_metric_that_turns_is_searched_by_trying_every_batch():
    from sympy import Integer

    from costgraph.formula import Arm, Formula, Term
    from costgraph.formula.batch import Bound, best_batch
    from costgraph.symbols import B

    def line(expr):
        return Line(Formula("x", "s", (Term(Integer(1), (Arm(expr, "r"),)),)), {})

    bowl = line((B - 17) ** 2 + 5)
    found = best_batch(bowl, [], (1, 100))
    assert (found.batch, found.exact) == (17, "all batches tried")
    assert found.binding == ("no batch next to it is better",)
    capped = best_batch(bowl, [Bound(line(B + 1), 12.0)], (1, 100))
    assert capped.batch == 11
    assert capped.binding == ("x 13 s > 12 s at B=12",)
    with pytest.raises(InputError, match="too many to try"):
        best_batch(bowl, [], (1, 10**6))


@pytest.mark.parametrize(
    ("unit", "value", "limit", "text"),
    [
        ("s", 2.00034223601398, 2.0, "x 2.0003 s > 2 s at B=1"),
        ("byte", 150129677424.0, 150109106995.2, "x 150.13 GB > 150.11 GB at B=1"),
        ("s", 0.5 + 2**-50, 0.5, "x 500.000000000001 ms > 500 ms at B=1"),
        ("token/s", 123456.5, 123456.25, "x 123456.5 token/s > 123456.2 token/s at B=1"),
    ],
)
def test_a_broken_limit_is_told_in_as_many_digits_as_show_it(unit, value, limit, text):
    from sympy import Integer, Rational

    from costgraph.formula import Arm, Formula, Term
    from costgraph.formula.batch import Bound

    formula = Formula("x", unit, (Term(Integer(1), (Arm(Rational(value), "r"),)),))
    assert Bound(Line(formula, {}), limit).broken_at(1) == text


def test_the_binding_limit_is_what_the_next_batch_breaks():
    result = cg.search("llama-2-7b", "a6000", S=1024, N=256, limits={"tpot": 0.05})
    best = result.best
    assert best is not None
    formulas = cg.compile("llama-2-7b", "a6000")
    more = best.batch + 1
    breaks_tpot = formulas.tpot.evaluate(B=more, T=1279) > 0.05
    breaks_memory = formulas.memory.evaluate(B=more, S=1024, N=256) > 48e9
    assert breaks_tpot or breaks_memory
    assert any("tpot" in b for b in best.binding) == breaks_tpot
    assert any("memory" in b for b in best.binding) == breaks_memory
    assert all(f"at B={more}" in b for b in best.binding)
    assert formulas.tpot.evaluate(B=best.batch, T=1279) <= 0.05
    assert formulas.memory.evaluate(B=best.batch, S=1024, N=256) <= 48e9


def test_the_largest_batch_that_fits_is_the_closed_form():
    from costgraph.compiling.capacity import largest_batch

    result = cg.search("llama-2-7b", "h100", S=512, N=128)
    memory = cg.compile("llama-2-7b", "h100").memory.bind(S=512, N=128)
    assert result.best is not None
    assert result.best.batch == largest_batch(memory, 81559 * 2**20).doit()
    assert result.limits == {"memory": "device"}


def test_candidates_are_ranked_and_the_infeasible_say_why():
    result = cg.search(
        "llama-2-70b", ["a6000", "h200", "h100"], ["", "quantize{preset=w4a16}"], S=256, N=64
    )
    feasible = [c for c in result.candidates if c.feasible]
    rates = [c.values["throughput"] for c in feasible]
    assert rates == sorted(rates, reverse=True)
    assert result.candidates[: len(feasible)] == tuple(feasible)
    others = result.candidates[len(feasible) :]
    assert {(c.hardware, c.passes) for c in others} == {("a6000", "none"), ("h100", "none")}
    for c in others:
        assert c.batch is None
        assert "memory" in c.binding[0]
        assert c.binding[0].endswith("at B=1")


def test_a_floor_that_limits_make_unreachable_names_both():
    result = cg.search("llama-2-7b", "a6000", S=512, N=64, limits={"throughput": 10**6})
    (candidate,) = result.candidates
    assert not candidate.feasible
    assert result.best is None
    assert candidate.binding[0].startswith("throughput")
    assert candidate.binding[1].startswith("memory")


def test_refused_pipelines_are_listed_and_all_refused_is_an_error():
    result = cg.search("opt-125m", "h100", ["", "page-kv,page-kv"], S=8, N=8)
    assert [c.feasible for c in result.candidates] == [True, False]
    assert "paged already" in result.candidates[1].binding[0]
    with pytest.raises(InputError, match=r"no candidate can be compiled: .*paged already"):
        cg.search("opt-125m", "h100", "page-kv,page-kv", S=8, N=8)


def test_limits_understand_units():
    for limit in ("50 ms", "50ms", 0.05, "0.05"):
        found = cg.search("opt-125m", "h100", S=8, N=8, limits={"latency": limit})
        assert found.limits["latency"] == 0.05
    assert cg.search("opt-125m", "h100", S=8, N=8, limits={"memory": "1GiB"}).limits == {
        "memory": 2**30
    }


# --- Pareto fronts -----------------------------------------------------------------------


def dominated(point, others, larger):
    def rounded(v):
        return [float(f"{x:.11e}") * (-1 if up else 1) for x, up in zip(v, larger, strict=True)]

    me = rounded(point)
    return any(
        all(a <= b for a, b in zip(rounded(o), me, strict=True)) and rounded(o) != me
        for o in others
    )


@pytest.mark.parametrize(
    "pair", [("latency", "throughput"), ("memory", "throughput"), ("tpot", "ttft")]
)
def test_the_front_is_that_of_brute_force(pair):
    hardware, passes = ["h100", "a6000"], ["", "early-exit"]
    result = cg.search(
        "opt-125m", hardware, passes, pareto=pair, B=(1, 40), S=S, N=N,
        limits={"ttft": table("", "a6000", 40)["ttft"][30]},
    )  # fmt: skip
    points = {}
    for h in hardware:
        for p in passes:
            columns = table(p, h, 40)
            for b in range(1, 41):
                if columns["ttft"][b - 1] <= table("", "a6000", 40)["ttft"][30]:
                    points[h, p or "none", b] = (columns[pair[0]][b - 1], columns[pair[1]][b - 1])
    larger = tuple(m == "throughput" for m in pair)
    expected = {k for k, v in points.items() if not dominated(v, points.values(), larger)}
    found = {(p.hardware, p.passes, p.batch): p.values for p in result.front}
    assert set(found) <= expected
    # Of points equal in both metrics one is kept.
    assert {points[k] for k in expected} == {points[k] for k in found}
    for key, values in found.items():
        assert values == pytest.approx(points[key], rel=1e-12)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=25),
    st.tuples(st.booleans(), st.booleans()),
)
def test_fronts_of_any_points(points, larger):
    x, y = (np.array(v, dtype=float) for v in zip(*points, strict=True))
    cloud = Cloud("h", "p", np.arange(1, len(points) + 1), x, y)
    found = [p.values for p in front_of([cloud], larger)]
    expected = {p for p in points if not dominated(p, points, larger)}
    assert sorted(found) == sorted(expected)


def test_a_front_over_too_many_batches_is_refused_not_sampled():
    with pytest.raises(InputError, match="narrower range of B"):
        cg.search(
            "opt-125m", "h100", S=8, N=8, B=(1, 10**6), limits={"memory": None},
            pareto=("latency", "throughput"),
        )  # fmt: skip


# --- views and errors --------------------------------------------------------------------


def test_text_and_dict_tell_the_same():
    result = cg.search(
        "opt-125m", ["h100", "a6000"], ["", "fuse"], S=8, N=8, B=(1, 30),
        pareto=("latency", "throughput"), limits={"tpot": "1 ms"},
    )  # fmt: skip
    found = json.loads(json.dumps(result.to_dict()))
    assert found["direction"] == "max"
    assert found["batches"] == [1, 30]
    assert found["symbols"] == {"S": 8, "N": 8, "T": 15}
    assert len(found["candidates"]) == 4
    assert found["candidates"][0]["batch"] == result.best.batch
    assert len(found["front"]) == len(result.front)
    text = str(result)
    assert "tpot ≤ 1 ms" in text
    assert "memory within the device's capacity" in text
    assert "Pareto front of latency and throughput" in text
    assert all(c.hardware in text and c.binding[0] in text for c in result.candidates)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"objective": "thruput"}, "did you mean 'throughput'"),
        ({"limits": {"tpott": 1}}, "did you mean 'tpot'"),
        ({"limits": {"tpot": "5 GB"}}, "a time is written"),
        ({"limits": {"tpot": "fast"}}, "not a number with a unit"),
        ({"limits": {"tpot": 0}}, "positive"),
        ({"limits": {"tpot": float("inf")}}, "not a finite number"),
        ({"limits": {"tpot": "device"}}, "only memory"),
        ({"limits": {"throughput": "5 token/s"}}, "not a number of token/s"),
        ({"limits": {"memory": True}}, "not a number"),
        ({"pareto": ("tpot",)}, "two different metrics"),
        ({"pareto": ("tpot", "tpot")}, "two different metrics"),
        ({"pareto": ("tpot", "speed")}, "unknown metric 'speed'"),
        ({"B": (5, 2)}, "two ends"),
        ({"B": 0}, "two ends"),
        ({"B": (1, 2, 3)}, "two ends"),
        ({"B": (1.5, 2)}, "two ends"),
        ({"S": 0}, "S must be a whole number"),
        ({"T": 1.5}, "T must be a whole number"),
        ({"a": 0.5}, "no symbol 'a'"),
        ({"passes": "speculative{draft=opt-125m,alpha=a}"}, "no value for a"),
        ({"passes": "speculative{draft=opt-125m,alpha=a}", "a": -1}, "a must be above 0"),
        ({"passes": []}, "no passes"),
        ({"hardware": "h10"}, "did you mean"),
    ],
)
def test_bad_calls_are_refused_in_one_line(arguments, words):
    call = {"hardware": "h100", "S": 8, "N": 8, **arguments}
    with pytest.raises(InputError) as error:
        cg.search("opt-125m", **call)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
