"""Image classifiers and CLIP: ViT, Swin, ConvNeXt, ResNet, VGG, CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.convnet import VGG, ConvNext, ResNet, Swin
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.stages import backbone
from costgraph.models.fields import Fields, divided, widened
from costgraph.models.poolformer import PoolFormer
from costgraph.models.segformer import Segformer, Stage
from costgraph.models.vision import ImageText, Size, TextTower, Tower, VisionTransformer
from costgraph.ops.pattern import CAUSAL, FULL
from costgraph.symbols import B, S

#: Longest lists of stages or layers that a configuration may have, and largest entry.
MOST_ENTRIES, LARGEST_ENTRY = 64, 2**20
#: Pixels a side.
LARGEST_IMAGE = 2**16
FOLDED = "running statistics are folded into the weights of batch norms, which stay apart"


def pixels(fields: Fields, default: int = 224, key: str = "image_size") -> Size:
    """Height and width under ``key``: a number, or a list of two."""
    given = fields.values.get(key)
    if isinstance(given, list):
        sides = sizes(fields, key)
        if len(sides) == 2 and max(sides) <= LARGEST_IMAGE:
            return Integer(sides[0]), Integer(sides[1])
        raise ModelError(f"{fields.name}: {key!r} must be height and width, not {clip(given)}")
    side = fields.size(key, default=default)
    if side > LARGEST_IMAGE:
        raise ModelError(f"{fields.name}: {key!r} = {side} is beyond {LARGEST_IMAGE} pixels")
    return Integer(side), Integer(side)


def sizes(fields: Fields, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The list of positive numbers under ``key``."""
    given = fields.values.get(key)
    if given is None and default is not None:
        return default
    if not isinstance(given, list) or not 0 < len(given) <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {key!r} must be a list of sizes, not {clip(given)}")
    for value in given:
        if type(value) is not int or not 0 < value <= LARGEST_ENTRY:
            raise ModelError(f"{fields.name}: {key!r} must hold whole numbers, not {clip(value)}")
    return tuple(given)


def few(fields: Fields, key: str, default: int | None = None) -> int:
    """The number under ``key`` of what is laid out one by one.

    Raises:
        ModelError: it is beyond the longest list.
    """
    count = fields.size(key, default=default)
    if count > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {key!r} = {count} is beyond {MOST_ENTRIES}")
    return count


def stages(fields: Fields, *keys: str) -> tuple[tuple[int, ...], ...]:
    """Lists under ``keys`` with one entry per stage each."""
    found = tuple(sizes(fields, key) for key in keys)
    if len({len(f) for f in found}) != 1:
        raise ModelError(f"{fields.name}: {' and '.join(map(repr, keys))} differ in length")
    return found


def _is_classifier(fields: Fields) -> bool:
    return (class_of(fields.values) or "ForImageClassification").endswith("ForImageClassification")


def classes_of(fields: Fields) -> Expr | None:
    """Classes that images are sorted into; None where the file names the bare model.

    Raises:
        ModelError: it names another class.
    """
    if (class_of(fields.values) or "").endswith(("Model", "Backbone")):
        return None
    _classifier(fields)
    return Integer(labels_of(fields))


def _classifier(fields: Fields) -> None:
    if not _is_classifier(fields):
        raise ModelError(
            f"{fields.name}: 'architectures' = {clip(fields.values['architectures'])}: "
            "only the classifier is supported in this family"
        )


