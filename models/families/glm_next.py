"""GLM-5.3-Flash: streams, Kimi's delta attention, latent attention to chosen blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Block
from costgraph.models.blocks.hyper import Hyper, HyperLayer
from costgraph.models.blocks.indexed import SelectedAttention
from costgraph.models.blocks.kimi import KimiDeltaAttention
from costgraph.models.blocks.pattern import gathered
from costgraph.models.families.absent import filled, part_of
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.deepseek import indexed_of, indexer_kinds, latent_attention_of
from costgraph.models.families.experts import (
    corrected_route,
    ends_of,
    feed_forward_of,
    layers_of,
    shared_experts,
    sparse_layers,
)
from costgraph.models.families.glm_seeing import glm_tower
from costgraph.models.families.hybrid import GATHERED, words
from costgraph.models.families.pooled import Streamed
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

DELTA, FULL = "delta", "full"
_KINDS: Mapping[str, str] = MappingProxyType(
    {"linear_attention": DELTA, "indexed_attention": FULL, "full_attention": FULL}
)
#: Gates and what they multiply are clamped.
CLAMPED: Mapping[str, Any] = MappingProxyType(
    {"activation": "clamped_silu", "up_activation": "clip"}
)
SAID = (
    "each query attends the {rows} rows of the blocks that an indexer scores highest, and those "
    "of the block that is not over; keys and gates of the indexer are kept whole and pooled in "
    "each step, as the published class does",
    "decays with a lower bound are counted like those without",
)


def _delta(fields: Fields) -> KimiDeltaAttention:
    """Delta attention; the publisher's file says its sizes in a section."""
    given = fields.values.get("linear_attn_config")
    inner = fields.section("linear_attn_config") if given else Fields(fields.name, {})

    def size(key: str, nested: str, usual: int) -> Integer:
        return Integer(inner.size(nested, default=fields.size(key, default=usual)))

    for key in ("gate_lower_bound", "safe_gate"):
        inner.values.get(key)  # of decays, see SAID
    fields.values.get("linear_lower_bound")
    return KimiDeltaAttention(
        d=Integer(fields.size("hidden_size")),
        heads=size("linear_num_heads", "num_heads", 64),
        head_dim=size("linear_head_dim", "head_dim", 128),
        conv=size("linear_conv_kernel_dim", "short_conv_kernel_size", 4),
    )


def _text(fields: Fields) -> Reading:
    count = layers_of(fields)
    for key in ("head_dim", "hc_eps", "output_router_logits", "router_aux_loss_coef"):
        fields.values.get(key)  # what the class overwrites, and numbers that count nothing
    fields.require("num_key_value_heads", fields.size("num_attention_heads"))
    fields.require("index_kpool_always_select_tail", True)
    if fields.values.get("qk_rope_head_dim", 0) != 0:
        raise ModelError(f"{fields.name}: 'qk_rope_head_dim': nothing is rotated in this family")
    plain = latent_attention_of(fields, rotated=False)
    pool, most = fields.size("index_kpool", default=16), fields.size("index_topk", default=2048)
    if most % pool:
        raise ModelError(
            f"{fields.name}: 'index_topk' = {most} is no multiple of 'index_kpool' = {pool}"
        )
    indexed = indexed_of(fields.with_values(index_topk=most), rotated=False)
    indexed = replace(indexed, block=Integer(pool))
    shared = SelectedAttention(**vars(plain), most=indexed.most, block=indexed.block)
    mixers: dict[str, Block] = {DELTA: _delta(fields), "full": indexed, "shared": shared}
    if fields.values.get("layer_types") is None:
        kinds = [FULL if i % 4 == 3 else DELTA for i in range(count)]
    else:
        kinds = words(fields, "layer_types", _KINDS)
    pairs = zip(kinds, indexer_kinds(fields), strict=True)
    kinds = [kind if kind == DELTA else index for kind, index in pairs]
    attends = [kind for kind in kinds if kind != DELTA]
    if attends and attends[0] != "full":
        raise ModelError(f"{fields.name}: 'indexer_types': the first that attends has an indexer")
    fields.number("swiglu_limit", 10.0)
    named = fields.with_defaults(first_k_dense_replace=min(3, count))
    dense = replace(feed_forward_of(named, named.size("intermediate_size")), **CLAMPED)
    experts = replace(shared_experts(named, dense, corrected_route(named)), packed=True, **CLAMPED)
    hyper = Hyper(
        indexed.d,
        Integer(fields.size("hc_mult", default=4)),
        Integer(fields.size("hc_sinkhorn_iters", default=20)),
        mean=True,
    )
    segments = gathered(
        (
            f"{'experts' if held else 'dense'}_{kind}",
            HyperLayer(hyper, mixers[kind], experts if held else dense),
        )
        for held, kind in zip(sparse_layers(named), kinds, strict=True)
    )
    said = (GATHERED, *(s.format(rows=indexed.most) for s in SAID))
    return Reading(Streamed(ends_of(fields), segments, hyper), scans=True, assumptions=said)


def _seeing(fields: Fields) -> Reading:
    """GLM-OCR's tower in front of it, with clamped gates; the first files are of text alone."""
    if fields.values.get("text_config") is None:
        return _text(filled(fields, "glm5_next_text"))
    reading = _text(part_of(fields, "glm5_next_text", tied=False))
    if fields.values.get("vision_config") is None:
        return reading
    seen = fields.section("vision_config").with_defaults(out_hidden_size=1536)
    seen.number("swiglu_limit", 10.0)
    model = reading.model
    assert isinstance(model, Streamed)
    context = Integer(seen.size("projection_intermediate_size", default=10240))
    eyes = glm_tower(seen, model.ends.d, True, context, **CLAMPED)
    return Reading(Seeing(eyes, model, True), scans=True, assumptions=reading.assumptions)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"glm5_next": _seeing, "glm5_next_text": _text})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Glm5NextForConditionalGeneration": "glm5_next"}
)
