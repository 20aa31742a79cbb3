"""Every engine for arrays agrees with evaluation point by point."""

from __future__ import annotations

import importlib.util
import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Float, Integer, Max, Min, Piecewise, Rational, ceiling, exp, floor, log, sqrt

import costgraph as cg
from costgraph.errors import InputError, UnboundSymbolError
from costgraph.formula import Arm, Formula, Span, Term, vector
from costgraph.formula.terms import Limit
from costgraph.formula.vector import compile_vector
from costgraph.formula.vector_numpy import _machine
from costgraph.formula.vector_tables import numbers
from costgraph.symbols import B, N, S, T, symbol

numba = pytest.param(
    "numba",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("numba") is None, reason="numba is not installed"
    ),
)
engines = pytest.mark.parametrize("engine", ["numpy", numba])
W = symbol("W")


def made(*terms: Term, **more: object) -> Formula:
    return Formula("f", "s", terms, **more)  # type: ignore[arg-type]


def one(*exprs: object, count: object = Integer(1), span: Span | None = None) -> Term:
    arms = tuple(Arm(e, f"r{i}") for i, e in enumerate(exprs))  # type: ignore[arg-type]
    return Term(count, arms, ("op",), span)  # type: ignore[arg-type]


HARD = (
    made(one(1 - (1 - Rational(1, 8)) ** B, B ** Rational(3, 2) / 7 + sqrt(T) / T)),
    made(one(T * ceiling(T / 49) + floor((B + T) / 12) + ceiling(T / B) / 3)),
    made(one(Piecewise((B, T > 40), (T / 3, (B >= 7) & (T > 2)), (B + T, True)), Integer(20))),
    made(one(B * Min(T, W) + Max(T - W, 0), 3 * W + Min(B, Max(T, 2 * B)))),
    made(one(exp(-B / 9) * log(T + 1) + 2 ** (-B), T / 7, count=-B)),
    made(one(3 * T + B, span=Span(T, S + 9, S + N - 1))),
    made(one(B * T / 3 + 2, W * T / 5 + B, 7 * B, span=Span(T, S + 1, S + N - 1))),
    made(one(3 * T + B, T + 40, count=N, span=Span(T, Max(S - 20, 1), S + N - 9))),
    made(one(T**2 * B - T / 7, span=Span(T, S + 9, S + Min(N, W)))),
    made(one(B * ceiling(T / 16) / 3, T / 5, span=Span(T, S + 9, S + N - 1)), one(B, T)),
    made(one(B * Min(T, W), T / 5 + 9, span=Span(T, Min(S, W) + 1, Min(S + N, W) - 1))),
    made(one(B + T, 3 * T), numerator=B * T),
    made(one(Integer(7), B / 9)),
    made(one(Integer(7))),
    made(),
)


def compiled(model: str, device: str, passes: str = "", **options: bool) -> list[Formula]:
    whole = cg.compile(model, device, passes, **options)
    names = ("ttft", "tpot", "latency", "throughput", "flops", "bytes")
    names += () if options else ("memory",)
    return [getattr(whole, n) for n in names]


