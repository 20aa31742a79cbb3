"""Output tokens per second and GPU at full load, against TensorRT-LLM's own page; part of
fidelity.py.

Nothing is fitted. The server holds as many requests as its memory does, each with its whole
length; a request takes its prompt and its share of every decode step. Formats are not
stated in the table: fp8 weights and caches on Hopper, NVFP4 weights on Blackwell (its page
names such checkpoints, from memory), gpt-oss as published.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
from serving_model import Layout, server

import costgraph as cg
from costgraph.errors import CostgraphError

FILE = Path(__file__).parent / "data" / "timings" / "trtllm_overview.csv.gz"
HEAD = ("by", "", "runs", "ideal", "calibrated", "calibrated@trtllm")
FIDELITIES = ("ideal", "calibrated", "framework")
#: Requests in flight at the most: what the page's engines were built for is not stated.
MOST = 4096


def passes(model: str, device: str) -> str:
    """The pipeline that stands for the run's formats."""
    blackwell = cg.load_hardware(device).instruction != "wgmma"
    if model.startswith("gpt-oss"):
        wide = "lm_head|embed|positions|router|q_proj|k_proj|v_proj|o_proj"
        act = ",activations=mxfp8" if blackwell else ""
        return f"quantize{{weights=mxfp4{act},kv=fp8,keep={wide}}},fuse"
    return f"quantize{{preset={'nvfp4' if blackwell else 'fp8'},kv=fp8}},fuse"


def predicted(row: dict[str, str], fidelity: str) -> float:
    """Output tokens per second and GPU."""
    gpus, S, N = (int(row[k]) for k in ("gpus", "prompt", "generated"))
    made = server(
        row["model"], row["device"], passes(row["model"], row["device"]),
        Layout(gpus, 1, 1), fidelity, "trtllm",
    )  # fmt: skip
    c = min(made.room(S, N), MOST)
    return N / (made.prefill(S) + (N - 1) * made.step(c, S, N) / c) / gpus


def table() -> list[tuple[str, ...]]:
    """Mean/median absolute and median signed error in percent."""
    with gzip.open(FILE, "rt") as file:
        rows = list(csv.DictReader(file))
    found, kept = [], []
    for row in rows:
        try:
            found.append([predicted(row, f) for f in FIDELITIES])
        except CostgraphError as error:
            print(f"  left out: {row['model']} on {row['device']}: {error}")
            continue
        kept.append(row)
    made = np.array(found)
    measured = np.array([float(r["output_tokens_per_second_per_gpu"]) for r in kept])
    out = []

    def line(group: str, name: str, m: np.ndarray) -> None:
        signed = 100 * (made[m] / measured[m, None] - 1)
        texts = (
            f"{abs(e).mean():.0f}/{np.median(abs(e)):.0f} {np.median(e):+.0f}" for e in signed.T
        )
        out.append((group, name, str(m.sum()), *texts))

    line("all", "", np.ones(len(kept), bool))
    for group in ("device", "model", "prompt"):
        labels = np.array([r[group] for r in kept])
        for i, label in enumerate(np.unique(labels)):
            line(group if i == 0 else "", str(label), labels == label)
    return out
