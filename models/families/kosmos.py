"""Kosmos-2: a decoder with norms inside its blocks, behind CLIP's tower and queries."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Product, Steps, UnitLength
from costgraph.models.blocks.resampler import Latent
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    biases,
    plain_decoder,
    tied_as_whole,
)
from costgraph.models.families.language import before
from costgraph.models.families.vision import clip_tower
from costgraph.models.fields import Fields


def _decoder(text: Fields, tied: bool) -> Decoder:
    """Magneto's layers (arXiv 2210.06423): norms in front of blocks and inside them."""
    named = text.renamed(
        embed_dim="hidden_size", layers="num_hidden_layers", attention_heads="num_attention_heads"
    )
    d, heads = named.size("embed_dim", default=2048), named.size("attention_heads", default=32)
    text.refuse("add_cross_attention", "cross-attention is not supported in this family")
    return plain_decoder(
        text.with_defaults(vocab_size=65037),
        d,
        heads,
        text.size("ffn_dim", default=8192),
        layers=Integer(named.size("layers", default=24)),
        activation=activation_of(text, "activation_function", default="gelu"),
        **biases(True),
        fixed=True,
        inner_norms=True,
        embed_scale=text.flag("scale_embedding", True),
        tied=tied,
    )


def _kosmos2(fields: Fields) -> Reading:
    """A grounded description of an image (arXiv 2306.14824)."""
    inner = fields.section("text_config")
    # Whole and part are classes that each tie the same logits where their own key says so.
    own = inner.flag("tie_word_embeddings", True)
    whole = tied_as_whole(fields, inner, default=True).flag("tie_word_embeddings", True)
    if own and not whole:
        fields.tell(
            "'tie_word_embeddings' = false of the whole file is not followed: the class of its "
            "language model ties the logits all the same, as its own key or default says"
        )
    text = _decoder(inner, own or whole)
    seen = fields.section("vision_config").with_defaults(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    )
    tower, stack = clip_tower(seen), text.stack()
    latent = Latent(
        queries=Integer(fields.size("latent_query_num", default=64)),
        positions=tower.patches.count(tower.size),
        at=Heads(text.d, text.heads, text.head_dim, True, True, True),
    )
    steps: Steps = (UnitLength(), Product("dense", text.d), latent)
    eyes = FixedTower(tower, steps, text.d, normed=True, classed=True).whole
    return before(stack, Reading(text), eyes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"kosmos-2": _kosmos2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"Kosmos2ForConditionalGeneration": "kosmos-2"})
