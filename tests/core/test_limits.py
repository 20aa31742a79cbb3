"""What a model cannot do is refused by every question, with the limit; what T means is its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.showing.report import page

#: A model, the prompt and answer that fit exactly, and the last context.
FITTING = (
    ("gpt2", 1000, 25, 1024),
    ("opt-6.7b", 2000, 49, 2048),
    ("whisper-small", 1500, 448, 448),
    ("bart-large", 1024, 1024, 1024),
)


@pytest.fixture(scope="module")
def compiled() -> dict[str, cg.Compiled]:
    return {name: cg.compile(name, "h100", "fuse") for name, *_ in FITTING}


def at_step(c: cg.Compiled, context: int, prompt: int) -> dict[str, int]:
    """Values for ``tpot``."""
    point = {"B": 2, "T": context, "S": prompt}
    return {s.name: point[s.name] for s in c.tpot.symbols}


@pytest.mark.parametrize(("name", "S", "N", "T"), FITTING)
def test_every_question_about_a_request_stops_where_the_model_does(
    name: str, S: int, N: int, T: int, compiled: dict[str, cg.Compiled]
) -> None:
    c = compiled[name]
    questions: tuple[Callable[[int], Any], ...] = (
        lambda n: c.latency.evaluate(B=1, S=S, N=n),
        lambda n: c.latency.evaluate(B=[1, 2], S=S, N=n),
        lambda n: c.throughput.evaluate(B=1, S=S, N=n),
        lambda n: c.flops.evaluate(B=1, S=S, N=n),
        lambda n: c.bytes.evaluate(B=1, S=S, N=n),
        lambda n: c.memory.evaluate(B=1, S=S, N=n),
        lambda n: c.energy_per_token.evaluate(B=1, S=S, N=n),
        lambda n: cg.Serving(c).tpot.evaluate(c=2, S=S, N=n),
        lambda n: cg.compare(c.program, "h100", [""], S=S, N=n),
        lambda n: cg.search(c.program, "h100", S=S, N=n),
        lambda n: cg.sweep(c.program, "h100", metrics=["latency"], B=1, S=S, N=[2, n]),
    )
    for ask in questions:
        ask(N)
        with pytest.raises(InputError, match=f"exceeds {T}: the model has no positions beyond"):
            ask(N + 1)
    solved = c.latency.solve_for("N", budget=1e6, B=1, S=S)
    assert solved.largest == N


@pytest.mark.parametrize(("name", "S", "N", "T"), FITTING)
def test_every_question_about_a_step_stops_where_the_model_does(
    name: str, S: int, N: int, T: int, compiled: dict[str, cg.Compiled]
) -> None:
    c = compiled[name]
    questions: tuple[Callable[[int], Any], ...] = (
        lambda t: c.tpot.evaluate(**at_step(c, t, S)),
        lambda t: c.tpot.local(**at_step(c, t, S)),
        lambda t: c.explain("tpot", **at_step(c, t, S)),
        lambda t: c.breakdown("decode", B=2, T=t, S=S),
        lambda t: c.tpot.regimes("B", **{k: v for k, v in at_step(c, t, S).items() if k != "B"}),
        lambda t: cg.sweep(c.program, "h100", metrics=["tpot"], **at_step(c, t, S)),
    )
    for ask in questions:
        ask(T)
        with pytest.raises(InputError, match="the model has no positions beyond"):
            ask(T + 1)
    rest = {k: v for k, v in at_step(c, T, S).items() if k != "T"}
    assert c.tpot.regimes("T", **rest).pieces[-1].upper == T
    assert c.tpot.solve_for("T", budget=1e6, **rest).largest == T
    with pytest.raises(InputError, match=f"ends at {T}"):
        c.tpot.asymptote("T", **rest)
    # The same as data for reports, and where their controls start.
    start = page.start([c], {})
    c.latency.evaluate(B=start["B"], S=start["S"], N=start["N"])
    c.tpot.evaluate(**at_step(c, start["T"], start["S"]))


def test_a_map_ends_at_the_limit(compiled: dict[str, cg.Compiled]) -> None:
    found = compiled["gpt2"].tpot.region_map("B", "T")
    assert {cell.top for r in found.regions for cell in r.cells} == {1024}


def test_drafted_tokens_need_positions_as_well() -> None:
    c = cg.compile("gpt2", "h100", "speculative{draft=heads,gamma=4},fuse")
    c.tpot.evaluate(B=1, T=1020)
    with pytest.raises(InputError, match="1025 exceeds 1024"):
        c.tpot.evaluate(B=1, T=1021)


def test_a_prompt_holds_its_image_tokens() -> None:
    c = cg.compile("qwen2.5-vl-7b", "h100", "fuse")
    for ask in (
        lambda g: c.ttft.evaluate(B=1, S=500, G=g),
        lambda g: c.memory.evaluate(B=1, S=500, G=g, N=10),
        lambda g: c.latency.evaluate(B=1, S=[500, 600], G=g, N=10),
        lambda g: c.breakdown("prefill", B=1, S=500, G=g),
        lambda g: cg.sweep(c.program, "h100", metrics=["ttft"], B=1, S=500, G=[1, g]),
        lambda g: c.ttft.local(B=1, S=500, G=g),
    ):
        ask(500)
        with pytest.raises(InputError, match="G exceeds S by 1: the prompt's tokens include"):
            ask(501)
    found = c.ttft.region_map("S", "G", B=1)
    assert found.at(500, 500)
    assert all(r.expr != 0 for r in found.regions)
    with pytest.raises(InputError, match="G exceeds S by 100"):
        found.at(500, 600)


@pytest.mark.parametrize(("name", "S", "N"), [("t5-base", 512, 128), ("bart-large", 1000, 100)])
def test_a_decoder_behind_an_encoder_counts_its_own_positions(name: str, S: int, N: int) -> None:
    c = cg.compile(name, "h100", "fuse")
    assert c.program.contexts(S, N) == (2, N)
    steps = sum(c.tpot.evaluate(B=3, S=S, T=t) for t in range(2, N + 1))
    assert c.latency(B=3, S=S, N=N) == pytest.approx(c.ttft(B=3, S=S) + steps, rel=1e-12)
    found = cg.search(name, "h100", "fuse", S=S, N=N, limits={"tpot": "5ms"})
    assert found.symbols["T"] == N
    largest = c.tpot.solve_for("B", budget=0.005, T=N, S=S).largest
    assert found.best is not None
    assert found.best.batch == largest
    column = cg.compare(name, "h100", ["fuse"], S=S, N=N)
    assert column.context == (2 + N) // 2


def test_contexts_of_other_programs() -> None:
    decoder = cg.compile("llama-3-8b", "h100").program
    assert decoder.contexts(100, 20) == (101, 119)
    assert decoder.contexts(100, 1) == (101, 101)  # no step: the one that would come first
    assert cg.compile("vit-base-16", "h100").program.contexts(1, 1) is None


def test_commands_answer_for_whisper(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--on", "h100", "--passes", "fuse", "--json"]
    main(["compare", "whisper-small", *common, "--prompt", "1500", "--generate", "128"])
    shown = json.loads(capsys.readouterr().out)
    main(["search", "whisper-small", *common, "-S", "1500", "-N", "128", "-B", "1"])
    found = json.loads(capsys.readouterr().out)
    values = found["candidates"][0]["values"]
    assert found["symbols"]["T"] == 128
    assert shown["context"] == 65
    assert values["latency"] == pytest.approx(shown["pipelines"][0]["latency"])


@pytest.mark.parametrize("name", ["llama-3-8b", "t5-base"])
def test_the_size_of_an_image_is_refused_where_nothing_is_seen(name: str) -> None:
    with pytest.raises(InputError, match="'image' has no effect"):
        cg.compile(name, "h100", image=224)


@pytest.mark.parametrize("option", [{"images": False}, {"mla": "naive"}, {"routing": "all"}])
def test_other_options_without_effect_are_noted(option: dict[str, Any]) -> None:
    made = cg.compile("llama-3-8b", "h100", **option)
    assert f"the option {next(iter(option))!r} has no effect on this model" in made.setting.notes
    heeding = {"images": "llava-1.5-7b", "mla": "deepseek-v3", "routing": "mixtral-8x7b"}
    other = cg.compile(heeding[next(iter(option))], "h100", **option)
    assert not any("has no effect" in note for note in other.setting.notes)


@pytest.mark.parametrize(
    ("model", "options", "notes"),
    [
        ("llama-2-7b", {"quantization": "ignore"}, ["the option 'quantization' has no effect"]),
        ("llama-2-7b", {"weights": "fp16"}, ["'weights' changes nothing: fp16 is what"]),
        ("llama-2-7b", {"kv": "fp16", "activations": "fp16"}, ["'activations' ch", "'kv' changes"]),
        ("bert-base", {"kv": "int8"}, ["the option 'kv' has no effect"]),
        ("mamba-2.8b", {"mask": "compute"}, ["the option 'mask' has no effect"]),
        ("bert-base", {"logits": "all"}, ["the option 'logits' has no effect"]),
        ("deepseek-v3", {"quantization": "ignore"}, []),  # narrow in the file
        ("deepseek-v3", {"weights": "bf16"}, []),
        ("llama-2-7b", {"kv": "int8", "weights": "fp8", "mask": "compute", "logits": "all"}, []),
    ],
)
def test_an_option_that_says_what_is_so_anyway_is_noted(
    model: str, options: dict[str, Any], notes: list[str]
) -> None:
    made = cg.compile(model, "h100", **options).setting.notes
    said = [n for n in made if n.startswith("the option")]
    assert len(said) == len(notes)
    assert all(any(note in text for text in said) for note in notes)


def test_the_size_of_an_image_gives_its_tokens() -> None:
    free = cg.compile("qwen2.5-vl-7b", "h100", "fuse")
    # 720 x 1280 pixels are rounded to multiples of 28: 26 x 46 squares of patches.
    for size in ((728, 1288), (720, 1280)):
        bound = cg.compile("qwen2.5-vl-7b", "h100", "fuse", image=size)
        for metric, rest in (("ttft", {}), ("latency", {"N": 10}), ("memory", {"N": 10})):
            a, b = getattr(bound, metric), getattr(free, metric)
            assert "G" not in {s.name for s in a.symbols}
            point = {"B": 2, "S": 2000, **rest}
            assert a.evaluate(**point) == pytest.approx(b.evaluate(**point, G=26 * 46), rel=1e-12)
        assert any("G = 1196" in text for text in bound.assumptions)
        with pytest.raises(InputError, match="S = 1000 is below 1196"):
            bound.ttft.evaluate(B=1, S=1000)
    flux = cg.compile("flux-1-dev", "h100", "fuse", image=1024)
    given = cg.compile("flux-1-dev", "h100", "fuse").latency.evaluate(B=1, S=512, K=4, G=4096)
    assert flux.latency.evaluate(B=1, S=512, K=4) == pytest.approx(given, rel=1e-12)


@pytest.mark.parametrize("ask", [
    lambda **given: cg.compare("gpt2", "h100", **given),
    lambda **given: cg.search("gpt2", "h100", **given),
    lambda **given: cg.compare("llama-2-7b", "h100", beside=["gpt2"], **given),
])  # fmt: skip
@pytest.mark.parametrize(("given", "lengths", "said"), [
    ({}, (512, 128), "S=512, N=128, where none is given: there is no room for the usual "
                     "S=1024, N=256"),
    ({"S": 1000}, (1000, 25), "N=25, where none is given: there is no room for the usual "
                              "N=256"),
    ({"S": 512}, (512, 256), ""),
    ({"S": 512, "N": 128}, (512, 128), ""),
])  # fmt: skip
def test_usual_lengths_are_those_that_there_is_room_for_and_said(
    ask: Callable[..., Any], given: dict[str, int], lengths: tuple[int, int], said: str
) -> None:
    found = ask(**given)
    values = found.symbols if hasattr(found, "symbols") else found.bindings
    assert (values["S"], values["N"]) == lengths
    told = [x for x in found.setting.cautions if "where none is given" in x]
    assert told == ([said] if said else [])
    assert not said or said in str(found)
    assert not said or said in str(found.to_dict())


def test_given_lengths_stay_and_are_refused() -> None:
    for ask in (cg.compare, cg.search):
        with pytest.raises(InputError, match="N \\+ S - 1 = 1028 exceeds 1024"):
            ask("gpt2", "h100", S=1024, N=5)
