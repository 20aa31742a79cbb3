"""What a configuration says of how its checkpoint is stored, and what is counted instead.

Graphs are counted in 16 bit unless the file describes narrow weights or an option asks for
another format: checkpoints in 32 bit are deployed so. Where that is not what the file says,
the program's assumptions say it, or the file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from costgraph.errors import InputError, ModelError, clip
from costgraph.ir.dtypes import BF16, FP16, DType, dtype
from costgraph.models.checkpoint.described import EXPERTS, INSTEAD, Described, Rule
from costgraph.models.checkpoint.layout import MXFP4
from costgraph.models.checkpoint.methods import described
from costgraph.models.fields import Fields

#: Keys under which files describe narrow weights: Transformers (all its methods), MLX,
#: and llm-compressor before it moved to the first.
NARROW_KEYS = ("quantization_config", "quantization", "compression_config")
#: Sections that hold the language model of a multimodal one.
SECTIONS = ("text_config", "llm_config", "language_config")


def _levels(fields: Fields) -> Iterator[Mapping[str, Any]]:
    """The configuration and the sections of its language model."""
    yield fields.values
    for key in SECTIONS:
        section = fields.values.get(key)
        if isinstance(section, Mapping):
            yield section


def element_format(fields: Fields) -> tuple[DType, str]:
    """The 16-bit format to count in, and what the file says where that is something else.

    Raises:
        ModelError: the data type is no text, or unknown.
    """
    for level in _levels(fields):
        old, new = (level.get(key) for key in ("torch_dtype", "dtype"))
        if None not in (old, new) and old != new:
            raise ModelError(
                f"{fields.name}: 'torch_dtype' = {clip(old)} and 'dtype' = {clip(new)} are two "
                "names of one thing, and contradict each other"
            )
    found = (level.get(key) for level in _levels(fields) for key in ("torch_dtype", "dtype"))
    configured = next((v for v in found if v is not None), None)
    if configured is None or configured == "auto":
        return FP16, "names no data type"
    if not isinstance(configured, str):
        raise ModelError(f"{fields.name}: 'torch_dtype' must be a text, not {clip(configured)}")
    try:
        stored = dtype(configured)
    except InputError as error:
        raise ModelError(f"{fields.name}: 'torch_dtype': {error}") from None
    if stored in (FP16, BF16):
        return stored, ""
    return FP16, f"says {stored.name}"


@dataclass(frozen=True)
class Narrow:
    """How a file says that its weights are narrow: in words, where, and the description."""

    text: str
    key: str
    stated: Mapping[str, Any] | None


def narrow(fields: Fields) -> Narrow | None:
    """How the file says that its weights are narrow; None if it does not."""
    for level in _levels(fields):
        for key in NARROW_KEYS:
            stated = level.get(key)
            if not isinstance(stated, Mapping) or not stated or _off(stated):
                continue
            names = (stated.get(k) for k in ("quant_method", "format", "mode"))
            method = next((n for n in names if isinstance(n, str)), None)
            bits = stated.get("bits")
            shown = method or (f"{bits} bit" if type(bits) is int else "")
            method_shown = f" ({clip(shown, 40)[1:-1]})" if shown else ""
            return Narrow(f"{key!r}{method_shown}", key, stated)
    for level in _levels(fields):
        for key in ("torch_dtype", "dtype"):
            text = level.get(key)
            if isinstance(text, str) and _is_narrow(text):
                return Narrow(f"{key!r} = {clip(text)}", key, None)
    return None


def read_description(fields: Fields, found: Narrow) -> Described:
    """The formats of a checkpoint; experts have that of ``expert_dtype`` beside it.

    Raises:
        ModelError: how it is stored is not understood.
    """
    if found.stated is None:
        raise ModelError(
            f"{fields.name}: {found.text} says nothing of scales or of what stays wide; --weights "
            f"takes a format for all, {INSTEAD}"
        )
    return _experts_apart(fields, described(fields.name, found.key, found.stated))


def _experts_apart(fields: Fields, made: Described) -> Described:
    """DeepSeek-V4's files in fp8 say beside their description what experts are stored in."""
    if made.method != "fp8":
        return made
    kind = fields.word("expert_dtype", default="")
    if kind not in ("", "fp4", "fp8"):
        raise ModelError(f"{fields.name}: 'expert_dtype' = {clip(kind)}: fp4 or fp8; {INSTEAD}")
    if kind == "fp4":
        experts = Rule(MXFP4, made.rules[-1].operand, kinds=frozenset((EXPERTS,)))
        return replace(made, rules=(*made.rules[:-1], experts, made.rules[-1]))
    if not kind and fields.values.get("model_type") == "deepseek_v4":
        said = "experts are taken to be stored as the rest is; the file names no 'expert_dtype'"
        return replace(made, assumed=(*made.assumed, said))
    return made


def _off(stated: Mapping[str, Any]) -> bool:
    """Whether a description switches every narrow format off."""
    flags = [v for k, v in stated.items() if k in ("load_in_4bit", "load_in_8bit")]
    return bool(flags) and not any(flags)


def _is_narrow(text: str) -> bool:
    try:
        return bool(dtype(text).bits < 16)
    except InputError:
        return False
