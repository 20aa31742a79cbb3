"""Blocks that are chosen once they are over, against a loop over positions."""

from __future__ import annotations

import pytest
from sympy import Integer

from costgraph.ops.pattern import SelectedBlocks
from costgraph.symbols import T, q


def seen(position: int, block: int, most: int) -> int:
    """Rows up to ``position`` that a query there sees: the last ones, and ``most`` whole blocks."""
    over = position // block
    return position % block + block * min(over, most)


@pytest.mark.parametrize(("block", "most"), [(1, 3), (4, 1), (4, 2), (7, 5), (16, 3)])
@pytest.mark.parametrize(("new", "rows"), [(1, 1), (1, 33), (3, 9), (40, 40), (29, 97), (64, 128)])
def test_pairs_are_those_of_each_position(block, most, new, rows):
    pattern = SelectedBlocks(Integer(block), Integer(most), over=True)
    at = {q: Integer(new), T: Integer(rows)}
    pairs = pattern.pairs(q, T).xreplace(at)
    each = [seen(p, block, most) for p in range(rows - new + 1, rows + 1)]
    assert pairs == sum(each)
    # What is read is no less than what any query sees, and no more than there is.
    assert max(each) <= pattern.keys(q, T).xreplace(at) <= rows
