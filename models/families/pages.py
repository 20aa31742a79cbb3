"""DeepSeek-OCR and DeepSeek-OCR 2: pages in few tokens."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.paired import PairedEyes
from costgraph.models.blocks.queried import QueriedEyes
from costgraph.models.families.common import Family, Reading, activation_of, class_of, heads_of
from costgraph.models.families.language import before, language
from costgraph.models.families.segmenting import sam_encoder
from costgraph.models.families.vision import tower_of
from costgraph.models.fields import Fields, divided


def _eyes(seen: Fields, out: Integer) -> QueriedEyes:
    """SAM's encoder and Qwen 2's layers, in sections of their own.

    Raises:
        ModelError: widths do not fit, or layers see a window.
    """
    sam, part = seen.section("sam_config"), seen.section("encoder_config")
    shrunk = sam.values.get("downsample_channels")
    shrunk = [512, 896] if shrunk is None else shrunk
    if not isinstance(shrunk, list) or len(shrunk) != 2 or any(type(n) is not int for n in shrunk):
        raise ModelError(f"{sam.name}: 'downsample_channels' must be two numbers")
    part = part.with_defaults(
        hidden_size=4096, intermediate_size=22016, num_hidden_layers=32, num_attention_heads=32
    )
    d = part.size("hidden_size")
    if shrunk[1] != d or shrunk[0] < 1:
        raise ModelError(
            f"{sam.name}: 'downsample_channels' = {clip(shrunk)} must end in the hidden size, {d}"
        )
    part.refuse("use_sliding_window", "layers that see a window")
    listed = part.values.get("layer_types")
    count = part.size("num_hidden_layers")
    if listed is not None and listed != ["full_attention"] * count:
        raise ModelError(f"{part.name}: 'layer_types' must be {count} times 'full_attention'")
    for key in ("sliding_window", "max_window_layers", "vocab_size", "tie_word_embeddings"):
        part.values.get(key)  # of windows that are off, and of tokens that it does not read
    heads, keys, width = heads_of(part, d)
    return QueriedEyes(
        encoder=sam_encoder(sam),
        shrunk=Integer(shrunk[0]),
        at=Heads(
            Integer(d), Integer(heads), width, True, True, rotary=width, kv_heads=Integer(keys)
        ),
        feed=FeedForward(
            Integer(d),
            Integer(part.size("intermediate_size")),
            activation_of(part, "hidden_act", default="silu"),
        ),
        layers=Integer(count),
        out=out,
    )


def _ocr2(fields: Fields) -> Reading:
    text = fields.section("text_config")
    d, heads = text.size("hidden_size", default=4096), text.size("num_attention_heads", default=32)
    each = divided(fields, d, heads, "hidden size over heads")
    if text.size("head_dim", default=int(each)) != each:
        raise ModelError(f"{text.name}: 'head_dim' must be {each}: the class reads no other")
    stack, reading = language(
        fields, "deepseek_ocr2_text", tied=False, hidden_size=4096, intermediate_size=11008,
        num_hidden_layers=32, num_attention_heads=32, vocab_size=102400, n_routed_experts=64,
        n_shared_experts=2, moe_intermediate_size=1407,
    )  # fmt: skip
    return before(stack, reading, _eyes(fields.section("vision_config"), Integer(stack.ends.d)))


#: What the publisher's code builds, whatever its files say.
_SAM = {"image_size": 1024, "downsample_channels": [512, 896]}
_LAYERS = {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864,
}  # fmt: skip
_CLIP = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "hidden_act": "quick_gelu",
}  # fmt: skip
#: What the files say of sizes, which that code has too.
_WIDTHS: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "clip-l-14-224": {
            "heads": (16,), "image_size": (224,), "layers": (24,), "patch_size": (14,),
            "width": (1024,),
        },
        "qwen2-0-5b": {"dim": (896,)},
        "sam_vit_b": {
            "downsample_channels": ([512, 1024], [512, 896]),
            "global_attn_indexes": ([2, 5, 8, 11],), "heads": (12,), "layers": (12,),
            "width": (768,),
        },
    }
)  # fmt: skip
#: The classes of the publisher's files, whose type is that of DeepSeek-VL 2, and what their towers
#: give the projector.
OWN: Mapping[str, int] = MappingProxyType(
    {"DeepseekOCRForCausalLM": 2048, "DeepseekOCR2ForCausalLM": 896}
)


def _paired(name: str, out: Integer) -> PairedEyes:
    """The towers of the first version: CLIP's 24 layers, and its patches of 14 pixels."""
    at, feed = tower_of(Fields(name, _CLIP), "quick_gelu")
    return PairedEyes(
        encoder=sam_encoder(Fields(name, {})),
        shrunk=Integer(512),
        at=at,
        feed=feed,
        layers=Integer(24),
        patch=Integer(1024 * 3 * 14**2),
        out=out,
    )


def _require_widths(sizes: Fields) -> None:
    """Refuses sizes of towers that the publisher's code does not build."""
    for name, known in _WIDTHS.items():
        if sizes.has(name):
            part = sizes.section(name)
            for key, allowed in known.items():
                part.require(key, *allowed)


def _own(fields: Fields) -> Reading:
    """The publisher's files, which name the tower and leave its sizes to their code.

    Raises:
        ModelError: it is another class of that type, or a key is not that of the published file.
    """
    own = class_of(fields.values) or ""
    if own not in OWN:
        raise ModelError(
            f"{fields.name}: of this 'model_type' only 'architectures' {' or '.join(OWN)} is read"
        )
    text, seen = fields.section("language_config"), fields.section("vision_config")
    for key in ("architectures", "auto_map"):
        text.values.get(key)
    for key, usual in (("lm_head", True), ("rm_head", False), ("topk_method", "greedy"),
                       ("sliding_window", None), ("sliding_window_size", None)):  # fmt: skip
        text.require(key, usual)
    # All keys of the language model stand in the file itself, too.
    for key in text.values:
        if key in ("architectures", "auto_map", "model_type"):
            continue
        if fields.has(key) and fields.values.get(key) != text.peek(key):
            raise ModelError(f"{fields.name}: {key!r} is not that of 'language_config'")
    for key in ("candidate_resolutions", "global_view_pos", "tile_tag"):
        fields.values.get(key)  # of how pictures are cut
    seen.require("image_size", _SAM["image_size"])
    for key in ("mlp_ratio", "model_name", "model_type"):
        seen.values.get(key)
    if seen.peek("width"):
        _require_widths(seen.section("width"))
    stack, reading = language(fields, "deepseek", "language_config", tied=False)
    d, part = stack.ends.d, fields.section("projector_config")
    for key, wanted in (("projector_type", "linear"), ("input_dim", OWN[own]), ("n_embed", int(d)),
                        ("model_type", "mlp_projector")):  # fmt: skip
        part.require(key, wanted)
    if own == "DeepseekOCRForCausalLM":
        return before(stack, reading, _paired(seen.name, Integer(d)))
    made = Fields(seen.name, {"sam_config": _SAM, "encoder_config": _LAYERS})
    return before(stack, reading, _eyes(made, Integer(d)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"deepseek_ocr2": _ocr2, "deepseek_vl_v2": _own})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DeepseekOcr2ForConditionalGeneration": "deepseek_ocr2",
        **dict.fromkeys(OWN, "deepseek_vl_v2"),
    }
)
