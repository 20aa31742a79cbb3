"""Mistral Large 4: chosen rows of latent vectors, layers without rotation, Pixtral's eyes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.mla import ONE, TABLE
from costgraph.models.blocks.stack import Segment, Stack, Uneven, close, embed, run
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tempered import LOGS, TemperedIndexed, TemperedSelected
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.deepseek import chosen_of, indexer_kinds, latent_attention_of
from costgraph.models.families.experts import (
    corrected_route,
    crossed,
    ends_of,
    feed_forward_of,
    layers_of,
    numbers_of,
    shared_experts,
)
from costgraph.models.families.patched import mistral3_eyes
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing, with_images
from costgraph.ops.maps import Map
from costgraph.ops.views import Beside
from costgraph.symbols import q


@dataclass(frozen=True)
class TemperedDecoder(Uneven):
    """A decoder whose layers share logarithms of positions and rotations, made once a step.

    Attributes:
        segments: its layers.
        rope_dim: rotated width, whose frequencies ``f`` are ``f·exp(a)`` with a learned ``a``.
    """

    segments: tuple[Segment, ...]
    rope_dim: Expr

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``; of a prompt with images where asked."""
        m = Maker(name, style)
        hidden, embedding = embed(m, self.ends)
        if images:
            hidden = with_images(m, hidden)
        places = m.source(Tensor("positions", (q, ONE), style.acts))
        counted = Tensor("counted_positions", (q, ONE, ONE), style.acts)  # from one on
        half = self.rope_dim / 2
        usual = m.source(Tensor("frequencies", (half,), style.acts))
        learned = m.add("rope_exp", Map("exp"), m.vector("rope_alpha", half))
        turns = m.add("rope_frequencies", Map("mul"), usual, learned)
        angles = m.add("rope_angles", Map("mul"), places, turns)
        both = (m.add(f"rope_{part}", Map(part), angles) for part in ("cos", "sin"))
        logs = m.add("log_places", Map("log"), m.source(counted))
        given = {TABLE: m.add(TABLE, Beside(1), *both), LOGS: logs}
        hidden = run(m, self.segments, hidden, **given)
        return m.build(close(m, self.ends, hidden, embedding))


#: What follows the name of a kind of layers that rotate nothing.
STILL = "_still"


def _turned(fields: Fields) -> list[bool]:
    """Whether each layer rotates queries and keys: all but each fourth."""
    count = layers_of(fields)
    step = fields.size("no_rope_layer_interval", default=4)
    found = numbers_of(fields, "no_rope_layers")
    if not found:
        return [(i + 1) % step != 0 for i in range(count)]
    if len(found) < count or any(n not in (0, 1) for n in found):
        raise ModelError(
            f"{fields.name}: 'no_rope_layers' = {clip(found)}: 1 (rotates) or 0 for each of "
            f"{count} layers"
        )
    return [n == 1 for n in found[:count]]


def _apart(fields: Fields) -> None:
    """Refuses layers that attend latent vectors of another layer."""
    count = layers_of(fields)
    found = numbers_of(fields, "kv_source_layers")
    if found and found != list(range(count)):
        raise ModelError(
            f"{fields.name}: 'kv_source_layers' = {clip(found)}: layers that read the latent "
            "vectors of others are not known in this family"
        )


def _text(fields: Fields) -> Reading:
    """The language model, with logits; its class alone has none."""
    _apart(fields)
    listed = fields.values.get("layer_types")
    if listed is not None and listed != ["indexed_attention"] * layers_of(fields):
        raise ModelError(f"{fields.name}: 'layer_types': only 'indexed_attention' is known")
    for key in ("num_key_value_heads", "head_dim", "output_router_logits"):
        fields.values.get(key)  # as many as queries have; what the class overwrites; a result more
    plain = latent_attention_of(fields)
    if plain.q_rank is not None:
        raise ModelError(f"{fields.name}: 'q_lora_rank': latent queries are not in this family")
    still = replace(plain, nope_dim=plain.nope_dim + plain.rope_dim, rope_dim=Integer(0))
    most = Integer(fields.size("index_topk", default=2048))
    heads = Integer(fields.size("index_n_heads", default=32))
    width = Integer(fields.size("index_head_dim", default=128))
    mixers: dict[str, Block] = {}
    for end, base in (("", plain), (STILL, still)):
        mixers[f"full{end}"] = TemperedIndexed(
            **vars(base), most=most, index_heads=heads, index_dim=width
        )
        mixers[f"shared{end}"] = TemperedSelected(**vars(base), most=most)
    named = fields.with_defaults(first_k_dense_replace=1)
    pairs = zip(indexer_kinds(fields), _turned(fields), strict=True)
    kinds = [kind if turned else kind + STILL for kind, turned in pairs]
    dense = feed_forward_of(named, named.size("intermediate_size"))
    route = replace(corrected_route(named), score="softmax", correction=False, normalise=True)
    experts = shared_experts(named, dense, route)
    ends = ends_of(fields, logit_cap=fields.values.get("final_logit_softcapping", 30.0) is not None)
    made = crossed(named, mixers, kinds, dense, experts, ends, ahead=None)
    assert isinstance(made.model, Stack)
    model = TemperedDecoder(ends, made.model.segments, plain.rope_dim)
    index = mixers["full"]
    assert isinstance(index, TemperedIndexed)
    return replace(made, model=model, assumptions=(*made.assumptions, chosen_of(index)))


#: What Pixtral's tower has where the file of a whole model does not say it.
_EYES = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 1540,
    "hidden_act": "silu",
}


def _seeing(fields: Fields) -> Reading:
    """Mistral 3's eyes in front of it."""
    reading = _text(part_of(fields, "mistral_large4_text", tied=False))
    assert isinstance(reading.model, TemperedDecoder)
    eyes = mistral3_eyes(fields, reading.model.ends.d, _EYES)
    return Reading(Seeing(eyes, reading.model), assumptions=reading.assumptions)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"mistral_large4": _seeing, "mistral_large4_text": _text}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"MistralLarge4ForConditionalGeneration": "mistral_large4"}
)
