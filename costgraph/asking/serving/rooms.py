"""How many sequences a memory holds, as plain functions of numbers.

As :mod:`.forms`, printed for pages as well: bytes that there are, that are needed once, and that
each sequence adds.
"""

from __future__ import annotations

#: Share of a device's memory that servers give to weights and caches (vLLM's default).
MEMORY_SHARE = 0.9
#: Sequences where nothing limits them.
MANY = 2147483648


def caching(size: float, share: float, weights: float, caches: float) -> tuple[float, float, float]:
    """Weights and caches in a share of a memory."""
    return share * size, weights, caches


def living(
    size: float, weights: float, once: float, each: float, chunk: float, caches: float, lanes: int
) -> tuple[float, float, float]:
    """All of a memory, with live activations of a step that reads a chunk."""
    return size, weights + once + chunk, caches + each / lanes


def fitting(size: float, once: float, each: float) -> int:
    """Sequences that fit; none where what is needed once does not."""
    if once > size:
        return 0
    return int((size - once) / each) if each > 0 else MANY
