"""Convolutional networks from tables: MobileNet 1 and 2, EfficientNet, RegNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.encoders import classes_of
from costgraph.models.families.vision import FOLDED, LARGEST_ENTRY, pixels, sizes, stages
from costgraph.models.fields import Fields, divided, widened
from costgraph.models.inverted import Gate, Row, Rows, Step
from costgraph.models.mobilevit import Folded

#: Layers of a network that are believed.
MOST_ROWS = 512
PADDED = "padding of convolutions is even on both sides, where the class may put it at one"


def _act(fields: Fields) -> str:
    """The activation of MobileNets, usually a ReLU that ends at six."""
    if fields.word("hidden_act", default="relu6") == "relu6":
        return "clip"
    return activation_of(fields, "hidden_act")


def _rows(fields: Fields, rows: list[Row], side: int) -> Rows:
    if len(rows) > MOST_ROWS:
        raise ModelError(f"{fields.name}: {len(rows)} layers are beyond {MOST_ROWS}")
    if any(s.width > LARGEST_ENTRY for row in rows for s in row.steps):
        raise ModelError(f"{fields.name}: more than {LARGEST_ENTRY} channels")
    return Rows(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields, side),
        classes=Integer(labels_of(fields)),
        rows=tuple(rows),
        bare=(class_of(fields.values) or "").endswith("Model"),
    )


def _read(fields: Fields, rows: list[Row], side: int, *said: str) -> Reading:
    return Reading(_rows(fields, rows, side), assumptions=(FOLDED, *said))


def _times(fields: Fields) -> float:
    """How much wider the network is than published."""
    times = fields.number("depth_multiplier", 1.0)
    if not 0 < times <= 64:
        raise ModelError(f"{fields.name}: 'depth_multiplier' = {times}: above 0, at most 64")
    return times


def _mobilenet_v1(fields: Fields) -> Reading:
    """MobileNet (arXiv 1704.04861): a convolution of each channel alone, and a product."""
    times, least = _times(fields), fields.size("min_depth", default=8)
    fields.flag("tf_padding", True)
    bend = _act(fields)
    depth, width = 32, max(int(32 * times), least)
    rows = [Row((Step(width, 3, 2, activation=bend),))]
    for index, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)):
        alone = Step(width, 3, stride, 0, bend)
        if stride == 2 or index == 0:
            depth *= 2
            width = max(int(depth * times), least)
        rows.append(Row((alone, Step(width, activation=bend))))
    return _read(fields, rows, 224, PADDED)


def _divisible(value: float, divisor: int, least: int) -> int:
    """A number of channels as the published code rounds it."""
    made = max(least, int(value + divisor / 2) // divisor * divisor)
    return made + divisor if made < 0.9 * value else made


#: Channels of MobileNet 2's layers, and strides behind the first.
_SECOND = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def _mobilenet_v2(fields: Fields) -> Reading:
    """MobileNet 2 (arXiv 1801.04381): layers that are wide inside and narrow between."""
    times, bend = _times(fields), _act(fields)
    divisor, least = (fields.size(k, default=8) for k in ("depth_divisible_by", "min_depth"))
    ratio, last = fields.number("expand_ratio", 6.0), fields.size("output_stride", default=32)
    for key in ("tf_padding", "semantic_loss_ignore_index"):
        fields.values.get(key)
    if not 0 < ratio <= 64:
        raise ModelError(f"{fields.name}: 'expand_ratio' = {ratio}: above 0, at most 64")
    channels = [_divisible(round(n * times), divisor, least) for n in _SECOND]
    wide = _divisible(round(32 * times), divisor, least)
    stem = [Step(wide, 3, 2, activation=bend)]
    if not fields.flag("first_layer_is_expansion", True):
        stem.append(Step(wide, activation=bend))
    rows = [Row((*stem, Step(wide, 3, 1, 0, bend), Step(channels[0])))]
    strided, gap = 2, 1
    for source, out, stride in zip(channels, channels[1:], _STRIDES, strict=False):
        own, apart = (1, gap) if strided == last else (stride, 1)
        gap, strided = (gap * stride, strided) if strided == last else (gap, strided * stride)
        inner = _divisible(round(source * ratio), divisor, least)
        made = (Step(inner, activation=bend), Step(inner, 3, own, 0, bend, apart), Step(out))
        rows.append(Row(made, "same" if own == 1 and source == out else ""))
    narrow = fields.flag("finegrained_output", True) and times < 1
    head = 1280 if narrow else _divisible(round(1280 * times), divisor, least)
    rows.append(Row((Step(head, activation=bend),)))
    return _read(fields, rows, 224, PADDED)


def _blocks(fields: Fields, bend: str) -> Iterator[Row]:
    """The layers of EfficientNet between stem and head."""
    fields = fields.with_defaults(
        kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        in_channels=[32, 16, 24, 40, 80, 112, 192],
        out_channels=[16, 24, 40, 80, 112, 192, 320],
        strides=[1, 2, 2, 2, 1, 2, 1],
        num_block_repeats=[1, 2, 2, 3, 3, 4, 1],
        expand_ratios=[1, 6, 6, 6, 6, 6, 6],
    )
    deep, share = (
        fields.number("depth_coefficient", 3.1),
        fields.number("squeeze_expansion_ratio", 0.25),
    )
    keys = ("kernel_sizes", "in_channels", "out_channels", "strides", "num_block_repeats",
            "expand_ratios")  # fmt: skip
    even = fields.values.get("depthwise_padding") or []
    if not isinstance(even, list) or any(type(n) is not int for n in even):
        raise ModelError(f"{fields.name}: 'depthwise_padding' must be a list of layers")
    if not 0 < deep <= 64 or not 0 < share <= 1:
        raise ModelError(
            f"{fields.name}: 'depth_coefficient' = {deep}, 'squeeze_expansion_ratio' = {share}: "
            "above 0, at most 64 and 1"
        )
    number = 0
    for kernel, source, target, first, times, ratio in zip(*stages(fields, *keys), strict=True):
        if kernel % 2 == 0 or first not in (1, 2):
            raise ModelError(f"{fields.name}: a kernel of {kernel} and a stride of {first}")
        narrow, out = _rounded(fields, source), _rounded(fields, target)
        for index in range(ceil(deep * times)):
            stride, inner = (first, narrow) if index == 0 else (1, out)
            wide = inner * ratio
            pad = None
            if stride == 2:
                pad = kernel // 2 * 2 - (number not in even)
            steps: tuple[Step | Gate, ...] = (
                Step(wide, kernel, stride, 0, bend, pad=pad),
                Gate(max(1, int(inner * share)), bend),
                Step(out),
            )
            if ratio != 1:
                steps = (Step(wide, activation=bend), *steps)
            yield Row(steps, "same" if index else "")
            number += 1


def _rounded(fields: Fields, channels: int) -> int:
    times, divisor = (
        fields.number("width_coefficient", 2.0),
        fields.size("depth_divisor", default=8),
    )
    if not 0 < times <= 64:
        raise ModelError(f"{fields.name}: 'width_coefficient' = {times}: above 0, at most 64")
    return _divisible(channels * times, divisor, divisor)


def _efficientnet(fields: Fields) -> Reading:
    """EfficientNet (arXiv 1905.11946)."""
    head, bend = _rounded(fields, 1280), activation_of(fields, "hidden_act", default="swish")
    fields.require("hidden_dim", head)
    return _read(fields, [*_headless(fields, bend), Row((Step(head, activation=bend),))], 600)


def efficientnet_rows(fields: Fields) -> Rows:
    """EfficientNet's layers without its last, and the mean of what they make (ALIGN).

    Raises:
        ModelError: the mean would be of parts of the last image.
    """
    model = _rows(
        fields, _headless(fields, activation_of(fields, "hidden_act", default="swish")), 600
    )
    mean, side = fields.size("hidden_dim", default=2560), max(map(int, model.size))
    for step in (s for row in model.rows for s in row.steps if isinstance(s, Step)):
        if step.pad is not None:  # others keep the size
            side = (side + step.pad - step.kernel) // step.stride + 1
    if mean < side:
        raise ModelError(
            f"{fields.name}: 'hidden_dim' = {mean}: means of parts of {side} positions"
        )
    return model


def _headless(fields: Fields, bend: str) -> list[Row]:
    """Stem and layers of EfficientNet."""
    kind = fields.word("pooling_type", default="mean")
    if kind != "mean":
        raise ModelError(f"{fields.name}: 'pooling_type' = {clip(kind)}: the mean is supported")
    for key in ("num_hidden_layers", "batch_norm_momentum", "drop_connect_rate", "dropout_rate"):
        fields.values.get(key)  # of no class, and of training
    stem = Row((Step(_rounded(fields, 32), 3, 2, activation=bend, pad=1),))
    return [stem, *_blocks(fields, bend)]


def _regnet(fields: Fields) -> Reading:
    """RegNet (arXiv 2003.13678): residual layers over groups of channels, with gates or without."""
    fields = fields.with_defaults(hidden_sizes=[128, 192, 512, 1088], depths=[2, 6, 12, 2])
    widths, depths = stages(fields, "hidden_sizes", "depths")
    size, bend = (
        fields.size("groups_width", default=64),
        activation_of(fields, "hidden_act", default="relu"),
    )
    kind = fields.word("layer_type", default="y")
    if kind not in ("x", "y"):
        raise ModelError(f"{fields.name}: 'layer_type' = {clip(kind)}: x or y")
    source = fields.size("embedding_size", default=32)
    rows = [Row((Step(source, 3, 2, activation=bend),))]
    early = fields.flag("downsample_in_first_stage", True)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        groups = max(1, width // size)
        if width % groups:
            raise ModelError(f"{fields.name}: {width} channels in {groups} groups")
        for index in range(depth):
            stride = 2 if index == 0 and (stage or early) else 1
            gate = (Gate(round(source / 4), "relu"),) if kind == "y" else ()
            steps = (
                Step(width, activation=bend),
                Step(width, 3, stride, groups, bend),
                *gate,
                Step(width),
            )
            rows.append(Row(steps, "made", bend))
            source = width
    return _read(fields, rows, 224)


def _mobilevit(fields: Fields) -> Reading:
    """MobileNet 2's layers, and between the later ones layers that see the whole image."""
    bend, ratio = (
        activation_of(fields, "hidden_act", default="silu"),
        fields.number("expand_ratio", 4),
    )
    necks = sizes(fields, "neck_hidden_sizes", (16, 32, 64, 96, 128, 160, 640))
    widths = sizes(fields, "hidden_sizes", (144, 192, 240))
    heads, kernel = (
        fields.size("num_attention_heads", default=4),
        fields.size("conv_kernel_size", default=3),
    )
    if (len(necks), len(widths)) != (7, 3) or kernel % 2 == 0 or not 0 < ratio <= 64:
        raise ModelError(
            f"{fields.name}: seven 'neck_hidden_sizes', three 'hidden_sizes', an odd "
            "'conv_kernel_size' and an 'expand_ratio' of at most 64"
        )
    fields.require("output_stride", 32)
    # Of the class that parts images.
    for key in ("aspp_out_channels", "atrous_rates", "semantic_loss_ignore_index"):
        fields.values.get(key)
    bias, square = fields.flag("qkv_bias", True), fields.size("patch_size", default=2)

    def inverted(source: int, out: int, stride: int) -> Row:
        inner = _divisible(round(source * ratio), 8, 8)
        made = (Step(inner, activation=bend), Step(inner, 3, stride, 0, bend), Step(out))
        return Row(made, "same" if stride == 1 and source == out else "")

    rows = [Row((Step(necks[0], 3, 2, activation=bend),)), inverted(necks[0], necks[1], 1)]
    rows += [inverted(necks[1 if i == 0 else 2], necks[2], 2 if i == 0 else 1) for i in range(3)]
    for width, depth, source, out in zip(widths, (2, 4, 3), necks[2:], necks[3:], strict=False):
        d = Integer(width)
        head = divided(fields, width, heads, "hidden size over heads")
        feed = FeedForward(
            d, widened(fields, "mlp_ratio", 2.0, width), bend, gated=False, bias=True
        )
        at = Heads(d, Integer(heads), head, bias, bias, True)
        rows.append(inverted(source, out, 2))
        rows.append(Row((Folded(kernel, at, feed, depth, square, bend),)))
    rows.append(Row((Step(necks[6], activation=bend),)))
    return _read(fields, rows, 256)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mobilenet_v1": _mobilenet_v1,
        "mobilenet_v2": _mobilenet_v2,
        "efficientnet": _efficientnet,
        "regnet": _regnet,
        "mobilevit": _mobilevit,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    classes_of(
        {
            "MobileNetV1": "mobilenet_v1",
            "MobileNetV2": "mobilenet_v2",
            "EfficientNet": "efficientnet",
            "RegNet": "regnet",
            "MobileViT": "mobilevit",
        },
        ("ForImageClassification", "Model"),
    )
)
