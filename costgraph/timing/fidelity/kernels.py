"""What is measured on a host: a library's products and kernels, and a decoder of them.

:class:`NumPy` is one library; :class:`costgraph.timing.fidelity.kernels_torch.Torch` another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from costgraph.errors import InputError

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


class Library(Protocol):
    """Arrays and the calls of a decoder on them, as one library offers them.

    Attributes:
        name: of the library.
        version: its version, for the provenance.
        types: data types that it is measured in.
        threads: how many cores its calls use; None where it does not say.
        tiled: attention is one call, else products with a softmax between them.
        weights: ``kn`` or ``nk``: how its layers store a weight matrix.
    """

    name: str
    version: str
    types: tuple[str, ...]
    threads: int | None
    tiled: bool
    weights: str

    def quiet(self) -> AbstractContextManager[Any]:
        """A context without what only training needs."""

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Normal numbers, the same in every call."""

    def ids(self, batch: int, tokens: int) -> Any:
        """Some tokens ``(batch, tokens)``."""

    def copy(self, target: Any, source: Any) -> Any:
        """Write ``source`` into ``target``."""

    def linear(self, x: Any, weight: Any) -> Any:
        """``x (…, k)`` times a weight matrix of a layer."""

    def rms_norm(self, x: Any, weight: Any) -> Any:
        """``x / rms(x) · weight`` over the last axis."""

    def silu(self, x: Any) -> Any:
        """``x · sigmoid(x)``."""

    def softmax(self, x: Any) -> Any:
        """Softmax over the last axis."""

    def rope(self, x: Any, cos: Any, sin: Any) -> Any:
        """Rotary embedding of the last axis."""

    def attend(self, query: Any, keys: Any, values: Any) -> Any:
        """Causal attention of ``(B, H, q, dh)`` at the end of ``(B, Hk, T, dh)``."""

    def angles(self, start: int, stop: int, size: int, dtype: str) -> tuple[Any, Any]:
        """Cosines and sines ``(stop − start, size/2)`` of positions."""

    def last(self, x: Any) -> Any:
        """Position of the largest value of the last axis."""


