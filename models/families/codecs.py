"""Codecs of sound: EnCodec, DAC and Mimi."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import ceil, floor, log2, prod
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.codecs import Dac, Encodec
from costgraph.models.families.common import Family, Reading, activation_of, heads_of
from costgraph.models.families.vision import LARGEST_ENTRY, MOST_ENTRIES, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.mimi import Mimi

STEP = "S counts steps of {samples} samples, each a code from {books} codebooks: to codes and back"
BUFFERS = "codebooks are buffers of the published class, and no parameters"
#: Most codebooks.
MOST_BOOKS = 128


def _bounded(fields: Fields, *values: int) -> None:
    if max(values) > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: a width of {max(values)} is beyond {LARGEST_ENTRY}")


def _ratios(fields: Fields, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = sizes(fields, key, default)
    if len(found) > 16 or prod(found) > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: {key!r} = {list(found)} makes too many samples a step")
    return found


def _books(fields: Fields, size: int, hop: int) -> int:
    """Codebooks of the first bandwidth, which the published class takes where none is asked for."""
    rate, bands = fields.size("sampling_rate", default=24_000), fields.values.get(
        "target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0]
    )  # fmt: skip
    whole = isinstance(bands, list) and 0 < len(bands) <= MOST_ENTRIES
    if not whole or any(type(n) not in (int, float) or not 0 < n < 1e6 for n in bands):
        raise ModelError(f"{fields.name}: 'target_bandwidths' must be numbers, not {clip(bands)}")
    if size & (size - 1):
        raise ModelError(f"{fields.name}: 'codebook_size' = {size} must be a power of two")
    if any(a >= b for a, b in pairwise(bands)):
        raise ModelError(f"{fields.name}: 'target_bandwidths' = {bands} must grow")
    frames, bits = ceil(rate / hop), size.bit_length() - 1
    most = int(1000 * bands[-1] // (frames * bits)) if bits else 0
    count = min(most, max(1, floor(bands[0] * 1000 / (log2(size) * frames)))) if bits else 0
    if not 0 < count <= MOST_BOOKS:
        raise ModelError(f"{fields.name}: bandwidths of {bands} make {count} codebooks")
    return count


def _chunk(fields: Fields, hop: int) -> int | None:
    """Steps of the longest sound that is not cut into chunks."""
    if fields.values.get("chunk_length_s") is None:
        fields.values.get("overlap")
        return None
    seconds, share = fields.number("chunk_length_s", 1.0), fields.number("overlap", 0.0)
    steps = int(seconds * fields.size("sampling_rate", default=24_000)) // hop
    if not 0 < steps <= LARGEST_ENTRY or not 0 <= share < 1:
        raise ModelError(f"{fields.name}: chunks of {seconds} s that overlap by {share}")
    return steps


def _convolutions(fields: Fields) -> dict[str, Any]:
    """What the convolutions of EnCodec's kin are.

    Raises:
        ModelError: a width is not divided, or there are too many layers.
    """
    ratios = _ratios(fields, "upsampling_ratios", (8, 5, 4, 2))
    d, wide = fields.size("hidden_size", default=128), fields.size("num_filters", default=32)
    for key in ("use_causal_conv", "pad_mode", "trim_right_ratio"):
        fields.values.get(key)  # which side is padded and cut, not by how much
    less = fields.size("compress", default=2)
    if wide % less:
        raise ModelError(f"{fields.name}: 'num_filters' = {wide} over 'compress' = {less}")
    taps = tuple(
        fields.size(key, default=default)
        for key, default in (
            ("kernel_size", 7),
            ("last_kernel_size", 7),
            ("residual_kernel_size", 3),
        )
    )
    layers = fields.size("num_residual_layers", default=1)
    growth = fields.size("dilation_growth_rate", default=2)
    if layers > MOST_ENTRIES or layers * growth.bit_length() > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {layers} residual layers")
    _bounded(fields, d, wide * 2 ** len(ratios), *taps)
    return {
        "channels": fields.size("audio_channels", default=1),
        "ratios": ratios[::-1],
        "wide": wide,
        "d": d,
        "taps": taps,
        "residuals": layers,
        "growth": growth,
        "less": less,
        "short": fields.flag("use_conv_shortcut", True),
    }


def encodec(fields: Fields) -> Reading:
    """EnCodec, alone or beside what makes its codes."""
    common = _convolutions(fields)
    hop, d = prod(common["ratios"]), common["d"]
    size = fields.size("codebook_size", default=1024)
    kind = fields.word("norm_type", default="weight_norm")
    if kind not in ("weight_norm", "time_group_norm"):
        raise ModelError(f"{fields.name}: 'norm_type' = {clip(kind)} is not known")
    narrow = fields.size("codebook_dim", default=d)
    if narrow != d:
        raise ModelError(f"{fields.name}: 'codebook_dim' must be 'hidden_size' = {d}")
    books = _books(fields, size, hop)
    steps = fields.size("num_lstm_layers", default=2)
    if steps > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {steps} layers of an LSTM")
    model = Encodec(
        **common,
        longest=_chunk(fields, hop),
        books=books,
        size=size,
        narrow=narrow,
        level=fields.flag("normalize", False),
        recurrent=steps,
        gains=kind == "weight_norm",
    )
    said = STEP.format(samples=model.samples, books=books)
    return Reading(model, assumptions=(said, BUFFERS))


def _mimi(fields: Fields) -> Reading:
    """Mimi: EnCodec's convolutions, without norms and LSTMs."""
    named = fields.with_defaults(
        upsampling_ratios=[8, 6, 5, 4],
        hidden_size=512,
        num_filters=64,
        last_kernel_size=3,
        use_conv_shortcut=False,
        codebook_size=2048,
        intermediate_size=2048,
        num_attention_heads=8,
        num_hidden_layers=8,
        hidden_act="gelu",
    )
    d, narrow = named.size("hidden_size"), fields.size("codebook_dim", default=256)
    if fields.size("vector_quantization_hidden_dimension", default=256) != narrow:
        raise ModelError(
            f"{fields.name}: 'vector_quantization_hidden_dimension' must be {narrow}, the "
            "'codebook_dim'"
        )
    books, meaning = (
        fields.size(key, default=default)
        for key, default in (("num_quantizers", 32), ("num_semantic_quantizers", 1))
    )
    if not meaning < books <= MOST_BOOKS:
        raise ModelError(
            f"{fields.name}: 'num_semantic_quantizers' = {meaning} of 'num_quantizers' = {books}"
        )
    common, size = _convolutions(named), named.size("codebook_size")
    rate, hop = fields.size("sampling_rate", default=24_000), prod(common["ratios"])
    wanted = fields.number("frame_rate", rate / (2 * hop))
    stride = int(ceil(rate / hop) / wanted) if wanted > 0 else 0
    if not 1 < stride <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: 'frame_rate' = {wanted} of {ceil(rate / hop)} a second")
    groups = fields.size("upsample_groups", default=512)
    divided(fields, d, groups, "hidden size over 'upsample_groups'")
    heads, kv_heads, width = heads_of(named.with_defaults(num_key_value_heads=8), d)
    bias = fields.flag("attention_bias", False)
    for key in ("use_streaming", "layer_scale_initial_scale"):
        fields.values.get(key)  # one whole sound; values of scales
    feed = FeedForward(
        Integer(d), Integer(named.size("intermediate_size")), activation_of(named, "hidden_act"),
        gated=False,
    )  # fmt: skip
    at = Heads(Integer(d), Integer(heads), width, bias, bias, bias, rotary=width,
               kv_heads=Integer(kv_heads))  # fmt: skip
    model = Mimi(
        **common,
        longest=None,
        books=books,
        size=size,
        narrow=narrow,
        level=False,
        recurrent=0,
        gains=False,
        at=at,
        feed=feed,
        layers=named.size("num_hidden_layers"),
        window=Integer(fields.size("sliding_window", default=250)),
        stride=stride,
        groups=groups,
        meaning=meaning,
    )
    return Reading(model, assumptions=(STEP.format(samples=model.samples, books=books), BUFFERS))


