"""A small decoder measured on this machine, against its formulas."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from costgraph.compiling.compilation import compile
from costgraph.showing.export.table import plain_table, seconds
from costgraph.timing.fidelity.kernels import Decoder, Library, config
from costgraph.timing.fidelity.measure import ROUNDS, typical

#: Batch and context of decode steps; batch and prompt of prefills.
DECODE = tuple((b, t) for b in (1, 4, 16) for t in (64, 256, 1024))
PREFILL = ((1, 64), (1, 256), (4, 128), (1, 512))
SHAPE = config(hidden=512, inner=1408, layers=4, heads=8, vocabulary=8192)


def validate(
    device: str,
    budget: float,
    library: Library,
    progress: Callable[[str, int], None] = lambda *_: None,
) -> str:
    """Measure, predict with both fidelities, and return the tables of errors.

    Args:
        device: the device file that ``calibrate --this-machine`` wrote.
        budget: seconds to measure, at least one round.
        library: what runs the decoder, in each of its types.
        progress: takes what is being timed and of how many steps.

    """
    points = [("prefill", *p) for p in PREFILL] + [("decode", *p) for p in DECODE]
    todo = [(dtype, *point) for dtype in library.types for point in points]
    least = dict.fromkeys(todo, float("inf"))
    begin, share = time.perf_counter(), 0.8 * budget / len(todo) / ROUNDS
    with library.quiet():
        decoders = {t: Decoder(SHAPE, library, t) for t in library.types}
        for turn in range(ROUNDS):
            for key in todo:
                if turn and time.perf_counter() - begin > budget:
                    break
                dtype, phase, b, t = key
                progress(f"{phase} {dtype} {b}x{t}", len(todo) * ROUNDS)
                caches = decoders[dtype].caches(b, t)
                ids = library.ids(b, t if phase == "prefill" else 1)
                run = partial(decoders[dtype].step, ids, caches)
                least[key] = min(least[key], typical(run, share, None, library.threads))
    tables = []
    for dtype in library.types:
        own = {k[1:]: v for k, v in least.items() if k[0] == dtype}
        tables.append(f"{library.name}, {dtype}:\n\n{_compared(device, library, dtype, own)}")
    return "\n\n".join(tables)


def _compared(device: str, library: Library, dtype: str, least: dict[Any, float]) -> str:
    """Measured against predicted times of one type."""
    kept: dict[str, Any] = {"weights": dtype, "activations": dtype, "kv": dtype}
    passes = ""
    if library.tiled:
        passes = "fuse{siblings=false,epilogue=false,elementwise=false}"
    else:  # dense products compute every pair of scores, masked or not
        kept["mask"] = "compute"
    ideal = compile(SHAPE, device, passes, **kept)
    fitted = compile(SHAPE, device, passes, fidelity="calibrated", **kept)
    rows, errors = [], []
    for (phase, b, t), took in least.items():
        at = {"B": b, "S" if phase == "prefill" else "T": t}
        metric = "ttft" if phase == "prefill" else "tpot"
        low = float(getattr(ideal, metric)(**at))
        close = float(getattr(fitted, metric)(**at))
        errors.append((phase, abs(low / took - 1), abs(close / took - 1)))
        missed = [f"{100 * (x / took - 1):+.0f} %" for x in (low, close)]
        times = [seconds(x) for x in (took, low, close)]
        rows.append((phase, str(b), str(t), times[0], times[1], missed[0], times[2], missed[1]))
    head = ("phase", "batch", "tokens", "measured", "ideal", "error", "calibrated", "error")
    lines = [plain_table(head, rows), ""]
    for name in ("prefill", "decode", ""):
        chosen = [e[1:] for e in errors if name in ("", e[0])]
        if chosen:
            before, after = (100 * float(x) for x in np.mean(chosen, axis=0))
            what = f"{name}: " if name else ""
            lines.append(
                f"{what}mean absolute error: ideal {before:.0f} %, calibrated {after:.0f} %"
            )
    return "\n".join(lines)
