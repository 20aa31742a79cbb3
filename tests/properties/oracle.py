"""An independent count of a decoder step in plain integers: no sympy, no graph.

Written from the architecture, operation by operation, so that it shares no code
with what it checks. Sizes are in elements; every element is two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES = 2
ACT = {"silu": 4, "relu": 1, "gelu": 5, "gelu_tanh": 9}


@dataclass(frozen=True)
class Shape:
    """A decoder in integers; see the fields of the same names in the package."""

    layers: int
    d: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    activation: str
    gated: bool
    norm: str
    bias: bool
    qk_norm: bool
    rotary: int
    positions: int
    tied: bool
    parallel: bool
    window: int = 0
    alibi: bool = False


def norm(m: Shape, rows: int, width: int, layer: bool | None = None) -> tuple[int, int]:
    n = rows * width
    if m.norm == "rms":
        return 4 * n + 3 * rows, (2 * n + width) * BYTES
    return 7 * n + 4 * rows, (2 * n + 2 * width) * BYTES


def linear(rows: int, ic: int, oc: int, bias: bool) -> tuple[int, int]:
    flops = 2 * rows * ic * oc + (rows * oc if bias else 0)
    return flops, (rows * ic + ic * oc + rows * oc + (oc if bias else 0)) * BYTES


def step(m: Shape, B: int, q: int, T: int, all_logits: bool = False) -> tuple[int, int]:
    """(FLOP, bytes) of one step."""
    rows, flops, moved = B * q, 0, 0

    def add(pair: tuple[int, int], times: int = 1) -> None:
        nonlocal flops, moved
        flops += pair[0] * times
        moved += pair[1] * times

    add((0, rows * 8 + 2 * rows * m.d * BYTES))  # ids, gathered rows, result
    if m.positions:
        add((0, q * 8 + 2 * q * m.d * BYTES))
        add((rows * m.d, (2 * rows * m.d + q * m.d) * BYTES))
    L, wide = m.layers, m.heads * m.head_dim
    narrow = m.kv_heads * m.head_dim
    window = m.window or T
    pairs = sum(min(T - q + i, window) for i in range(1, q + 1))
    # Positions that the first query can still see, and those after it.
    seen = q + min(T - q, window - 1)
    add(norm(m, rows, m.d), L)
    if not m.parallel:
        add(norm(m, rows, m.d), L)
    add(linear(rows, m.d, wide, m.bias), L)
    add(linear(rows, m.d, narrow, m.bias), 2 * L)
    if m.qk_norm:
        add(norm(m, rows * m.heads, m.head_dim), L)
        add(norm(m, rows * m.kv_heads, m.head_dim), L)
    if m.rotary:
        for heads in (m.heads, m.kv_heads):
            n = rows * heads * m.head_dim
            add((3 * rows * heads * m.rotary, (2 * n + q * m.rotary) * BYTES), L)
    # Append keys, append values: all read, those within the window written.
    add((0, (rows + B * min(q, window)) * narrow * BYTES), 2 * L)
    score = B * m.heads * q * seen
    cached = B * seen * narrow
    if m.alibi:
        add((2 * B * m.heads * pairs, 2 * score * BYTES), L)
    for _ in range(2):
        add((2 * B * m.heads * m.head_dim * pairs, (rows * wide + score + cached) * BYTES), L)
    add((5 * B * m.heads * pairs, 2 * score * BYTES), L)
    add(linear(rows, wide, m.d, m.bias), L)
    add((rows * m.d, 3 * rows * m.d * BYTES), 2 * L)  # two residual additions
    inner = rows * m.ffn
    add(linear(rows, m.d, m.ffn, m.bias), L * (2 if m.gated else 1))
    add((ACT[m.activation] * inner, 2 * inner * BYTES), L)
    if m.gated:
        add((inner, 3 * inner * BYTES), L)
    add(linear(rows, m.ffn, m.d, m.bias), L)
    add(norm(m, rows, m.d))
    add(linear(rows if all_logits else B, m.d, m.vocab, False))
    return flops, moved


def weights(m: Shape) -> int:
    """Number of parameters."""
    wide, narrow = m.heads * m.head_dim, m.kv_heads * m.head_dim
    one_norm = 1 if m.norm == "rms" else 2
    per_layer = 2 * m.d * wide + 2 * m.d * narrow + (3 if m.gated else 2) * m.d * m.ffn
    per_layer += one_norm * m.d * (1 if m.parallel else 2)
    if m.bias:
        per_layer += wide + 2 * narrow + m.d + m.d + m.ffn * (2 if m.gated else 1)
    if m.qk_norm:
        per_layer += 2 * one_norm * m.head_dim
    ends = m.vocab * m.d * (1 if m.tied else 2) + one_norm * m.d + m.positions * m.d
    return m.layers * per_layer + ends