def _dac(fields: Fields) -> Reading:
    ratios = _ratios(fields, "downsampling_ratios", (2, 4, 8, 8))
    wide = fields.size("encoder_hidden_size", default=64)
    top, d = fields.size("decoder_hidden_size", default=1536), wide * 2 ** len(ratios)
    fields.require("upsampling_ratios", list(ratios[::-1]), None)
    fields.require("hidden_size", d, None)
    fields.require("hop_length", prod(ratios), None)
    for key in ("sampling_rate", "quantizer_dropout", "commitment_loss_weight",
                "codebook_loss_weight"):  # fmt: skip
        fields.values.get(key)
    books, size = fields.size("n_codebooks", default=9), fields.size("codebook_size", default=1024)
    if size & (size - 1) or books > MOST_BOOKS:
        raise ModelError(f"{fields.name}: {books} codebooks of {size}: a power of two is needed")
    if top % 2 ** len(ratios):
        raise ModelError(f"{fields.name}: 'decoder_hidden_size' = {top} is halved {len(ratios)}x")
    _bounded(fields, d, top)
    narrow = fields.size("codebook_dim", default=8)
    model = Dac(1, None, ratios, wide, d, books, size, narrow, False, top)
    return Reading(model, assumptions=(STEP.format(samples=prod(ratios), books=books),))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"encodec": encodec, "dac": _dac, "mimi": _mimi})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"EncodecModel": "encodec", "DacModel": "dac", "MimiModel": "mimi"}
)
