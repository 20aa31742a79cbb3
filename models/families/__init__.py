"""Families of ``config.json``: each reads its keys into a model made of blocks.

A family is a function from :class:`~costgraph.models.fields.Fields` to a
:class:`Reading`, listed in the tables ``FAMILIES`` and ``ARCHITECTURES`` of its
file. Files are imported when they are asked for: the common ones come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TypeVar

from costgraph.models.families.common import Family, Model, Reading

#: The files of this package that hold tables, the most common first.
FILES = (
    "llama",
    "dense",
    "qwen",
    "gemma",
    "gemma4",
    "gemma3n",
    "gpt",
    "elder",
    "alibi",
    "cohere",
    "olmo",
    "glm",
    "diffusion",
    "experts",
    "sparse",
    "mixed",
    "searched",
    "alternating",
    "deepseek",
    "published",
    "pooled",
    "chosen",
    "state_space",
    "hybrid",
    "zamba",
    "deltas",
    "hybrid_experts",
    "kimi",
    "bailing",
    "gatedheads",
    "gated",
    "longcat",
    "grok",
    "encoders",
    "forecasting",
    "patchtst",
    "stepping",
    "jina",
    "modern",
    "masked",
    "kindred",
    "tongues",
    "bands",
    "deberta",
    "mixing",
    "documents",
    "translating",
    "switching",
    "long",
    "recurrent",
    "funnel",
    "vision",
    "filming",
    "inverted",
    "denoisers",
    "flows",
    "multimodal",
    "mobile",
    "seeing",
    "patched",
    "mistral_large",
    "qwen4",
    "glm_next",
    "inkling",
    "zaya",
    "dory",
    "spark",
    "molmo",
    "llava",
    "shuffled",
    "glm_seeing",
    "omni",
    "hearing",
    "granite_speech",
    "listening",
    "streaming",
    "looking",
    "framed",
    "hunyuan_seeing",
    "ernie_seeing",
    "aliased",
    "towers",
    "phi4",
    "patchwise",
    "speech",
    "squeezed",
    "parakeet",
    "lasr",
    "omniasr",
    "transcribing",
    "asking",
    "kosmos",
    "aria",
    "chameleon",
    "minicpmv",
    "segmenting",
    "concepts",
    "hybrid_seeing",
    "vitdet",
    "lxmert",
    "flava",
    "crossing",
    "captioning",
    "answering",
    "sounding",
    "dia",
    "frames",
    "pairing",
    "depth",
    "detecting",
    "deformable",
    "masks",
    "grounding",
    "rtdetr",
    "masking",
    "codecs",
    "posing",
    "vilt",
    "visual_bert",
    "pyramids",
    "vits",
    "hifigan",
    "retrieving",
    "modern_seeing",
    "bit",
    "clipseg",
    "hgnet",
    "rfdetr",
    "aimv2",
    "focalnet",
    "levit",
    "shrinking",
    "filmed",
    "zoedepth",
    "swin2sr",
    "embedding",
    "embedding_gemma",
    "pages",
    "eomt",
    "hiera",
)

V = TypeVar("V")


class _Tables(Mapping[str, V]):
    """One table of all files as a whole, read file by file until a key is found."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._read: dict[str, Mapping[str, V]] = {}

    def part(self, file: str) -> Mapping[str, V]:
        """The table of one file."""
        if file not in self._read:
            module = import_module(f"costgraph.models.families.{file}")
            self._read[file] = getattr(module, self._name)
        return self._read[file]

    def file_of(self, key: str) -> str | None:
        """The first file whose table holds a key; None where none does."""
        return next((file for file in FILES if key in self.part(file)), None)

    def _parts(self) -> Iterator[Mapping[str, V]]:
        return map(self.part, FILES)

    def __getitem__(self, key: str) -> V:
        for part in self._parts():
            if key in part:
                return part[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for part in self._parts():
            yield from part

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts())


_FAMILIES: _Tables[Family] = _Tables("FAMILIES")
_ARCHITECTURES: _Tables[str] = _Tables("ARCHITECTURES")

#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = _FAMILIES

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = _ARCHITECTURES


def classes_of(family: str) -> tuple[str, ...]:
    """Names of the classes of a family: those in the file that reads it, and no further ones."""
    file = _FAMILIES.file_of(family)
    if file is None:
        return ()
    return tuple(name for name, its in _ARCHITECTURES.part(file).items() if its == family)


__all__ = ["ARCHITECTURES", "FAMILIES", "FILES", "Family", "Model", "Reading", "classes_of"]
