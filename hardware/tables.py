"""TOML tables of figures, each with its source: what device and system files share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.hardware.parts import Figure
from costgraph.units import DIMENSIONS, parse_quantity

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclass(frozen=True)
class File:
    """A parsed file: its label for messages, and its source table."""

    label: str
    sources: Mapping[str, str]

    def fail(self, message: str) -> HardwareError:
        return HardwareError(f"{self.label}: {message}")

    def known(self, table: Mapping[str, Any], allowed: Any, where: str) -> None:
        for key in table:
            if key not in allowed:
                place = f" in [{where}]" if where else ""
                raise self.fail(f"unknown key {clip(key)}{place}{nearest(key, allowed)}")

    def table(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = data.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"{key!r} must be a table [{key}], not {clip(value)}")
        return value

    def named(self, data: Mapping[str, Any], section: str) -> dict[str, Mapping[str, Any]]:
        """The tables ``[SECTION.NAME]`` by name."""
        table = self.table(data, section)
        for name in table:
            if not NAME.match(name):
                raise self.fail(
                    f"[{section}]: names are letters, digits, '.', '_' and '-', not {clip(name)}"
                )
        return {name: self.table(table, name) for name in table}

    def text(self, data: Mapping[str, Any], key: str) -> str:
        value = data.get(key)
        if value is None:
            raise self.fail(f"missing key {key!r}")
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.fail(f"{key!r} must be a non-empty text of one line, not {clip(value)}")
        return value.strip()

    def texts(self, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = data.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(v, str) and v.strip() and v.isprintable() for v in value
        ):
            raise self.fail(f"{key!r} must be a list of texts, not {clip(value)}")
        return tuple(value)

    def name(self, data: Mapping[str, Any]) -> str:
        name = self.text(data, "name")
        if not NAME.match(name):
            raise self.fail(f"'name' must be letters, digits, '.', '_' and '-', not {clip(name)}")
        return name

    def choice(self, data: Mapping[str, Any], key: str, default: str, known: Sequence[str]) -> str:
        value = data.get(key, default)
        if key not in data or value in known:
            return str(value)
        hint = nearest(value, known) if isinstance(value, str) else f"; known: {', '.join(known)}"
        raise self.fail(f"unknown {key} {clip(value)}{hint}")

    def figure(self, entry: Any, dimension: str, where: str) -> Figure:
        """One figure: ``{ value = "768 GB/s", source = "datasheet" }``.

        Besides quantities with a unit there are counts (``value = 8``) and facts that
        hold or do not (``value = true``), kept as 1 or 0.
        """
        if not isinstance(entry, dict):
            raise self.fail(
                f'{where} must be written {{ value = …, source = "…" }}, not {clip(entry)}'
            )
        self.known(entry, ("value", "source"), where)
        if "value" not in entry:
            raise self.fail(f"{where}: missing 'value'")
        key = entry.get("source")
        if not isinstance(key, str) or key not in self.sources:
            known = ", ".join(clip(k) for k in sorted(self.sources)[:8])
            problem = "no source" if key is None else f"unknown source {clip(key)}"
            raise self.fail(f"{where}: {problem}; name a key of [sources]: {known}")
        value = entry["value"]
        if dimension == "count":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**9:
                raise self.fail(f"{where} must be a positive whole number, not {clip(value)}")
            return Figure(Integer(value), "count", self.sources[key], key)
        if dimension == "fact":
            if not isinstance(value, bool):
                raise self.fail(f"{where} must be true or false, not {clip(value)}")
            return Figure(Integer(int(value)), "fact", self.sources[key], key)
        try:
            exact = parse_quantity(value, dimension, where)
        except InputError as error:
            raise self.fail(str(error)) from None
        return Figure(exact, DIMENSIONS[dimension][0], self.sources[key], key)

    def figures(
        self,
        table: Mapping[str, Any],
        section: str,
        keys: Mapping[str, str],
        found: dict[str, Figure],
        beside: tuple[str, ...] = (),
    ) -> dict[str, Expr]:
        """The figures of one table by key, also added to ``found`` by their full name.

        ``keys`` gives the dimension of each; keys in ``beside`` belong to somebody else.
        """
        self.known(table, (*keys, *beside), section)
        mine = [key for key in table if key in keys]
        for key in mine:
            found[f"{section}.{key}"] = self.figure(table[key], keys[key], f"{section}.{key}")
        return {key: found[f"{section}.{key}"].value for key in mine}

    def section(
        self,
        data: Mapping[str, Any],
        section: str,
        keys: Mapping[str, str],
        found: dict[str, Figure],
        beside: tuple[str, ...] = (),
    ) -> dict[str, Expr]:
        """The figures of the table ``[SECTION]``, as :meth:`figures`."""
        return self.figures(self.table(data, section), section, keys, found, beside)


def opened(data: Mapping[str, Any], label: str) -> File:
    """The file whose document is ``data``.

    Raises:
        HardwareError: it has no table of sources.
    """
    table = data.get("sources")
    if not isinstance(table, dict) or not table:
        raise HardwareError(f"{label}: missing table [sources]: every figure names its source")
    for key, value in table.items():
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise HardwareError(
                f"{label}: source {clip(key)} must be a non-empty text of one line, "
                f"not {clip(value)}"
            )
    return File(label, dict(table))
