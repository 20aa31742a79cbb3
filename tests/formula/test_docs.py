"""The examples of docs/formulas.md run."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from sympy import Rational, simplify

from costgraph.symbols import symbol


def test_examples_run():
    text = (Path(__file__).parents[2] / "docs" / "formulas.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    space: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            exec(compile(block, "docs/formulas.md", "exec"), space)
    peak, bandwidth = symbol("F_fp16"), symbol("BW")
    critical = space["symbolic"].breakpoints[-1]
    assert simplify(critical - peak / (bandwidth - peak * Rational(1, 2048))) == 0
    assert space["near"].elasticity("BW") == pytest.approx(-1, rel=1e-12)
