"""Which stores may be opened: those whose chunks are packed by codecs that only unpack.

A Zarr store names the codecs of its chunks, and the registry of ``numcodecs`` holds
one that loads pickles, which may run anything (before its release 0.16.4 without
asking). A sweep needs none but the common compressors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from costgraph.errors import InputError, clip
from costgraph.files.outside import label_of, read_json

#: Codecs that compute on bytes and numbers alone.
HARMLESS = frozenset(
    {
        "adler32", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "gzip",
        "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "vlen-bytes", "vlen-utf8",
        "zlib", "zstd",
    }
)  # fmt: skip
_METADATA = (".zarray", ".zmetadata", "zarr.json")
LARGEST_METADATA = 2**24


def check_store(path: Path) -> None:
    """Reads the metadata of a Zarr store and of its arrays, as data.

    Raises:
        InputError: a codec is none of :data:`HARMLESS`, or metadata cannot be read.
    """
    try:
        places = [path, *(p for p in path.iterdir() if p.is_dir())]
    except OSError as error:
        raise InputError(f"{label_of(path)}: not readable: {error.strerror}") from None
    if not any((path / name).exists() for name in (".zgroup", "zarr.json")):
        raise InputError(f"{label_of(path)}: a directory, and no Zarr store")
    for place in places:
        for name in _METADATA:
            if not (place / name).exists():
                continue
            for codec in _codecs(read_json(place / name, LARGEST_METADATA)):
                if codec not in HARMLESS:
                    raise InputError(
                        f"{label_of(path)}: its chunks are packed by {clip(codec)}, "
                        "which no sweep uses: not opened"
                    )


def _codecs(value: Any) -> Iterator[Any]:
    """Names of all codecs in a store's metadata, of both versions, nested ones too."""
    if isinstance(value, list):
        for item in value:
            yield from _codecs(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("filters", "compressor", "codecs", "index_codecs", "compressors"):
                listed = inner if isinstance(inner, list) else [inner]
                for codec in listed:
                    if isinstance(codec, dict):
                        yield codec.get("id", codec.get("name"))
                    elif codec is not None:
                        yield codec
            yield from _codecs(inner)
