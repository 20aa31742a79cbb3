"""Inkling's plan of folds and its cut of pictures, as its class and its processor make them."""

from __future__ import annotations

import pytest

from costgraph.errors import ModelError
from costgraph.models.blocks.folding import Blocks, scales

#: ``plan_out_scales`` of transformers 5.24 for patches of 40 pixels, two frames, three channels.
FOUR = ((1, 1, 3), (1, 5, 128), (1, 10, 320), (1, 40, 4800), (2, 40, 614400))
SIX = ((1, 1, 3), (1, 1, 3), (1, 5, 128), (1, 10, 320), (1, 20, 1216), (1, 40, 4800),
       (2, 40, 614400))  # fmt: skip


@pytest.mark.parametrize("plan", [FOUR, SIX])
def test_plans_are_those_of_the_class(plan):
    assert scales(2, 40, 3, len(plan) - 1) == plan


def test_sizes_that_are_as_near_are_refused():
    with pytest.raises(ModelError, match="as near"):
        scales(3, 24, 3, 12)


def test_pictures_are_cut_as_they_are():
    assert [Blocks(40).picture(*size).rows for size in ((40, 40), (41, 80), (1080, 1920))] == [
        1,
        4,
        1296,
    ]
