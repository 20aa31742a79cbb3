"""Scores formulas of a loaded server on published serving runs; see docs/serving.md.

    python benchmarks/serving.py            all tables (about three minutes)
    python benchmarks/serving.py --one      runs on one GPU only
    python benchmarks/serving.py --rows     also every run with its prediction
    python benchmarks/serving.py --bands    also the bands of whole models (three minutes more)

A run states the mean time to first token and time per output token of a closed
loop with ``c`` requests in flight. No parameter is fitted to the runs, but for one
that is reported apart: host time per step and framework, fitted on half of the runs.
Several GPUs are the pass ``parallel`` on a system of them: serving_model.py. Data:
benchmarks/data/timings/README.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from serving_model import NODE, Layout, Prediction, predict, server

from costgraph.errors import CostgraphError
from costgraph.showing.export.table import plain_table
from costgraph.timing.fidelity.bands import RUNS

DATA = Path(__file__).parent / "data" / "timings"
DEVICES = {"h100_sxm": "h100", "h200_sxm": "h200", "b200_sxm": "b200"}
MODELS = {
    "Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "Qwen3-32B": "qwen3-32b",
    "Qwen3-32B-NVFP4": "qwen3-32b",
    "gpt-oss-120b": "gpt-oss-120b",
    "Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "MiniMax-M2.5": "minimax-m2.5",
    "DeepSeek-V3": "deepseek-v3",
}
#: Models whose fp8 checkpoints have a scale per block of 128 × 128 weights (``weight_block_size``
#: of their configurations); of others a run's quantisation mode says so.
BLOCKS = ("deepseek-v3", "minimax-m2.5", "qwen3-235b-a22b", "qwen3-32b")
DENSE = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b")
#: Runs that drafted tokens cannot be told from others: 13 settings stand twice, with
#: times up to 1.7 apart.
DRAFTED = ("DeepSeek-R1",)
#: Lengths of the runs of one benchmark suite (InferenceMAX) are drawn evenly from 0.8
#: to 1 times these; its README states the ratio. Other runs have equal lengths.
DRAWN = ((1024, 1024), (1024, 8192), (8192, 1024))
FIDELITIES = ("ideal", "calibrated", "framework")


@dataclass(frozen=True)
class Run:
    """One measured run; times in seconds."""

    device: str
    framework: str
    model: str
    precision: str
    S: int
    N: int
    c: int
    layout: Layout
    ttft: float
    tpot: float
    drawn: bool
    #: Products in fp8 have scales per block. Not in the text, whose hash is the run's half.
    blocks: bool = field(repr=False)

    @property
    def gpus(self) -> int:
        """GPUs of the server."""
        return self.layout.gpus

    @property
    def is_usual(self) -> bool:
        """One node, attention split and not in replicas: what most tables take."""
        return self.gpus <= NODE and self.layout.dp == 1

    @property
    def launched(self) -> Layout | None:
        """On what the suite launched the run, where its row states a square of it."""
        return self.layout.launched if self.drawn else None

    @property
    def whole(self) -> float:
        """Seconds from arrival to the last token."""
        first = 0.0 if math.isnan(self.ttft) else self.ttft
        return first + (self.N - 1) * self.tpot

    @property
    def half(self) -> int:
        """0 or 1 by a hash of everything but the times."""
        text = repr(replace(self, ttft=0.0, tpot=0.0))
        return hashlib.sha256(text.encode()).digest()[0] % 2

    @property
    def passes(self) -> str:
        """The pipeline that stands for the run's formats.

        gpt-oss keeps attention in 16 bit; its experts are MXFP4 with 16-bit
        activations, on B200 with 8-bit ones.
        """
        if not self.precision:
            return "fuse"
        kv = ",kv=fp8" if self.has_narrow_caches else ""
        if self.model == "gpt-oss-120b":
            wide = "lm_head|embed|positions|router|q_proj|k_proj|v_proj|o_proj"
            act = ",activations=mxfp8" if self.device == "b200" else ""
            return f"quantize{{weights=mxfp4{act}{kv},keep={wide}}},fuse"
        preset = {"fp8": "fp8-block" if self.blocks else "fp8", "fp4": "nvfp4"}[self.precision]
        return f"quantize{{preset={preset}{kv}}},fuse"

    @property
    def has_narrow_caches(self) -> bool:
        """Whether caches are in 8 bit; the runs do not say.

        The benchmark suite's launch scripts do (:data:`DRAWN`). Of other runs: with TensorRT-LLM
        and on B200, wherever weights are narrow.
        """
        if self.drawn and self.device != "b200":
            if self.model == "llama-3.1-70b":  # kv-cache-dtype: fp8, with every framework
                return True
            if self.model == "gpt-oss-120b":  # TensorRT-LLM: kv_cache_config: dtype: auto
                return False
        return self.framework == "trtllm" or self.device == "b200"

    def predicted(self, fidelity: str) -> Prediction:
        made = server(
            self.model, self.device, self.passes, self.layout, fidelity, self.framework,
        )  # fmt: skip
        return predict(made, self.c, self.S, self.N)


def rows() -> list[dict[str, str]]:
    """The table of serving runs."""
    with gzip.open(DATA / "serving_e2e.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def read(row: dict[str, str]) -> Run | str:
    """A run, or why it cannot be expressed."""
    if row["mode"] != "agg":
        return "prefill and decode on different GPUs"
    if row["model"] in DRAFTED:
        return "some drafted tokens, unlabelled"
    if row["model"] not in MODELS:
        return "model or variant not shipped"
    if not row["concurrency"]:
        return "no concurrency stated"
    if int(row["pp_size"] or 1) > 1:
        return "layers split over GPUs"
    model = MODELS[row["model"]]
    moe_tp, moe_ep = int(row["moe_tp_size"] or 1), int(row["moe_ep_size"] or 1)
    layout = Layout(int(row["tp_size"]), int(row["attention_dp_size"] or 1), moe_ep)
    if model in DENSE:
        layout = replace(layout, ep=1)
    elif moe_tp * moe_ep != layout.gpus:
        return "experts on fewer or more GPUs than attention"
    return run_of(row, layout)


def run_of(row: dict[str, str], layout: Layout) -> Run:
    """What a row states, on GPUs that share the model as ``layout`` says."""
    model, S, N = MODELS[row["model"]], int(row["isl"]), int(row["osl"])
    drawn = (S, N) in DRAWN
    if drawn:
        S, N = round(0.9 * S), round(0.9 * N)
    return Run(
        DEVICES[row["hw"]], row["backend"], model, row["precision"], S, N,
        int(row["concurrency"]), layout,
        float(row["ttft_s"] or "nan"), float(row["tpot_s"]), drawn,
        model in BLOCKS or row["gemm_quant_mode"] == "fp8_block",
    )  # fmt: skip


def runs(most_gpus: int = 64) -> tuple[list[Run], Counter[str]]:
    """Runs that can be expressed, and how many were left out and why."""
    kept, left = [], Counter()
    for row in rows():
        made = read(row)
        if isinstance(made, str):
            left[made] += 1
        elif made.gpus > most_gpus:
            left["several GPUs (--one)"] += 1
        else:
            kept.append(made)
    return kept, left


class Scored:
    """Runs with their predictions at every fidelity."""

    def __init__(self, given: Iterable[Run]) -> None:
        self.runs: list[Run] = []
        self.failed: Counter[str] = Counter()
        self.faster: list[Run] = []
        found: dict[str, list[Prediction]] = {f: [] for f in FIDELITIES}
        for run in sorted(given, key=repr):
            try:
                made = {f: run.predicted(f) for f in FIDELITIES}
            except CostgraphError as error:
                self.failed[f"{run.model} {run.precision}: {error}"] += 1
                continue
            # Prompts that were cached, tokens that were drafted, fewer at a time than stated.
            if run.whole < 0.98 * made["ideal"].least or run.tpot < 0.98 * made["ideal"].step:
                self.faster.append(run)
                continue
            self.runs.append(run)
            for f in FIDELITIES:
                found[f].append(made[f])
        self.made = found
        self.tpot = np.array([r.tpot for r in self.runs])
        self.limited = np.array([p.batch < p.c for p in found["ideal"]])

    def values(self, fidelity: str, of: Callable[[Prediction], float]) -> np.ndarray:
        return np.array([of(p) for p in self.made[fidelity]])

    def column(self, of: Callable[[Run], object]) -> np.ndarray:
        return np.array([of(r) for r in self.runs])


def pair(predicted: np.ndarray, measured: np.ndarray) -> str:
    """Mean/median absolute error and bias (median signed error) in percent."""
    signed = 100 * (predicted / measured - 1)
    size = np.abs(signed)
    return f"{size.mean():.0f}/{np.median(size):.0f} {np.median(signed):+.0f}"


#: What tables tell runs apart by: a name, and a run's label.
Groups = Sequence[tuple[str, Callable[[Run], str]]]


def grouped(given: Sequence[Run], groups: Groups) -> Iterator[tuple[str, str, np.ndarray]]:
    """The lines of a table: a group's name before its first label, a label, and whose it is."""
    for name, of in groups:
        labels = np.array([of(r) for r in given])
        for i, label in enumerate(np.unique(labels)):
            yield name if i == 0 else "", str(label), labels == label


