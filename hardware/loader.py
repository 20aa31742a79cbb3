"""Finding and reading devices."""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType

from costgraph import outside
from costgraph.errors import HardwareError, clip, nearest
from costgraph.hardware.schema import machine_from
from costgraph.machine import Machine
from costgraph.quoting import visible

DEVICES = Path(__file__).parent / "devices"
LARGEST_FILE = 2**20
_ALIASES = re.compile(r"^aliases\s*=\s*\[(.*)\]\s*$", re.MULTILINE)


def device_names() -> list[str]:
    """Names of the shipped devices."""
    return sorted(p.stem for p in DEVICES.glob("*.toml"))


def load_hardware(spec: str | os.PathLike[str] | Machine) -> Machine:
    """A machine from a shipped name or alias, the path of a TOML file, or a machine.

    Names ignore case, and ``_`` equals ``-``. A text that ends in ``.toml`` or
    holds a path separator is a path.

    Raises:
        HardwareError: the device cannot be found or its file is wrong.
    """
    if isinstance(spec, Machine):
        return spec
    if not isinstance(spec, (str, os.PathLike)):
        raise HardwareError(f"hardware is a name, a path or a Machine, not {clip(spec)}")
    text = os.fsdecode(spec)
    if not text.strip() or "\0" in text:
        raise HardwareError(f"{clip(text)} is not a device name or path")
    if isinstance(spec, os.PathLike) or text.lower().endswith(".toml") or _has_separator(text):
        return load_device_file(text)
    return _shipped(_find(text))


def load_device_file(path: str | os.PathLike[str]) -> Machine:
    """The machine described by the TOML file at ``path``.

    Raises:
        HardwareError: the file cannot be read, is not TOML, or breaks the schema.
    """
    path = Path(os.fsdecode(path))
    data = outside.read_toml(path, LARGEST_FILE, "a device file", HardwareError)
    return machine_from(data, visible(path.name))


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _has_separator(text: str) -> bool:
    return os.sep in text or (os.altsep is not None and os.altsep in text)


def _find(name: str) -> str:
    """The shipped device that a name or alias means.

    Raises:
        HardwareError: no device has that name.
    """
    wanted = _normal(name)
    if re.fullmatch(r"[a-z0-9.-]{1,64}", wanted) and (DEVICES / f"{wanted}.toml").is_file():
        return wanted
    found = aliases().get(wanted)
    if found is None:
        known = [*device_names(), *aliases()]
        hint = nearest(name[:100], known) or "; see: costgraph hardware"
        raise HardwareError(f"unknown hardware {clip(name)}{hint}")
    return found


@lru_cache(maxsize=64)
def _shipped(name: str) -> Machine:
    return load_device_file(DEVICES / f"{name}.toml")


@cache
def aliases() -> MappingProxyType[str, str]:
    """Other names of the shipped devices, without parsing the files whole."""
    table: dict[str, str] = {}
    for path in sorted(DEVICES.glob("*.toml")):
        match = _ALIASES.search(outside.package_text(path))
        for alias in re.findall(r'"([^"]+)"', match.group(1)) if match else ():
            table[_normal(alias)] = path.stem
    return MappingProxyType(table)
