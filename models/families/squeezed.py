"""SEW and SEW-D: wav2vec 2.0's kind, whose layers see a shorter sequence (arXiv 2109.06870)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import FeedForward, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.encoder import Encoder
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.deberta import distances
from costgraph.models.families.encoders import LAYER_NORM, classes_of
from costgraph.models.families.speech import APART, BASE, GAIN, speech_front, speech_head
from costgraph.models.fields import Fields, divided
from costgraph.models.speech_heads import SpreadHead
from costgraph.models.waves import SqueezedFront

#: What the convolutions of the front are where a file says nothing.
_FRONT = MappingProxyType(
    {
        "conv_dim": [64, *[128] * 4, *[256] * 4, *[512] * 4],
        "conv_kernel": [10, *[3, 1] * 4, *[2, 1] * 2],
        "conv_stride": [5, *[2, 1] * 6],
    }
)


def _sew(fields: Fields, distant: bool = False) -> Reading:
    """SEW; ``distant``: with DeBERTa's attention (SEW-D)."""
    fields = fields.with_defaults(**BASE, **_FRONT, squeeze_factor=2)
    for key, why in (
        ("add_adapter", "the published classes of this family have none"),
        ("adapter_attn_dim", "the published classes of this family have none"),
        ("use_weighted_layer_sum", "a sum of all layers is not supported in this family"),
        ("conv_kernel_size", "a convolution beside the first layer is not supported here"),
        ("talking_head", "products between heads are not known in this family"),
    ):
        fields.refuse(key, why)
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width = divided(fields, d, heads, "hidden size over heads")
    factor = fields.size("squeeze_factor")
    divided(fields, d, factor, "hidden size over 'squeeze_factor'")
    at = Heads(Integer(d), Integer(heads), width, True, True, True)
    act = activation_of(fields, "hidden_act", default="gelu_python" if distant else "gelu")
    feed = FeedForward(
        Integer(d), Integer(fields.size("intermediate_size")), act, gated=False, bias=True
    )
    mixer, rows = distances(fields, at) if distant else (Bidirectional(at), None)
    front = speech_front(fields, d, before=True, several=False)
    placing = front.placing
    assert placing is not None
    squeezed = SqueezedFront(
        replace(front, placing=None, projected=front.widths[-1] != d),
        factor,
        placing.kernel,
        placing.groups,
        placing.activation,
        None if distant else LAYER_NORM,
    )
    for key in APART:
        fields.values.get(key)
    model = Encoder(
        front=squeezed,
        segments=(
            Segment(
                "layers",
                Layer(Integer(d), mixer, feed, LAYER_NORM, norm_first=False),
                Integer(fields.size("num_hidden_layers")),
            ),
        ),
        d=Integer(d),
        head=SpreadHead(Integer(d), Integer(factor), placing.activation, speech_head(fields, d)),
        buckets=rows,
    )
    said = (
        f"S counts positions of the layers, each of {factor} rows that are made of the fewest "
        "samples that give as many"
    )
    return Reading(model, assumptions=(said, GAIN))


def _sew_d(fields: Fields) -> Reading:
    return _sew(
        fields.with_defaults(
            position_buckets=256,
            max_position_embeddings=512,
            share_att_key=True,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
        ),
        distant=True,
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"sew": _sew, "sew-d": _sew_d})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    classes_of({"SEW": "sew", "SEWD": "sew-d"}, ("ForCTC", "ForSequenceClassification", "Model"))
)
