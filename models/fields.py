"""Reading a configuration: typed look-ups that explain themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip, nearest

#: No real dimension is near this; larger values are typing mistakes.
LARGEST = 10**9


@dataclass(frozen=True)
class Fields:
    """A configuration with its name, for messages."""

    name: str
    values: Mapping[str, Any]

    def size(self, *keys: str, default: int | None = None) -> int:
        """The positive integer under the first of ``keys`` that is present and not null.

        Raises:
            ModelError: the key is missing without a default, or is not a
                positive integer of sane size.
        """
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
                    value = int(value)
                else:
                    raise ModelError(
                        f"{self.name}: {key!r} must be a whole number, not {clip(value)}"
                    )
            if value <= 0:
                raise ModelError(f"{self.name}: {key!r} must be positive, not {value}")
            if value > LARGEST:
                raise ModelError(f"{self.name}: {key!r} = {clip(value)} is beyond {LARGEST}")
            return value
        if default is not None:
            return default
        hint = nearest(keys[0], self.values) if len(keys) == 1 else ""
        wanted = " or ".join(repr(k) for k in keys)
        raise ModelError(f"{self.name}: missing key {wanted}{hint if 'mean' in hint else ''}")

    def flag(self, key: str, default: bool) -> bool:
        """The boolean under ``key``."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelError(f"{self.name}: {key!r} must be true or false, not {clip(value)}")
        return value

    def fraction(self, key: str, default: float) -> float:
        """The number in (0, 1] under ``key``."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ModelError(f"{self.name}: {key!r} must be in (0, 1], not {clip(value)}")
        return float(value)

    def word(self, *keys: str, default: str | None = None) -> str:
        """The text under the first of ``keys`` that is present."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ModelError(f"{self.name}: {key!r} must be a text, not {clip(value)}")
            return value
        if default is not None:
            return default
        raise ModelError(f"{self.name}: missing key {' or '.join(repr(k) for k in keys)}")

    def refuse(self, key: str, why: str) -> None:
        """Refuse a configuration that sets ``key`` to something that counts."""
        if self.values.get(key):
            raise ModelError(f"{self.name}: {key!r} = {clip(self.values[key])}: {why}")


def divided(fields: Fields, whole: int, parts: int, what: str) -> Expr:
    """``whole / parts`` as an exact integer.

    Raises:
        ModelError: it does not divide.
    """
    if whole % parts:
        raise ModelError(f"{fields.name}: {what}: {whole} is not divisible by {parts}")
    return Integer(whole // parts)
