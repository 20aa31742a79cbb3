"""Finding and reading devices."""

from __future__ import annotations

import os
import re
import tomllib
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType

from costgraph.errors import HardwareError, clip, nearest
from costgraph.hardware.schema import machine_from
from costgraph.machine import Machine

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
    text = os.fspath(spec)
    if not text.strip() or "\0" in text:
        raise HardwareError(f"{clip(text)} is not a device name or path")
    if isinstance(spec, os.PathLike) or text.endswith(".toml") or os.sep in text:
        return load_device_file(Path(text))
    return _shipped(_normal(text), text)


def load_device_file(path: Path) -> Machine:
    """The machine described by the TOML file at ``path``.

    Raises:
        HardwareError: the file cannot be read, is not TOML, or breaks the schema.
    """
    label = clip(str(path), 200)
    try:
        if not path.is_file():
            raise HardwareError(f"no such file: {label}")
        if path.stat().st_size > LARGEST_FILE:
            raise HardwareError(f"{label}: larger than {LARGEST_FILE} bytes: not a device file")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise HardwareError(f"{label}: not readable: {reason}") from None
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise HardwareError(f"{label}: not valid TOML: {error}") from None
    return machine_from(data, path.name)


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


@lru_cache(maxsize=64)
def _shipped(wanted: str, shown: str) -> Machine:
    if re.fullmatch(r"[a-z0-9.-]+", wanted) and (DEVICES / f"{wanted}.toml").is_file():
        return load_device_file(DEVICES / f"{wanted}.toml")
    found = aliases().get(wanted)
    if found is None:
        known = [*device_names(), *aliases()]
        hint = nearest(shown, known) or "; see: costgraph hardware"
        raise HardwareError(f"unknown hardware {clip(shown)}{hint}")
    return load_device_file(DEVICES / f"{found}.toml")


@cache
def aliases() -> MappingProxyType[str, str]:
    """Other names of the shipped devices, without parsing the files whole."""
    table: dict[str, str] = {}
    for path in sorted(DEVICES.glob("*.toml")):
        match = _ALIASES.search(path.read_text(encoding="utf-8"))
        for alias in re.findall(r'"([^"]+)"', match.group(1)) if match else ():
            table[_normal(alias)] = path.stem
    return MappingProxyType(table)
