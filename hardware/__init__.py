"""Devices: one TOML file each, every figure with its source."""

from costgraph.hardware.loader import aliases, device_names, load_device_file, load_hardware

__all__ = ["aliases", "device_names", "load_device_file", "load_hardware"]
