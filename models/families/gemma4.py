"""Gemma 4: layers that read caches of earlier ones, inputs of each layer's own, experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Experts, FeedForward, Maker, Norm, Style
from costgraph.models.blocks.altup import StreamLayer, Streams
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import FlatEars, FlatEyes, PatchTower
from costgraph.models.blocks.perlayer import SharingAttention, SharingLayer
from costgraph.models.blocks.pictures import Budget
from costgraph.models.blocks.projector import Normed, Product, Squares, Standardised, Steps
from costgraph.models.blocks.stack import Uneven, close, embed
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    kind_sizes,
    layer_types,
)
from costgraph.models.families.experts import ends_of, experts_of
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.fields import Fields, divided
from costgraph.models.multimodal import RESTS, Seeing, with_images
from costgraph.ops import Add, Embedding, Route, Scale, Split
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q

RMS = Norm()
#: How a layer comes by its keys and values: it makes them, makes them for others too, or reads
#: those that another one made.
OWN, STORES, READS = "own", "stores", "reads"


@dataclass(frozen=True)
class Places:
    """Layers of one kind: a name, the layer, and their numbers in the model."""

    name: str
    layer: SharingLayer | StreamLayer
    at: tuple[int, ...]


@dataclass(frozen=True)
class Sharing(Uneven):
    """A decoder of such layers.

    Attributes:
        kinds: layers by kind, in the order in which they can run.
        own, rows: width of each layer's own input and rows of its table, or 0; without a table it
            is made of the hidden state alone.
        streams: of a hidden state that has several, or None.
    """

    kinds: tuple[Places, ...]
    own: Expr = Integer(0)
    rows: Expr = Integer(0)
    streams: Streams | None = None

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``; of a prompt with images where asked."""
        m = Maker(name, style)
        hidden, table = embed(m, self.ends)
        if images:
            hidden = with_images(m, hidden)
        given: dict[str, str] = {}
        if self.own != 0:
            given["own_input"] = self._inputs(m, hidden)
        several = len(self.kinds) > 1
        if self.streams is not None:
            hidden = self.streams.opened(m, hidden)
        for kind in self.kinds:
            wanted = kind.layer.operands(style)
            shared = [given[t.name] if t.name in given else m.source(t) for t in wanted]
            body, count = kind.layer.graph(style), Integer(len(kind.at))
            region = Repeat(body, count, places=kind.at if several else ())
            if not kind.layer.stores:
                hidden = m.add(kind.name, region, hidden, *shared)
                continue
            store = kind.layer.attention.store
            hidden, keys, values = m.add_many(kind.name, region, hidden, *shared)
            given |= {f"{store}_keys": keys, f"{store}_values": values}
        if self.streams is not None:
            hidden = self.streams.closed(m, hidden)
        return m.build(close(m, self.ends, hidden, table))

    def _inputs(self, m: Maker, hidden: str) -> str:
        """The input of a layer ``(B, q, own)``; all have one size, and each reads its own."""
        layers = Integer(sum(len(kind.at) for kind in self.kinds))
        wide = layers * self.own
        made = m.linear("own_inputs_proj", hidden, wide, self.ends.d, split=(layers, self.own))
        made = m.norm("own_inputs_norm", m.add("own_proj_scale", Scale(), made), self.own, RMS)
        both = made if self.rows == 0 else self._looked(m, made, layers)
        flat = m.add("own_inputs_flat", Reshape((B, q, wide)), both)
        parts = ((self.own,), (wide - self.own,)) if layers > 1 else ((self.own,),)
        return m.add_many("own_inputs_part", Split(parts), flat)[0]

    def _looked(self, m: Maker, made: str, layers: Expr) -> str:
        """What the table has for words, and what the hidden state makes, added and scaled."""
        ids = m.source(Tensor("ids", (B, q), INT64))
        rows = m.weight("own_embed.weight", self.rows, layers * self.own)
        looked = m.add("own_embed", Embedding(result=m.style.acts), ids, rows)
        looked = m.add("own_embed_scale", Scale(), looked)
        (looked,) = m.add_many("own_embed_split", Split(((layers, self.own),)), looked)
        return m.add("own_inputs_scale", Scale(), m.add("own_inputs_add", Add(), made, looked))


def sharing_modes(fields: Fields, kinds: tuple[str, ...]) -> list[str]:
    """How each layer comes by its keys and values: the last ones read those of their kind."""
    shared = fields.values.get("num_kv_shared_layers") or 0
    if type(shared) is not int or not 0 <= shared < len(kinds):
        raise ModelError(
            f"{fields.name}: 'num_kv_shared_layers' = {clip(shared)} of {len(kinds)} layers"
        )
    first = len(kinds) - shared
    modes = [OWN if i < first else READS for i in range(len(kinds))]
    for kind in set(kinds[first:]):
        made = [i for i in range(first) if kinds[i] == kind]
        if not made:
            raise ModelError(
                f"{fields.name}: no layer of the kind {kind!r} makes the cache it reads"
            )
        modes[made[-1]] = STORES
    return modes


