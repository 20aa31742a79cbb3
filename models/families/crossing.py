"""Language models whose own layers attend to images: Llama 3.2 Vision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Layer, Norm, Stack, arranged
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.crossing import Crossing, CrossSeeing, Gated, TileTower
from costgraph.models.families.common import Family, Reading, activation_of, layer_count
from costgraph.models.families.llama import llama_like
from costgraph.models.families.vision import grid_of, pixels
from costgraph.models.fields import Fields, divided
from costgraph.symbols import G

#: Shapes of images, in tiles, where the file lists none.
RATIOS = 8
#: Rows of the embedding table for the image's own token and for filling up.
UNSAID = 8


def _numbers(fields: Fields, key: str, below: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Rising numbers of layers under ``key``."""
    given = fields.values.get(key)
    found = list(default) if given is None else given
    whole = isinstance(found, list) and all(type(i) is int and 0 <= i < below for i in found)
    if not whole or found != sorted(set(found)):
        raise ModelError(f"{fields.name}: {key!r} = {clip(given)}: rising numbers below {below}")
    return tuple(found)


def _tower(seen: Fields) -> TileTower:
    d = seen.size("hidden_size", default=1280)
    heads = seen.size("attention_heads", "num_attention_heads", default=16)
    width = divided(seen, d, heads, "vision width over heads")
    layers = seen.size("num_hidden_layers", default=32)
    size, patch = pixels(seen, 448), seen.size("patch_size", default=14)
    grid_of(seen, size, patch)
    act = activation_of(seen, "hidden_act", default="gelu")
    ratios = seen.values.get("supported_aspect_ratios")
    if ratios is not None and not isinstance(ratios, list):
        raise ModelError(f"{seen.name}: 'supported_aspect_ratios' must be a list")
    tower = TileTower(
        patches=Patches(
            Integer(d),
            Integer(seen.size("num_channels", default=3)),
            (Integer(patch), Integer(patch)),
            bias=False,
        ),
        at=Heads(Integer(d), Integer(heads), width),
        feed=FeedForward(
            Integer(d),
            Integer(seen.size("intermediate_size", default=5120)),
            act,
            gated=False,
            bias=True,
        ),
        layers=layers,
        gated=seen.size("num_global_layers", default=8),
        size=size,
        tiles=seen.size("max_num_tiles", default=4),
        ratios=RATIOS if ratios is None else len(ratios),
        taken=_numbers(seen, "intermediate_layers_indices", layers, (3, 7, 15, 23, 30)),
    )
    if Integer(seen.size("vision_output_dim", default=7680)) != tower.out:
        raise ModelError(f"{seen.name}: 'vision_output_dim' must be {tower.out}")
    return tower


def _mllama(fields: Fields) -> Reading:
    text, norm = fields.section("text_config"), Norm()
    text.require("model_type", "mllama_text_model")
    plain = llama_like(text, activation="silu")
    stack, d = plain.stack(), plain.d
    at = Heads(d, plain.heads, plain.head_dim, kv_heads=plain.kv_heads)
    count = layer_count(text)
    places = _numbers(text, "cross_attention_layers", count, (3, 8, 13, 18, 23, 28, 33, 38))
    if not places:
        raise ModelError(f"{text.name}: 'cross_attention_layers' names no layer")
    feed = FeedForward(d, plain.ffn, plain.activation)
    kinds = {
        "own": plain.layer(),
        "crossing": Layer(
            d, Gated(Crossing(at, G, norm), "attn_gate"), Gated(feed, "mlp_gate"), norm
        ),
    }
    names = tuple("crossing" if i in places else "own" for i in range(count))
    # The logits belong to the language model: whether they are tied is said there.
    fields.values.get("tie_word_embeddings")
    whole = Stack(replace(stack.ends, unsaid=UNSAID), arranged(d, names, kinds))
    return Reading(
        CrossSeeing(_tower(fields.section("vision_config")), whole, at, len(places), norm)
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"mllama": _mllama})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"MllamaForConditionalGeneration": "mllama"})
