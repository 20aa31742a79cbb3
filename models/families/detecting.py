"""Boxes of objects: DETR, Table Transformer, YOLOS, OWL-ViT and OWLv2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.deformable import GROUPS
from costgraph.models.blocks.encoder import Heads
from costgraph.models.conditional import ConditionalDetr
from costgraph.models.convnet import ResNet
from costgraph.models.dab import DabDetr
from costgraph.models.detecting import Detr, NamedBoxes, Yolos
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.seeing import SIGLIP
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import (
    LARGEST_ENTRY,
    clip_reader,
    clip_tower,
    few,
    grid_of,
    patches_of,
    pixels,
    resnet_of,
    tower_of,
)
from costgraph.models.fields import Fields, divided
from costgraph.models.panoptic import GROUPS as PARTS
from costgraph.models.panoptic import HALVES, PanopticDetr
from costgraph.models.vision import ImageText, Tower

#: Networks of timm that these files name, as layers of each stage and whether they are narrowed.
NETWORKS: Mapping[str, tuple[tuple[int, ...], bool]] = MappingProxyType(
    {
        "resnet18": ((2, 2, 2, 2), False),
        "resnet34": ((3, 4, 6, 3), False),
        "resnet50": ((3, 4, 6, 3), True),
        "resnet101": ((3, 4, 23, 3), True),
    }
)
#: ResNet-50's stages, which its class fills in.
RESNET: Mapping[str, list[int]] = MappingProxyType(
    {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]}
)
#: What the published processor makes of a picture of four by three.
SIZE = (800, 1066)
SCALED = (
    "pictures of {0} x {1} pixels where no size is asked for: the published processor scales the "
    "shorter side to 800"
)
FROZEN = "norms of the convolutional network are frozen: they are no parameters"
#: Stages of the network that masks are made of.
ALL = (1, 2, 3, 4)
EACH = "masks run all their convolutions once for each query, those of the image too, as the class"
ONE_TEXT = "B images, each with one text of S tokens"
#: Keys of what training weighs.
COSTS = (
    "class_cost", "bbox_cost", "giou_cost", "mask_loss_coefficient", "dice_loss_coefficient",
    "bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient", "auxiliary_loss",
)  # fmt: skip


def grouped(fields: Fields, key: str) -> int:
    """A width behind group norms.

    Raises:
        ModelError: it is too large, or groups do not divide it.
    """
    width = fields.size(key, default=256)
    if width > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: {key!r} = {width} is beyond {LARGEST_ENTRY}")
    if width % int(GROUPS):
        raise ModelError(f"{fields.name}: {key!r} = {width} is no multiple of {GROUPS}")
    return width


def heads_of(fields: Fields, d: int, count: int, inner: int | None = None) -> Heads:
    """``count`` heads with all biases, over ``inner`` or the whole width ``d``."""
    wide = divided(fields, d if inner is None else inner, count, "width over heads")
    return Heads(Integer(d), Integer(count), wide, True, True, True)


def resnet(fields: Fields) -> ResNet:
    """The convolutional network, from its own part or by the name that timm has for it."""
    channels = Integer(fields.size("num_channels", default=3))
    bare = ResNet(channels, (Integer(SIZE[0]), Integer(SIZE[1])), Integer(1), Integer(64),
                  (), (), frozen=True)  # fmt: skip
    fields.refuse("dilation", "a dilated last stage is not known in this family")
    for key in ("use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs"):
        fields.values.get(key)
    if fields.values.get("backbone_config"):
        part = fields.section("backbone_config")
        kind = part.word("model_type", default="resnet")
        if kind == "timm_backbone":
            return _named(part, bare)
        if kind != "resnet":
            raise ModelError(f"{part.name}: {clip(kind)} is no network that is known here")
        made = resnet_of(part.with_defaults(**RESNET), bare.size, bare.classes)
        return replace(made, frozen=True)
    return _named(fields, bare)


def _named(fields: Fields, bare: ResNet) -> ResNet:
    name = fields.word("backbone", default="resnet50").partition(".")[0]
    if name not in NETWORKS:
        raise ModelError(
            f"{fields.name}: 'backbone' = {clip(name)}: only {', '.join(NETWORKS)} are known"
        )
    for key in ("features_only", "freeze_batch_norm_2d"):
        fields.values.get(key)
    depths, narrowed = NETWORKS[name]
    widths = tuple(64 * 2**i * (4 if narrowed else 1) for i in range(4))
    return replace(bare, widths=widths, depths=depths, bottleneck=narrowed)


def _detr(fields: Fields, first: bool = False, kind: type[Detr] = Detr) -> Reading:
    fields = fields.with_defaults(
        d_model=256, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048,
        decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8,
    )  # fmt: skip
    d = fields.size("d_model")
    plain = kind in (Detr, PanopticDetr)
    learned = kind is DabDetr and fields.peek("activation_function") == "prelu"
    key = "activation_function"
    act = fields.word(key) if learned else activation_of(fields, key, default="relu")
    found = []
    for side in ("encoder", "decoder"):
        heads = fields.size(f"{side}_attention_heads")
        width = divided(fields, d, heads, f"hidden size over {side} heads")
        inner = Integer(fields.size(f"{side}_ffn_dim"))
        found.append(
            (
                Heads(Integer(d), Integer(heads), width, True, True, True),
                FeedForward(Integer(d), inner, act, gated=False, bias=True),
            )
        )
    (at, feed), (own, fed) = found
    places = fields.word("position_embedding_type", default="sine")
    if places not in ("sine", "learned") or (places == "learned" and d % 2):
        raise ModelError(f"{fields.name}: 'position_embedding_type' = {clip(places)} is not known")
    if kind is not DabDetr:
        fields.refuse("auxiliary_loss", "a norm behind every layer is not counted in this family")
    for key in (*COSTS, "num_hidden_layers", "init_xavier_std"):
        fields.values.get(key)
    form = class_of(fields.values) or ""
    boxes = form.endswith(("ForObjectDetection", "ForSegmentation"))
    # Conditional DETR has no label for nothing.
    labels = Integer(labels_of(fields) + plain) if boxes else None
    network = resnet(fields)
    if fields.values.get("backbone_config"):
        part, last = fields.section("backbone_config"), len(network.depths)
        if taken_of(part, last)[-1] != last:
            raise ModelError(f"{part.name}: the encoder takes the last stage, 'stage{last}'")
    model = kind(
        stem=network,
        size=(Integer(SIZE[0]), Integer(SIZE[1])),
        at=at,
        own=own,
        feed=feed,
        fed=fed,
        layers=Integer(fields.size("encoder_layers")),
        count=Integer(fields.size("decoder_layers")),
        queries=Integer(fields.size("num_queries", default=100 if plain else 300)),
        labels=labels,
        learned=places == "learned",
        first=first,
    )
    return Reading(model, assumptions=(SCALED.format(*SIZE), FROZEN))


def _plain(fields: Fields) -> Reading:
    """DETR, or its class that makes masks.

    Raises:
        ModelError: channels of the masks have no groups, or not all four stages are read.
    """
    if class_of(fields.values) != "DetrForSegmentation":
        return _detr(fields)
    reading = _detr(fields, kind=PanopticDetr)
    model = reading.model
    assert isinstance(model, Detr)
    d, start = int(model.at.d), int(model.at.d + model.at.heads)
    widths = (start, *(d // 2**n for n in range(1, HALVES + 1)))
    if d % 2**HALVES or start % PARTS or any(n % min(PARTS, n) for n in widths):
        raise ModelError(
            f"{fields.name}: 'd_model' = {d} with {model.at.heads} heads makes masks of {widths} "
            f"channels, which do not part into {PARTS} groups"
        )
    part = fields.values.get("backbone_config")
    taken = taken_of(fields.section("backbone_config"), len(model.stem.depths)) if part else ALL
    more = fields.values.get("backbone_kwargs")
    given = more.get("out_indices") if isinstance(more, Mapping) else None
    if taken != ALL or given not in (None, list(ALL)):
        raise ModelError(f"{fields.name}: masks are made of all four stages: 'out_indices' 1 to 4")
    return replace(reading, assumptions=(*reading.assumptions, EACH))


def _table_transformer(fields: Fields) -> Reading:
    return _detr(fields, first=True)


def _conditional(fields: Fields, kind: type[ConditionalDetr] = ConditionalDetr) -> Reading:
    few(fields, "decoder_layers", 6)
    for key in ("cls_loss_coefficient", "focal_alpha"):
        fields.values.get(key)  # of training
    return _detr(fields, kind=kind)


def _dab(fields: Fields) -> Reading:
    few(fields, "encoder_layers", 6)
    fields.require("num_patterns", 0)
    fields.require("keep_query_pos", False)
    fields.require("query_dim", 4)
    fields.require("normalize_before", False)
    fields.require("tie_word_embeddings", True)
    for key in ("temperature_height", "temperature_width", "sine_position_embedding_scale",
                "random_refpoints_xy", "initializer_bias_prior_prob"):  # fmt: skip
        fields.values.get(key)  # values of fixed tables, and of training
    named = fields.renamed(d_model="hidden_size").with_defaults(activation_function="prelu")
    return _conditional(named, DabDetr)


def _yolos(fields: Fields) -> Reading:
    named = fields.with_defaults(**{**BASE, "image_size": [512, 864]})
    at, feed = tower_of(named, activation_of(named, "hidden_act"))
    size, patch = pixels(named), named.size("patch_size")
    boxes = named.size("num_detection_tokens", default=100)
    patches = patches_of(named, at.d, size, patch, boxes + 1)
    grid_of(named, size, patch)
    layers = Integer(named.size("num_hidden_layers"))
    for key in COSTS:
        fields.values.get(key)
    bare = not (class_of(fields.values) or "").endswith("ForObjectDetection")
    model = Yolos(
        Tower(patches, at, feed, layers, size),
        boxes,
        None if bare else Integer(labels_of(fields) + 1),
        named.flag("use_mid_position_embeddings", True),
    )
    return Reading(model)


def _owlvit(fields: Fields, rated: bool = False) -> Reading:
    # The second version's patches are half as long.
    own = {**SIGLIP, "image_size": 768, **({"patch_size": 16} if rated else {})}
    seen = fields.section("vision_config").with_defaults(**own)
    read = fields.section("text_config").with_defaults(max_position_embeddings=16)
    tower, text = clip_tower(seen), clip_reader(read)
    width = Integer(fields.size("projection_dim", default=512))
    if (class_of(fields.values) or "").endswith("Model"):
        return Reading(ImageText(tower, text, width))
    if text.text.d != width:
        raise ModelError(f"{fields.name}: 'projection_dim' must be the reader's {text.text.d}")
    return Reading(NamedBoxes(tower, text, width, rated), assumptions=(ONE_TEXT,))


def _owlv2(fields: Fields) -> Reading:
    return _owlvit(fields, rated=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "detr": _plain,
        "table-transformer": _table_transformer,
        "conditional_detr": _conditional,
        "dab-detr": _dab,
        "yolos": _yolos,
        "owlvit": _owlvit,
        "owlv2": _owlv2,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DetrForObjectDetection": "detr",
        "DetrModel": "detr",
        "DetrForSegmentation": "detr",
        "TableTransformerForObjectDetection": "table-transformer",
        "TableTransformerModel": "table-transformer",
        "ConditionalDetrForObjectDetection": "conditional_detr",
        "ConditionalDetrModel": "conditional_detr",
        "DabDetrForObjectDetection": "dab-detr",
        "DabDetrModel": "dab-detr",
        "YolosForObjectDetection": "yolos",
        "YolosModel": "yolos",
        "OwlViTForObjectDetection": "owlvit",
        "OwlViTModel": "owlvit",
        "Owlv2ForObjectDetection": "owlv2",
        "Owlv2Model": "owlv2",
    }
)