def table(s: Scored, overhead: np.ndarray) -> list[tuple[str, ...]]:
    """Errors of TPOT by group."""
    columns = [s.values(f, lambda p: p.tpot()) for f in FIDELITIES]
    columns += [
        s.values("framework", lambda p: p.tpot(0.5)),
        s.values("framework", lambda p: p.shared),
        columns[2] + overhead,
    ]
    latency = s.values("framework", lambda p: p.latency)
    whole = s.column(lambda r: r.whole)
    out = []

    def line(group: str, name: str, m: np.ndarray) -> None:
        if m.any():
            made = (pair(c[m], s.tpot[m]) for c in columns)
            out.append((group, name, str(m.sum()), *made, pair(latency[m], whole[m])))

    everything = np.ones(len(s.tpot), bool)
    line("all", "", everything)
    known = s.column(lambda r: r.is_usual)
    line("", "one node, attention split", known)
    line("", "others", ~known)
    line("memory", "room for all c", ~s.limited)
    line("", "caches limit c", s.limited)
    groups: Groups = (
        ("device", lambda r: r.device),
        ("framework", lambda r: r.framework),
        ("GPUs", lambda r: f"{r.gpus:2d}"),
        ("split", lambda r: split(r.layout)),
        ("model", lambda r: f"{r.model} {r.precision or 'bf16'} {r.device}"),
        ("lengths", lambda r: "drawn" if r.drawn else "equal"),
        ("experts", experts),
        ("c", lambda r: band(r.c)),
        ("prompt over answer", ratio),
    )
    for group in grouped(s.runs, groups):
        line(*group)
    return out


