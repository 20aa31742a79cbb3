"""One memory for all layers, of what all of them made: by hand, position by position."""

from __future__ import annotations

from functools import cache

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError, PipelineError
from costgraph.symbols import B, S, T

#: Name: layers, hidden size, heads, head size, width of keys.
MODELS = {
    "llama-3.2-1b": (16, 2048, 32, 64, 512),
    "gpt2": (12, 768, 12, 64, 768),
    "qwen3-0.6b": (28, 1024, 16, 128, 1024),
}


@cache
def made(model: str, passes: str = "feedback", device: str = "h100"):
    return cg.compile(model, device, passes)


def step(model: str, context: int, passes: str = "feedback"):
    """Rows of a decode step of two sequences, by name, with FLOP of all of them."""
    phase = made(model, passes).program.phase("decode")
    at = {B: Integer(2), T: Integer(context)}
    return {
        r.node.name: (int(r.count), phase.bind(r.count * r.cost.total_flops).xreplace(at))
        for r in rows(phase.graph)
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("context", [1, 2, 100])
def test_a_position_sees_those_in_front_of_it_and_is_kept_once(model, context):
    layers, d, heads, dh, width = MODELS[model]
    found = step(model, context)
    for name in ("qk_matmul", "sv_matmul"):
        assert found[name] == (layers, layers * 2 * 2 * heads * dh * (context - 1))
    # Its embedding and what each layer made of it, times a number each, added up.
    parts = found["memory_begun"], found["memory_part"], found["memory_add"]
    assert [n for n, _ in parts] == [1, layers, layers]
    assert sum(f for _, f in parts) == 2 * (2 * layers + 1) * d
    # Keys and values are made once: of the sum.
    named = [n for n in found if "append" in n]
    assert len(named) == 2
    assert all(found[n][0] == 1 for n in named)
    kept = cache_bytes(made(model).program.phase("decode").graph)
    at = {B: Integer(2), T: Integer(context)}
    assert kept.xreplace(at) == 2 * 2 * 2 * width * context


@pytest.mark.parametrize("model", ["llama-3.2-1b", "gpt2"])
def test_keys_and_values_of_all_layers_but_one_are_gone(model):
    layers, d, _, _, width = MODELS[model]
    biases = 2 * width if model == "gpt2" else 0
    norms = 2 * d if model == "gpt2" else d
    plain, fed = (parameters(made(model, p).program) for p in ("", "feedback"))
    spared = (layers - 1) * (2 * d * width + biases)
    # One norm more, in front of keys and values of the sum, and its numbers.
    assert plain - fed == spared - norms - (layers + 1)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "gpt2"])
def test_a_prompt_passes_token_by_token(model):
    compiled, prompt = made(model, "fuse,feedback"), 40
    phases = compiled.program.phases
    assert [p.name for p in phases] == ["reading", "prefill", "decode"]
    assert phases[0].steps.xreplace({S: Integer(prompt)}) == prompt - 1
    one_by_one = sum(
        compiled.time("reading").evaluate(B=2, T=t) for t in range(1, prompt)
    ) + compiled.time("prefill").evaluate(B=2, S=prompt)
    assert compiled.ttft.evaluate(B=2, S=prompt) == pytest.approx(one_by_one, rel=1e-12)
    steps = sum(compiled.tpot.evaluate(B=2, T=t) for t in range(prompt + 1, prompt + 20))
    total = compiled.latency.evaluate(B=2, S=prompt, N=20)
    assert total == pytest.approx(one_by_one + steps, rel=1e-12)
    assert compiled.ttft.evaluate(B=2, S=1) > 0


def test_a_shared_cache_is_read_by_every_layer_and_spares_memory():
    fed, plain = (made("llama-3.2-1b", p) for p in ("fuse,feedback", "fuse"))
    at = {"B": 64, "S": 4000, "N": 2}
    assert fed.memory.evaluate(**at) < 0.3 * plain.memory.evaluate(**at)
    # A step reads as many rows as before; a prompt as many as an answer would.
    assert fed.tpot.evaluate(B=64, T=4000) > 0.9 * plain.tpot.evaluate(B=64, T=4000)
    assert fed.ttft.evaluate(B=64, S=4000) > 10 * plain.ttft.evaluate(B=64, S=4000)


@pytest.mark.parametrize(
    "passes", ["feedback,fuse,quantize{kv=int8,weights=int4}", "feedback,page-kv", "feedback,prune"]
)
def test_others_go_with_it(passes):
    assert made("llama-3.2-1b", passes).latency.evaluate(B=1, S=30, N=20) > 0


def test_devices_do_their_heads_and_hold_all_of_the_memory():
    one, two = (made("llama-3.2-1b", p, "2xh100") for p in ("feedback", "feedback,parallel{tp=2}"))
    at = {B: Integer(2), T: Integer(90)}
    graphs = [c.program.phase("decode").graph for c in (one, two)]
    whole, part = (cache_bytes(g).xreplace(at) for g in graphs)
    assert part == whole
    assert any("all of the memory" in a for a in two.program.assumptions)
    scored = [
        sum((r.count * r.cost.total_flops for r in rows(g) if r.kind == "qk-matmul"), Integer(0))
        for g in graphs
    ]
    assert 2 * scored[1] == scored[0]


def test_stages_that_read_one_memory_are_refused():
    with pytest.raises(PipelineError, match="layers of several stages read 'memory_k_cache'"):
        made("llama-3.2-1b", "feedback,parallel{pp=2}", "2xh100")


def test_what_does_not_fit_is_said_or_refused():
    for model, passes in (("mistral-7b", "feedback"), ("llama-3.2-1b", "window,feedback"),
                          ("gpt-oss-20b", "feedback")):  # fmt: skip
        compiled = made(model, passes)
        assert [p.name for p in compiled.program.phases] == ["prefill", "decode"]
        assert any(m.rule == "feedback" for m in compiled.trace.misses)
    with pytest.raises(PipelineError, match="must read a prompt and then decode"):
        made("bert-base")
    with pytest.raises(CostgraphError, match="not a request of one server"):
        made("gpt2").step((1, 1, 100))
