"""Dense relatives of Llama: what :func:`llama_like` reads, with a few attributes changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.decoder import Decoder, Kind
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import (
    SLIDING,
    Family,
    Reading,
    alternating,
    biases,
    layer_types,
    next_token,
    window_of,
)
from costgraph.models.families.gpt import plain_norms
from costgraph.models.families.llama import FAMILIES as LLAMA
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields


def _bias_of(fields: Fields, default: bool = False) -> Decoder:
    """A Llama with its two flags for biases: ``attention_bias`` and ``mlp_bias``."""
    bias = fields.flag("attention_bias", default)
    return replace(
        llama_like(fields, activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", default),
    )


def scales_queries(fields: Fields) -> bool:
    """Whether queries are multiplied by a number per position, as in Llama 4."""
    rope = fields.values.get("rope_parameters") or fields.values.get("rope_scaling")
    return isinstance(rope, Mapping) and bool(rope.get("llama_4_scaling_beta"))


def _ministral3(fields: Fields) -> Reading:
    model = replace(
        llama_like(fields, activation="silu"),
        window=window_of(fields),
        query_scale=scales_queries(fields),
    )
    return Reading(model)


def _ministral(fields: Fields) -> Reading:
    window = window_of(fields, 4096)
    kinds = layer_types(fields, lambda i: window is not None)
    return Reading(alternating(llama_like(fields, activation="silu"), kinds, window))


def _cwm(fields: Fields) -> Reading:
    fields.refuse("attention_bias", "biases are not known in this family")
    # The first of four layers sees everything.
    kinds = layer_types(fields, lambda i: i % 4 != 0)
    return Reading(alternating(_bias_of(fields), kinds, window_of(fields, 8192)))


def _helium(fields: Fields) -> Reading:
    model = _bias_of(fields)
    if model.heads * model.head_dim != model.d:
        raise ModelError(
            f"{fields.name}: {model.heads} heads of {model.head_dim} are not as wide as "
            f"'hidden_size' = {model.d}, as the published code needs them"
        )
    return Reading(replace(model, out_bias=False))


def _seed_oss(fields: Fields) -> Reading:
    # Biases on queries, keys and values, and a flag of its own for the output.
    model = replace(
        llama_like(fields, activation="silu"),
        qkv_bias=fields.flag("attention_bias", True),
        out_bias=fields.flag("attention_out_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
    )
    return Reading(model)


def _arcee(fields: Fields) -> Reading:
    model = replace(_bias_of(fields.with_defaults(hidden_act="relu2")), gated=False)
    return Reading(model)


def _ernie(fields: Fields) -> Reading:
    model = llama_like(fields.with_defaults(head_dim=128), tied=True, activation="silu")
    return Reading(replace(model, **biases(fields.flag("use_bias", False))))


def _hunyuan(fields: Fields) -> Reading:
    fields.refuse("use_cla", "caches shared between layers are not known in this family")
    return Reading(replace(_bias_of(fields), qk_norm=fields.flag("use_qk_norm", True)))


def _apertus(fields: Fields) -> Reading:
    fields.refuse("mlp_bias", "biases of the feed-forward block are not known in this family")
    model = _bias_of(fields.with_defaults(hidden_act="xielu"))
    return Reading(replace(model, gated=False, qk_norm=fields.flag("qk_norm", True)))


def _apertus1p5(fields: Fields) -> Reading:
    """Apertus whose logits may be made for the first words alone, which are text."""
    reading = _apertus(fields.with_defaults(**APERTUS))
    vocab = fields.size("vocab_size", default=APERTUS["vocab_size"])
    shown = fields.size("output_vocab_size", default=vocab)
    model = reading.model
    assert isinstance(model, Decoder)
    if shown == vocab:
        return reading
    if model.tied or shown > vocab:
        raise ModelError(
            f"{fields.name}: 'output_vocab_size' = {shown} of {vocab} words needs a projection of "
            "its own, no wider than embeddings"
        )
    stack = model.stack()
    ends = replace(stack.ends, vocab=Integer(shown), unsaid=vocab - shown)
    return replace(reading, model=replace(stack, ends=ends))


def _apertus1p5_whole(fields: Fields) -> Reading:
    """The text part of the model whose words are codes of images and sound, too."""
    return _apertus1p5(part_of(fields, "apertus1p5_text", tied=False))


#: What the class of Apertus 1.5 has where the file says nothing.
APERTUS = {
    "vocab_size": 266752,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def _nanochat(fields: Fields) -> Reading:
    """Norms without weights, also on queries and keys; squared ReLU; capped logits."""
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, activation="relu2"),
        gated=False,
        norm_weight=False,
        qk_norm=True,
        qk_norm_weight=False,
        embed_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        logit_cap=fields.number("final_logit_softcapping", 15.0) != 0,
    )
    return Reading(model)


def _hyperclovax(fields: Fields) -> Reading:
    model = replace(
        _bias_of(fields),
        post_norms=fields.flag("use_post_norm", True),
        embed_scale=fields.number("embedding_multiplier", 1.0) != 1,
        residual_scale=fields.number("residual_multiplier", 1.0) != 1,
        logit_scale=fields.number("logits_scaling", 1.0) != 1,
    )
    return Reading(model)


def _jais2(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", True)
    model = replace(
        plain_norms(fields, "relu2"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", True),
    )
    return Reading(model)


def _internlm3(fields: Fields) -> Reading:
    # The first releases name the biases apart.
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields.with_defaults(head_dim=128), activation="silu"),
        qkv_bias=fields.flag("qkv_bias", bias),
        out_bias=fields.flag("bias", bias),
        mlp_bias=fields.flag("bias", fields.flag("mlp_bias", False)),
    )
    return Reading(model)


def _solar(fields: Fields) -> Reading:
    for key in ("bskcn_1", "bskcn_2", "bskcn_3", "bskcn_4"):
        fields.refuse(key, "connections between distant layers are not understood")
    return Reading(_bias_of(fields))


def _mimo(fields: Fields) -> Reading:
    """Qwen 2 with a module for multi-token prediction beside it."""
    fields.refuse("use_sliding_window", "windows are not known in this family")
    bias = fields.flag("attention_bias", True)
    model = replace(llama_like(fields, activation="silu"), qkv_bias=bias)
    key = "num_nextn_predict_layers"
    ahead = fields.size(key) if fields.values.get(key) else 0
    return Reading(model, ahead=next_token(model.stack().ends, model.layer(), ahead))


def _gpt_neo(fields: Fields) -> Reading:
    """Learned positions; layers that see everything, and local ones, in turns."""
    named = fields.renamed(
        num_hidden_layers="num_layers",
        num_attention_heads="num_heads",
        hidden_act="activation_function",
    )
    d = named.size("hidden_size")
    named = named.with_defaults(intermediate_size=4 * d)
    model = replace(
        plain_norms(named, "gelu_new"),
        rotary=None,
        positions=Integer(fields.size("max_position_embeddings", default=2048)),
        tied=fields.flag("tie_word_embeddings", True),
        out_bias=True,
        mlp_bias=True,
    )
    kinds = tuple(SLIDING if k == "local" else "full" for k in _neo_layers(fields, model.layers))
    return Reading(alternating(model, kinds, Integer(fields.size("window_size", default=256))))


def _neo_layers(fields: Fields, layers: object) -> list[str]:
    """``global`` or ``local`` per layer, from runs such as ``[[["global", "local"], 12]]``."""
    found = fields.values.get("attention_layers")
    runs = fields.values.get("attention_types", [[["global", "local"], 12]])
    try:
        written = [kind for kinds, count in runs for _ in range(min(count, 4096)) for kind in kinds]
    except (TypeError, ValueError):
        written = []
    kinds = written if found is None else found
    known = isinstance(kinds, list) and all(k in ("global", "local") for k in kinds)
    if not known or len(kinds) != layers:
        raise ModelError(
            f"{fields.name}: 'attention_types' = {clip(runs)} must name global or local for each "
            f"of {layers} layers"
        )
    return kinds


def _granite_swa(fields: Fields) -> Reading:
    """Granite with sinks, windows in three of four layers, and layers that do not rotate."""
    reading = LLAMA["granite"](fields)
    model = reading.model
    assert isinstance(model, Decoder)
    window = window_of(fields, 128)
    layers = swa_layers(fields)
    kinds = {
        name: Kind(
            name, (("window", window if slide else None), *(() if turn else (("rotary", None),)))
        )
        for name, slide, turn in layers
    }
    pattern = tuple(name for name, *_ in layers)
    model = replace(model, sinks=True, kinds=tuple(kinds.values()), pattern=pattern)
    return Reading(model)


def swa_layers(fields: Fields) -> list[tuple[str, bool, bool]]:
    """For each layer of a Granite with windows a name, does it slide, and does it rotate?

    Those whose base is 0 do not rotate.
    """
    kinds = layer_types(fields, lambda i: i % 4 != 0)
    bases = fields.values.get("layer_rope_theta")
    if bases is None:
        bases = [1] * len(kinds)
    valid = isinstance(bases, list) and all(
        isinstance(b, int | float) and not isinstance(b, bool) and b >= 0 for b in bases
    )
    if not valid or len(bases) != len(kinds):
        raise ModelError(f"{fields.name}: 'layer_rope_theta' must be a list of {len(kinds)} bases")
    return [
        (kind if base else f"{kind}_plain", kind == SLIDING, base != 0)
        for kind, base in zip(kinds, bases, strict=True)
    ]


def _cosmos(fields: Fields) -> Reading:
    return Reading(replace(_bias_of(fields.with_defaults(hidden_act="relu2")), gated=False))


def _bitnet(fields: Fields) -> Reading:
    """Norms in front of the last projection of each block; weights of three values come apart."""
    model = _bias_of(fields.with_defaults(hidden_act="relu2"))
    if model.heads * model.head_dim != model.d:
        raise ModelError(f"{fields.name}: all heads together must be as wide as 'hidden_size'")
    return Reading(replace(model, inner_norms=True))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "ministral3": _ministral3,
        "ministral": _ministral,
        "cwm": _cwm,
        "helium": _helium,
        "seed_oss": _seed_oss,
        "arcee": _arcee,
        "ernie4_5": _ernie,
        "hunyuan_v1_dense": _hunyuan,
        "apertus": _apertus,
        "apertus1p5_text": _apertus1p5,
        "apertus1p5": _apertus1p5_whole,
        "nanochat": _nanochat,
        "hyperclovax": _hyperclovax,
        "jais2": _jais2,
        "internlm3": _internlm3,
        "iquestcoder": lambda fields: Reading(_bias_of(fields)),
        "solar": _solar,
        "mimo": _mimo,
        "gpt_neo": _gpt_neo,
        "granite_swa": _granite_swa,
        "bitnet": _bitnet,
        "cosmos3_edge_text": _cosmos,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Ministral3ForCausalLM": "ministral3",
        "MinistralForCausalLM": "ministral",
        "CwmForCausalLM": "cwm",
        "HeliumForCausalLM": "helium",
        "SeedOssForCausalLM": "seed_oss",
        "ArceeForCausalLM": "arcee",
        "Ernie4_5ForCausalLM": "ernie4_5",
        "Ernie4_5_ForCausalLM": "ernie4_5",
        "HunYuanDenseV1ForCausalLM": "hunyuan_v1_dense",
        "ApertusForCausalLM": "apertus",
        "Apertus1p5TextForCausalLM": "apertus1p5_text",
        "Apertus1p5ForConditionalGeneration": "apertus1p5",
        "NanoChatForCausalLM": "nanochat",
        "HyperCLOVAXForCausalLM": "hyperclovax",
        "Jais2ForCausalLM": "jais2",
        "InternLM3ForCausalLM": "internlm3",
        "IQuestCoderForCausalLM": "iquestcoder",
        "SolarForCausalLM": "solar",
        "MiMoForCausalLM": "mimo",
        "GPTNeoForCausalLM": "gpt_neo",
        "GraniteSWAForCausalLM": "granite_swa",
        "BitNetForCausalLM": "bitnet",
        "BitnetForCausalLM": "bitnet",
    }
)
