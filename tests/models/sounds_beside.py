"""Keys of models that hear, speak or forecast that change nothing beside the other keys.

As in :mod:`tests.models.encoders_beside`: model types, why, and the keys.
"""

from __future__ import annotations

from tests.models.beside import each_key

_LINES = (
    (
        "sew sew-d",
        "of training, or of another class; of masks only their presence counts",
        "apply_spec_augment ctc_loss_reduction ctc_zero_infinity mask_feature_length "
        "mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks "
        "mask_time_prob",
    ),
    (
        "fun_asr_nano moss_transcribe_diarize",
        "the whole model's stands above it",
        "text_config.tie_word_embeddings",
    ),
    (
        "patchtst",
        "of another class, or of answers that have a distribution",
        "distribution_output num_targets",
    ),
    ("sew", "of another class", "classifier_proj_size"),
    ("sew-d", "of another class", "vocab_size"),
    (
        "voxtral_realtime",
        "of Whisper's files, which the encoder has no part for; the whole model's stands above it",
        "audio_config.vocab_size text_config.tie_word_embeddings",
    ),
)

#: (model type, key or path of a key) to the reason.
BESIDE = each_key(_LINES)
#: Small files of these families.
NAMES = (
    "fun-asr-small",
    "moss-transcribe-small",
    "patchtst-small",
    "time-series-small",
    "moonshine-streaming-small",
    "sew-small",
    "sew-d-small",
    "vibevoice-asr-small",
    "voxtral-realtime-small",
)