def split(layout: Layout) -> str:
    """How a model is split over GPUs."""
    if layout.gpus == 1:
        return "not at all"
    if layout.dp > 1:
        return "attention replicated, experts whole"
    if layout.is_mixed:
        return "experts both ways, taken as whole"
    return "experts whole" if layout.ep > 1 else "every tensor"


def band(c: int) -> str:
    """The factor of four that ``c`` is in."""
    low = 1
    while c >= 4 * low:
        low *= 4
    return f"{low:3d} to {4 * low - 1:4d}"


def experts(run: Run) -> str:
    """How the experts' weights are stored."""
    if run.model in DENSE:
        return "none"
    if run.model == "gpt-oss-120b":
        return "mxfp4"
    return {"": "bf16", "fp4": "nvfp4"}.get(run.precision, run.precision)


def ratio(run: Run) -> str:
    x = run.S / run.N
    return "below 1/2" if x < 0.5 else "1/2 to 2" if x <= 2 else "2 to 8" if x <= 8 else "above 8"


def suite(run: Run) -> str:
    """A framework in one of the suites that measured it: those had other versions of it."""
    return f"{run.framework}, {'InferenceMAX' if run.drawn else 'others'}"


def host(
    s: Scored, base: np.ndarray | None = None, of: Callable[[Run], str] = lambda r: r.framework
) -> tuple[np.ndarray, dict[str, float]]:
    """Host seconds per step by framework (or what ``of`` says), for the half that did not fit them.

    The value that makes the median absolute relative error least, on each half;
    every run takes the other half's. Runs whose caches limit c do not fit.
    """
    if base is None:
        base = s.values("framework", lambda p: p.tpot())
    half, labels = s.column(lambda r: r.half), s.column(of)
    out, found = np.zeros(len(base)), {}
    grid = np.arange(-2e-3, 10e-3, 2e-5)
    for name in np.unique(labels):
        for h in (0, 1):
            m = (labels == name) & (half == h) & ~s.limited
            if not m.any():
                continue
            error = [np.median(np.abs((base[m] + t) / s.tpot[m] - 1)) for t in grid]
            best = float(grid[int(np.argmin(error))])
            found[f"{name}, half {h}"] = best
            out[(labels == name) & (half != h)] = best
    return out, found


