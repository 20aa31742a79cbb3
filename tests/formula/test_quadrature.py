"""Sums of norms over contexts: one rule in Python, NumPy and JavaScript, and its error."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import costgraph as cg
from costgraph.formula.quadrature import rule
from costgraph.formula.runtime import sum_smooth
from costgraph.formula.vector import compile_vector
from costgraph.formula.vector_sums import sum_smooth as sums

#: What the module states, of norms with exponents up to 12.
STATED = 2e-10


@pytest.mark.parametrize("n", [17, 18, 100, 4097])
@pytest.mark.parametrize("degree", range(8))
def test_the_rule_adds_up_polynomials_exactly(n: int, degree: int) -> None:
    center, half = 10 + (n - 1) / 2, n / 2
    values = [((center + half * x) / n) ** degree for x in rule().nodes]
    m0, m1, m2, m3 = (math.fsum(map(float.__mul__, w, values)) for w in rule().moments)
    exact = math.fsum((t / n) ** degree for t in range(10, 10 + n))
    assert n * (m0 + m1 / n**2 + m2 / n**4 + m3 / n**6) == pytest.approx(exact, rel=1e-13)


def test_sums_of_norms_keep_what_is_stated() -> None:
    """Exponents up to 12; arms that cross anywhere, and that start at nothing."""
    random = np.random.default_rng(7)
    many = 300
    p = random.choice([1.0, 1.2, 1.5, 2, 3, 4, 6, 9, 12], many)
    a, b = 10 ** random.uniform(-2, 5, many) * (random.random(many) < 0.7), np.ones(many)
    d = 10 ** random.uniform(-3, 0.5, many) * (random.random(many) < 0.7)
    c = np.maximum(a + 10 ** random.uniform(0, 5, many) * (b - d), 0.01)
    low = np.floor(10 ** random.uniform(0, 4, many))
    high = low + np.floor(10 ** random.uniform(0, 4.5, many)) - 1

    def f(i: object, t: object) -> object:
        x, y = a[i] + b[i] * t, c[i] + d[i] * t
        return (x ** p[i] + y ** p[i]) ** (1 / p[i])

    exact = np.array([f(i, np.arange(low[i], high[i] + 1)).sum() for i in range(many)])
    at_once = sums(low, high, lambda i: lambda t: f(i, t))
    one = [sum_smooth(int(low[i]), int(high[i]), lambda ts, i=i: [f(i, t) for t in ts])
           for i in range(many)]  # fmt: skip
    np.testing.assert_allclose(at_once, exact, rtol=STATED)
    np.testing.assert_allclose(one, exact, rtol=STATED)


def test_empty_ranges_and_what_turns() -> None:
    none = sums(np.array([5.0, 3.0]), np.array([4.0, 3.0]), lambda _: lambda t: t)
    assert list(none) == [0.0, 3.0]
    assert sum_smooth(5, 4, lambda ts: list(ts)) == 0
    # What turns within a piece is seen in the tail, and the piece halved.
    wave = sum_smooth(1, 3000, lambda ts: [math.sin(t / 3) for t in ts])
    exact = math.fsum(math.sin(t / 3) for t in range(1, 3001))
    assert wave == pytest.approx(exact, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("model", "device", "passes"),
    [
        ("llama-3-70b", "h100", "fuse"),
        ("gemma-2-9b", "h200", "fuse"),
        ("deepseek-v3", "b200", "fuse"),
        ("llama-3-8b", "a100-80g", ""),
    ],
)
def test_every_engine_gives_the_sum_of_steps(model: str, device: str, passes: str) -> None:
    compiled = cg.compile(model, device, passes, fidelity="calibrated")
    points = {"B": [1, 7, 64, 500], "S": [1, 900, 4096, 60], "N": [400, 90, 300, 700]}
    exact = []
    for B, S, N in zip(*points.values(), strict=True):
        steps = compiled.tpot.evaluate(B=B, T=np.arange(S + 1, S + N)).sum()
        exact.append(compiled.ttft(B=B, S=S) + steps)
    one = [compiled.latency(B=B, S=S, N=N) for B, S, N in zip(*points.values(), strict=True)]
    np.testing.assert_allclose(one, exact, rtol=STATED)
    arrays = {k: np.array(v, float) for k, v in points.items()}
    (many,) = compile_vector([compiled.latency], engine="numpy")(**arrays)
    np.testing.assert_allclose(many, exact, rtol=STATED)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_javascript_takes_the_same_rule(tmp_path: Path) -> None:
    latency = cg.compile("llama-3-70b", "h100", "fuse", fidelity="calibrated").latency
    points = [(1, 1, 400), (1, 90, 3), (300, 4096, 9), (3000, 100, 64)]
    assert [s.name for s in latency.symbols] == ["B", "N", "S"]
    shown = json.dumps(points)
    text = latency.code("javascript", "f")
    file = tmp_path / "f.mjs"
    file.write_text(f"{text}\nconsole.log(JSON.stringify({shown}.map(([n, s, b]) => f(b, n, s))));")
    ran = subprocess.run(["node", str(file)], check=True, capture_output=True, timeout=60)
    expected = [latency(N=n, S=s, B=b) for n, s, b in points]
    np.testing.assert_allclose(json.loads(ran.stdout), expected, rtol=1e-12)
