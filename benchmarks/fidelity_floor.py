"""How near a formula of shapes and published figures could come to the measured timings.

    python benchmarks/fidelity_floor.py      half a minute of a free core

Four numbers say what of an error is the form's and what no form could know. **Repeats**: rows of
one shape, device and kernel that were measured twice. **Twins**: H100 and H200, one chip with two
memories, on the same shapes; what they miss apart no form of a shape tells. **Neighbours**: the
held-out error that is left when a row is moved by what its nearest shapes of the other folds
were off by: an estimate of what the tables tell beyond the form, however many parameters it had.
**One factor**: devices left out, moved by the median of what each of their kernels is off by: what
is left when the efficiency is known that figures of a device do not tell.

Errors are mean/median absolute percentages. Nothing here is used by any formula.
"""

from __future__ import annotations

import time

import fidelity
import numpy as np
from scipy.spatial import cKDTree

from costgraph.showing.export.table import plain_table
from costgraph.timing.fidelity.fit import errors
from costgraph.timing.fidelity.study import Study, crossfit, leave_one_out
from costgraph.timing.fidelity.table import SCHEMAS, Array

KINDS = ("gemm", "prefill", "decode", "mla", "moe", "exchange")
TWINS = ("h100_sxm", "h200_sxm")
#: How many neighbours a row takes, and how many times off it is to stray.
NEAREST, STRAY = 4, 1.5
HEAD = ("kind", "rows", "held out", "by neighbours", "stray", "without them")
HEAD_TWICE = ("kind", "repeats", "differ", "twins", "their errors", "apart", "correlated")
HEAD_MOVED = ("kind", "left out", "one factor known")
HEAD_ROUNDED = ("up to", "rows", "held out", "rounding alone")


def off(made: Array, s: Study) -> Array:
    """What each row takes over its prediction, as a logarithm."""
    return np.asarray(np.log(s.seconds / made))


def size(rest: Array) -> str:
    """Errors of predictions that rows are off by ``rest`` from."""
    return fidelity.pair(errors(np.exp(-rest), np.ones(len(rest))))


def apart(logarithms: Array) -> str:
    """By how much the shorter of two times is below the longer."""
    return size(np.abs(logarithms))


def repeats(s: Study) -> Array:
    """Logarithms of what the second measurement of a shape takes over the first."""
    keys = [f"{g}|{x}" for g, x in zip(s.labels["group"], s.table.shapes, strict=True)]
    places = np.unique(keys, return_inverse=True)[1]
    order = np.argsort(places, kind="stable")
    return np.asarray(np.diff(np.log(s.seconds[order]))[np.diff(places[order]) == 0])


def twins(s: Study, rest: Array) -> tuple[Array, Array]:
    """What H100 and H200 are off by on the shapes that both were timed on, with one kernel."""
    columns = (s.labels["variant"], s.table.shapes, s.table.columns["backend"])
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for hw, x, *key in zip(s.labels["device"], rest, *columns, strict=True):
        if hw in TWINS:
            found.setdefault(tuple(map(str, key)), {}).setdefault(str(hw), []).append(float(x))
    both = [x for x in found.values() if len(x) == len(TWINS)]
    first, second = (np.array([np.mean(x[name]) for x in both]) for name in TWINS)
    return first, second


def by_neighbours(s: Study, rest: Array) -> Array:
    """What is left of ``rest`` when each row takes off that of its nearest shapes.

    Neighbours are of the same device and kernel and of other folds; distance is Euclidean in
    the logarithms of the shape, weights fall with it.
    """
    names = [c for c in SCHEMAS[s.kind].numbers if c in s.table.columns]
    shape = np.log([np.maximum(s.table.columns[c].astype(float), 0.5) for c in names]).T
    out = rest.copy()
    for group in np.unique(s.labels["group"]):
        rows = np.flatnonzero(s.labels["group"] == group)
        for fold in np.unique(s.fold[rows]):
            here, there = rows[s.fold[rows] == fold], rows[s.fold[rows] != fold]
            if len(there) < NEAREST:
                continue
            distance, near = cKDTree(shape[there]).query(shape[here], k=NEAREST)
            weight = 1 / (distance + 0.1)
            out[here] -= (weight * rest[there][near]).sum(axis=1) / weight.sum(axis=1)
    return out


def one_factor(s: Study, made: Array) -> Array:
    """Predictions of devices left out, moved by the median of each of their kernels."""
    out = made.copy()
    for group in np.unique(s.labels["group"]):
        rows = s.labels["group"] == group
        out[rows] *= np.median(s.seconds[rows] / made[rows])
    return out


def rounded(s: Study, rest: Array) -> list[tuple[str, ...]]:
    """Rows timed in whole microseconds by size: their error, and that of rounding a time.

    A time that reads ``n`` lies evenly within half a microsecond of it.
    """
    out, us = [], 1e6 * s.seconds
    below = 0.0
    for most in (5.5, 10.5, 20.5, np.inf):
        rows = (us > below) & (us <= most)
        within = np.linspace(-0.5, 0.5, 101)
        alone = (us[rows, None] + within) / us[rows, None]
        name = f"{most:.0f} us" if np.isfinite(most) else "more"
        out.append((name, str(rows.sum()), size(rest[rows]), size(np.log(alone.ravel()))))
        below = most
    return out


def main() -> None:
    started = time.perf_counter()
    sheets = fidelity.datasheets()
    studies = {kind: fidelity.load(kind, sheets) for kind in KINDS}
    studies["elementwise"] = fidelity.elementwise(sheets)
    rests = {kind: off(crossfit(s)[0], s) for kind, s in studies.items()}
    lines, twice, moved = [], [], []
    for kind, s in studies.items():
        rest = rests[kind]
        stray = np.abs(rest) > np.log(STRAY)
        lines.append((kind, str(len(rest)), size(rest), size(by_neighbours(s, rest)),
                      f"{100 * stray.mean():.1f} %", size(rest[~stray])))  # fmt: skip
        again = repeats(s)
        cells = [kind, str(len(again)), apart(again) if len(again) else "-"]
        if kind in ("exchange", "elementwise"):
            cells += ["-"] * 4
        else:
            a, b = twins(s, rest)
            cells += [str(len(a)), size(np.concatenate((a, b))), apart(a - b),
                      f"{np.corrcoef(a, b)[0, 1]:.2f}"]  # fmt: skip
            made, k = leave_one_out(s, fidelity.family(sheets, kind)), s.kernel_timed
            known = one_factor(s, made)
            moved.append(
                (kind, *(fidelity.pair(errors(x[k], s.seconds[k])) for x in (made, known)))
            )
        twice.append(tuple(cells))
    print("held out, and moved by what neighbouring shapes are off by\n")
    print(plain_table(HEAD, lines))
    print("\nmeasured twice, and on two cards of one chip\n")
    print(plain_table(HEAD_TWICE, twice))
    print("\ndevices left out, and with the median of each of their kernels known\n")
    print(plain_table(HEAD_MOVED, moved))
    print("\nelement-wise kernels, timed in whole microseconds\n")
    print(plain_table(HEAD_ROUNDED, rounded(*(x["elementwise"] for x in (studies, rests)))))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
