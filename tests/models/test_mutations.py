"""A key of a real configuration is changed or dropped: the count follows, or it refuses.

What may stay silently the same stands in one place, ``models/known.py``: keys without
influence, and numbers of which only the presence counts. The few others are listed here with
the reason.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from costgraph.errors import CostgraphError
from costgraph.models.catalog import CONFIGS
from costgraph.models.fields import SECTIONS
from costgraph.models.hf import import_config
from costgraph.models.known import VALUES, harmless
from tests.models import encoders_beside, parts_beside, seers_beside, sounds_beside

DROP = object()
#: Keys of a configuration that are changed: with a seed, so that all come in turn.
MOST = 12
#: What changes nothing beside the other keys of the same file, and why.
BESIDE = {
    ("dots3_note_text", "num_key_value_heads"): "latent attention has those of its queries",
    ("dots3_note_text", "swa_num_key_value_heads"): "latent attention has those of its queries",
    ("ernie4_5_moe", "moe_layer_end_index"): "behind the last layer it says what the last one says",
    ("falcon_h1", "mamba_expand"): "the width itself is said",
    ("inkling_text", "log_scaling_n_floor"): "whether there is one counts, not which",
    ("laguna", "num_attention_heads"): "each layer has its own",
    ("mistral_large4_text", "num_key_value_heads"): "latent attention has those of its queries",
    ("mistral_large4_text", "tie_word_embeddings"): "the class has no logits",
    ("qwen4_exp_text", "seed"): "of tables that hash words",
    ("qwen4_exp_text", "split_ngram_parts"): "how the file cuts those tables",
    ("glm5_next_text", "tie_word_embeddings"): "the class has no logits",
    ("nemotron_h", "n_shared_experts"): "the width of all shared ones is said",
    ("xlstm", "tie_word_embeddings"): "the class has a projection of its own",
    ("transfo-xl", "clamp_len"): "distances beyond it are one row of a table as long",
    ("transfo-xl", "tgt_len"): "of training",
    ("transfo-xl", "ext_len"): "of training",
    ("transfo-xl", "sample_softmax"): "of training",
    ("xlnet", "clamp_len"): "distances beyond it are one row of a table as long",
    ("xlnet", "use_mems_eval"): "without a length there is no memory",
    ("xlnet", "reuse_len"): "how many enter a memory that there is, as the program says",
    ("xlnet", "same_length"): "both ways are seen, as far as there is",
    ("xlnet", "use_mems_train"): "of training",
    ("xlnet", "untie_r"): "as many products either way",
    ("bloom", "apply_residual_connection_post_layernorm"): "another operand of the same sum",
    ("deepseek_v2", "n_group"): "only group_limited_greedy has groups",
    ("falcon", "num_kv_heads"): "multi_query stands above it",
    ("falcon_mamba", "expand"): "intermediate_size stands above it",
    ("mamba", "expand"): "intermediate_size stands above it",
    ("lfm2", "block_multiple_of"): "the width is a multiple of both",
    ("llada", "vocab_size"): "embedding_size stands above it",
    ("qwen2", "use_sliding_window"): "max_window_layers is beyond the last layer",
    ("qwen2_vl", "use_sliding_window"): "max_window_layers is beyond the last layer",
    ("qwen2_5_vl", "use_sliding_window"): "max_window_layers is beyond the last layer",
    ("qwen3", "use_sliding_window"): "there is no window",
    ("qwen3_moe", "use_sliding_window"): "there is no window",
    ("granitemoehybrid", "position_embedding_type"): "only 'rope' is told from the rest",
    ("qwen3_5", "mlp_only_layers"): "every layer is dense",
    ("gemma4", "use_double_wide_mlp"): "no layer reads another's cache",
    ("gemma4", "vocab_size_per_layer_input"): "layers have no inputs of their own",
    ("gemma4", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("gemma4", "default_output_length"): "the class reads vision_soft_tokens_per_image",
    ("gemma4", "global_head_dim"): "in the tower: it has no such layers",
    ("gemma4", "vision_soft_tokens_per_image"): "G says how many; with image= it counts",
    ("lfm2_vl", "block_multiple_of"): "the width is a multiple of both",
    ("paligemma", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("paligemma", "vocab_size"): "the text part has its own",
    ("paligemma", "hidden_size"): "the class reads projection_dim",
    ("paligemma", "projection_dim"): "in the tower: the class overwrites it",
    ("PixArtTransformer2DModel", "norm_num_groups"): "the class has no group norm",
    ("PixArtTransformer2DModel", "num_embeds_ada_norm"): "of ada_norm_single only that it is there",
    ("PixArtTransformer2DModel", "interpolation_scale"): "a scale of fixed positions",
    ("QwenImageTransformer2DModel", "guidance_embeds"): "the class does not read it",
    ("internvl", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("internvl", "image_seq_length"): "of the processor; the tower's grid says how many",
    ("internvl", "patch_size"): "a list of one side is a square",
    ("mistral3", "image_size"): "G says how many; with image= it counts",
    ("llava_next", "image_grid_pinpoints"): "G says how many; with image= they count",
    ("llava_onevision", "image_grid_pinpoints"): "G says how many; with image= they count",
    ("llava_onevision", "vision_aspect_ratio"): "G says how many; with image= it counts",
    ("mistral3", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("kimi_k25", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("kimi_k25", "pos_emb_time"): "a fixed table that a still image does not read",
    ("voxtral", "vocab_size"): "in the encoder, which has none",
    ("llava_next", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("glm4v_moe", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("cohere2_vision", "tie_word_embeddings"): "in the text part: the whole model's stands above",
    ("aya_vision", "tie_word_embeddings"): "in the text part: the whole model's stands above it",
    ("internvl_vision", "patch_size"): "a list of one side is a square",
    ("gte", "tie_word_embeddings"): "the class has no logits",
    ("mpnet", "tie_word_embeddings"): "the class has no logits",
    ("distilbert", "tie_word_embeddings"): "the class has no logits",
    ("distilbert", "sinusoidal_pos_embds"): "the values of a table that is there either way",
    ("ZImageTransformer2DModel", "all_f_patch_size"): "the list has one entry: the same again",
    ("vipllava", "image_seq_length"): "of the processor; the tower's grid says how many",
    ("video_llava", "image_seq_length"): "of the processor; the tower's grid says how many",
    ("video_llava", "video_seq_length"): "of the processor; videos are not counted",
    **encoders_beside.BESIDE,
    **parts_beside.BESIDE,
    **sounds_beside.BESIDE,
    **seers_beside.BESIDE,
    # How the image processor cuts images: G says how many tokens there are.
    **{
        ("lfm2_vl", key): "of the image processor"
        for key in ("encoder_patch_size", "tile_size", "max_tiles", "min_tiles", "use_thumbnail",
                    "max_image_tokens", "min_image_tokens", "max_pixels_tolerance",
                    "do_image_splitting", "use_image_special_tokens")
    },
}  # fmt: skip
#: Files of models that see, hear or draw, one a family; all of their keys are changed.
SEEING = Path(__file__).parent / "counted" / "configs"
TOWERS = ("gemma-4-26b-a4b", "lfm2.5-vl-1.6b", "paligemma-default", "pixart-512", "qwen-image",
          "internvl-default", "mistral3-default", "kimi-k2.5-small", "voxtral-mini-3b",
          "mt5-default", "llava-next-default", "glm-4.1v-small", "glm-4.5v-small", "glm-ocr-small",
          "command-a-vision-small", "aya-vision-small", "siglip-default", "dinov2-default",
          "internvit-default", "moonshine-default", "mbart-small", "gte-small", "mpnet-small",
          "nomic-bert-small", "distilbert-small", "eurobert-small", "flux-2-default",
          "z-image-small", "ovis2-small", "vipllava-small", "video-llava-small",
          "gemma4-unified-small", "ernie-4.5-vl-small", "qwen3-asr-small",
          "omni-moe-thinker-small")  # fmt: skip


def _family(config: dict[str, Any]) -> str:
    return str(config.get("model_type") or config.get("_class_name"))


def _one_a_family() -> list[str]:
    found: dict[str, str] = {}
    for path in sorted(CONFIGS.glob("*.json")):
        found.setdefault(_family(json.loads(path.read_text())), path.stem)
    return sorted(found.values())


def _beside(config: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Is the key listed, by itself or with the part that it stands in?"""
    return any((_family(config), key) in BESIDE for key in (path[-1], ".".join(path)))


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 4
    if isinstance(value, str):
        return "heron"
    if isinstance(value, list):
        return value[:-1] or [1]
    return 4


