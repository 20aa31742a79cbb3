"""Scores operations of one layer of GPT-3 on four A100 that were timed one by one.

    python benchmarks/layer_gpt3.py     some seconds

Data: benchmarks/data/timings/README.md.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import costgraph as cg
from costgraph.showing.export.table import plain_table

DATA = Path(__file__).parent / "data" / "timings"
#: Operations of the table of one GPT-3 layer, as rows of a breakdown.
OPS = {
    "Q_K_V": ("q_proj", "k_proj", "v_proj"),
    "Q_mul_K": ("qk_matmul",),
    "Softmax": ("softmax",),
    "Wo_proj": ("o_proj",),
    "W1_proj": ("up_proj",),
    "W2_proj": ("down_proj",),
    "LayerNorm_MHA": ("attn_norm",),
    "LayerNorm_FFN": ("mlp_norm",),
}
#: The layer's all-reduces, of equal size: the table has the time of one.
REDUCED = ("o_proj_sum",)
#: GPT-3's shapes, in a family with layer norms.
GPT3 = {
    "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "hidden_size": 12288,
    "num_hidden_layers": 96, "num_attention_heads": 96, "num_key_value_heads": 96,
    "head_dim": 128, "intermediate_size": 49152, "vocab_size": 50272,
    "max_position_embeddings": 4096, "hidden_act": "gelu_pytorch_tanh", "use_bias": True,
    "norm_epsilon": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
#: Launch and synchronisation in the host's clock, per call (the data's README).
HOST_CALL = 20e-6
HEAD = ("phase", "operation", "measured us", "ideal", "calibrated", "+ 20 us a call", "errors %")


def layer() -> list[tuple[str, ...]]:
    """One layer of GPT-3 on four GPUs, per operation."""
    out = []
    models = [
        cg.compile(GPT3, "4xa100-80g", "parallel{tp=4}", fidelity=f)
        for f in ("ideal", "calibrated@nccl")
    ]
    with gzip.open(DATA / "layer_gpt3.csv.gz", "rt") as file:
        table = list(csv.DictReader(file))
    for row in table:
        batch, op = int(row["batch"]), row["op"]
        sizes = {"B": batch, "T" if row["phase"] == "decode" else "S": int(row["kv_len"])}
        measured, calls = float(row["seconds"]), len(OPS.get(op, ("",)))
        rows = [m.breakdown(row["phase"], **sizes) for m in models]
        times = [sum(r[name].seconds for name in OPS.get(op, REDUCED)) for r in rows]
        times.append(times[1] + calls * HOST_CALL)
        errors = "/".join(f"{100 * (t / measured - 1):+.0f}" for t in times)
        seconds = (f"{1e6 * t:.0f}" for t in (measured, *times))
        out.append((row["phase"], op, *seconds, errors))
    return out


if __name__ == "__main__":
    print(plain_table(HEAD, layer()))
