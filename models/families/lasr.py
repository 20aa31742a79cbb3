"""Google's LASR, which MedASR is: a conformer in front of letters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import FeedForward, Segment
from costgraph.models.blocks.encoder import Heads
from costgraph.models.conformer import PointHead
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import Head
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.speech import POSITIONS
from costgraph.models.families.vision import FOLDED
from costgraph.models.fields import Fields, divided
from costgraph.models.lasr import NORM, BandFront, WeighedLayer


def _encoded(fields: Fields, head: Head | None) -> Reading:
    """The encoder."""
    d = fields.size("hidden_size", default=512)
    heads = fields.size("num_attention_heads", default=8)
    fields.require("num_key_value_heads", heads)
    width = divided(fields, d, heads, "hidden size over heads")
    bias = fields.flag("attention_bias", False)
    act = activation_of(fields, "hidden_act", default="silu")
    inner = Integer(fields.size("intermediate_size", default=2048))
    for key in ("feed_forward_residual_weights", "conv_residual_weights", "batch_norm_momentum"):
        fields.values.get(key)  # constants
    layer = WeighedLayer(
        at=Heads(Integer(d), Integer(heads), width, bias, bias, bias, rotary=width),
        feed=FeedForward(Integer(d), inner, act, gated=False, bias=bias),
        kernel=fields.size("conv_kernel_size", default=32),
        bias=fields.flag("convolution_bias", False),
        activation=act,
    )
    front = BandFront(
        d=Integer(d),
        bands=Integer(fields.size("num_mel_bins", default=128)),
        channels=Integer(fields.size("subsampling_conv_channels", default=256)),
        kernel=fields.size("subsampling_conv_kernel_size", default=5),
        stride=fields.size("subsampling_conv_stride", default=2),
    )
    layers = Integer(fields.size("num_hidden_layers", default=17))
    model = Encoder(front, (Segment("layers", layer, layers),), Integer(d), norm=NORM, head=head)
    return Reading(model, assumptions=(POSITIONS.replace("samples", "frames"), FOLDED))


def _ctc(fields: Fields) -> Reading:
    for key in ("ctc_loss_reduction", "ctc_zero_infinity"):
        fields.values.get(key)
    vocab = Integer(fields.size("vocab_size", default=512))
    return _encoded(fields.section("encoder_config"), PointHead(vocab))


def _encoder(fields: Fields) -> Reading:
    return _encoded(fields, None)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"lasr_ctc": _ctc, "lasr_encoder": _encoder})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"LasrForCTC": "lasr_ctc", "LasrEncoder": "lasr_encoder"}
)
