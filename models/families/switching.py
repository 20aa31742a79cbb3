"""Encoders with decoders whose layers hold experts: Switch Transformers and NLLB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Experts, FeedForward, Layer, Segment
from costgraph.models.blocks.pattern import gathered
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.encoders import pair_of, t5, tell_untied
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.families.translating import NLLB, read_kin
from costgraph.models.fields import Fields
from costgraph.ops import Route

CAPACITY = "no token is dropped for want of an expert's capacity"


def _mixed(reading: Reading, experts: Experts, held: Callable[[str, int, int], bool]) -> Reading:
    """The model with experts in layers of both sides, where ``held`` of side and place says so."""
    model = reading.model
    assert isinstance(model, EncoderDecoder)
    assert isinstance(model.encoder, Encoder)
    (first,) = model.encoder.segments
    assert isinstance(first.layer, Layer)
    sides: dict[str, tuple[Segment, ...]] = {}
    for side, layer, total in (
        ("encoder", first.layer, first.count),
        ("decoder", model.layer, model.layers),
    ):
        routed, count = replace(layer, channel=experts), int(total)
        sides[side] = gathered(
            (f"{side}_experts", routed) if held(side, i, count) else (side, layer)
            for i in range(count)
        )
    encoder = replace(model.encoder, segments=sides["encoder"])
    changed = replace(model, encoder=encoder, kinds=sides["decoder"])
    return replace(reading, model=changed, assumptions=(*reading.assumptions, GATHERED, CAPACITY))


def _experts(fields: Fields, model: EncoderDecoder, chosen: int, route: Route) -> Experts:
    """Experts like the feed-forward block of the model without them."""
    feed = model.layer.channel
    assert isinstance(feed, FeedForward)
    return Experts(
        d=feed.d,
        width=feed.width,
        experts=Integer(fields.size("num_experts")),
        chosen=Integer(chosen),
        route=route,
        activation=feed.activation,
        gated=False,
        bias=feed.bias,
        router_bias=fields.flag("router_bias", False),
    )


def _switch(fields: Fields) -> Reading:
    """T5 with one expert a token in some layers."""
    fields.values.get("expert_capacity")
    for key in ("add_router_probs", "router_ignore_padding_tokens", "router_dtype"):
        fields.values.get(key)  # of training, and of padding
    reading = t5(fields)
    tell_untied(fields, fields.flag("tie_word_embeddings", True))
    experts = _experts(fields, pair_of(fields, reading), 1, Route())
    steps = {side: _step(fields, side) for side in ("encoder", "decoder")}

    def held(side: str, index: int, count: int) -> bool:
        step = steps[side] or count
        return index % step == 1 or step == 1

    return _mixed(reading, experts, held)


def _step(fields: Fields, side: str) -> int | None:
    """Every so many layers have experts; None where none is said to.

    Raises:
        ModelError: two keys say different things.
    """
    key, sparse = f"{side}_sparse_step", f"num_sparse_{side}_layers"
    name = "num_layers" if side == "encoder" else "num_decoder_layers"
    count = fields.size(name, default=fields.size("num_layers"))
    found = fields.values.get(sparse, 3)
    if type(found) is not int or not 0 <= found <= count:
        raise ModelError(f"{fields.name}: {sparse!r} = {clip(found)} of {count} layers")
    step = count // found if found else None
    stated = fields.values.get(key)
    if stated is not None and step is not None and stated != step:
        raise ModelError(f"{fields.name}: {key!r} = {clip(stated)} is not {count} over {found}")
    return step


def _nllb(fields: Fields) -> Reading:
    """M2M-100 with two experts a token in some layers."""
    for key in ("expert_capacity", "moe_token_dropout", "moe_eval_capacity_token_fraction",
                "batch_prioritized_routing", "second_expert_policy", "router_dtype",
                "normalize_router_prob_before_dropping",
                "router_ignore_padding_tokens"):  # fmt: skip
        fields.values.get(key)  # which tokens an expert drops, and of training
    reading = read_kin(fields, NLLB)
    experts = _experts(fields, pair_of(fields, reading), 2, Route(normalise=True))
    if fields.size("encoder_ffn_dim") != fields.size("decoder_ffn_dim"):
        raise ModelError(f"{fields.name}: 'encoder_ffn_dim' is not 'decoder_ffn_dim'")
    steps = {side: fields.size(f"{side}_sparse_step") for side in ("encoder", "decoder")}
    return _mixed(reading, experts, lambda side, i, _: (i + 1) % steps[side] == 0)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"switch_transformers": _switch, "nllb-moe": _nllb}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "SwitchTransformersForConditionalGeneration": "switch_transformers",
        "NllbMoeForConditionalGeneration": "nllb-moe",
    }
)