BANDS = ("runs", "", "count", "inside", "below", "above", "width", "score", "q10", "q50", "q90")


def bands(s: Scored) -> list[tuple[str, ...]]:
    """How many runs are inside the band of their model, by half and group.

    Width is the median of high over low; the score that of Winkler for 80 % in logarithms
    (width, and ten times what a run is outside; less is better). The last columns are
    what ``costgraph.timing.fidelity.bands.RUNS`` would be, fitted to these runs.
    """
    names = ("low", "median", "high")
    made = {f: np.array([r.predicted(f).tpot() for r in s.runs]) for f in names}
    node = s.column(lambda r: r.is_usual)
    half, out = s.column(lambda r: r.half), []

    def line(group: str, name: str, m: np.ndarray, of: dict[str, np.ndarray] = made) -> None:
        if not m.any():
            return
        low, middle, high = (of[f][m] for f in of)
        t = s.tpot[m]
        outside = np.log(np.maximum(low / t, 1) * np.maximum(t / high, 1))
        score = (np.log(high / low) + 10 * outside).mean()
        fitted = (RUNS[q] * np.quantile(t / x, float(q[1:]) / 100)
                  for q, x in zip(RUNS, (low, middle, high), strict=True))  # fmt: skip
        shares = ((t >= low) & (t <= high), t < low, t > high)
        out.append((group, name, str(m.sum()), *(f"{100 * x.mean():.0f} %" for x in shares),
                    f"{np.median(high / low):.2f}", f"{score:.3f}",
                    *(f"{x:.3f}" for x in fitted)))  # fmt: skip

    line("one node, attention split", "half that chose the rule", node & (half == 0))
    line("", "other half", node & (half == 1))
    line("others", "", ~node)
    launched = {f: np.array([x if usual else as_launched(r, f, x)
                             for r, x, usual in zip(s.runs, made[f], node, strict=True)])
                for f in names}  # fmt: skip
    line("", "as launched", ~node, launched)
    groups: Groups = (
        ("", lambda r: r.device),
        ("", lambda r: r.framework),
        ("", lambda r: r.model),
    )
    for _, label, m in grouped(s.runs, groups):
        line("other half", label, node & (half == 1) & m)
    return out


def as_launched(run: Run, fidelity: str, stated: float) -> float:
    """Time per token on the GPUs that the suite's scripts launch, where these hold the weights."""
    if run.launched is None:
        return stated
    try:
        return replace(run, layout=run.launched).predicted(fidelity).tpot()
    except CostgraphError:
        return stated


