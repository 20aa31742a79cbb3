"""Devices and systems of them: one TOML file each, every figure with its source."""

from costgraph.hardware.loader import aliases, device_names, load_device_file, load_hardware
from costgraph.hardware.specs import joined_as, load_system, several, system_names
from costgraph.hardware.systems import System

__all__ = [
    "System",
    "aliases",
    "device_names",
    "joined_as",
    "load_device_file",
    "load_hardware",
    "load_system",
    "several",
    "system_names",
]
