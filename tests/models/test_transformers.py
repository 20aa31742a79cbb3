"""The kept counts of small models are those of the classes that are installed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.models.oracle import SMALL, built, counted

pytestmark = [pytest.mark.transformers, pytest.mark.filterwarnings("ignore")]
KEPT: dict[str, Any] = json.loads(SMALL.read_text())
#: Types whose class fetches kernels from the network when it is built.
FETCHES = {"apertus"}
NAMES = [name for name in KEPT if name not in FETCHES]


@pytest.fixture(autouse=True)
def classes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The installed transformers, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_class(name: str, classes: Any) -> None:
    entry = KEPT[name]
    if entry["config"]["model_type"] not in classes.CONFIG_MAPPING:
        pytest.skip(f"transformers {classes.__version__} has no {name}")
    import torch

    with torch.device("meta"):
        model = built(entry["config"], entry["class"])
    assert sum(p.numel() for p in model.parameters()) == entry["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_products_and_caches_are_those_of_the_class(name: str, classes: Any) -> None:
    entry = KEPT[name]
    if entry["config"]["model_type"] not in classes.CONFIG_MAPPING:
        pytest.skip(f"transformers {classes.__version__} has no {name}")
    assert counted(entry["config"], entry["class"]) == entry
