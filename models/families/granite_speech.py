"""Granite Speech: Granite behind a Conformer and a Q-Former."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.language import before, language
from costgraph.models.fields import Fields, divided
from costgraph.models.granite_ears import BlockLayer, GraniteEars
from costgraph.symbols import G

ADAPTER = (
    "'has_lora_adapter': what a file of its own adds to the language model where it hears is not "
    "counted"
)


def _heads(fields: Fields, d: int, heads: int, key: str = "") -> Integer:
    if key and fields.values.get(key) is not None:
        return Integer(fields.size(key))
    return Integer(int(divided(fields, d, heads, "hidden size over heads")))


def _beside(heard: Fields, layers: int) -> tuple[int, ...]:
    """Layers whose results stand beside those of the last: ``cat_hidden_layers``, rising.

    Raises:
        ModelError: they are no layers, or one is named twice.
    """
    key = "cat_hidden_layers"
    found = heard.values.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > layers:
        raise ModelError(f"{heard.name}: {key!r} must be a list of layers, not {clip(found)}")
    if any(type(n) is not int or not 0 <= n < layers for n in found):
        raise ModelError(f"{heard.name}: {key!r} = {clip(found)}: there are {layers} layers")
    if len(set(found)) != len(found):
        raise ModelError(f"{heard.name}: {key!r} = {clip(found)} names a layer twice")
    return tuple(sorted(found))


def _granite_speech(fields: Fields, joined: bool = False) -> Reading:
    stack, reading = language(fields, "granite", tied=True)
    heard = fields.section("encoder_config").renamed(
        hidden_dim="hidden_size", num_layers="num_hidden_layers",
        num_heads="num_attention_heads", input_dim="num_mel_bins",
    )  # fmt: skip
    d, heads = heard.size("hidden_dim", default=1024), heard.size("num_heads", default=8)
    layers, kernel = (
        heard.size("num_layers", default=10),
        heard.size("conv_kernel_size", default=15),
    )
    if layers < 2 or kernel % 2 == 0:
        raise ModelError(f"{heard.name}: 'num_layers' must be two at least, 'conv_kernel_size' odd")
    block, rows = heard.size("context_size", default=200), heard.size("max_pos_emb", default=512)
    if block > rows:
        raise ModelError(f"{heard.name}: 'context_size' = {block} exceeds 'max_pos_emb' = {rows}")
    asked = fields.section("projector_config").with_defaults(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        encoder_hidden_size=1408,
    )  # fmt: skip
    asked.require("model_type", "blip_2_qformer")
    asked.refuse("use_qformer_text_input", "queries beside text are not supported")
    for key in ("vocab_size", "max_position_embeddings", "position_embedding_type"):
        asked.values.get(key)  # of tables of words that the class does not have
    beside = _beside(heard, layers) if joined else ()
    made = d * (len(beside) + 1)
    if asked.size("encoder_hidden_size") != made:
        raise ModelError(f"{asked.name}: 'encoder_hidden_size' must be the encoder's {made}")
    wide, many = asked.size("hidden_size"), asked.size("num_attention_heads")
    window, shrunk = (
        fields.size("window_size", default=15),
        fields.size("downsample_rate", default=5),
    )
    if window % shrunk:
        raise ModelError(f"{fields.name}: 'window_size' = {window} is no multiple of {shrunk}")
    if fields.flag("has_lora_adapter", True):
        fields.tell(ADAPTER)
    act = activation_of(asked, "hidden_act", default="gelu")
    inner = Integer(asked.size("intermediate_size"))
    layer = BlockLayer(
        length=G * window / (window // shrunk),
        at=Heads(Integer(d), Integer(heads), _heads(heard, d, heads, "dim_head"), out_bias=True),
        feed=FeedForward(
            Integer(d),
            Integer(d * heard.size("feedforward_mult", default=4)),
            "silu",
            gated=False,
            bias=True,
        ),
        block=Integer(block),
        rows=Integer(2 * rows + 1),
        kernel=kernel,
        inner=Integer(d * heard.size("conv_expansion_factor", default=2)),
    )
    ears = GraniteEars(
        mels=Integer(heard.size("input_dim", default=160)),
        layer=layer,
        layers=layers,
        letters=Integer(heard.size("output_dim", default=42)),
        window=Integer(window),
        queries=Integer(window // shrunk),
        asked=Heads(Integer(wide), Integer(many), _heads(asked, wide, many), True, True, True),
        fed=FeedForward(Integer(wide), inner, act, gated=False, bias=True),
        rounds=asked.size("num_hidden_layers"),
        every=asked.size("cross_attention_frequency", default=2),
        out=stack.ends.d,
        beside=beside,
    )
    return before(stack, reading, ears)


def _granite_speech_plus(fields: Fields) -> Reading:
    """The queries see what several layers of the encoder make, side by side."""
    return _granite_speech(fields, joined=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"granite_speech": _granite_speech, "granite_speech_plus": _granite_speech_plus}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "GraniteSpeechForConditionalGeneration": "granite_speech",
        "GraniteSpeechPlusForConditionalGeneration": "granite_speech_plus",
    }
)
