"""What is no formula is told in one line."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.errors import InputError


@pytest.mark.parametrize("compares", [cg.wins, cg.even])
def test_compiled_models_are_compared_by_their_formulas(compares):
    made = cg.compile("gpt2", "h100")
    for a, b in ((made, made.tpot), (made.tpot, made)):
        with pytest.raises(InputError, match=r"such as compiled\.tpot"):
            compares(a, b, "B")
