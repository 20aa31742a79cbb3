"""PyTorch on a CPU as a library to measure, called eagerly, layer by layer."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from costgraph.errors import InputError
from costgraph.timing.fidelity.kernels import angles, keep_heap

#: A narrow type is measured unless its products take this many times those of fp32.
SLOW = 4.0


def load_torch() -> Any:
    """The module ``torch``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("--library torch needs PyTorch: pip install 'costgraph[torch]'") from None
    return torch


class Torch:
    """Eager PyTorch on the CPU: ``linear``, ``rms_norm``, ``scaled_dot_product_attention``.

    It is measured in fp32 and, where the processor multiplies it at a sensible
    rate, bf16. Not in fp16: most CPUs convert every operand.
    """

    name = "PyTorch"
    tiled = True
    weights = "nk"

    def __init__(self, threads: int | None = None) -> None:
        self.torch = load_torch()
        if threads is not None:
            self.torch.set_num_threads(threads)
        self.version = str(self.torch.__version__)
        self.threads: int | None = self.torch.get_num_threads()
        self.types: tuple[str, ...] = ("fp32", "bf16")
        keep_heap()
        if not self._fast("bf16"):
            self.types = ("fp32",)

    def _fast(self, dtype: str) -> bool:
        """True if products in ``dtype`` are no slow path: at most :data:`SLOW` times fp32's."""
        least = {}
        for name in ("fp32", dtype):
            x = self.random((128, 512), name)
            w = self.random((512, 512), name)
            taken = []
            for _ in range(4):
                start = time.perf_counter()
                try:
                    self.linear(x, w)
                except RuntimeError:  # no kernel for the type
                    return False
                taken.append(time.perf_counter() - start)
            least[name] = min(taken)
        return least[dtype] <= SLOW * least["fp32"]

    def _type(self, dtype: str) -> Any:
        return {"fp32": self.torch.float32, "bf16": self.torch.bfloat16}[dtype]

    def quiet(self) -> AbstractContextManager[Any]:
        mode: AbstractContextManager[Any] = self.torch.inference_mode()
        return mode

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        made = self.torch.Generator().manual_seed(0)
        return self.torch.randn(shape, generator=made).to(self._type(dtype))

    def ids(self, batch: int, tokens: int) -> Any:
        return self.torch.ones((batch, tokens), dtype=self.torch.long)

    def copy(self, target: Any, source: Any) -> Any:
        target.copy_(source)

    def linear(self, x: Any, weight: Any) -> Any:
        return self.torch.nn.functional.linear(x, weight)

    def rms_norm(self, x: Any, weight: Any) -> Any:
        return self.torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-5)

    def silu(self, x: Any) -> Any:
        return self.torch.nn.functional.silu(x)

    def softmax(self, x: Any) -> Any:
        return self.torch.softmax(x, -1)

    def rope(self, x: Any, cos: Any, sin: Any) -> Any:
        a, b = x.chunk(2, -1)
        return self.torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def attend(self, query: Any, keys: Any, values: Any) -> Any:
        # Causal over as many positions as there are queries: a prefill, or one query.
        return self.torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, is_causal=query.shape[2] > 1,
            enable_gqa=query.shape[1] != keys.shape[1],
        )  # fmt: skip

    def angles(self, start: int, stop: int, size: int, dtype: str) -> tuple[Any, Any]:
        cos, sin = angles(start, stop, size)
        return tuple(self.torch.from_numpy(x).to(self._type(dtype)) for x in (cos, sin))

    def last(self, x: Any) -> Any:
        return x.argmax(-1)
