"""Phi-4-multimodal: Phi-3's layers behind SigLIP's tower, and a conformer that hears."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Stack
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Acted, Averaged, Ended, Product, Steps
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.llama import FAMILIES as LLAMA
from costgraph.models.families.multimodal import stack_of
from costgraph.models.families.seeing import CUT, siglip_tower
from costgraph.models.fields import Fields, divided
from costgraph.models.multimodal import RESTS, Seeing
from costgraph.models.phi4_audio import PhiEars, PhiLayer


def _eyes(seen: Fields, out: Integer) -> FixedTower:
    """SigLIP's tower in front of its last layer; squares of patches are averaged."""
    seen = seen.with_defaults(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
    )
    seen.require("feature_layer", -2)
    tower = siglip_tower(seen)
    grid = tower.grid
    if any(n % 2 for n in grid):
        raise ModelError(f"{seen.name}: a grid of {grid[0]} x {grid[1]}: even numbers of patches")
    seen.values.get("crop_size")  # of the image processor
    steps: Steps = (
        Averaged(grid, (Integer(2), Integer(2))),
        Ended(("global_row", "line_row"), tower.at.d),
        Product("up", out),
        Acted("gelu"),
        Product("down", out),
    )
    return FixedTower(tower, steps, out, late=1, said=CUT)


def _ears(heard: Fields, out: Integer) -> PhiEars:
    d, heads = (
        heard.size("hidden_size", default=1024),
        heard.size("num_attention_heads", default=16),
    )
    width = divided(heard, d, heads, "hidden size over heads")
    for key in ("ext_pw_out_channel", "depthwise_separable_out_channel"):
        if heard.size(key, default=1024) != d:
            raise ModelError(f"{heard.name}: {key!r} must be the width of the sequence, {d}")
    heard.require("downsample_rate", 1)
    reduction = heard.size("time_reduction", default=8)
    halvings = reduction.bit_length() - 1
    if 2**halvings != reduction:
        raise ModelError(f"{heard.name}: 'time_reduction' = {reduction} is no power of two")
    act = activation_of(heard, "conv_activation", default="silu")
    if activation_of(heard, "conv_glu_type", default="silu") != act:
        raise ModelError(f"{heard.name}: 'conv_glu_type' must be 'conv_activation'")
    if activation_of(heard, "nemo_activation", default="relu") != "relu":
        raise ModelError(f"{heard.name}: 'nemo_activation' must be 'relu'")
    most, same = heard.size("bias_max_distance", default=1000), heard.flag("bias_symmetric", False)
    for key in ("chunk_size", "left_chunk", "feature_layer"):
        heard.values.get(key)  # masks, and a layer that the class does not read
    mels = bands = heard.size("input_size", default=80)
    for _ in range(halvings):
        bands = (bands + 1) // 2
    if heard.size("nemo_final_size", default=bands) != bands:
        raise ModelError(f"{heard.name}: 'nemo_final_size' must be {bands}: {mels} bands, halved")
    feed = FeedForward(
        Integer(d),
        Integer(heard.size("intermediate_size", default=1536)),
        activation_of(heard, "activation", default="silu"),
        bias=True,
        fused_gate_up=True,
    )
    layer = PhiLayer(
        Heads(Integer(d), Integer(heads), width, True, True, True),
        feed,
        heard.size("kernel_size", default=3),
        act,
        heard.size("depthwise_multiplier", default=1),
    )
    return PhiEars(
        mels=mels,
        channels=Integer(heard.size("nemo_conv_channels", default=1024)),
        halvings=halvings,
        layer=layer,
        layers=Integer(heard.size("num_blocks", default=24)),
        distances=Integer(most if same else 2 * most),
        out=out,
    )


#: What the language model has where a file is silent.
_TEXT: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 200064,
    }
)


def _text(fields: Fields, **defaults: Any) -> Stack:
    named = fields.with_defaults(**_TEXT, **defaults)
    return stack_of(fields, LLAMA["phi3"](named))


