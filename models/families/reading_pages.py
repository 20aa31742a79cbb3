"""DeepSeek-OCR 2: learned queries read the patches of a page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.queried import QueriedEyes
from costgraph.models.families.common import Family, Reading, activation_of, heads_of
from costgraph.models.families.language import before, language
from costgraph.models.families.segmenting import sam_encoder
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


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"deepseek_ocr2": _ocr2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"DeepseekOcr2ForConditionalGeneration": "deepseek_ocr2"}
)
