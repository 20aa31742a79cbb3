"""GGUF files without weights, as llama.cpp would begin them: for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from costgraph.models.checkpoint.gguf_types import TYPES

NUMBER = {t.name: n for n, t in TYPES.items()}
#: Of one layer of a Llama: (name, rows, columns) by the dimensions d, k (keys), f.
MATRICES = (
    ("attn_q", "d", "d"), ("attn_k", "k", "d"), ("attn_v", "k", "d"), ("attn_output", "d", "d"),
    ("ffn_gate", "f", "d"), ("ffn_up", "f", "d"), ("ffn_down", "d", "f"),
)  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, list):
        items = b"".join(text(v) for v in value)
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + items
    return text(key) + struct.pack("<II", 4, value)


def header(
    metadata: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], str]]
) -> bytes:
    """The header; shapes with the fastest dimension first, types by name."""
    made = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    made += b"".join(entry(k, v) for k, v in metadata.items())
    at = 0
    for name, shape, kind in tensors:
        made += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        made += struct.pack("<IQ", NUMBER[kind], at)
        type_, size = TYPES[NUMBER[kind]], 1
        for n in shape:
            size *= n
        at += -(-size // type_.block * type_.size // 32) * 32
    return made + b"\0" * (-len(made) % 32)


def llama(
    d: int,
    f: int,
    layers: int,
    heads: int,
    kv: int,
    vocab: int,
    mix: Mapping[str, Any],
    **more: Any,
) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]:
    """Metadata and tensors of a Llama; ``mix`` gives a type per tensor, or one by layer."""
    size = {"d": d, "f": f, "k": d // heads * kv}
    name = more.get("general.architecture", "llama")
    metadata = {
        "general.architecture": name,
        f"{name}.embedding_length": d, f"{name}.block_count": layers,
        f"{name}.feed_forward_length": f, f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": kv, f"{name}.context_length": 8192,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": ["a", "b"], **more,
    }  # fmt: skip
    tensors = [("token_embd.weight", (d, vocab), mix.get("token_embd", mix["usual"]))]
    for layer in range(layers):
        tensors.append((f"blk.{layer}.attn_norm.weight", (d,), "F32"))
        tensors.append((f"blk.{layer}.ffn_norm.weight", (d,), "F32"))
        for leaf, rows, columns in MATRICES:
            kind = mix.get(leaf, mix["usual"])
            kind = kind(layer) if callable(kind) else kind
            tensors.append((f"blk.{layer}.{leaf}.weight", (size[columns], size[rows]), kind))
    tensors.append(("output_norm.weight", (d,), "F32"))
    tensors.append(("output.weight", (d, vocab), mix.get("output", "Q6_K")))
    return metadata, tensors