class NumPy:
    """NumPy and its BLAS, in fp32."""

    name = "NumPy"
    version = np.__version__
    types: tuple[str, ...] = ("fp32",)
    tiled = False
    weights = "kn"

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and not set_blas_threads(threads):
            raise InputError(
                f"--threads {threads}: NumPy's BLAS here is not OpenBLAS; set its environment "
                "variable (OMP_NUM_THREADS, MKL_NUM_THREADS) instead"
            )
        self.threads = blas_threads()
        keep_heap()

    def quiet(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def ids(self, batch: int, tokens: int) -> Any:
        return np.ones((batch, tokens), int)

    def copy(self, target: Any, source: Any) -> Any:
        np.copyto(target, source)

    def linear(self, x: Any, weight: Any) -> Any:
        return x @ weight

    def rms_norm(self, x: Any, weight: Any) -> Any:
        return rms_norm(x, weight)

    def silu(self, x: Any) -> Any:
        return silu(x)

    def softmax(self, x: Any) -> Any:
        return softmax(x)

    def rope(self, x: Any, cos: Any, sin: Any) -> Any:
        return rotated(x, cos, sin)

    def attend(self, query: Any, keys: Any, values: Any) -> Any:
        q, t = query.shape[2], keys.shape[2]
        scores = (query * query.shape[3] ** -0.5) @ keys.swapaxes(2, 3)
        if q > 1:
            scores[..., t - q :] += np.triu(np.full((q, q), -1e9, np.float32), 1)
        return softmax(scores) @ values

    def angles(self, start: int, stop: int, size: int, dtype: str) -> tuple[Any, Any]:
        return angles(start, stop, size)

    def last(self, x: Any) -> Any:
        return np.argmax(x, axis=-1)


def _openblas(verb: str) -> Any:
    """The function ``openblas_VERB_num_threads`` of the BLAS that NumPy loaded, or None."""
    np.dot(np.ones((1, 1)), np.ones((1, 1)))  # it is loaded by now
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            paths = {line.split(None, 5)[-1].strip() for line in file if "openblas" in line}
    except OSError:
        return None
    for path in sorted(paths):
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                try:
                    return getattr(
                        ctypes.CDLL(path), f"{prefix}openblas_{verb}_num_threads{suffix}"
                    )
                except (AttributeError, OSError):
                    continue
    return None


def blas_threads() -> int | None:
    """Threads of NumPy's OpenBLAS, asked from the library itself; None where it is another."""
    found = _openblas("get")
    return None if found is None else int(found())


def set_blas_threads(threads: int) -> bool:
    """Set the threads of NumPy's OpenBLAS; False where it is another library."""
    found = _openblas("set")
    if found is None:
        return False
    found(ctypes.c_int(threads))
    return True


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


def angles(start: int, stop: int, size: int) -> tuple[Any, Any]:
    """Cosines and sines ``(stop − start, size/2)`` of rotary positions."""
    rates = 10000.0 ** (np.arange(0, size, 2, dtype=np.float32) / size)
    angle = np.arange(start, stop, dtype=np.float32)[:, None] / rates
    return np.cos(angle), np.sin(angle)


#: Size of the heads that ``rope`` is measured on.
HEAD = 64


def kernel(library: Library, kind: str, x: Any, dtype: str) -> Callable[[], Any]:
    """A call of a kernel on ``x (rows, cols)``.

    Rotary embeddings turn heads of 64 as a decoder hands them over: a view of
    ``(rows, heads, 64)`` with the heads in front.
    """
    rows, cols = x.shape
    if kind == "rope":
        heads = x.reshape(1, rows, cols // HEAD, HEAD).swapaxes(1, 2)
        cos, sin = library.angles(0, rows, HEAD, dtype)
        return lambda: library.rope(heads, cos, sin)
    other = library.random((cols,) if kind == "rmsnorm" else (rows, cols), dtype)
    calls: dict[str, Callable[[], Any]] = {
        "rmsnorm": lambda: library.rms_norm(x, other),
        "silu": lambda: library.silu(x),
        "add": lambda: x + other,
        "softmax": lambda: library.softmax(x),
        "copy": lambda: library.copy(other, x),
    }
    return calls[kind]


def config(hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    """A Llama-like configuration, as importers read it."""
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip


class Decoder:
    """A decoder with random weights that runs the operations of costgraph's graph.

    Args:
        shape: its configuration (:func:`config`).
        library: what runs it.
        dtype: of weights, activations and caches.
    """

    def __init__(self, shape: dict[str, Any], library: Library, dtype: str = "fp32") -> None:
        d, inner = shape["hidden_size"], shape["intermediate_size"]
        self.heads, self.d, self.library, self.dtype = (
            shape["num_attention_heads"], d, library, dtype,
        )  # fmt: skip

        def weight(n: int, k: int) -> Any:
            stored = (k, n) if library.weights == "kn" else (n, k)
            return library.random(stored, dtype) * float(k) ** -0.5

        self.layers = [
            {**{x: weight(d, d) for x in "qkvo"}, "gate": weight(inner, d), "up": weight(inner, d),
             "down": weight(d, inner), "norm": library.random((d,), dtype)}
            for _ in range(shape["num_hidden_layers"])
        ]  # fmt: skip
        self.embedding = library.random((shape["vocab_size"], d), dtype)
        self.head = weight(shape["vocab_size"], d)
        self.angles: dict[tuple[int, int], tuple[Any, Any]] = {}

    def caches(self, batch: int, context: int) -> list[tuple[Any, Any]]:
        """Key and value caches of ``context`` positions, per layer."""
        size = (batch, self.heads, context, self.d // self.heads)
        made = self.library.random
        return [(made(size, self.dtype), made(size, self.dtype)) for _ in self.layers]

    def step(self, ids: Any, caches: list[tuple[Any, Any]]) -> Any:
        """One step: ``ids (B, q)`` at the end of caches of T positions; the next token."""
        lib = self.library
        b, q = ids.shape
        t = caches[0][0].shape[2]
        dh = self.d // self.heads
        x = self.embedding[ids]
        if (t - q, t) not in self.angles:  # a table, as weights are
            self.angles[t - q, t] = lib.angles(t - q, t, dh, self.dtype)
        cos, sin = self.angles[t - q, t]
        for w, (keys, values) in zip(self.layers, caches, strict=True):
            h = lib.rms_norm(x, w["norm"]).reshape(b * q, self.d)
            query, key, value = (
                lib.linear(h, w[n]).reshape(b, q, self.heads, dh).swapaxes(1, 2) for n in "qkv"
            )
            query, key = lib.rope(query, cos, sin), lib.rope(key, cos, sin)
            keys[:, :, t - q :], values[:, :, t - q :] = key, value
            mixed = lib.attend(query, keys, values).swapaxes(1, 2).reshape(b * q, self.d)
            x = x + lib.linear(mixed, w["o"]).reshape(b, q, self.d)
            h = lib.rms_norm(x, w["norm"]).reshape(b * q, self.d)
            y = lib.silu(lib.linear(h, w["gate"])) * lib.linear(h, w["up"])
            x = x + lib.linear(y, w["down"]).reshape(b, q, self.d)
        last = lib.rms_norm(x, self.layers[0]["norm"])[:, -1]
        return lib.last(lib.linear(last, self.head))


def rotated(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding of the last axis."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)
