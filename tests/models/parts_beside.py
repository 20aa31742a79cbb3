"""Keys of models of several parts that change nothing beside the other keys.

As in :mod:`tests.models.encoders_beside`: model types, why, and the keys.
"""

from __future__ import annotations

from tests.models.beside import each_key

_LINES = (
    (
        "aria cosmos3_edge granite_speech_plus minicpm_ocr",
        "in the text part: the whole model's stands above it",
        "text_config.tie_word_embeddings",
    ),
    (
        "chameleon",
        "how the first code cut the norms of heads",
        "model_parallel_size",
    ),
    (
        "colmodernvbert modernvbert",
        "the whole model's stands above it, or there are no logits",
        "tie_word_embeddings",
    ),
    (
        "deepseek_ocr2",
        "groups that the greedy choice of experts does not make; the whole model's stands above it",
        "text_config.n_group text_config.tie_word_embeddings text_config.topk_group",
    ),
    (
        "dia",
        "how many steps the codes of each codebook are late",
        "delay_pattern",
    ),
    (
        "granite_speech_plus",
        "of another class of queries",
        "projector_config.vocab_size",
    ),
    (
        "musicgen_melody",
        "of the decoder of the text's type, or how many sounds; of a codec that rests in memory",
        "add_cross_attention audio_channels chunk_length_s codebook_size dilation_growth_rate "
        "normalize num_decoder_layers overlap pad_mode scale_decoder_outputs trim_right_ratio "
        "use_causal_conv",
    ),
    (
        "visual_bert",
        "values of tables, and logits that the class does not have",
        "special_visual_initialize tie_word_embeddings",
    ),
    (
        "minicpm_ocr",
        "the whole model repeats what its tower has",
        "patch_size",
    ),
    (
        "inkling_mm_model",
        "from which position a scale grows; the whole model's stands above it",
        "text_config.log_scaling_n_floor text_config.tie_word_embeddings",
    ),
    (
        "kyutai_speech_to_text",
        "of a codec that rests in memory, and what follows from it",
        "codebook_size dilation_growth_rate frame_size layer_scale_initial_scale num_quantizers "
        "num_semantic_quantizers pad_mode sampling_rate trim_right_ratio use_causal_conv "
        "use_streaming codec_config.tie_word_embeddings",
    ),
)

#: (model type, key or path of a key) to the reason.
BESIDE = each_key(_LINES)
#: Small files of these families.
NAMES = (
    "aria-small", "canary-small", "chameleon-small", "cohere-asr-small", "colmodernvbert-small",
    "cosmos3-edge-small", "deepseek-ocr2-small", "dia-small", "granite-speech-plus-small",
    "inkling-small", "kyutai-stt-small",
    "minicpm-ocr-small", "modernvbert-labels-small", "musicgen-melody-small",
    "visualbert-answers-small",
)  # fmt: skip
