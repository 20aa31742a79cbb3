"""Inkling: attention with numbers of distances, short convolutions behind every block."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Block, Norm, Stack
from costgraph.models.blocks.folding import Blocks, CodeEars, FoldedEyes, scales
from costgraph.models.blocks.inkling import (
    ConvolvedBlock,
    DistanceAttention,
    ScaledFeed,
    SinkExperts,
)
from costgraph.models.blocks.projector import Acted, Beside, Normed, Product, Steps
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import FULL, SLIDING, Family, Reading
from costgraph.models.families.experts import (
    crossed,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
    numbers_of,
)
from costgraph.models.families.hybrid import words
from costgraph.models.fields import Fields
from costgraph.models.multimodal import RESTS, Seeing
from costgraph.ops import Route
from costgraph.ops.pattern import sliding

_KINDS: Mapping[str, str] = MappingProxyType({"hybrid": FULL, "hybrid_sliding": SLIDING})
#: Every sixth layer attends to all positions where a file says nothing.
EVERY = 6
SAID = "weights and states of short convolutions are kept in FP32, as the published class does"


def _kinds(fields: Fields) -> list[str]:
    """The kind of each layer: a list of kinds, or of the numbers of layers with a window."""
    count = layers_of(fields)
    if fields.values.get("layer_types") is not None:
        return words(fields, "layer_types", _KINDS)
    if fields.values.get("local_layer_ids") is None:
        return [SLIDING if (i + 1) % EVERY else FULL for i in range(count)]
    local = set(numbers_of(fields, "local_layer_ids"))
    if any(not 0 <= i < count for i in local):
        raise ModelError(f"{fields.name}: 'local_layer_ids': from 0 to {count - 1}")
    return [SLIDING if i in local else FULL for i in range(count)]


def _attention(fields: Fields, kind: str) -> DistanceAttention:
    """Layers with a window have heads of their own, and numbers for its distances."""
    front = "swa_" if kind == SLIDING else ""
    window = fields.size("sliding_window_size", "sliding_window", default=512)
    reach = fields.size("rel_extent", default=1024)
    heads = fields.size(f"{front}num_attention_heads", default=64)
    kv_heads = fields.size(f"{front}num_key_value_heads", default=16 if front else 8)
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name}: '{front}num_attention_heads' = {heads} is not a multiple of "
            f"'{front}num_key_value_heads' = {kv_heads}"
        )
    floor = fields.values.get("log_scaling_n_floor")
    if floor is not None:
        fields.size("log_scaling_n_floor")
    fields.number("log_scaling_alpha", 0.1)
    return DistanceAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=Integer(fields.size(f"{front}head_dim", default=128)),
        qk_norm=Norm(),
        pattern=sliding(Integer(window) if front else None),
        query_scale=floor is not None and not front,
        taps=Integer(_taps(fields)),
        mixed=Integer(fields.size("d_rel", default=16)),
        reach=Integer(window if front else reach),
    )


def _taps(fields: Fields) -> int:
    return fields.size("conv_kernel_size", "sconv_kernel_size", default=4)


def _widths(fields: Fields) -> Fields:
    """Widths of dense blocks and of experts, which published files name the other way round."""
    if fields.values.get("dense_intermediate_size") is None:
        return fields
    width, dense = fields.size("intermediate_size"), fields.size("dense_intermediate_size")
    fields.values.get("moe_intermediate_size")  # what the class overwrites
    return fields.with_values(moe_intermediate_size=width, intermediate_size=dense)


def _first_dense(fields: Fields) -> Fields:
    """First layers are dense as ``dense_mlp_idx`` says, where there is no list of kinds."""
    first = fields.values.get("dense_mlp_idx")
    if fields.values.get("mlp_layer_types") is not None:
        return fields
    if first is not None and (isinstance(first, bool) or not isinstance(first, int) or first < 0):
        raise ModelError(f"{fields.name}: 'dense_mlp_idx' must be a number, not {clip(first)}")
    return fields.with_values(first_k_dense_replace=min(first or 0, layers_of(fields)))


def _text(fields: Fields) -> Reading:
    fields.require("shared_expert_sink", True)
    for key in ("route_scale", "logits_mup_width_multiplier", "embedding_multiplier"):
        fields.values.get(key)  # constants that products take, whatever they are
    for key in ("rms_norm_eps_moe_gate", "number_of_conv_states"):
        fields.values.get(key)  # what norms add, and what follows from the class
    for key in ("chain_hidden_post_norm", "mtp_hidden_states_first", "mtp_local_layer_ids"):
        fields.values.get(key)  # of modules that predict further ahead, which are not counted
    shown = fields.values.get("unpadded_vocab_size")
    if shown is not None:
        fields.tell(
            f"logits are made for all {fields.size('vocab_size')} rows and cut to "
            f"'unpadded_vocab_size' = {fields.size('unpadded_vocab_size')}, as the published "
            "class does"
        )
    named = _first_dense(_widths(fields))
    d, taps = Integer(named.size("hidden_size")), Integer(_taps(named))
    kinds = _kinds(named)
    mixers: dict[str, Block] = {
        kind: ConvolvedBlock(_attention(named, kind), "attn_conv", d, taps)
        for kind in dict.fromkeys(kinds)
    }
    dense = ScaledFeed(**vars(feed_forward_of(named, named.size("intermediate_size"))))
    width = named.size("moe_intermediate_size", default=3072)
    route = Route(score="sigmoid", correction=True)
    plain: dict[str, Any] = vars(experts_of(named, width, route, "n_routed_experts", packed=True))
    experts = SinkExperts(**plain, shares=Integer(named.size("n_shared_experts", default=2)))
    ends = ends_of(named, tied=False, embed_norm=Norm(), head_scale=True)
    if ends.tied:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = true: the class never ties embeddings and "
            "logits"
        )
    made = crossed(
        named,
        mixers,
        kinds,
        ConvolvedBlock(dense, "mlp_conv", d, taps),
        ConvolvedBlock(experts, "mlp_conv", d, taps),
        ends,
        ahead=None,
    )
    return Reading(made.model, assumptions=(*made.assumptions, SAID))


def _eyes(seen: Fields, d: Integer) -> FoldedEyes:
    """Products that fold each patch into one row of ``d``."""
    for key in ("text_hidden_size", "hidden_size", "num_attention_heads"):
        seen.values.get(key)  # the language model's, and what no layer has
    seen.require("num_channels", 3)  # the class breaks on some grids of other pictures
    side = seen.size("patch_size", default=40)
    frames = seen.size("temporal_patch_size", default=2)
    layers = seen.size("num_hidden_layers", "n_layers", default=24)
    if side > 4096 or frames > 4096 or layers > 4096:
        raise ModelError(f"{seen.name}: patches of {side} pixels, {frames} frames, {layers} layers")
    made: list[Steps] = []
    found = scales(frames, side, 3, layers)
    for i, ((t, h, _), (t_next, h_next, wide)) in enumerate(pairwise(found)):
        if t_next % t or h_next % h:
            raise ModelError(f"{seen.name}: cells of {h} pixels do not fold into {h_next}")
        cells = (t_next // t) * (h_next // h) ** 2
        last = i == layers - 1
        folded: Steps = (Beside(Integer(cells), copied=True),) if cells > 1 else ()
        behind: Steps = (Normed(Norm()),) if last else (Normed(Norm()), Acted("gelu"))
        made.append((*folded, Product("proj", d if last else Integer(wide), False), *behind))
    whole = Integer(frames * side * side)
    return FoldedEyes(whole, Integer(3), tuple(made), Blocks(side))


def _ears(heard: Fields, d: Integer) -> CodeEars:
    heard.values.get("text_hidden_size")  # the language model's
    bands = heard.size("n_mel_bins", "num_codebooks", default=80)
    codes = heard.size("mel_vocab_size", "codebook_size", default=256)
    return CodeEars(Integer(bands), Integer(codes), d)


def _seeing(fields: Fields) -> Reading:
    """Eyes and ears that look rows up, or fold them, in front of the language model."""
    if fields.values.get("mtp_config"):
        fields.tell("'mtp_config': modules that predict tokens further ahead are not counted")
    text = part_of(fields, "inkling_text", tied=False)
    reading = _text(text)
    stack = reading.model
    assert isinstance(stack, Stack)
    d = Integer(int(stack.ends.d))
    eyes = _eyes(_section(fields, "vision_config"), d)
    ears = _ears(_section(fields, "audio_config"), d)
    model = Seeing(eyes, stack, resting=(ears,))
    return Reading(model, assumptions=(*reading.assumptions, RESTS))


def _section(fields: Fields, key: str) -> Fields:
    """A part of the file; the class has defaults for one that is not there."""
    return fields.with_defaults(**{key: {}}).section(key)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"inkling_mm_model": _seeing, "inkling_text": _text}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "InklingForCausalLM": "inkling_text",
        "InklingForConditionalGeneration": "inkling_mm_model",
    }
)
