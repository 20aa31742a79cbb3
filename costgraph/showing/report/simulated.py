"""Simulated servers beside the closed forms of a report, where its controls start."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
from costgraph.asking.serving.queueing import Steady
from costgraph.asking.serving.served import SHOWN, Served, Simulated
from costgraph.asking.serving.simulate import COUNTED
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError, InputError
from costgraph.setting import Setting
from costgraph.showing.export.serving import errors_text, policy_text

#: Requests of one simulation, at most; those of a report that states a rate and no number.
MOST, USUAL = 100_000, 400
#: Requests that come within the window of a picture, and the seed of arrivals.
PICTURED, SEED = 30, 0


def simulated(
    row: Sequence[Compiled],
    load: Mapping[str, Any],
    S: int,
    N: int,
    requests: int,
    text: Callable[[str], int],
    asked: bool = True,
) -> list[dict[str, Any]]:
    """For each pipeline on one device: a simulation beside the closed form, or why there is none.

    Args:
        row: the pipelines, compiled with numbers for all that is no size.
        load: rate (by default half of what the first pipeline stands), sequences, chunk, policy.
        S, N: prompt and answer, of equal lengths.
        requests: how many; the first fifth, which finds the server empty, does not count.
        text: keeps a piece of HTML among the page's, and says where.
        asked: whether a simulation was asked for: where not, the page says why there is none.

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
    found: list[dict[str, Any]] = []
    for queue in queues:
        try:
            if isinstance(queue, str):
                found.append({"why": queue})
            else:
                found.append(_seen(queue, float(rate or 0), requests, text))
        except InputError as error:
            if asked:
                raise
            found.append({"why": str(error)})
    return found


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


def _seen(queue: Queue, rate: float, requests: int, text: Callable[[str], int]) -> dict[str, Any]:
    arrivals = poisson(rate, requests, queue.prompt, queue.generate, SEED)
    pool = Pool(queue.times, queue.policy, prompt=queue.S)
    whole = simulate(arrivals, pool, spans=True)
    seen = whole.after(0.2)
    rows = {
        name: [float(values.mean()), *(seen.quantile(name, p) for p in SHOWN)]
        for name in ("ttft", "tpot", "latency")
        if len(values := getattr(seen, name))
    }
    steady = queue.at(rate) if rate < queue.stable_rate else None
    setting = queue.times.compiled.setting
    drawn, undrawn = picture(whole, whole.served, setting, policy_text(queue.policy), text)
    return {
        "why": "", "rows": rows, "quantiles": list(SHOWN), "rate": rate, "requests": requests,
        "S": queue.S, "N": int(queue.generate.mean), "seqs": queue.limit, "seed": SEED,
        "chunk": queue.budget or None, "policy": queue.kind, "unsteady": whole.unsteady,
        "closed": None if steady is None else {n: _formed(steady, n) for n in rows},
        "low": steady is not None and steady.low, "picture": drawn, "unpictured": undrawn,
        "errors": errors_text(errors) if (errors := seen.errors()) else "",
        "busy": whole.utilisation, "fidelity": setting.fidelity,
        "said": list(dict.fromkeys((*queue.times.assumed, *pool.assumed, COUNTED))),
    }  # fmt: skip


def _formed(steady: Steady, name: str) -> list[float | None]:
    """Mean and quantiles of the closed form; None where it has none."""
    found: list[float | None] = [getattr(steady, name)]
    for percent in SHOWN:
        value = None
        with suppress(InputError):
            value = steady.quantile(name, percent)
        found.append(value)
    return found


def picture(
    whole: Simulated,
    came: Sequence[Served] | None,
    setting: Setting,
    about: str,
    text: Callable[[str], int],
) -> tuple[int | None, str]:
    """Where the timeline of the first requests is among the page's texts, or why there is none.

    Args:
        whole: a simulation that kept its spans.
        came: its requests, of which the picture's window holds the first; None: as many as it has
            room for.
        setting, about: what the steps are of.
        text: keeps a piece of HTML among the page's, and says where.
    """
    try:
        from costgraph.showing.plot import timeline
        from costgraph.showing.plot.style import to_bytes
    except InputError as error:
        return None, str(error)
    end = None
    if came is not None and len(came) > PICTURED:
        end = came[PICTURED].request.arrival - came[0].request.arrival or None
    figure = timeline(whole, end=end, setting=setting, about=about)
    return text(_inline(to_bytes(figure, "svg").decode("utf-8"))), ""


def _inline(svg: str) -> str:
    """A figure of matplotlib as part of a page: as wide as its place, its style its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    head = re.sub(r' (?:width|height|xmlns(?::xlink)?|version)="[^"]*"', "", head)
    label = (
        "the first requests one above the other: waiting, reading, decoding; below them the steps"
    )
    shape = 'stroke-linejoin="round" stroke-linecap="butt"'
    return f'{head} class="timeline" role="img" aria-label="{label}" {shape}>{rest}'
