"""Products of sharded layers against timings of the same operators on one GPU."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median

import pytest

import costgraph as cg

DATA = Path(__file__).parent / "data" / "layer_ops.csv"
HARDWARE = {"a100_80g": "a100-80g", "h100_sxm": "h100"}
MODELS = {
    "Llama-2-7b-hf": "llama-2-7b",
    "Llama-2-70b-hf": "llama-2-70b",
    "Meta-Llama-3-8B": "llama-3-8b",
    "Meta-Llama-3-70B": "llama-3-70b",
}
#: Columns of the data, and how the kernel's name begins.
OPERATORS = {
    "attn_pre_proj": "q_proj+k_proj+v_proj",
    "attn_post_proj": "o_proj",
    "mlp_up_proj": "gate_proj+up_proj",
    "mlp_down_proj": "down_proj",
}


def rows():
    with DATA.open(encoding="utf-8") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


@cache
def compiled(model: str, hardware: str, degree: int, fidelity: str):
    if degree == 1:
        return cg.compile(model, hardware, "fuse", fidelity=fidelity)
    return cg.compile(
        model, f"{degree}x{hardware}", f"fuse,parallel{{tp={degree}}}", fidelity=fidelity
    )


@cache
def kernels(model: str, hardware: str, degree: int, tokens: int, fidelity: str):
    """The kernels of one layer that do the timed products, by the columns of the data."""
    step = compiled(model, hardware, degree, fidelity).breakdown("prefill", B=1, S=tokens)
    products = [row for row in step.rows if row.kind != "all-reduce"]
    found = {c: [r for r in products if r.name.startswith(b)] for c, b in OPERATORS.items()}
    return {column: row for column, (row,) in found.items()}


def pairs(fidelity: str):
    """Degree, column, measured and predicted seconds."""
    for row in rows():
        degree, tokens = int(row["tp"]), int(row["num_tokens"])
        model, hardware = MODELS[row["model"]], HARDWARE[row["hw"]]
        found = kernels(model, hardware, degree, tokens, fidelity)
        yield from ((degree, c, float(row[c]), found[c].seconds) for c in OPERATORS)


def test_no_operator_is_faster_than_its_roofline():
    """So that no shape is larger than what was measured."""
    measured = list(pairs("ideal"))
    assert len(measured) == 244
    # The source rounds to microseconds.
    assert all(predicted <= seconds + 1e-6 for *_, seconds, predicted in measured)


def test_calibrated_operators_meet_the_timings_at_every_degree():
    """These rows took part in the fit: this is about shapes by degree, not about unseen rows."""
    errors = defaultdict(list)
    for degree, column, seconds, predicted in pairs("calibrated"):
        errors[degree, column].append(abs(predicted / seconds - 1))
    assert len(errors) == 4 * len(OPERATORS)
    worst = {key: median(found) for key, found in errors.items()}
    assert max(worst.values()) < 0.08, worst


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_products_divide_by_the_degree(degree):
    whole = kernels("llama-2-70b", "h100", 1, 100, "ideal")
    parts = kernels("llama-2-70b", "h100", degree, 100, "ideal")
    for column, row in whole.items():
        # Sums and activation functions beside the products are a thousandth of them.
        assert parts[column].flops * degree == pytest.approx(row.flops, rel=2e-3)
