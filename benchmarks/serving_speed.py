"""How long the serving layer takes itself: a search for plans, and simulated servers.

    python benchmarks/serving_speed.py

Prints processor seconds (and wall seconds) of a search for a 70B model on up to 64 devices in two
precisions, all ways to share it, with pools; and simulated requests and steps per second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    DecodeOnly,
    Lengths,
    Paging,
    Pool,
    PrefillFirst,
    StepTimes,
    Transfer,
    poisson,
    simulate,
)
from costgraph.asking.serving.plan import serve_plan
from costgraph.showing.export.table import plain_table

REQUESTS = 4000


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, processor seconds and wall seconds."""
    wall, own = time.perf_counter(), time.process_time()
    found = run()
    return found, time.process_time() - own, time.perf_counter() - wall


def main() -> None:
    plans, own, wall = timed(
        lambda: serve_plan(
            "llama-3.1-70b", "h100", rate=20, prompt=2048, generate=256, ttft=1, tpot=0.03,
            devices=64, precisions=("native", "fp8"), fidelity="calibrated",
        )
    )  # fmt: skip
    print(
        f"llama-3.1-70b on up to 64 devices: {own:.1f} s of one core ({wall:.1f} s), "
        f"{plans.tried} plans, {len(plans.plans)} kept"
    )
    made = cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated")
    times = StepTimes(made, 1400)
    plain, whole = ChunkedPrefill(64, 512), PrefillFirst(64)
    link = Transfer(3e-6, 50e9, times.position())
    settings: dict[str, dict[str, Any]] = {
        "prefill-first": {"pool": Pool(times, whole)},
        "chunks of 512": {"pool": Pool(times, plain)},
        "chunks of 512, pages": {"pool": Pool(times, plain, positions=40000, paging=Paging())},
        "four replicas": {"pool": Pool(times, plain, 4), "rate": 48.0},
        "pools": {
            "pool": Pool(times, whole), "decode": Pool(times, DecodeOnly(256)), "transfer": link,
        },
    }  # fmt: skip
    rows = []
    for name, given in settings.items():
        rate = given.pop("rate", 12.0)
        requests = poisson(rate, REQUESTS, Lengths(1024), Lengths(256), seed=1)
        simulate(requests[:500], **given)  # tables of steps
        seen, own, _ = timed(lambda r=requests, g=given: simulate(r, **g))
        rows.append((name, f"{len(requests) / own:.0f}", f"{seen.steps / own:.0f}"))
    print(plain_table(("server", "requests/s", "steps/s"), rows))


if __name__ == "__main__":
    main()
