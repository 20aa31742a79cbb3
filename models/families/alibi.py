"""Families of the time of linear biases: BLOOM, MPT, Falcon."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    biases,
    class_of,
    plain_decoder,
)
from costgraph.models.fields import Fields, divided


def _bloom(fields: Fields) -> Reading:
    d = fields.size("hidden_size", "n_embed")
    heads = fields.size("n_head", "num_attention_heads")
    model = plain_decoder(
        fields,
        d,
        heads,
        4 * d,
        layers=Integer(fields.size("n_layer", "num_hidden_layers")),
        activation="gelu_tanh",
        **biases(True),
        alibi=True,
        embed_norm=True,
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=True,
    )
    # Taking the residual from the normalised state moves no other amount.
    fields.flag("apply_residual_connection_post_layernorm", False)
    return Reading(model)


def _linear(fields: Fields, attention: Fields) -> bool:
    """Whether an MPT whose file does not say so has linear biases instead of a table of positions.

    MPT's own code has a table then; the class of transformers has linear biases, always.
    """
    linear = not (class_of(fields.values) or "").startswith("MPT")
    if attention.values.get("alibi") is None:
        made = "linear biases of positions are counted, as transformers' class has them"
        table = "a table of positions is counted, as MPT's own code makes it"
        other = "MPT's own code has a table" if linear else "transformers' class has linear biases"
        fields.tell(f"{made if linear else table}: the file says nothing of 'alibi', and {other}")
    return linear


def _mpt(fields: Fields) -> Reading:
    d = fields.size("d_model", "hidden_size")
    heads = fields.size("n_heads", "num_attention_heads")
    found = fields.values.get("attn_config")
    attention = Fields(fields.name, {}) if found is None else fields.section("attn_config")
    attention.refuse("prefix_lm", "prefix attention is not supported in this family")
    attention.refuse("attn_uses_sequence_id", "packed sequences are not supported in this family")
    kind = attention.word("attn_type", default="multihead_attention")
    kv_heads = {
        "multihead_attention": heads,
        "multiquery_attention": 1,
        "grouped_query_attention": attention.size("kv_n_heads", default=heads),
    }.get(kind)
    if kv_heads is None or heads % kv_heads:
        raise ModelError(f"{fields.name}: attention {kind!r} with {heads} heads is not understood")
    alibi = attention.flag("alibi", _linear(fields, attention))
    if not alibi and (class_of(fields.values) or "").startswith("Mpt"):
        raise ModelError(f"{fields.name}: 'alibi' = False: the class always has linear biases")
    learned = not alibi and fields.flag("learned_pos_emb", True)
    bias = not fields.flag("no_bias", True)
    ratio = fields.values.get("expansion_ratio")
    if ratio is None:
        ratio = 4
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1000:
        raise ModelError(f"{fields.name}: 'expansion_ratio' must be a number")
    model = plain_decoder(
        fields,
        d,
        heads,
        int(d * ratio),
        layers=Integer(fields.size("n_layers", "num_hidden_layers")),
        kv_heads=Integer(kv_heads),
        activation="gelu",
        norm_bias=bias,
        **biases(bias),
        alibi=alibi,
        clip=attention.number("clip_qkv", 0.0) != 0,
        qk_norm=attention.flag("qk_ln", False),
        qk_norm_over="all",
        positions=Integer(fields.size("max_seq_len")) if learned else None,
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=not attention.flag("qk_ln", False),
    )
    return Reading(model)


def _falcon(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads", "n_head")
    new = fields.flag("new_decoder_architecture", False)
    multi_query = fields.flag("multi_query", True)
    stated = fields.size("num_kv_heads", "n_head_kv", default=heads)
    kv_heads = stated if new else 1 if multi_query else heads
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name}: {heads} heads are not a multiple of 'num_kv_heads' = {kv_heads}"
        )
    alibi = fields.flag("alibi", False)
    parallel = new or fields.flag("parallel_attn", True)
    bias = fields.flag("bias", False)
    dh = divided(fields, d, heads, "hidden size over heads")
    # The new architecture has a norm for each of both blocks, unless it says one.
    norms = fields.size("num_ln_in_parallel_attn", default=2 if new else 1)
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("ffn_hidden_size", default=4 * d),
        layers=Integer(fields.size("num_hidden_layers", "n_layer")),
        kv_heads=Integer(kv_heads),
        activation=activation_of(fields, "activation", default="gelu"),
        **biases(bias),
        rotary=None if alibi else dh,
        alibi=alibi,
        parallel=parallel,
        shared_norm=norms == 1,
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=True,
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bloom": _bloom,
        "mpt": _mpt,
        "falcon": _falcon,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "BloomForCausalLM": "bloom",
        "MPTForCausalLM": "mpt",
        "MptForCausalLM": "mpt",
        "FalconForCausalLM": "falcon",
    }
)
