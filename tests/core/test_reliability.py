"""How surely deadlines are kept where a link's rate is random: closed forms against drawn rates."""

from __future__ import annotations

import numpy as np
import pytest

import costgraph as cg
from costgraph.asking.reliability import Exponential, LogNormal, Rayleigh, Uniform
from costgraph.errors import HardwareError, InputError

DRAWS = 100_000
#: A channel, and how its rates are drawn.
CHANNELS = {
    "uniform": (Uniform("2 GB/s", "30 GB/s"), lambda g: g.uniform(2e9, 30e9, DRAWS)),
    "exponential": (Exponential("10 GB/s"), lambda g: g.exponential(10e9, DRAWS)),
    "lognormal": (LogNormal("8 GB/s", 0.7), lambda g: 8e9 * np.exp(0.7 * g.normal(size=DRAWS))),
    "rayleigh": (
        Rayleigh("10 GHz", 100),
        lambda g: 10e9 * np.log2(1 + 100 * g.exponential(size=DRAWS)) / 8,
    ),
}


@pytest.fixture(scope="module")
def away():
    return cg.compile("gpt2", "a6000+i9-13900k", "fuse,offload{weights=host}")


@pytest.mark.parametrize("name", CHANNELS)
def test_closed_forms_are_the_shares_of_drawn_rates(away, name):
    channel, draw = CHANNELS[name]
    found = cg.reliability(away, "pcie", channel, "tpot", B=4, T=100)
    times = found.time.evaluate(BW_pcie=draw(np.random.default_rng(3)))
    for deadline in np.quantile(times, [0.1, 0.5, 0.9, 0.99]):
        assert found.at(float(deadline)) == pytest.approx((times <= deadline).mean(), abs=0.006)
    assert found.within(0.9) == pytest.approx(np.quantile(times, 0.9), rel=0.02)
    assert found.at(found.within(0.7)) == pytest.approx(0.7, abs=1e-6)
    # Pieces follow one another, and agree where they meet.
    for a, b in zip(found.pieces, found.pieces[1:], strict=False):
        assert a.upper == b.lower
        ends = [float(p.rate.xreplace({found.deadline: a.upper})) for p in (a, b)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert found.at(1e-9) == 0
    assert "one rate a task" in str(found)
    assert "99% within" in str(found)


def test_questions_without_an_answer_are_refused(away):
    channel = Exponential("10 GB/s")
    with pytest.raises(InputError, match="nothing waits for it"):
        cg.reliability(cg.compile("gpt2", "a6000+i9-13900k"), "pcie", channel, "tpot", B=1, T=9)
    with pytest.raises(HardwareError, match="no link"):
        cg.reliability(away, "nvlink9", channel, B=1)
    with pytest.raises(InputError, match="give numbers for"):
        cg.reliability(away, "pcie", channel, "tpot", B=1)
    with pytest.raises(InputError, match="'memory' is no time"):
        cg.reliability(away, "pcie", channel, "memory", B=1)
    with pytest.raises(InputError, match="low is below high"):
        cg.reliability(away, "pcie", Uniform("2 GB/s", "1 GB/s"), "tpot", B=1, T=9)
    found = cg.reliability(away, "pcie", channel, "tpot", B=1, T=9)
    with pytest.raises(InputError, match="between 0 and 1"):
        found.within(1)
    with pytest.raises(InputError, match="deadline"):
        found.at("3 GB")
