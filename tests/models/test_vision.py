"""Vision, multimodal and diffusion models as programs: sizes, phases, passes, bad input."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.errors import CostgraphError, InputError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.dtypes import BF16
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify_program
from costgraph.models import import_config, load_model
from costgraph.models.catalog import CONFIGS
from costgraph.ops.arrays import Join
from costgraph.ops.channels import GroupNorm
from costgraph.ops.pool import AdaptivePool, Pool
from costgraph.symbols import B, G, S
from tests.models.counting import products

COUNTED = Path(__file__).parent / "counted" / "configs"
CLASSIFIERS = ["vit-base-16", "swin-tiny", "convnext-tiny", "resnet-50", "vgg-16"]
DENOISERS = ["dit-xl-2", "flux-1-dev", "sd-1.5-unet", "sdxl-unet", "sd3-medium"]
SEEING = ["qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "llava-1.5-7b"]
ALL = [*CLASSIFIERS, "clip-vit-b-32", *DENOISERS, *SEEING]
AT = {"B": 2, "S": 64, "G": 48, "N": 4, "K": 3}


def config(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def tensor_flops(program) -> Any:
    return sum(
        (
            r.count * f
            for r in rows(program.graph)
            for (engine, _), f in r.cost.flops.items()
            if engine is Engine.TENSOR
        ),
        Integer(0),
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "passes", ["", "fuse", "quantize{weights=int4,group=128}", "fuse,quantize{preset=w8a8}"]
)
def test_passes_run_and_formulas_evaluate(name, passes):
    compiled = cg.compile(name, "h100", passes)
    verify_program(compiled.program)
    plain = cg.compile(name, "h100")
    assert compiled.latency.evaluate(**AT) > 0
    if passes == "fuse":
        assert compiled.flops.evaluate(**AT) == plain.flops.evaluate(**AT)
        assert compiled.bytes.evaluate(**AT) < plain.bytes.evaluate(**AT)
        assert compiled.latency.evaluate(**AT) < plain.latency.evaluate(**AT)
    if "quantize" in passes:
        assert compiled.memory.evaluate(**AT) < plain.memory.evaluate(**AT)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_picture_takes_k_equal_steps(name):
    compiled = cg.compile(name, "h100")
    one = compiled.latency.evaluate(**{**AT, "K": 1})
    assert compiled.latency.evaluate(**{**AT, "K": 28}) == pytest.approx(28 * one)
    assert compiled.time("denoise").evaluate(**AT) == pytest.approx(one)
    with pytest.raises(InputError, match="generates no tokens"):
        _ = compiled.tpot
    step = compiled.breakdown("denoise", B=2, S=64, G=48)
    assert step.totals["seconds"] == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("name", SEEING)
def test_a_request_with_an_image_adds_up(name):
    compiled = cg.compile(name, "h100")
    assert [p.name for p in compiled.program.phases] == ["vision", "prefill", "decode"]
    first = compiled.time("vision").evaluate(**AT) + compiled.time("prefill").evaluate(**AT)
    assert compiled.ttft.evaluate(**AT) == pytest.approx(first)
    steps = sum(compiled.tpot.evaluate(B=2, T=64 + i) for i in range(1, 4))
    assert compiled.latency.evaluate(**AT) == pytest.approx(first + steps)
    # All weights are in memory in every phase.
    assert compiled.memory.evaluate(**AT) > 2 * int(compiled.parameters)
    for phase in compiled.program.phases:
        held = parameters(phase)
        assert held == compiled.parameters, phase.name


@pytest.mark.parametrize("name", [*SEEING, "qwen3.5-27b"])
def test_requests_without_images_keep_the_tower_in_memory(name):
    whole = load_model(name)
    plain = load_model(name, images=False)
    assert [p.name for p in plain.phases] == ["prefill", "decode"]
    assert parameters(plain) == parameters(whole)
    compiled = cg.compile(plain, "h100")
    assert G not in compiled.latency.symbols
    assert compiled.ttft.evaluate(B=1, S=900) < cg.compile(whole, "h100").ttft.evaluate(
        B=1, S=900, G=576
    )


def test_the_size_of_images_is_an_option():
    for name, ratio in (("resnet-50", 4), ("vgg-16", None), ("convnext-tiny", 4), ("swin-tiny", 4)):
        small, large = load_model(name), load_model(name, image=448)
        assert parameters(small.graph) == parameters(large.graph)
        if ratio is not None:
            # Heads do not grow; all the rest grows with the pixels.
            head = 2 * 1000 * {"resnet-50": 2048}.get(name, 768) * B
            assert tensor_flops(large) - head == ratio * (tensor_flops(small) - head)
    vit = load_model("vit-base-16", image=(384, 384))
    assert [n.op.kind for n in vit.graph.nodes].count("interpolate") == 1
    assert vit.graph.node("position_add").outputs[0].shape[1] == 577
    unet = load_model("sd-1.5-unet", image=768)
    assert unet.graph.node("conv_in").outputs[0].shape[2:] == (96, 96)


@pytest.mark.parametrize("bad", [0, -3, True, 10**9, (1, 2, 3), (4,), (224, 0)])
def test_bad_sizes_of_images_are_refused(bad):
    with pytest.raises(InputError, match="image must be"):
        load_model("resnet-50", image=bad)


def outcome(given: Any, **options: Any) -> str:
    """An empty text where a configuration is read, else the refusal."""
    try:
        verify_program(load_model(given, **options))
    except CostgraphError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name", ["vit-base-16", "swin-tiny", "convnext-tiny", "vgg-16", "dit-xl-2"]
)
def test_images_too_small_are_refused_in_one_line(name):
    with pytest.raises(CostgraphError) as error:
        load_model(name, image=1)
    assert "\n" not in str(error.value)


def test_windows_that_do_not_divide_are_padded():
    padded = load_model("swin-tiny", image=256)
    verify_program(padded)
    assert "resize" in {r.kind for r in rows(padded.graph)}
    small = load_model("swin-tiny", image=96)
    assert parameters(small.graph) == parameters(padded.graph) == 28_288_354


def test_vgg_by_hand():
    table = [(3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)]
    table += [(256, 256, 56)] * 2 + [(256, 512, 28)] + [(512, 512, 28)] * 2 + [(512, 512, 14)] * 3
    convs = sum(2 * a * b * 9 * n * n for a, b, n in table)
    dense = 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    assert tensor_flops(load_model("vgg-16")) == (convs + dense) * B


def test_depthwise_convolutions_run_on_the_vector_engine():
    found = {r.name: r for r in rows(load_model("convnext-tiny").graph) if r.kind == "conv"}
    deep = [r for name, r in found.items() if "dwconv" in name]
    assert len(deep) == 4
    for row in deep:
        assert {engine for engine, _ in row.cost.flops} == {Engine.VECTOR}
        assert row.cost.total_flops == (2 * 49 + 1) * row.node.outputs[0].numel


def test_image_operations_by_hand():
    x = Tensor("x", (B, Integer(64), Integer(10), Integer(12)), BF16)
    two, three, one = Integer(2), Integer(3), Integer(1)
    # Padding of one at either end.
    for function, each in (("max", 8), ("average", 9)):
        pool = Pool((three,) * 2, (two,) * 2, (two,) * 2, (one,) * 2, function=function)
        (spec,) = pool.infer((x,))
        assert spec.shape == (B, 64, 5, 6)
        assert pool.cost((x,), (spec.named("y"),)).total_flops == each * 64 * 30 * B
    for function, flops in (("max", 120 - 4), ("average", 120)):
        windows = AdaptivePool((two, two), function)
        (spec,) = windows.infer((x,))
        assert windows.cost((x,), (spec.named("y"),)).total_flops == flops * 64 * B
    with pytest.raises(CostgraphError, match="unknown function 'sum'"):
        Pool((two,), (two,), (one,), (one,), function="sum").infer((x,))
    vector = Tensor("w", (Integer(64),), BF16, Role.WEIGHT)
    norm = GroupNorm(Integer(32))
    assert norm.cost((x, vector, vector), (x,)).total_flops == B * (7 * 7680 + 4 * 32)
    with pytest.raises(CostgraphError, match="groups"):
        GroupNorm(Integer(7)).infer((x, vector, vector))
    pair = (x, x.renamed("other"))
    (spec,) = Join(1).infer(pair)
    assert spec.shape == (B, 128, 10, 12)
    assert Join(1).cost(pair, (spec.named("y"),)).total_bytes == 4 * x.bytes


def test_fusion_takes_norm_and_activation_behind_a_convolution():
    fused = cg.compile("resnet-50", "h100", "fuse").program.graph
    assert "stem+stem_norm+stem_act" in {n.name for n in fused.nodes}


def test_image_tokens_replace_embeddings():
    prompt = load_model("qwen3-vl-8b").phase("prefill").graph
    added = [n for n in prompt.nodes if n.op.kind == "insert-rows"]
    assert [n.name for n in added] == ["image_insert", "deep_add1", "deep_add2", "deep_add3"]
    moved = {n.name: n.op.cost(prompt.operands(n), n.outputs) for n in added}
    assert moved["image_insert"].total_flops == 0
    assert moved["image_insert"].total_bytes == 2 * 2 * 4096 * B * G
    assert moved["deep_add1"].total_flops == 4096 * B * G
    assert S not in moved["deep_add1"].total_bytes.free_symbols


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["silu", "gelu", "basic", "DownBlock2D", "text_time", "rms_norm"]),
    st.lists(st.one_of(st.integers(0, 9), st.sampled_from(["M", "DownBlock2D"])), max_size=4),
    st.dictionaries(st.sampled_from(["0", "model_type"]), st.text(max_size=3), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15)
@given(data=st.data())
def test_a_mutated_configuration_is_read_or_refused(name, data):
    base = copy.deepcopy(config(name))
    sections = [base, *(v for v in base.values() if isinstance(v, dict))]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(sections))
        key = data.draw(st.sampled_from(sorted(part) or ["x"]))
        if key in ("model_type", "_class_name", "architectures"):
            continue
        if data.draw(st.booleans()):
            part.pop(key, None)
        else:
            part[key] = data.draw(values)
    said = outcome(base)
    assert "\n" not in said
    assert len(said) < 2000


#: FLOP of products that PyTorch's counter finds where patches do not fill pictures of H x W.
ODD = {
    ("swinv2", "Swinv2ForImageClassification", 66, 94): 21407232,
    ("swinv2", "Swinv2ForImageClassification", 40, 90): 12851712,
    ("swin", "SwinBackbone", 70, 101): 23988224,
}


@pytest.mark.parametrize(("kind", "name", "tall", "wide"), ODD)
def test_pictures_that_patches_do_not_fill_are_padded(kind, name, tall, wide):
    config = {"model_type": kind, "architectures": [name], "embed_dim": 16, "depths": [1, 2, 1, 1],
              "num_heads": [1, 2, 2, 4], "window_size": 4, "image_size": 64,
              "patch_size": 4}  # fmt: skip
    program = load_model(config, image=(tall, wide))
    found = sum((r.count * products(r) for r in rows(program.graph)), Integer(0))
    assert found.xreplace({B: Integer(1)}) == ODD[kind, name, tall, wide]


def test_windows_of_a_configured_image_need_a_position_in_every_stage():
    config = {"model_type": "swinv2", "architectures": ["Swinv2Model"], "embed_dim": 16,
              "depths": [1, 1, 1], "num_heads": [1, 1, 1], "window_size": 4,
              "patch_size": 4}  # fmt: skip
    assert load_model({**config, "image_size": 16})
    with pytest.raises(InputError, match="'image_size' = 15 leaves the last of 3 stages no window"):
        load_model({**config, "image_size": 15})


def test_layers_that_score_apart_have_a_bias_each():
    config = json.loads((COUNTED / "mm-grounding-dino-small.json").read_text())
    apart = load_model({**config, "decoder_cls_embed_share": False})
    more = config["decoder_layers"] - 1
    assert parameters(apart) - parameters(load_model(config)) == more > 0


def test_a_text_part_that_names_its_type_alone_is_berts_base():
    # Published files of Grounding DINO say no more of their text; PyTorch's count of parameters.
    swin = {"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2],
            "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384,
            "out_features": ["stage2", "stage3", "stage4"]}  # fmt: skip
    config = {"model_type": "grounding-dino", "backbone_config": swin,
              "text_config": {"model_type": "bert"}}  # fmt: skip
    assert parameters(load_model(config)) == 232_315_264


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("grounding-dino", "encoder_layers", 65, "is beyond 64"),
        ("grounding-dino", "d_model", 2**21, "is beyond 1048576"),
        ("deformable-detr", "d_model", 48, "is no multiple of 32"),
        ("deformable-detr", "num_feature_levels", 2, "is less than the 3 stages"),
        ("mask2former", "feature_size", 2**21, "is beyond 1048576"),
        ("vilt", "max_image_length", 0, "a choice of patches"),
    ],
)
def test_a_refusal_names_the_key_that_is_wrong(name, key, value, said):
    config = {**json.loads((COUNTED / f"{name}-small.json").read_text()), key: value}
    with pytest.raises(InputError, match=f"'{key}' = {value}:? {said}"):
        load_model(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_model": 48}, "channels, which do not part into 8 groups"),
        ({"encoder_attention_heads": 4}, "channels, which do not part into 8 groups"),
        ({"backbone_kwargs": {"out_indices": [2, 3, 4]}}, "'out_indices' 1 to 4"),
    ],
)
def test_masks_are_made_of_all_stages_in_groups_of_channels(change, words):
    # As many as the class has over the same network.
    kinds = {str(n): f"LABEL_{n}" for n in range(250)}
    config = {"model_type": "detr", "architectures": ["DetrForSegmentation"], "id2label": kinds}
    assert parameters(load_model({**config, "backbone": "resnet50"})) == 42_899_288
    with pytest.raises(ModelError, match=words):
        load_model({**config, "backbone": "resnet50", **change})


@pytest.mark.parametrize("name", ["detr", "conditional-detr", "table-transformer", "rt-detr"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("out_features", ["stage1"]), ("out_features", ["bogus"]), ("out_indices", [1])],
)
def test_encoders_that_take_the_last_stage_refuse_others(name, key, value):
    config = json.loads((COUNTED / f"{name}-small.json").read_text())
    part = {k: v for k, v in config["backbone_config"].items() if not k.startswith("out_")}
    with pytest.raises(InputError, match="stage"):
        load_model({**config, "backbone_config": {**part, key: value}})


@pytest.mark.parametrize("name", ["resnet-stages", "detr", "deformable-detr", "rt-detr"])
def test_networks_of_all_families_refuse_bottlenecks_that_are_no_whole_number_wide(name):
    config = json.loads((COUNTED / f"{name}-small.json").read_text())
    part = config.get("backbone_config") or config
    widths = [part["hidden_sizes"][0] + 2, *part["hidden_sizes"][1:]]
    part = {**part, "layer_type": "bottleneck", "hidden_sizes": widths}
    changed = {**config, "backbone_config": part} if "backbone_config" in config else part
    with pytest.raises(InputError, match="'hidden_sizes' of bottlenecks must be multiples of 4"):
        load_model(changed)


@pytest.mark.parametrize("name", ["depth-anything", "detr", "rt-detr", "upernet", "vitpose"])
def test_two_keys_that_name_stages_must_not_contradict_each_other(name):
    config = json.loads((COUNTED / f"{name}-small.json").read_text())
    part = {**config["backbone_config"], "out_features": ["stage1"], "out_indices": [2]}
    with pytest.raises(InputError, match="'out_features' and 'out_indices' contradict each other"):
        load_model({**config, "backbone_config": part})


def test_a_refused_stage_of_many_is_said_in_a_line():
    config = json.loads((COUNTED / "vitpose-small.json").read_text())
    part = {**config["backbone_config"], "num_hidden_layers": 3000, "out_indices": [9999]}
    with pytest.raises(InputError, match="stages from stage1 to stage3000 in their order"):
        load_model({**config, "backbone_config": part})


def test_queries_of_a_class_have_numbers_where_files_have_text():
    saved = json.loads((COUNTED / "aria-small.json").read_text())
    key = "projector_patch_to_query_dict"
    made = {**saved, key: {int(patches): count for patches, count in saved[key].items()}}
    assert load_model(made) == load_model(saved)


@pytest.mark.parametrize("key", [1, 1.5, True, None])
def test_a_key_that_is_no_text_is_read_as_a_file_has_it(key):
    saved = json.loads((COUNTED / "aria-small.json").read_text())
    for made in ({**saved, key: 5}, {**saved, "text_config": {**saved["text_config"], key: 5}}):
        assert json.dumps(key) in " ".join(load_model(made).notes)


def test_a_key_that_no_file_can_have_is_refused():
    saved = json.loads((COUNTED / "aria-small.json").read_text())
    with pytest.raises(InputError, match=r"the key \(1, 2\) is a tuple, not text"):
        load_model({**saved, "text_config": {**saved["text_config"], (1, 2): 5}})


def test_bins_pulled_by_a_sum_are_not_divided():
    """One division for each bin of each step (four, of these sizes) less than a mean takes."""
    made = json.loads((COUNTED / "zoedepth-small.json").read_text())
    found = []
    for kind in ("mean", "sum"):
        graph = import_config({**made, "attractor_kind": kind}, "seen").phases[0].graph
        pulls = [n for n in graph.nodes if n.name.endswith("_pull")]
        assert len(pulls) == 4
        bins = sum(n.outputs[0].numel for n in pulls)
        found.append(sum(r.total.total_flops for r in rows(graph)))
    assert found[0] - found[1] == bins


def test_bins_within_one_length_are_sorted_and_held_in_every_step():
    """A factor, a sum, a comparison of the order and two of the bounds for each bin of a step."""
    made = json.loads((COUNTED / "zoedepth-small.json").read_text())
    graph = import_config({**made, "bin_centers_type": "normed"}, "seen").phases[0].graph
    bins = sum(n.outputs[0].numel for n in graph.nodes if n.name.endswith("_held"))
    parts = ("_length", "_from", "_sorted", "_held")
    steps = [r for r in rows(graph) if r.name.startswith("pull") and r.name.endswith(parts)]
    assert len(steps) == 16
    assert sum(r.total.total_flops for r in steps) == 5 * bins


def test_pictures_are_made_finer_about_their_mean():
    """Two operations for each number of the picture, and of each one that is answered with."""
    program = load_model(str(COUNTED / "swin2sr-aux-small.json"))
    aside = ("centred", "centred_scale", "made0_scale", "made0_mean", "made1_scale", "made1_mean")
    steps = [r for r in rows(program.phases[0].graph) if r.name in aside]
    assert len(steps) == 6
    shown, finer = 3 * 16 * 16, 3 * 32 * 32
    assert sum(r.total.total_flops for r in steps) == 2 * (2 * shown + finer) * B


@pytest.mark.parametrize(
    ("vision", "whole", "words"),
    [
        ({}, {"projection_dim": 32}, "'projection_dim' must be 24"),
        ({"hidden_dim": 15}, {}, "'hidden_dim' = 15: means of parts of 16 positions"),
        ({"pooling_type": "max"}, {}, "'pooling_type' = 'max'"),
    ],
)
def test_a_mean_that_is_no_vector_of_the_joint_space_is_refused(vision, whole, words):
    config = json.loads((COUNTED / "align-small.json").read_text())
    with pytest.raises(ModelError, match=words):
        load_model({**config, **whole, "vision_config": {**config["vision_config"], **vision}})
