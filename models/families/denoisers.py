"""Diffusion models of images: DiT, Flux, Stable Diffusion's U-Net, Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.denoise import ClassTransformer, Flux, StableDiffusion3
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.vision import pixels, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.unet import Level, UNet

#: Transformer layers and blocks per level that are believed.
MOST_LAYERS = 256


def _heads(fields: Fields, d: int, heads: int) -> Heads:
    return Heads(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=divided(fields, d, heads, "hidden size over heads"),
        qv_bias=True,
        k_bias=True,
        out_bias=True,
    )


def _dit(fields: Fields) -> Reading:
    d = fields.size("hidden_size", default=1152)
    at = _heads(fields, d, fields.size("num_heads", default=16))
    width = Rational(str(fields.number("mlp_ratio", 4.0))) * d
    if not (width.is_Integer and width > 0):
        raise ModelError(f"{fields.name}: 'mlp_ratio' of {d} gives no whole width")
    size = pixels(fields, 32, "input_size")
    patch, channels = fields.size("patch_size", default=2), fields.size("in_channels", default=4)
    if any(int(n) % patch for n in size):
        raise ModelError(f"{fields.name}: 'input_size' is not a multiple of 'patch_size' = {patch}")
    grid = (int(size[0]) // patch) * (int(size[1]) // patch)
    # One more row stands for no class, where training dropped classes.
    empty = fields.number("class_dropout_prob", 0.1) > 0
    model = ClassTransformer(
        # The positions are fixed sines, kept as a parameter of the published class.
        patches=Patches(Integer(d), Integer(channels), (Integer(patch),) * 2, rows=Integer(grid)),
        at=at,
        feed=FeedForward(Integer(d), width, "gelu_tanh", gated=False, bias=True),
        layers=Integer(fields.size("depth", default=28)),
        size=size,
        classes=Integer(fields.size("num_classes", default=1000) + empty),
        out=Integer(channels * (2 if fields.flag("learn_sigma", True) else 1)),
    )
    return Reading(model)


def _flux(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=24)
    width = fields.size("attention_head_dim", default=128)
    axes = sizes(fields, "axes_dims_rope", (16, 56, 56))
    if sum(axes) != width:
        raise ModelError(f"{fields.name}: 'axes_dims_rope' must add up to {width}, not {axes}")
    channels = fields.size("in_channels", default=64)
    patch = fields.size("patch_size", default=1)
    base = _heads(fields, heads * width, heads)
    model = Flux(
        at=Heads(base.d, base.heads, base.head_dim, True, True, True, rotary=Integer(width)),
        joint=Integer(fields.size("num_layers", default=19)),
        single=Integer(fields.size("num_single_layers", default=38)),
        channels=Integer(channels),
        out=Integer(fields.size("out_channels", default=channels) * patch**2),
        text=Integer(fields.size("joint_attention_dim", default=4096)),
        pooled=Integer(fields.size("pooled_projection_dim", default=768)),
        guided=fields.flag("guidance_embeds", False),
    )
    return Reading(model)


def _sd3(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=18)
    d = heads * fields.size("attention_head_dim", default=64)
    if fields.size("caption_projection_dim", default=d) != d:
        raise ModelError(f"{fields.name}: 'caption_projection_dim' must be {d}, the hidden size")
    fields.refuse("dual_attention_layers", "layers with a second attention are not supported")
    norm = fields.values.get("qk_norm")
    if norm not in (None, "rms_norm"):
        raise ModelError(f"{fields.name}: 'qk_norm' = {clip(norm)} is not supported")
    patch, channels = fields.size("patch_size", default=2), fields.size("in_channels", default=16)
    layers = fields.size("num_layers", default=18)
    if layers < 2:
        raise ModelError(f"{fields.name}: 'num_layers' = {layers}: two or more are supported")
    model = StableDiffusion3(
        patches=Patches(Integer(d), Integer(channels), (Integer(patch),) * 2),
        at=_heads(fields, d, heads),
        layers=layers,
        size=pixels(fields, 128, "sample_size"),
        out=Integer(fields.size("out_channels", default=channels)),
        text=Integer(fields.size("joint_attention_dim", default=4096)),
        pooled=Integer(fields.size("pooled_projection_dim", default=2048)),
        qk_norm=norm is not None,
    )
    return Reading(model)


def _per_level(fields: Fields, key: str, count: int, default: int) -> tuple[int, ...]:
    """A number per level under ``key``: a list, or one for all."""
    given = fields.values.get(key)
    found = (
        sizes(fields, key)
        if isinstance(given, list)
        else (fields.size(key, default=default),) * count
    )
    if len(found) != count or max(found) > 2**20:
        raise ModelError(f"{fields.name}: {key!r} must hold {count} sizes, not {clip(given)}")
    return found


def _kinds(fields: Fields, key: str, with_attention: str, plain: str, count: int) -> list[bool]:
    """True for the levels under ``key`` that have transformers."""
    given = fields.values.get(key)
    if not isinstance(given, list) or len(given) != count:
        raise ModelError(f"{fields.name}: {key!r} must be a list of {count} names")
    for kind in given:
        if kind not in (with_attention, plain):
            raise ModelError(f"{fields.name}: {key!r}: {clip(kind)} is not supported")
    return [kind == with_attention for kind in given]


#: Keys that add parts which this family does not have, and what they have to be.
_PLAIN: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "time_cond_proj_dim": (None,),
        "timestep_post_act": (None,),
        "time_embedding_type": (None, "positional"),
        "time_embedding_dim": (None,),
        "time_embedding_act_fn": (None,),
        "resnet_time_scale_shift": (None, "default"),
        "only_cross_attention": (None, False),
        "dual_cross_attention": (None, False),
        "mid_block_only_cross_attention": (None, False),
        "cross_attention_norm": (None,),
        "attention_type": (None, "default"),
        "reverse_transformer_layers_per_block": (None,),
        "num_attention_heads": (None,),
        "conv_in_kernel": (None, 3),
        "conv_out_kernel": (None, 3),
        "act_fn": (None, "silu"),
        "downsample_padding": (None, 1),
        "center_input_sample": (None, False),
        "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
    }
)


def _unet(fields: Fields) -> Reading:
    for key, allowed in _PLAIN.items():
        if fields.values.get(key) not in allowed:
            raise ModelError(
                f"{fields.name}: {key!r} = {clip(fields.values[key])} is not supported here"
            )
    widths = sizes(fields, "block_out_channels", (320, 640, 1280, 1280))
    count = len(widths)
    if count > 8:
        raise ModelError(f"{fields.name}: 'block_out_channels' has {count} levels")
    down = _kinds(fields, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", count)
    up = _kinds(fields, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", count)[::-1]
    blocks = _per_level(fields, "layers_per_block", count, 2)
    # Under this name the published code keeps the number of heads.
    heads = _per_level(fields, "attention_head_dim", count, 8)
    layers = _per_level(fields, "transformer_layers_per_block", count, 1)
    groups = fields.size("norm_num_groups", default=32)
    if max(layers) > MOST_LAYERS or max(blocks) > 16:
        raise ModelError(f"{fields.name}: more than {MOST_LAYERS} layers, or 16 blocks, on a level")
    for width, each in zip(widths, heads, strict=True):
        divided(fields, width, each, "channels over heads")
        divided(fields, width, groups, "channels over 'norm_num_groups'")
    levels = tuple(
        Level(width, blocks[i], heads[i], layers[i] * down[i], layers[i] * up[i])
        for i, width in enumerate(widths)
    )
    kind = fields.values.get("addition_embed_type")
    if kind not in (None, "text_time"):
        raise ModelError(f"{fields.name}: 'addition_embed_type' = {clip(kind)} is not supported")
    pooled, each = None, fields.size("addition_time_embed_dim", default=256)
    if kind is not None:
        whole = fields.size("projection_class_embeddings_input_dim")
        if whole <= 6 * each:
            raise ModelError(
                f"{fields.name}: 'projection_class_embeddings_input_dim' = {whole} leaves nothing "
                f"beside six numbers of width {each}"
            )
        pooled = Integer(whole - 6 * each)
    model = UNet(
        levels=levels,
        channels=Integer(fields.size("in_channels", default=4)),
        out=Integer(fields.size("out_channels", default=4)),
        size=pixels(fields, 64, "sample_size"),
        prompt=Integer(fields.size("cross_attention_dim", default=1280)),
        middle=layers[-1],
        groups=Integer(groups),
        linear=fields.flag("use_linear_projection", False),
        pooled=pooled,
        size_width=Integer(each),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it; these configurations name their class.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"dit": _dit, "flux": _flux, "sd3": _sd3, "unet": _unet}
)

#: Names under ``_class_name``, or class names in ``architectures``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DiT": "dit",
        "FluxTransformer2DModel": "flux",
        "SD3Transformer2DModel": "sd3",
        "UNet2DConditionModel": "unet",
    }
)
