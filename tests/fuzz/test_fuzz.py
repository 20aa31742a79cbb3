"""A minute of random input: used, or refused in one line, soon and in bounded memory.

``make fuzz`` runs ten thousand cases; ``python -m tests.fuzz --kind K --only SEED``
repeats one.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.generators import KINDS, commands
from tests.fuzz.harness import case

#: Cases of a kind in the suite; of the others :data:`USUAL`.
CASES = {"configs": 40, "pipelines": 30, "imports": 30, "devices": 20, "sweeps": 16, "stores": 16}
USUAL = 8
#: Of what takes seconds a case: each writes a folder of pages.
SLOW = {"arguments of site": 3}
NEEDS = {"imports": ("onnx",), "sweeps": ("xarray", "zarr"), "stores": ("xarray", "zarr"),
         "timings": ("scipy",), "arguments of sweep": ("xarray", "zarr"),
         "arguments of plot": ("matplotlib",), "arguments of calibrate": ("scipy", "matplotlib"),
         }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_input_is_used_or_refused(kind):
    for module in NEEDS.get(kind, ()):
        pytest.importorskip(module)
    codes: Counter[int | None] = Counter()
    for number in range(CASES.get(kind, SLOW.get(kind, USUAL))):
        found = case(KINDS[kind], f"suite.{number}")
        codes[found.code] += 1
        assert not found.fault, (
            f"--kind '{kind}' --only suite.{number}: {found.arguments}\n{found.fault}"
        )
    if kind in CASES:  # a generator whose cases are all refused finds nothing
        assert codes[0] > 0
        assert codes[2] > 0


def test_every_command_is_there():
    assert {f"arguments of {name}" for name in commands()} < set(KINDS)


def test_the_long_run_counts_and_repeats():
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", "3", "--seed", "x",
         "--kind", "arguments of passes"],
        capture_output=True, text=True, cwd=root, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert "3 cases of 1 kinds from seed x: 0 faults" in found.stdout
