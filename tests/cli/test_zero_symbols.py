"""A symbol that is zero: shares answer as the number 0 in the pass does, others are refused."""

from __future__ import annotations

import numpy as np
import pytest

import costgraph as cg
from costgraph.asking.sweeping.ranges import parse_values
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.formula.local import local
from costgraph.formula.vector import compile_vector

DEVICE, PASSES = "rtx-4090+i9-13900k", "offload{weights=host:w}"
POSITIVE = "slow-fast{settled=w}"
RIGHT = "; where a pass takes 0, write 0 in the pass in place of w"
SIZES = {"B": 2, "S": 64, "N": 8}

#: Shares of passes: with the number 0 another program is made than with a symbol.
SHARES = [
    "offload{weights=host:%s}",
    "fuse,offload{weights=host:%s,overlap=false}",
    "offload{caches=host:%s}",
    "fuse,offload{weights=host:1/2,blocks=2,activations=host:%s}",
    "offload{weights=host,active=%s}",
    "offload{weights=host:1/2,active=%s,window=3}",
    "offload{weights=host,on=up_proj,overlap=false,active=%s}",
    "prefix-cache{share=1/2,chance=%s}",
    "prune{sparsity=%s,storage=csr}",
    "quantize{weights=int4,outliers=%s}",
    "early-exit{p=%s}",
    "speculative{draft=gpt2,alpha=%s}",
]

#: With a symbol a layer runs beside the link, and what it reads stays until both are done.
HELD = {
    "offload{weights=host:%s}",
    "offload{caches=host:%s}",
    "offload{weights=host,active=%s}",
    "offload{weights=host:1/2,active=%s,window=3}",
}


def _at_zero(compiled, metric, **more):
    formula = getattr(compiled, metric)
    values = {**SIZES, **more}
    return formula.evaluate(**{s.name: values[s.name] for s in formula.symbols})


@pytest.mark.parametrize("passes", SHARES)
def test_zero_is_what_the_number_is(passes):
    symbolic, plain = (cg.compile("gpt2", DEVICE, passes % share) for share in ("w", "0"))
    assert "w" in symbolic.setting.zero
    for metric in ("memory", "flops", "latency"):
        found, wanted = _at_zero(symbolic, metric, w=0), _at_zero(plain, metric)
        if metric == "latency":
            wanted = pytest.approx(wanted, rel=1e-9)
        elif metric == "memory" and passes in HELD:
            wanted += SIZES["B"] * SIZES["S"] * 768 * 2
        assert found == wanted
    sizes = {s.name: SIZES.get(s.name, 0) for s in symbolic.latency.symbols}
    (array,) = compile_vector((symbolic.latency,))(**{**sizes, "w": np.array([0.0, 0.5])})
    assert array[0] == pytest.approx(_at_zero(plain, "latency"), rel=1e-9)


@pytest.fixture(scope="module")
def share():
    return cg.compile("gpt2", DEVICE, PASSES)


READERS = {
    "one point": lambda c, w: c.tpot.evaluate(B=1, T=64, w=w),
    "points": lambda c, w: c.tpot.evaluate(B=1, T=64, w=np.array([0.5, w])),
    "around a point": lambda c, w: local(c.tpot, B=1, T=64, w=w),
    "a step": lambda c, w: c.breakdown("decode", B=1, T=64, w=w),
    "pipelines": lambda c, w: cg.compare("gpt2", DEVICE, [PASSES], S=8, N=4, w=w),
    "for good": lambda c, w: cg.compile("gpt2", DEVICE, PASSES, w=w),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_zero(share, reader):
    assert READERS[reader](share, 0) is not None
    with pytest.raises(InputError, match="w must be"):
        READERS[reader](share, -1)


def test_some_symbols_are_positive():
    """A slow step that never settles an end: the number 0 means another option counts."""
    cycles = cg.compile("llada-8b", "h100", POSITIVE)
    with pytest.raises(InputError, match=r"\bw must be .*positive.*not 0") as refused:
        cycles.latency.evaluate(B=1, S=8, N=32, w=0)
    assert RIGHT in str(refused.value)
    with pytest.raises(InputError, match=r"w must be above 0.*not 0") as refused:
        cg.compare("llada-8b", "h100", [POSITIVE], S=8, N=32, w=0)
    assert RIGHT in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        ["formula", "gpt2", "--metric", "tpot", "--batch", "1", "--context", "64", "--set", "w=0"],
        ["analyze", "gpt2", "--context", "64", "--set", "w=0"],
        ["explain", "gpt2", "--metric", "tpot", "-B", "1", "-T", "64", "--set", "w=0"],
        ["sweep", "gpt2", "--batch", "1", "--context", "64", "--set", "w=0,1/2,1"],
    ],
    ids=lambda line: line[0],
)
def test_the_command_line_takes_zero(line, capsys):
    assert main([*line, "--on", DEVICE, "--passes", PASSES]) == 0
    assert "w" in capsys.readouterr().out


def test_ranges_begin_at_zero_but_do_not_multiply_from_it():
    assert parse_values("0:1:0.5", "w", whole=False, symbol="w") == [0, 0.5, 1]
    with pytest.raises(InputError, match="multiplies from 0"):
        parse_values("0:1:x2", "w", whole=False, symbol="w")


def test_sizes_are_no_shares(share):
    with pytest.raises(InputError) as refused:
        share.tpot.evaluate(B=0, T=64, w=1)
    assert "in the pass" not in str(refused.value)


def test_what_is_named_so_elsewhere_is_positive(share):
    """A length of that name is none of a share's."""
    from costgraph.symbols import T, symbol

    with pytest.raises(InputError, match="positive"):
        share.tpot.substitute({T: symbol("w")}).evaluate(B=1, w=0)
