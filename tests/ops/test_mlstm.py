"""The matrix memory of xLSTM, and streams that stay apart: counted step by step."""

from __future__ import annotations

import pytest
from sympy import Integer

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import BF16, FP32
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.mlstm import MatrixMemory
from costgraph.ops.streams import StreamGates

HEADS, WIDE, DEEP = 4, 16, 32


def flops(work: Work, engine: Engine) -> int:
    return int(sum((n for (e, _), n in work.items() if e is engine), Integer(0)))


def made(op: MatrixMemory, tokens: int) -> Work:
    def of(*shape: int, role: Role = Role.ACTIVATION) -> Tensor:
        sizes = tuple(map(Integer, (1, *shape)))
        return Tensor("x", sizes, FP32 if role is Role.STATE else BF16, role)

    states = (of(HEADS, *s, role=Role.STATE) for s in ((WIDE, DEEP), (WIDE,), ()))
    rows = (of(tokens, HEADS, WIDE), of(tokens, HEADS, WIDE), of(tokens, HEADS, DEEP))
    inputs = (*rows, of(tokens, HEADS), of(tokens, HEADS), *states)
    outputs = tuple(spec.named("y") for spec in op.infer(inputs))
    return op.work(inputs, outputs)


def test_a_step_is_counted_by_hand() -> None:
    plain = special = 0
    for _head in range(HEADS):
        plain, special = plain + 9, special + 4  # both gates, and the largest exponent
        plain += 2 * WIDE  # the key times its gate, the query scaled
        plain += 5 * WIDE * DEEP  # decay, update, contraction of the matrix
        plain += 4 * WIDE  # decay, update of the normaliser, its product with the query
        plain, special = plain + 3 + DEEP, special + 1  # the larger one, the quotient
    work = made(MatrixMemory(), 1)
    assert flops(work, Engine.VECTOR) == plain
    assert flops(work, Engine.SPECIAL) == special


@pytest.mark.parametrize(("tokens", "counted"), [(64, 2105344), (128, 4210688)])
def test_products_of_chunks_are_those_of_the_class(tokens: int, counted: int) -> None:
    # PyTorch's counter on one layer, whose product with the normaliser runs on vectors here.
    work = made(MatrixMemory("dense"), tokens)
    assert flops(work, Engine.TENSOR) + 2 * WIDE * HEADS * tokens == counted


def test_streams_that_stay_apart_have_two_numbers_each() -> None:
    gates = StreamGates(Integer(3), Integer(0), apart=True)
    shapes = ((2, 5, 6), (6,), (2,))
    inputs = tuple(Tensor("x", tuple(map(Integer, shape)), BF16) for shape in shapes)
    assert [spec.shape for spec in gates.infer(inputs)] == [(2, 5, 3, 1)] * 2
    work = gates.work(inputs, ())
    # Per token: six products scaled and shifted, six sigmoids; three doubled, six constants.
    assert flops(work, Engine.VECTOR) == 10 * (2 * 6 + 2 * 6 + 3 * 3)
    assert flops(work, Engine.SPECIAL) == 10 * 6
