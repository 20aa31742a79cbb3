"""Smaller models: what shrink makes of a model is the model of the smaller sizes."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from sympy import Rational

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import InputError
from costgraph.models import find

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"
ON = "a100-80g"


def config(model: str, **changes):
    return {**json.loads((CONFIGS / f"{find(model)}.json").read_text()), **changes}


def compiled(passes: str, model: object = "llama-2-7b"):
    return cg.compile(model, ON, passes)


#: Model, the pass, and what the configuration of the smaller model says instead.
SMALLER = {
    "sheared 1.3b": (
        "llama-2-7b", "shrink{depth=24,hidden=2048,heads=16,ffn=5504}",
        {"num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16,
         "num_key_value_heads": 16, "intermediate_size": 5504},
    ),
    "sheared 2.7b": (
        "llama-2-7b", "shrink{hidden=2560,heads=20,ffn=6912}",
        {"hidden_size": 2560, "num_attention_heads": 20, "num_key_value_heads": 20,
         "intermediate_size": 6912},
    ),
    "groups": (
        "llama-3-8b", "shrink{heads=1/2,ffn=3/4}",
        {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
         "intermediate_size": 10752},
    ),
    "keys alone": (
        "llama-3-8b", "shrink{heads=1,kv-heads=4}",
        {"num_key_value_heads": 4},
    ),
    "one key": ("falcon-7b", "shrink{depth=20}", {"num_hidden_layers": 20}),
    "experts": (
        "mixtral-8x7b", "shrink{ffn=1/2,heads=16}",
        {"intermediate_size": 7168, "num_attention_heads": 16, "num_key_value_heads": 4,
         "head_dim": 128},
    ),
    "fine experts": ("qwen3-30b-a3b", "shrink{ffn=1/2}", {"moe_intermediate_size": 384}),
    "norms on heads": (
        "qwen3-8b", "shrink{heads=16,hidden=2048}",
        {"num_attention_heads": 16, "num_key_value_heads": 4, "hidden_size": 2048},
    ),
    "windows": (
        "gemma-2-2b", "shrink{ffn=1/2,hidden=1/2,heads=4}",
        {"intermediate_size": 4608, "hidden_size": 1152, "num_attention_heads": 4,
         "num_key_value_heads": 2},
    ),
    "one matrix": ("gpt2", "shrink{ffn=1/2,depth=6}", {"n_inner": 1536, "n_layer": 6}),
    "latent": (
        "deepseek-v2-lite", "shrink{heads=8}",
        {"num_attention_heads": 8, "num_key_value_heads": 8},
    ),
    "scans": ("mamba-130m", "shrink{depth=12}", {"num_hidden_layers": 12, "n_layer": 12}),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALLER)
def test_it_is_the_model_of_the_smaller_configuration(case):
    model, passes, changes = SMALLER[case]
    assert_alike(compiled(passes, model), compiled("", config(model, **changes)))


#: Descriptions of checkpoints whose products have narrow operands, or none.
STORED = {
    "fp8 blocks": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "fp8 static": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8 dynamic": {"quant_method": "fp8"},
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "rows": {"quant_method": "fbgemm_fp8"},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "aqlm": {"quant_method": "aqlm"},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True,
            "bnb_4bit_use_double_quant": True},
}  # fmt: skip


@pytest.mark.parametrize("method", STORED)
@pytest.mark.parametrize("case", ["sheared 1.3b", "groups", "experts", "norms on heads"])
def test_checkpoints_shrink_as_their_originals_do(case, method):
    model, passes, changes = SMALLER[case]
    stored = {"quantization_config": STORED[method]}
    small = compiled("", config(model, **changes, **stored))
    assert_alike(compiled(passes, config(model, **stored)), small)


def assert_alike(made, stated):
    assert not made.undone
    assert parameters(made.program) == parameters(stated.program)
    for phase in ("prefill", "decode"):
        a, b = made.program.phase(phase).graph.cost, stated.program.phase(phase).graph.cost
        assert {k: v.expand() for k, v in a.flops.items()} == {
            k: v.expand() for k, v in b.flops.items()
        }
        assert {k: v.expand() for k, v in a.bytes.items()} == {
            k: v.expand() for k, v in b.bytes.items()
        }
        assert a.launches == b.launches
    at = {"B": 3, "T": 700}
    assert made.tpot.evaluate(**at) == pytest.approx(stated.tpot.evaluate(**at), rel=1e-12)
    sizes = {"B": 3, "S": 100, "N": 9}
    assert made.memory.evaluate(**sizes) == stated.memory.evaluate(**sizes)


def test_published_counts():
    sheared = compiled(SMALLER["sheared 1.3b"][1])
    assert parameters(sheared.program) == 1_345_423_360
    assert parameters(compiled("", "llama-7b").program) == 6_738_415_616


def test_llm_pruner_stays_below_what_bytes_allow():
    """LLaMA-7B of 6.74 to 5.47 billion parameters: 69.32 to 58.55 s (README of LLM-Pruner)."""
    whole = compiled("", "llama-7b")
    pruned = compiled("shrink{heads=3/4,ffn=8403,first=4,last=2}", "llama-7b")
    share = parameters(pruned.program) / parameters(whole.program)
    assert float(share) == pytest.approx(5.47 / 6.74, abs=2e-4)  # 0.8116
    faster = whole.tpot.evaluate(B=1, T=64) / pruned.tpot.evaluate(B=1, T=64)
    assert 1.18 <= 69.32 / 58.55 <= faster <= 1.24
    assert faster == pytest.approx(1 / float(share), rel=0.01)


def test_shares_per_layer_are_those_of_the_layers():
    """MatFormer (arXiv 2310.07707): nested widths, mixed over layers."""
    shares = [Rational(1, 8), Rational(1, 4), Rational(1, 2), Rational(1)]
    listed = "|".join(str(shares[n % 4]) for n in range(32))
    made, whole = compiled(f"shrink{{ffn={listed}}}"), compiled("")
    gone = sum(3 * 4096 * 11008 * (1 - shares[n % 4]) for n in range(32))
    assert parameters(whole.program) - parameters(made.program) == gone
    assert len(made.program.phase("decode").graph.nodes) > len(
        whole.program.phase("decode").graph.nodes
    )


def test_layers_that_go_are_passed_by():
    dropped, fewer = compiled("shrink{drop=21-28|30}"), compiled("shrink{depth=23}")
    at = {"B": 2, "T": 512}
    assert dropped.tpot.evaluate(**at) == pytest.approx(fewer.tpot.evaluate(**at), rel=1e-12)
    assert parameters(dropped.program) == parameters(fewer.program)
    assert "23 of 32 layers (without 21-28, 30)" in dropped.program.assumptions[-1]


def test_widths_are_rounded_to_multiples():
    for multiple in (1, 64, 128):
        made = compiled(f"shrink{{ffn=0.333,multiple={multiple}}}")
        (width,) = {t.shape[0] for t, _ in made.program.weights() if t.name == "up_proj.weight"}
        assert width % multiple == 0
        assert abs(width - 11008 * Rational("0.333")) <= Rational(multiple, 2)


def test_a_symbol_stands_for_a_share():
    made = compiled("shrink{heads=g,ffn=m}")
    for g, m in ((1, 1), (0.5, 0.25)):
        same = compiled(f"shrink{{heads={g},ffn={m}}}" if g != 1 else "")
        assert made.tpot.evaluate(B=4, T=512, g=g, m=m) == pytest.approx(
            same.tpot.evaluate(B=4, T=512), rel=1e-12
        )
    with pytest.raises(InputError, match="of shrink"):
        made.tpot.evaluate(B=4, T=512, g=2, m=1)


@pytest.mark.parametrize("option", ["heads", "ffn", "hidden"])
@pytest.mark.parametrize("model", ["llama-3-8b", "mixtral-8x7b"])
def test_bytes_fall_with_what_goes(option, model):
    values = [
        compiled(f"shrink{{{option}={share}}}" if share != "1" else "", model).memory.evaluate(
            B=2, S=64, N=8
        )
        for share in ("1", "7/8", "1/2", "1/4", "1/8")
    ]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    "items",
    [
        ("shrink{heads=1/2,ffn=1/2,hidden=1/2}", "quantize{preset=w8a8kv8}", "fuse"),
        ("shrink{ffn=1/2,depth=20,first=2}", "prune{storage=2:4}", "quantize{preset=w4a16}"),
        ("shrink{drop=3-5}", "fuse", "page-kv"),
    ],
)
def test_every_order_is_the_same_program(items):
    first = compiled(",".join(items)).program
    for other in list(permutations(items))[1:]:
        assert compiled(",".join(other)).program.phases == first.phases


#: Model, pass, and words of what it says it did not do.
MISSED = {
    "position bias": ("t5-base", "shrink{heads=1/2}", "position_bias"),
    "another graph's cache": ("whisper-small", "shrink{heads=1/2}", "another graph makes"),
    "no heads": ("mamba-130m", "shrink{heads=1/2}", "no attention whose heads"),
    "a scan's gate": ("mamba-130m", "shrink{ffn=1/2}", "no feed-forward block"),
    "modulation": ("dit-xl-2", "shrink{hidden=1/2}", "modulate"),
    "image tokens": ("qwen2-vl-7b", "shrink{hidden=1/2}", "image_insert"),
    "nothing": ("llama-2-7b", "shrink", "state a size"),
    "all of it": ("llama-2-7b", "shrink{ffn=1}", "nothing changes"),
}


@pytest.mark.parametrize("case", MISSED)
def test_what_is_not_understood_stays_and_says_why(case):
    model, passes, words = MISSED[case]
    made = compiled(passes, model)
    assert any(words in str(line) for line in made.undone)
    if case not in ("another graph's cache",):
        assert parameters(made.program) == parameters(compiled("", model).program)


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("shrink{heads=15,kv-heads=4}", "do not share 4 heads.*16"),
        ("shrink{kv-heads=4}", "kv-heads needs heads"),
        ("shrink{heads=99}", "more than there are, 32"),
        ("shrink{ffn=99999}", "more than there are, 14336"),
        ("shrink{hidden=1|1/2}", "hidden is one width"),
        ("shrink{ffn=1|1/2}", "2 entries for 32 layers"),
        ("shrink{drop=30-40}", "no range of layers 0 to 31"),
        ("shrink{drop=x}", "neither a layer nor a range"),
        ("shrink{drop=0-31}", "all 32 layers would go"),
        ("shrink{depth=40}", "depth = 40 of 32 layers"),
        ("shrink{depth=30,drop=3}", "both say which layers go"),
        ("shrink{first=20,last=20,ffn=1/2}", "first and last name 40"),
        ("shrink{heads=-1}", "positive"),
        ("shrink{ffn=oops!}", "neither a number nor a symbol"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(passes, words):
    with pytest.raises(InputError, match=words) as error:
        compiled(passes, "llama-3-8b")
    assert "\n" not in str(error.value)
