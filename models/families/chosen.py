"""Relatives of DeepSeek-V3.2, whose latent attention reads what an index chooses.

A.X K2 gates what each block reads, dots3 has windows in most layers, Hunyuan 4 several streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import LatentAttention, Maker
from costgraph.models.blocks.gating import Gating
from costgraph.models.blocks.hyper import Hyper, HyperLayer
from costgraph.models.blocks.indexed import IndexedAttention, SelectedAttention
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.pattern import gathered
from costgraph.models.families.absent import filled, part_of
from costgraph.models.families.common import Family, Reading, kind_sizes, layer_count
from costgraph.models.families.deepseek import (
    chosen_of,
    indexed_of,
    indexers,
    latent_attention_of,
)
from costgraph.models.families.experts import (
    RMS,
    corrected_route,
    crossed,
    ends_of,
    feed_forward_of,
    layers_of,
    shared_experts,
    sparse_layers,
)
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.families.pooled import Streamed
from costgraph.models.fields import Fields
from costgraph.ops import Multiply, Split
from costgraph.ops.elementwise import Activation
from costgraph.ops.views import Beside

INDEXED, WINDOWED, ALL = "indexed_attention", "sliding_attention", "full_attention"


@dataclass(frozen=True)
class GatedQueries(IndexedAttention):
    """Queries and gates of one matrix, which reads latent queries with their norm and without."""

    def widened(self, m: Maker, low: str, normed: str) -> str:
        """Adds queries; the gates stand beside them as ``q_gate_split.1``."""
        (width, inner), h = (self.nope_dim + self.rope_dim, self.v_dim), self.heads
        both = m.add("q_both", Beside(2), normed, low)
        split = (h, width + inner)
        packed = m.linear("q_gate_proj", both, h * split[1], m.shape(both)[-1], split=split)
        return m.add_many("q_gate_split", Split(((width,), (inner,))), packed)[0]

    def gated(self, m: Maker, x: str, mixed: str) -> str:
        """Adds the gates."""
        gate = m.add("attn_gate", Activation("sigmoid"), "q_gate_split.1")
        return m.add("attn_gate_mul", Multiply(), mixed, gate)


def _axk2(fields: Fields) -> Reading:
    """A low-rank gate behind the norms of attention and of experts, and one behind the heads."""
    indexed = GatedQueries(**vars(indexed_of(fields)))
    if fields.values.get("n_group") is None:  # no groups
        fields = fields.with_values(n_group=1, topk_group=1)
    named = fields.with_defaults(first_k_dense_replace=1)
    named.require("moe_layer_freq", 1)
    d, rank = indexed.d, Integer(fields.size("gated_norm_rank", default=16))
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    mixers: dict[str, Block] = {"": Gating(d, rank, indexed, "attn")}
    kinds = [""] * layers_of(fields)
    made = crossed(named, mixers, kinds, dense, Gating(d, rank, experts, "mlp"), ahead=None)
    return replace(made, assumptions=(*made.assumptions, chosen_of(indexed)))


#: What windows of dots3 have where a file says nothing.
_WINDOWED: Mapping[str, int] = MappingProxyType(
    {
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "q_lora_rank": 1024,
        "kv_lora_rank": 1024,
        "head_dim": 256,
        "qk_nope_head_dim": 192,
        "v_head_dim": 128,
    }
)


def _dots3_kinds(fields: Fields) -> list[str]:
    """The attention of each layer; the first files call it by another name, and say it apart."""
    count, indexed = layer_count(fields), fields.flag("use_dsa", True)
    whole = INDEXED if indexed else ALL
    found = fields.values.get("layer_types")
    if found is None:
        slides = fields.flag("use_sliding_window", True)
        return [whole if not slides or i < 2 or i % 4 == 1 else WINDOWED for i in range(count)]
    if not isinstance(found, list) or len(found) != count:
        raise ModelError(f"{fields.name}: 'layer_types' must be a list of {count} names")
    if any(kind not in (INDEXED, WINDOWED, ALL) for kind in found):
        raise ModelError(f"{fields.name}: 'layer_types' = {clip(found)}: a kind is not known")
    if fields.has("use_dsa") or not fields.has("per_layer_config"):
        return [kind if kind == WINDOWED else whole for kind in found]
    return list(found)


def _dots3_mixers(fields: Fields, kinds: list[str]) -> dict[str, Block]:
    """Attention by kind of layer: what queries and keys are made of is scaled, heads are gated."""
    fields.values.get("num_key_value_heads")  # as many as queries have
    turned = "qk_rope_head_dim"
    own = kind_sizes(fields, kinds, {WINDOWED: (*_WINDOWED, turned)}).get(WINDOWED, {})
    sizes = {
        key: own.get(key, fields.size(f"swa_{key}", default=usual))
        for key, usual in _WINDOWED.items()
    }
    rest = sizes["head_dim"] - sizes["qk_nope_head_dim"]
    sizes[turned] = own.get(turned, fields.size(f"swa_{turned}", default=rest or None))
    both: dict[str, Any] = {"gate": "head", "key_norm": RMS, "low_scaled": True}
    window = Integer(fields.size("sliding_window", "sliding_window_size", default=512))
    plain = latent_attention_of(fields)
    near = replace(latent_attention_of(fields.with_values(**sizes)), window=window, **both)
    if near.rope_dim != plain.rope_dim:
        near = replace(near, table="window_rope_table")
    made: dict[str, Block] = {WINDOWED: near, ALL: replace(plain, **both)}
    if INDEXED in kinds:
        made[INDEXED] = replace(indexed_of(fields), **both)
    return made


def _dots3(fields: Fields) -> Reading:
    """dots3's language model: an index in some layers, windows of other heads in the rest."""
    kinds, count = _dots3_kinds(fields), layers_of(fields)
    mixers = _dots3_mixers(fields, kinds)
    every = fields.values.get("moe_layer_freq", 1)
    if isinstance(every, list):
        if len(every) != count:
            raise ModelError(f"{fields.name}: 'moe_layer_freq' must have {count} entries")
        listed = ["sparse" if held else "dense" for held in every]
        fields = fields.with_defaults(mlp_layer_types=listed)
    elif every != 1:
        raise ModelError(f"{fields.name}: 'moe_layer_freq' = {clip(every)}: only 1 is understood")
    named = fields.with_defaults(first_k_dense_replace=1)
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    inner = named.size("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size",
                       default=1536)  # fmt: skip
    wide = Integer(inner * named.size("n_shared_experts", default=1))
    experts = replace(experts, shared=replace(dense, width=wide))
    made = crossed(named, mixers, kinds, dense, experts, ahead=None)
    index = mixers.get(INDEXED)
    said = (chosen_of(index),) if isinstance(index, IndexedAttention) else ()
    return replace(made, assumptions=(*made.assumptions, *said))