def points(names: tuple[str, ...], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = random.Random(seed)
    sizes = {"N": 40, "S": 99, "T": 400, "B": 40, "W": 120, "BW": 10**12}
    return {
        n: np.array(
            [
                generator.choice((1, 48, 49, generator.randint(1, sizes.get(n, 64))))
                for _ in range(count)
            ]
        )
        for n in names
    }


def agree(formulas: list[Formula], engine: str, count: int = 40, seed: int = 0) -> None:
    function = compile_vector(formulas, engine=engine)
    assert function.engine == engine
    assert function.names == tuple(sorted({s.name for f in formulas for s in f.symbols}))
    where = points(function.names, count, seed)
    results = function(**where)
    assert len(results) == len(formulas)
    shape = (count,) if function.names else ()
    for formula, result in zip(formulas, results, strict=True):
        assert result.dtype == np.float64
        assert result.shape == shape
        for i in range(count if shape else 1):
            point = {s.name: int(where[s.name][i]) for s in formula.symbols}
            wanted = float(formula.evaluate(**point))
            got = float(result[i] if shape else result)
            assert math.isclose(got, wanted, rel_tol=1e-12, abs_tol=1e-300), (formula, point)


@engines
@pytest.mark.parametrize("index", range(len(HARD)))
def test_every_kind_of_term_agrees(engine, index):
    agree([HARD[index]], engine)


@engines
def test_all_kinds_agree_as_one_function(engine):
    agree(list(HARD), engine)


@engines
@pytest.mark.parametrize(
    ("model", "device", "passes", "options"),
    [
        ("llama-3-70b", "h100", "", {}),
        ("llama-2-7b", "a6000", "fuse,quantize{preset=w4a16},page-kv", {}),
        ("llama-2-7b", "a6000", "early-exit{p=0.3}", {}),
        ("llama-2-70b", "h200", "speculative{draft=llama-2-7b,gamma=4,alpha=0.8}", {}),
        ("gpt2", "v100", "", {"symbolic_hardware": True}),
    ],
)
def test_shipped_formulas_agree(engine, model, device, passes, options):
    agree(compiled(model, device, passes, **options), engine)


coefficients = st.builds(Rational, st.integers(0, 9), st.integers(1, 7))


@st.composite
def random_formulas(draw):
    atoms = st.sampled_from([Integer(1), B, T, B * T, Min(T, W), ceiling(T / 6), T**2, B / W])
    span = st.sampled_from([None, None, Span(T, S + 1, S + N - 1), Span(T, Min(S, W), W)])

    def arm():
        return sum((draw(coefficients) * draw(atoms) for _ in range(3)), Integer(0))

    terms = [
        one(
            *(arm() for _ in range(draw(st.integers(1, 3)))),
            count=draw(st.sampled_from([Integer(3), N - 1, Rational(2, 7), -B])),
            span=draw(span),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    return made(*terms, one(Integer(10**9)))


@settings(max_examples=60)
@given(random_formulas())
def test_random_formulas_agree_in_numpy(formula):
    agree([formula], "numpy", count=5)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@settings(max_examples=3)
@given(st.lists(random_formulas(), min_size=4, max_size=4))
def test_random_formulas_agree_in_numba(formulas):
    agree(formulas, "numba", count=20)


@engines
def test_inputs_broadcast(engine):
    formula = HARD[3]
    function = compile_vector([formula], engine=engine)
    b, t = np.arange(1, 4)[:, None], np.arange(1.0, 6.0)
    (grid,) = function(B=b, T=t, W=7)
    assert grid.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            assert math.isclose(grid[i, j], formula.evaluate(B=i + 1, T=j + 1, W=7), rel_tol=1e-12)
    (scalar,) = function(B=2, T=Fraction(3, 2), W=7)
    assert scalar.shape == ()
    assert math.isclose(float(scalar), formula.evaluate(B=2, T=1.5, W=7), rel_tol=1e-12)
    assert function(B=[], T=3, W=7)[0].shape == (0,)
    (strided,) = function(B=np.arange(1, 9)[::2], T=np.arange(8.0, 0.0, -2.0), W=np.int64(7))
    assert math.isclose(strided[1], formula.evaluate(B=3, T=6, W=7), rel_tol=1e-12)
    frozen = np.arange(1.0, 4.0)
    frozen.flags.writeable = False
    assert function(B=frozen, T=frozen, W=frozen)[0].shape == (3,)


@engines
def test_more_points_than_one_block(engine):
    formula = made(one(B * T / 7, T + 3, count=Integer(2)), one(B, T / 9))
    function = compile_vector([formula], engine=engine)
    generator = np.random.default_rng(1)
    b, t = generator.integers(1, 99, 70_001), generator.integers(1, 9999, 70_001)
    wanted = 2 * np.maximum(b * t / 7, t + 3) + np.maximum(b, t / 9)
    np.testing.assert_allclose(function(B=b, T=t)[0], wanted, rtol=1e-12)
    (grid,) = function(B=b[:301, None], T=t[:403])
    wanted = 2 * np.maximum(b[:301, None] * t[:403] / 7, t[:403] + 3) + np.maximum(
        b[:301, None], t[:403] / 9
    )
    np.testing.assert_allclose(grid, wanted, rtol=1e-12)


def norm(a: object, b: object, p: float, **more: object) -> Term:
    return replace(one(a, b, **more), norm=Float(p))  # type: ignore[arg-type]


#: Of one symbol alone, of both, of one times the other, as a plain sum, and in a sum.
NORMS = made(
    norm(B + 3, 2 * B, 2.5),
    norm(T / 7, T / 9 + 4, 3.5),
    norm(B * T, T + 9, 2.25),
    norm(B / 2 + 7, 3 * B, 2.5, count=T),
    norm(B + 1, T, 1.0),
    norm(B * S + B, 40 * S, 2.5, span=Span(S, T, T + 20)),
)


@pytest.mark.parametrize("half", [0, 0.5])
@pytest.mark.parametrize("points", [9, 3000])
def test_norms_of_one_symbol_alone_are_looked_up_where_many_points_share_it(points, half):
    function = compile_vector([NORMS], engine="numpy")
    generator = np.random.default_rng(2)
    b, t = (generator.integers(1, most, points) for most in (40, 900))
    (found,) = function(B=b + half, T=t)
    assert found[:9] == pytest.approx(
        [
            NORMS(B=x + Fraction(half), T=y)
            for x, y in zip(b[:9].tolist(), t[:9].tolist(), strict=True)
        ],
        rel=1e-13,
    )
    # The same beside other points, and with each alone in its block.
    apart = [function(B=x + half, T=y)[0] for x, y in zip(b[-9:], t[-9:], strict=True)]
    assert found[-9:] == pytest.approx(np.array(apart), rel=1e-14)
    tables = _machine(function._program)._tables
    assert [len(made.results) for _, made in tables.values()] == [2, 1]
    shared = [numbers(np.asarray(x, float)) is not None for x in (b + half, t)]
    assert shared == [points == 3000 and not half, points == 3000]


@engines
def test_many_symbols_and_results(engine):
    names = [symbol(f"y{i:02}") for i in range(24)]
    many = [made(one(a * (i + 1) + B, 3 * a)) for i, a in enumerate(names)]
    agree(many, engine, count=7)
    function = compile_vector(many, engine=engine)
    values = dict.fromkeys(function.names, 2)
    assert function(**{**values, "B": np.arange(1, 6)})[0].shape == (5,)


@engines
def test_bad_points_are_named(engine):
    function = compile_vector([HARD[3]], engine=engine)
    for bad in (0.0, -1.0, math.inf, math.nan, -math.inf):
        values = np.ones(20_000)
        values[[12_345, 17_000]] = bad
        with pytest.raises(InputError, match=r"T must be a positive finite .*\(T\[12345\]\)"):
            function(B=1, T=values, W=3)
    with pytest.raises(InputError, match="B must be numbers, not"):
        function(B=["a"], T=1, W=1)
    with pytest.raises(InputError, match="B must be numbers"):
        function(B=np.array([True]), T=1, W=1)
    with pytest.raises(InputError, match="B must be numbers"):
        function(B=[[1], [1, 2]], T=1, W=1)
    with pytest.raises(InputError, match=r"shapes do not broadcast: B \(2,\), T \(3,\)"):
        function(B=[1, 2], T=[1, 2, 3], W=1)
    with pytest.raises(UnboundSymbolError, match=r"f: no value for W"):
        function(B=1, T=1)
    with pytest.raises(InputError, match="has no symbol 'TT'; did you mean 'T'"):
        function(B=1, T=1, W=1, TT=1)
    tokens = compile_vector([HARD[5]], engine=engine)
    with pytest.raises(InputError, match=r"N must be a whole number of tokens, not 2.5 \(N\[1\]\)"):
        tokens(B=1, S=1, N=[2, 2.5])


@engines
def test_limits_hold_at_every_point(engine):
    elsewhere = Limit(S + N, Integer(9), "not this one")
    window = Limit(T, Integer(4096), "its window ends there")
    limited = made(one(B * T), limits=(elsewhere, window))
    function = compile_vector([limited], engine=engine)
    assert function(B=[1, 2], T=4096)[0][1] == 8192
    message = r"T = 4097 exceeds 4096: its window ends there \(first at B=2, T=4097\)"
    with pytest.raises(InputError, match=message):
        function(B=[1, 2, 3], T=[4096, 4097, 5000])
    with pytest.raises(InputError, match="exceeds"):
        limited.evaluate(B=1, T=np.array([1, 10**9]))


def test_bad_requests():
    with pytest.raises(InputError, match="did you mean 'numba'"):
        compile_vector([HARD[0]], engine="numbra")
    with pytest.raises(InputError, match="no formula"):
        compile_vector([])


def test_without_the_extra_numpy_is_used(monkeypatch):
    def missing(name: str) -> None:
        assert name == "numba"

    monkeypatch.setattr(vector, "find_spec", missing)
    vector._compiled.cache_clear()
    function = compile_vector([HARD[0]])
    assert function.engine == "numpy"
    many = vector.FEW + 1
    assert function(B=np.full(many, 2.0), T=3.0)[0].shape == (many,)
    with pytest.raises(InputError, match=r"pip install 'costgraph\[fast\]'"):
        compile_vector([HARD[0]], engine="numba")


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
def test_with_the_extra_few_points_do_not_wait_for_a_compiler(monkeypatch):
    from costgraph.formula import vector_numba

    used = []
    true_runner = vector_numba.runner
    monkeypatch.setattr(vector_numba, "runner", lambda p: used.append(p) or true_runner(p))
    function = compile_vector([HARD[0]])
    assert function.engine == "numba"
    function(B=2, T=[1, 2])
    assert not used
    (many,) = function(B=np.full(vector.FEW, 2.0), T=3)
    assert used
    assert math.isclose(many[-1], HARD[0].evaluate(B=2, T=3), rel_tol=1e-12)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
def test_formulas_of_one_structure_share_their_machine_code():
    from costgraph.formula import vector_numba

    for device in ("a6000", "h100", "a40"):
        formula = cg.compile("llama-2-7b", device).tpot
        agree([formula], "numba", count=5)
    before = vector_numba._compiled.cache_info().misses
    agree([cg.compile("llama-2-7b", "l40").tpot], "numba", count=5)
    assert vector_numba._compiled.cache_info().misses == before


def test_compiling_again_costs_nothing():
    assert compile_vector([HARD[0]], engine="numpy") is compile_vector([HARD[0]], engine="numpy")


def test_evaluate_takes_arrays():
    whole = cg.compile("llama-2-7b", "a6000")
    result = whole.tpot.evaluate(B=[1, 2], T=2048)
    assert result.shape == (2,)
    assert math.isclose(result[1], whole.tpot.evaluate(B=2, T=2048), rel_tol=1e-12)
    assert whole.tpot(B=np.array([1]), T=2048).shape == (1,)
    assert whole.tpot(B=(1, 2), T=[[1], [2], [3]]).shape == (3, 2)
    assert whole.bytes(B=np.array([1]), S=5, N=3).shape == (1,)
    assert whole.latency(B=1, S=np.array([5]), N=[3]).shape == (1,)
    amount = whole.bytes(B=np.array(2), S=5, N=3)
    assert isinstance(amount, int)
    assert amount == whole.bytes(B=2, S=5, N=3)
    with pytest.raises(InputError, match=r"B\[1\]"):
        whole.tpot(B=[1, -1], T=1)
    with pytest.raises(InputError, match="S must be a whole number"):
        whole.latency(B=1, S=np.array([2.5]), N=1)
