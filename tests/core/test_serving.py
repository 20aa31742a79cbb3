"""A loaded server's formulas against a simulation of one, and their limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.asking.serving import Serving, shared_tpot
from costgraph.errors import InputError


@pytest.fixture(scope="module")
def compiled():
    return cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated")


@pytest.fixture(scope="module")
def serving(compiled):
    return Serving(compiled)


class Simulated:
    """A server with continuous batching in a closed loop, event by event.

    A free place takes a new request at once. Waiting prompts run before decode steps,
    one at a time; a decode step advances every request that has its first token.
    """

    def __init__(self, compiled, c, S, lengths, count):
        steps: dict[tuple[int, int], float] = {}

        def step(active):
            # Contexts of a batch differ; memory-bound attention follows their mean.
            mean = round(sum(S + r["made"] for r in active) / len(active))
            key = (len(active), mean)
            if key not in steps:
                steps[key] = compiled.tpot(B=key[0], T=key[1])
            return steps[key]

        prefill = compiled.ttft(B=1, S=S)
        now, waiting, active, done = 0.0, [], [], []
        given = 0

        def arrive():
            nonlocal given
            waiting.append({"at": now, "N": lengths(), "made": 0})
            given += 1

        for _ in range(c):
            arrive()
        while len(done) < count:
            if waiting:
                request = waiting.pop(0)
                now += prefill
                request |= {"made": 1, "first": now}
                active.append(request)
                continue
            for request in active:
                request["made"] += 1
            now += step(active)
            for request in [r for r in active if r["made"] >= r["N"]]:
                active.remove(request)
                done.append(request | {"end": now})
                arrive()
        # The first third is the warm-up.
        self.done = done[len(done) // 3 :]

    def mean(self, of):
        return sum(of(r) for r in self.done) / len(self.done)

    @property
    def ttft(self):
        return self.mean(lambda r: r["first"] - r["at"])

    @property
    def tpot(self):
        return self.mean(lambda r: (r["end"] - r["first"]) / (r["N"] - 1))

    @property
    def latency(self):
        return self.mean(lambda r: r["end"] - r["at"])


def test_equal_requests_stay_in_step(compiled, serving):
    c, S, N = 8, 512, 48
    seen = Simulated(compiled, c, S, lambda: N, 6 * c)
    values = {"c": c, "S": S, "N": N}
    assert serving.latency(**values) == pytest.approx(seen.latency, rel=1e-3)
    assert serving.tpot_in_step(**values) == pytest.approx(seen.tpot, rel=1e-3)
    assert serving.ttft_in_step(S=S, c=c) == pytest.approx(seen.ttft, rel=1e-3)


@pytest.mark.parametrize(("c", "S", "N"), [(6, 512, 64), (16, 256, 64), (12, 2048, 100)])
def test_drawn_lengths_spread_the_prefills(compiled, serving, c, S, N):
    draw = random.Random(7)
    seen = Simulated(compiled, c, S, lambda: draw.randint(N // 2, N + N // 2), 40 * c)
    values = {"c": c, "S": S, "N": N}
    assert serving.latency(**values) == pytest.approx(seen.latency, rel=0.04)
    # Short answers suffer more per token than long ones gain: a mean of ratios.
    assert serving.tpot(**values) == pytest.approx(seen.tpot, rel=0.06)
    assert abs(seen.tpot - serving.tpot(**values)) < abs(seen.tpot - serving.tpot_in_step(**values))
    assert serving.ttft(S=S) <= seen.ttft <= serving.ttft_in_step(S=S, c=c)


def test_one_request_is_served_as_without_a_server(compiled, serving):
    S, N = 700, 90
    alone = (compiled.latency - compiled.ttft)(B=1, S=S, N=N) / (N - 1)
    values = {"c": 1, "S": S, "N": N}
    assert serving.tpot(**values) == pytest.approx(alone, rel=1e-12)
    assert serving.tpot_in_step(**values) == pytest.approx(alone, rel=1e-12)
    assert serving.latency(**values) == pytest.approx(compiled.latency(B=1, S=S, N=N), rel=1e-12)
    assert serving.ttft(S=S) == pytest.approx(compiled.ttft(B=1, S=S), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 5000), st.integers(2, 3000))
def test_parts_add_up(serving, c, S, N):
    values = {"c": c, "S": S, "N": N}
    latency = serving.latency(**values)
    assert serving.ttft(S=S) + (N - 1) * serving.tpot(**values) == pytest.approx(latency, rel=1e-9)
    in_step = serving.ttft_in_step(S=S, c=c) + (N - 1) * serving.tpot_in_step(**values)
    assert in_step == pytest.approx(latency, rel=1e-9)
    assert serving.tpot_in_step(**values) <= serving.tpot(**values) * (1 + 1e-12)
    assert serving.throughput(**values) == pytest.approx(c * N / latency, rel=1e-9)
    step, prefill = serving.step(**values), serving.prefill(S=S)
    joined = shared_tpot(step, prefill, c, N)
    assert joined <= serving.tpot(**values) * (1 + 1e-9)
    assert joined >= max(step, (c - 1) * prefill / (N - 1)) * (1 - 1e-9) or c > N


def test_a_decode_step_is_the_mean_over_contexts(compiled, serving):
    steps = [compiled.tpot(B=5, T=100 + i) for i in range(1, 40)]
    assert serving.step(c=5, S=100, N=40) == pytest.approx(sum(steps) / 39, rel=1e-9)


def test_formulas_answer_like_others():
    tpot = Serving(cg.compile("llama-3.1-8b", "h100", "fuse")).tpot
    assert [s.name for s in tpot.symbols] == ["N", "S", "c"]
    kinks = tpot.regimes("c", S=1024, N=512)
    assert len(kinks.pieces if hasattr(kinks, "pieces") else tuple(kinks)) > 1
    largest = tpot.solve_for("c", 0.03, S=1024, N=512).largest
    assert tpot(c=largest, S=1024, N=512) <= 0.03 < tpot(c=largest + 1, S=1024, N=512)
    assert any("mean field" in sentence for sentence in tpot.assumptions)
    space: dict = {}
    exec(tpot.code("python"), space)
    made = next(f for n, f in space.items() if callable(f) and n.startswith("tpot"))
    assert made(N=512, S=1024, c=9) == pytest.approx(tpot(N=512, S=1024, c=9), rel=1e-12)


def test_models_without_decode_steps_are_refused():
    with pytest.raises(InputError, match="no decode steps"):
        Serving(cg.compile("bert-base", "h100"))
