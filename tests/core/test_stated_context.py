"""Numbers beyond the context that a model's file states say so, whoever shows them."""

from __future__ import annotations

import json
import re

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.models import load_model
from costgraph.models.catalog import config_of, model_names
from costgraph.models.positions import context_of
from costgraph.showing.report import report
from costgraph.symbols import N, S, T

MODEL, MOST = "pythia-160m", 2048
TARGET = [MODEL, "--on", "a6000", "--passes", "fuse"]
SAID = f"positions, more than the {MOST} that the file of {MODEL} states"
TOLD = "prompt and answer have up to"
OPEN = f"at most the {MOST} positions that the file states"
REQUEST = ["--prompt", "{end}", "--generate", "48"]

#: Commands with a size that is put in: up to the context, or one more.
COMMANDS = {
    "formula": ["formula", *TARGET, "--metric", "latency", "--at", "B=1,S={end},N=48"],
    "formula of a step": ["formula", *TARGET, "--at", "B=1,T={last}"],
    "formula, open": ["formula", *TARGET, "--metric", "latency", "--set", "S={most}"],
    "analyze a step": ["analyze", *TARGET, "--context", "{last}"],
    "analyze a prompt": ["analyze", *TARGET, "--phase", "prefill", "--prompt", "{last}"],
    "compare": ["compare", *TARGET, *REQUEST],
    "explain": ["explain", *TARGET, "--metric", "tpot", "--at", "B=1,T={last}"],
    "regimes": ["regimes", *TARGET, "--metric", "tpot", "--over", "B", "--at", "T={last}"],
    "regimes of two": ["regimes", *TARGET, "--metric", "ttft", "--over", "B,S"],
    "solve": ["solve", *TARGET, "--metric", "tpot", "--over", "B", "--budget", "20 ms",
              "--at", "T={last}"],
    "wins": ["wins", *TARGET, "--passes", "", "--over", "B", "--at", "T={last}"],
    "sweep": ["sweep", *TARGET, "--metric", "latency,memory", "-S", "64,{end}", "-N", "48"],
    "search": ["search", *TARGET, *REQUEST, "-B", "1:4"],
}  # fmt: skip
#: Those that print code or LaTeX, with the sentence as a comment.
WRITTEN = {
    form: ["formula", *TARGET, "--metric", "latency", "--set", "S={most}", "--format", form]
    for form in ("latex", "python", "javascript", "c")
}
#: Those that make a file, and its suffix.
DRAWN = {
    "draw": (["draw", *TARGET, "--context", "{last}"], "svg"),
    "compare": (["compare", *TARGET, *REQUEST], "svg"),
    "roofline": (["plot", "roofline", *TARGET, "--context", "{last}"], "svg"),
    "curve": (["plot", "curve", *TARGET, "--over", "T", "--from", "64", "--to", "{last}"], "svg"),
    "curves": (["plot", "curve", *TARGET, "--passes", "", "--over", "T", "--from", "64", "--to",
                "{last}"], "svg"),
    "map": (["plot", "map", *TARGET, "-B", "1:64", "-T", "64:{last}"], "svg"),
    "breakdown": (["plot", "breakdown", *TARGET, "--over", "T", "--from", "64", "--to", "{twice}"],
                  "svg"),
    "waterfall": (["plot", "waterfall", *TARGET, *REQUEST], "svg"),
    "pareto": (["plot", "pareto", *TARGET, "--context", "{last}"], "svg"),
    "sizes": (["plot", "sizes", *TARGET, "--context", "{last}"], "svg"),
    "timeline": (["analyze", *TARGET, "--context", "{last}", "--timeline"], "json"),
}  # fmt: skip


def asked(line, more):
    sizes = {
        "end": MOST - 48 + more,
        "last": MOST + more,
        "most": MOST - 1 + more,
        "twice": MOST * (1 + more),
    }
    return [word.format(**sizes) for word in line]


