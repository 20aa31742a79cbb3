"""Simulated servers beside the closed forms of a report, where its controls start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from costgraph.asking.serving import (
    POLICIES,
    ChunkedPrefill,
    Lengths,
    Policy,
    Pool,
    Queue,
    StepTimes,
    poisson,
    simulate,
)
from costgraph.asking.serving.served import SHOWN
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError, InputError

#: Requests of one simulation, at most.
MOST = 100_000


def simulated(
    row: Sequence[Compiled], load: Mapping[str, Any], S: int, N: int, requests: int
) -> list[dict[str, Any]]:
    """For each pipeline on one device: means and quantiles of a simulation, or why there are none.

    Args:
        row: the pipelines, compiled with numbers for all that is no size.
        load: rate (by default half of what the first pipeline stands), sequences, chunk, policy.
        S, N: prompt and answer, of equal lengths.
        requests: how many; the first fifth, which finds the server empty, does not count.

    Raises:
        InputError: too few or too many requests, or no simulation at all can be run.
    """
    if not 10 <= requests <= MOST:
        raise InputError(f"a simulation has 10 to {MOST} requests, not {requests}")
    queues: list[Queue | str] = []
    for compiled in row:
        try:
            queues.append(_queue(compiled, load, S, N))
        except CostgraphError as error:
            queues.append(str(error))
    stands = [q.stable_rate for q in queues if isinstance(q, Queue)]
    rate = load["rate"] or (float(f"{stands[0] / 2:.2g}") if stands else None)
    return [
        {"why": q} if isinstance(q, str) else _seen(q, float(rate or 0), requests) for q in queues
    ]


def _queue(compiled: Compiled, load: Mapping[str, Any], S: int, N: int) -> Queue:
    times, kind = StepTimes.of(compiled, S + N, S), POLICIES[load["policy"]]
    if times.lanes != 1:
        raise InputError("stages of a pipeline: costgraph serve-simulate has them")
    one: Policy = ChunkedPrefill(1, load["chunk"]) if kind is ChunkedPrefill else kind(1)
    room = times.room(S + N, read=(one.reads(S), S))
    if room < 1:
        raise InputError(f"the memory has no room for one sequence of {S + N} positions")
    policy = replace(one, limit=min(load["seqs"], room))
    return Queue(times, policy, Lengths(S), Lengths(N))


def _seen(queue: Queue, rate: float, requests: int) -> dict[str, Any]:
    arrivals = poisson(rate, requests, queue.prompt, queue.generate)
    whole = simulate(arrivals, Pool(queue.times, queue.policy))
    seen = whole.after(0.2)
    rows = {
        name: [float(values.mean()), *(seen.quantile(name, p) for p in SHOWN)]
        for name in ("ttft", "tpot", "latency")
        if len(values := getattr(seen, name))
    }
    return {
        "why": "", "rows": rows, "quantiles": list(SHOWN), "rate": rate, "requests": requests,
        "S": queue.S, "N": int(queue.generate.mean), "seqs": queue.limit,
        "chunk": queue.budget or None, "policy": queue.kind, "unsteady": whole.unsteady,
    }  # fmt: skip
