"""A small decoder measured on this machine, against its formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import costgraph as cg
from costgraph.export.table import plain_table, seconds
from costgraph.fidelity.kernels import Decoder, config, keep_heap
from costgraph.fidelity.measure import ROUNDS, best

#: Batch and context of decode steps; batch and prompt of prefills.
DECODE = tuple((b, t) for b in (1, 4, 16) for t in (64, 256, 1024))
PREFILL = ((1, 64), (1, 256), (4, 128), (1, 512))


def validate(device: str, budget: float = 60.0) -> str:
    """Measure, predict with both fidelities, and return the table of errors.

    Args:
        device: the device file that ``calibrate --this-machine`` wrote.
        budget: seconds to measure.
    """
    shape = config(hidden=512, inner=1408, layers=4, heads=8, vocabulary=8192)
    # A dense product computes every pair of scores, masked or not.
    kept: dict[str, Any] = {
        "weights": "fp32",
        "activations": "fp32",
        "kv": "fp32",
        "mask": "compute",
    }
    ideal = cg.compile(shape, device, **kept)
    fitted = cg.compile(shape, device, fidelity="calibrated", **kept)
    keep_heap()
    decoder = Decoder(shape)
    points = [("prefill", *p) for p in PREFILL] + [("decode", *p) for p in DECODE]
    least = dict.fromkeys(points, float("inf"))
    for _ in range(ROUNDS):
        for point in points:
            phase, b, t = point
            caches = decoder.caches(b, t)
            ids = np.ones((b, t if phase == "prefill" else 1), int)
            run = partial(decoder.step, ids, caches)
            least[point] = min(least[point], best(run, budget / len(points) / ROUNDS))
    rows, errors = [], []
    for (phase, b, t), took in least.items():
        at = {"B": b, "S" if phase == "prefill" else "T": t}
        metric = "ttft" if phase == "prefill" else "tpot"
        low = float(getattr(ideal, metric)(**at))
        close = float(getattr(fitted, metric)(**at))
        errors.append((abs(low / took - 1), abs(close / took - 1)))
        missed = [f"{100 * (x / took - 1):+.0f} %" for x in (low, close)]
        times = [seconds(x) for x in (took, low, close)]
        rows.append((phase, str(b), str(t), times[0], times[1], missed[0], times[2], missed[1]))
    head = ("phase", "batch", "tokens", "measured", "ideal", "error", "calibrated", "error")
    before, after = (100 * float(np.mean([e[i] for e in errors])) for i in (0, 1))
    return (
        f"{plain_table(head, rows)}\n\n"
        f"mean absolute error: ideal {before:.0f} %, calibrated {after:.0f} %"
    )
