"""Importing a Hugging Face ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sympy import Expr, Integer, Symbol

from costgraph.dtypes import BF16, FP16, DType, dtype
from costgraph.errors import InputError, ModelError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.models.blocks import Style
from costgraph.models.families import ARCHITECTURES, FAMILIES
from costgraph.models.families.common import Programmed
from costgraph.models.fields import Fields
from costgraph.ops.attention import MASKS
from costgraph.program import Program, autoregressive
from costgraph.symbols import T

LARGEST_FILE = 4 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, is too large, or holds no object.
    """
    try:
        if path.is_dir():
            path = path / "config.json"
        if not path.is_file():
            raise ModelError(f"no such file: {clip(str(path), 200)}")
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path}: larger than {LARGEST_FILE} bytes: not a config.json")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{clip(str(path), 200)}: not readable as JSON: {reason}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds {type(value).__name__}, not a JSON object")
    return value


def import_config(
    config: Mapping[str, Any],
    name: str = "model",
    *,
    weights: str | DType | None = None,
    activations: str | DType | None = None,
    kv: str | DType | None = None,
    mask: str = "skip",
    logits: str = "last",
    symbolic: bool = False,
) -> Program:
    """A program from the contents of a ``config.json``.

    Args:
        config: the JSON object.
        name: what to call the model in messages and tables.
        weights, activations, kv: element formats instead of the configured one.
        mask: ``skip`` counts useful attention pairs, ``compute`` all of them.
        logits: ``last`` position only in prefill, or ``all``.
        symbolic: keep ``d``, ``L``, ``H`` … as symbols; their values are in
            the program's ``dims``.

    Raises:
        ModelError: a key is missing or wrong, or the architecture is unknown.
        InputError: an option is unknown.
    """
    if mask not in MASKS:
        raise InputError(f"unknown mask {clip(mask)}{nearest(str(mask), MASKS)}")
    if logits not in ("last", "all"):
        raise InputError(f"logits must be 'last' or 'all', not {clip(logits)}")
    fields = Fields(name, config)
    reading = FAMILIES[family_of(fields)](fields)
    base = _dtype_of(fields)
    style = Style(
        weights=base if weights is None else dtype(weights),
        acts=base if activations is None else dtype(activations),
        kv=(base if activations is None else dtype(activations)) if kv is None else dtype(kv),
        mask=mask,
        logits=logits,
    )
    model = reading.model
    dims: dict[Symbol, Expr] = {}
    if symbolic:
        model, dims = model.symbolic()
    limits: tuple[Limit, ...] = ()
    assumptions: tuple[str, ...] = ()
    if reading.window is not None:
        limits = (
            Limit(T, Integer(reading.window), "beyond its sliding window the model attends less"),
        )
        assumptions = (f"contexts up to the sliding window of {reading.window} tokens",)
    assumptions += reading.notes
    if isinstance(model, Programmed):
        program = model.program(name, style).assuming(*assumptions)
        return replace(program, limits=program.limits + limits)
    graph = model.graph(name, style)
    decode = model.graph(name, replace(style, scan="recurrent")) if reading.scans else None
    return autoregressive(name, graph, assumptions, limits, tuple(dims.items()), decode)


def family_of(fields: Fields) -> str:
    """The family that reads a configuration.

    Raises:
        ModelError: no family does; names the nearest.
    """
    kind = fields.values.get("model_type")
    if kind is None:
        classes = fields.values.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else None
        if isinstance(first, str):
            if first in ARCHITECTURES:
                return ARCHITECTURES[first]
            raise ModelError(
                f"{fields.name}: unknown architecture {clip(first)}{nearest(first, ARCHITECTURES)}"
            )
        raise ModelError(f"{fields.name}: missing key 'model_type' (or 'architectures')")
    if isinstance(kind, str) and kind in FAMILIES:
        return kind
    hint = nearest(str(kind), FAMILIES) or "; known: " + ", ".join(sorted(FAMILIES))
    raise ModelError(f"{fields.name}: unknown model_type {clip(kind)}{hint}")


def _dtype_of(fields: Fields) -> DType:
    """The configured compute format; 16 bit where the file names none or fp32.

    Checkpoints stored in fp32 (GPT-2, Pythia …) are run in 16 bit.
    """
    configured = fields.values.get("torch_dtype", fields.values.get("dtype"))
    if configured is None or configured == "auto":
        return FP16
    if not isinstance(configured, str):
        raise ModelError(f"{fields.name}: 'torch_dtype' must be a text, not {clip(configured)}")
    try:
        found = dtype(configured)
    except InputError as error:
        raise ModelError(f"{fields.name}: 'torch_dtype': {error}") from None
    return found if found in (FP16, BF16) else FP16