def squares(s: Scored) -> list[tuple[str, ...]]:
    """Runs whose GPUs are a square: errors on all of them, and as the suite's scripts launch them.

    Left out are runs whose weights the GPUs launched would not hold.
    """
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for run, made in zip(s.runs, s.made["framework"], strict=True):
        if run.launched is None:
            continue
        try:
            fewer = replace(run, layout=run.launched).predicted("framework")
        except CostgraphError:
            continue
        key = f"{run.gpus:2d}", split(run.layout)
        found.setdefault(key, []).append((run.tpot, made.tpot(), fewer.tpot()))
    out = []
    for (gpus, how), times in sorted(found.items()):
        measured, stated, launched = np.array(times).T
        out.append((gpus, how, str(len(times)), pair(stated, measured), pair(launched, measured)))
    return out


def first_tokens(s: Scored) -> list[tuple[str, ...]]:
    """Time to first token: its least, and how many runs are inside the band."""
    out = []
    ttft = s.column(lambda r: r.ttft)
    known = np.isfinite(ttft) & ~s.limited
    for f in FIDELITIES:
        low, high = (s.values(f, lambda p, i=i: p.ttft[i]) for i in (0, 1))
        out.append((
            f,
            str(known.sum()),
            pair(low[known], ttft[known]),
            pair(high[known], ttft[known]),
            *(f"{100 * x[known].mean():.0f} %" for x in (
                ttft < low, (ttft >= low) & (ttft <= high), ttft > high)),
        ))  # fmt: skip
    return out


EVERY = ("model", "", "device", "framework", "gpus", "S", "N", "c", "measured", "ideal", "tpot",
         "step", "shared", "%", "ttft", "low", "high")  # fmt: skip
HEAD = ("by", "", "runs", "ideal", "calibrated", "framework", "in step", "shared", "+ host time",
        "latency")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", action="store_true", help="runs on one GPU only")
    parser.add_argument("--rows", action="store_true", help="every run")
    parser.add_argument("--bands", action="store_true", help="also bands of whole models")
    arguments = parser.parse_args()
    started = time.perf_counter()
    kept, left = runs(1) if arguments.one else runs()
    s = Scored(kept)
    overhead, found = host(s)
    print(f"{len(s.runs)} runs of {len(rows())}; left out:")
    for why, count in (left + s.failed).most_common():
        print(f"  {count:4d} {why}")
    print(f"  {len(s.faster):4d} faster than the lower bound of the stated setting:")
    faster = Counter(f"{r.model} {r.precision} {r.device} {r.framework}" for r in s.faster)
    for what, count in faster.most_common():
        print(f"         {count:4d} {what}")
    print("\nerror of TPOT: mean/median absolute, median signed, in percent\n")
    print(plain_table(HEAD, table(s, overhead)))
    print("\nruns whose GPUs are a square: as stated, and as launched\n")
    print(plain_table(("GPUs", "split", "runs", "stated", "launched"), squares(s)))
    if arguments.bands:
        print("\nruns inside the bands of their models\n")
        print(plain_table(BANDS, bands(s)))
    print("\nhost time per step in ms:", {k: round(1e3 * x, 2) for k, x in found.items()})
    print("\ntime to first token, runs with room for all c\n")
    print(plain_table(("fidelity", "runs", "no wait", "in step", "below", "between", "above"),
                      first_tokens(s)))  # fmt: skip
    if arguments.rows:
        lines = []
        for i, r in enumerate(s.runs):
            g = r.layout
            p, q = s.made["framework"][i], s.made["ideal"][i]
            lines.append(
                (r.model, r.precision, r.device, r.framework, f"{g.tp}x{g.dp} ep {g.ep}",
                 str(r.S), str(r.N), f"{r.c}" + (f">{p.batch}" if p.batch < r.c else ""),
                 *(f"{1e3 * x:.2f}" for x in (r.tpot, q.tpot(), p.tpot(), p.step, p.shared)),
                 f"{100 * (p.tpot() / r.tpot - 1):+.0f}",
                 *(f"{1e3 * x:.0f}" for x in (r.ttft, *p.ttft)))
            )  # fmt: skip
        print(plain_table(EVERY, lines))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
