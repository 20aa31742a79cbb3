"""Scans and recurrences against loops that count one operation at a time."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Direction
from costgraph.ir.dtypes import BF16, FP32
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import (
    WKV,
    BlockLinear,
    GatedDelta,
    GatedLinearRecurrence,
    MatrixWKV,
    SelectiveScan,
    StateSpaceDual,
    TokenShift,
)

few = st.integers(1, 3)
tokens_ = st.integers(1, 11)


def act(*shape):
    return Tensor(f"a{shape}", tuple(map(Integer, shape)), BF16)


def weight(*shape):
    return Tensor(f"w{shape}", tuple(map(Integer, shape)), BF16, Role.WEIGHT)


def state(*shape):
    return Tensor("state", tuple(map(Integer, shape)), FP32, Role.STATE)


def counted(op, *inputs):
    outputs = tuple(s.named(f"out{i}") for i, s in enumerate(op.infer(inputs)))
    cost = op.cost(inputs, outputs)
    found = tuple(cost.flops_of(e) for e in (Engine.VECTOR, Engine.SPECIAL, Engine.TENSOR))
    return outputs, cost, found


class Tally:
    """Vector, special and tensor operations."""

    def __init__(self):
        self.v = self.s = self.t = 0

    def __call__(self, v=0, s=0, t=0):
        self.v, self.s, self.t = self.v + v, self.s + s, self.t + t

    @property
    def all(self):
        return self.v, self.s, self.t


def loops(*sizes):
    return product(*map(range, sizes))


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few)
def test_the_selective_scan(b, t, d, n):
    c = Tally()
    for _ in loops(d, n):
        c(v=1, s=1)  # A = −exp(A_log)
    for _ in loops(b, t, d):
        c(v=1, s=2)  # softplus: add, exp, log
        c(v=1)  # Δ·x
        for _ in range(n):
            c(v=1, s=1)  # exp(Δ·A)
            c(v=1)  # times B
            c(v=2)  # decay, add
            c(v=2)  # times C, add
        c(v=2)  # + D·x
    inputs = (act(b, t, d), act(b, t, d), act(b, t, n), act(b, t, n), weight(d, n), weight(d))
    (y, after), cost, got = counted(SelectiveScan(), *inputs, state(b, d, n))
    assert got == c.all
    assert y.shape == (b, t, d)
    assert after.shape == (b, d, n)
    assert cost.bytes_of(Role.STATE) == 2 * 4 * b * d * n
    _, more, same = counted(SelectiveScan(materialised=True), *inputs, state(b, d, n))
    assert same == got
    assert more.total_bytes - cost.total_bytes == 3 * 2 * 4 * b * t * d * n


def ssd_operands(b, t, h, g, p, n):
    vectors = (weight(h), weight(h), weight(h))
    mixed = (act(b, t, g, n), act(b, t, g, n))
    return (act(b, t, h, p), act(b, t, h), *mixed, *vectors, state(b, h, p, n))


def ssd_common(c, b, t, h, p):
    for _ in range(h):
        c(v=1, s=1)
    for _ in loops(b, t, h):
        c(v=1)  # bias
        c(v=1, s=2)  # softplus
        c(v=1, s=1)  # exp(dt·A)
        for _ in range(p):
            c(v=1)  # dt·x
            c(v=2)  # + D·x


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few, few, few)
def test_mamba_2_token_by_token(b, t, share, g, p, n):
    h = share * g
    c = Tally()
    ssd_common(c, b, t, h, p)
    for _ in loops(b, t, h, p, n):
        c(v=1)  # decay
        c(v=2)  # outer product, add
        c(v=2)  # contraction with C
    (y, _), cost, got = counted(StateSpaceDual(), *ssd_operands(b, t, h, g, p, n))
    assert got == c.all
    assert y.shape == (b, t, h * p)
    assert cost.bytes_of(Role.STATE) == 2 * 4 * b * h * p * n


def chunks_of(t, size):
    return [min(size, t - start) for start in range(0, t, size)]


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few, few, few, st.integers(1, 5), st.sampled_from(["chunked", "dense"]))
def test_mamba_2_in_chunks(b, t, share, g, p, n, size, form):
    h = share * g
    c = Tally()
    ssd_common(c, b, t, h, p)
    for _ in loops(b, t, h):
        c(v=1)  # cumulative sum
        c(v=1, s=2)  # to the chunk's end, and from its start
        for _ in range(p):
            c(v=2)  # times both decays
            c(v=1)  # sum of both contributions
    for _ in range(b):
        for length in chunks_of(t, size):
            whole = size if form == "dense" else length
            pairs = whole**2 if form == "dense" else length * (length + 1) // 2
            for _ in range(pairs):
                c(t=2 * n * g)  # C·Bᵀ, once per group
                for _ in range(h):
                    c(v=2, s=1)  # decay of the pair
                    c(t=2 * p)  # times x
            for _ in loops(whole, h):
                c(t=2 * 2 * p * n)  # into the chunk's state, out of the previous one
            for _ in range(h):
                c(s=1, v=2 * p * n)  # pass the state on
    op = StateSpaceDual(form, Integer(size))
    (y, after), _, got = counted(op, *ssd_operands(b, t, h, g, p, n))
    assert got == c.all
    (plain, kept), _, _ = counted(StateSpaceDual(), *ssd_operands(b, t, h, g, p, n))
    assert (y.shape, after.shape) == (plain.shape, kept.shape)


def delta_operands(b, t, g, h, k, v):
    heads = (weight(h), weight(h))
    gates = (act(b, t, h), act(b, t, h))
    mixed = (act(b, t, g, k), act(b, t, g, k), act(b, t, h, v))
    return (*mixed, *gates, *heads, state(b, h, k, v))


def delta_common(c, b, t, g, h, k):
    for _ in range(h):
        c(v=1, s=1)  # −exp(A_log)
    for _ in loops(b, t, g):
        c(v=3 * k + 1, s=1)  # norm of the query: square, sum, epsilon, root, scale
        c(v=k)  # its scale
        c(v=3 * k + 1, s=1)  # norm of the key
    for _ in loops(b, t, h):
        c(v=2, s=1)  # sigmoid
        c(v=1 + 1, s=2)  # bias, softplus
        c(v=1, s=1)  # exp of the product


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few, few, few)
def test_the_gated_delta_rule_token_by_token(b, t, share, g, k, v):
    h = share * g
    c = Tally()
    delta_common(c, b, t, g, h, k)
    for _ in loops(b, t, h):
        for _ in loops(k, v):
            c(v=1 + 2 + 2 + 2)  # decay, recall, update, result
        for _ in range(v):
            c(v=2)  # subtract, times beta
    (y, _), cost, got = counted(GatedDelta(), *delta_operands(b, t, g, h, k, v))
    assert (got[0], got[1], got[2]) == c.all
    assert y.shape == (b, t, h, v)
    assert cost.bytes_of(Role.STATE, Direction.WRITE) == 4 * b * h * k * v


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few, few, few, st.integers(1, 5))
def test_the_gated_delta_rule_in_chunks(b, t, share, g, k, v, size):
    h = share * g
    c = Tally()
    delta_common(c, b, t, g, h, k)
    for _ in loops(b, h):
        for length in chunks_of(t, size):
            for i in range(length):
                for _ in range(i + 1):  # pairs, the diagonal included
                    c(t=2 * k + 2 * k)  # K·Kᵀ, Q·Kᵀ
                    c(t=2 * v)  # scores times new values
                    c(v=3, s=1)  # decay of the pair, applied twice
                for _ in range(i):  # forward substitution
                    c(t=2 * (k + v))
                c(t=3 * 2 * k * v)  # recall, result, update
                c(v=(1 + 2 + 1) * k)  # beta·k, two decays of k, one of q
                c(v=v + 2 * v)  # beta·v; new value, sum of results
                c(v=1, s=2)  # cumulative sum, two exponentials
            c(v=2 * k * v, s=1)  # the state's decay, the addition
    op = GatedDelta("chunked", Integer(size))
    (y, after), _, got = counted(op, *delta_operands(b, t, g, h, k, v))
    assert got == c.all
    (plain, kept), _, _ = counted(GatedDelta(), *delta_operands(b, t, g, h, k, v))
    assert (y.shape, after.shape) == (plain.shape, kept.shape)


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few)
def test_rwkv_4(b, t, d):
    c = Tally()
    for _ in range(d):
        c(v=1, s=1)
    for _ in loops(b, t, d):
        c(v=1 + 1 + 2 + 3 + 2 + 1, s=2)  # result
        c(v=1 + 1 + 2 + 3 + 2, s=2)  # update
    _, _, got = counted(WKV(), act(b, t, d), act(b, t, d), weight(d), weight(d), state(b, d, 3))
    assert got == c.all
    c = Tally()
    for _ in range(3):
        for _ in range(d):
            c(v=1)
        for _ in loops(b, t, d):
            c(v=3)
    made, _, got = counted(TokenShift(3), act(b, t, d), *(weight(d),) * 3, state(b, d))
    assert got == c.all
    assert len(made) == 4


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few, few, st.booleans())
def test_rwkv_5_and_6(b, t, h, k, v, per_token):
    c = Tally()
    for _ in loops(*((b, t) if per_token else ()), h, k):
        c(v=1, s=2)
    for _ in loops(b, t, h, k, v):
        c(v=1 + 1 + 1 + 2 + 1 + 1)
    decay = act(b, t, h, k) if per_token else weight(h, k)
    rkv = (act(b, t, h, k), act(b, t, h, k), act(b, t, h, v))
    (y, _), _, got = counted(MatrixWKV(), *rkv, decay, weight(h, k), state(b, h, k, v))
    assert got == c.all
    assert y.shape == (b, t, h * v)


@settings(max_examples=30, deadline=None)
@given(few, tokens_, few, few)
def test_the_gated_linear_recurrence(b, t, blocks, wide):
    w = blocks * wide
    c = Tally()
    for _ in range(w):
        c(v=1, s=2)  # softplus
        c(v=1)  # times 8
    for _ in loops(b, t, w):
        c(v=4, s=2)  # two sigmoids
        c(v=1, s=1)  # exponent, decay
        c(v=1 + 1 + 1, s=1)  # a², 1 − a², root, times input
        c(v=1)  # gated input
        c(v=2)  # recurrence
    gates = (act(b, t, w),) * 3
    _, _, got = counted(GatedLinearRecurrence(), *gates, weight(w), state(b, w))
    assert got == c.all
    c = Tally()
    for _ in loops(b, t, blocks, wide):
        for _ in range(wide):
            c(t=2)
        c(v=1)
    _, _, got = counted(BlockLinear(), act(b, t, w), weight(blocks, wide, wide), weight(w))
    assert got == c.all


def test_operands_that_do_not_fit_are_refused():
    good = ssd_operands(1, 4, 4, 2, 3, 5)
    with pytest.raises(VerifyError, match="not a state"):
        StateSpaceDual().infer((*good[:-1], act(1, 4, 3, 5)))
    with pytest.raises(VerifyError, match="disagree"):
        StateSpaceDual().infer((*good[:-1], state(1, 4, 3, 6)))
    with pytest.raises(VerifyError, match="unknown form"):
        StateSpaceDual("chunks").infer(good)
    with pytest.raises(VerifyError, match="value heads"):
        GatedDelta().infer(delta_operands(1, 4, 2, 3, 3, 3))
