"""A symbol of a pass that was to be zero: every reader refuses it and says what would be right."""

from __future__ import annotations

import numpy as np
import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.formula.local import local

DEVICE, PASSES = "rtx-4090+i9-13900k", "offload{weights=host:w}"
RIGHT = "; where a pass takes 0, write 0 in the pass in place of w"


@pytest.fixture(scope="module")
def share():
    return cg.compile("gpt2", DEVICE, PASSES)


READERS = {
    "one point": lambda c: c.tpot.evaluate(B=1, T=64, w=0),
    "points": lambda c: c.tpot.evaluate(B=1, T=64, w=np.array([0.5, 0.0])),
    "around a point": lambda c: local(c.tpot, B=1, T=64, w=0),
    "a step": lambda c: c.breakdown("decode", B=1, T=64, w=0),
    "pipelines": lambda c: cg.compare("gpt2", DEVICE, [PASSES], S=8, N=4, w=0),
    "for good": lambda c: cg.compile("gpt2", DEVICE, PASSES, w=0),
}


@pytest.mark.parametrize("reader", READERS)
def test_from_python(share, reader):
    with pytest.raises(InputError, match=r"\bw must be .*(positive|above 0).*not 0") as refused:
        READERS[reader](share)
    assert RIGHT in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        ["formula", "gpt2", "--metric", "tpot", "--batch", "1", "--context", "64", "--set", "w=0"],
        ["analyze", "gpt2", "--context", "64", "--set", "w=0"],
        ["sweep", "gpt2", "--batch", "1", "--context", "64", "--set", "w=0,1/2,1"],
    ],
    ids=lambda line: line[0],
)
def test_from_the_command_line(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([*line, "--on", DEVICE, "--passes", PASSES]))
    assert stopped.value.code == 2
    assert f"--set w must be positive, not '0'{RIGHT}" in capsys.readouterr().err


def test_sizes_are_no_shares(share):
    with pytest.raises(InputError) as refused:
        share.tpot.evaluate(B=0, T=64, w=1)
    assert "in the pass" not in str(refused.value)


def test_what_is_said_is_taken():
    """The number 0 in the pass: a time that the formula comes to as its symbol nears zero."""
    symbolic, none = (
        cg.compile("gpt2", DEVICE, f"offload{{weights=host:{share}}}").tpot for share in "w0"
    )
    near = symbolic.evaluate(B=1, T=64, w=1e-12)
    assert near == pytest.approx(none.evaluate(B=1, T=64), rel=1e-9)
