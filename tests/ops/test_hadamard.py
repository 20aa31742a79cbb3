"""Hadamard transforms: run and counted, and where the quantiser puts them."""

from __future__ import annotations

import random

import pytest
from sympy import Integer, Symbol

from costgraph.errors import VerifyError
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.dtypes import dtype
from costgraph.ir.tensor import Tensor
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.ops.hadamard import Hadamard, core
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, q

FP16 = dtype("fp16")


def transformed(values: list[int], order: int) -> tuple[list[int], int]:
    """The transform by butterflies down to pieces of ``order``, and its additions.

    A piece meets a dense matrix of signs; of which order there is one does not matter here.
    """
    n = len(values)
    if n == order:
        dense = [[(-1) ** ((i & j).bit_count()) for j in range(n)] for i in range(n)]
        return [sum(a * b for a, b in zip(r, values, strict=True)) for r in dense], n * (n - 1)
    half = n // 2
    added = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    less = [a - b for a, b in zip(values[:half], values[half:], strict=True)]
    first, one = transformed(added, order)
    last, two = transformed(less, order)
    return first + last, n + one + two


@pytest.mark.parametrize("size", [1, 2, 4, 8, 64, 256, 12, 24, 80, 224])
def test_the_operation_counts_what_the_algorithm_does(size):
    rng = random.Random(size)
    order = int(core(Integer(size)))
    values = [rng.randint(-9, 9) for _ in range(size)]
    found, additions = transformed(values, order)
    if order == 1:
        whole = [
            sum((-1) ** ((i & j).bit_count()) * v for j, v in enumerate(values))
            for i in range(size)
        ]
        assert found == whole
    x = Tensor("x", (Integer(3), Integer(size)), FP16)
    for signs in (False, True):
        op = Hadamard(Integer(size), signs=signs)
        out = op.infer((x,))[0].named("y")
        cost = op.cost((x,), (out,))
        assert cost.total_flops == 3 * (additions + size * signs)
        assert cost.total_bytes == 2 * 3 * size * 2


@pytest.mark.parametrize(
    ("size", "order"),
    [(4096, 1), (11008, 172), (13824, 108), (14336, 28), (5120, 20), (28672, 28), (18944, 148)],
)
def test_orders_of_the_models_that_quarot_and_quip_were_used_on(size, order):
    assert core(Integer(size)) == order


@pytest.mark.parametrize("size", [Integer(3), Integer(6), Integer(4 * 167), Symbol("n")])
def test_orders_without_a_known_matrix_are_refused(size):
    assert core(size) is None
    with pytest.raises(VerifyError):
        Hadamard(size).infer((Tensor("x", (Integer(668 * 6),), FP16),))


# --- in models ------------------------------------------------------------------------


def quantized(name, **options):
    machine = alone(load_hardware("a100"))
    program, trace = run(load_model(name), (Quantize(**options),), machine)
    verify_program(program)
    body = next(n.op.body for n in program.graph.nodes if n.op.kind == "repeat")
    return body, trace


def transforms(body):
    return {n.name: n.op for n in body.nodes if n.op.kind == "hadamard"}


def test_both_sides_of_every_narrow_product():
    """QuIP#: one transform of what products share, one of each result."""
    body, _ = quantized("llama-2-7b", weights="e8p2", rotate="both")
    found = transforms(body)
    assert len(found) == 4 + 7
    assert all(op.signs for op in found.values())
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        node = body.node(name)
        x, w = body.operands(node)
        assert body.producer[x.name].op.kind == "hadamard"
        (user,) = body.consumers[node.output]
        assert user.op.kind == "hadamard"
        assert user.op.size == w.shape[0]
    flops = sum(
        n.op.work(body.operands(n), n.outputs)[next(iter(n.op.work(body.operands(n), n.outputs)))]
        for n in body.nodes
        if n.name in found
    )
    wide, narrow = 4096 * (12 + 1), 11008 * (6 + 172 - 1 + 1)
    assert flops == B * q * ((3 + 3 + 2) * wide + (1 + 2) * narrow)


def test_only_what_cannot_be_folded_is_rotated_online():
    """QuaRot: down_proj's operand, attention's result across heads, queries and keys by head."""
    body, _ = quantized("llama-2-7b", preset="w4a4kv4", rotate="online")
    assert {name: (op.size, op.along) for name, op in transforms(body).items()} == {
        "q_rope_hadamard": (128, (-1,)),
        "k_rope_hadamard": (128, (-1,)),
        "sv_matmul_hadamard": (32, (-2,)),
        "mlp_mul_hadamard": (11008, (-1,)),
    }
    assert not any(op.signs for op in transforms(body).values())
    body, _ = quantized("llama-2-7b", preset="w4a4", rotate="online")
    assert len(transforms(body)) == 2


def test_what_stays_wide_is_not_rotated_and_what_cannot_be_is_said():
    body, _ = quantized("llama-2-7b", weights="e8p2", rotate="both", keep="down_proj")
    assert "down_proj_hadamard" not in transforms(body)
    assert len(transforms(body)) == 3 + 6
    _, trace = quantized("mixtral-8x7b", weights="int4", rotate="both")
    assert any("experts are not rotated" in m.reason for m in trace.misses)
    _, trace = quantized("deepseek-v2-lite", weights="int4", rotate="both")
    assert any("no Hadamard matrix of order 10944" in m.reason for m in trace.misses)
    for options in ({"rotate": "both"}, {"kv": "int4", "rotate": "both"}):
        body, _ = quantized("llama-2-7b", **options)
        assert not transforms(body)
