"""Convolutions against loops over positions and taps."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Direction
from costgraph.ir.dtypes import BF16
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import CausalConv1d, Conv
from costgraph.ops.conv import whole_floor
from costgraph.symbols import B, S, q


def tensor(name, *shape, role=Role.ACTIVATION):
    return Tensor(name, tuple(map(Integer, shape)), BF16, role)


def cost_of(op, inputs):
    outputs = tuple(s.named(f"out{i}") for i, s in enumerate(op.infer(inputs)))
    return outputs, op.cost(inputs, outputs)


def axis_loop(n, k, s, p, d):
    """(results, inputs that some tap reaches) of one axis, by walking the padded axis."""
    padded = n + 2 * p
    starts = [a for a in range(0, padded, s) if a + d * (k - 1) < padded]
    reached = {a + d * i - p for a in starts for i in range(k)}
    return len(starts), len([x for x in reached if 0 <= x < n])


axes = st.tuples(
    st.integers(3, 14), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.integers(1, 2)
).filter(lambda a: a[0] + 2 * a[3] > a[4] * (a[1] - 1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(axes, min_size=1, max_size=2),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_sizes_and_work_equal_the_loop(batch, found, wide, deep, groups, bias):
    sizes, kernel, stride, padding, dilation = zip(*found, strict=True)
    x = tensor("x", batch, wide * groups, *sizes)
    w = tensor("w", deep * groups, wide, *kernel, role=Role.WEIGHT)
    inputs = (x, w, tensor("b", deep * groups, role=Role.WEIGHT)) if bias else (x, w)
    op = Conv(
        *(tuple(map(Integer, v)) for v in (stride, padding, dilation)),
        groups=Integer(groups),
        bias=bias,
    )
    (out,), cost = cost_of(op, inputs)
    counts = [axis_loop(*axis) for axis in found]
    assert out.shape == (batch, deep * groups, *(c for c, _ in counts))
    products = added = 0
    for _ in product(range(batch), range(deep * groups), *(range(c) for c, _ in counts)):
        added += bias
        for _ in product(range(wide), *map(range, kernel)):
            products += 2
    depthwise = wide == 1 and groups > 1
    assert cost.flops_of(Engine.TENSOR) == (0 if depthwise else products)
    assert cost.flops_of(Engine.VECTOR) == added + (products if depthwise else 0)


def test_a_stride_beyond_the_kernel_skips_inputs():
    x, w = tensor("x", 1, 8, 16, 16), tensor("w", 4, 8, 1, 1, role=Role.WEIGHT)
    two, none = (Integer(2),) * 2, (Integer(0),) * 2
    op = Conv(two, none, (Integer(1),) * 2)
    (out,), cost = cost_of(op, (x, w))
    assert out.shape == (1, 4, 8, 8)
    assert cost.bytes_of(Role.ACTIVATION, Direction.READ) == 2 * 8 * 64
    assert axis_loop(16, 1, 2, 0, 1) == (8, 8)


def test_symbolic_sizes_leave_the_floor_where_they_are_whole():
    assert whole_floor(S - Rational(1, 2)) == S - 1
    x = Tensor("x", (B, Integer(80), 2 * q), BF16)
    w = tensor("w", 384, 80, 3, role=Role.WEIGHT)
    (out,), _ = cost_of(Conv((Integer(2),), (Integer(1),)), (x, w))
    assert out.shape == (B, 384, q)
    x = Tensor("x", (B, Integer(80), q), BF16)
    (out,), _ = cost_of(Conv((Integer(2),), (Integer(1),)), (x, w))
    for n in range(1, 12):
        assert out.shape[2].xreplace({q: Integer(n)}) == axis_loop(n, 3, 2, 1, 1)[0]


def test_what_does_not_fit_is_refused():
    w = tensor("w", 4, 8, 3, role=Role.WEIGHT)
    with pytest.raises(VerifyError, match="channels"):
        Conv().infer((tensor("x", 1, 7, 16), w))
    with pytest.raises(VerifyError, match="does not fit"):
        Conv().infer((tensor("x", 1, 8, 2), w))
    with pytest.raises(VerifyError, match="entries"):
        Conv(stride=(Integer(1),) * 2).infer((tensor("x", 1, 8, 16), w))
    with pytest.raises(VerifyError, match="no state"):
        CausalConv1d().infer((tensor("x", 1, 5, 8), tensor("w", 8, 4), tensor("s", 1, 8, 4)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(2, 5), st.booleans())
def test_the_causal_convolution_equals_the_loop(batch, tokens, width, taps, bias):
    inputs = [tensor("x", batch, tokens, width), tensor("w", width, taps, role=Role.WEIGHT)]
    if bias:
        inputs.append(tensor("b", width, role=Role.WEIGHT))
    inputs.append(tensor("s", batch, width, taps, role=Role.STATE))
    (y, state), cost = cost_of(CausalConv1d(bias), tuple(inputs))
    flops = 0
    for _ in product(range(batch), range(tokens), range(width)):
        for _ in range(taps):
            flops += 2
        flops += bias
    assert cost.total_flops == cost.flops_of(Engine.VECTOR) == flops
    assert y.shape == inputs[0].shape
    assert state.role is Role.STATE
    moved = 2 * batch * width * taps
    assert cost.bytes_of(Role.STATE, Direction.READ) == moved
    assert cost.bytes_of(Role.STATE, Direction.WRITE) == moved
