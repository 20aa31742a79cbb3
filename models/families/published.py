"""Decoders whose types transformers never had: their publishers' code reads them.

Most are a decoder of another family under another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.families.alibi import FAMILIES as ALIBI
from costgraph.models.families.common import (
    Family,
    Reading,
    biases,
    heads_of,
    plain_decoder,
)
from costgraph.models.families.deepseek import FAMILIES as DEEPSEEK
from costgraph.models.families.llama import FAMILIES as LLAMA
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields, divided


def _xverse(fields: Fields) -> Reading:
    fields.values.get("max_tokenizer_truncation")  # of the tokenizer
    return LLAMA["llama"](fields)


def _internlm(fields: Fields) -> Reading:
    """The first InternLM: a Llama whose attention has biases on all its products."""
    bias = fields.flag("bias", True)
    model = replace(llama_like(fields, activation="silu"), qkv_bias=bias, out_bias=bias)
    return Reading(model)


def _refined_web(fields: Fields) -> Reading:
    """Falcon-40B before it had a type: its two norms and key heads are not said."""
    return ALIBI["falcon"](fields.with_defaults(new_decoder_architecture=True))


def _olmo(fields: Fields) -> Reading:
    """OLMo's own code: norms without weights, one matrix for queries, keys and values.

    Raises:
        ModelError: a key makes it a model that its published checkpoints are not.
    """
    for key, usual in (("block_type", "sequential"), ("layer_norm_type", "default"),
                       ("activation_type", "swiglu"), ("layer_norm_with_affine", False),
                       ("attention_layer_norm", False), ("include_bias", False),
                       ("bias_for_layer_norm", False), ("alibi", False), ("rope", True),
                       ("multi_query_attention", False), ("scale_logits", False)):  # fmt: skip
        fields.require(key, usual)
    for key in ("attention_layer_norm_with_affine", "alibi_bias_max", "block_group_size",
                "flash_attention", "init_device", "init_fn", "precision", "n_kv_heads",
                "init_cutoff_factor", "rope_full_precision"):  # fmt: skip
        fields.values.get(key)  # of what is off, of training, or of its kernels
    d, heads = fields.size("d_model"), fields.size("n_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    # Gate and up projection are halves of one matrix as wide as this.
    both = fields.size("mlp_hidden_size", default=d * fields.size("mlp_ratio", default=4))
    vocab = fields.size("vocab_size")
    model = plain_decoder(
        fields.with_values(vocab_size=fields.size("embedding_size", default=vocab)),
        d,
        heads,
        int(divided(fields, both, 2, "gate and up projection")),
        layers=Integer(fields.size("n_layers")),
        activation="silu",
        gated=True,
        norm_bias=False,
        norm_weight=False,
        rotary=dh,
        fused_qkv=True,
        fused_gate_up=True,
        clip=fields.number("clip_qkv", 0.0) != 0,
        tied=fields.flag("weight_tying", True),
    )
    return Reading(model)


#: What the skipped blocks of every other layer leave.
_BLOCKS = (
    "attention to blocks (within {near} tokens, and every {step}th block before) counts as whole "
    "attention: exact up to {near} tokens, an upper bound beyond"
)


def _phi3small(fields: Fields) -> Reading:
    """Layer norms and biases, grouped heads, and GEGLU whose gate is the quick GELU."""
    fields.require("hidden_act", "gegelu")
    d = fields.size("hidden_size")
    heads, kv_heads, dh = heads_of(fields, d)
    if fields.values.get("ff_dim_multiplier"):
        raise ModelError(f"{fields.name}: 'ff_dim_multiplier': only 'ff_intermediate_size' is read")
    for key in ("blocksparse_homo_head_pattern", "blocksparse_triton_kernel_block_size",
                "dummy_token_indices", "gegelu_limit", "gegelu_pad_to_256", "mup_attn_multiplier",
                "mup_use_scaling", "pad_sequence_to_multiple_of_64",
                "reorder_and_upcast_attn", "dense_attention_every_n_layers"):  # fmt: skip
        fields.values.get(key)  # values, and which heads and layers see which blocks
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("ff_intermediate_size"),
        layers=Integer(fields.size("num_hidden_layers")),
        kv_heads=Integer(kv_heads),
        head_dim=dh,
        activation="quick_gelu",
        gated=True,
        **biases(True),
        rotary=dh,
        fused_qkv=True,
        fused_gate_up=True,
        embed_scale=fields.number("mup_embedding_multiplier", 10.0) != 1,
        logit_scale=fields.number("mup_width_multiplier", 8.0) != 1,
        tied=fields.flag("tie_word_embeddings", True),
    )
    near = fields.size("blocksparse_num_local_blocks") * fields.size("blocksparse_block_size")
    said = _BLOCKS.format(near=near, step=fields.size("blocksparse_vert_stride"))
    return Reading(model, assumptions=(said,))


def _deepseek(fields: Fields) -> Reading:
    """DeepSeekMoE (arXiv 2401.06066): DeepSeek-V2's experts behind Llama's attention."""
    found = fields.values.get("use_mla", False)
    if found is not False:
        raise ModelError(f"{fields.name}: 'use_mla' = {clip(found)}: latent attention is no part")
    return DEEPSEEK["deepseek_v2"](fields.with_values(use_mla=False))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "xverse": _xverse,
        "Yi": LLAMA["llama"],
        "internlm": _internlm,
        "RefinedWebModel": ALIBI["falcon"],
        "RefinedWeb": _refined_web,
        "hf_olmo": _olmo,
        "phi3small": _phi3small,
        "deepseek": _deepseek,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "XverseForCausalLM": "xverse",
        "YiForCausalLM": "Yi",
        "InternLMForCausalLM": "internlm",
        "RWForCausalLM": "RefinedWebModel",
        "OLMoForCausalLM": "hf_olmo",
        "Phi3SmallForCausalLM": "phi3small",
        "DeepseekForCausalLM": "deepseek",
    }
)
