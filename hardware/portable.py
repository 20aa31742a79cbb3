"""Objects that hold read-only mappings, which neither pickle nor copy by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class Portable:
    """Pickles and copies objects whose attributes hold read-only mappings."""

    def __getstate__(self) -> dict[str, Any]:
        return {k: _unwrapped(v) for k, v in vars(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            object.__setattr__(self, key, _wrapped(value))


class _ReadOnly(dict[Any, Any]):
    """Marks a mapping that was read-only before pickling."""


def _unwrapped(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return _ReadOnly({k: _unwrapped(v) for k, v in value.items()})
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, _ReadOnly):
        return MappingProxyType({k: _wrapped(v) for k, v in value.items()})
    return value
