"""A small decoder measured on this machine, against its formulas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
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
) -> Validation:
    """Measure, and predict with both fidelities.

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
    found = [
        point
        for dtype in library.types
        for point in _compared(
            device, library, dtype, {k[1:]: v for k, v in least.items() if k[0] == dtype}
        )
    ]
    return Validation(device, library.name, library.threads, tuple(found))


@dataclass(frozen=True)
class Point:
    """One step: what it took, and what the formulas say, in seconds.

    Attributes:
        type: of weights and activations.
        phase, batch, tokens: of a prefill, or the context of a decode step.
        measured, ideal, calibrated: seconds.
    """

    type: str
    phase: str
    batch: int
    tokens: int
    measured: float
    ideal: float
    calibrated: float

    @property
    def errors(self) -> tuple[float, float]:
        """Predicted over measured, less one: of the roofline, of the calibrated formula."""
        return self.ideal / self.measured - 1, self.calibrated / self.measured - 1


@dataclass(frozen=True)
class Validation:
    """A decoder's steps on this machine beside its formulas.

    Attributes:
        device: the file of the machine.
        library, threads: what ran it.
        points: every step that was timed.
    """

    device: str
    library: str
    threads: int | None
    points: tuple[Point, ...]

    def means(self, type: str, phase: str = "") -> tuple[float, float] | None:
        """Mean absolute errors, ideal and calibrated; None where nothing was timed."""
        chosen = [p.errors for p in self.points if p.type == type and phase in ("", p.phase)]
        if not chosen:
            return None
        ideal, calibrated = np.abs(np.array(chosen)).mean(axis=0)
        return float(ideal), float(calibrated)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; errors are relative."""
        types = dict.fromkeys(p.type for p in self.points)
        means = {
            f"{type}{f' {phase}' if phase else ''}": self.means(type, phase)
            for type in types
            for phase in ("prefill", "decode", "")
        }
        return {
            "device": self.device,
            "library": self.library,
            "threads": self.threads,
            "points": [
                {
                    **asdict(p),
                    "ideal_error": p.errors[0],
                    "calibrated_error": p.errors[1],
                }
                for p in self.points
            ],
            "mean_absolute_errors": {
                name: {"ideal": found[0], "calibrated": found[1]}
                for name, found in means.items()
                if found is not None
            },
        }


def _compared(
    device: str, library: Library, dtype: str, least: dict[Any, float]
) -> Iterator[Point]:
    """Measured beside predicted times of one type."""
    kept: dict[str, Any] = {"weights": dtype, "activations": dtype, "kv": dtype}
    passes = ""
    if library.tiled:
        passes = "fuse{siblings=false,epilogue=false,elementwise=false}"
    else:  # dense products compute every pair of scores, masked or not
        kept["mask"] = "compute"
    ideal = compile(SHAPE, device, passes, **kept)
    fitted = compile(SHAPE, device, passes, fidelity="calibrated", **kept)
    for (phase, b, t), took in least.items():
        at = {"B": b, "S" if phase == "prefill" else "T": t}
        metric = "ttft" if phase == "prefill" else "tpot"
        low, close = (float(getattr(c, metric)(**at)) for c in (ideal, fitted))
        yield Point(dtype, phase, b, t, took, low, close)


def validation_text(found: Validation) -> str:
    """A table of errors per type, and their means."""
    return "\n\n".join(
        f"{found.library}, {type}:\n\n{_table(found, type)}"
        for type in dict.fromkeys(p.type for p in found.points)
    )


def _table(found: Validation, type: str) -> str:
    rows = []
    for p in found.points:
        if p.type == type:
            times = [seconds(x) for x in (p.measured, p.ideal, p.calibrated)]
            missed = [f"{100 * e:+z.0f} %" for e in p.errors]
            rows.append((p.phase, str(p.batch), str(p.tokens), times[0], times[1], missed[0],
                         times[2], missed[1]))  # fmt: skip
    head = ("phase", "batch", "tokens", "measured", "ideal", "error", "calibrated", "error")
    lines = [plain_table(head, rows), ""]
    for phase in ("prefill", "decode", ""):
        means = found.means(type, phase)
        if means is not None:
            before, after = (100 * x for x in means)
            what = f"{phase}: " if phase else ""
            lines.append(
                f"{what}mean absolute error: ideal {before:.0f} %, calibrated {after:.0f} %"
            )
    return "\n".join(lines)
