"""Attention over batches of decodes and chunks of prompts, in one kernel; part of fidelity.py.

The chunk takes what it would alone; what decodes add is fitted. A third of the batches is
kept back by a hash of their shape. Columns: ``prefill_chunk`` tokens behind
``kv_before_chunk``, and ``decodes`` sequences at ``kv_decode`` positions.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

import costgraph as cg
from costgraph.formula import Formula
from costgraph.formula.vector import compile_vector
from costgraph.hardware.machine import Engine
from costgraph.timing.fidelity.fit import errors, fit
from costgraph.timing.fidelity.forms import form_of, value

FILE = Path(__file__).parent / "data" / "timings" / "attention_mixed.csv.gz"
HEAD = ("device", "batches", "ideal", "apart", "in one kernel", "apart, kept back",
        "in one kernel, kept back")  # fmt: skip
#: Layers of the model whose attention is taken.
LAYERS = 2


@dataclass(frozen=True)
class Batches:
    """The batches of one device with one shape of heads."""

    device: str
    heads: tuple[int, int, int]
    columns: Mapping[str, np.ndarray]

    @cached_property
    def kept_back(self) -> np.ndarray:
        """A third by a hash of the shape."""
        names = sorted(self.columns.keys() - {"seconds"})
        shapes = zip(*(self.columns[k] for k in names), strict=True)
        texts = (repr((self.heads, *map(int, shape))) for shape in shapes)
        return np.array([hashlib.sha256(t.encode()).digest()[0] % 3 == 0 for t in texts])

    def attention(self, fidelity: str, *groups: tuple[object, ...]) -> np.ndarray:
        """Seconds of a layer's attention in steps of these groups."""
        h, hk, dh = self.heads
        config = {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": h * dh,
            "num_hidden_layers": LAYERS, "num_attention_heads": h, "num_key_value_heads": hk,
            "head_dim": dh, "intermediate_size": 1024, "vocab_size": 1024,
            "max_position_embeddings": 1 << 20, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
        }  # fmt: skip
        step = cg.compile(config, self.device, "fuse", fidelity=fidelity).step(*groups)
        c = self.columns
        given = {"c": c["decodes"], "T": c["kv_decode"], "C": c["prefill_chunk"],
                 "P": c["kv_before_chunk"] + c["prefill_chunk"]}  # fmt: skip
        made = _attention(step)
        names = {s.name for s in made.symbols}
        (found,) = compile_vector([made])(**{k: v for k, v in given.items() if k in names})
        return found / LAYERS


#: Columns of a batch.
NAMES = ("prefill_chunk", "kv_before_chunk", "decodes", "kv_decode", "seconds")
DECODES, CHUNK = ("c", 1, "T"), (1, "C", "P")


def _attention(step: Formula) -> Formula:
    kept = tuple(t for t in step.terms if any("attention" in op for op in t.ops))
    return replace(step, terms=kept, limits=())


def read(chunks: bool = False) -> list[Batches]:
    """The mixed batches; or chunks of prompts alone."""
    found: dict[tuple[str, tuple[int, int, int]], list[dict[str, str]]] = {}
    with gzip.open(FILE, "rt") as file:
        for row in csv.DictReader(file):
            if chunks is not bool(int(row["decodes"])):
                heads = int(row["n_heads"]), int(row["n_kv_heads"]), int(row["head_dim"])
                found.setdefault((row["device"], heads), []).append(row)
    return [
        Batches(device, heads, {k: np.array([float(r[k]) for r in rows]) for k in NAMES})
        for (device, heads), rows in found.items()
    ]


def fresh() -> list[Batches]:
    """Whole prompts of one sequence each, as chunks behind nothing."""
    found: dict[tuple[str, tuple[int, int, int]], list[tuple[float, ...]]] = {}
    with gzip.open(FILE.with_name("attention_prefill_more.csv.gz"), "rt") as file:
        for row in csv.DictReader(file):
            heads = int(row["n_heads"]), int(row["n_kv_heads"]), int(row["head_dim"])
            values = float(row["q_len"]), 0.0, 0.0, 0.0, float(row["seconds"])
            found.setdefault((row["hw"], heads), []).append(values)
    return [
        Batches(device, heads, dict(zip(NAMES, np.array(rows).T, strict=True)))
        for (device, heads), rows in found.items()
    ]


@dataclass(frozen=True)
class Scored:
    """All batches of one device: seconds measured, and as they are predicted."""

    device: str
    seconds: np.ndarray
    ideal: np.ndarray
    chunk: np.ndarray
    decode: np.ndarray
    features: Mapping[str, np.ndarray]
    kept_back: np.ndarray

    @cached_property
    def values(self) -> dict[str, float]:
        """The form's parameters, fitted to what the chunks alone do not take."""
        form, seen = form_of("beside"), ~self.kept_back
        features = {**self.features, "chunk": self.chunk}

        def model(f: Mapping[str, np.ndarray], v: Mapping[str, np.ndarray]) -> np.ndarray:
            return f["chunk"] + value(form.build(f, v))

        labels = {s: np.array([self.device] * int(seen.sum())) for s in
                  ("group", "device", "variant", "shared")}  # fmt: skip
        made = fit(model, form.parameters, {k: v[seen] for k, v in features.items()},
                   self.seconds[seen], labels)  # fmt: skip
        return {name: table[self.device] for name, table in made.values.items()}

    @cached_property
    def together(self) -> np.ndarray:
        return self.chunk + value(form_of("beside").build(self.features, self.values))


@cache
def scored() -> tuple[Scored, ...]:
    """Every device."""
    out, batches = [], read()
    for device in sorted({b.device for b in batches}):
        own = [b for b in batches if b.device == device]
        machine = cg.load_hardware(device)
        rate, sm = float(machine.memory.bandwidth), float(machine.multiprocessors)
        peak = float(machine.peak(Engine.TENSOR, "bf16"))

        def column(of: Callable[[Batches], Any], own: list[Batches] = own) -> np.ndarray:
            return np.concatenate([of(b) for b in own])

        def positions(b: Batches) -> np.ndarray:
            return b.columns["decodes"] * b.columns["kv_decode"]

        features = {
            "T": column(lambda b: b.columns["kv_decode"]),
            "heads": column(lambda b: b.heads[0] * b.columns["decodes"]),
            "C": column(lambda b: 4.0 * b.heads[0] * b.heads[2] * positions(b)) / peak,
            # Keys and values in 16 bit.
            "M": column(lambda b: 4.0 * b.heads[1] * b.heads[2] * positions(b)) / rate,
        }
        features["sm"] = np.full(len(features["T"]), sm)
        out.append(Scored(
            device,
            column(lambda b: b.columns["seconds"]),
            column(lambda b: b.attention("ideal", DECODES, CHUNK)),
            column(lambda b: b.attention("calibrated@vllm", CHUNK)),
            column(lambda b: b.attention("calibrated@vllm", DECODES)),
            features,
            column(lambda b: b.kept_back),
        ))  # fmt: skip
    return tuple(out)


def table() -> list[tuple[str, ...]]:
    """Errors by device: decodes and chunk apart, and in one kernel."""
    out = []
    for s in scored():
        t, k = s.seconds, s.kept_back

        def pair(made: np.ndarray, m: np.ndarray, t: np.ndarray = t) -> str:
            return "{:.1f}/{:.1f}".format(*errors(made[m], t[m]))

        apart, every = s.chunk + s.decode, np.ones(len(t), bool)
        out.append((s.device, str(len(t)), pair(s.ideal, every), pair(apart, every),
                    pair(s.together, every), pair(apart, k), pair(s.together, k)))  # fmt: skip
    return out
