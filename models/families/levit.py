"""LeViT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.families.common import Family, Reading, class_of, labels_of
from costgraph.models.families.vision import FOLDED, classes_of, few, pixels, stages
from costgraph.models.fields import Fields
from costgraph.models.levit import Heads, Levit, LevitStage

#: Lists of a number per stage, which the class fills in.
_LISTS: Mapping[str, list[int]] = MappingProxyType(
    {
        "hidden_sizes": [128, 256, 384],
        "depths": [4, 4, 4],
        "num_attention_heads": [4, 8, 12],
        "key_dim": [16, 16, 16],
        "attention_ratio": [2, 2, 2],
        "mlp_ratio": [2, 2, 2],
    }
)
#: What the class has between stages: widths of values over keys, of feed-forward blocks, strides.
_VALUES, _WIDER, _STRIDE = 4, 2, 2
#: Positions a side; tables grow with their square.
_MOST = 64


def _offsets(many: int, few: int, stride: int) -> int:
    """Distances that ``few`` places, ``stride`` apart, have from ``many`` ones, in both axes."""
    return len({abs(i * stride - j) for i in range(few) for j in range(many)}) ** 2


def _levit(fields: Fields) -> Reading:
    widths, depths, heads, keys, values, wider = stages(fields.with_defaults(**_LISTS), *_LISTS)
    if len(widths) != 3 or widths[0] % 8:
        raise ModelError(
            f"{fields.name}: 'hidden_sizes' = {list(widths)}: three stages, the first a multiple "
            "of 8, are known"
        )
    between = [["Subsample", keys[0], w // keys[0], _VALUES, _WIDER, _STRIDE] for w in widths[:2]]
    given = fields.values.get("down_ops", between)
    if not isinstance(given, list) or given[:2] != between or given[2:] not in ([], [[""]]):
        raise ModelError(f"{fields.name}: 'down_ops' = {clip(given)}: the class makes {between}")
    if not all(w // keys[0] for w in widths[:2]):
        raise ModelError(f"{fields.name}: 'key_dim' = {list(keys)} exceeds 'hidden_sizes'")
    size, patch = pixels(fields), fields.size("patch_size", default=16)
    kernel, stride = few(fields, "kernel_size", 3), few(fields, "stride", 2)
    padding = few(fields, "padding", 1)
    seen = int(size[0])
    for _ in range(4):
        seen = (seen + 2 * padding - kernel) // stride + 1
    side = int(size[0]) // patch
    if size[0] != size[1] or side != seen or not 0 < side <= _MOST:
        raise ModelError(
            f"{fields.name}: pictures of {size[0]} x {size[1]} become {seen} positions a side: "
            f"'image_size' over 'patch_size' is {side}, at most {_MOST}"
        )
    found = []
    for index in range(3):
        short = (side - 1) // _STRIDE + 1
        shrink = None
        if index < 2:
            count = widths[index] // keys[0]
            shrink = Heads(count, keys[0], _VALUES, _offsets(side, short, _STRIDE))
        at = Heads(heads[index], keys[index], values[index], side**2)
        found.append(LevitStage(widths[index], depths[index], at, wider[index], shrink))
        side = short
    taught = (class_of(fields.values) or "").endswith("WithTeacher")
    model = Levit(
        channels=Integer(fields.size("num_channels", default=3)),
        size=size,
        classes=Integer(labels_of(fields)) if taught else classes_of(fields),
        kernel=kernel,
        stride=stride,
        padding=padding,
        stages=tuple(found),
        taught=taught,
    )
    return Reading(model, assumptions=(FOLDED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"levit": _levit})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LevitForImageClassification": "levit",
        "LevitForImageClassificationWithTeacher": "levit",
        "LevitModel": "levit",
    }
)
