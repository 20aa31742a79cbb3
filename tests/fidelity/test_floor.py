"""What a formula of shapes could know, on rows whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from costgraph.timing.fidelity.study import study
from costgraph.timing.fidelity.table import Table


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    return from_benchmarks("fidelity_floor")


def rows(bench, seconds):
    """Products of ``len(seconds)`` widths on an H100, the last two of one width."""
    count = len(seconds)
    n = np.round(np.geomspace(512, 65536, count))
    n[-1] = n[-2]
    texts = {"hw": "h100_sxm", "dtype": "bf16", "source": "s", "backend": "b"}
    numbers = {"m": 64.0, "k": 4096.0, "warm_l2": 0.0, "quant_included": 0.0}
    columns = {k: np.full(count, v) for k, v in (texts | numbers).items()} | {"n": n}
    return study(Table("gemm", columns, seconds), bench.fidelity.datasheets())


def test_neighbours_tell_what_follows_the_shape_and_nothing_of_noise(bench):
    count = 400
    s = rows(bench, np.full(count, 1e-4))
    smooth = 0.3 * np.sin(np.log(s.table.columns["n"]))
    noise = np.random.default_rng(0).normal(0, 0.1, count)
    inside = slice(10, -10)
    assert np.abs(bench.by_neighbours(s, smooth))[inside].max() < 0.02
    left = bench.by_neighbours(s, noise)
    assert 1.05 < left.std() / noise.std() < 1.3


def test_repeats_are_rows_of_one_shape_on_one_device(bench):
    seconds = np.full(40, 1e-4)
    seconds[-1] = 1.25e-4
    (found,) = bench.repeats(rows(bench, seconds))
    assert abs(found) == pytest.approx(np.log(1.25))


def test_one_factor_takes_what_a_device_is_off_by(bench):
    s = rows(bench, np.linspace(1e-4, 2e-4, 41))
    assert bench.one_factor(s, s.seconds / 3) == pytest.approx(s.seconds)
