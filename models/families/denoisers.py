"""Diffusion models of images: DiT, Flux, Stable Diffusion's U-Net, Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.blocks.prompted import GatedConv
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.denoise import ClassTransformer, Flux, StableDiffusion3
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.vision import pixels, sizes
from costgraph.models.fields import Fields, divided, widened
from costgraph.models.flux2 import Flux2
from costgraph.models.prompted import PromptedTransformer
from costgraph.models.unet import Level, UNet
from costgraph.models.zimage import ZImage

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


def _check_axes(fields: Fields, key: str, default: tuple[int, ...], width: int | Expr) -> None:
    """The parts of a head that rotate by each axis are all of it."""
    axes = sizes(fields, key, default)
    if sum(axes) != width:
        raise ModelError(f"{fields.name}: {key!r} must add up to {width}, not {axes}")


def _dit(fields: Fields) -> Reading:
    d = fields.size("hidden_size", default=1152)
    at = _heads(fields, d, fields.size("num_heads", default=16))
    width = widened(fields, "mlp_ratio", 4.0, d)
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
    _check_axes(fields, "axes_dims_rope", (16, 56, 56), width)
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


def _flux2(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=48)
    width = fields.size("attention_head_dim", default=128)
    _check_axes(fields, "axes_dims_rope", (32, 32, 32, 32), width)
    channels = fields.size("in_channels", default=128)
    patch = fields.size("patch_size", default=1)
    d = heads * width
    inner = widened(fields, "mlp_ratio", 3.0, d)
    model = Flux2(
        at=Heads(Integer(d), Integer(heads), Integer(width), rotary=Integer(width)),
        joint=Integer(fields.size("num_layers", default=8)),
        single=Integer(fields.size("num_single_layers", default=48)),
        width=inner,
        channels=Integer(channels),
        out=Integer(fields.size("out_channels", default=channels) * patch**2),
        text=Integer(fields.size("joint_attention_dim", default=15360)),
        frequencies=Integer(fields.size("timestep_guidance_channels", default=256)),
        guided=fields.flag("guidance_embeds", True),
    )
    return Reading(model)


def _zimage(fields: Fields) -> Reading:
    d, heads = fields.size("dim", default=3840), fields.size("n_heads", default=30)
    if fields.size("n_kv_heads", default=heads) != heads:
        raise ModelError(f"{fields.name}: 'n_kv_heads' must be 'n_heads' = {heads}")
    fields.refuse("siglip_feat_dim", "images beside the prompt are not supported")
    width = divided(fields, d, heads, "width over heads")
    _check_axes(fields, "axes_dims", (32, 48, 48), width)
    patch, frames = sizes(fields, "all_patch_size", (2,)), sizes(fields, "all_f_patch_size", (1,))
    if len(patch) != 1 or len(frames) != 1:
        raise ModelError(f"{fields.name}: one size of patches is supported, not {patch}")
    channels = fields.size("in_channels", default=16) * patch[0] ** 2 * frames[0]
    model = ZImage(
        at=Heads(Integer(d), Integer(heads), width, rotary=width),
        feed=FeedForward(Integer(d), Integer(int(d / 3 * 8)), "silu"),
        layers=Integer(fields.size("n_layers", default=30)),
        refining=Integer(fields.size("n_refiner_layers", default=2)),
        channels=Integer(channels),
        text=Integer(fields.size("cap_feat_dim", default=2560)),
        qk_norm=Norm() if fields.flag("qk_norm", True) else None,
    )
    said = "G and S are multiples of 32: the published code fills them up"
    return Reading(model, assumptions=(said,))


#: What a latent patch of a video is, and what ``G`` counts.
VIDEO = "G counts latent patches over all frames"


def _qwen_image(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=24)
    width = fields.size("attention_head_dim", default=128)
    _check_axes(fields, "axes_dims_rope", (16, 56, 56), width)
    for key in ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
        fields.refuse(key, "this conditioning is not supported")
    # Kept for files of other models: the published class has no such input.
    fields.values.get("guidance_embeds")
    channels = fields.size("in_channels", default=64)
    patch = fields.size("patch_size", default=2)
    base = _heads(fields, heads * width, heads)
    model = Flux(
        at=replace(base, rotary=Integer(width)),
        joint=Integer(fields.size("num_layers", default=60)),
        single=Integer(0),
        channels=Integer(channels),
        out=Integer(fields.size("out_channels", default=16) * patch**2),
        text=Integer(fields.size("joint_attention_dim", default=3584)),
        pooled=None,
        guided=False,
        text_norm=Norm(),
    )
    return Reading(model)


def _hunyuan_video(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=24)
    width = fields.size("attention_head_dim", default=128)
    _check_axes(fields, "rope_axes_dim", (16, 56, 56), width)
    fields.refuse("image_condition_type", "videos from images are not supported in this family")
    fields.require("qk_norm", "rms_norm")
    fields.require("mlp_ratio", 4.0, 4)
    side, deep = fields.size("patch_size", default=2), fields.size("patch_size_t", default=1)
    channels = fields.size("in_channels", default=16)
    base = _heads(fields, heads * width, heads)
    model = Flux(
        at=replace(base, rotary=Integer(width)),
        joint=Integer(fields.size("num_layers", default=20)),
        single=Integer(fields.size("num_single_layers", default=40)),
        channels=Integer(channels),
        out=Integer(fields.size("out_channels", default=channels) * deep * side**2),
        text=Integer(fields.size("text_embed_dim", default=4096)),
        pooled=Integer(fields.size("pooled_projection_dim", default=768)),
        guided=fields.flag("guidance_embeds", True),
        patch=(Integer(deep), Integer(side), Integer(side)),
        refiner=Integer(fields.size("num_refiner_layers", default=2)),
    )
    return Reading(model, assumptions=(VIDEO,))


def _wan(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=40)
    width = fields.size("attention_head_dim", default=128)
    d = heads * width
    for key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
        fields.refuse(key, "videos from images are not supported in this family")
    fields.require("qk_norm", "rms_norm_across_heads")
    patch = sizes(fields, "patch_size", (1, 2, 2))
    if len(patch) != 3:
        raise ModelError(f"{fields.name}: 'patch_size' must have three axes, not {patch}")
    channels = fields.size("in_channels", default=16)
    at = replace(_heads(fields, d, heads), qk_norm=Norm())
    feed = fields.size("ffn_dim", default=13824)
    model = PromptedTransformer(
        at=replace(at, rotary=Integer(width)),
        cross=at,
        feed=FeedForward(Integer(d), Integer(feed), "gelu_tanh", gated=False, bias=True),
        layers=Integer(fields.size("num_layers", default=40)),
        channels=Integer(channels),
        patch=tuple(map(Integer, patch)),
        out=Integer(fields.size("out_channels", default=16) * patch[0] * patch[1] * patch[2]),
        text=Integer(fields.size("text_dim", default=4096)),
        waves=Integer(fields.size("freq_dim", default=256)),
        cross_norm=LAYER_NORM if fields.flag("cross_attn_norm", True) else None,
    )
    # The table of rotations is as long as this says.
    fields.values.get("rope_max_seq_len")
    return Reading(model, assumptions=(VIDEO,))


def _ltx(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=32)
    width = fields.size("attention_head_dim", default=64)
    d = heads * width
    fields.require("qk_norm", "rms_norm_across_heads")
    fields.require("activation_fn", "gelu-approximate")
    fields.require("norm_elementwise_affine", False)
    fields.require("attention_bias", True)
    fields.require("attention_out_bias", True)
    # Patches are cut before the model; its rows are vectors of in_channels.
    fields.require("patch_size", 1)
    fields.require("patch_size_t", 1)
    if fields.size("cross_attention_dim", default=2048) != d:
        raise ModelError(f"{fields.name}: 'cross_attention_dim' must be {d}, the hidden size")
    channels = fields.size("in_channels", default=128)
    at = replace(_heads(fields, d, heads), qk_norm=Norm())
    model = PromptedTransformer(
        at=replace(at, rotary=Integer(width)),
        cross=at,
        feed=FeedForward(Integer(d), Integer(4 * d), "gelu_tanh", gated=False, bias=True),
        layers=Integer(fields.size("num_layers", default=28)),
        channels=Integer(channels),
        patch=(),
        out=Integer(fields.size("out_channels", default=channels)),
        text=Integer(fields.size("caption_channels", default=4096)),
        norm=Norm(weight=False),
    )
    return Reading(model, assumptions=(VIDEO,))


def _pixart(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=16)
    d = heads * fields.size("attention_head_dim", default=72)
    fields.require("activation_fn", "gelu-approximate")
    fields.require("norm_elementwise_affine", False)
    fields.require("attention_bias", True)
    fields.require("attention_type", "default")
    fields.require("norm_type", "ada_norm_single")
    if fields.size("cross_attention_dim", default=1152) != d:
        raise ModelError(f"{fields.name}: 'cross_attention_dim' must be {d}, the hidden size")
    size = fields.size("sample_size", default=128)
    sized = size == 128  # what the published code takes null for, too
    if fields.values.get("use_additional_conditions") is not None:
        sized = fields.flag("use_additional_conditions", sized)
    if sized and d % 3:
        raise ModelError(f"{fields.name}: a width of {d} does not divide into three sizes")
    channels, patch = fields.size("in_channels", default=4), fields.size("patch_size", default=2)
    at = _heads(fields, d, heads)
    # How positions are scaled, and how classes were embedded that the model does not have.
    for key in ("interpolation_scale", "num_embeds_ada_norm", "norm_num_groups"):
        fields.values.get(key)
    model = PromptedTransformer(
        at=at,
        cross=at,
        feed=FeedForward(Integer(d), Integer(4 * d), "gelu_tanh", gated=False, bias=True),
        layers=Integer(fields.size("num_layers", default=28)),
        channels=Integer(channels),
        patch=(Integer(patch), Integer(patch)),
        out=Integer(fields.size("out_channels", default=8) * patch**2),
        text=Integer(fields.size("caption_channels", default=4096)),
        fixed=True,
        sized=sized,
    )
    return Reading(model)


def _sana(fields: Fields) -> Reading:
    """Sana (arXiv 2410.10629): linear attention, and convolutions in feed-forward blocks."""
    heads = fields.size("num_attention_heads", default=70)
    width = fields.size("attention_head_dim", default=32)
    d = heads * width
    few = fields.size("num_cross_attention_heads", default=20)
    each = fields.size("cross_attention_head_dim", default=112)
    if fields.size("cross_attention_dim", default=2240) != d:
        raise ModelError(f"{fields.name}: 'cross_attention_dim' must be {d}, the hidden size")
    fields.refuse("guidance_embeds", "an embedded guidance is not supported in this family")
    fields.refuse("norm_elementwise_affine", "norms with weights are not supported in this family")
    norm = fields.values.get("qk_norm")
    if norm is not None:
        raise ModelError(f"{fields.name}: 'qk_norm' = {clip(norm)} is not supported")
    for key in ("timestep_scale", "guidance_embeds_scale", "dropout"):
        fields.values.get(key)
    bias = fields.flag("attention_bias", False)
    patch, channels = fields.size("patch_size", default=1), fields.size("in_channels", default=32)
    inner = widened(fields, "mlp_ratio", 2.5, d)
    # The size that the weights were made for: any other runs as well.
    fields.values.get("sample_size")
    model = PromptedTransformer(
        at=Heads(Integer(d), Integer(heads), Integer(width), bias, bias, True),
        cross=Heads(Integer(d), Integer(few), Integer(each), True, True, True),
        feed=GatedConv(Integer(d), inner),
        layers=Integer(fields.size("num_layers", default=20)),
        channels=Integer(channels),
        patch=(Integer(patch), Integer(patch)),
        out=Integer(fields.size("out_channels", default=channels) * patch**2),
        text=Integer(fields.size("caption_channels", default=2304)),
        fixed=fields.values.get("interpolation_scale") is not None,
        linear=True,
        text_norm=Norm(),
    )
    return Reading(model)


def _sd3(fields: Fields) -> Reading:
    heads = fields.size("num_attention_heads", default=18)
    d = heads * fields.size("attention_head_dim", default=64)
    if fields.size("caption_projection_dim", default=d) != d:
        raise ModelError(f"{fields.name}: 'caption_projection_dim' must be {d}, the hidden size")
    norm = fields.values.get("qk_norm")
    if norm not in (None, "rms_norm"):
        raise ModelError(f"{fields.name}: 'qk_norm' = {clip(norm)} is not supported")
    patch, channels = fields.size("patch_size", default=2), fields.size("in_channels", default=16)
    layers = fields.size("num_layers", default=18)
    if layers < 2:
        raise ModelError(f"{fields.name}: 'num_layers' = {layers}: two or more are supported")
    twice = fields.values.get("dual_attention_layers") or []
    if twice != list(range(len(twice) if isinstance(twice, list) else 0)) or len(twice) >= layers:
        raise ModelError(
            f"{fields.name}: 'dual_attention_layers' = {clip(twice)}: only layers at the start, "
            "and not the last, may attend twice"
        )
    model = StableDiffusion3(
        patches=Patches(Integer(d), Integer(channels), (Integer(patch),) * 2),
        at=_heads(fields, d, heads),
        layers=layers,
        size=pixels(fields, 128, "sample_size"),
        out=Integer(fields.size("out_channels", default=channels)),
        text=Integer(fields.size("joint_attention_dim", default=4096)),
        pooled=Integer(fields.size("pooled_projection_dim", default=2048)),
        qk_norm=norm is not None,
        dual=len(twice),
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
    {
        "dit": _dit,
        "flux": _flux,
        "flux2": _flux2,
        "z-image": _zimage,
        "sd3": _sd3,
        "unet": _unet,
        "qwen-image": _qwen_image,
        "hunyuan-video": _hunyuan_video,
        "wan": _wan,
        "ltx": _ltx,
        "pixart": _pixart,
        "sana": _sana,
    }
)

#: Names under ``_class_name``, or class names in ``architectures``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DiT": "dit",
        "FluxTransformer2DModel": "flux",
        "Flux2Transformer2DModel": "flux2",
        "ZImageTransformer2DModel": "z-image",
        "SD3Transformer2DModel": "sd3",
        "UNet2DConditionModel": "unet",
        "QwenImageTransformer2DModel": "qwen-image",
        "HunyuanVideoTransformer3DModel": "hunyuan-video",
        "WanTransformer3DModel": "wan",
        "LTXVideoTransformer3DModel": "ltx",
        "PixArtTransformer2DModel": "pixart",
        "SanaTransformer2DModel": "sana",
    }
)
