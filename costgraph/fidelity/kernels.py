"""The element-wise kernels of a decoder layer and the layer itself, in NumPy (fp32)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

#: Kernels that are measured; their traffic and work: :data:`.table.ELEMENTWISE`.
ELEMENTWISE = ("rmsnorm", "silu", "add", "rope", "softmax", "copy")


def keep_heap() -> bool:
    """Let the C library keep freed memory; true where it does.

    NumPy allocates every result anew. A large one otherwise comes straight from
    the system and faults in page by page, which takes longer than the operation.
    glibc's ``mallopt`` (M_MMAP_THRESHOLD −3, M_TRIM_THRESHOLD −1); nothing elsewhere.
    """
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(adjust(-3, 1 << 30)) and bool(adjust(-1, (1 << 31) - 1))


def rms_norm(x: Any, weight: Any) -> Any:
    """``x / rms(x) · weight`` over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight


def silu(x: Any) -> Any:
    """``x · sigmoid(x)``."""
    return x / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def operands(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> tuple[Any, ...]:
    """Random operands of a kernel."""
    x = random.standard_normal(shape, dtype=np.float32)
    if kind == "rmsnorm":
        return x, random.standard_normal(shape[-1], dtype=np.float32)
    if kind == "rope":
        x = x.reshape(1, shape[0], 1, shape[-1])
        angle = random.standard_normal((shape[0], 1, shape[-1] // 2), dtype=np.float32)
        return x, np.cos(angle), np.sin(angle)
    if kind == "add":
        return x, random.standard_normal(shape, dtype=np.float32)
    return (x,)


def call(kind: str, given: tuple[Any, ...]) -> Callable[[], Any]:
    """A call of a kernel on its operands."""
    run: dict[str, Callable[..., Any]] = {
        "rmsnorm": rms_norm,
        "silu": silu,
        "add": lambda x, y: x + y,
        "rope": rotated,
        "softmax": softmax,
        "copy": np.copy,
    }
    return lambda: run[kind](*given)


def config(hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    """A Llama-like configuration, as importers read it."""
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip


class Decoder:
    """A decoder with random weights that runs the operations of costgraph's graph."""

    def __init__(self, shape: dict[str, Any]) -> None:
        random = np.random.default_rng(0)
        d, inner = shape["hidden_size"], shape["intermediate_size"]
        self.heads, self.d = shape["num_attention_heads"], d

        def weight(n: int, k: int) -> Any:
            return random.standard_normal((k, n), dtype=np.float32) / np.float32(np.sqrt(k))

        self.layers = [
            {**{x: weight(d, d) for x in "qkvo"}, "gate": weight(inner, d), "up": weight(inner, d),
             "down": weight(d, inner), "norm": np.ones(d, np.float32)}
            for _ in range(shape["num_hidden_layers"])
        ]  # fmt: skip
        self.embedding = random.standard_normal((shape["vocab_size"], d), dtype=np.float32)
        self.head = weight(shape["vocab_size"], d)

    def caches(self, batch: int, context: int) -> list[tuple[Any, Any]]:
        """Empty key and value caches of ``context`` positions, per layer."""
        size = (batch, self.heads, context, self.d // self.heads)
        return [(np.zeros(size, np.float32), np.zeros(size, np.float32)) for _ in self.layers]

    def step(self, ids: Any, caches: list[tuple[Any, Any]]) -> Any:
        """One step: ``ids (B, q)`` at the end of caches of T positions; the next token."""
        b, q = ids.shape
        t = caches[0][0].shape[2]
        dh = self.d // self.heads
        x = self.embedding[ids]
        angle = np.arange(t - q, t, dtype=np.float32)[:, None] / (
            10000.0 ** (np.arange(0, dh, 2, dtype=np.float32) / dh)
        )
        cos, sin = np.cos(angle), np.sin(angle)
        mask = np.triu(np.full((q, q), -1e9, np.float32), 1) if q > 1 else None
        for w, (keys, values) in zip(self.layers, caches, strict=True):
            h = rms_norm(x, w["norm"]).reshape(b * q, self.d)
            query, key, value = (
                (h @ w[n]).reshape(b, q, self.heads, dh).transpose(0, 2, 1, 3) for n in "qkv"
            )
            query, key = rotated(query, cos, sin), rotated(key, cos, sin)
            keys[:, :, t - q :], values[:, :, t - q :] = key, value
            scores = query @ keys.transpose(0, 1, 3, 2)
            if mask is not None:
                scores[..., t - q :] += mask
            mixed = (softmax(scores) @ values).transpose(0, 2, 1, 3).reshape(b * q, self.d)
            x = x + (mixed @ w["o"]).reshape(b, q, self.d)
            h = rms_norm(x, w["norm"]).reshape(b * q, self.d)
            y = silu(h @ w["gate"]) * (h @ w["up"])
            x = x + (y @ w["down"]).reshape(b, q, self.d)
        last = rms_norm(x, self.layers[0]["norm"])[:, -1]
        return np.argmax(last @ self.head, axis=-1)


def rotated(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding of the last axis."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1).astype(np.float32)