def _dots3_whole(fields: Fields) -> Reading:
    """The text part of dots3, which published files hold at their top; the rest is said."""
    kind = "dots3_note_text"
    if fields.values.get("text_config") is None:
        return _dots3(filled(fields.with_values(model_type=kind), kind))
    return _dots3(part_of(fields, kind, tied=False))


def _hunyuan4(fields: Fields) -> Reading:
    """Hunyuan 4: gated heads with sinks, clamped gates of experts, streams that stay apart."""
    count = layers_of(fields)
    both: dict[str, Any] = {"gate": "each", "sinks": True}
    indexed = replace(indexed_of(fields), **both)
    plain: LatentAttention = replace(latent_attention_of(fields), **both)
    shared = SelectedAttention(**vars(plain), most=indexed.most)
    mixers = {"full": indexed, "shared": shared}
    usual = ["full" if i == 0 or (i - 1) % 4 == 0 else "shared" for i in range(count)]
    found = fields.values.get("indexer_types")
    kinds = indexers(fields, usual if found is None else found)
    listed = fields.values.get("layer_types")
    if listed is not None and listed != [INDEXED] * count:
        raise ModelError(f"{fields.name}: 'layer_types' must be {count} times {INDEXED!r}")
    for key in ("num_key_value_heads", "head_dim", "hc_magnitude", "hc_eps"):
        fields.values.get(key)  # numbers of the streams' gates, and what the class overwrites
    named = fields.with_defaults(first_k_dense_replace=1)
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    if fields.number("swiglu_limit", 10.0) > 0:
        experts = replace(experts, activation="clamped_silu", up_activation="clip")
    experts = replace(experts, packed=True)
    hyper = Hyper(indexed.d, Integer(fields.size("hc_mult", default=4)), apart=True)
    segments = gathered(
        (
            f"{'experts' if held else 'dense'}_{kind}",
            HyperLayer(hyper, mixers[kind], experts if held else dense),
        )
        for held, kind in zip(sparse_layers(named), kinds, strict=True)
    )
    model = Streamed(ends_of(fields), segments, hyper)
    return Reading(model, assumptions=(GATHERED, chosen_of(indexed)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "axk2": _axk2,
        "dots3_note_text": _dots3,
        "dots3_note": _dots3_whole,
        "hy_v4": _hunyuan4,
        "hy_v4_vl_text": _hunyuan4,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "AXK2ForCausalLM": "axk2",
        "Dots3NoteForCausalLM": "dots3_note_text",
        "Dots3NoteForConditionalGeneration": "dots3_note",
        "HYV4ForCausalLM": "hy_v4",
    }
)
