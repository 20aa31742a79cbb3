"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Machine

settings.register_profile(
    "costgraph", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("costgraph")
# Expressions are many small objects without cycles; looking for cycles among them
# at every 700th takes a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def a6000() -> Machine:
    """The survey's machine."""
    return load_hardware("a6000").under("survey")


@pytest.fixture(scope="session", autouse=True)
def asked_anew() -> Iterator[None]:
    """Commands that tests run in processes of their own repeat no kept answer, and keep none.

    They do keep compiled modules: each would compile hundreds of files anew.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSTGRAPH_CACHE", "")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield
