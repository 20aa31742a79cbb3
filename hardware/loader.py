"""Finding and reading devices."""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from costgraph.errors import HardwareError, clip, nearest
from costgraph.files import outside
from costgraph.hardware.machine import Machine
from costgraph.hardware.schema import machine_from
from costgraph.hardware.system_schema import is_system
from costgraph.quoting import visible

DEVICES = Path(__file__).parent / "devices"
SYSTEMS = Path(__file__).parent / "systems"
LARGEST_FILE = 2**20
_ALIASES = re.compile(r"^aliases\s*=\s*\[(.*)\]\s*$", re.MULTILINE)


def device_names() -> list[str]:
    """Names of the shipped devices."""
    return names_in(DEVICES)


def load_hardware(spec: str | os.PathLike[str] | Machine) -> Machine:
    """A machine from a shipped name or alias, the path of a TOML file, or a machine.

    Names ignore case, and ``_`` equals ``-``. A text that ends in ``.toml`` or
    holds a path separator is a path.

    Raises:
        HardwareError: the device cannot be found or its file is wrong.
    """
    if isinstance(spec, Machine):
        return spec
    text = as_text(spec)
    if isinstance(spec, os.PathLike) or is_path(text):
        return load_device_file(text)
    name = find(text, DEVICES)
    if name is None:
        if find(text, SYSTEMS) is not None:
            raise HardwareError(f"{clip(text)} is a system; one device is needed here")
        known = [*device_names(), *aliases()]
        hint = nearest(text[:100], known) or "; see: costgraph hardware"
        raise HardwareError(f"unknown hardware {clip(text)}{hint}")
    return shipped(name)


def load_device_file(path: str | os.PathLike[str]) -> Machine:
    """The machine described by the TOML file at ``path``.

    Raises:
        HardwareError: the file cannot be read, is not TOML, or breaks the schema.
    """
    data, label = read(path)
    if is_system(data):
        raise HardwareError(f"{label} describes a system; one device is needed here")
    return machine_from(data, label)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The document in the TOML file at ``path``, and the file's name for messages.

    Raises:
        HardwareError: the file cannot be read or is not TOML.
    """
    path = Path(os.fsdecode(path))
    data = outside.read_toml(path, LARGEST_FILE, "a device file", HardwareError)
    return data, visible(path.name)


def as_text(spec: object) -> str:
    """A name or path as text.

    Raises:
        HardwareError: it is neither, or empty.
    """
    if not isinstance(spec, (str, os.PathLike)):
        raise HardwareError(f"hardware is a name, a path or a Machine, not {clip(spec)}")
    text = os.fsdecode(spec)
    if not text.strip() or "\0" in text:
        raise HardwareError(f"{clip(text)} is not a device name or path")
    return text


def is_path(text: str) -> bool:
    """True for a text that is the path of a file rather than a name."""
    return text.lower().endswith(".toml") or any(
        s is not None and s in text for s in (os.sep, os.altsep)
    )


def names_in(folder: Path) -> list[str]:
    """Names of the files shipped in a folder."""
    return sorted(p.stem for p in folder.glob("*.toml"))


def find(name: str, folder: Path) -> str | None:
    """The file of a folder that a name or alias means, or None."""
    wanted = _normal(name)
    if re.fullmatch(r"[a-z0-9.-]{1,64}", wanted) and (folder / f"{wanted}.toml").is_file():
        return wanted
    return other_names(folder).get(wanted)


def described(folder: Path, key: str, value: str) -> list[str]:
    """The files of a folder that state ``KEY = "VALUE"``, without parsing them whole."""
    line = re.compile(rf'^{key}\s*=\s*"{re.escape(value)}"\s*$', re.MULTILINE)
    return [
        name
        for name in names_in(folder)
        if line.search(outside.package_text(folder / f"{name}.toml"))
    ]


def aliases() -> MappingProxyType[str, str]:
    """Other names of the shipped devices."""
    return other_names(DEVICES)


@cache
def other_names(folder: Path) -> MappingProxyType[str, str]:
    """Other names of the files in a folder, without parsing the files whole."""
    table: dict[str, str] = {}
    for path in sorted(folder.glob("*.toml")):
        match = _ALIASES.search(outside.package_text(path))
        for alias in re.findall(r'"([^"]+)"', match.group(1)) if match else ():
            table[_normal(alias)] = path.stem
    return MappingProxyType(table)


@lru_cache(maxsize=64)
def shipped(name: str) -> Machine:
    """The shipped device whose file has this name."""
    return load_device_file(DEVICES / f"{name}.toml")


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")
