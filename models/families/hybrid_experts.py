"""Hybrid families with experts or with Mamba 2 in every other respect like Llama.

Jamba, Qwen3-Next, Qwen3.5 with experts, Granite 4 hybrids and Bamba.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Attention, Block, Experts, FeedForward, Layer, Stack
from costgraph.models.blocks.beside import Beside
from costgraph.models.blocks.lightning import LightningAttention
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.scan import Mamba, Mamba2
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
    rotary_of,
    window_of,
)
from costgraph.models.families.experts import (
    attention_of,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
    numbers_of,
    uniform,
)
from costgraph.models.families.hybrid import GATHERED, MAMBA_NAMES, qwen_delta, text_of, words
from costgraph.models.families.state_space import require_silu, step_rank
from costgraph.models.fields import Fields, divided
from costgraph.ops import Route
from costgraph.ops.pattern import sliding


def _every(fields: Fields, what: str, period: int, offset: int, index: int) -> bool:
    step = fields.size(f"{what}_period", default=period)
    start = fields.values.get(f"{what}_offset", offset)
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < step:
        raise ModelError(f"{fields.name}: '{what}_offset' must be from 0 to {step - 1}")
    return index % step == start


def _jamba(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    mamba = Mamba(
        d=Integer(d),
        inner=Integer(fields.size("mamba_expand", default=2) * d),
        states=Integer(fields.size("mamba_d_state", default=16)),
        rank=step_rank(fields, "mamba_dt_rank", d),
        conv=Integer(fields.size("mamba_d_conv", default=4)),
        bias=fields.flag("mamba_proj_bias", False),
        conv_bias=fields.flag("mamba_conv_bias", True),
        norms="weighted",
    )
    width = fields.size("intermediate_size")
    mixers: dict[bool, Block] = {True: attention_of(fields, rotary=None), False: mamba}
    channels: dict[bool, Block] = {False: feed_forward_of(fields, width)}
    if fields.size("num_experts", default=16) > 1:
        defaults = fields.with_defaults(num_experts=16, num_experts_per_tok=2)
        channels[True] = experts_of(defaults, width, Route(), "num_experts")
    kinds = []
    for index in range(layers_of(fields)):
        attends = _every(fields, "attn_layer", 8, 4, index)
        routed = True in channels and _every(fields, "expert_layer", 2, 1, index)
        name = ("attention" if attends else "mamba") + ("_experts" if routed else "_mlp")
        kinds.append((name, Layer(Integer(d), mixers[attends], channels[routed])))
    # Chunks play no part: the scan of Mamba 1 has one form.
    return Reading(Stack(ends_of(fields), gathered(kinds)), assumptions=(GATHERED,))


def _qwen_experts(fields: Fields, fused: bool) -> Reading:
    text = text_of(fields)
    if text.size("decoder_sparse_step", default=1) != 1 or numbers_of(text, "mlp_only_layers"):
        raise ModelError(f"{text.name}: dense layers among those with experts are not supported")
    route = Route(normalise=text.flag("norm_topk_prob", True))
    shared = feed_forward_of(text, text.size("shared_expert_intermediate_size"))
    width = text.size("moe_intermediate_size")
    experts = experts_of(text, width, route, "num_experts", shared=shared, shared_gate=True)
    return qwen_delta(fields, fused, experts)


def _qwen3_next(fields: Fields) -> Reading:
    if fields.values.get("num_experts"):
        return _qwen_experts(fields, fused=True)
    return qwen_delta(fields, fused=True)


def qwen3_5_moe(fields: Fields) -> Reading:
    """The language model of Qwen 3.5 with experts."""
    return _qwen_experts(fields, fused=False)


def _mamba2(fields: Fields, groups: int, chunk: int) -> Mamba2:
    """Mamba 2 under the key names that Granite and Bamba share."""
    d = fields.size("hidden_size")
    inner = fields.size("mamba_expand", default=2) * d
    heads = fields.size("mamba_n_heads", default=128)
    width = inner // heads
    if fields.values.get("mamba_d_head", "auto") != "auto":
        width = fields.size("mamba_d_head")
    if heads * width != inner:
        raise ModelError(
            f"{fields.name}: 'mamba_n_heads' · 'mamba_d_head' = {heads * width} "
            f"is not 'mamba_expand' · 'hidden_size' = {inner}"
        )
    return Mamba2(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=Integer(width),
        states=Integer(fields.size("mamba_d_state", default=256)),
        groups=Integer(fields.size("mamba_n_groups", default=groups)),
        conv=Integer(fields.size("mamba_d_conv", default=4)),
        bias=fields.flag("mamba_proj_bias", False),
        conv_bias=fields.flag("mamba_conv_bias", True),
        chunk=Integer(fields.size("mamba_chunk_size", default=chunk)),
    )


def _granite_hybrid(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    kinds = words(fields, "layer_types", MAMBA_NAMES)
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    if fields.values.get("position_embedding_type") != "rope":
        attention = replace(attention, rotary=None)
    block = feed_forward_of(fields, fields.size("shared_intermediate_size"))
    shared = replace(block, fused_gate_up=True)
    channel: FeedForward | Experts = shared
    if fields.values.get("num_local_experts"):
        width = fields.size("intermediate_size")
        channel = experts_of(
            fields, width, Route(after=True), "num_local_experts", packed=True, shared=shared
        )
    mixers: dict[str, Block] = {"mamba": _mamba2(fields, 1, 256), "attention": attention}
    scaled = fields.number("residual_multiplier", 1.0) != 1
    segments = gathered(
        (kind, Layer(Integer(d), mixers[kind], channel, residual_scale=scaled)) for kind in kinds
    )
    ends = ends_of(
        fields,
        tied=True,
        embed_scale=fields.number("embedding_multiplier", 1.0) != 1,
        logit_scale=fields.number("logits_scaling", 1.0) != 1,
    )
    return Reading(Stack(ends, segments), scans=True, assumptions=(GATHERED,))


def _bamba(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    heads, kv_heads, head_dim = heads_of(fields, d)
    where = numbers_of(fields, "attn_layer_indices")
    rotary = fields.size("attn_rotary_emb", default=int(rotary_of(fields, head_dim, 0.5)))
    attention = Attention(
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=head_dim,
        rotary=Integer(rotary),
        qkv_bias=fields.flag("attention_bias", False),
        out_bias=fields.flag("attention_bias", False),
    )
    feed = replace(
        feed_forward_of(fields, fields.size("intermediate_size")),
        bias=fields.flag("mlp_bias", False),
    )
    mixers: dict[str, Block] = {"mamba": _mamba2(fields, 1, 256), "attention": attention}
    kinds = ["attention" if i in where else "mamba" for i in range(layers_of(fields))]
    segments = gathered((kind, Layer(Integer(d), mixers[kind], feed)) for kind in kinds)
    return Reading(Stack(ends_of(fields), segments), scans=True, assumptions=(GATHERED,))


def _minimax(fields: Fields) -> Reading:
    """Lightning attention and, in some layers, attention over everything; experts in each.

    Residuals start behind the norms there: the operations are those of other layers.
    """
    d = fields.size("hidden_size")
    fields.refuse("shared_intermediate_size", "shared experts are not known in this family")
    for key in ("shared_moe_mode", "postnorm"):
        fields.values.get(key)  # of shared experts; and where residuals start
    attention = attention_of(fields, pattern=sliding(window_of(fields)))
    if fields.values.get("rotary_dim") is not None:
        attention = replace(attention, rotary=Integer(fields.size("rotary_dim")))
    mixer = LightningAttention(
        d=Integer(d),
        heads=attention.heads,
        head_dim=attention.head_dim,
        activation=activation_of(fields, "hidden_act", default="silu"),
        chunk=Integer(fields.size("block_size", default=256)),
    )
    experts = experts_of(
        fields, fields.size("intermediate_size"), Route(normalise=True), "num_local_experts"
    )
    mixers: dict[str, Block] = {"mamba": mixer, "attention": attention}
    names = {"mamba": "lightning", "attention": "attention"}
    scaled = any(
        fields.number(f"{kind}_{what}_factor", 1.0) != 1
        or fields.number(f"layernorm_{old}_{what}", 1.0) != 1
        for kind, old in (
            ("full_attn", "full_attention"),
            ("linear_attn", "linear_attention"),
            ("mlp", "mlp"),
        )
        for what in ("alpha", "beta")
    )
    segments = gathered(
        (names[kind], Layer(Integer(d), mixers[kind], experts, residual_scale=scaled))
        for kind in _minimax_kinds(fields)
    )
    return Reading(Stack(ends_of(fields), segments), scans=True, assumptions=(GATHERED,))


def _minimax_kinds(fields: Fields) -> list[str]:
    """The mixer of each layer: names, or in the first files 1 for attention and 0."""
    count = layers_of(fields)
    numbers = numbers_of(fields, "attn_type_list")
    if fields.values.get("layer_types") is not None:
        return words(fields, "layer_types", MAMBA_NAMES)
    if not numbers:
        return ["attention" if i % 2 == 0 else "mamba" for i in range(count)]
    if len(numbers) != count or set(numbers) - {0, 1}:
        raise ModelError(f"{fields.name}: 'attn_type_list' must be {count} times 0 or 1")
    return ["attention" if number else "mamba" for number in numbers]


#: Falcon-H1's constants, one or a list under a key; 1 everywhere is no constant.
_MULTIPLIERS = (
    "attention_in_multiplier",
    "attention_out_multiplier",
    "key_multiplier",
    "mlp_multipliers",
    "ssm_in_multiplier",
    "ssm_multipliers",
    "ssm_out_multiplier",
)


def _falcon_h1(fields: Fields) -> Reading:
    """Attention and Mamba 2 side by side in each layer."""
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    inner = fields.size("mamba_d_ssm", default=fields.size("mamba_expand", default=2) * d)
    heads = fields.size("mamba_n_heads", default=128)
    width = divided(fields, inner, heads, "'mamba_d_ssm' over 'mamba_n_heads'")
    if fields.values.get("mamba_d_head", "auto") != "auto" and (
        fields.size("mamba_d_head") != width
    ):
        raise ModelError(f"{fields.name}: 'mamba_d_head' is not {width}, {inner} over {heads}")
    groups = Integer(fields.size("mamba_n_groups", default=1))
    outer = fields.flag("projectors_bias", False)
    bias = fields.flag("mamba_proj_bias", False)
    if bias != outer:
        raise ModelError(
            f"{fields.name}: 'mamba_proj_bias' and 'projectors_bias' differ: not supported"
        )
    mixer = Mamba2(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=width,
        states=Integer(fields.size("mamba_d_state", default=256)),
        groups=groups,
        conv=Integer(fields.size("mamba_d_conv", default=4)),
        bias=bias,
        conv_bias=fields.flag("mamba_conv_bias", True),
        chunk=Integer(fields.size("mamba_chunk_size", default=256)),
        norm_groups=groups,
        gated_norm=fields.flag("mamba_rms_norm", False),
    )
    fields.values.get("mamba_norm_before_gate")  # the order of two operations
    own = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=own, out_bias=own)
    feed = replace(
        feed_forward_of(fields, fields.size("intermediate_size")),
        bias=fields.flag("mlp_bias", False),
    )
    ends = ends_of(
        fields,
        embed_scale=fields.number("embedding_multiplier", 1.0) != 1,
        logit_scale=fields.number("lm_head_multiplier", 1.0) != 1,
    )
    layer = Layer(Integer(d), Beside(mixer, attention), feed)
    notes = () if all(_all_ones(fields.values.get(key)) for key in _MULTIPLIERS) else (_FOLDED,)
    stack = uniform(ends, layer, fields.size("num_hidden_layers"))
    return Reading(stack, scans=True, assumptions=notes)


_FOLDED = "constant multipliers inside layers are taken to be folded into the weights beside them"


def _all_ones(found: object) -> bool:
    return found is None or all(v == 1 for v in (found if isinstance(found, list) else [found]))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "jamba": _jamba,
        "qwen3_next": _qwen3_next,
        "qwen3_5_moe_text": qwen3_5_moe,
        "granitemoehybrid": _granite_hybrid,
        "bamba": _bamba,
        "falcon_h1": _falcon_h1,
        "minimax": _minimax,
        "minimax_text_01": _minimax,
        "minimax_m1": _minimax,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "JambaForCausalLM": "jamba",
        "Qwen3NextForCausalLM": "qwen3_next",
        "Qwen3_5MoeForCausalLM": "qwen3_5_moe_text",
        "GraniteMoeHybridForCausalLM": "granitemoehybrid",
        "BambaForCausalLM": "bamba",
        "FalconH1ForCausalLM": "falcon_h1",
        "MiniMaxForCausalLM": "minimax",
        "MiniMaxText01ForCausalLM": "minimax_text_01",
        "MiniMaxM1ForCausalLM": "minimax_m1",
    }
)
