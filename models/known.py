"""Keys of configurations that no family needs to understand, and keys that none may miss."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.models.fields import Fields

#: Keys without influence on what a step computes, moves or stores.
HARMLESS = frozenset(
    {
        "activation_function",
        "altup_coef_clip",
        "apply_query_key_layer_scaling",
        "architectures",
        "attention_multiplier",
        "attention_sink_size",
        "attention_softmax_in_fp32",
        "auto_map",
        "bias_dropout_fusion",
        "cache_implementation",
        "chunk_size_feed_forward",
        "context_length",
        "context_window_size",
        "drop_path_rate",
        "dropout_rate",
        "dtype",
        "ep_size",
        "fp32_residual_connection",
        "freeze_mm_mlp_adapter",
        "id2label",
        "init_method",
        "init_std",
        "initial_context_length",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "keys_to_ignore_at_inference",
        "label2id",
        "layerdrop",
        "logit_scale_init_value",
        "masked_softmax_fusion",
        "max_length",
        "max_position_embeddings",
        "max_seq_len",
        "max_seq_length",
        "max_sequence_length",
        "max_window_layers",
        "mm_projector_lr",
        "model_max_length",
        "model_type",
        "mtp_num_hidden_layers",
        "mtp_num_layers",
        "mtp_transformer_layers",
        "mtp_use_dedicated_embeddings",
        "n_positions",
        "name_or_path",
        "num_logits_to_keep",
        "num_mtp_layers",
        "num_mtp_modules",
        "num_nextn_predict_layers",
        "offset_alibi",
        "original_max_position_embeddings",
        "original_rope",
        "out_features",
        "out_indices",
        "pos_embed_max_size",
        "prefill_chunk_size",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "query_pre_attn_scalar",
        "relative_attention_max_distance",
        "rescale_every",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "return_dict",
        "rotary",
        "rotary_emb_base",
        "runner_max_sequence_length",
        "scale_attention_softmax_in_fp32",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "scoring_func",
        "seq_length",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "sliding_window",
        "sliding_window_pattern",
        "sliding_window_size",
        "slow_but_exact",
        "stage_names",
        "swa_rope_theta",
        "swiglu_limit",
        "task_specific_params",
        "tensor_parallel_shards",
        "time_step_floor",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        "tokenizer_class",
        "topk_method",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "tune_mm_mlp_adapter",
        "unk_token_id",
        "use_cache",
        "use_mamba_kernels",
        "use_mem_eff_path",
        "use_mtp",
    }
)

#: Keys of sampling and of training that old files hold beside those of the model.
GENERATION = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "ignore_index",
        "length_penalty",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "tf_legacy_loss",
        "top_k",
        "top_p",
        "typical_p",
        "use_bfloat16",
    }
)

#: Keys of numbers that a step multiplies or clips by: whether there is one counts, not which.
VALUES = frozenset(
    {
        "attention_value_scale",
        "attn_logit_softcapping",
        "clip_qkv",
        "embedding_multiplier",
        "final_logit_softcapping",
        "layer_scale_init_value",
        "logit_scale",
        "logits_scaling",
        "logits_soft_cap",
        "residual_multiplier",
        "routed_scaling_factor",
        "scale_depth",
        "scale_emb",
    }
)

#: Keys that say how many modules for multi-token prediction a file holds: no part of a step,
#: and told where they are not counted.
AHEAD = (
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "num_mtp_modules",
    "num_mtp_layers",
    "mtp_num_layers",
)

#: Keys that hold, or name, a part of a model beside its language model, and what that is.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "audio_config": "an audio encoder",
        "audio_encoder": "an audio encoder",
        "audio_processor": "an audio encoder",
        "code2wav_config": "a vocoder",
        "embd_layer": "encoders of images and sound",
        "image_config": "a vision tower",
        "img_processor": "a vision tower",
        "mm_vision_tower": "a vision tower",
        "speech_config": "an audio encoder",
        "talker_config": "a speaking model",
        "video_config": "a vision tower",
        "vision_config": "a vision tower",
        "vision_encoder": "a vision tower",
        "vision_tower": "a vision tower",
        "vision_tower_config": "a vision tower",
        "visual": "a vision tower",
        "vit_config": "a vision tower",
    }
)

#: Beginnings and ends of names of the same kind.
_PREFIXES = ("_", "rope_", "output_", "summary_", "initializer_", "pretrain")
_SUFFIXES = (
    "_token_id", "_token_index", "_dropout", "dropout", "_dropout_prob", "_pdrop", "_eps",
    "_epsilon", "_loss_coef",
)  # fmt: skip

#: Keys that change the count where they are set; a dense decoder that did not look refuses.
COUNTED: Mapping[str, str] = MappingProxyType(
    {
        "add_cross_attention": "cross-attention",
        "attention_bias": "biases of attention",
        "hidden_size_per_layer_input": "embeddings per layer",
        "kv_lora_rank": "compressed caches",
        "lm_head_bias": "a bias of the projection to logits",
        "mamba_d_state": "state-space layers",
        "moe_num_experts": "experts",
        "n_routed_experts": "experts",
        "num_experts": "experts",
        "num_kv_shared_layers": "caches shared between layers",
        "mlp_layer_types": "dense layers among those with experts",
        "num_local_experts": "experts",
        "per_layer_config": "layers with sizes of their own",
        "q_lora_rank": "compressed queries",
        "use_cla": "caches shared between layers",
        "use_mla": "compressed caches",
    }
)


#: Keys that change the count where they are false; a family that did not look refuses.
USUALLY_ON: Mapping[str, str] = MappingProxyType(
    {
        "attn_output_gate": "attention without its gate",
        "decoder_bias": "a projection without bias",
        "do_layer_norm_before": "norms behind their blocks",
        "gated_mlp": "a feed-forward block without a gate",
        "is_causal": "attention in both directions",
        "layer_norm_elementwise_affine": "norms without weights",
        "multi_query": "as many key heads as query heads",
        "rms_norm": "another norm",
        "rmsnorm": "another norm",
        "tie_word_embeddings": "a projection to logits of its own",
        "use_conv_bias": "a convolution without bias",
        "use_qk_norm": "queries and keys without norms",
    }
)


#: Keys by which only some layers have experts, unless they are 1; a family that did not look
#: refuses.
EVERY = frozenset(
    {"decoder_sparse_step", "expert_layer_period", "interleave_moe_layer_step",
     "moe_every_n_layers", "moe_layer_freq", "moe_layer_interval"}
)  # fmt: skip


#: Keys that hold a count, whichever family reads them: a positive whole number.
COUNTS = frozenset(
    {
        "attention_chunk_size",
        "context_length",
        "experts_per_token",
        "hidden_size",
        "initial_context_length",
        "intermediate_size",
        "kv_channels",
        "max_position_embeddings",
        "max_seq_len",
        "max_sequence_length",
        "max_window_layers",
        "n_positions",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_mtp_modules",
        "num_nextn_predict_layers",
        "num_query_groups",
        "original_max_position_embeddings",
        "prefill_chunk_size",
        "seq_length",
        "sliding_window",
        "sliding_window_size",
        "vocab_size",
    }
)


#: Those of them that files write as -1 where there is none.
WINDOWS = frozenset({"attention_chunk_size", "sliding_window", "sliding_window_size"})
#: Those of them that may hold one count for each layer or stage.
LISTED = frozenset({"intermediate_size", "num_attention_heads"})
#: Those that may hold one count for each part by its name, as LXMERT's saved files do.
NAMED = frozenset({"num_hidden_layers"})

#: Keys that hold an object, whichever family reads them.
OBJECTS = frozenset(
    {
        "attn_config",
        "audio_config",
        "compression_config",
        "decoder",
        "encoder",
        "ffn_config",
        "language_config",
        "llm_config",
        "quantization_config",
        "rope_parameters",
        "rope_scaling",
        "text_config",
        "vision_config",
    }
)


#: Names of lists of the kinds of layers, and of their feed-forward blocks: one old, one new.
KINDS_TWICE = (
    ("layers_block_type", "layer_types", "hybrid_override_pattern", "hybrid_layer_pattern"),
    ("mlp_layer_types", "moe_layer_freq"),
)
#: Names of kinds to what they all are.
_MIXERS = MappingProxyType(
    {
        **dict.fromkeys(("*", "attention", "full_attention", "sliding_attention"), "attention"),
        **dict.fromkeys(("M", "mamba", "mamba2"), "mamba"),
        **dict.fromkeys(("-", "mlp", "dense"), "dense"),
        **dict.fromkeys(("E", "moe", "sparse"), "sparse"),
    }
)


def _kinds_agree(fields: Fields) -> None:
    """Refuses two lists of kinds of layers that part the layers differently.

    Names of kinds may differ, and one list may part further what is one kind in the other.

    Raises:
        ModelError: saying which lists, and where.
    """
    for names in KINDS_TWICE:
        found = {k: v for k in names if isinstance(v := fields.peek(k), (list, str)) and v}
        for (old, one), (new, other) in combinations(found.items(), 2):
            if len(one) != len(other):
                continue  # families know how many there must be
            pairs = list(dict.fromkeys((str(a), str(b)) for a, b in zip(one, other, strict=True)))
            parted = all(len(pairs) > len({pair[side] for pair in pairs}) for side in (0, 1))
            known = ({_MIXERS.get(kind, "") for kind in pair} - {""} for pair in pairs)
            if parted or any(len(kinds) > 1 for kinds in known):
                raise ModelError(
                    f"{fields.name}: {old!r} and {new!r} are two names of one thing, and "
                    f"contradict each other: {' and '.join(map('/'.join, pairs[:4]))}"
                )


def check_kinds(fields: Fields) -> None:
    """Refuses counts that are none and objects that are none, also where nothing reads them.

    Null, false, zero and empty things are switched off. Lists of kinds that contradict each other
    are refused, too.

    Raises:
        ModelError: saying which key.
    """
    _kinds_agree(fields)
    # Looked at apart, so that what nothing reads is still told.
    apart = Fields(fields.name, dict(fields.values))
    for key, value in apart.values.items():
        if value is None or (isinstance(value, (bool, int, float, str, list)) and not value):
            continue
        if key in LISTED and isinstance(value, list) and len(value) > 1:
            for one in value:
                Fields(fields.name, {key: one}).size(key)
        elif key in NAMED and isinstance(value, Mapping) and value:
            for one in value.values():
                Fields(fields.name, {key: one}).size(key)
        elif key in COUNTS:
            if not (key in WINDOWS and value == -1):
                apart.size(key)
        elif key in OBJECTS:
            check_kinds(apart.section(key))


def harmless(key: str) -> bool:
    """True for keys that are known not to change a count."""
    return (
        key in HARMLESS or key in GENERATION or key.startswith(_PREFIXES) or key.endswith(_SUFFIXES)
    )


def not_understood(fields: Fields) -> tuple[str, ...]:
    """Keys that a family did not look at and that might mean something.

    What is null or false is switched off, and empty things say nothing.
    """
    return tuple(key for key, value in fields.overlooked if value and not _harmless_at(key))


def _harmless_at(path: str) -> bool:
    return harmless(path) or harmless(path.rpartition(".")[2])


def parts_left_out(fields: Fields) -> str:
    """What stands beside the language model in a file and was not read; empty if nothing."""
    # A section was read where it was opened, a name where it was looked at.
    opened, missed = fields.opened, {path for path, _ in fields.overlooked}
    read = opened | {k for k in PARTS if isinstance(fields.peek(k), str) and k not in missed}
    left = [key for key in PARTS if fields.values.get(key) and key not in read]
    if not left:
        return ""
    named = " and ".join(f"{PARTS[key]} ({key!r})" for key in left)
    return f"the language model alone is counted, in time and memory: the file also holds {named}"


def _said_twice(fields: Fields, path: str, value: object) -> bool:
    """Whether a key that the family looked at says the same in the same section.

    GLM-5's files in NVFP4 say ``num_experts`` beside ``n_routed_experts``.

    Raises:
        ModelError: it says another number.
    """
    front, _, key = path.rpartition(".")
    level: Any = fields.values
    for name in front.split(".") if front else ():
        level = level[name]
    unread = {p for p, _ in fields.overlooked}
    for other, meaning in COUNTED.items():
        at = f"{front}.{other}" if front else other
        if meaning != COUNTED[key] or other == key or at in unread or level.get(other) is None:
            continue
        if level[other] != value:
            raise ModelError(
                f"{fields.name}: {key!r} = {clip(value)} and {other!r} = {clip(level[other])} are "
                "two names of one thing, and contradict each other"
            )
        return True
    return False


def refuse_counted(fields: Fields, family: str) -> None:
    """Refuses keys that change a count and that the family did not look at.

    Raises:
        ModelError: saying which key, and what it means.
    """
    for path, value in fields.overlooked:
        key = path.rpartition(".")[2]
        if key in COUNTED and value:
            if _said_twice(fields, path, value):
                continue
            raise ModelError(
                f"{fields.name}: {path!r} = {clip(value)} means {COUNTED[key]}, which the family "
                f"{family!r} does not have"
            )
        if key in EVERY and type(value) is int and value != 1:
            raise ModelError(
                f"{fields.name}: {path!r} = {value} means experts in some layers alone, which the "
                f"family {family!r} does not have"
            )
        section = path.rpartition(".")[0].rpartition(".")[2]
        if key == "tie_word_embeddings" and section in PARTS:
            continue  # what sees or hears has no logits
        if key in USUALLY_ON and value is False:
            raise ModelError(
                f"{fields.name}: {path!r} = False: {USUALLY_ON[key]}, which the family "
                f"{family!r} does not leave out"
            )
