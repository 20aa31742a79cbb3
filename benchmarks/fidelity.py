"""Scores the lower bound, a fitted roofline and the calibrated forms on measured timings.

    python benchmarks/fidelity.py            every kind, held out, and transfer (about a minute)
    python benchmarks/fidelity.py --quick    one kind only
    python benchmarks/fidelity.py --ablate   error with each ingredient left out
    python benchmarks/fidelity.py --write    also write hardware/calibrations/*.toml

Errors are mean/median absolute percentages over unseen rows: five folds by a hash
of the shape, or a whole device left out. Data: benchmarks/data/timings/README.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path

# The systems are small: threads of BLAS cost more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fidelity_exchanges
import fidelity_mixed
import fidelity_overview
import numpy as np

from costgraph.hardware import load_hardware
from costgraph.showing.export.table import plain_table
from costgraph.timing.fidelity.fit import errors, held_out
from costgraph.timing.fidelity.forms import form_of, roofline3, value
from costgraph.timing.fidelity.relatives import figures_of, nearest_first, sheet_of
from costgraph.timing.fidelity.study import (
    Study,
    baseline,
    crossfit,
    leave_one_out,
    study,
)
from costgraph.timing.fidelity.table import Datasheet, Table, features, read_table

DATA = Path(__file__).parent / "data" / "timings"
#: Tables, and whether attention kernels of different frameworks are told apart.
FILES = {
    "gemm": (("gemm.csv.gz", "gemm_more.csv.gz"), "gemm", False),
    # Floors of 16 us: calls in a stream, not kernels in a graph. Fitted on their own.
    "gemm, calls in a stream": (("gemm_launched.csv.gz",), "gemm", False),
    "prefill": (("attention_prefill.csv.gz", "attention_prefill_more.csv.gz"), "prefill", True),
    "prefill, frameworks pooled": (
        ("attention_prefill.csv.gz", "attention_prefill_more.csv.gz"),
        "prefill",
        False,
    ),
    "decode": (("attention_decode.csv.gz", "attention_decode_more.csv.gz"), "decode", True),
    "decode, frameworks pooled": (
        ("attention_decode.csv.gz", "attention_decode_more.csv.gz"),
        "decode",
        False,
    ),
    "mla": (("mla.csv.gz",), "mla", False),
    "moe": (("moe.csv.gz",), "moe", False),
    "exchange": (("collectives.csv.gz",), "exchange", True),
    "exchange, frameworks pooled": (("collectives.csv.gz",), "exchange", False),
}


#: Devices of the tables by their shipped name. Rows of a card that two sources
#: measured differ in data type (fp16, bf16), so both fit in one calibration.
DEVICES = {
    "a100_sxm": "a100-80g", "a100_80g": "a100-80g", "a100_dgx": "a100-80g", "a40": "a40",
    "h100_sxm": "h100", "h100_dgx": "h100", "h200_sxm": "h200", "h20": "h20",
    "b200_sxm": "b200", "l40s": "l40s", "mi210": "mi210", "v100": "v100",
    "rtx-4090": "rtx-4090", "rtx-pro-6000": "rtx-pro-6000",
}  # fmt: skip


def datasheets() -> dict[str, Datasheet]:
    """Datasheet figures of the measured devices."""
    return {name: sheet_of(load_hardware(device)) for name, device in DEVICES.items()}


def family(sheets: dict[str, Datasheet], kind: str = "") -> dict[str, tuple[str, ...]]:
    """Who lends each device fits of a kind; the same card in another table is no relative."""
    figures = {name: figures_of(sheet) for name, sheet in sheets.items()}
    return {
        name: nearest_first(
            own, {n: f for n, f in figures.items() if DEVICES[n] != DEVICES[name]}, kind
        )
        for name, own in figures.items()
    }


def by_card(relatives: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Relatives (see :func:`family`) by the devices' shipped names."""
    return {
        DEVICES[name]: tuple(dict.fromkeys(DEVICES[n] for n in near))
        for name, near in relatives.items()
    }


