"""Fits first tokens of loaded servers to published runs and scores them; see docs/fidelity.md.

    python benchmarks/serving_first.py            errors of runs and models left out (two minutes)
    python benchmarks/serving_first.py --write    also writes hardware/servers

One form per framework, ``h0 + a·P·c^g + b·step`` (:mod:`costgraph.timing.fidelity.first_token`),
fitted to the mean time to first token of runs on one node that have room for all requests in
flight, with ``P`` and ``step`` calibrated by the framework's own kernels. Every run is predicted by
a fit that saw none of its fold (five, by a hash of all but its times), and by one that saw no run
of its model.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from fidelity_write import summary
from serving import Groups, Run, Scored, band, grouped, pair, runs

from costgraph.files.writing import write_whole
from costgraph.showing.export.table import plain_table
from costgraph.timing.fidelity.first_token import PARAMETERS, FirstToken, first_token_text

FOLDER = Path(__file__).parent.parent / "hardware" / "servers"
FOLDS = 5
SOURCE = "runs of {} models on H100, H200 and B200 in silicon_sample.csv of NVIDIA aiconfigurator "
LICENCE = "(Apache-2.0), one node, {} runs"


def fold_of(run: Run) -> int:
    """One of five, by a hash of everything but the times."""
    text = repr(replace(run, ttft=0.0, tpot=0.0))
    return hashlib.sha256(text.encode()).digest()[1] % FOLDS


def fitted(prefill: np.ndarray, step: np.ndarray, c: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Values of the form: least soft-L1 of the logarithm of predicted over measured time."""
    from scipy.optimize import least_squares

    low, high = (np.array([p[i] for p in PARAMETERS.values()]) for i in (0, 1))
    # Of one size each.
    scale = np.array([1e-2, 1.0, 1.0, 1.0])

    def residual(x: np.ndarray) -> np.ndarray:
        h0, a, g, b = x * scale
        return np.log((h0 + a * prefill * c**g + b * step) / t)

    starts = ((1.0, 1.0, 0.5, 1.0), (5.0, 2.0, 0.3, 5.0), (0.1, 0.5, 0.8, 10.0))
    found = [
        least_squares(residual, start, loss="soft_l1", f_scale=0.2,
                      bounds=(low / scale + 1e-9, high / scale))
        for start in starts
    ]  # fmt: skip
    best = min(found, key=lambda r: r.cost).x * scale
    # What ends at its limit takes no part.
    return {k: float(x) if x > 1e-6 else 0.0 for k, x in zip(PARAMETERS, best, strict=True)}


class First:
    """Runs that tell of first tokens, and what fits of others predict for them."""

    def __init__(self, s: Scored) -> None:
        ttft = s.column(lambda r: r.ttft).astype(float)
        keep = np.isfinite(ttft) & ~s.limited & s.column(lambda r: r.is_usual)
        self.runs = [r for r, k in zip(s.runs, keep, strict=True) if k]
        self.ttft = ttft[keep]
        made = [p for p, k in zip(s.made["framework"], keep, strict=True) if k]
        self.prefill = np.array([p.share for p in made])
        self.step = np.array([p.step for p in made])
        self.c = self.column(lambda r: r.c).astype(float)
        self.framework = self.column(lambda r: r.framework)
        self.model = self.column(lambda r: r.model)

    def column(self, of: Callable[[Run], object]) -> np.ndarray:
        return np.array([of(r) for r in self.runs])

    def fit(self, m: np.ndarray) -> dict[str, float]:
        return fitted(self.prefill[m], self.step[m], self.c[m], self.ttft[m])

    def value(self, values: dict[str, float], m: np.ndarray) -> np.ndarray:
        made = FirstToken("", "", values, {})
        return np.array(made.seconds(self.prefill[m], self.step[m], self.c[m]))

    def left_out(self, labels: np.ndarray) -> np.ndarray:
        """Every run by a fit of its framework that saw no run of its label."""
        out = np.full(len(self.ttft), np.nan)
        for name in np.unique(self.framework):
            own = self.framework == name
            for label in np.unique(labels[own]):
                m = own & (labels == label)
                if (own & ~m).sum() > len(PARAMETERS):
                    out[m] = self.value(self.fit(own & ~m), m)
        return out


HEAD = ("by", "", "runs", "no wait", "in step", "seen", "folds left out", "model left out")


def table(f: First) -> list[tuple[str, ...]]:
    """Errors by group."""
    folds = f.left_out(f.column(fold_of))
    models = f.left_out(f.model)
    seen = np.zeros(len(f.ttft))
    for name in np.unique(f.framework):
        m = f.framework == name
        seen[m] = f.value(f.fit(m), m)
    columns = (f.prefill, f.prefill * (f.c + 1) / 2, seen, folds, models)
    groups: Groups = (
        ("all", lambda r: ""),
        ("framework", lambda r: r.framework),
        ("device", lambda r: r.device),
        ("c", lambda r: band(r.c)),
        ("lengths", lambda r: "drawn" if r.drawn else "equal"),
        ("model", lambda r: f"{r.model} {r.precision or 'bf16'} {r.device}"),
    )
    out = []
    for name, label, m in grouped(f.runs, groups):
        made = (pair(x[m & np.isfinite(x)], f.ttft[m & np.isfinite(x)]) for x in columns)
        out.append((name, label, str(m.sum()), *made))
    return out


def forms(f: First) -> list[FirstToken]:
    """What is shipped: fitted to all runs of a framework, with errors of models left out."""
    unseen, out = f.left_out(f.model), []
    for name in np.unique(f.framework):
        m = f.framework == name
        models = len(np.unique(f.model[m]))
        said = SOURCE.format(models) + LICENCE.format(m.sum())
        out.append(FirstToken(str(name), said, f.fit(m), summary(unseen[m], f.ttft[m])))
    return out


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write hardware/servers")
    arguments = parser.parse_args()
    started = time.perf_counter()
    f = First(Scored(r for r in runs(8)[0] if r.is_usual))
    print("mean time to first token: mean/median absolute error, median signed, in percent\n")
    print(plain_table(HEAD, table(f)))
    made = forms(f)
    print()
    head = ("framework", "runs", "h0, ms", "a", "g", "b")
    print(plain_table(head, [
        (x.framework, f"{x.heldout['rows']:.0f}", f"{1e3 * x.values['h0']:.1f}",
         *(f"{x.values[k]:.3g}" for k in ("a", "g", "b")))
        for x in made
    ]))  # fmt: skip
    if arguments.write:
        for x in made:
            write_whole(FOLDER / f"{x.framework}.toml", first_token_text(x).encode())
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
