"""Scores simulated servers with chunked prefill on published serving runs; see docs/serving.md.

    python benchmarks/serving_chunked.py           runs on one node (four minutes)
    python benchmarks/serving_chunked.py --most 1  on at most so many GPUs

Those with attention split, not in replicas. Each is a closed loop of its ``c`` requests, up to
ten for each place, with lengths drawn as benchmarks/serving.py says, served in steps of at most
8192 tokens (the frameworks' default). Nothing is fitted but one host time per step for each
framework in each of the two suites that measured it, in a column of its own.
"""

from __future__ import annotations

import argparse
import time
from functools import cache

import numpy as np
from serving import Groups, Run, Scored, band, experts, grouped, host, pair, runs, suite
from serving_model import Layout, server

from costgraph.asking.serving import (
    ChunkedPrefill,
    Lengths,
    Pool,
    Request,
    Simulated,
    StepTimes,
    at_once,
    simulate,
)
from costgraph.showing.export.table import plain_table

#: Tokens of a step: the default of vLLM, SGLang and TensorRT-LLM on these GPUs.
BUDGET = 8192
#: Requests for each place of the closed loop (InferenceMAX's), and the most in all.
EACH, MOST = 10, 2000


@cache
def steps(model: str, device: str, passes: str, layout: Layout, framework: str) -> StepTimes:
    """Steps of a server; runs of it share their tables."""
    made = server(model, device, passes, layout, "framework", framework)
    return StepTimes(made.compiled, 20000)


def requests_of(run: Run) -> tuple[Request, ...]:
    """The requests of its closed loop."""
    prompt, answer = Lengths(run.S), Lengths(run.N)
    if run.drawn:  # evenly from 0.8 to 1 of what is stated, whose mean is 0.9
        prompt, answer = (Lengths(x, "uniform", 1 / 9) for x in (run.S, run.N))
    return at_once(max(2 * run.c, min(EACH * run.c, MOST)), prompt, answer, 1)


def means(seen: Simulated) -> tuple[float, float, float]:
    """Mean seconds to the first token, per token, and to the last."""
    return float(seen.ttft.mean()), float(seen.tpot.mean()), float(seen.latency.mean())


def simulated(run: Run, batch: int) -> tuple[float, float, float]:
    """The means of a run."""
    times = steps(run.model, run.device, run.passes, run.layout, run.framework)
    policy = ChunkedPrefill(batch, BUDGET)
    positions = 2 * batch * (run.S + run.N)
    return means(simulate(requests_of(run), Pool(times, policy, positions=positions), closed=run.c))


def main() -> None:
    """Prints a table of errors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=8, help="GPUs (8)")
    most = parser.parse_args().most
    start = time.perf_counter()
    scored = Scored(r for r in runs(most)[0] if r.is_usual)
    batches = [p.batch for p in scored.made["framework"]]
    found = np.array([simulated(r, b) for r, b in zip(scored.runs, batches, strict=True)])
    first, token, whole = found.T
    ttft = scored.column(lambda r: r.ttft).astype(float)
    latency = scored.column(lambda r: r.whole).astype(float)
    # One number for each framework and suite, fitted on the other half of the runs.
    busy, numbers = host(scored, token, suite)
    before = scored.values("framework", lambda p: p.tpot())
    groups: Groups = (
        ("all", lambda r: ""),
        ("device", lambda r: r.device),
        ("framework", lambda r: r.framework),
        ("experts", experts),
        ("c", lambda r: band(r.c)),
        ("lengths", lambda r: "drawn" if r.drawn else "equal"),
        ("framework, suite", suite),
        ("model", lambda r: f"{r.model} {r.precision or 'bf16'} {r.device}"),
    )
    rows = []
    for name, label, m in grouped(scored.runs, groups):
        known = m & np.isfinite(ttft)
        rows.append((
            name, label, str(m.sum()), pair(before[m], scored.tpot[m]),
            pair(token[m], scored.tpot[m]), pair((token + busy)[m], scored.tpot[m]),
            pair(first[known], ttft[known]), pair(whole[m], latency[m]),
        ))  # fmt: skip
    head = ("by", "", "runs", "tpot formula", "tpot chunked", "+ host time", "ttft", "latency")
    print(plain_table(head, rows))
    print(", ".join(f"{name}: {1e3 * seconds:.2f} ms" for name, seconds in numbers.items()))
    print(f"{len(found)} runs in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
