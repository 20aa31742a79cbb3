"""Models in several parts whose language model alone is read; every output says so."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from costgraph.errors import ModelError, clip
from costgraph.models.families import deepseek, llama
from costgraph.models.families.common import Family, Reading
from costgraph.models.fields import Fields

#: The language model's family by the type of the whole; types of the part that it may state.
_PARTS: Mapping[str, tuple[Family, frozenset[str]]] = MappingProxyType(
    {
        "kimi_k25": (deepseek.FAMILIES["kimi_k2"], frozenset({"kimi_k2", "deepseek_v3"})),
        "exaone4_5": (llama.FAMILIES["exaone4"], frozenset({"exaone4", "exaone4_5_text"})),
    }
)


def _text(kind: str, fields: Fields) -> Reading:
    family, known = _PARTS[kind]
    inner = fields.section("text_config")
    stated = inner.word("model_type", default=min(known))
    if stated not in known:
        raise ModelError(
            f"{inner.name}: 'model_type' = {clip(stated)}, not {' or '.join(sorted(known))}"
        )
    fields.values.get("vocab_size")  # the language model's, again
    return family(inner.with_defaults(tie_word_embeddings=fields.values.get("tie_word_embeddings")))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({kind: partial(_text, kind) for kind in _PARTS})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "KimiK25ForConditionalGeneration": "kimi_k25",
        "Exaone4_5_ForConditionalGeneration": "exaone4_5",
    }
)