def flat(text):
    """Text without what breaks lines."""
    return " ".join(re.sub(r"\n *(//|#|%|\*)", "\n", text).split())


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_say_it(name, more, capsys):
    told, beyond = SAID, bool(more)
    if name == "regimes of two":  # over all of them
        told, beyond = OPEN, True
    assert main(asked(COMMANDS[name], more)) == 0
    assert (told in flat(capsys.readouterr().out)) is beyond
    assert main([*asked(COMMANDS[name], more), "--json"]) == 0
    found = capsys.readouterr().out
    json.loads(found)
    assert (told in found) is beyond


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_says_it(name, more, capsys):
    assert main(asked(WRITTEN[name], more)) == 0
    assert (SAID in flat(capsys.readouterr().out)) is bool(more)


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("name", DRAWN)
def test_pictures_say_it(name, more, tmp_path, capsys):
    line, suffix = DRAWN[name]
    path = tmp_path / f"made.{suffix}"
    assert main([*asked(line, more), *([] if "--timeline" in line else ["-o"]), str(path)]) == 0
    assert (f"more than the {MOST}" in flat(path.read_text(encoding="utf-8"))) is bool(more)


def test_reports_say_it_where_sliders_are():
    """The page has the sentence of each variant, and the positions as a function."""
    page = report(MODEL, "a6000", "fuse").html
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    (variant,) = data["variants"][0]
    assert {tuple(x[1:]) for x in variant["stated"]} == {(MOST, f"{TOLD} ", f" {SAID}")}


def test_arrays_and_two_models_say_it():
    formula = cg.compile(MODEL, "a6000", "fuse").latency
    assert (
        formula.beyond(B=1, S=[16, MOST], N=[1, 8]) == f"prompt and answer have up to 2056 {SAID}"
    )
    assert formula.beyond(B=1, S=[16, 32], N=8) == ""
    table = cg.compare(MODEL, "a6000", "fuse", beside=[("llama-2-7b", {"S": 4090})], S=64, N=8)
    (said,) = table.setting.cautions
    assert said == f"{TOLD} 4098 {SAID}".replace("2048", "4096").replace(MODEL, "llama-2-7b")


def test_what_was_said_of_fewer_sizes_is_not_said_twice():
    open_ = cg.compile(MODEL, "a6000", "fuse").latency.bind(S=3000)
    assert open_.setting.cautions == (f"prompt and answer have at least 3001 {SAID}",)
    assert open_.bind(B=1, N=50).setting.cautions == (f"{TOLD} 3050 {SAID}",)


def test_every_shipped_model_whose_file_states_a_context_knows_it():
    """A whole request, a prompt and a step, each at its end and one beyond."""
    for name in model_names():
        program = load_model(name)
        stated = context_of(config_of(name))
        assert program.context == stated, name
        if stated is None:
            assert program.positions == (), name
            continue
        if not program.positions:  # it counts rows of pictures, no tokens
            assert not program.extents & {S, N, T}, name
        for more in (0, 1):
            last = Integer(stated + more)
            points = [{S: last}, {T: last}, {S: last - 8, N: Integer(8)}]
            for point in points:
                # Steps of encoder-decoders hold the answer; steps of encoders are their prompts.
                known = [x for x in program.positions if x.expr.free_symbols == set(point)]
                told = program.beyond_at(point)
                assert (f"more than the {stated}" in told) is bool(more and known), (name, point)


SECTIONS = (
    ("text_config",), ("llm_config",), ("language_config",), ("decoder_config",),
    ("thinker_config", "text_config"),
)  # fmt: skip


@pytest.mark.parametrize("path", SECTIONS)
def test_sections_of_language_models_state_it(path):
    config: dict = {"max_position_embeddings": 4096}
    for key in reversed(path):
        config = {key: config, "vision_config": {"max_position_embeddings": 7}}
    assert context_of(config) == 4096
    for other in ("vision_config", "encoder_config", "quantization_config"):
        assert context_of({other: {"max_position_embeddings": 7}}) is None


def test_a_solution_beyond_it_says_so(capsys):
    """Whether what is solved for is a length, or something else at one that is too long."""
    line = ["solve", *TARGET, "--metric", "tpot", "--budget"]
    assert main([*line, "2 ms", "--over", "T", "--at", "B=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (said,) = found["warnings"]
    assert SAID in said
    assert OPEN in " ".join(found["assumptions"])
    assert main([*line, "20 ms", "--over", "B", "--at", "T=9000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [SAID in x for x in found["cautions"]] == [True]
    assert not any(SAID in x for x in found["warnings"])
