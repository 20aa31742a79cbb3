"""State-space and recurrent families: Mamba, Falcon Mamba, Mamba 2, RWKV-4, xLSTM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment, Stack
from costgraph.models.blocks.mlstm import MatrixLSTM
from costgraph.models.blocks.rwkv import ChannelMix, TimeMix
from costgraph.models.blocks.scan import Mamba, Mamba2
from costgraph.models.families.common import Family, Reading, activation_of, unnamed
from costgraph.models.fields import Fields, divided


def require_silu(fields: Fields, *keys: str) -> None:
    if activation_of(fields, *keys, default="silu") != "silu":
        raise ModelError(f"{fields.name}: {keys[0]!r} must be silu in this family")


def ends_of(fields: Fields, d: int, tied: bool = False) -> Ends:
    return Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        tied=fields.flag("tie_word_embeddings", tied),
    )


def step_rank(fields: Fields, key: str, d: int) -> Integer:
    """Rank of the step size's projection; ``auto`` is a sixteenth of the hidden size."""
    if fields.values.get(key, "auto") == "auto":
        return Integer(math.ceil(d / 16))
    return Integer(fields.size(key))


def _mamba_like(fields: Fields, norms: str, tied: bool) -> Reading:
    d = fields.size("hidden_size", "d_model")
    require_silu(fields, "hidden_act")
    inner = fields.size("intermediate_size", default=fields.size("expand", default=2) * d)
    mixer = Mamba(
        d=Integer(d),
        inner=Integer(inner),
        states=Integer(fields.size("state_size", default=16)),
        rank=step_rank(fields, "time_step_rank", d),
        conv=Integer(fields.size("conv_kernel", default=4)),
        bias=fields.flag("use_bias", False),
        conv_bias=fields.flag("use_conv_bias", True),
        norms=norms,
    )
    layers = Integer(fields.size("num_hidden_layers", "n_layer"))
    layer = Layer(d=Integer(d), mixer=mixer, channel=None)
    return Reading(Stack(ends_of(fields, d, tied), (Segment("layers", layer, layers),)))


#: Keys of Mamba's own code that say how kernels are written.
_KERNELS = ("fused_add_norm", "residual_in_fp32")


def _of_its_code(fields: Fields) -> Fields:
    """A file of Mamba's own code (arXiv 2312.00752, 2405.21060) with the keys of transformers.

    Raises:
        ModelError: it has attention layers, feed-forward blocks or another kind of mixer, or
            sizes of the mixer that are not understood.
    """
    if unnamed(fields.values) is None:
        return fields
    inner = fields.section("ssm_cfg")
    second = inner.word("layer", default="Mamba1") == "Mamba2"
    inner.require("layer", *(("Mamba2",) if second else ("Mamba1", None)))
    fields.require("d_intermediate", 0, None)
    fields.refuse("attn_layer_idx", "attention between the layers is not supported")
    fields.require("rms_norm", True)
    for key in (*_KERNELS, "attn_cfg"):
        fields.values.get(key)
    d = fields.size("d_model")
    step = fields.size("pad_vocab_size_multiple", default=8)
    names = {"d_state": "state_size", "d_conv": "conv_kernel", "expand": "expand"}
    names |= _SECOND if second else {"dt_rank": "time_step_rank"}
    left = [key for key in inner.values if key not in (*names, "layer", *_STARTS)]
    if left:
        raise ModelError(f"{inner.name}: {left[0]!r} is not understood")
    own = {
        new: inner.values[old] for old, new in names.items() if inner.values.get(old) is not None
    }
    if second:
        own = {"head_dim": 64, "n_groups": 1, **own}
        wide = int(own.get("expand", 2)) * d
        own["num_heads"] = int(divided(fields, wide, int(own["head_dim"]), "width over heads"))
    return fields.with_values(
        hidden_size=d,
        num_hidden_layers=fields.size("n_layer"),
        vocab_size=_rounded(fields.size("vocab_size"), step),
        tie_word_embeddings=fields.flag("tie_embeddings", True),
        **own,
    )


#: Names of the second kind's sizes in its own code, and in transformers.
_SECOND = {"headdim": "head_dim", "ngroups": "n_groups", "chunk_size": "chunk_size"}

#: Keys of a mixer that say with which numbers its weights start.
_STARTS = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "dt_limit")


def _mamba(fields: Fields) -> Reading:
    fields = _of_its_code(fields)
    return _mamba_like(fields, "none", tied=True)


def _falcon_mamba(fields: Fields) -> Reading:
    return _mamba_like(fields, "plain", tied=True)


