"""Fixtures of tests of fidelity."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="session")
def from_benchmarks() -> Callable[[str], ModuleType]:
    """What imports a module of the folder of benchmarks, which is no package."""

    def imported(name: str) -> ModuleType:
        sys.path.insert(0, BENCHMARKS)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(BENCHMARKS)

    return imported
