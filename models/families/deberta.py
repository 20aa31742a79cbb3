"""DeBERTa 1 to 3: BERT whose scores are sums over contents and distances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Layer, Segment
from costgraph.models.blocks.disentangled import Convolved, Disentangled
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.stack import Repeatable
from costgraph.models.encoder import RelativeRows, TextFront
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, TASKS, classes_of
from costgraph.models.families.kindred import Kin, encoder_of, heads_for, read_of
from costgraph.models.fields import Fields, divided

#: What the first version does not have, whatever a file says.
_FIRST = MappingProxyType({"share_att_key": False, "norm_rel_ebd": "none"})


def _span(fields: Fields) -> int:
    """Distances to each side that DeBERTa has a row for."""
    buckets = fields.values.get("position_buckets", -1)
    if isinstance(buckets, int) and buckets > 0:
        return fields.size("position_buckets")
    stated = fields.values.get("max_relative_positions", -1)
    if isinstance(stated, int) and stated > 0:
        return fields.size("max_relative_positions")
    return fields.size("max_position_embeddings", default=512)


def _kinds(fields: Fields) -> frozenset[str]:
    """Which scores with distances there are: ``c2p``, ``p2c``; a list, or a text with bars."""
    key = "pos_att_type"
    found = fields.values.get(key) or []
    names = found.split("|") if isinstance(found, str) else found
    if not isinstance(names, list) or any(n not in ("c2p", "p2c") for n in names):
        raise ModelError(f"{fields.name}: {key!r} = {clip(found)}: only c2p and p2c are known")
    return frozenset(names) if fields.flag("relative_attention", False) else frozenset()


def distances(fields: Fields, at: Heads) -> tuple[Disentangled, RelativeRows | None]:
    """The second version's attention with ``at``, and its rows for distances where there are any.

    Raises:
        ModelError: keys of distances contradict each other, or are not known.
    """
    kinds, span = _kinds(fields), Integer(_span(fields))
    related, norms = fields.flag("relative_attention", False), _norms(fields)
    if related and not kinds:
        raise ModelError(f"{fields.name}: 'relative_attention' without 'pos_att_type'")
    if not related and "layer_norm" in norms:
        raise ModelError(f"{fields.name}: 'norm_rel_ebd' without 'relative_attention'")
    mixer = Disentangled(
        at,
        span,
        to_place="c2p" in kinds,
        from_place="p2c" in kinds,
        shared=fields.flag("share_att_key", False),
    )
    if not related:
        return mixer, None
    return mixer, RelativeRows(2 * span, at.d, LAYER_NORM if "layer_norm" in norms else None)


def _norms(fields: Fields) -> list[str]:
    """Norms of the rows for distances."""
    norms = fields.word("norm_rel_ebd", default="none").split("|")
    if not set(norms) <= {"none", "layer_norm"}:
        raise ModelError(f"{fields.name}: 'norm_rel_ebd' = {clip(norms)} is not known")
    return norms


def _deberta(fields: Fields, second: bool) -> Reading:
    fields.refuse("talking_head", "products between heads are not known in this family")
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width = divided(fields, d, heads, "hidden size over heads")
    for key, known in (("attention_head_size", width), ("embedding_size", d),
                       ("pooler_hidden_size", d)):  # fmt: skip
        if fields.size(key, default=int(known)) != known:
            raise ModelError(f"{fields.name}: {key!r} must be {known} in this family")
    fields.values.get("legacy")  # where the same head of masked tokens stands
    biased = fields.flag("position_biased_input", True)
    pools = activation_of(fields, "pooler_hidden_act", default="gelu")
    kin = Kin(pools=pools, pooler=False)
    named = fields.with_values(position_embedding_type="absolute")
    reading = read_of(named.with_defaults(type_vocab_size=0), kin)
    model = encoder_of(reading)
    # The first version's one matrix for queries, keys and values has biases for two of them.
    at = replace(heads_for(fields, kin), k_bias=second)
    mixer, rows = distances(fields if second else fields.with_values(**_FIRST), at)
    mixer = replace(mixer, place_bias=second, cut=not second)
    (segment,) = model.segments
    assert isinstance(segment.layer, Layer)
    layer = replace(segment.layer, mixer=mixer)
    segments: tuple[Segment, ...] = (replace(segment, layer=layer),)
    if second and fields.values.get("conv_kernel_size"):
        segments = _with_convolution(fields, layer, segment.count)
    assert isinstance(model.front, TextFront)
    front = model.front
    if not biased:
        front = replace(front, ends=replace(front.ends, positions=None))
    changed = replace(
        model,
        front=front,
        segments=segments,
        buckets=rows,
        longest=model.longest if biased else None,
    )
    return replace(reading, model=changed)


def _with_convolution(fields: Fields, layer: Layer, count: Expr) -> tuple[Segment, ...]:
    """The first layer beside a convolution, then the others."""
    kernel = fields.size("conv_kernel_size")
    if kernel % 2 == 0:
        raise ModelError(f"{fields.name}: 'conv_kernel_size' = {kernel} must be odd")
    first = Convolved(
        layer,
        Integer(kernel),
        Integer(fields.size("conv_groups", default=1)),
        activation_of(fields, "conv_act", default="tanh"),
        LAYER_NORM,
    )
    named: list[tuple[str, Repeatable]] = [
        ("first", first),
        *[("layers", layer)] * (int(count) - 1),
    ]
    return gathered(named)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "deberta": lambda fields: _deberta(fields, second=False),
        "deberta-v2": lambda fields: _deberta(fields, second=True),
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"Deberta": "deberta", "DebertaV2": "deberta-v2"}, TASKS[:-1]),
        "DebertaV2ForMultipleChoice": "deberta-v2",
    }
)
