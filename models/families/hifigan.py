"""HiFi-GAN, the vocoder beside SpeechT5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType

from costgraph.errors import ModelError, clip
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.vision import LARGEST_ENTRY, sizes
from costgraph.models.fields import Fields
from costgraph.models.hifigan import Vocoder, Voice

SAMPLES = "S counts frames, of {samples} samples each"
#: Residual steps of HiFi-GAN, which are laid out one by one.
MOST_STEPS = 256


def voice_of(fields: Fields) -> Voice:
    """HiFi-GAN's sizes.

    Raises:
        ModelError: they do not fit one another.
    """
    ratios = sizes(fields, "upsample_rates", (8, 8, 2, 2))
    kernels = sizes(fields, "upsample_kernel_sizes", (16, 16, 4, 4))
    if len(ratios) != len(kernels) or prod(ratios) > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'upsample_rates' do not fit 'upsample_kernel_sizes'")
    for ratio, kernel in zip(ratios, kernels, strict=True):
        if kernel < ratio or (kernel - ratio) % 2:
            raise ModelError(
                f"{fields.name}: 'upsample_kernel_sizes': {kernel} taps do not make a sound "
                f"{ratio} times as long: as many, or more by an even number"
            )
    wide = fields.size("upsample_initial_channel", default=512)
    if wide % 2 ** len(ratios) or wide > LARGEST_ENTRY:
        raise ModelError(
            f"{fields.name}: 'upsample_initial_channel' = {wide} is not halved {len(ratios)} times"
        )
    taps = sizes(fields, "resblock_kernel_sizes", (3, 7, 11))
    given = fields.values.get("resblock_dilation_sizes", [[1, 3, 5]] * 3)
    if not isinstance(given, list) or len(given) != len(taps) or any(n % 2 == 0 for n in taps):
        raise ModelError(
            f"{fields.name}: 'resblock_kernel_sizes' and 'resblock_dilation_sizes' = "
            f"{clip(given)}: as many lists as odd numbers"
        )
    gaps = tuple(sizes(Fields(fields.name, {"resblock_dilation_sizes": each}),
                       "resblock_dilation_sizes") for each in given)  # fmt: skip
    steps = len(ratios) * sum(map(len, gaps))
    if steps > MOST_STEPS:
        raise ModelError(f"{fields.name}: {steps} residual steps are beyond {MOST_STEPS}")
    return Voice(wide, ratios, kernels, taps, gaps)


def _hifigan(fields: Fields) -> Reading:
    named = fields.with_defaults(upsample_rates=[4, 4, 4, 4], upsample_kernel_sizes=[8, 8, 8, 8])
    mels = fields.size("model_in_dim", default=80)
    for key in ("sampling_rate", "leaky_relu_slope"):
        fields.values.get(key)
    voice = replace(voice_of(named), bias=True)
    model = Vocoder(mels, voice, fields.flag("normalize_before", True))
    return Reading(model, assumptions=(SAMPLES.format(samples=voice.samples),))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    # Files of transformers 5 have the longer name.
    {"hifigan": _hifigan, "speecht5_hifigan": _hifigan}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"SpeechT5HifiGan": "hifigan"})
