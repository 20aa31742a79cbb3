"""Hybrid families: scans or recurrences beside attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import (
    Attention,
    Block,
    Ends,
    Experts,
    FeedForward,
    Layer,
    Norm,
    Stack,
)
from costgraph.models.blocks.delta import GatedAttention, GatedDeltaNet
from costgraph.models.blocks.gated import RecurrentBlock, ShortConv
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.scan import Mamba2
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
    key_heads,
    layer_count,
    next_token,
    rotary_of,
    tied_as_whole,
)
from costgraph.models.families.experts import attention_of, corrected_route, experts_of
from costgraph.models.families.state_space import ends_of, require_silu
from costgraph.models.fields import Fields, divided
from costgraph.ops import Route
from costgraph.ops.pattern import Window

GATHERED = "equal layers stand together: the order of layers changes neither time nor memory"


#: Kinds of layers as files name them: the second names are those of Transformers 5.
MAMBA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "mamba": "mamba",
        "attention": "attention",
        "linear_attention": "mamba",
        "full_attention": "attention",
    }
)


def words(fields: Fields, key: str, known: Mapping[str, str]) -> list[str]:
    """The list of layer kinds under ``key``, in our names."""
    value = fields.values.get(key)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ModelError(f"{fields.name}: {key!r} must be a list of texts, not {clip(value)}")
    for kind in value:
        if kind not in known:
            raise ModelError(
                f"{fields.name}: {key!r}: unknown kind {clip(kind)}; known: {', '.join(known)}"
            )
    layers = fields.size("num_hidden_layers", default=len(value))
    if layers != len(value):
        raise ModelError(f"{fields.name}: {key!r} has {len(value)} entries for {layers} layers")
    return [known[kind] for kind in value]


def _nemotron_pattern(fields: Fields) -> list[str]:
    """The kinds of layers: a text of letters or, since Transformers 5, a list of names."""
    if fields.values.get("layers_block_type") is not None:
        known = {**MAMBA_NAMES, "mlp": "mlp", "moe": "moe"}
        found = words(fields, "layers_block_type", known)
        letters = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
        return [letters[kind] for kind in found]
    # The class has these four layers where a file says nothing.
    pattern = fields.word("hybrid_override_pattern", default="ME*-")
    unknown = set(pattern) - set("M*-E")
    if unknown:
        raise ModelError(
            f"{fields.name}: 'hybrid_override_pattern' has {clip(min(unknown))}; "
            "known: M (Mamba 2), * (attention), - (feed-forward), E (experts)"
        )
    count = fields.size("num_hidden_layers", default=len(pattern))
    if count != len(pattern):
        raise ModelError(
            f"{fields.name}: 'hybrid_override_pattern' has {len(pattern)} entries "
            f"for {count} layers"
        )
    return list(pattern)


#: What says how many experts layers of the kind ``moe`` have: files hold it whether they have
#: such layers or not.
_EXPERTS = (
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "moe_latent_size",
    "norm_topk_prob",
    "routed_scaling_factor",
    "n_group",
    "topk_group",
)


def _nemotron_experts(fields: Fields, feed: FeedForward) -> Experts:
    """Experts without gates, and shared ones of a width of their own."""
    width = fields.size("moe_intermediate_size")
    experts = experts_of(
        fields,
        width,
        corrected_route(fields),
        "n_routed_experts",
        activation=feed.activation,
        gated=False,
    )
    if fields.values.get("moe_latent_size") is not None:
        experts = replace(experts, latent=Integer(fields.size("moe_latent_size")))
    wide = Integer(fields.size("moe_shared_expert_intermediate_size", default=7688))
    return replace(experts, shared=replace(feed, width=wide))


def _nemotron_h(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    require_silu(fields, "mamba_hidden_act")
    pattern = _nemotron_pattern(fields)
    groups = Integer(fields.size("n_groups"))
    heads = Integer(fields.size("num_attention_heads"))
    mixer = Mamba2(
        d=Integer(d),
        heads=Integer(fields.size("mamba_num_heads")),
        head_dim=Integer(fields.size("mamba_head_dim")),
        states=Integer(fields.size("ssm_state_size")),
        groups=groups,
        conv=Integer(fields.size("conv_kernel", default=4)),
        bias=fields.flag("mamba_proj_bias", False),
        conv_bias=fields.flag("use_conv_bias", True),
        chunk=Integer(fields.size("chunk_size", default=128)),
        norm_groups=groups,
    )
    bias = fields.flag("attention_bias", False)
    attention = Attention(
        d=Integer(d),
        heads=heads,
        kv_heads=Integer(key_heads(fields, int(heads))),
        head_dim=Integer(fields.size("attention_head_dim", "head_dim")),
        qkv_bias=bias,
        out_bias=bias,
    )
    feed = FeedForward(
        d=Integer(d),
        width=Integer(fields.size("intermediate_size")),
        activation=activation_of(fields, "mlp_hidden_act", default="relu2"),
        gated=False,
        bias=fields.flag("mlp_bias", False),
    )
    kinds = {
        "M": ("mamba", Layer(Integer(d), mixer, None)),
        "*": ("attention", Layer(Integer(d), attention, None)),
        "-": ("mlp", Layer(Integer(d), feed, None)),
    }
    if "E" in pattern:
        kinds["E"] = ("experts", Layer(Integer(d), _nemotron_experts(fields, feed), None))
    for key in _EXPERTS:
        fields.values.get(key)
    segments = gathered(kinds[letter] for letter in pattern)
    return Reading(Stack(ends_of(fields, d), segments), scans=True, assumptions=(GATHERED,))


def text_of(fields: Fields, tied: bool | None = None) -> Fields:
    """The language model's part of a multimodal configuration; ``tied`` as the whole's class."""
    if fields.values.get("text_config") is None:
        return fields
    return tied_as_whole(fields, fields.section("text_config"), tied)


def qwen_delta(fields: Fields, fused: bool, experts: Block | None = None) -> Reading:
    """Gated delta nets and gated attention, with a dense feed-forward block or ``experts``."""
    text = text_of(fields)
    d = text.size("hidden_size")
    require_silu(text, "hidden_act")
    if experts is None:
        text.refuse("num_experts", "experts are not supported in this family")
    heads, kv_heads, head_dim = heads_of(text, d)
    known = {"linear_attention": "delta", "full_attention": "attention"}
    if text.values.get("layer_types") is not None:
        kinds = words(text, "layer_types", known)
    else:
        every = text.size("full_attention_interval", default=4)
        layers = layer_count(text)
        kinds = ["delta" if (i + 1) % every else "attention" for i in range(layers)]
    net = GatedDeltaNet(
        d=Integer(d),
        key_heads=Integer(text.size("linear_num_key_heads")),
        key_dim=Integer(text.size("linear_key_head_dim")),
        value_heads=Integer(text.size("linear_num_value_heads")),
        value_dim=Integer(text.size("linear_value_head_dim")),
        conv=Integer(text.size("linear_conv_kernel_dim", default=4)),
        fused=fused,
    )
    shares = text.section("rope_parameters") if text.values.get("rope_parameters") else text
    attention = GatedAttention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=head_dim,
        rotary=rotary_of(shares, head_dim, 0.25),
        bias=text.flag("attention_bias", False),
    )
    feed = experts or FeedForward(Integer(d), Integer(text.size("intermediate_size")))
    mixers: dict[str, Block] = {"delta": net, "attention": attention}
    segments = gathered((kind, Layer(Integer(d), mixers[kind], feed)) for kind in kinds)
    ends, key = ends_of(text, d), "mtp_num_hidden_layers"
    # Files of Qwen3-Next hold one module and no key that says so.
    ahead = text.size(key) if text.values.get(key) else int(fused and key not in text.values)
    if text.flag("mtp_use_dedicated_embeddings", False):
        ahead = 0
    module = next_token(ends, Layer(Integer(d), attention, feed), ahead)
    return Reading(Stack(ends, segments), scans=True, assumptions=(GATHERED,), ahead=module)


def _qwen3_5(fields: Fields) -> Reading:
    return qwen_delta(fields, fused=False)


def _recurrent_gemma(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    width = fields.size("lru_width", default=d)
    pattern = words(
        Fields(fields.name, {"block_types": fields.values.get("block_types")}),
        "block_types",
        {"recurrent": "recurrent", "attention": "attention"},
    )
    layers = layer_count(fields)
    act = activation_of(fields, "hidden_activation", default="gelu_pytorch_tanh")
    head_dim = Integer(fields.size("head_dim", default=d // heads))
    recurrent = RecurrentBlock(
        d=Integer(d),
        width=Integer(width),
        heads=Integer(heads),
        conv=Integer(fields.size("conv1d_width", default=4)),
        activation=act,
    )
    if width % heads:
        raise ModelError(f"{fields.name}: 'lru_width' = {width} is not divisible by {heads} heads")
    bias = fields.flag("attention_bias", False)
    attention = Attention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(key_heads(fields, heads)),
        head_dim=head_dim,
        rotary=rotary_of(fields, head_dim, 0.5),
        qkv_bias=bias,
        out_bias=True,
        pattern=Window(Integer(fields.size("attention_window_size", default=2048))),
    )
    # The configured width counts gate and up projection together.
    feed = FeedForward(
        d=Integer(d),
        width=divided(fields, fields.size("intermediate_size"), 2, "'intermediate_size'"),
        activation=act,
        bias=True,
    )
    mixers: dict[str, Block] = {"recurrent": recurrent, "attention": attention}
    segments = gathered(
        (kind, Layer(Integer(d), mixers[kind], feed))
        for kind in (pattern[i % len(pattern)] for i in range(layers))
    )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        embed_scale=True,
        tied=fields.flag("tie_word_embeddings", True),
        logit_cap=fields.values.get("logits_soft_cap") is not None,
    )
    return Reading(Stack(ends, segments), assumptions=(GATHERED,))


def _listed_attention(fields: Fields) -> Fields:
    """The kinds of layers from the numbers of those that attend, in files without ``layer_types``.

    As in the class: where a file has neither, every layer attends.
    """
    count, key = layer_count(fields), "full_attn_idxs"
    found = fields.values.get(key) if fields.peek("layer_types") is None else ()
    numbers = list(range(count)) if found is None else found
    if not isinstance(numbers, list | tuple) or any(
        type(n) is not int or not 0 <= n < count for n in numbers
    ):
        raise ModelError(
            f"{fields.name}: {key!r} must be a list of numbers of layers below {count}, "
            f"not {clip(numbers)}"
        )
    kinds = ["full_attention" if n in numbers else "conv" for n in range(count)]
    return fields.with_defaults(layer_types=kinds)


def _lfm2(fields: Fields) -> Reading:
    fields = _listed_attention(fields)
    feed = FeedForward(Integer(fields.size("hidden_size")), Integer(_lfm2_width(fields)))
    return _convolved(fields, feed, feed, 0)


def _lfm2_moe(fields: Fields) -> Reading:
    feed = FeedForward(
        Integer(fields.size("hidden_size")), Integer(fields.size("intermediate_size"))
    )
    route = Route(
        score="sigmoid",
        normalise=fields.flag("norm_topk_prob", True),
        scale=fields.number("routed_scaling_factor", 1.0) != 1,
        correction=fields.flag("use_expert_bias", True),
    )
    experts = experts_of(fields, fields.size("moe_intermediate_size"), route, "num_experts")
    dense = fields.values.get("num_dense_layers", 2)
    if type(dense) is not int or dense < 0:
        raise ModelError(f"{fields.name}: 'num_dense_layers' must be a count, not {clip(dense)}")
    return _convolved(fields, feed, experts, dense)


def _lfm2_width(fields: Fields) -> int:
    width = fields.size("intermediate_size", "block_ff_dim")
    if fields.flag("block_auto_adjust_ff_dim", True):
        # As the published code: two thirds, a multiplier, rounded up to a multiple.
        width = 2 * width // 3
        multiplier = fields.values.get("block_ffn_dim_multiplier", 1.0)
        if multiplier is not None:
            if isinstance(multiplier, bool) or not isinstance(multiplier, (int, float)):
                raise ModelError(
                    f"{fields.name}: 'block_ffn_dim_multiplier' must be a number, "
                    f"not {clip(multiplier)}"
                )
            step = fields.size("block_multiple_of", default=256)
            width = step * -(-int(multiplier * width) // step)
    return width


def _lfm3(fields: Fields) -> Reading:
    """LFM2 with windows in some layers, gates on heads, and norms on both sides of blocks."""
    d = fields.size("hidden_size")
    bias = fields.flag("attention_bias", False)
    full = attention_of(
        fields.with_defaults(head_dim=128),
        rotary=None,
        qk_norm=Norm(),
        qkv_bias=bias,
        out_bias=bias,
        gate="head" if fields.flag("use_attention_gate", True) else "",
    )
    shares = {"sliding": 1.0, "attention": 0.5}
    nested = fields.values.get("rope_parameters")
    for kind, name in (("sliding", "sliding_attention"), ("attention", "full_attention")):
        own = nested.get(name) if isinstance(nested, Mapping) else None
        if isinstance(own, Mapping):
            shares[kind] = own.get("partial_rotary_factor", 1.0)
    turned = {
        kind: rotary_of(Fields(fields.name, {"partial_rotary_factor": share}), full.head_dim, 1.0)
        for kind, share in shares.items()
    }
    window = Window(Integer(fields.size("sliding_window", default=256)))
    mixers: dict[str, Block] = {
        "conv": ShortConv(
            Integer(d),
            Integer(fields.size("conv_L_cache", default=7)),
            fields.flag("conv_bias", False),
        ),
        "attention": replace(full, rotary=turned["attention"], table="partial_rope_table"),
        "sliding": replace(full, rotary=turned["sliding"], pattern=window),
    }
    known = {"conv": "conv", "full_attention": "attention", "sliding_attention": "sliding"}
    if fields.values.get("layer_types") is None:
        period = ("sliding", "conv", "attention", "conv")
        kinds = ["conv", *(period[i % 4] for i in range(1, layer_count(fields)))]
    else:
        kinds = words(fields, "layer_types", known)
    feed = FeedForward(Integer(d), Integer(fields.size("intermediate_size")))
    outer = fields.flag("use_sandwich_norm", True)
    segments = gathered(
        (kind, Layer(Integer(d), mixers[kind], feed, post_norms=outer)) for kind in kinds
    )
    return Reading(Stack(ends_of(fields, d, tied=True), segments), assumptions=(GATHERED,))


def _convolved(fields: Fields, dense: Block, rest: Block, first: int) -> Reading:
    """Short convolutions and attention; ``dense`` blocks in the ``first`` layers."""
    d = fields.size("hidden_size")
    heads, kv_heads, head_dim = heads_of(fields, d)
    kinds = words(fields, "layer_types", {"conv": "conv", "full_attention": "attention"})
    attention = Attention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=head_dim,
        rotary=head_dim,
        qk_norm=Norm(),
    )
    conv = ShortConv(
        Integer(d), Integer(fields.size("conv_L_cache", default=3)), fields.flag("conv_bias", False)
    )
    mixers: dict[str, Block] = {"conv": conv, "attention": attention}
    segments = gathered(
        (
            f"dense_{kind}" if i < first else kind,
            Layer(Integer(d), mixers[kind], dense if i < first else rest),
        )
        for i, kind in enumerate(kinds)
    )
    tied = fields.flag("tie_embedding", fields.flag("tie_word_embeddings", True))
    ends = replace(ends_of(fields, d, tied=True), tied=tied)
    return Reading(Stack(ends, segments), assumptions=(GATHERED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "nemotron_h": _nemotron_h,
        "qwen3_5_text": _qwen3_5,
        "recurrent_gemma": _recurrent_gemma,
        "lfm2": _lfm2,
        "lfm3": _lfm3,
        "lfm2_moe": _lfm2_moe,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "NemotronHForCausalLM": "nemotron_h",
        "Qwen3_5ForCausalLM": "qwen3_5_text",
        "RecurrentGemmaForCausalLM": "recurrent_gemma",
        "Lfm2ForCausalLM": "lfm2",
        "Lfm3ForCausalLM": "lfm3",
        "Lfm2MoeForCausalLM": "lfm2_moe",
    }
)
