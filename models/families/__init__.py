"""Families of ``config.json``: each reads its keys into a model made of blocks.

A family is a function from :class:`~costgraph.models.fields.Fields` to a
:class:`Reading`, listed in the tables of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.models.families import (
    alibi,
    alternating,
    cohere,
    deepseek,
    denoisers,
    diffusion,
    encoders,
    experts,
    gemma,
    glm,
    gpt,
    hybrid,
    hybrid_experts,
    llama,
    multimodal,
    olmo,
    qwen,
    state_space,
    vision,
)
from costgraph.models.families.common import Family, Model, Reading

_FILES = (
    llama,
    qwen,
    gemma,
    gpt,
    alibi,
    cohere,
    olmo,
    glm,
    diffusion,
    experts,
    alternating,
    deepseek,
    state_space,
    hybrid,
    hybrid_experts,
    encoders,
    vision,
    denoisers,
    multimodal,
)

#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {kind: family for file in _FILES for kind, family in file.FAMILIES.items()}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {name: kind for file in _FILES for name, kind in file.ARCHITECTURES.items()}
)

__all__ = ["ARCHITECTURES", "FAMILIES", "Family", "Model", "Reading"]