def tower_of(fields: Fields, act: str, **changes: object) -> tuple[Heads, FeedForward]:
    """Heads with all biases and a plain feed-forward block."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    bias = fields.flag("qkv_bias", True)
    at = Heads(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=divided(fields, d, heads, "hidden size over heads"),
        qv_bias=bias,
        k_bias=bias,
        out_bias=True,
    )
    width = Integer(fields.size("intermediate_size"))
    return at, FeedForward(Integer(d), width, act, gated=False, bias=True)


def swiglu(fields: Fields, feed: FeedForward) -> FeedForward:
    """DINOv2's block: gated where the file says so, of two thirds of the width in eights."""
    if not fields.flag("use_swiglu_ffn", False):
        return feed
    width = (int(feed.width) * 2 // 3 + 7) // 8 * 8
    return FeedForward(feed.d, Integer(width), "silu", bias=True)


def grid_of(fields: Fields, size: Size, patch: int) -> int:
    """Patches of an image.

    Raises:
        ModelError: not one fits in.
    """
    grid = (int(size[0]) // patch) * (int(size[1]) // patch)
    if not grid:
        raise ModelError(f"{fields.name}: 'patch_size' = {patch} exceeds the image")
    return grid


def patches_of(
    fields: Fields, d: Expr, size: Size, patch: int, first: int = 1, placed: bool = True
) -> Patches:
    """Square patches of an image, ``first`` learned tokens in front, a position for each."""
    return Patches(
        d=d,
        channels=Integer(fields.size("num_channels", default=3)),
        patch=(Integer(patch), Integer(patch)),
        first=first,
        rows=Integer(grid_of(fields, size, patch) + first) if placed else None,
    )


def _vit(fields: Fields) -> Reading:
    at, feed = tower_of(fields, activation_of(fields, "hidden_act", default="gelu"))
    size, patch = pixels(fields), fields.size("patch_size", default=16)
    patches = patches_of(fields, at.d, size, patch)
    layers = Integer(fields.size("num_hidden_layers"))
    tower = Tower(patches, at, feed, layers, size)
    classes = Integer(labels_of(fields)) if _is_classifier(fields) else None
    if classes is None:
        fields.require("pooler_output_size", int(at.d), None)
        fields.require("pooler_act", "tanh")
    return Reading(VisionTransformer(tower, classes, pooler=classes is None))


def clip_tower(fields: Fields) -> Tower:
    """CLIP's vision tower: patches without bias, norms in front and behind."""
    at, feed = tower_of(fields, activation_of(fields, "hidden_act", default="quick_gelu"))
    size, patch = pixels(fields), fields.size("patch_size", default=32)
    patches = replace(patches_of(fields, at.d, size, patch), bias=False)
    layers = Integer(fields.size("num_hidden_layers"))
    return Tower(patches, at, feed, layers, size, front=LAYER_NORM)


#: What configurations of CLIP leave out.
_SEEN: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
)
_READ: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }
)


def reader_of(read: Fields, act: str, causal: bool = False) -> TextTower:
    """A tower over texts, whose vector is not projected."""
    at, feed = tower_of(read, activation_of(read, "hidden_act", default=act))
    read.values.get("tie_word_embeddings")  # it has no logits
    longest = read.size("max_position_embeddings")
    return TextTower(
        text=Ends(at.d, Integer(read.size("vocab_size")), positions=Integer(longest)),
        layer=TowerLayer(B, S, at, feed, sees=CAUSAL if causal else FULL),
        layers=Integer(read.size("num_hidden_layers")),
        longest=longest,
    )


def clip_reader(read: Fields) -> TextTower:
    """CLIP's tower over texts: each position sees earlier ones."""
    return reader_of(read.with_defaults(**_READ), "quick_gelu", causal=True)


def clip_pair(fields: Fields) -> Reading:
    """CLIP: images against texts."""
    seen = fields.section("vision_config").with_defaults(**_SEEN)
    text = clip_reader(fields.section("text_config"))
    width = Integer(fields.size("projection_dim", default=512))
    return Reading(ImageText(clip_tower(seen), text, width))


def _convnextv2(fields: Fields) -> Reading:
    """ConvNeXt V2: no scales, and a weighing of channels inside the feed-forward."""
    return _convnext(fields, second=True)


def _dinov3_convnext(fields: Fields) -> Reading:
    """ConvNeXt without a classifier."""
    return _convnext(fields, bare=True)


def _convnext(fields: Fields, second: bool = False, bare: bool = False) -> Reading:
    classes = Integer(labels_of(fields)) if bare else classes_of(fields)
    widths = sizes(fields, "hidden_sizes", (96, 192, 384, 768))
    depths = sizes(fields, "depths", (3, 3, 9, 3))
    if len(widths) != len(depths):
        raise ModelError(f"{fields.name}: 'hidden_sizes' and 'depths' differ in length")
    if fields.size("num_stages", default=len(widths)) != len(widths):
        raise ModelError(f"{fields.name}: 'num_stages' is not the number of 'hidden_sizes'")
    model = ConvNext(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=classes,
        widths=widths,
        depths=depths,
        patch=fields.size("patch_size", default=4),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        scaled=not second and fields.number("layer_scale_init_value", 1e-6) > 0,
        responds=second,
        bare=bare,
    )
    return backbone(fields, model)


