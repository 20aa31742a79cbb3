"""Hiera (Ryali et al., arXiv 2306.00989) by itself; SAM 2's is in ``segmenting``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.blocks.hiera import UnrolledHiera
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.stages import is_backbone, taken_of
from costgraph.models.families.vision import classes_of, pixels, sizes, stages
from costgraph.models.fields import Fields, divided
from costgraph.models.hiera import HieraModel

#: Of the decoder that only training has, of training, and a first value.
_APART = ("decoder_hidden_size", "decoder_depth", "decoder_num_heads", "normalize_pixel_loss",
          "mask_ratio", "drop_path_rate", "layer_norm_init")  # fmt: skip


def _square(fields: Fields, key: str, usual: int) -> int:
    """The side of a square that the file gives as two numbers."""
    found = sizes(fields, key, (usual, usual))
    if len(found) != 2 or found[0] != found[1]:
        raise ModelError(f"{fields.name}: {key!r} = {clip(list(found))}: a square is supported")
    return found[0]


def _seeing(fields: Fields, count: int) -> tuple[bool, ...]:
    """Whether layers of a stage see their window alone."""
    key = "masked_unit_attention"
    given = fields.values.get(key, [True, True, False, False])
    right = isinstance(given, list) and len(given) == count
    if not right or any(type(value) is not bool for value in given):
        raise ModelError(f"{fields.name}: {key!r} must be {count} of true and false")
    return tuple(given)


def _widths(fields: Fields, count: int) -> tuple[int, ...]:
    """Widths of the stages.

    Raises:
        ModelError: they are no whole numbers, or do not grow.
    """
    first = fields.size("embed_dim", default=96)
    ratio = Rational(str(fields.number("embed_dim_multiplier", 2.0)))
    found = [first * ratio**stage for stage in range(count)]
    if ratio <= 1 or not all(width.is_Integer and width < 2**20 for width in found):
        raise ModelError(
            f"{fields.name}: 'embed_dim_multiplier' = {ratio} gives no whole widths that grow"
        )
    return tuple(int(width) for width in found)


def _pyramid(fields: Fields) -> UnrolledHiera:
    fields = fields.with_defaults(depths=[2, 3, 16, 3], num_heads=[1, 2, 4, 8])
    depths, heads = stages(fields, "depths", "num_heads")
    count = len(depths)
    if count > 8:
        raise ModelError(f"{fields.name}: {count} stages are beyond 8")
    widths = _widths(fields, count)
    for width, parts in zip(widths, heads, strict=True):
        divided(fields, width, parts, "width of a stage over heads")
    fields.require("query_stride", [2, 2])
    # With fewer, windows and what is pooled have other sizes than the rows.
    fields.with_defaults(num_query_pool=3).require("num_query_pool", count - 1)
    side = _square(fields, "masked_unit_size", 8)
    if side % 2 ** (count - 1):
        raise ModelError(f"{fields.name}: 'masked_unit_size' = {side} is not halved {count - 1} x")
    ratio = Rational(str(fields.number("mlp_ratio", 4.0)))
    if any(not (ratio * width).is_Integer or ratio <= 0 for width in widths):
        raise ModelError(f"{fields.name}: 'mlp_ratio' = {ratio} gives no whole width")
    fields.require("hidden_size", widths[-1])
    for key in _APART:
        fields.values.get(key)
    tall, wide = pixels(fields.with_defaults(image_size=[224, 224]))
    stride = _square(fields, "patch_stride", 4)
    near = _seeing(fields, count)
    begins = [sum(depths[:stage]) for stage in range(count)]
    whole = {
        begins[stage] + place
        for stage in range(count)
        for place in range(depths[stage])
        if not (near[stage] or (place == 0 and near[max(stage - 1, 0)]))
    }
    found = UnrolledHiera(
        channels=Integer(fields.size("num_channels", default=3)),
        size=(int(tall), int(wide)),
        kernel=_square(fields, "patch_size", 7),
        stride=stride,
        padding=_square(fields, "patch_padding", 3),
        widths=widths,
        depths=depths,
        heads=heads,
        windows=tuple(side // 2**stage for stage in range(count)),
        whole=frozenset(whole),
        pooling=count - 1,
        ratio=ratio,
        activation=activation_of(fields, "hidden_act", default="gelu"),
        rows=(tall // stride) * (wide // stride),
    )
    grid = found.grids[0]
    if grid != (tall // stride, wide // stride) or any(n % side for n in grid):
        raise ModelError(
            f"{fields.name}: 'image_size' makes a grid of {grid[0]} x {grid[1]}, no whole number "
            f"of windows of {side}"
        )
    return found


def _hiera(fields: Fields) -> Reading:
    pyramid = _pyramid(fields)
    if is_backbone(fields):
        return Reading(HieraModel(pyramid, None, taken_of(fields, len(pyramid.depths), stem=True)))
    return Reading(HieraModel(pyramid, classes_of(fields)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"hiera": _hiera})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "HieraForImageClassification": "hiera",
        "HieraModel": "hiera",
        "HieraBackbone": "hiera",
    }
)
