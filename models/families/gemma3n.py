"""Gemma 3n: several streams, inputs of each layer's own, caches that the last layers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.altup import StreamLayer, Streams
from costgraph.models.blocks.perlayer import SharingAttention
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    heads_of,
    layer_count,
    layer_types,
)
from costgraph.models.families.experts import ends_of
from costgraph.models.families.gemma4 import OWN, READS, STORES, Places, Sharing, sharing_modes
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.fields import LARGEST, Fields

#: What a kernel could leave out, and the published code does not.
SPARSE = "sparse activations are multiplied like all others: the published code computes the zeros"
#: Layers whose activations are sparse where the file says nothing, if there are more.
SPARSE_LAYERS = 10


def _each(fields: Fields, key: str, default: Any, count: int) -> list[Any]:
    """The value of ``key`` for every layer: a list of them, or one for all."""
    value = fields.values.get(key)
    found = default if value is None else value
    listed = list(found) if isinstance(found, list | tuple) else [found] * count
    if len(listed) != count:
        raise ModelError(f"{fields.name}: {key!r} must be one value, or a list of {count}")
    return listed


def _widths(fields: Fields, count: int) -> list[int]:
    key = "intermediate_size"
    found = _each(fields, key, 16384, count)
    for width in found:
        if type(width) is not int or not 0 < width <= LARGEST:
            raise ModelError(f"{fields.name}: {key!r}: {clip(width)} is no width")
    return found


def _sparse(fields: Fields, count: int) -> list[bool]:
    key = "activation_sparsity_pattern"
    first = SPARSE_LAYERS if count > SPARSE_LAYERS else 0
    found = _each(fields, key, [0.95] * first + [0.0] * (count - first), count)
    for share in found:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ModelError(f"{fields.name}: {key!r}: {clip(share)} is no share in [0, 1)")
    return [share > 0 for share in found]


def _attentions(fields: Fields, d: int) -> dict[str, SharingAttention]:
    named = fields.with_defaults(num_attention_heads=8, num_key_value_heads=2, head_dim=256)
    heads, kv_heads, width = heads_of(named, d)
    full = SharingAttention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=width,
        rotary=width,
        bias=fields.flag("attention_bias", False),
        store=FULL,
    )
    window = Integer(fields.size("sliding_window", default=512))
    slides = replace(full, window=window, table="sliding_rope_table", store=SLIDING)
    return {FULL: full, SLIDING: slides}


def _text(fields: Fields) -> Reading:
    d = fields.size("hidden_size", default=2048)
    activation = activation_of(fields, "hidden_activation", default="gelu_pytorch_tanh")
    fields.require("altup_correct_scale", True)
    fields = fields.with_defaults(num_hidden_layers=35, vocab_size=262400, num_kv_shared_layers=15)
    count = layer_count(fields)
    kinds = layer_types(fields, lambda i: (i + 1) % 5 != 0)
    modes = sharing_modes(fields, kinds)
    widths, sparse = _widths(fields, count), _sparse(fields, count)
    streams = _streams(fields, d)
    own = Integer(fields.size("hidden_size_per_layer_input", default=256))
    rank = Integer(fields.size("laurel_rank", default=64))
    attentions = _attentions(fields, d)
    groups: dict[tuple[str, str, int, bool], list[int]] = {}
    for index, key in enumerate(zip(modes, kinds, widths, sparse, strict=True)):
        groups.setdefault(key, []).append(index)
    several = len(set(zip(widths, sparse, strict=True))) > 1
    places = tuple(
        Places(
            _name(mode, kind, width if several else 0, cut),
            StreamLayer(
                streams=streams,
                attention=replace(attentions[kind], reads=mode == READS),
                feed=FeedForward(Integer(d), Integer(width), activation, cutoff=cut),
                rank=rank,
                own=own,
                activation=activation,
                stores=mode == STORES,
            ),
            tuple(at),
        )
        for (mode, kind, width, cut), at in sorted(groups.items(), key=_order)
    )
    ends = ends_of(
        fields,
        tied=True,
        embed_scale=True,
        logit_cap=fields.values.get("final_logit_softcapping", 30.0) is not None,
    )
    rows = Integer(fields.size("vocab_size_per_layer_input", default=262144))
    said = (GATHERED, SPARSE) if any(sparse) else (GATHERED,)
    return Reading(Sharing(ends, places, own, rows, streams), assumptions=said)


def _streams(fields: Fields, d: int) -> Streams:
    key = "altup_active_idx"
    found, count = fields.values.get(key), fields.size("altup_num_inputs", default=4)
    index = 0 if found is None else found
    if type(index) is not int or not 0 <= index < count:
        raise ModelError(f"{fields.name}: {key!r} = {clip(index)} of {count} streams")
    return Streams(Integer(d), count, index)


def _order(group: tuple[tuple[str, str, int, bool], list[int]]) -> tuple[int, int]:
    """Layers that make caches stand in front of those that read them."""
    (mode, *_), at = group
    return (OWN, STORES, READS).index(mode), at[0]


def _name(mode: str, kind: str, width: int, cut: bool) -> str:
    parts = (kind, mode if mode != OWN else "", "sparse" if cut else "", str(width or ""))
    return "_".join(part for part in parts if part)


def _whole(fields: Fields) -> Reading:
    """The language model of the files that also see and hear; what is left out is said."""
    return _text(part_of(fields, "gemma3n_text"))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"gemma3n_text": _text, "gemma3n": _whole})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Gemma3nForCausalLM": "gemma3n_text", "Gemma3nForConditionalGeneration": "gemma3n"}
)