def resnet_of(fields: Fields, size: Size, classes: Expr | None) -> ResNet:
    """A ResNet of images of ``size``.

    Raises:
        ModelError: its kind is not known, or does not narrow a width.
    """
    widths, depths = stages(fields, "hidden_sizes", "depths")
    kind = fields.word("layer_type", default="bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise ModelError(
            f"{fields.name}: 'layer_type' must be basic or bottleneck, not {clip(kind)}"
        )
    if kind == "bottleneck" and any(width % 4 for width in widths):
        raise ModelError(f"{fields.name}: 'hidden_sizes' of bottlenecks must be multiples of 4")
    return ResNet(
        channels=Integer(fields.size("num_channels", default=3)),
        size=size,
        classes=classes,
        stem=Integer(fields.size("embedding_size", default=64)),
        widths=widths,
        depths=depths,
        bottleneck=kind == "bottleneck",
        early=fields.flag("downsample_in_first_stage", False),
        stride_first=fields.flag("downsample_in_bottleneck", False),
        activation=activation_of(fields, "hidden_act", default="relu"),
    )


def _resnet(fields: Fields) -> Reading:
    return backbone(fields, resnet_of(fields, pixels(fields), classes_of(fields)), FOLDED)


def _vgg(fields: Fields) -> Reading:
    given = fields.values.get("layer_table")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: 'layer_table' must be a list of channels and 'M'")
    table: list[int] = []
    for entry in given:
        if entry != "M" and (type(entry) is not int or not 0 < entry <= LARGEST_ENTRY):
            raise ModelError(f"{fields.name}: 'layer_table': {clip(entry)} is no number and no 'M'")
        table.append(0 if entry == "M" else entry)
    norms = fields.flag("batch_norm", False)
    model = VGG(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=Integer(labels_of(fields)),
        table=tuple(table),
        hidden=sizes(fields, "classifier_widths", (4096, 4096)),
        grid=fields.size("pooled_size", default=7),
        norms=norms,
    )
    return Reading(model, assumptions=(FOLDED,) if norms else ())


def _swinv2(fields: Fields) -> Reading:
    # The scale of offsets, not how many there are.
    fields.values.get("pretrained_window_sizes")
    return _swin(fields, cosine=True)


def _donut(fields: Fields) -> Reading:
    """Donut's encoder (arXiv 2111.15664): Swin without a norm behind."""
    return _swin(fields, normed=False)


def _swin(fields: Fields, cosine: bool = False, normed: bool = True) -> Reading:
    bare = (class_of(fields.values) or "").endswith(("Model", "Backbone"))
    if not bare:
        _classifier(fields)
    fields.refuse("use_absolute_embeddings", "learned positions are not supported in this family")
    depths, heads = stages(fields, "depths", "num_heads")
    width = fields.size("embed_dim")
    if width > LARGEST_ENTRY or len(depths) > 8:
        raise ModelError(f"{fields.name}: 'embed_dim' = {width} over {len(depths)} stages")
    ratio = Rational(str(fields.number("mlp_ratio", 4.0)))
    for index, count in enumerate(heads):
        divided(fields, width * 2**index, count, f"width of stage {index + 1} over heads")
        if not (ratio * width * 2**index).is_Integer or ratio <= 0:
            raise ModelError(f"{fields.name}: 'mlp_ratio' = {ratio} gives no whole width")
    size, patch = pixels(fields), fields.size("patch_size", default=4)
    least = patch * 2 ** (len(depths) - 1)
    if cosine and min(size) < least:
        raise ModelError(
            f"{fields.name}: 'image_size' = {min(size)} leaves the last of {len(depths)} stages "
            f"no window: {least} is the least for patches of {patch}"
        )
    model = Swin(
        channels=Integer(fields.size("num_channels", default=3)),
        size=size,
        classes=Integer(labels_of(fields)),
        width=width,
        depths=depths,
        heads=heads,
        patch=patch,
        window=fields.size("window_size", default=7),
        ratio=ratio,
        bias=fields.flag("qkv_bias", True),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        cosine=cosine,
        normed=normed,
        bare=bare,
    )
    return backbone(fields, model)


#: Segformer's stages, which classes fill in: widths, layers, heads, patches, strides, squares of
#: positions that keys are made of, feed-forward widths over widths.
PYRAMID: Mapping[str, list[int]] = MappingProxyType(
    {
        "hidden_sizes": [32, 64, 160, 256],
        "depths": [2, 2, 2, 2],
        "num_attention_heads": [1, 2, 5, 8],
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "sr_ratios": [8, 4, 2, 1],
        "mlp_ratios": [4, 4, 4, 4],
    }
)


