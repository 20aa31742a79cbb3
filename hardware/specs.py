"""From what a user writes to a system: ``8xh100``, ``dgx-h100``, ``rtx-4090+i9-13900k``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from sympy import divisors

from costgraph.errors import HardwareError, clip, nearest
from costgraph.files import outside
from costgraph.hardware.domains import behind
from costgraph.hardware.loader import (
    DEVICES,
    SYSTEMS,
    as_text,
    described,
    find,
    is_path,
    load_hardware,
    names_in,
    other_names,
    read,
    shipped,
)
from costgraph.hardware.machine import Machine
from costgraph.hardware.parts import Figure
from costgraph.hardware.schema import machine_from
from costgraph.hardware.system_schema import is_system, system_from
from costgraph.hardware.systems import (
    NETWORK,
    System,
    alone,
    counted,
    repeated,
    unjoined,
    with_host,
    with_memory,
    with_network,
)

_COUNT = re.compile(r"\s*([0-9]{1,6})\s*[xX×]\s*(.+)\Z", re.DOTALL)
#: Links that reach other nodes where nothing else is stated.
_OUTWARD = ("infiniband", "roce", "ethernet")


def load_system(spec: str | os.PathLike[str] | Machine | System) -> System:
    """The system that a text, a path, a device or a system means.

    - ``h100``, or a :class:`Machine`: the device alone, a system of one;
    - ``8xh100``: eight in a node; ``2x8xh200``: two nodes of eight;
    - ``dgx-h100``: a shipped system, by name or alias; ``2xdgx-h100``: two of it;
    - the path of a TOML file of a device or a system, also behind a count;
    - any of these with a processor as its host: ``2xrtx-4090+i9-13900k``;
    - and with memory that computes: ``a100+5xhbm-pim``;
    - ``xeon-8480p.numa``: one of the NUMA domains of a device; ``xeon-8480p.unbound``: all of
      it, with threads bound to none; ``xeon-8480p.8cores``: threads on eight of its cores.

    Names ignore case, and ``_`` equals ``-``. What joins nodes is what the system file
    states; for a counted device, what a shipped system of that device states, or the
    device's own network port.

    Raises:
        HardwareError: nothing has that name, a file is wrong, a node does not hold as
            many, or nothing is known that would join the nodes.
    """
    if isinstance(spec, System):
        return spec
    if isinstance(spec, Machine):
        return alone(spec)
    text = as_text(spec)
    if isinstance(spec, os.PathLike):
        return _from_file(text)
    whole = _known(text)
    if whole is not None:
        return whole[0]
    body, plus, rest = text.partition("+")
    system = _counted(body.strip())
    if not plus:
        return system
    if not rest.strip():
        raise HardwareError(f"{clip(text)}: name a processor after '+', such as i9-13900k")
    # Hosts first: memory may stand in their slots.
    for count, other in sorted(_beside(rest), key=lambda found: found[1].kind == "pim"):
        if other.kind == "pim":
            system = with_memory(system, other, count)
        elif count != 1:
            raise HardwareError(f"{clip(text)}: only memory that computes is counted after '+'")
        else:
            system = with_host(system, other)
    return system


def _beside(text: str) -> list[tuple[int, Machine]]:
    """What stands beside the devices, with how many of it; a name or path may have a '+'."""
    many = _COUNT.match(text)
    name = (many[2] if many else text).strip()
    try:
        known = _known(name) if behind(name) is not None else None
        device = known[0].device if known is not None else load_hardware(name)
        return [(int(many[1]) if many else 1, device)]
    except HardwareError:
        head, plus, tail = text.partition("+")
        if plus and head.strip() and tail.strip():
            with suppress(HardwareError):
                return [*_beside(head), *_beside(tail)]
        raise


def several(device: Machine, per_node: int, nodes: int = 1) -> System:
    """``nodes`` times ``per_node`` of a device, with the network that is known for it.

    Raises:
        HardwareError: a node does not hold as many, or nothing is known that would join them.
    """
    system = counted(device, per_node, nodes)
    return system if system.nodes == 1 else _networked(system)


def joined_as(device: Machine, count: int) -> Iterator[System]:
    """Systems of ``count`` of a device that something joins, of few nodes first."""
    for nodes in divisors(count):
        try:
            yield several(device, count // nodes, nodes)
        except HardwareError:  # a node holds fewer, or nothing joins them
            continue


def system_names() -> list[str]:
    """Names of the shipped systems."""
    return names_in(SYSTEMS)


def _counted(text: str) -> System:
    """A system, or a device or system behind counts."""
    counts: list[int] = []
    rest = text
    while (known := _known(rest)) is None:
        match = _COUNT.match(rest)
        if match is None:
            raise _unknown(rest, text)
        if len(counts) == 2:
            raise HardwareError(f"{clip(text)}: counts are written NODESxDEVICESxDEVICE")
        counts.append(int(match[1]))
        rest = match[2].strip()
    base, stated = known
    if not counts:
        return base
    if stated:
        if len(counts) == 2:
            raise HardwareError(
                f"{clip(text)}: {base.name} is a system of its own; one count says how many"
            )
        return repeated(base, counts[0])
    return several(base.device, counts[-1], counts[0] if len(counts) == 2 else 1)


def _known(text: str) -> tuple[System, bool] | None:
    """What a name or path means, and whether it is a system rather than a device.

    None for text that means nothing as it stands, but whose parts may.
    """
    if (part := behind(text)) is not None:
        whole, made = part
        base = _known(whole)
        if base is not None and base[0].is_device:
            return alone(made(base[0].device)), False
    if is_path(text):
        if not outside.exists(text) and ("+" in text or _COUNT.match(text)):
            return None
        system = _from_file(text)
        return system, not system.is_device
    name = find(text, SYSTEMS)
    if name is not None:
        return _shipped_system(name), True
    name = find(text, DEVICES)
    return None if name is None else (alone(shipped(name)), False)


def _from_file(path: str) -> System:
    """The system, or the device alone, that the TOML file at ``path`` describes."""
    data, label = read(path)
    if not is_system(data):
        return alone(machine_from(data, label))
    folder = Path(path).parent

    def device_of(spec: str) -> Machine:
        # Other files are named as seen from this one.
        return load_hardware(folder / spec if is_path(spec) else spec)

    return system_from(data, label, device_of)


@lru_cache(maxsize=64)
def _shipped_system(name: str) -> System:
    return _from_file(str(SYSTEMS / f"{name}.toml"))


def _networked(system: System) -> System:
    """The system with the network that is known for its device.

    Raises:
        HardwareError: none is.
    """
    device = system.device
    for name in described(SYSTEMS, "device", device.name):
        reference = _shipped_system(name)
        if reference.device.name == device.name and reference.network is not None:
            figures = _figures_of(reference.device, NETWORK)
            whose = f"the network of {reference.name} ({figures['bandwidth'].source})"
            return with_network(system, reference.network, figures, whose)
    for name in _OUTWARD:
        if name in device.links and name != system.inner:
            figures = _figures_of(device, name)
            return with_network(system, device.links[name], figures, f"{name} of {device.name}")
    raise unjoined(system.name, device)


def _figures_of(device: Machine, link: str) -> dict[str, Figure]:
    """The figures of a link, by the last part of their key."""
    prefix = f"links.{link}."
    return {
        key.removeprefix(prefix): figure
        for key, figure in device.figures.items()
        if key.startswith(prefix)
    }


def _unknown(name: str, whole: str) -> HardwareError:
    known = [n for folder in (DEVICES, SYSTEMS) for n in (*names_in(folder), *other_names(folder))]
    hint = nearest(name[:100], known) or "; see: costgraph hardware"
    place = "" if name == whole else f" in {clip(whole)}"
    return HardwareError(f"unknown hardware {clip(name)}{place}{hint}")