def _paths(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        if isinstance(value, dict):
            if key in SECTIONS or (key.endswith("_config") and key != "quantization_config"):
                yield from ((key, inner) for inner, v in value.items() if not isinstance(v, dict))
        else:
            yield (key,)


@pytest.mark.parametrize(
    "name",
    [
        *TOWERS,
        *encoders_beside.NAMES,
        *parts_beside.NAMES,
        *sounds_beside.NAMES,
        *seers_beside.NAMES,
    ],
)
def test_keys_of_models_with_towers(name: str) -> None:
    _all_followed(name, json.loads((SEEING / f"{name}.json").read_text()))


SMALL: dict[str, Any] = json.loads((SEEING.parent / "small.json").read_text())


@pytest.mark.parametrize("name", SMALL)
def test_keys_of_small_models(name: str) -> None:
    entry = SMALL[name]
    _all_followed(name, {**entry["config"], "architectures": [entry["class"]]})


def _all_followed(name: str, config: dict[str, Any]) -> None:
    """Every key of a file is followed, told, or refused where it is changed."""
    base = import_config(config, name)
    told = " ".join(base.notes)
    paths = [
        path
        for path in _paths(config)
        if not harmless(path[-1]) and path[-1] not in VALUES and not _beside(config, path)
    ]
    for path in paths:
        value = config
        for key in path:
            value = value[key]
        try:
            changed = import_config(_with(config, path, _other(value)), name)
        except CostgraphError:
            continue
        said = f"'{'.'.join(path)}'" in told
        assert changed != base or said, f"{path} = {_other(value)!r} changes nothing in silence"


def _with(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    at = copy
    for key in path[:-1]:
        at = at[key]
    if value is DROP:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", _one_a_family())
def test_a_changed_key_is_followed_or_refused(name: str) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    base = import_config(config, name)
    told = " ".join(base.notes)
    paths = [
        path
        for path in _paths(config)
        if not harmless(path[-1]) and path[-1] not in VALUES and not _beside(config, path)
    ]
    for path in random.Random(7).sample(paths, min(MOST, len(paths))):
        value = config
        for key in path:
            value = value[key]
        with suppress(CostgraphError):
            # Refused, or the family's default: the same only where that is the value.
            import_config(_with(config, path, DROP), name)
        try:
            changed = import_config(_with(config, path, _other(value)), name)
        except CostgraphError:
            continue
        said = f"'{'.'.join(path)}'" in told
        assert changed != base or said, f"{path} = {_other(value)!r} changes nothing in silence"
