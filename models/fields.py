"""Reading a configuration: typed look-ups that explain themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Integer, Rational

from costgraph.errors import ModelError, clip, nearest

#: No real dimension is near this; larger values are typing mistakes.
LARGEST = 10**9


#: Ends of keys that hold the configuration of a part of the model, and such keys without one.
SECTION = "_config"
#: Those that have other names: halves of a pair, and parts of Phi-4-multimodal.
SECTIONS = frozenset(
    {"encoder", "decoder", "text_encoder", "audio_encoder", "audio_processor", "config",
     "embd_layer", "audio_embd_layer", "image_embd_layer", "speech_lora", "vision_lora"}
)  # fmt: skip
#: What describes narrow weights is read, or refused, apart.
_APART = ("quantization_config", "compression_config")


class Watched(Mapping[str, Any]):
    """A configuration that remembers which keys were looked up."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.seen: set[str] = set()
        self.inner: dict[str, Watched] = {}
        self.told: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        value = self._values[key]
        named = (key.endswith(SECTION) or key in SECTIONS) and key not in _APART
        if named and isinstance(value, Mapping):
            # One watch over each section, however often it is opened.
            return self.inner.setdefault(key, Watched(value))
        # NumPy's scalars, in a configuration that was made in Python.
        return value.item() if getattr(value, "ndim", None) == 0 else value

    def peek(self, key: str) -> Any:
        """The value of ``key`` or None, without remembering that it was asked for."""
        return self._values.get(key)

    def has(self, key: str) -> bool:
        """Is there such a key, without remembering that it was asked for?"""
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def as_file(name: str, value: Any) -> Any:
    """The value with keys as a JSON file has them: classes in Python hold some as numbers.

    Raises:
        ModelError: a key is of a kind that no JSON file can have.
    """
    if not isinstance(value, Mapping):
        return value
    made = {}
    for key, inner in value.items():
        if not isinstance(key, str | int | float | None):
            raise ModelError(f"{name}: the key {clip(key)} is a {type(key).__name__}, not text")
        made[key if isinstance(key, str) else json.dumps(key)] = as_file(name, inner)
    same = all(key in value and value[key] is inner for key, inner in made.items())
    return value if same else made


class _Overlay(Mapping[str, Any]):
    """A configuration with further keys in front; look-ups behind are remembered there."""

    def __init__(self, values: Mapping[str, Any], front: Mapping[str, Any]) -> None:
        self._values, self._front = values, front

    @property
    def front(self) -> Mapping[str, Any]:
        """The further keys."""
        return self._front

    @property
    def behind(self) -> Mapping[str, Any]:
        """What the further keys stand in front of."""
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._front[key] if key in self._front else self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._front or key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._values), **self._front})

    def __len__(self) -> int:
        return len({*self._values, *self._front})


