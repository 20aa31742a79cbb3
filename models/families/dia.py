"""Dia: an encoder of bytes, and a decoder of codes of a dialogue's sound."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.families.common import Family, Reading, activation_of, rotary_of
from costgraph.models.families.sounding import STEPS
from costgraph.models.fields import Fields
from costgraph.models.sounding import Codes

RMS = Norm()
CODEC = "the codec that makes sound of codes is a file of its own: it is not counted"


def _heads(fields: Fields, d: int, prefix: str = "", turned: bool = True) -> Heads:
    """Heads of one attention: ``prefix`` of its keys; ``turned``: by a rotary table."""
    many, few, width = (
        fields.size(f"{prefix}{key}")
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if many % few:
        raise ModelError(f"{fields.name}: {many} heads are no multiple of {few}")
    rotary = rotary_of(fields, Integer(width), 1.0) if turned else None
    return Heads(Integer(d), Integer(many), Integer(width), rotary=rotary, kv_heads=Integer(few))


def _feed(fields: Fields, d: int) -> FeedForward:
    act = activation_of(fields, "hidden_act", default="silu")
    return FeedForward(Integer(d), Integer(fields.size("intermediate_size")), act,
                       fused_gate_up=True)  # fmt: skip


def _dia(fields: Fields) -> Reading:
    read = fields.section("encoder_config").with_defaults(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=16, head_dim=128, vocab_size=256,
    )  # fmt: skip
    said = fields.section("decoder_config").with_defaults(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=18, num_attention_heads=16,
        num_key_value_heads=4, head_dim=128, cross_num_attention_heads=16, cross_head_dim=128,
        cross_num_key_value_heads=16, vocab_size=1028,
    )  # fmt: skip
    wide, d = read.size("hidden_size"), said.size("hidden_size")
    if said.size("cross_hidden_size", default=1024) != wide:
        raise ModelError(f"{said.name}: 'cross_hidden_size' must be the encoder's {wide}")
    books = said.size("num_channels", default=9)
    fields.values.get("delay_pattern")  # how many steps the codes of each codebook are late
    at = _heads(read, wide)
    layer = Layer(Integer(wide), Bidirectional(at), _feed(read, wide), RMS)
    encoder = Encoder(
        front=TextFront(Ends(Integer(wide), Integer(read.size("vocab_size")))),
        segments=(Segment("encoder", layer, Integer(read.size("num_hidden_layers"))),),
        d=Integer(wide),
        norm=RMS,
    )
    model = Codes(
        encoder=encoder,
        layer=CrossLayer(
            Integer(d),
            _heads(said, d),
            _heads(said, d, "cross_", turned=False),
            _feed(said, d),
            RMS,
        ),
        layers=Integer(said.size("num_hidden_layers")),
        ends=Ends(Integer(d), Integer(said.size("vocab_size")), norm=RMS),
        shared=(),
        books=books,
        spare=0,
        placed=False,
    )
    return Reading(model, assumptions=(STEPS, CODEC))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"dia": _dia})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"DiaForConditionalGeneration": "dia"})
