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
#: Families without types, and those whose classes have none, or two, where nothing is said.
WITHOUT, EMPTY, TWO = (
    {"bert-generation", "esm", "modernbert", "mpnet", "tapas"},
    {"deberta", "deberta-v2"},
    {"layoutlmv3"},
)
CASES = [(kind, name) for kind, entry in COUNTED.items() for name in entry["classes"]]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_parameters_are_equal(kind, name):
    entry = COUNTED[kind]
    found = load_model({**entry["config"], "architectures": [name]})
    assert parameters(found) == entry["classes"][name]


#: Ends of names of classes with logits of words, which a file may not untie.
WORDS = ("ForMaskedLM", "BertForPreTraining", "ErnieForPreTraining", "WithLMHeadModel", "Decoder")


@pytest.mark.parametrize(("kind", "name"), [c for c in CASES if not c[1].endswith(WORDS)])
def test_classes_without_logits_may_be_untied(kind, name):
    entry = COUNTED[kind]
    config = {**entry["config"], "architectures": [name], "tie_word_embeddings": False}
    assert parameters(load_model(config)) == entry["classes"][name]


TYPED = [kind for kind, entry in COUNTED.items() if "type_vocab_size" in entry["config"]]


@pytest.mark.parametrize("kind", TYPED)
def test_absent_types_are_no_empty_table(kind):
    """Classes differ in how many types they take where a file says nothing."""
    entry = COUNTED[kind]
    name = next(iter(entry["classes"]))
    whole = {**entry["config"], "architectures": [name]}
    config = {k: v for k, v in whole.items() if k != "type_vocab_size"}
    if kind in WITHOUT:
        assert parameters(load_model(config)) == parameters(load_model(whole))
    elif kind in EMPTY:
        assert parameters(load_model(config)) < parameters(load_model(whole))
    elif kind in TWO:
        two = {**whole, "type_vocab_size": 2}
        assert parameters(load_model(config)) == parameters(load_model(two))
    else:
        with pytest.raises(ModelError, match="type_vocab_size"):
            load_model(config)