def attentions_of(fields: Fields, kinds: tuple[str, ...]) -> dict[str, SharingAttention]:
    """Attention of both kinds: heads of full layers have a size and a number of their own."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads, width = fields.size("num_key_value_heads"), fields.size("head_dim", default=256)
    wide = fields.size("global_head_dim", default=512)
    same = fields.flag("attention_k_eq_v", False)
    few = fields.size("num_global_key_value_heads", default=kv_heads) if same else kv_heads
    fields.values.get("num_global_key_value_heads")
    if fields.values.get("per_layer_config"):
        # Transformers 5 saves what differs from the keys of all layers, and nothing else.
        own = kind_sizes(fields, kinds, {FULL: ("head_dim", "num_key_value_heads")})[FULL]
        wide, few = own.get("head_dim", width), own.get("num_key_value_heads", kv_heads)
    slides = SharingAttention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=Integer(width),
        rotary=Integer(width),
        window=Integer(fields.size("sliding_window", default=512)),
        bias=fields.flag("attention_bias", False),
        table="sliding_rope_table",
        store=SLIDING,
    )
    full = replace(
        slides,
        kv_heads=Integer(few),
        head_dim=Integer(wide),
        rotary=Integer(_rotated(fields, wide)),
        window=None,
        same=same,
        table="rope_table",
        store=FULL,
    )
    return {SLIDING: slides, FULL: full}


def _rotated(fields: Fields, width: int) -> int:
    """Rotated width of full layers: a quarter, unless the file says another share."""
    nested = fields.values.get("rope_parameters")
    own = nested.get("full_attention") if isinstance(nested, Mapping) else None
    share = own.get("partial_rotary_factor", 1.0) if isinstance(own, Mapping) else 0.25
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ModelError(f"{fields.name}: 'partial_rotary_factor' = {clip(share)}")
    return int(width * share) // 2 * 2


def _text(fields: Fields) -> Reading:
    if fields.values.get("use_bidirectional_attention") == "all":
        raise ModelError(
            f"{fields.name}: 'use_bidirectional_attention' = 'all': attention in both directions "
            "is not known in this family"
        )
    d = fields.size("hidden_size")
    activation = activation_of(fields, "hidden_activation", default="gelu_pytorch_tanh")
    kinds = layer_types(fields, lambda i: (i + 1) % 6 != 0)
    kinds = (*kinds[:-1], FULL)  # as the published code: the last layer sees everything
    modes = sharing_modes(fields, kinds)
    feed = FeedForward(Integer(d), Integer(fields.size("intermediate_size")), activation)
    double = fields.flag("use_double_wide_mlp", False)
    wide = replace(feed, width=2 * feed.width) if double else feed
    key = "hidden_size_per_layer_input"
    own = Integer(0 if fields.values.get(key) == 0 else fields.size(key, default=256))
    experts = _experts(fields, activation) if fields.flag("enable_moe_block", False) else None
    for key in ("num_experts", "top_k_experts", "moe_intermediate_size"):
        fields.values.get(key)  # read where there are experts
    attentions = attentions_of(fields, kinds)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(zip(modes, kinds, strict=True)):
        groups.setdefault(pair, []).append(index)
    places = tuple(
        Places(
            f"{kind}_{mode}" if mode != OWN else kind,
            SharingLayer(
                attention=replace(attentions[kind], reads=mode == READS),
                feed=wide if mode == READS else feed,
                experts=experts,
                own=own,
                activation=activation,
                stores=mode == STORES,
            ),
            tuple(groups[mode, kind]),
        )
        for mode in (OWN, STORES, READS)
        for kind in (SLIDING, FULL)
        if (mode, kind) in groups
    )
    ends = ends_of(
        fields,
        tied=True,
        embed_scale=True,
        logit_cap=fields.values.get("final_logit_softcapping") is not None,
    )
    rows = Integer(fields.size("vocab_size_per_layer_input", default=262144))
    return Reading(Sharing(ends, places, own, rows), assumptions=(GATHERED,))


def _unified(fields: Fields) -> Reading:
    """The language model of Gemma 4's models without encoders: no inputs of layers' own."""
    return _text(fields.with_defaults(hidden_size_per_layer_input=0, sliding_window=1024))


def _experts(fields: Fields, activation: str) -> Experts:
    named = fields.with_values(num_experts_per_tok=fields.size("top_k_experts"))
    route = Route(normalise=True, scale=True)
    width = fields.size("moe_intermediate_size")
    return experts_of(
        named, width, route, "num_experts", activation=activation, learned_scale=True, packed=True
    )


def _whole(fields: Fields) -> Reading:
    """The text part of the models that also see and hear; what is left out is said."""
    inner = part_of(fields, "gemma4_text")
    most = fields.size("vision_soft_tokens_per_image", default=280)
    text = _text(inner)
    # Clipped products are not understood: then the tower is left out, which is said.
    clips = fields.glimpse("vision_config", "use_clipped_linears")
    if fields.values.get("vision_config") is None or clips:
        return text
    model = text.model
    assert isinstance(model, Sharing)
    eyes = gemma4_tower(fields.section("vision_config"), model.ends.d, most)
    if inner.values.get("use_bidirectional_attention") == "vision":
        eyes = replace(eyes, said=WITHIN)
    return replace(text, model=Seeing(eyes, model))


def _unified_whole(fields: Fields) -> Reading:
    """Gemma 4 without encoders: patches and pieces of sound through products."""
    inner = part_of(fields, "gemma4_unified_text")
    text = _unified(inner)
    model = text.model
    assert isinstance(model, Sharing)
    out = model.ends.d
    ears: tuple[FlatEars, ...] = ()
    if fields.values.get("audio_config") is not None:
        heard = fields.section("audio_config")
        samples = Integer(heard.size("audio_embed_dim", default=640))
        heard.require("output_proj_dims", int(samples))
        heard.require("audio_samples_per_token", int(samples))
        ears = (FlatEars(samples, (*_PLAIN, Product("1", out, False))),)
    if fields.values.get("vision_config") is None:
        if ears:
            raise ModelError(f"{fields.name}: a model that hears and does not see")
        return text
    eyes = _flat_eyes(fields.section("vision_config"), out)
    if inner.values.get("use_bidirectional_attention", "vision") == "vision":
        eyes = replace(eyes, said=f"{eyes.said}; {WITHIN}")
    said = (*text.assumptions, RESTS) if ears else text.assumptions
    return replace(text, model=Seeing(eyes, model, resting=ears), assumptions=said)


#: A norm without weights, in front of the product to the language model.
_PLAIN: Steps = (Normed(Norm(weight=False)),)


def _flat_eyes(seen: Fields, out: Expr) -> FlatEyes:
    """What Gemma 4 without encoders makes of a picture: one row of each square of patches."""
    side = seen.size("patch_size", default=16) * seen.size("pooling_kernel_size", default=3)
    seen.require("model_patch_size", side)
    width = Integer(seen.size("mm_embed_dim", default=3840))
    if seen.size("output_proj_dims", default=3840) != width:
        raise ModelError(f"{seen.name}: 'output_proj_dims' must be 'mm_embed_dim' = {width}")
    return FlatEyes(
        channels=Integer(3),
        patch=Integer(side),
        out=out,
        before=LAYER_NORM,
        width=width,
        behind=LAYER_NORM,
        places=Integer(seen.size("mm_posemb_size", default=1120)),
        steps=(Normed(LAYER_NORM, "place_norm"), *_PLAIN, Product("1", out, False)),
        processor=Budget(280),  # of the published processor
        said="G squares of patches of images are tokens of the prompt's S",
    )


#: What is not counted of a prompt with images.
WITHIN = (
    "in sliding layers the tokens of an image see one another in both directions in the prompt: "
    "their later pairs are not counted"
)


def gemma4_tower(seen: Fields, out: Expr, most: int) -> PatchTower:
    """The tower: norms around its blocks, tables of places, means over squares of patches."""
    seen = seen.with_defaults(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=16, num_attention_heads=12
    )
    seen.refuse("attention_bias", "biases of attention are not supported in this tower")
    d, heads = Integer(seen.size("hidden_size")), seen.size("num_attention_heads")
    kv_heads, width = (
        seen.size("num_key_value_heads", default=12),
        seen.size("head_dim", default=64),
    )
    divided(seen, heads, kv_heads, "heads over key heads")
    if width % 4:
        raise ModelError(f"{seen.name}: 'head_dim' = {width}: two places rotate a half each")
    # Left from the language model's configuration; the tower has no other layers.
    seen.values.get("global_head_dim")
    seen.values.get("default_output_length")
    side = Integer(seen.size("pooling_kernel_size", default=3))
    steps: Steps = (
        Squares(side),
        Standardised(seen.flag("standardize", False)),
        Normed(Norm(weight=False)),
        Product("1", out, False),
    )
    act = activation_of(seen, "hidden_activation", default="gelu_pytorch_tanh")
    return PatchTower(
        at=Heads(
            d,
            Integer(heads),
            Integer(width),
            rotary=Integer(width),
            kv_heads=Integer(kv_heads),
            each=RMS,
            value_norm=True,
        ),
        feed=FeedForward(d, Integer(seen.size("intermediate_size")), act),
        norm=RMS,
        layers=seen.size("num_hidden_layers"),
        channels=Integer(3),
        patch=Integer(seen.size("patch_size", default=16)),
        frames=None,
        merge=side,
        out=out,
        bias=False,
        steps=steps,
        places=Integer(seen.size("position_embedding_size", default=10240)),
        around=True,
        processor=Budget(most),
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gemma4_text": _text,
        "gemma4_unified_text": _unified,
        "gemma4": _whole,
        "gemma4_unified": _unified_whole,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Gemma4ForCausalLM": "gemma4_text",
        "Gemma4UnifiedForCausalLM": "gemma4_unified_text",
        "Gemma4ForConditionalGeneration": "gemma4",
        "Gemma4UnifiedForConditionalGeneration": "gemma4_unified",
    }
)