def load(name: str, sheets: dict[str, Datasheet]) -> Study:
    """One row of :data:`FILES` as a study."""
    files, kind, by_backend = FILES[name]
    if kind == "exchange":
        return fidelity_exchanges.load(DATA / files[0], sheets, DEVICES, by_backend)
    tables = [read_table(DATA / file, kind) for file in files]
    return study(reduce(Table.and_of, tables), sheets, by_backend)


#: Models of the layers' table whose attention and products stand beside each other behind one
#: layer norm: their sums with what came in are two kernels, timed as one (vidur's ``mlp_impl.py``:
#: ``attn_outputs + feed_forward_hidden_states + residual``; ``torch.nn.LayerNorm``).
BESIDE = ("phi-2",)


def elementwise(sheets: dict[str, Datasheet]) -> Study:
    """Element-wise kernels out of the decoder layers (kernel time)."""
    rows = read_layers()
    columns: dict[str, list] = {k: [] for k in ("hw", "op", "rows", "cols", "seconds")}
    for r in rows:
        n, d, inner = (float(r[k]) for k in ("num_tokens", "n_embd", "n_expanded_embd"))
        gated, beside = r["use_gated_mlp"] == "1", r["model"] in BESIDE
        for op, width, column, kernels in (
            ("layernorm" if beside else "rmsnorm", d, "input_layernorm", 1),
            ("silu_mul" if gated else "gelu", inner / float(r["tp"]), "mlp_act", 1),
            ("add", d, "add", 2 if beside else 1),
        ):
            if r[column] and float(r[column]) > 0:
                seconds = float(r[column]) / kernels
                for key, cell in zip(columns, (r["hw"], op, n, width, seconds), strict=True):
                    columns[key].append(cell)
    size = len(columns["hw"])
    arrays = {
        "hw": np.array(columns["hw"]),
        "op": np.array(columns["op"]),
        "rows": np.array(columns["rows"], float),
        "cols": np.array(columns["cols"], float),
        "dtype": np.full(size, "fp16"),
        "backend": np.full(size, ""),
        "source": np.full(size, "vidur"),
    }
    moved = arrays["rows"] * arrays["cols"] * 4
    l2 = np.array([sheets[h].l2 for h in columns["hw"]])
    arrays["warm_l2"] = (moved <= 1.25 * l2).astype(float)
    return study(Table("elementwise", arrays, np.array(columns["seconds"], float)), sheets)


