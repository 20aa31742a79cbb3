"""Scores ``calibrated@llama.cpp`` on measured runs of llama.cpp, and fits it.

    python benchmarks/llama_cpp.py           errors of ideal, calibrated and calibrated@llama.cpp
    python benchmarks/llama_cpp.py --write   fit, and write hardware/frameworks/llama.cpp.toml

Runs: benchmarks/data/timings/llama_bench.csv.gz. A third of them is kept back, by a hash; the
fit never sees them. ``tokens`` is the mean context of a generation, or the prompt.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.hardware.machine import Engine
from costgraph.ops.experts import ExpertLinear
from costgraph.showing.export.table import plain_table
from costgraph.timing import roofline
from costgraph.timing.fidelity.classify import main_node
from costgraph.timing.fidelity.frameworks import Framework, framework, kernels

DATA = Path(__file__).parent / "data" / "timings" / "llama_bench.csv.gz"
NAME = "llama.cpp"
#: Passes that store weights as a format of llama.cpp does. Q4_K_M has 4.9 bits per weight (the
#: file of Llama 3 8B 4.58 GiB), ``q4_1`` 5; files of gpt-oss keep all but experts in Q8_0.
FORMATS = {
    "F16": "",
    "Q4_K_M": "quantize{weights=q4_1,keep=none}",
    "Q8_0": "quantize{weights=q8_0,keep=router}",
    "MXFP4": "quantize{weights=q8_0,keep=expert|router}",
}
#: Where a fit starts, by platform.
START = {
    "cuda": {
        "launch": 2e-6, "em": 0.8, "stream": 5.0, "issue": 1000.0, "expand": 200.0, "experts": 1.5,
    },
    "metal": {"launch": 8e-6, "em": 0.85, "ec": 0.7},
}  # fmt: skip
PROVENANCE = (
    "whole runs of llama.cpp: GPU-Benchmarks-on-LLM-Inference (May 2024), llama.cpp's page on the "
    "DGX Spark (2025); two thirds fitted, errors on the rest"
)


@dataclass(frozen=True)
class Run:
    """A measured run: one step of a batch, in seconds."""

    device: str
    model: str
    format: str
    step: str
    batch: int
    tokens: int
    seconds: float

    @property
    def kept_back(self) -> bool:
        """Whether no fit may see it."""
        text = f"{NAME} 20|{self.device}|{self.model}|{self.format}|{self.step}|{self.batch}"
        return int(hashlib.sha256(f"{text}|{self.tokens}".encode()).hexdigest(), 16) % 3 == 0

    @property
    def dependent(self) -> bool:
        """Experts of several sequences: such runs beat the bound of texts that differ by up to a
        half. Sequences of a benchmark are presumably alike and choose the same experts."""
        return self.batch > 1 and self.model.startswith(("gpt-oss", "qwen3-30b"))

    def of(self, compiled: Compiled) -> float:
        """The time that a compiled model predicts."""
        if self.step == "decode":
            return float(compiled.tpot(B=self.batch, T=self.tokens))
        return float(compiled.ttft(B=self.batch, S=self.tokens))


def read_runs() -> list[Run]:
    """All runs of the table."""
    with gzip.open(DATA, "rt") as file:
        rows = list(csv.DictReader(file))
    runs = []
    for r in rows:
        decode, batch, tokens = r["test"] == "tg", int(r["batch"]), int(r["tokens"])
        done = batch if decode else batch * tokens
        step = "decode" if decode else "prompt"
        seconds = done / float(r["tokens_per_second"])
        runs.append(Run(r["device"], r["model"], r["format"], step, batch, tokens, seconds))
    return runs


@lru_cache(maxsize=256)
def compiled(device: str, model: str, format: str, fidelity: str) -> Compiled:
    """The model as a run has it."""
    passes = ",".join(filter(None, ("fuse", FORMATS[format])))
    if fidelity == "ideal":
        return cg.compile(model, device, passes)
    return cg.compile(compiled(device, model, format, "ideal").program, device, fidelity=fidelity)


def predicted(run: Run, fidelity: str) -> float:
    """Seconds of a run at a fidelity."""
    return run.of(compiled(run.device, run.model, run.format, fidelity))


def parts(run: Run) -> tuple[np.ndarray, list[tuple[str, bool]]]:
    """Operations of a run: count, kernels, seconds of products, of traffic and of other work at
    the device's figures; and the type of their products, and whether experts do them."""
    made = compiled(run.device, run.model, run.format, "ideal")
    decode = run.step == "decode"
    phase = made.program.phase("decode" if decode else "prefill")
    sizes = {"B": run.batch, "T" if decode else "S": run.tokens}
    numbers, kinds = [], []
    for row, shown in zip(
        made.rows[phase.name], made.breakdown(phase.name, **sizes).rows, strict=True
    ):
        arms = roofline.arms(row.cost.mapped(phase.bind), made.machine)
        if not arms:
            continue
        at = {s: sizes[s.name] for a in arms for s in a.expr.free_symbols}
        times = [(a.resource, float(a.expr.xreplace(at))) for a in arms]
        given = row.graph.operands(row.node)
        types = [d for e, d in row.node.op.work(given, row.node.outputs) if e is Engine.TENSOR]
        grouped = isinstance(main_node(row.node, given)[0].op, ExpertLinear)
        dtype = types[0] if types else "bf16"
        engine, kind = made.machine.resolve(Engine.TENSOR, dtype)
        own = f"{engine.value}:{kind}" if types else ""
        work, moved, other = (
            max((t for r, t in times if of(r)), default=0.0)
            for of in (
                lambda r, own=own: r == own,
                lambda r: r == "memory",
                lambda r, own=own: r not in (own, "memory"),
            )
        )
        numbers.append((shown.count, kernels(row.node.op), work, moved, other))
        kinds.append((dtype, grouped))
    return np.array(numbers, float), kinds


