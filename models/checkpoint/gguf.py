"""The header of a GGUF file: what it says of the model, and the type of every tensor.

Only the header is read, value by value and within bounds; the weights are never touched.
Every count in it is checked against what is left of the file before anything is made of it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from costgraph.errors import ModelError, clip
from costgraph.files import outside
from costgraph.models.checkpoint.gguf_types import TYPES, GgufType

MAGIC = b"GGUF"
#: Bytes of a whole file, of its header and of one text; entries, tensors, items of lists,
#: dimensions of a tensor, parts of a model.
LARGEST_FILE, LARGEST_HEADER, LONGEST_TEXT = 2**48, 2**28, 2**24
MOST_ENTRIES, MOST_TENSORS, MOST_ITEMS, MOST_DIMS, MOST_PARTS = 2**16, 2**18, 2**24, 4, 1000
#: Texts and lists that are kept; the tokens of a vocabulary are only counted.
KEPT_TEXT, KEPT_ITEMS = 4096, 4096
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TEXT, _LIST = 8, 9
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf\Z")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file: its dimensions, the fastest first, and its type."""

    name: str
    shape: tuple[int, ...]
    type: GgufType

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in the file."""
        return self.elements // self.type.block * self.type.size


@dataclass(frozen=True)
class Length:
    """A list that was not kept, by how many items it has."""

    items: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its weights.

    Attributes:
        shown: how messages call the file.
        metadata: values by key; long lists are a :class:`Length`.
        tensors: by name.
        start: bytes in front of the weights, padding included (of all parts).
        alignment: bytes to whose multiples tensors are padded.
    """

    shown: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    start: int
    alignment: int = 32

    @property
    def size(self) -> int:
        """Bytes of the file as the header describes it: itself, and the tensors, padded."""
        padded = (-(-t.bytes // self.alignment) * self.alignment for t in self.tensors.values())
        return self.start + sum(padded)


class _Reading:
    """A file read from the front, never beyond its end or the bound of a header."""

    def __init__(self, file: IO[bytes], shown: str, size: int) -> None:
        self.file, self.shown, self.at = file, shown, 0
        self.most = min(size, LARGEST_HEADER)

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self.shown}: not readable as GGUF: {what}")

    def take(self, count: int) -> bytes:
        if count > self.most - self.at:
            raise self.fail(f"its header ends early, or is larger than {LARGEST_HEADER} byte")
        data = self.file.read(count)
        if len(data) != count:
            raise self.fail("its header ends early")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if count > self.most - self.at:
            raise self.fail(f"its header ends early, or is larger than {LARGEST_HEADER} byte")
        self.file.seek(count, os.SEEK_CUR)
        self.at += count

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, most: int, what: str) -> int:
        found = int(self.number("Q"))
        if found > most:
            raise self.fail(f"{found} {what}, more than {most}")
        return found

    def text(self) -> str:
        length = self.count(LONGEST_TEXT, "byte of text")
        if length > KEPT_TEXT:
            self.skip(length)
            return ""
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, where: str) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise self.fail(f"{clip(where)} has the unknown type {kind}")
        inner, items = self.number("I"), self.count(MOST_ITEMS, "items of a list")
        if inner in _NUMBERS:
            size = struct.calcsize(f"<{_NUMBERS[inner]}")
            if items > KEPT_ITEMS:
                self.skip(items * size)
                return Length(items)
            data = self.take(items * size)
            return list(struct.unpack(f"<{items}{_NUMBERS[inner]}", data))
        if inner != _TEXT:
            raise self.fail(f"{clip(where)} is a list of the unknown type {inner}")
        for _ in range(items):
            self.skip(self.count(LONGEST_TEXT, "byte of text"))
        return Length(items)


def read_header(path: Path) -> Header:
    """The header of a file; of all parts, where a model is split into several.

    Raises:
        ModelError: it cannot be read, is no GGUF, or says what is not understood.
    """
    header = _one(path)
    parts = header.metadata.get("split.count", 1)
    if not isinstance(parts, int) or parts <= 1:
        return header
    match = _PART.match(path.name)
    if match is None or parts > MOST_PARTS:
        raise ModelError(
            f"{header.shown}: one of {parts} parts: its name must end in -00001-of-{parts:05}.gguf"
        )
    names = [f"{match[1]}-{i:05}-of-{match[3]}.gguf" for i in range(1, parts + 1)]
    read = [_one(path.with_name(name)) for name in names]
    tensors = {name: t for part in read for name, t in part.tensors.items()}
    start = sum(part.start for part in read)
    return Header(header.shown, read[0].metadata, tensors, start, read[0].alignment)


def _one(path: Path) -> Header:
    shown = outside.label_of(path)
    with outside.opened(path, LARGEST_FILE, "a GGUF file", ModelError) as file:
        return _header(_Reading(file, shown, os.fstat(file.fileno()).st_size))


def _header(reading: _Reading) -> Header:
    if reading.take(4) != MAGIC:
        raise reading.fail("it does not begin with GGUF")
    version = reading.number("I")
    if version not in (2, 3):
        swapped = version in (0x02000000, 0x03000000)
        raise reading.fail(
            "its numbers are big-endian" if swapped else f"version {version}, not 2 or 3"
        )
    tensors = reading.count(MOST_TENSORS, "tensors")
    entries = reading.count(MOST_ENTRIES, "entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reading.text()
        metadata[key] = reading.value(reading.number("I"), key)
    found: dict[str, GgufTensor] = {}
    for _ in range(tensors):
        tensor = _tensor(reading)
        if tensor.name in found:
            raise reading.fail(f"the tensor {clip(tensor.name)} stands in it twice")
        found[tensor.name] = tensor
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise reading.fail(f"'general.alignment' = {clip(alignment)}")
    start = -(-reading.at // alignment) * alignment
    return Header(reading.shown, metadata, found, start, alignment)


def _tensor(reading: _Reading) -> GgufTensor:
    name = reading.text()
    dims = reading.number("I")
    if dims > MOST_DIMS:
        raise reading.fail(f"{clip(name)} has {dims} dimensions, more than {MOST_DIMS}")
    shape = tuple(reading.number("Q") for _ in range(dims))
    kind = reading.number("I")
    reading.number("Q")  # where it begins
    if kind not in TYPES:
        known = ", ".join(t.name for t in TYPES.values())
        raise reading.fail(f"{clip(name)} has the unknown type {kind}; known: {known}")
    tensor = GgufTensor(name, shape, TYPES[kind])
    if any(not 0 < n < 2**40 for n in shape) or tensor.elements >= 2**50:
        raise reading.fail(f"{clip(name)} has impossible dimensions")
    if shape and shape[0] % tensor.type.block:
        raise reading.fail(
            f"rows of {clip(name)} hold {shape[0]} elements, no multiple of {tensor.type.block}"
        )
    return tensor