def read_layers() -> list[dict[str, str]]:
    """Rows of the table of decoder layers."""
    import gzip

    with gzip.open(DATA / "layer_ops.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


class Layers:
    """The linears of a dense decoder layer: their summed time, by form and by baseline."""

    parts = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")

    def __init__(self, sheets: dict[str, Datasheet]) -> None:
        rows = [r for r in read_layers() if all(r[p] for p in self.parts)]
        self.seconds = np.array([sum(float(r[p]) for p in self.parts) for r in rows])
        hw = np.array([r["hw"] for r in rows])
        tables = []
        number = {k: np.array([float(r[k]) for r in rows]) for k in (
            "num_tokens", "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "tp")}  # fmt: skip
        m, d, tp = number["num_tokens"], number["n_embd"], number["tp"]
        q = d / tp
        kv = 2 * number["n_kv_head"] * d / number["n_head"] / tp
        up = number["n_expanded_embd"] / tp
        gate = np.array([2.0 if r["use_gated_mlp"] == "1" else 1.0 for r in rows])
        zero, text = np.zeros(len(rows)), np.full(len(rows), "fp16")
        self.f: dict[str, np.ndarray] = {}
        for i, (n, k) in enumerate(((q + kv, d), (d, q), (gate * up, d), (d, up))):
            columns = {"hw": hw, "dtype": text, "m": m, "n": n, "k": k,
                       "warm_l2": zero, "quant_included": zero}  # fmt: skip
            tables.append(features(Table("gemm", columns, self.seconds), sheets))
            self.f |= {f"{key}{i}": x for key, x in tables[-1].items()}
        alike = np.full(len(rows), "all")
        self.labels = {"group": hw, "device": hw, "variant": hw, "shared": alike}
        shapes = ["|".join(r[k] for k in (
            "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "tp", "num_tokens"))
            for r in rows]  # fmt: skip
        from costgraph.timing.fidelity.fit import folds

        self.fold = folds(shapes)
        models = np.array([r["model"] for r in rows])
        self.model_fold = np.unique(models, return_inverse=True)[1]
        form = form_of("gemm")
        self.parameters = [p for p in form.parameters if p.name not in ("eq", "l2", "tq")]

        def part(f: dict, i: int) -> dict:
            return {k[:-1]: x for k, x in f.items() if k.endswith(str(i))}

        self.model = lambda f, v: sum(
            value(form.build(part(f, i), {**v, "eq": 1.0, "l2": 1.0, "tq": 0.0})) for i in range(4)
        )
        self.simple = lambda f, v: sum(roofline3(part(f, i), v) for i in range(4))
        self.ideal = sum(np.maximum(self.f[f"C{i}"], self.f[f"M{i}"]) for i in range(4))

    def score(self) -> list[tuple[str, ...]]:
        """Rows for the table: folds by shape, and by leaving out whole models."""
        three = [p for p in self.parameters if p.name in ("t0", "ec", "em")]
        base = held_out(self.simple, three, self.f, self.seconds, self.labels, self.fold)
        out = []
        for name, fold in (("layer linears", self.fold), ("  unseen models", self.model_fold)):
            made = held_out(self.model, self.parameters, self.f, self.seconds, self.labels, fold)
            n = len(np.unique(self.labels["device"]))
            many = sum(len(np.unique(self.labels[p.scope])) for p in self.parameters)
            cold = np.ones(len(made), bool)
            out.append(row(name, "all", self.seconds, self.ideal, base, made, cold, 3 * n, many))
        return out


def pair(values: tuple[float, float]) -> str:
    return f"{values[0]:5.1f}/{values[1]:4.1f}"


def row(name, device, t, ideal, base, made, cold, few, many) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
    """One line of the table."""
    signed = 100 * (ideal / t - 1)
    return (
        name,
        device,
        str(len(t)),
        f"{signed.mean():+5.0f}",
        pair(errors(ideal, t)),
        pair(errors(base, t)),
        pair(errors(made, t)),
        pair(errors(made[cold], t[cold])) if cold.any() else "-",
        f"{few} -> {many}",
    )


HEAD = ("kind", "device", "rows", "ideal ±", "ideal", "roofline-3", "calibrated", "cold rows",
        "parameters")  # fmt: skip


def score(name: str, s: Study) -> list[tuple[str, ...]]:
    """All devices together, then each."""
    base, few = baseline(s)
    made, many = crossfit(s)
    ideal, t, device = s.roofline(), s.seconds, s.labels["device"]
    out = [row(name, "all", t, ideal, base, made, s.cold, few, many)]
    for d in np.unique(device):
        m = device == d
        here = s.where(m)
        out.append(
            row("", str(d), t[m], ideal[m], base[m], made[m], s.cold[m],
                _values(here, ("t0", "ec", "em")), _values(here))
        )  # fmt: skip
    return out


def _values(s: Study, only: tuple[str, ...] = ()) -> int:
    """Values of parameters that belong to the rows' groups and device."""
    return sum(
        len(np.unique(s.labels[p.scope]))
        for p in s.form.parameters
        if p.scope != "shared" and p.name not in s.held and (not only or p.name in only)
    )


def violations(name: str, s: Study) -> str:
    """How many measurements beat the lower bound, and which of them could be in cache."""
    ideal = s.roofline()
    below = s.seconds < ideal * (1 - 1e-9)
    if not below.any():
        return f"{name}: none of {len(ideal)}"
    cold = below & s.cold
    text = (
        f"{name}: {below.sum()} of {len(ideal)}; {(below & ~s.cold).sum()} fit the L2 cache and "
        f"do not read memory; {cold.sum()} others"
    )
    if cold.any():
        worst = (ideal / s.seconds)[cold].max()
        devices = ", ".join(sorted(set(s.labels["device"][cold])))
        text += f" (by up to {100 * (worst - 1):.0f} %, on {devices})"
    return text


def ablation(name: str, s: Study) -> list[tuple[str, ...]]:
    """Held-out error of the form with each ingredient left out."""
    made, many = crossfit(s)
    out = [(name, "-", pair(errors(made, s.seconds)), pair(_cold(made, s)), str(many))]
    for p in s.form.parameters:
        if p.name in ("ec", "em", "s0", "tq"):
            continue
        with_it = {"ts": ("ts", "s0"), "eq": ("eq", "tq")}
        if s.kind == "gemm":
            with_it["tk"] = ("tk", "k1")
        drop = with_it.get(p.name, (p.name,))
        made, many = crossfit(s, drop)
        label = {"p": "p (hard maximum)"}.get(p.name, p.name)
        out.append(("", label, pair(errors(made, s.seconds)), pair(_cold(made, s)), str(many)))
    return out


def _cold(made: np.ndarray, s: Study) -> tuple[float, float]:
    return errors(made[s.cold], s.seconds[s.cold])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="latent attention only")
    parser.add_argument("--ablate", action="store_true", help="the ablation table")
    parser.add_argument("--write", action="store_true", help="write hardware/calibrations")
    arguments = parser.parse_args()
    started = time.perf_counter()
    sheets = datasheets()
    names = ["mla"] if arguments.quick else list(FILES)
    studies = {name: load(name, sheets) for name in names}
    if arguments.ablate:
        lines = [r for n, s in studies.items() if s.kind != "exchange" for r in ablation(n, s)]
        print(plain_table(("kind", "without", "all rows", "cold rows", "parameters"), lines))
        return
    lines = [r for n, s in studies.items() for r in score(n, s)]
    if not arguments.quick:
        lines += score("elementwise", elementwise(sheets))
        lines += Layers(sheets).score()
    print(plain_table(HEAD, lines))
    print("\nerrors: mean/median absolute %, held out by shape; ideal ± is signed;")
    print("parameters: of the fitted roofline -> of the calibrated form\n")
    print("transfer: every device predicted by a fit that saw none of its rows")
    moved = []
    for name, s in studies.items():
        if "pooled" in name or s.kind == "exchange" or "stream" in name:
            continue
        made = leave_one_out(s, family(sheets, s.kind))
        device = s.labels["device"]
        k = s.kernel_timed
        moved.append((name, "all, kernel timed", pair(errors(made[k], s.seconds[k])),
                      pair(_cold(made[k], s.where(k)))))  # fmt: skip
        moved.append(("", "all", pair(errors(made, s.seconds)), pair(_cold(made, s))))
        for d in np.unique(device):
            m = device == d
            here = s.where(m)
            cold_text = pair(_cold(made[m], here)) if here.cold.any() else "-"
            moved.append(("", str(d), pair(errors(made[m], s.seconds[m])), cold_text))
    print(plain_table(("kind", "left out", "all rows", "cold rows"), moved))
    for s in (s for s in studies.values() if s.kind == "exchange"):
        print("\nexchanges: held out by size, and transfer between switches\n")
        print(plain_table(fidelity_exchanges.HEAD, fidelity_exchanges.table(s)))
        lines = fidelity_exchanges.transfer_table(s, by_card(family(sheets)))
        print(plain_table(fidelity_exchanges.LEFT_OUT, lines))
    if not arguments.quick:
        print("\nattention of decodes and a prompt's chunk together: a third kept back\n")
        print(plain_table(fidelity_mixed.HEAD, fidelity_mixed.table()))
        print("\nTensorRT-LLM at full load: tokens per second and GPU, nothing fitted\n")
        print(plain_table(fidelity_overview.HEAD, fidelity_overview.table()))
    print("\nmeasurements faster than the lower bound")
    for name, s in studies.items():
        if "pooled" not in name:
            print("  " + violations(name, s))
    if arguments.write:
        from fidelity_write import write_all

        write_all(studies, elementwise(sheets), partial(family, sheets))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
