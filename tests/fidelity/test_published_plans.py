"""The table of plans beside published runs, as docs/serving.md prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
TABLE = re.search(r"\| model \| device \| framework \| tpot ≤ .*\n\|[- |]+\n((?:\|.*\n)+)", PAGE)
ROWS = [[c.strip() for c in x.strip("|").split("|")] for x in TABLE[1].splitlines()]
#: Settings planned again: a dense model and one of experts; the others take the same code.
AGAIN = [2, 5]


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    from_benchmarks("serving_model")
    return from_benchmarks("serving_plans")


@pytest.fixture(scope="module")
def every(bench):
    return bench.runs(8)[0]


def test_the_table_has_every_setting_and_what_was_measured(bench, every):
    asked = [
        (f"{model} {precision}", device, framework, f"{1e3 * limit:.0f} ms")
        for model, precision, device, framework in bench.SETTINGS
        for limit in bench.LIMITS
    ]
    assert [tuple(row[:4]) for row in ROWS] == asked
    for row, (*setting, limit) in zip(
        ROWS, ((*s, x) for s in bench.SETTINGS for x in bench.LIMITS), strict=True
    ):
        within = [r for r in bench.own(tuple(setting), every) if r.tpot <= limit]
        best = max(within, key=bench.per_device)
        assert row[4] == f"{bench.per_device(best):.0f}"
        assert row[7] == f"tp {best.layout.tp}"
        assert float(row[6].removesuffix(" %").replace("−", "-")) == pytest.approx(
            100 * (float(row[5]) / float(row[4]) - 1), abs=0.8
        )


@pytest.mark.parametrize("place", AGAIN)
def test_plans_are_those_of_the_table(bench, every, place):
    setting = bench.SETTINGS[place]
    made = list(bench.rows(setting, every))
    printed = ROWS[3 * place : 3 * place + 3]
    for row, (*_, planned, off, _, layout) in zip(printed, made, strict=True):
        assert row[5] == planned
        assert row[6].replace("−", "-") == off
        assert row[8] == layout
