"""Families of ``config.json``: each reads its keys into a :class:`Decoder`.

A family is a function from :class:`Fields` to a description. The table at the
end is the only list of what is supported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.decoder import Decoder
from costgraph.models.fields import Fields, divided

#: Names of activation functions in configurations, and ours.
ACTIVATION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "relu": "relu",
        "relu2": "relu2",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
    }
)


@dataclass(frozen=True)
class Reading:
    """What a family read: the model, and the context its attention is full for.

    ``window`` is the sliding window in tokens, or None without one. Up to that
    context a windowed layer attends everything, and counts are exact.
    """

    model: Decoder
    window: int | None = None


Family = Callable[[Fields], Reading]


def _activation(fields: Fields, *keys: str, default: str | None = None) -> str:
    name = fields.word(*keys, default=default)
    if name not in ACTIVATION_NAMES:
        raise ModelError(
            f"{fields.name}: unknown activation {clip(name)}{nearest(name, ACTIVATION_NAMES)}"
        )
    return ACTIVATION_NAMES[name]


def _heads(fields: Fields, d: int) -> tuple[int, int, Expr]:
    """(query heads, KV heads, head size); the head size may be given apart."""
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name}: 'num_attention_heads' = {heads} is not a multiple of "
            f"'num_key_value_heads' = {kv_heads}"
        )
    if fields.values.get("head_dim") is not None:
        return heads, kv_heads, Integer(fields.size("head_dim"))
    return heads, kv_heads, divided(fields, d, heads, "hidden size over heads")


def _llama_like(fields: Fields, tied: bool = False, activation: str | None = None) -> Decoder:
    """Pre-norm RMS, rotary, gated: what Llama, Mistral, Qwen and Gemma share."""
    d = fields.size("hidden_size")
    heads, kv_heads, dh = _heads(fields, d)
    return Decoder(
        layers=Integer(fields.size("num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=dh,
        ffn=Integer(fields.size("intermediate_size")),
        vocab=Integer(fields.size("vocab_size")),
        activation=_activation(fields, "hidden_act", default=activation),
        rotary=_rotary(fields, dh, 1.0),
        tied=fields.flag("tie_word_embeddings", tied),
    )


def _rotary(fields: Fields, dh: Expr, default: float, key: str = "partial_rotary_factor") -> Expr:
    share = fields.fraction(key, default)
    width = int(int(dh) * share)
    if width < 2 or width % 2:
        raise ModelError(f"{fields.name}: {key!r} = {share} of a head of {dh} is not an even width")
    return Integer(width)


def _llama(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        _llama_like(fields, activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )
    return Reading(model)


def _window(fields: Fields) -> int | None:
    if fields.values.get("sliding_window") is None:
        return None
    return fields.size("sliding_window")


def _mistral(fields: Fields) -> Reading:
    return Reading(_llama_like(fields, activation="silu"), _window(fields))


def _qwen2(fields: Fields) -> Reading:
    window = _window(fields) if fields.flag("use_sliding_window", False) else None
    return Reading(replace(_llama_like(fields, activation="silu"), qkv_bias=True), window)


def _qwen3(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    window = _window(fields) if fields.flag("use_sliding_window", False) else None
    model = replace(
        _llama_like(fields, activation="silu"), qk_norm=True, qkv_bias=bias, out_bias=bias
    )
    if fields.values.get("head_dim") is None:
        # The architecture's own default is 128, not hidden size over heads.
        model = replace(model, head_dim=Integer(128), rotary=Integer(128))
    return Reading(model, window)


def _gemma_like(fields: Fields) -> Decoder:
    if fields.values.get("head_dim") is None:
        raise ModelError(f"{fields.name}: missing key 'head_dim' (Gemma states it apart)")
    # The first releases name an exact GELU that the published code replaces by tanh.
    key = "hidden_activation" if fields.values.get("hidden_activation") else "hidden_act"
    activation = _activation(fields, key, default="gelu_pytorch_tanh")
    return replace(
        _llama_like(fields, tied=True, activation="gelu_pytorch_tanh"),
        activation="gelu_tanh" if activation == "gelu" else activation,
        embed_scale=True,
        qkv_bias=fields.flag("attention_bias", False),
        out_bias=fields.flag("attention_bias", False),
    )


def _gemma(fields: Fields) -> Reading:
    return Reading(_gemma_like(fields))


def _gemma2(fields: Fields) -> Reading:
    model = replace(
        _gemma_like(fields),
        post_norms=True,
        score_cap=fields.values.get("attn_logit_softcapping") is not None,
        logit_cap=fields.values.get("final_logit_softcapping") is not None,
    )
    return Reading(model, _window(fields))


def _phi3(fields: Fields) -> Reading:
    model = replace(_llama_like(fields, activation="silu"), fused_qkv=True, fused_gate_up=True)
    return Reading(model, _window(fields))


def _opt(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    bias = fields.flag("enable_bias", True)
    first = fields.flag("do_layer_norm_before", True)
    embed = fields.size("word_embed_proj_dim", default=d)
    model = Decoder(
        layers=Integer(fields.size("num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(heads),
        head_dim=divided(fields, d, heads, "hidden size over heads"),
        ffn=Integer(fields.size("ffn_dim")),
        vocab=Integer(fields.size("vocab_size")),
        activation=_activation(fields, "activation_function", default="relu"),
        gated=False,
        norm="layer",
        norm_bias=fields.flag("layer_norm_elementwise_affine", True),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        # Two extra rows: positions are offset by two in this family.
        positions=Integer(fields.size("max_position_embeddings") + 2),
        tied=fields.flag("tie_word_embeddings", True),
        norm_first=first,
        final_norm=first and not fields.flag("_remove_final_layer_norm", False),
        embed_dim=Integer(embed) if embed != d else None,
    )
    return Reading(model)


def _gpt2(fields: Fields) -> Reading:
    d = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    fields.refuse("add_cross_attention", "cross-attention is not supported in this family")
    model = Decoder(
        layers=Integer(fields.size("n_layer", "num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(heads),
        head_dim=divided(fields, d, heads, "hidden size over heads"),
        ffn=Integer(fields.size("n_inner", default=4 * d)),
        vocab=Integer(fields.size("vocab_size")),
        activation=_activation(fields, "activation_function", default="gelu_new"),
        gated=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        positions=Integer(fields.size("n_positions", "max_position_embeddings")),
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=True,
    )
    return Reading(model)


def _gptj(fields: Fields) -> Reading:
    d = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    rotary = fields.size("rotary_dim", default=int(dh))
    if rotary > dh:
        raise ModelError(f"{fields.name}: 'rotary_dim' = {rotary} exceeds the head size {dh}")
    model = Decoder(
        layers=Integer(fields.size("n_layer", "num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(heads),
        head_dim=dh,
        ffn=Integer(fields.size("n_inner", default=4 * d)),
        vocab=Integer(fields.size("vocab_size")),
        activation=_activation(fields, "activation_function", default="gelu_new"),
        gated=False,
        norm="layer",
        norm_bias=True,
        mlp_bias=True,
        head_bias=True,
        rotary=Integer(rotary),
        tied=fields.flag("tie_word_embeddings", False),
        parallel=True,
        shared_norm=True,
    )
    return Reading(model)


def _gpt_neox(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    bias = fields.flag("attention_bias", True)
    model = Decoder(
        layers=Integer(fields.size("num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(heads),
        head_dim=dh,
        ffn=Integer(fields.size("intermediate_size")),
        vocab=Integer(fields.size("vocab_size")),
        activation=_activation(fields, "hidden_act", default="gelu"),
        gated=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        rotary=_rotary(fields, dh, 0.25, "rotary_pct"),
        tied=fields.flag("tie_word_embeddings", False),
        parallel=fields.flag("use_parallel_residual", True),
        fused_qkv=True,
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _llama,
        "mistral": _mistral,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "gemma": _gemma,
        "gemma2": _gemma2,
        "phi3": _phi3,
        "opt": _opt,
        "gpt2": _gpt2,
        "gptj": _gptj,
        "gpt_neox": _gpt_neox,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "LLaMAForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "GemmaForCausalLM": "gemma",
        "Gemma2ForCausalLM": "gemma2",
        "Phi3ForCausalLM": "phi3",
        "OPTForCausalLM": "opt",
        "GPT2LMHeadModel": "gpt2",
        "GPTJForCausalLM": "gptj",
        "GPTNeoXForCausalLM": "gpt_neox",
    }
)
