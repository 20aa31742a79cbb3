"""Models side by side: a student beside its teacher, with lengths of its own."""

from __future__ import annotations

import json
import re

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import CostgraphError
from costgraph.symbols import N

TEACHER, STUDENTS = "llama-2-13b", ["llama-2-7b", ("llama-3.2-1b", {"S": 300, "N": 700})]
DEVICES, PIPELINES = ["a100-80g", "h100"], ["", "quantize{preset=w4a16}"]


@pytest.fixture(scope="module")
def table():
    return cg.compare(TEACHER, DEVICES, PIPELINES, beside=STUDENTS, B=2, S=512, N=128)


def own(column) -> dict[str, int]:
    return {"B": 2, "S": 512, "N": 128, **column.lengths}


def test_every_model_goes_through_every_pipeline_on_every_device(table):
    names = [TEACHER, "llama-2-7b", "llama-3.2-1b"]
    assert table.models == tuple(names)
    assert table.devices == tuple(DEVICES)
    assert [(c.hardware, c.model, c.passes) for c in table.columns] == [
        (device, model, passes or "none")
        for device in DEVICES
        for model in names
        for passes in PIPELINES
    ]


def test_columns_are_what_each_model_costs_alone(table):
    first = table.columns[0]
    for column, compiled in zip(table.columns, table.compiled, strict=True):
        assert column.latency == compiled.latency.evaluate(**own(column))
        assert column.memory == compiled.memory.evaluate(**own(column))
        assert column.parameters == compiled.parameters
        assert column.parameter_ratio == column.parameters / first.parameters
        assert column.memory_ratio == column.memory / first.memory
        assert column.speedup == pytest.approx(first.latency / column.latency)
        tokens = own(column)["N"] * 2
        assert column.throughput == pytest.approx(tokens / column.latency)


def test_the_length_at_equal_latency_is_the_last_that_keeps_within_it(table):
    first = table.columns[0]
    for column, compiled, even in zip(table.columns, table.compiled, table.evens, strict=True):
        if column.model == TEACHER:
            assert column.even_length is None is even
            continue
        at = own(column)
        most = column.even_length
        assert compiled.latency.evaluate(**{**at, "N": most}) <= first.latency
        assert compiled.latency.evaluate(**{**at, "N": most + 1}) > first.latency
        assert int(float(even.expr.xreplace({N: Integer(128)}))) == most


def test_a_waterfall_begins_at_the_model_of_its_column(table):
    for column, compiled, fall in zip(table.columns, table.compiled, table.waterfalls, strict=True):
        plain = cg.compile(compiled.program.name, column.hardware).latency.evaluate(**own(column))
        assert plain + sum(e.change for e in fall) == pytest.approx(column.latency)


def test_the_command_prints_the_same_numbers(table, capsys):
    line = ["compare", TEACHER, "--beside", "llama-2-7b", "--beside", "llama-3.2-1b:S=300,N=700"]
    line += ["--on", ",".join(DEVICES), "--batch", "2", "--prompt", "512", "--generate", "128"]
    for passes in PIPELINES:
        line += ["--passes", passes]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["pipelines"]
    assert [p["latency"] for p in found] == [c.latency for c in table.columns]
    assert [p["even_length"] for p in found] == [c.even_length for c in table.columns]
    assert [p["lengths"] for p in found] == [dict(c.lengths) for c in table.columns]
    assert found[0]["even_formula"] is None
    assert found[2]["even_formula"] is not None
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "S=300, N=700" in text
    assert "6.738G (0.52x)" in text
    assert "N at the latency of llama-2-13b, none" in text
    assert "tpot: mean of each model's own decode steps" in text
    assert "N at equal latency" in table._repr_html_()


def test_one_model_is_shown_as_before():
    table = cg.compare(TEACHER, "h100", PIPELINES)
    for word in ("model ", "parameters", "N at", "memory ratio"):
        assert word not in str(table)
    assert table.context is not None


def test_the_same_model_with_another_length_is_a_model_beside():
    table = cg.compare("llama-2-7b", "h100", [""], beside=[("llama-2-7b", {"N": 512})], N=256)
    assert table.columns[1].latency > 1.9 * table.columns[0].latency
    assert table.context is None


def test_models_without_tokens_have_no_length():
    table = cg.compare("bert-large", "h100", [""], beside=["bert-base"], S=128)
    assert table.columns[1].parameter_ratio == pytest.approx(0.327, abs=0.01)
    assert table.columns[1].even_length is None


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("llama-2-7b:N=x", "'x' is not a positive number"),
        ("llama-2-7b:N=1.5", "whole number"),
        ("llama-2-7b:B=3", "has its own S and N, not 'B'"),
        ("llama-2-7b:N=1,N=2", "'N' is given twice"),
        ("llama-2-7", "did you mean 'llama-2-7b'"),
        ("bert-base:S=600", "exceeds 512"),
        ("bert-base:S=100,N=9", "bert-base: nothing asked here depends on N"),
    ],
)
def test_what_cannot_stand_beside_is_refused_in_one_line(beside, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", TEACHER, "--beside", beside, "--on", "h100", "--passes", ""])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_size_of_all_is_no_length_of_one():
    with pytest.raises(CostgraphError, match="its own S and N, not 'T'"):
        cg.compare(TEACHER, "h100", [""], beside=[("llama-2-7b", {"T": 3})])


#: Passes that share a model among devices, and whose parameters are counted then.
SHARED = {
    "fuse": "",
    "parallel{tp=4}": "on each device",
    "parallel{dp=4}": "on each device",
    "parallel{pp=4}": "",
    "parallel{tp=2,pp=2}": "on one device of each stage",
    "chain{chips=4}": "",
    "chain{chips=4,groups=4}": "",
}


def test_parameters_say_whose_they_are():
    """All of the model, or what so many times is all of it: in text, HTML and data alike."""
    table = cg.compare("gpt2", "4xh100", list(SHARED), beside=["llama-3.2-1b"], B=4, S=16, N=4)
    whole = table.columns[0].parameters
    for column, compiled in zip(table.columns, table.compiled, strict=True):
        assert column.parameters_on == SHARED[column.passes] == compiled.parameters_on
        if column.model == "gpt2" and not column.parameters_on:
            assert column.parameters == whole
        if column.model == "gpt2" and "tp" in column.passes:  # norms lie on all
            ways = 4 if "tp=4" in column.passes else 2
            assert whole / ways <= column.parameters < 1.03 * whole / ways
    for text in (str(table), table._repr_html_()):
        assert len(re.findall(r"\d[GM] on each device", text)) == 4
        assert len(re.findall(r"\d[GM] on one device of each stage", text)) == 2
    told = [p["parameters_on"] for p in table.to_dict()["pipelines"]]
    assert told == list(SHARED.values()) * 2