def fitted(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Parameters of all platforms: robust least squares on logarithms."""
    from scipy.optimize import least_squares

    names = [(place, key) for place, table in START.items() for key in table]
    start = np.log([START[place][key] for place, key in names])
    low = {"em": 0.02, "ec": 0.003, "experts": 1.0}
    high = {"em": 1.0, "ec": 1.0}
    bounds = (
        [math.log(low.get(key, 1e-9)) for _, key in names],
        [math.log(high.get(key, 1e9)) for _, key in names],
    )
    taken = [(run, *parts(run)) for run in runs]
    machines = {r.device: compiled(r.device, r.model, r.format, "ideal").machine for r in runs}

    def tables(x: np.ndarray) -> dict[str, dict[str, float]]:
        out: dict[str, dict[str, float]] = {place: {} for place in START}
        for (place, key), value in zip(names, np.exp(x), strict=True):
            out[place][key] = float(value)
        return out

    def time(run: Run, numbers: np.ndarray, kinds: list[tuple[str, bool]], of: Framework,
             known: dict) -> float:  # fmt: skip
        machine = machines[run.device]
        launch = float(of.launch(machine))
        pairs = []
        for dtype, grouped in kinds:
            key = (run.device, dtype, grouped)
            if key not in known:
                known[key] = tuple(map(float, of.factors(machine, dtype, grouped)))
            pairs.append(known[key])
        count, many, work, moved, other = numbers.T
        slow, read = np.array(pairs).T
        longest = np.maximum(np.maximum(work * slow, moved * read), other)
        return float((count * (launch * many + longest)).sum())

    def residuals(x: np.ndarray) -> np.ndarray:
        of, known = Framework(NAME, "", tables(x)), {}
        misses = [math.log(time(r, n, k, of, known) / r.seconds) for r, n, k in taken]
        return np.array([*misses, *(0.03 * (x - start))])

    made = least_squares(
        residuals, start, loss="cauchy", f_scale=0.1, bounds=bounds, diff_step=1e-3
    )
    return tables(made.x)


def ratios(runs: Sequence[Run], of: Callable[[Run], float]) -> np.ndarray:
    """Predicted over measured time."""
    return np.array([of(r) / r.seconds for r in runs])


def errors(ratio: np.ndarray) -> tuple[float, float]:
    """Mean and median absolute error, percent."""
    off = 100 * np.abs(ratio - 1)
    return float(off.mean()), float(np.median(off))


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by step and kind of batch."""
    usual = [r for r in runs if not r.dependent]
    return {
        "decode, batch 1": [r for r in usual if r.step == "decode" and r.batch == 1],
        "decode, batches": [r for r in usual if r.step == "decode" and r.batch > 1],
        "prompt": [r for r in usual if r.step == "prompt"],
        "decode, batches over experts": [r for r in runs if r.dependent],
    }


def heldout(runs: Sequence[Run], of: Callable[[Run], float]) -> dict[str, dict[str, float]]:
    """What a file states of runs kept back, by step."""
    out = {}
    for step in ("decode", "prompt"):
        some = [r for r in runs if r.kept_back and not r.dependent and r.step == step]
        ratio = ratios(some, of)
        mean, median = errors(ratio)
        low, middle, high = np.quantile(1 / ratio, (0.1, 0.5, 0.9))
        out[step] = {"rows": len(some), "mean": mean, "median": median,
                     "q10": low, "q50": middle, "q90": high}  # fmt: skip
    return out


def text_of(tables: Mapping[str, Mapping[str, float]], held: Mapping) -> str:
    """The file of a framework."""
    lines = [f'framework = "{NAME}"', f'provenance = "{PROVENANCE}"']
    for name, table in [*tables.items(), *((f"heldout.{s}", t) for s, t in held.items())]:
        lines += ["", f"[{name}]", *(f"{k} = {v:.5g}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def score(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Errors by step, of runs fitted and kept back."""
    fidelities = ("ideal", "calibrated", f"calibrated@{NAME}")
    out = []
    for name, some in groups(runs).items():
        for label, kept in (("fitted", False), ("kept back", True)):
            part = [r for r in some if r.kept_back is kept]
            if name.endswith("experts"):
                label = f"{label}, not used"
            cells = [
                "{:.0f}/{:.0f}".format(*errors(ratios(part, lambda r, f=f: predicted(r, f))))
                for f in fidelities
            ]
            out.append((name, label, str(len(part)), *cells))
    return out


def left_out(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Errors on each device, by fits that saw none of its runs."""
    found: dict[str, list[float]] = {"decode": [], "prompt": []}
    usual = [r for r in runs if not r.dependent]
    for device in dict.fromkeys(r.device for r in usual):
        tables = fitted([r for r in usual if r.device != device and not r.kept_back])
        of = Framework(NAME, "left out", tables, framework(NAME).heldout)
        for r in (r for r in usual if r.device == device):
            base = compiled(r.device, r.model, r.format, f"calibrated@{NAME}")
            made = replace(base, timing=replace(base.timing, served=of))
            found[r.step].append(r.of(made) / r.seconds)
    return [
        (step, str(len(x)), "{:.0f}/{:.0f}".format(*errors(np.array(x))))
        for step, x in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="fit and write the shipped file")
    parser.add_argument("--left-out", action="store_true", help="also leave out whole devices")
    arguments = parser.parse_args()
    runs = read_runs()
    if arguments.write:
        folder = Path(__file__).parents[1] / "hardware" / "frameworks"
        tables = fitted([r for r in runs if not r.kept_back and not r.dependent])
        target = folder / f"{NAME}.toml"
        # Parameters first; their errors are those of the file as it is read.
        target.write_text(text_of(tables, heldout(runs, lambda r: r.seconds)))
        framework.cache_clear()
        held = heldout(runs, lambda r: predicted(r, f"calibrated@{NAME}"))
        target.write_text(text_of(tables, held))
        framework.cache_clear()
        compiled.cache_clear()
    head = ("step", "runs", "rows", "ideal", "calibrated", f"calibrated@{NAME}")
    print(plain_table(head, score(runs)))
    if arguments.left_out:
        print(plain_table(("device left out", "rows", f"calibrated@{NAME}"), left_out(runs)))


if __name__ == "__main__":
    main()
