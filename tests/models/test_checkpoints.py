"""Checkpoints as they are: bits of every format, sizes of published files, what is refused."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer, Mul, Rational

import costgraph as cg
from costgraph.errors import CostgraphError, ModelError
from costgraph.models import load_model
from costgraph.models.catalog import config_of
from costgraph.models.checkpoint.layout import E4M3, INTEGERS, MXFP4, NVFP4, Layout, bnb4
from costgraph.models.checkpoint.methods import described, packed_integers
from costgraph.models.checkpoint.wildcards import NotRead, expression, glob

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
    "vocab_size": 32000, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPE = (Integer(4096), Integer(8192))
SIZE = 4096 * 8192


def stored(spec: Any, **options: Any) -> int:
    """Bytes of all weights."""
    return int(sum(t.bytes * count for t, count in load_model(spec, **options).weights()))


def parameters(spec: Any) -> int:
    return int(sum(t.numel * count for t, count in load_model(spec).weights()))


def formats(program: Any) -> dict[str, set[str]]:
    """The formats of every weight, over all layers."""
    found: dict[str, set[str]] = {}
    for phase in program.phases:
        for tensor, _ in phase.weights():
            found.setdefault(tensor.name, set()).add(tensor.dtype.name)
    return found


def with_(method: str, **stated: Any) -> dict[str, Any]:
    return {**LLAMA, "quantization_config": {"quant_method": method, **stated}}


# --- bits per element --------------------------------------------------------------

LAYOUTS = [
    (packed_integers(4, 128, False), 4 + Rational(20, 128)),
    (packed_integers(4, 32, False), 4 + Rational(20, 32)),
    (packed_integers(3, 128, False), 3 + Rational(19, 128)),
    (packed_integers(4, None, True), 4 + Rational(20, 8192) + Rational(32, 4096)),
    (Layout(E4M3, 128, 128, 32), 8 + Rational(32, 128 * 128)),
    (Layout(E4M3, None, 1, 16), 8 + Rational(16, 8192)),
    (Layout(E4M3, rows=None, matrix_bits=32), 8 + Rational(32, SIZE)),
    (MXFP4, Rational(17, 4)),
    (NVFP4, Rational(9, 2) + Rational(32, SIZE)),
    (bnb4("nf4", False), Rational(9, 2) + Rational(512, SIZE)),
    # arXiv 2305.14314: double quantisation costs 0.127 bit, 0.373 less than 0.5.
    (bnb4("nf4", True), 4 + Rational(1, 8) + Rational(32, 64 * 256) + Rational(512 + 8192, SIZE)),
    (Layout(INTEGERS[8], None, 1, 32, matrix_bits=8), 8 + Rational(32, 8192) + Rational(8, SIZE)),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "bits"), LAYOUTS, ids=lambda v: getattr(v, "name", ""))
def test_bits_per_element_are_exact(layout: Layout, bits: Rational) -> None:
    # A stack of matrices takes what its matrices take.
    for shape in (SHAPE, (Integer(8), *SHAPE)):
        assert 8 * layout.over(shape).size(shape) / Mul(*shape) == bits


def test_blocks_that_do_not_divide_a_matrix_have_scales_of_their_own() -> None:
    made = Layout(E4M3, 128, 128, 32).over((Integer(576), Integer(7168)))
    assert made.bits_per_element * 576 * 7168 == 8 * 576 * 7168 + 5 * 56 * 32


# --- published files ---------------------------------------------------------------

#: AutoGPTQ's files (TheBloke's Wizard-Vicuna-30B-Uncensored-GPTQ and Genz-70b-GPTQ, by the
#: sizes that their repositories record): bits, group, bytes.
WIZARD = {"hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60,
          "num_attention_heads": 52, "num_key_value_heads": 52}  # fmt: skip
GENZ = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8}  # fmt: skip
GPTQ = [
    (WIZARD, 3, -1, 12924188176), (WIZARD, 3, 128, 13509984992), (WIZARD, 4, 128, 17554104608),
    (WIZARD, 4, 64, 18181100544), (WIZARD, 4, 32, 19435090976), (WIZARD, 8, -1, 32990628688),
    (WIZARD, 8, 128, 33730582288), (GENZ, 4, 128, 36652345792), (GENZ, 3, 128, 28029117672),
]  # fmt: skip


@pytest.mark.parametrize(("dims", "bits", "group", "published"), GPTQ)
def test_gptq_files(dims: dict[str, int], bits: int, group: int, published: int) -> None:
    """The difference: a bias of zeros per matrix, rotary tables, and the header of the file."""
    config = with_("gptq", bits=bits, group_size=group, desc_act=True, sym=True)
    layers, d = dims["num_hidden_layers"], dims["hidden_size"]
    keys = d // dims["num_attention_heads"] * dims["num_key_value_heads"]
    zeros = layers * 2 * (3 * d + 2 * keys + 2 * dims["intermediate_size"])
    rotary = layers * 64 * 4 if dims is WIZARD else 0
    left = published - stored({**config, **dims}) - zeros - rotary
    # Some 110 byte of JSON per tensor: name, type, shape, place.
    tensors = layers * (7 * 5 + 2 + (dims is WIZARD)) + 3
    assert 105 < Fraction(left, tensors) < 120


@pytest.mark.parametrize(
    ("name", "published"), [("gpt-oss-20b", 13761264768), ("gpt-oss-120b", 65248815744)]
)
def test_mxfp4_checkpoints_to_the_byte(name: str, published: int) -> None:
    """``total_size`` of their indexes."""
    assert stored(name) == published


def test_the_original_is_counted_on_request() -> None:
    assert stored("gpt-oss-20b", quantization="ignore") == 2 * parameters("gpt-oss-20b")


# --- which matrix has which format ----------------------------------------------------

WIDE = {"lm_head.weight", "embed.weight"}
DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4-g128"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, "int4-g64"),
    "fp8 block": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "e4m3-b128x128"),
    "fp8 static": ({"quant_method": "fp8", "activation_scheme": "static"}, "e4m3"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "e4m3-row"),
    "bitnet": ({"quant_method": "bitnet", "linear_class": "autobitlinear"}, "int2"),
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "nf4-g64",
    ),
    "nf4 double": (
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        "nf4-g64-dq",
    ),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8-row"),
    "pack": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4,
                        "type": "int",
                        "strategy": "group",
                        "group_size": 128,
                        "actorder": "group",
                    },
                }
            },
        },
        "int4-g128",
    ),
    "w8a8": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "ignore": ["re:.*lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    "input_activations": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "token",
                        "dynamic": True,
                    },
                }
            },
        },
        "e4m3-row",
    ),
    "nvfp4 pack": (
        {
            "quant_method": "compressed-tensors",
            "format": "nvfp4-pack-quantized",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4,
                        "type": "float",
                        "strategy": "tensor_group",
                        "group_size": 16,
                    },
                    "input_activations": {
                        "num_bits": 4,
                        "type": "float",
                        "strategy": "tensor_group",
                        "group_size": 16,
                        "dynamic": "local",
                    },
                }
            },
        },
        "nvfp4",
    ),
    "modelopt": (
        {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "group_size": 16,
            "exclude_modules": ["lm_head"],
            "kv_cache_quant_algo": "FP8",
        },
        "nvfp4",
    ),
    "modelopt file": (
        {
            "quant_method": "modelopt",
            "producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head*"]},
        },
        "e4m3",
    ),
    "torchao": (
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}
            },
        },
        "int4-g64",
    ),
    "torchao fp8": (
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "Float8DynamicActivationFloat8WeightConfig",
                    "_data": {"granularity": [{"_type": "PerRow"}, {"_type": "PerRow"}]},
                }
            },
        },
        "e4m3-row",
    ),
    "hqq": (
        {
            "quant_method": "hqq",
            "skip_modules": ["lm_head"],
            "quant_config": {
                "weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1},
                "offload_meta": False,
            },
        },
        "int4-g64",
    ),
    "aqlm": (
        {
            "quant_method": "aqlm",
            "in_group_size": 8,
            "out_group_size": 1,
            "num_codebooks": 1,
            "nbits_per_codebook": 16,
        },
        "aqlm-1x16",
    ),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_reach_every_projection_and_nothing_else(name: str) -> None:
    stated, expected = DESCRIPTIONS[name]
    program = load_model({**LLAMA, "quantization_config": stated})
    narrow = {n for n, found in formats(program).items() if found == {expected}}
    leaves = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert narrow == {f"{leaf}.weight" for leaf in leaves}
    assert any(expected in note for note in program.notes)
    made = cg.compile(program, "b200")
    assert 0 < made.tpot.evaluate(B=1, T=64) < cg.compile(LLAMA, "b200").tpot.evaluate(B=1, T=64)


#: The type in which the projections multiply: narrow where their operand is, too.
COMPUTE = {"gptq": "bf16", "fp8 block": "fp8", "fp8 static": "fp8", "w8a8": "fp8", "nf4": "bf16",
           "int8": "int8", "nvfp4 pack": "fp4", "modelopt": "fp4"}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTE)
def test_the_compute_type_follows_the_operands(name: str) -> None:
    program = load_model({**LLAMA, "quantization_config": DESCRIPTIONS[name][0]})
    layer = next(g for g in program.graph.walk() if g.name == "layer")
    node = layer.node("o_proj")
    types = {t for e, t in node.op.work(layer.operands(node), node.outputs) if e.name == "TENSOR"}
    assert types == {COMPUTE[name]}
    fused = cg.compile(program, "b200", "fuse")
    assert fused.tpot.evaluate(B=1, T=64) > 0


def test_kept_layers_are_cut_out() -> None:
    kept = ["lm_head", "model.layers.2.mlp", "model.layers.3.self_attn.q_proj"]
    config = with_("fp8", weight_block_size=[128, 128], modules_to_not_convert=kept)
    made, whole = load_model(config), with_("fp8", weight_block_size=[128, 128])
    regions = [n.op for n in made.graph.nodes if n.op.kind == "repeat"]
    assert [int(r.count) for r in regions] == [2, 1, 1, 2]
    wide = 3 * 1024 * 4096 + 1024 * 1024
    assert stored(config) - stored(whole) == wide - 4 * (3 * 8 * 32 + 8 * 8)
    # Lists that name every layer leave one region.
    every = [f"model.layers.{i}.mlp.down_proj" for i in range(6)]
    made = load_model(with_("fp8", modules_to_not_convert=every))
    assert [int(n.op.count) for n in made.graph.nodes if n.op.kind == "repeat"] == [6]


def test_layers_of_a_pattern_are_told_apart() -> None:
    config = dict(config_of("gpt-oss-20b"))
    kept = [*config["quantization_config"]["modules_to_not_convert"], "model.layers.5.mlp"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    experts = 32 * (5760 + 2880) * 2880
    assert stored(config) - 13761264768 == experts * 2 - experts * 17 // 32


@pytest.mark.parametrize(("names", "wide"), [
    (["gate"], True), (["re:.*mlp.gate$"], True), (["mlp.gate_proj"], False), ([], False),
])  # fmt: skip
def test_routers_stay_as_files_say(names: list[str], wide: bool) -> None:
    config = dict(config_of("qwen3-30b-a3b"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head", *names],
        "config_groups": {
            "g": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            }
        },
    }
    program = load_model(config)
    assert formats(program)["router.weight"] == {"bf16"}
    assert any("routers" in a for a in program.assumptions) == (not wide)


def test_vision_towers_follow_the_list() -> None:
    config = dict(config_of("qwen2.5-vl-7b"))
    for kept, narrow in ((["lm_head", "visual"], False), (["lm_head"], True)):
        config["quantization_config"] = {"quant_method": "fp8", "modules_to_not_convert": kept}
        program = load_model(config)
        eyes = program.phase("vision").graph
        found = {t.dtype.name for t, _ in eyes.weights() if t.name == "merger_fc1.weight"}
        assert found == ({"e4m3"} if narrow else {"bf16"})
        assert formats(program)["gate_proj.weight"] >= {"e4m3"}


def test_names_that_are_of_nothing_are_said() -> None:
    kept = ["model.layers.77.eh_proj", "model.norm", "vision_stem.conv", "lm_head"]
    said, behind = load_model(with_("fp8", modules_to_not_convert=kept)).assumptions
    assert said.endswith("names what is no matrix of the graph: 'vision_stem.conv'")
    assert behind.endswith("names what is behind the last layer, 5: 'model.layers.77.eh_proj'")


UP, LOST, LATE = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.lost", "model.layers.9.mlp.x"
FP8_GROUP = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
FP8_LAYER = {"quant_algo": "FP8"}
#: Every key that lists names of modules, with two that the model does not have.
LISTS: list[dict[str, Any]] = [
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
     "quantized_layers": dict.fromkeys((UP, LOST, LATE), FP8_LAYER)},
    *({"quant_method": "modelopt", "quant_algo": "FP8", key: [LOST, LATE]}
      for key in ("exclude_modules", "ignore")),
    *({"quant_method": "fp8", key: [LOST, LATE]}
      for key in ("modules_to_not_convert", "ignored_layers", "ignore")),
    {"quant_method": "awq", "modules_to_not_convert": [LOST, LATE]},
    {"quant_method": "fbgemm_fp8", "modules_to_not_convert": [LOST, LATE]},
    {"quant_method": "bitnet", "modules_to_not_convert": [LOST, LATE]},
    {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [UP, LOST, LATE]},
    {"quant_method": "gptq", "bits": 4, "modules_to_not_convert": [LOST, LATE]},
    {"quant_method": "gptq", "bits": 4, "dynamic": {f"-:{LOST}": {}, f"+:{LATE}": {"bits": 8}}},
    {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": [LOST, LATE]},
    {"quant_method": "compressed-tensors", "ignore": [LOST, LATE],
     "config_groups": {"g": {"targets": ["Linear"], **FP8_GROUP}}},
    {"quant_method": "compressed-tensors",
     "config_groups": {"g": {"targets": [UP, LOST, LATE], **FP8_GROUP}}},
    {"quant_method": "hqq", "skip_modules": [LOST, LATE],
     "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    {"quant_method": "aqlm", "linear_weights_not_to_quantize": [f"{LOST}.weight", LATE]},
    {"quant_method": "torchao", "quant_type": "int8_weight_only",
     "modules_to_not_convert": [LOST, LATE]},
    {"quant_method": "mlx", "bits": 4, LOST: False, LATE: {"bits": 8}},
]  # fmt: skip


@pytest.mark.parametrize("stated", LISTS, ids=lambda s: s["quant_method"])
def test_lists_of_every_method_say_what_they_name_in_vain(stated: dict[str, Any]) -> None:
    said = load_model({**LLAMA, "quantization_config": stated}).assumptions
    told = " ".join(s for s in said if "names what" in s)
    assert "mlp.lost" in told
    assert "layers.9.mlp.x" in told
    assert "up_proj" not in told


LACKING = [
    ("a100-80g", {"quant_method": "fp8"}, "lacks fp8: products of fp8 operands run in fp16"),
    ("h100", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "lacks fp4: .* run in fp8"),
    ("a100-80g", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "lacks fp4: .* in fp16"),
    ("h100", {"quant_method": "fp8"}, ""),
    ("a100-80g", {"quant_method": "bitsandbytes", "load_in_8bit": True}, ""),
    ("a100-80g", {"quant_method": "gptq", "bits": 4}, ""),
]


@pytest.mark.parametrize(("machine", "stated", "said"), LACKING)
def test_what_a_machine_lacks_is_said_once(machine: str, stated: Any, said: str) -> None:
    made = cg.compile({**LLAMA, "quantization_config": stated}, machine)
    found = [s for s in made.assumptions if "lacks" in s]
    assert len(found) == bool(said)
    assert not said or re.search(said, found[0])


GUESSED = {
    "mlx": {"bits": 4, "group_size": 64, "mode": "affine", "lm_head": False},
    "bitsandbytes": {"load_in_8bit": True},
    "modelopt": {"quant_algo": "FP8"},
    "compressed-tensors": {"config_groups": {"g": {"targets": ["Linear"], **FP8_GROUP}}},
}


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
@pytest.mark.parametrize("method", GUESSED)
def test_a_method_that_is_guessed_is_said(method: str, key: str) -> None:
    said = load_model({**LLAMA, key: GUESSED[method]}).assumptions
    assert any(f"{key} names no method: read as that of {method}, by its" in s for s in said)


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
@pytest.mark.parametrize("more", [
    {"zero_point": True}, {"desc_act": False}, {"version": "gemm"}, {"sym": True},
    {"checkpoint_format": "gptq"}, {"w_bit": 4},
], ids=str)  # fmt: skip
def test_a_method_that_several_may_be_is_refused(more: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match="'quant_method' must name the method"):
        load_model({**LLAMA, key: {"bits": 4, "group_size": 64, **more}})


def test_quantize_leaves_what_is_narrow_and_says_so() -> None:
    plain = with_("awq", bits=4, group_size=128)
    made = cg.compile(plain, "h100", "quantize{preset=w4a16}")
    assert made.breakdown("decode", B=1, T=9).totals["weight_bytes"] == stored(plain)
    reasons = {item.reason for item in made.setting.not_done}
    assert "already stored as int4-g128" in reasons
    caches = cg.compile(plain, "h100", "quantize{kv=int8}")
    assert caches.memory(B=1, S=99, N=9) < cg.compile(plain, "h100").memory(B=1, S=99, N=9)
    double = cg.compile(with_("fp8"), "h100", "quantize{weights=none,activations=int8}")
    assert any("already stored" in item.reason for item in double.setting.not_done)


def test_symbolic_models_store_the_same() -> None:
    config = with_("fp8", weight_block_size=[128, 128], modules_to_not_convert=["lm_head"])
    symbolic = load_model(config, symbolic=True)
    dims = dict(symbolic.dims)
    total = sum(t.bytes * count for t, count in symbolic.weights())
    assert int(total.xreplace(dims)) == stored(config)


def test_a_description_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8",
              "exclude_modules": ["lm_head"], "kv_cache_quant_algo": None}}  # fmt: skip
    assert stored(tmp_path) == 2 * parameters(LLAMA)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    for spec in (tmp_path, tmp_path / "config.json"):
        assert stored(spec) < 2 * parameters(LLAMA)
        assert any("modelopt" in note for note in load_model(spec).notes)
    assert stored(tmp_path, quantization="ignore") == 2 * parameters(LLAMA)


def test_the_page_runs_as_written() -> None:
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    space: dict[str, Any] = {}
    exec(compile(block, "docs/checkpoints.md", "exec"), space)
    (note,) = (n for n in space["stored"].program.notes if "as the checkpoint" in n)
    assert note in block


# --- refusals ----------------------------------------------------------------------

REFUSED = [
    ({"quant_method": "gtpq", "bits": 4}, "did you mean|'gptq'|would be"),
    ({"quant_method": "gptq", "bits": 5}, "'bits' = 5"),
    ({"quant_method": "gptq", "bits": 4, "planes": 2}, "'planes' = 2 is not understood"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'version'"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, "two numbers"),
    ({"quant_method": "fp8", "modules_to_not_convert": "re:(a+)+$"}, "is not read"),
    ({"quant_method": "fp8", "modules_to_not_convert": [3]}, "list of names"),
    ({"quant_method": "compressed-tensors", "config_groups": {}}, "'config_groups'"),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int3"}}}, "is not read"),
    ({"quant_method": "modelopt", "quant_algo": "W5"}, "'quant_algo'"),
    ({"quant_method": "mxfp4"}, "none of the model's matrices"),
    ({"quant_method": "aqlm", "nbits_per_codebook": 10**8}, "at most 16"),
    ({"quant_method": "hqq"}, "quant_config"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": True}, "one of"),
    ({"quant_method": "modelopt", "config_groups": {}}, "missing key 'quant_algo'"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups":
      {"g": {"weights": {"num_bits": 4, "group_size": 32}}}}, "'group_size' = 32"),
    ({"quant_method": "modelopt", "quant_algo": "FP8", "config_groups":
      {"g": {"weights": {"num_bits": 4}}}}, "'num_bits' = 4"),
    ({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
      {"g": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}}, "does not store"),
    ({"quant_method": "compressed-tensors", "config_groups":
      {"g": {"weights": {"num_bits": 4, "strategy": "group"}}}}, "needs a 'group_size'"),
]  # fmt: skip


@pytest.mark.parametrize(("stated", "words"), REFUSED)
def test_what_is_not_understood_is_refused_in_a_line(stated: dict[str, Any], words: str) -> None:
    config = {**LLAMA, "quantization_config": stated}
    with pytest.raises(ModelError, match=words) as error:
        load_model(config)
    assert "\n" not in str(error.value)
    assert stored(config, quantization="ignore") == 2 * parameters(LLAMA)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_in_descriptions_is_refused_or_read(seed: int) -> None:
    """Values of every kind in every place: an error of ours, or a model."""
    stated = json.loads(json.dumps(list(DESCRIPTIONS.values())[seed % len(DESCRIPTIONS)][0]))
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        2**70,
        "",
        "x",
        "re:[",
        "*" * 99,
        [],
        [[]],
        {},
        {"a": 1},
        1.5,
    ]
    for at, key in enumerate([k for k in stated if k != "quant_method"]):
        for value in odd[(seed + at) % 3 :: 3]:
            told = ""
            try:
                described("m", "quantization_config", {**stated, key: value})
            except CostgraphError as error:
                told = str(error)
            assert "\n" not in told


PATTERNS = [r".*mlp\.gate$", r"model\.layers\.(0|11)\..*proj", r"^a\d+b[c-e]+$", r"x.?y", "a|b"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_expressions_mean_what_regular_expressions_do(pattern: str) -> None:
    texts = ["model.layers.0.mlp.gate", "model.layers.11.q_proj", "model.layers.1.q_proj", "a12bce",
             "a12b", "xy", "xzy", "xzzy", "mlp.gate_proj", "a", "b", "c", ""]  # fmt: skip
    for text in texts:
        assert expression(pattern).matches(text) == bool(re.match(pattern, text))


def test_hostile_patterns_take_no_time() -> None:
    assert not glob("*a" * 90 + "c").matches("a" * 190)
    for pattern in ("(a+)+", "(a|(b))", "a{9}", r"\1", "(?!a)", "(" * 80):
        with pytest.raises(NotRead):
            expression(pattern)
