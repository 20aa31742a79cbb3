"""The index of a sharded checkpoint beside a configuration: a second source for its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sympy import Add

from costgraph.errors import ModelError
from costgraph.files import outside
from costgraph.ir.program import Program

#: What lists the tensors of a checkpoint in several files, and how many bytes they take.
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 64 * 2**20


def total_size(config: Path) -> int | None:
    """Bytes of all tensors that the index beside a configuration states; None without one.

    Raises:
        ModelError: the index is no such file, or states no whole number.
    """
    is_folder = outside.is_folder(config)
    path = (config if is_folder else config.parent) / INDEX
    if not (is_folder or config.name == "config.json") or not outside.is_file(path):
        return None
    found = outside.read_json(path, LARGEST_INDEX, "an index of tensors", ModelError)
    return stated_size(found, outside.label_of(path))


def stated_size(found: object, shown: str) -> int:
    """Bytes of all tensors that an index states; messages call it ``shown``.

    Raises:
        ModelError: it is no index, or states no whole number.
    """
    stated = found.get("metadata") if isinstance(found, Mapping) else None
    size = stated.get("total_size") if isinstance(stated, Mapping) else None
    if isinstance(size, bool) or not isinstance(size, (int, float)) or size != int(size):
        raise ModelError(f"{shown}: no whole number under metadata.total_size")
    return int(size)


def compared(program: Program, stated: int) -> Program:
    """The program, saying whether its weights take the bytes that an index states.

    An index also lists modules for multi-token prediction, which a program does not hold.
    """
    counted = Add(*(t.bytes * n for t, n in program.weights())).xreplace(dict(program.dims))
    if not counted.is_number:
        return program
    if counted == stated:
        said = f"the weights take {stated:,} bytes, as {INDEX} states"
        return replace(program, notes=(*program.notes, said))
    more = float((counted - stated) / stated) * 100
    return program.assuming(
        f"{INDEX} states {stated:,} bytes of tensors; the weights counted here take "
        f"{int(counted):,} ({more:+z.3g} %)"
    )
