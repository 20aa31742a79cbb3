"""Chameleon (arXiv 2405.09818): a language model whose words are codes of images, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.graph import Graph
from costgraph.models.blocks import Attention, Layer, Norm, Stack, Style
from costgraph.models.blocks.vqgan import GROUPS, CodeEyes
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.llama import llama_like
from costgraph.models.families.vision import MOST_ENTRIES
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

DRAWS = "reading images is counted: what makes images of codes is no part of the published class"


@dataclass(frozen=True)
class Reader(Seeing):
    """A language model that reads codes of images as words."""

    def prompt_graph(self, name: str, style: Style) -> Graph:
        """The step graph: codes are ids."""
        return self.graph(name, style)


def _widths(seen: Fields, base: int) -> tuple[int, ...]:
    """Channels of each level, from ``channel_multiplier``.

    Raises:
        ModelError: it is no list of whole numbers, or the norms have no such groups.
    """
    key = "channel_multiplier"
    found = seen.values.get(key, [1, 1, 2, 2, 4])
    if not isinstance(found, (list, tuple)) or not 0 < len(found) <= MOST_ENTRIES:
        raise ModelError(f"{seen.name}: {key!r} must be a list of levels, not {clip(found)}")
    if any(type(n) is not int or not 0 < n <= MOST_ENTRIES for n in found):
        raise ModelError(f"{seen.name}: {key!r} = {clip(found)}: whole numbers of level's widths")
    widths = tuple(base * n for n in found)
    if any(n % GROUPS for n in (base, *widths)):
        raise ModelError(f"{seen.name}: channels {clip(widths)} are no multiples of {GROUPS}")
    return widths


def _eyes(seen: Fields) -> CodeEyes:
    seen.refuse("double_latent", "twice the latent channels do not fit what follows")
    side, base = seen.size("resolution", default=512), seen.size("base_channels", default=128)
    widths = _widths(seen, base)
    if side % 2 ** (len(widths) - 1):
        raise ModelError(f"{seen.name}: 'resolution' = {side} is not halved {len(widths) - 1}x")
    kind = seen.values.get("attn_type", "vanilla")
    if kind not in ("vanilla", None):
        raise ModelError(f"{seen.name}: 'attn_type' = {clip(kind)}: vanilla or null")
    found = seen.values.get("attn_resolutions") or []
    if not isinstance(found, list) or any(type(n) is not int for n in found):
        raise ModelError(f"{seen.name}: 'attn_resolutions' must be a list of sides")
    blocks = seen.size("num_res_blocks", default=2)
    if blocks > MOST_ENTRIES:
        raise ModelError(f"{seen.name}: 'num_res_blocks' = {blocks}: at most {MOST_ENTRIES}")
    latent = Integer(seen.size("latent_channels", default=256))
    narrow = Integer(seen.size("embed_dim", default=256))
    return CodeEyes(
        channels=Integer(seen.size("in_channels", default=3)),
        side=side,
        widths=widths,
        base=base,
        blocks=blocks,
        attends=tuple(found) if kind else (),
        middle=bool(kind),
        latent=latent,
        codes=Integer(seen.size("num_embeddings", default=8192)),
        narrow=narrow,
        resting=narrow * latent + latent,
    )


def _normed(stack: Stack) -> Stack:
    """Queries and keys of every head have a norm with weights and biases of its own."""
    (segment,) = stack.segments
    layer = segment.layer
    assert isinstance(layer, Layer)
    assert isinstance(layer.mixer, Attention)
    mixer = replace(layer.mixer, qk_norm=Norm("layer", True), qk_norm_over="heads")
    return replace(stack, segments=(replace(segment, layer=replace(layer, mixer=mixer)),))


def _chameleon(fields: Fields) -> Reading:
    named = fields.with_defaults(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        vocab_size=65536,
    )  # fmt: skip
    for key in ("vocabulary_map", "model_parallel_size"):
        fields.values.get(key)  # names of words, and how the first code cut the norms of heads
    behind, bias = fields.flag("swin_norm", False), fields.flag("attention_bias", False)
    model = replace(
        llama_like(named.with_values(head_dim=None), activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        post_norms=behind,
        pre_norms=not behind,
    )
    eyes = _eyes(fields.section("vq_config"))
    return Reading(Reader(eyes, _normed(model.stack())), assumptions=(DRAWS,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"chameleon": _chameleon})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"ChameleonForConditionalGeneration": "chameleon"}
)