def _phi4(fields: Fields) -> Reading:
    """As transformers writes it: adapters of the senses are files beside it."""
    stack = _text(fields)
    d = stack.ends.d
    assert isinstance(d, Integer)
    model = Seeing(
        _eyes(fields.section("vision_config"), d),
        stack,
        resting=(_ears(fields.section("audio_config"), d),),
    )
    return Reading(model, assumptions=(RESTS,))


def _adapters(fields: Fields, stack: Stack) -> str:
    """What the adapters of each sense hold, which are not counted."""
    layer: Any = stack.segments[0].layer
    at, fed = layer.mixer, layer.channel
    inner = at.heads * at.head_dim
    sums = (
        at.d + inner + 2 * at.kv_heads * at.head_dim,
        inner + at.d,
        at.d + 2 * fed.width,
        fed.width + at.d,
    )
    told = []
    for key, sense in (("vision_lora", "images"), ("speech_lora", "sound")):
        beside = fields.section(key)
        rank = beside.size("r")
        for other in ("lora_alpha", "dp"):
            beside.values.get(other)
        places = beside.word("layer")
        if any(name not in places for name in ("qkv", "gate_up", "down")):
            raise ModelError(f"{beside.name}: 'layer' = {clip(places)}: only all four products")
        count = rank * sum(int(s) for s in sums) * int(stack.segments[0].count)
        told.append(f"{sense} of rank {rank} ({count:,} parameters)")
    return (
        f"adapters for {' and '.join(told)} are left out, in time and memory; the pass 'adapters' "
        "adds such"
    )


#: What the publisher's code makes of tokens of each sense.
_EMBEDDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "audio_embd_layer": {
            "embedding_cls": "audio",
            "projection_cls": "mlp",
            "compression_rate": 8,
            "downsample_rate": 1,
            "use_conv_downsample": False,
            "use_qformer": False,
        },
        "image_embd_layer": {
            "embedding_cls": "tune_image",
            "projection_cls": "mlp",
            "image_token_compression_cls": "avg_pool_2d",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
    }
)


def _phi4mm(fields: Fields) -> Reading:
    """The publisher's file, which names no tower: it is the one that its code builds."""
    stack = _text(fields, tie_word_embeddings=True)
    d = stack.ends.d
    assert isinstance(d, Integer)
    outer = fields.section("audio_processor")
    outer.require("name", "cascades")
    inner = outer.section("config")
    heard = inner.renamed(
        hidden_size="attention_dim",
        intermediate_size="linear_units",
        num_attention_heads="attention_heads",
    )
    nemo = inner.values.get("nemo_conv_settings")
    if isinstance(nemo, Mapping):
        heard = heard.with_values(
            nemo_conv_channels=Fields(heard.name, nemo).size("conv_channels", default=1024)
        )
    bias = inner.values.get("relative_attention_bias_args")
    if isinstance(bias, Mapping):
        most = Fields(heard.name, bias).size("t5_bias_max_distance", default=1000)
        heard = heard.with_values(bias_max_distance=most)
    expected = {"input_layer": "nemo_conv", "ext_pw_kernel_size": 1, "batch_norm": False,
                "causal": True, "bias_in_glu": True, "depthwise_seperable_out_channel":
                int(heard.size("hidden_size", default=1024))}  # fmt: skip
    for key, value in expected.items():
        inner.require(key, value)
    for key in ("cnn_layer_norm", "encoder_embedding_config", "activation_checkpointing"):
        inner.values.get(key)
    embedding = fields.section("embd_layer")
    embedding.require("embedding_cls", "image_audio")
    for part, known in _EMBEDDED.items():
        beside = embedding.section(part)
        for key, value in known.items():
            beside.require(key, value)
        for key in ("enable_gradient_checkpointing", "crop_size", "hd_transform_order"):
            beside.values.get(key)
    fields.refuse("img_processor", "another tower than that of the published code")
    eyes = _eyes(Fields(f"{fields.name}: the tower of the published code", {}), d)
    model = Seeing(eyes, stack, resting=(_ears(heard, d),))
    return Reading(model, assumptions=(RESTS, _adapters(fields, stack)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"phi4_multimodal": _phi4, "phi4mm": _phi4mm})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Phi4MultimodalForCausalLM": "phi4_multimodal", "Phi4MMForCausalLM": "phi4mm"}
)
