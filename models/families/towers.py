"""Towers of models that see or hear, as models of their own: the files of their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.models.blocks.eyes import Eyes, PatchTower
from costgraph.models.blocks.projector import Beside, Steps
from costgraph.models.families.aliased import glimmer_tower, turned_tower
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.glm_seeing import glm_tower
from costgraph.models.families.hearing import omni_ears, shrunk_ears
from costgraph.models.families.hunyuan_seeing import hunyuan4_tower, ocr_tower
from costgraph.models.families.multimodal import qwen2_tower, qwen3_tower, windowed_tower
from costgraph.models.families.patched import exaone_tower, moon_tower, pixtral_tower
from costgraph.models.families.seeing import siglip_tower
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Watching
from costgraph.models.vision import VisionTransformer

#: Patches as they are: no projector.
ROWS: Steps = (Beside(Integer(1)),)


def _alone(tower: Callable[[Fields], Eyes]) -> Family:
    """A tower with what stands behind it in its class."""

    def read(fields: Fields) -> Reading:
        return Reading(Watching(tower(fields)))

    return read


def _made(ears: Callable[[Fields, Expr], Eyes]) -> Callable[[Fields], Eyes]:
    """An encoder that says how wide the rows are that it makes."""
    return lambda heard: ears(heard, Integer(heard.size("output_dim", default=3584)))


def _bare(eyes: PatchTower) -> PatchTower:
    """The tower whose class ends with the rows of patches."""
    return replace(eyes, steps=ROWS, merge=Integer(1), out=eyes.at.d)


def _shallow(seen: Fields) -> PatchTower:
    """Qwen3.5's tower, of which no layers in the middle are read."""
    return qwen3_tower(seen.with_defaults(deepstack_visual_indexes=[]))


def _pixtral(fields: Fields) -> PatchTower:
    # The table of rotations is no parameter.
    return pixtral_tower(fields, 1, ROWS, Integer(fields.size("hidden_size", default=1024)))


def _turned(fields: Fields) -> PatchTower:
    return turned_tower(fields, ROWS, Integer(fields.size("hidden_size", default=768)))


def _idefics(fields: Fields) -> Reading:
    """SigLIP's layers and the norm behind them."""
    tower = siglip_tower(fields.with_values(vision_use_head=False), patch_size=32)
    return Reading(VisionTransformer(tower, None))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_vl_vision": _alone(qwen2_tower),
        "qwen2_5_vl_vision": _alone(windowed_tower),
        "exaone4_5_vision": _alone(exaone_tower),
        "qwen3_vl_vision": _alone(qwen3_tower),
        "qwen3_vl_moe_vision": _alone(qwen3_tower),
        "qwen3_5_vision": _alone(_shallow),
        "qwen3_5_moe_vision": _alone(_shallow),
        "qwen4_exp_vision": _alone(_shallow),
        "cohere_compass_vision": _alone(qwen3_tower),
        "glm4v_vision": _alone(lambda seen: glm_tower(seen, None, False)),
        "glm4v_moe_vision": _alone(lambda seen: glm_tower(seen, None, False)),
        "glm_ocr_vision": _alone(lambda seen: glm_tower(seen, None, True)),
        "hunyuan_vl_vision": _alone(ocr_tower),
        "hy_v4_vl_vision": _alone(hunyuan4_tower),
        "muse_glimmer_vision": _alone(glimmer_tower),
        "muse_spark_vision": _alone(glimmer_tower),
        "pixtral": _alone(_pixtral),
        "kimi_k25_vision": _alone(lambda seen: _bare(moon_tower(seen))),
        "video_llama_3_vision": _alone(_turned),
        "qwen2_5_omni_audio_encoder": _alone(_made(omni_ears)),
        "qwen3_omni_moe_audio_encoder": _alone(_made(shrunk_ears)),
        "idefics3_vision": _idefics,
        "smolvlm_vision": _idefics,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen2VisionTransformerPretrainedModel": "qwen2_vl_vision",
        "Qwen2_5_VisionTransformerPretrainedModel": "qwen2_5_vl_vision",
        "Exaone4_5_VisionModel": "exaone4_5_vision",
        "Qwen3VLVisionModel": "qwen3_vl_vision",
        "Qwen3VLMoeVisionModel": "qwen3_vl_moe_vision",
        "Qwen3_5VisionModel": "qwen3_5_vision",
        "Qwen3_5MoeVisionModel": "qwen3_5_moe_vision",
        "Qwen4ExpVisionModel": "qwen4_exp_vision",
        "CohereCompassVisionModel": "cohere_compass_vision",
        "Glm4vVisionModel": "glm4v_vision",
        "Glm4vMoeVisionModel": "glm4v_moe_vision",
        "GlmOcrVisionModel": "glm_ocr_vision",
        "HunYuanVLVisionTransformer": "hunyuan_vl_vision",
        "HYV4VLVisionModel": "hy_v4_vl_vision",
        "MuseGlimmerVisionModel": "muse_glimmer_vision",
        "MuseSparkVisionModel": "muse_spark_vision",
        "PixtralVisionModel": "pixtral",
        "Kimi_K25VisionModel": "kimi_k25_vision",
        "VideoLlama3VisionModel": "video_llama_3_vision",
        "Qwen2_5OmniAudioEncoder": "qwen2_5_omni_audio_encoder",
        "Qwen3OmniMoeAudioEncoder": "qwen3_omni_moe_audio_encoder",
        "Idefics3VisionTransformer": "idefics3_vision",
        "SmolVLMVisionTransformer": "smolvlm_vision",
    }
)
