"""Keys that change nothing beside the other keys of a file, as lines of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def each_key(lines: Iterable[tuple[str, str, str]]) -> Mapping[tuple[str, str], str]:
    """(model type, key or path of a key) to the reason, of lines of model types, why, and keys."""
    return {
        (kind, key): why
        for kinds, why, keys in lines
        for kind in kinds.split()
        for key in keys.split()
    }
