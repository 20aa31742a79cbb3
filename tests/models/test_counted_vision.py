"""Vision, multimodal and diffusion models against PyTorch's counter on the real classes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.symbols import B, G, S, T, q
from tests.models.counting import DATA, products, program

COUNTED: dict[str, Any] = json.loads((DATA / "counted.json").read_text())
ONE_PASS = ["clip-vit-b-32", "convnext-tiny", "resnet-50", "flux-1-dev"]
SEEING = ["qwen3-vl-8b", "qwen3.5-27b"]

#: ``forward_bB_HxW``, ``clip_bB_Ppx_textS``, ``denoise_bB_imgG_textS``.
CASE = re.compile(r"\w+_b(\d+)_(?:(\d+)x\d+|(\d+)px|img(\d+))(?:_text(\d+))?")


def total(graph, values, *kinds: str) -> int:
    found = sum(
        (r.count * products(r) for r in rows(graph) if not kinds or r.kind in kinds), Integer(0)
    ).xreplace(values)
    assert found.is_Integer, found
    return int(found)


@pytest.mark.parametrize("name", [*ONE_PASS, *SEEING])
def test_parameters_are_equal(name):
    found = parameters(program(name))
    assert found == COUNTED[name]["params"]["total"]


@pytest.mark.parametrize(
    ("name", "kind", "case"),
    [(n, k, c) for n in ONE_PASS for k, cases in COUNTED[n]["flops"].items() for c in cases],
)
def test_products_are_equal(name, kind, case):
    counted = COUNTED[name]["flops"][kind][case]
    batch, _, _, image, text = CASE.fullmatch(case).groups()
    values = {B: Integer(batch)}
    values |= {G: Integer(image)} if image else {}
    values |= {S: Integer(text)} if text else {}
    graph = program(name).graph
    by_op = counted["by_op"]
    assert total(graph, values) == counted["total"]
    assert total(graph, values, "conv") == by_op.get("conv", 0)
    attention = by_op.get("sdpa", 0) + by_op.get("bmm", 0)
    assert total(graph, values, "qk-matmul", "sv-matmul") == attention


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("case", list(COUNTED["qwen3-vl-8b"]["flops"]["sdpa"]))
def test_text_of_a_seeing_model_is_equal(kind, case):
    counted = COUNTED["qwen3-vl-8b"]["flops"][kind][case]["total"]
    phase, batch, length = re.fullmatch(r"(\w+)_b(\d+)_[sl](\d+)", case).groups()
    new, context = (int(length),) * 2 if phase == "prefill" else (1, int(length) + 1)
    values = {B: Integer(batch), q: Integer(new), T: Integer(context)}
    # The prompt with images multiplies as much as the one without.
    assert total(program("qwen3-vl-8b").phase(phase).graph, values) == counted


#: Modules of the counted tower, and the operations here.
MODULES = {
    "patch_embed.proj": r"patch_embed",
    "blocks.*.attn.qkv": r".*qkv_proj",
    "blocks.*.attn": r".*(qk|sv)_matmul",
    "blocks.*.attn.proj": r".*o_proj",
    "blocks.*.mlp.linear_fc1": r".*up_proj",
    "blocks.*.mlp.linear_fc2": r".*down_proj",
    "deepstack_merger_list.*.linear_fc1": r"deep\d_fc1",
    "deepstack_merger_list.*.linear_fc2": r"deep\d_fc2",
    "merger.linear_fc1": r"merger_fc1",
    "merger.linear_fc2": r"merger_fc2",
}


def test_the_tower_is_equal_module_by_module():
    counted = COUNTED["qwen3-vl-8b"]["vision"]["image_patches_1x32x32"]
    graph = program("qwen3-vl-8b").phase("vision").graph
    values = {B: Integer(1), G: Integer(32 * 32 // 4)}
    assert total(graph, values) == counted["total"]
    found = {
        module: sum(
            int((r.count * products(r)).xreplace(values))
            for r in rows(graph)
            if re.fullmatch(pattern, r.name)
        )
        for module, pattern in MODULES.items()
    }
    assert found == counted["by_module"]


@pytest.mark.parametrize(
    "case", list(COUNTED["qwen3-vl-8b"].get("kv_cache", {}).get("prefill", {}))
)
def test_caches_are_equal(case):
    counted = COUNTED["qwen3-vl-8b"]["kv_cache"]["prefill"][case]["kv_bytes_bf16"]
    batch, length = map(int, re.fullmatch(r"b(\d+)_s(\d+)", case).groups())
    graph = program("qwen3-vl-8b").phase("decode").graph
    values = {B: Integer(batch), q: Integer(1), T: Integer(length)}
    assert cache_bytes(graph).xreplace(values) == counted