def stages_of(fields: Fields) -> tuple[Stage, ...]:
    """Segformer's stages, from the lists that :data:`PYRAMID` has.

    Raises:
        ModelError: they differ in length, or heads do not divide a width.
    """
    listed = stages(fields, *PYRAMID)
    fields.require("num_encoder_blocks", len(listed[0]))
    for width, heads in zip(listed[0], listed[2], strict=True):
        divided(fields, width, heads, "width of a stage over heads")
    return tuple(Stage(*each) for each in zip(*listed, strict=True))


def _segformer(fields: Fields) -> Reading:
    fields = fields.with_defaults(**PYRAMID)
    found = stages_of(fields)
    fields.require("reshape_last_stage", True)
    parts = (class_of(fields.values) or "").endswith("ForSemanticSegmentation")
    classes = Integer(labels_of(fields)) if parts else classes_of(fields)
    decoder = fields.size("decoder_hidden_size", default=256)
    model = Segformer(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields, 512 if parts else 224),
        classes=classes,
        stages=found,
        decoder=decoder if parts else None,
        activation=activation_of(fields, "hidden_act", default="gelu"),
    )
    return Reading(model, assumptions=(FOLDED,) if parts else ())


def _pvt2(fields: Fields) -> Reading:
    """PVT 2 (arXiv 2106.13797), whose layers Segformer took over."""
    fields.require("qkv_bias", True)
    fields.refuse("linear_attention", "attention to means of seven by seven is not supported")
    return _segformer(fields.with_defaults(mlp_ratios=[8, 8, 4, 4]))


def _poolformer(fields: Fields) -> Reading:
    """Layers that average what is near, on a pyramid."""
    keys = ("hidden_sizes", "depths", "patch_sizes", "strides", "padding")
    fields = fields.with_defaults(
        hidden_sizes=[64, 128, 320, 512],
        depths=[2, 2, 6, 2],
        patch_sizes=[7, 3, 3, 3],
        strides=[4, 2, 2, 2],
        padding=[2, 1, 1, 1],
    )
    listed = stages(fields, *keys)
    fields.require("num_encoder_blocks", len(listed[0]), *([None] if len(listed[0]) == 4 else []))
    for key in ("patch_size", "stride"):
        fields.values.get(key)  # the class reads the lists alone
    ratio, window = fields.number("mlp_ratio", 4.0), fields.size("pool_size", default=3)
    for width in listed[0]:
        widened(fields, "mlp_ratio", 4.0, width)
    if window % 2 == 0:
        raise ModelError(f"{fields.name}: 'pool_size' = {window}: odd ones keep the size")
    model = PoolFormer(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=classes_of(fields),
        stages=tuple(zip(*listed, strict=True)),
        ratio=Rational(str(ratio)),
        window=window,
        activation=activation_of(fields, "hidden_act", default="gelu"),
        scaled=fields.flag("use_layer_scale", True),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "vit": _vit,
        "swin": _swin,
        "swinv2": _swinv2,
        "donut-swin": _donut,
        "convnext": _convnext,
        "convnextv2": _convnextv2,
        "dinov3_convnext": _dinov3_convnext,
        "resnet": _resnet,
        "segformer": _segformer,
        "poolformer": _poolformer,
        "pvt_v2": _pvt2,
        "vgg": _vgg,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ViTForImageClassification": "vit",
        "ViTModel": "vit",
        "Swinv2ForImageClassification": "swinv2",
        "Swinv2Model": "swinv2",
        "SwinModel": "swin",
        "SwinBackbone": "swin",
        "Swinv2Backbone": "swinv2",
        "DINOv3ConvNextBackbone": "dinov3_convnext",
        "ResNetBackbone": "resnet",
        "ConvNextBackbone": "convnext",
        "ConvNextV2Backbone": "convnextv2",
        "DonutSwinForImageClassification": "donut-swin",
        "DonutSwinModel": "donut-swin",
        "DINOv3ConvNextModel": "dinov3_convnext",
        "ConvNextModel": "convnext",
        "ConvNextV2Model": "convnextv2",
        "ResNetModel": "resnet",
        "SegformerModel": "segformer",
        "PoolFormerForImageClassification": "poolformer",
        "PoolFormerModel": "poolformer",
        "PvtV2ForImageClassification": "pvt_v2",
        "PvtV2Model": "pvt_v2",
        "ConvNextV2ForImageClassification": "convnextv2",
        "SwinForImageClassification": "swin",
        "ConvNextForImageClassification": "convnext",
        "SegformerForImageClassification": "segformer",
        "SegformerForSemanticSegmentation": "segformer",
        "ResNetForImageClassification": "resnet",
    }
)
