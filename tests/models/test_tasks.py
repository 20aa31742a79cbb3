"""BERT and its kin: every class that is read has as many parameters as the real one.

``counted/tasks.json`` holds a small configuration per family, and what transformers' classes of
it have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.models import load_model

COUNTED: dict[str, Any] = json.loads((Path(__file__).parent / "counted" / "tasks.json").read_text())
CASES = [(kind, name) for kind, entry in COUNTED.items() for name in entry["classes"]]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_parameters_are_equal(kind, name):
    entry = COUNTED[kind]
    found = load_model({**entry["config"], "architectures": [name]})
    assert parameters(found) == entry["classes"][name]


@pytest.mark.parametrize(
    "kind", [k for k, e in COUNTED.items() if "type_vocab_size" in e["config"]]
)
def test_absent_types_are_no_empty_table(kind):
    """Classes differ in how many types they take where a file says nothing."""
    entry = COUNTED[kind]
    config = {k: v for k, v in entry["config"].items() if k != "type_vocab_size"}
    name = next(iter(entry["classes"]))
    whole = parameters(load_model({**entry["config"], "architectures": [name]}))
    try:
        found = parameters(load_model({**config, "architectures": [name]}))
    except ModelError as error:
        assert "type_vocab_size" in str(error)
    else:
        # Families without types, or whose classes have none by default.
        assert kind in ("deberta", "deberta-v2") or found == whole
