"""Numbers of distances as numbers of pairs: what moves."""

from __future__ import annotations

import pytest
from sympy import Integer

from costgraph.errors import VerifyError
from costgraph.ir.dtypes import BF16
from costgraph.ir.tensor import Tensor
from costgraph.ops.pattern import sliding
from costgraph.ops.relative import ByDistance


def test_numbers_are_read_once_and_those_of_pairs_are_written():
    x = Tensor("numbers", tuple(map(Integer, (2, 4, 3, 5))), BF16)
    op = ByDistance(Integer(6), sliding(Integer(2)))
    (spec,) = op.infer((x,))
    assert spec.shape == (2, 3, 4, 6)
    outputs = (spec.named("pairs"),)
    assert op.work((x,), outputs) == {}
    # As scores do, pairs of a window stand in memory whole.
    moved = [access.bytes for access in op.accesses((x,), outputs)]
    assert moved == [2 * 2 * 4 * 3 * 5, 2 * 2 * 3 * 24]


def test_numbers_have_heads():
    with pytest.raises(VerifyError, match="no numbers of distances"):
        ByDistance(Integer(6)).infer((Tensor("x", (Integer(2), Integer(4), Integer(15)), BF16),))
