"""Requests beyond the context that a model's file states are said wherever servers are shown."""

from __future__ import annotations

import json
import re

import pytest

import costgraph as cg
from costgraph.asking.serving import Lengths, PrefillFirst
from costgraph.asking.serving.launch import ENGINES
from costgraph.asking.serving.many import Case, run
from costgraph.cli import main
from costgraph.models import load_model
from costgraph.models.catalog import config_of
from costgraph.models.positions import context_of

SAID = "prompt and answer have up to {} positions, more than the {} that the file of {} states"
MODELS = {"llama-2-7b": 4096, "gpt-oss-20b": 131072, "llama-3-8b": 8192}


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


def test_programs_know_the_context_that_their_file_states(model):
    program = load_model(model)
    assert program.context == context_of(config_of(model)) == MODELS[model]
    said = cg.Serving(cg.compile(model, "h200", "fuse")).tpot.assumptions
    assert any(str(program.context) in x for x in said)
    # Passes keep it.
    made = cg.compile(model, "4xh100", "quantize{preset=fp8},fuse,parallel{tp=2,pp=2}")
    assert made.program.context == program.context
    assert program.beyond(program.context) == ""
    assert str(program.context) in program.beyond(program.context + 1)


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 1])
def test_simulations_say_it_in_text_and_json_and_pictures(model, more, capsys, tmp_path):
    most = load_model(model).context
    drawn = tmp_path / "t.svg"
    line = [
        "serve-simulate", model, "--on", "h200", "--passes", "fuse", "--closed", "1", "--requests",
        "1", "--prompt", str(most - 8 + more), "--generate", "8", "--policy", "prefill-first",
    ]  # fmt: skip
    said = SAID.format(most + more, most, model)
    assert main([*line, "--timeline", str(drawn)]) == 0
    assert (said in " ".join(capsys.readouterr().out.split())) is bool(more)
    shown = " ".join(re.findall(r"<!-- (.*?) -->", drawn.read_text()))
    assert (said.split(",")[0] in shown) is bool(more)
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cautions"] == [said][:more]
    prompt, answer = Lengths(most - 8 + more), Lengths(8)
    case = Case(model, "h200", "fuse", PrefillFirst(1), prompt, answer, closed=1, requests=1)
    assert run(case)["caution"] == (said if more else "")


@pytest.mark.parametrize("more", [0, 1])
def test_plans_and_commands_say_it(more, capsys):
    line = [
        "serve-plan", "llama-2-7b", "--on", "h200", "--rate", "0.1", "--prompt", str(3996 + more),
        "--generate", "100", "--ttft", "2 s", "--tpot", "50 ms", "--devices", "1", "--no-pools",
    ]  # fmt: skip
    said = SAID.format(4096 + more, 4096, "llama-2-7b")
    assert main(line) == 0
    assert (said in capsys.readouterr().out) is bool(more)
    for engine in ENGINES:
        assert main([*line, "--json", "--launch", engine]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (said in found["cautions"]) is bool(more)
        assert (f"# {said}" in found["launch"]) is bool(more)