@dataclass(frozen=True)
class Fields:
    """A configuration with its name, for messages.

    Every look-up is remembered, so that keys which nothing looked at can be told.
    """

    name: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.values, (Watched, _Overlay)):
            object.__setattr__(self, "values", Watched(self.values))

    @property
    def read(self) -> tuple[str, ...]:
        """Keys of the configuration that were looked up, in its order."""
        assert isinstance(self.values, Watched)
        return tuple(key for key in self.values if key in self.values.seen)

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys of the configuration that nothing has looked up, in its order."""
        assert isinstance(self.values, Watched)
        return tuple(key for key in self.values if key not in self.values.seen)

    @property
    def opened(self) -> frozenset[str]:
        """Sections in which something was looked up."""
        assert isinstance(self.values, Watched)
        return frozenset(key for key, inner in self.values.inner.items() if inner.seen)

    @property
    def overlooked(self) -> tuple[tuple[str, Any], ...]:
        """Keys that nothing has looked up, and their values; those of opened sections, too.

        A key of a section stands behind the section's name: ``text_config.hidden_size``.
        """
        assert isinstance(self.values, Watched)
        return tuple(_overlooked(self.values, ""))

    def tell(self, sentence: str) -> None:
        """Something that counts rest on: it becomes an assumption of the program."""
        values: Any = self.values
        while isinstance(values, _Overlay):
            values = values.behind
        values.told.append(sentence)

    @property
    def told(self) -> tuple[str, ...]:
        """What reading the configuration, or a section of it, told."""
        assert isinstance(self.values, Watched)
        return tuple(_told(self.values))

    def number(self, key: str, default: float) -> float:
        """The number under ``key``."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise ModelError(f"{self.name}: {key!r} must be a number, not {clip(value)}")
        return float(value) if abs(value) < LARGEST else float(LARGEST)

    def renamed(self, **names: str) -> Fields:
        """The same with keys of another name: ``renamed(hidden_size="n_embd")``.

        A key that is there under its usual name keeps it.

        Raises:
            ModelError: it is there under both, with other values.
        """
        watched = self.values
        for usual, other in names.items():
            self._agree((usual, other))
        given = {k: watched[v] for k, v in names.items() if k not in self.values and v in watched}
        return Fields(self.name, _Overlay(watched, given))

    def with_values(self, **values: Any) -> Fields:
        """The same with other values for some keys."""
        return Fields(self.name, _Overlay(self.values, values))

    def with_defaults(self, **values: Any) -> Fields:
        """The same with values for keys that are absent or null."""
        # Looked at only when a family asks for it.
        missing = {k: v for k, v in values.items() if _peek(self.values, k) is None}
        return Fields(self.name, _Overlay(self.values, missing))

    def peek(self, key: str) -> Any:
        """The value of ``key`` or None; it does not count as looked up."""
        return _peek(self.values, key)

    def has(self, key: str) -> bool:
        """Is there such a key, null or not? It does not count as looked up."""
        values = self.values
        while isinstance(values, _Overlay):
            if key in values.front:
                return True
            values = values.behind
        assert isinstance(values, Watched)
        return values.has(key)

    def section(self, key: str) -> Fields:
        """The object under ``key``, as a configuration of its own.

        Raises:
            ModelError: it is missing, or no object.
        """
        value = self.values.get(key)
        if value is None:
            raise self._missing((key,))
        if not isinstance(value, Mapping):
            raise ModelError(f"{self.name}: {key!r} must be an object, not {clip(value)}")
        return Fields(f"{self.name}: {key}", value)

    def size(self, *keys: str, default: int | None = None) -> int:
        """The positive integer under the first of ``keys`` that is present and not null.

        ``keys`` are names of one thing.

        Raises:
            ModelError: the key is missing without a default, or is not a
                positive integer of sane size; or names of it have other values.
        """
        self._agree(keys)
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
        raise self._missing(keys)

    def flag(self, key: str, default: bool) -> bool:
        """The boolean under ``key``."""
        value = self.values.get(key)
        if value is None and not (default and self.has(key)):
            return default
        if not isinstance(value, bool):
            # Null is false in some classes and the default in others: the same where that is false.
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
        """The text under the first of ``keys`` that is present: names of one thing."""
        self._agree(keys)
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ModelError(f"{self.name}: {key!r} must be a text, not {clip(value)}")
            return value
        if default is not None:
            return default
        raise self._missing(keys)

    def _agree(self, keys: Sequence[str]) -> None:
        """Refuses names of one thing that are there with other values.

        Raises:
            ModelError: saying which ones.
        """
        if len(keys) < 2:
            return
        found = {key: value for key in keys if (value := self.peek(key)) is not None}
        (first, *_), values = found or ("",), list(found.values())
        for key, value in found.items():
            if value != values[0]:
                raise ModelError(
                    f"{self.name}: {first!r} = {clip(values[0])} and {key!r} = {clip(value)} are "
                    "two names of one thing, and contradict each other"
                )

    def _missing(self, keys: tuple[str, ...]) -> ModelError:
        """What to say where none of ``keys`` has a value."""
        for key in keys:
            if key in self.values:
                return ModelError(f"{self.name}: {key!r} is null, and must have a value")
        hint = nearest(keys[0], self.values) if len(keys) == 1 else ""
        wanted = " or ".join(repr(k) for k in keys)
        return ModelError(f"{self.name}: missing key {wanted}{hint if 'mean' in hint else ''}")

    def refuse(self, key: str, why: str) -> None:
        """Refuse a configuration that sets ``key`` to something that counts."""
        if self.values.get(key):
            raise ModelError(f"{self.name}: {key!r} = {clip(self.values[key])}: {why}")

    def glimpse(self, section: str, key: str) -> Any:
        """A value inside a section, which does not count as opened: may it be read at all?"""
        inner = self.values.get(section)
        return inner.peek(key) if isinstance(inner, Watched) else None

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses a value of ``key`` that is not among ``allowed``; the first is the default.

        Raises:
            ModelError: saying which value is supported.
        """
        if self.values.get(key, allowed[0]) not in allowed:
            named = " or ".join(repr(a) for a in allowed)
            raise ModelError(
                f"{self.name}: {key!r} = {clip(self.values[key])}: only {named} is supported"
            )


def _peek(values: Mapping[str, Any], key: str) -> Any:
    """A value, without remembering that it was asked for."""
    while isinstance(values, _Overlay):
        if key in values.front:
            return values.front[key]
        values = values.behind
    assert isinstance(values, Watched)
    return values.peek(key)


def _told(values: Watched) -> Iterator[str]:
    yield from values.told
    for inner in values.inner.values():
        yield from _told(inner)


def _overlooked(values: Watched, front: str) -> Iterator[tuple[str, Any]]:
    for key in values:
        inner = values.inner.get(key)
        if key not in values.seen:
            yield front + key, values.peek(key)
        elif inner is not None and inner.seen:
            yield from _overlooked(inner, f"{front}{key}.")


def divided(fields: Fields, whole: int, parts: int, what: str) -> Expr:
    """``whole / parts`` as an exact integer.

    Raises:
        ModelError: it does not divide.
    """
    if whole % parts:
        raise ModelError(f"{fields.name}: {what}: {whole} is not divisible by {parts}")
    return Integer(whole // parts)


def widened(fields: Fields, key: str, default: float, d: int) -> Expr:
    """``d`` times the ratio under ``key``, exactly.

    Raises:
        ModelError: that is no whole width.
    """
    width = Rational(str(fields.number(key, default))) * d
    if not (width.is_Integer and width > 0):
        raise ModelError(f"{fields.name}: {key!r} of {d} gives no whole width")
    return width
