"""Scores published runs with prompts and decodes on different devices; see docs/serving.md.

    python benchmarks/serving_apart.py     about three minutes

Of 245 such runs those that state their model (DeepSeek-V3, no drafts), how many workers of each
kind there are, how each is shared and how many requests are in flight. Each is simulated as a
closed loop over two pools: prompts up to the stated batch of each replica in a step of their
own, decodes up to the stated batch, caches over the network. Nothing is fitted.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from serving import MODELS, Groups, Run, experts, grouped, pair, rows, run_of
from serving_chunked import means, requests_of, steps
from serving_model import Layout

from costgraph.asking.serving import DecodeOnly, Pool, PrefillBatches, simulate
from costgraph.asking.serving.ways import between
from costgraph.errors import CostgraphError
from costgraph.showing.export.table import plain_table


@dataclass(frozen=True)
class Side:
    """One kind of workers: how many, how each is shared, and its batch."""

    workers: int
    layout: Layout
    batch: int


def side(row: dict[str, str], name: str) -> Side | str:
    """The workers that do one part, or why they are not known."""

    def of(key: str) -> int:
        return int(row[f"{name}_{key}"] or 0)

    if not of("num_workers") or not of("batch_size"):
        return "workers or their batch not stated"
    if of("pp_size") > 1:
        return "layers split over GPUs"
    layout = Layout(of("tp_size"), max(of("attention_dp_size"), 1), max(of("moe_ep_size"), 1))
    return Side(of("num_workers"), layout, of("batch_size"))


def read(row: dict[str, str]) -> tuple[Run, Side, Side] | str:
    """A run with its two kinds of workers, or why it is left out."""
    if row["model"] not in MODELS:
        return "model not shipped, or some drafted tokens, unlabelled"
    if not row["concurrency"]:
        return "no concurrency stated"
    first, then = side(row, "prefill"), side(row, "decode")
    if isinstance(first, str) or isinstance(then, str):
        return first if isinstance(first, str) else str(then)
    return run_of(row, then.layout), first, then


def simulated(run: Run, first: Side, then: Side) -> tuple[float, float, float]:
    """The means of a run."""
    prompts, decodes = (
        steps(run.model, run.device, run.passes, part.layout, run.framework)
        for part in (first, then)
    )
    link = between(run.device, prompts)
    assert link is not None
    # A batch of each replica of attention, whole prompts.
    tokens = round(first.batch * first.layout.dp * run.S * 10 / 9) + 1
    room = 4 * max(run.c, 8) * (run.S + run.N)
    seen = simulate(
        requests_of(run),
        Pool(prompts, PrefillBatches(10**6, tokens), first.workers, positions=room),
        decode=Pool(
            decodes, DecodeOnly(then.batch * then.layout.dp), then.workers, positions=room
        ),
        transfer=link, closed=run.c,
    )  # fmt: skip
    return means(seen)


def main() -> None:
    start = time.perf_counter()
    left: Counter[str] = Counter()
    kept: list[Run] = []
    found: list[tuple[float, float, float]] = []
    for row in rows():
        if row["mode"] == "agg":
            continue
        made = read(row)
        if isinstance(made, str):
            left[made] += 1
            continue
        try:
            found.append(simulated(*made))
            kept.append(made[0])
        except CostgraphError as error:
            left[str(error)[:60]] += 1
    first, token, whole = np.array(found).T
    measured = np.array([(r.ttft, r.tpot, r.whole) for r in kept]).T
    groups: Groups = (
        ("all", lambda r: ""), ("device", lambda r: r.device),
        ("framework", lambda r: r.framework), ("experts", experts),
        ("prompt", lambda r: str(r.S)),
    )  # fmt: skip
    lines = []
    for name, label, m in grouped(kept, groups):
        known = m & np.isfinite(measured[0])
        lines.append((
            name, label, str(m.sum()), pair(token[m], measured[1][m]),
            pair(first[known], measured[0][known]), pair(whole[m], measured[2][m]),
        ))  # fmt: skip
    print(plain_table(("by", "", "runs", "tpot", "ttft", "latency"), lines))
    print("left out: " + ", ".join(f"{n} {why}" for why, n in left.items()))
    print(f"{len(found)} runs in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
