"""Patterns of names match what Python's regular expressions match, without becoming any."""

from __future__ import annotations

import random
import re

import pytest

from costgraph.models.checkpoint import wildcards
from costgraph.models.checkpoint.names import Module, Names, patterns_of
from costgraph.models.checkpoint.wildcards import expression, glob

PIECES = ("a", "b", r"\.", ".", ".*", ".+", r"\d+", "[ab]*", "[^a]", "a?", "b?", "(a|ba|)", r"\d?")


@pytest.mark.parametrize("seed", range(4))
def test_expressions_match_as_pythons_do(seed):
    rng = random.Random(seed)
    seen = set()
    for _ in range(150):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 6))) + rng.choice(["", "$"])
        pattern, pythons = expression(text), re.compile(text)
        for _ in range(10):
            name = "".join(rng.choices("ab.1", k=rng.randint(0, 7)))
            seen.add(pattern.matches(name))
            assert pattern.matches(name) == bool(pythons.match(name)), (text, name)
            assert pattern.may_match_in(f"b\n{name}\na.b") or not pattern.matches(name)
    assert seen == {True, False}


def test_names_with_stars_mean_themselves_and_what_is_below():
    pattern = glob("layers.*.q?")
    for name in ("layers.0.qa", "model.layers.0.qa", "layers.1.qb.weight", "x.layers.1.2.qb.w"):
        assert pattern.matches(name), name
    for name in ("layers.0.q", "mylayers.0.qa", "layers.0.qabc", ""):
        assert not pattern.matches(name), name


def test_a_list_that_names_every_layer_reads_only_what_may_match(monkeypatch):
    # ModelOpt writes such lists; every name through every pattern took minutes.
    read = []
    whole = wildcards._Places.runs_through
    monkeypatch.setattr(
        wildcards._Places, "runs_through", lambda way, text: read.append(text) or whole(way, text)
    )
    layers = range(48)
    names = Names(patterns_of([f"model.layers.{i}.self_attn*" for i in layers], "ignore"))
    for layer in layers:
        assert names.naming(Module("q_proj", layered=True), layer) == {layer}
        assert names.naming(Module("down_proj", layered=True), layer) == set()
    assert 0 < len(read) < 10 * len(layers)


def test_names_of_one_layer_are_asked_in_that_layer_alone():
    texts = [
        "model.layers.1.*",
        "layers.1*",
        "*.layers.2.self_attn*",
        "model.layers.2.mlp.*",
        "h.1.*",
    ]
    names = Names(patterns_of(texts, "ignore"))
    assert [p.layer for p in names.patterns] == [1, None, None, 2, 1]
    for leaf in ("q_proj", "down_proj"):
        module = Module(leaf, layered=True)
        for layer in (1, 2, 10, None):
            wanted = {
                i
                for i, p in enumerate(names.patterns)
                if any(p.wild.matches(n) for n in module.full(layer).splitlines())
            }
            assert names.naming(module, layer) == wanted, (leaf, layer)
