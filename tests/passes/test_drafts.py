"""Who can draft for whom, and where the parts of a speculating request count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.asking.comparison import compare
from costgraph.counting.count import parameters
from costgraph.counting.footprint import footprint
from costgraph.errors import InputError, PipelineError
from costgraph.symbols import B, G, N, S, T, q

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"
#: Target and draft, whose phases carry over one by one.
PAIRS = [
    ("whisper-large-v3", "whisper-small"),
    ("t5-base", "t5-small"),
    ("qwen2.5-vl-7b", "qwen2-vl-7b"),
    ("llava-1.5-7b", "llama-2-7b"),
    ("opt-13b", "opt-125m"),
    ("deepseek-v3", "deepseek-r1"),
    ("mamba-2.8b", "mamba-130m"),
]
AT = {"B": 2, "S": 700, "N": 40, "G": 576, "T": 300}


def values(formula):
    return {s.name: AT[s.name] for s in formula.symbols}


@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_a_request_is_its_two_models_and_its_rounds(target, draft):
    """Latency, from the phases of the two models compiled alone."""
    both = cg.compile(target, "h200", f"fuse,speculative{{draft={draft},gamma=3,alpha=4/5}}")
    alone = {name: cg.compile(name, "h200", "fuse") for name in (target, draft)}
    prompts = [p for p in alone[target].program.phases if p.span is None]
    once = 0.0
    for phase in prompts:
        own = both.time(phase.name)
        assert own.evaluate(**values(own)) == pytest.approx(
            alone[target].time(phase.name).evaluate(**values(own))
        )
        once += own.evaluate(**values(own))
        if any(p.name == phase.name for p in alone[draft].program.phases):
            its = both.time(f"draft-{phase.name}")
            assert its.evaluate(**values(its)) == pytest.approx(
                alone[draft].time(phase.name).evaluate(**values(its))
            )
            once += its.evaluate(**values(its))
    # The prompt is read by both before the first token; then there are rounds alone.
    assert both.ttft.evaluate(**values(both.ttft)) == pytest.approx(once)
    steps = AT["N"] - 1
    mean = (both.latency.evaluate(**values(both.latency)) - once) / steps
    tpot = [both.tpot.evaluate(**{**values(both.tpot), "T": t}) for t in _contexts(both)]
    assert mean == pytest.approx(sum(tpot) / len(tpot), rel=1e-9)
    # A draft step is a step of the draft; parameters are those of both.
    step = both.time("draft").evaluate(**{**values(both.time("draft")), "T": 99})
    assert step == pytest.approx(
        alone[draft].time("decode").evaluate(**{**values(alone[draft].time("decode")), "T": 100})
    )
    assert both.parameters == alone[target].parameters + alone[draft].parameters


def _contexts(compiled):
    span = compiled.program.phase("verify").span
    at = {S: Integer(AT["S"]), N: Integer(AT["N"])}
    return range(int(span.lower.xreplace(at)), int(span.upper.xreplace(at)) + 1)


@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_both_models_are_in_memory_in_every_phase(target, draft):
    both = cg.compile(target, "h200", f"fuse,speculative{{draft={draft},gamma=3}}").program
    alone = [cg.compile(name, "h200").program for name in (target, draft)]
    weights = sum(_number(c * t.footprint) for program in alone for t, c in program.weights())
    for phase in both.phases:
        held = sum(_number(c * t.footprint) for t, c in phase.weights())
        assert held == weights, phase.name


def _number(expr):
    return expr.xreplace(
        {B: Integer(2), q: Integer(1), T: Integer(9), S: Integer(9), G: Integer(4)}
    )


@pytest.mark.parametrize("model", ["whisper-small", "t5-small", "llava-1.5-7b", "qwen3.5-27b"])
@pytest.mark.parametrize("kind", ["heads", "skip"])
def test_drafts_without_a_model_work_wherever_steps_do(model, kind):
    made = cg.compile(model, "h200", f"fuse,speculative{{draft={kind},gamma=3,alpha=9/10}}")
    plain = cg.compile(model, "h200", "fuse")
    assert made.ttft.evaluate(**values(made.ttft)) == plain.ttft.evaluate(**values(plain.ttft))
    assert made.tpot.evaluate(**values(made.tpot)) < plain.tpot.evaluate(**values(plain.tpot))
    assert made.memory.evaluate(**values(made.memory)) > 0


@pytest.mark.parametrize(
    ("target", "draft", "words"),
    [
        ("qwen3-32b", "llama-3.2-1b", "128,256 .* 151,936 .* cannot verify one another"),
        ("llama-3-8b", "bert-base", "bert-base is no language model"),
        ("llama-3-8b", "vit-base-16", "vit-base-16 is no language model"),
        ("llama-3-8b", "sdxl-unet", "no language model"),
        ("llama-2-7b", "t5-small", "t5-small decodes behind an encoder, llama-2-7b reads"),
        ("t5-base", "llama-2-7b", "llama-2-7b reads its prompt itself, t5-base decodes"),
        ("llama-2-7b", "llava-1.5-7b", r"a phase \(vision\) that llama-2-7b has no input for"),
        ("bert-base", "skip", "bert-base is no language model"),
        ("dit-xl-2", "heads", "no language model"),
        ("llama-3-8b", "no-such-model", "no-such-model"),
    ],
)
def test_drafts_that_cannot_verify_are_refused_with_the_reason(target, draft, words):
    with pytest.raises(InputError, match=words) as caught:
        cg.compile(target, "h200", f"speculative{{draft={draft}}}")
    assert "several tokens" not in str(caught.value)


def test_a_denoising_model_is_refused_for_what_it_is():
    config = {
        "model_type": "llada", "d_model": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4,
        "mlp_hidden_size": 512, "vocab_size": 1000, "embedding_size": 1000,
        "activation_type": "silu", "block_type": "llama", "max_sequence_length": 128,
        "rms_norm_eps": 1e-5, "weight_tying": False,
    }  # fmt: skip
    with pytest.raises(PipelineError, match="whole answer at once"):
        cg.compile(config, "h100", "speculative")


def test_vocabularies_of_one_tokenizer_may_be_padded():
    made = cg.compile("qwen2.5-32b", "h200", "speculative{draft=qwen2.5-0.5b}")
    (said,) = [a for a in made.assumptions if "tokenizer" in a]
    assert "151,936 and 152,064 rows differ by padding" in said
    (said,) = [
        a
        for a in cg.compile("opt-13b", "h200", "speculative{draft=opt-125m}").assumptions
        if "tokenizer" in a
    ]
    assert said == "draft and target are taken to share one tokenizer"


def test_limits_of_a_draft_hold_as_well(tmp_path):
    config = json.loads((CONFIGS / "whisper-tiny.json").read_text())
    (tmp_path / "draft.json").write_text(json.dumps({**config, "max_target_positions": 64}))
    model = {**config, "decoder_layers": 12}
    made = cg.compile(model, "h200", f"speculative{{draft={tmp_path}/draft.json}}")
    # The last of four drafted tokens stands four positions on.
    assert made.tpot.evaluate(B=1, T=60, S=100) > 0
    with pytest.raises(InputError, match="exceeds 64"):
        made.tpot.evaluate(B=1, T=61, S=100)
    assert cg.compile(model, "h200").tpot.evaluate(B=1, T=65, S=100) > 0


def test_comparing_keeps_the_prompt_of_the_draft_out_of_the_time_per_token():
    long = {"B": 1, "S": 8192, "N": 9}
    text = "fuse,speculative{draft=llama-2-7b,gamma=3}"
    column = compare("llama-2-13b", "h100", [text], **long).columns[0]
    made = cg.compile("llama-2-13b", "h100", text)
    steps = [made.tpot.evaluate(B=1, T=8192 + i) for i in range(1, 9)]
    assert column.tpot == pytest.approx(sum(steps) / 8, rel=1e-9)
    assert column.ttft == pytest.approx(
        made.time("prefill").evaluate(B=1, S=8192)
        + made.time("draft-prefill").evaluate(B=1, S=8192)
    )


def test_quantising_the_draft_alone_changes_the_draft_alone():
    plain, narrow = (
        cg.compile("opt-13b", "a100", f"speculative{{draft=opt-125m,gamma=2{o}}},fuse").program
        for o in ("", ",draft-passes='quantize{preset=w4a16}'")
    )
    for phase, other in zip(plain.phases, narrow.phases, strict=True):
        assert (phase.graph == other.graph) == (not phase.name.startswith("draft"))
    weights = [footprint(p.phase("draft").graph).weights for p in (plain, narrow)]
    assert weights[1] < weights[0]
    assert parameters(plain.phase("draft").graph) == parameters(narrow.phase("draft").graph)
