"""Parameter counts of the shipped models equal the published exact counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costgraph.counting.count import parameters
from costgraph.models import entries, load_model, model_names

PUBLISHED = json.loads((Path(__file__).parent / "parameters.json").read_text())


def test_every_shipped_model_has_a_published_count_and_an_entry():
    assert set(model_names()) == set(PUBLISHED) == set(entries())


@pytest.mark.parametrize("name", model_names())
def test_parameters_equal_the_published_count(name):
    assert parameters(load_model(name)) == PUBLISHED[name]["parameters"]
