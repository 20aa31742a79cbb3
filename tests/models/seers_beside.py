"""Keys of models that see which change nothing beside the other keys.

As in :mod:`tests.models.encoders_beside`: model types, why, and the keys.
"""

from __future__ import annotations

from tests.models.beside import each_key

_LINES = (
    (
        "instructblipvideo",
        "what follows from the type of the language model",
        "use_decoder_only_language_model",
    ),
    (
        "deepseek_vl_hybrid",
        "the whole model's stands above it",
        "text_config.tie_word_embeddings",
    ),
    (
        "sam3",
        "what follows from other sizes; of what reads examples, which rests in memory",
        "geometry_encoder_config.num_attention_heads vision_config.backbone_feature_sizes",
    ),
    (
        "sam3_tracker",
        "what follows from other sizes",
        "vision_config.backbone_feature_sizes",
    ),
)

#: (model type, key or path of a key) to the reason.
BESIDE = each_key(_LINES)
#: Small files of these families.
NAMES = (
    "sam3-small", "sam3-tracker-small", "oneformer-small", "deepseek-vl-hybrid-small",
    "vitdet-small", "pixio-small", "lxmert-small", "flava-small", "mlcd-small",
    "instructblipvideo-small",
)  # fmt: skip