def _mamba2(fields: Fields) -> Reading:
    fields = _of_its_code(fields)
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    heads, width = fields.size("num_heads", default=128), fields.size("head_dim", default=64)
    expanded = fields.size("expand", default=2) * d
    if heads * width != expanded:
        raise ModelError(
            f"{fields.name}: 'num_heads' · 'head_dim' = {heads * width} "
            f"is not 'expand' · 'hidden_size' = {expanded}"
        )
    mixer = Mamba2(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=Integer(width),
        states=Integer(fields.size("state_size", default=128)),
        groups=Integer(fields.size("n_groups", default=8)),
        conv=Integer(fields.size("conv_kernel", default=4)),
        bias=fields.flag("use_bias", False),
        conv_bias=fields.flag("use_conv_bias", True),
        chunk=Integer(fields.size("chunk_size", default=256)),
    )
    layer = Layer(d=Integer(d), mixer=mixer, channel=None)
    layers = Integer(fields.size("num_hidden_layers"))
    stack = Stack(ends_of(fields, d), (Segment("layers", layer, layers),))
    return Reading(stack, scans=True)


def _rwkv(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    norm = Norm("layer", True)
    layer = Layer(
        d=Integer(d),
        mixer=TimeMix(Integer(d), Integer(fields.size("attention_hidden_size", default=d))),
        channel=ChannelMix(Integer(d), Integer(fields.size("intermediate_size", default=4 * d))),
        norm=norm,
    )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        embed_norm=norm,
        norm=norm,
        tied=fields.flag("tie_word_embeddings", False),
    )
    layers = Integer(fields.size("num_hidden_layers"))
    return Reading(Stack(ends, (Segment("layers", layer, layers),)))


def _rounded(number: float, multiple: int) -> int:
    """``number``, up to a whole ``multiple``."""
    return math.ceil(number / multiple) * multiple


def _xlstm(fields: Fields) -> Reading:
    """xLSTM (arXiv 2503.13427): a matrix memory and a gated block in each layer."""
    # The file may have either name of the two sizes.
    named = fields.renamed(hidden_size="embedding_dim", num_hidden_layers="num_blocks")
    d, count = named.size("hidden_size"), named.size("num_hidden_layers")
    named.require("embedding_dim", d, None)
    named.require("num_blocks", count, None)
    heads, bias = fields.size("num_heads", default=8), fields.flag("use_bias", False)
    mode = fields.word("weight_mode", default="single")
    if mode not in ("single", "fused"):
        raise ModelError(f"{fields.name}: 'weight_mode' = {clip(mode)}: single or fused")
    if not fields.flag("add_out_norm", True):
        raise ModelError(f"{fields.name}: 'add_out_norm' = False: the last norm is always there")
    keys, values = (
        int(d * fields.number(f"{name}_dim_factor", usual))
        for name, usual in (("qk", 0.5), ("v", 1.0))
    )
    if bias:
        raise ModelError(f"{fields.name}: 'use_bias' = True: norms with biases are not known here")
    mixer = MatrixLSTM(
        Integer(d),
        Integer(heads),
        divided(fields, keys, heads, "width of keys over heads"),
        divided(fields, values, heads, "width of values over heads"),
        fused=mode == "fused",
        chunk=Integer(fields.size("chunk_size", default=64)),
    )
    wide = _rounded(
        d * fields.number("ffn_proj_factor", 2.667),
        fields.size("ffn_round_up_to_multiple_of", default=64),
    )
    # Kernels, formats of their numbers, and numbers of caps.
    for key in ("chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "return_last_states",
                "autocast_kernel_dtype", "inference_state_dtype", "gate_soft_cap", "eps",
                "output_logit_soft_cap", "max_inference_chunksize",
                "norm_reduction_force_float32"):  # fmt: skip
        fields.values.get(key)
    layer = Layer(
        d=Integer(d),
        mixer=mixer,
        channel=FeedForward(Integer(d), Integer(wide), "silu", fused_gate_up=mode == "fused"),
    )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        logit_cap=True,
    )
    fields.values.get("tie_word_embeddings")  # the class has a projection of its own
    return Reading(Stack(ends, (Segment("layers", layer, Integer(count)),)), scans=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mamba": _mamba,
        "falcon_mamba": _falcon_mamba,
        "mamba2": _mamba2,
        "rwkv": _rwkv,
        "xlstm": _xlstm,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MambaForCausalLM": "mamba",
        "FalconMambaForCausalLM": "falcon_mamba",
        "Mamba2ForCausalLM": "mamba2",
        "RwkvForCausalLM": "rwkv",
        "xLSTMForCausalLM": "xlstm",
    }
)
