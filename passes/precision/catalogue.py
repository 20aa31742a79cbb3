"""Every format as a table: bits by what they are for, roles, and what machines run it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.dtypes import DType, compute_type, dtype
from costgraph.passes.precision.families import FAMILIES
from costgraph.passes.precision.formats import ACTIVATIONS, KV, WEIGHTS
from costgraph.passes.precision.scheme import Scheme, remembering

#: Roles with their schemes, in the order of tables.
ROLES: Mapping[str, Mapping[str, Scheme]] = {
    "weights": WEIGHTS, "activations": ACTIVATIONS, "kv": KV,
}  # fmt: skip
#: Elements of a row of a weight or an activation, of a cached head, of a cached token.
ROW, HEAD, TOKEN = Integer(4096), Integer(128), Integer(4096)
WIDE = dtype("fp16")
#: Compute types, from narrow to wide.
TYPES = ("int4", "int8", "fp4", "fp8", "fp16", "bf16", "tf32", "fp32")


@dataclass(frozen=True)
class Entry:
    """One way in which a format is stored.

    Attributes:
        name: as ``quantize`` calls it.
        roles: ``weights``, ``activations``, ``kv`` (of caches, ``keys`` and ``values`` where
            they differ).
        stored: the element format.
        tables: a table kernel takes it (``kernel=tables``).
        source, about: of the paper, if it is not a plain format.
    """

    name: str
    roles: tuple[str, ...]
    stored: DType
    tables: bool
    source: str = ""
    about: str = ""

    @property
    def computes(self) -> str:
        """The type in which two such operands meet; empty where nothing takes them."""
        return self.stored.compute

    def runs(self, machine: Machine) -> str:
        """What a product of two such operands runs in on a machine; empty if it has nothing.

        Formats that no engine takes meet in 16 bit.
        """
        return runs_in(machine, compute_type(self.stored, self.stored))

    def to_dict(self, machines: tuple[Machine, ...] = ()) -> dict[str, Any]:
        """Plain values; bits as exact text and as a number."""
        bits = self.stored.bits_per_element
        recent = self.stored.recent
        return {
            "name": self.name,
            "roles": list(self.roles),
            "bits_per_element": float(bits),
            "exact": str(bits),
            "parts": {part: str(value) for part, value in self.stored.parts.items()},
            "recent_wide": 0 if recent is None else int(recent.rows),
            "computes_in": self.computes or None,
            "convert_flop": str(self.stored.decode),
            "tables": self.tables,
            "runs_in": {m.name: self.runs(m) or None for m in machines},
            "source": self.source,
            "about": self.about,
        }


def runs_in(machine: Machine, stated: str) -> str:
    """The type that executes products stated in a type; empty where nothing does."""
    try:
        return machine.resolve(Engine.TENSOR, stated)[1]
    except HardwareError:
        return ""


def entries(row: Expr = ROW, head: Expr = HEAD, token: Expr = TOKEN) -> tuple[Entry, ...]:
    """Every format in every role, roles that store alike together.

    Args:
        row: elements of a row of a weight or an activation.
        head, token: elements of a cached head, and of a cached token.
    """
    found: dict[tuple[str, DType], list[str]] = {}
    for role, schemes in ROLES.items():
        for name, scheme in schemes.items():
            for part, chosen in _parts(role, scheme):
                stored = chosen.over(*((head, token) if role == "kv" else (row,)))
                if scheme.recent != 0:
                    stored = remembering(stored, WIDE, scheme.recent)
                found.setdefault((name, replace(stored, name=name)), []).append(part)
    order = {name: at for at, name in enumerate(dict.fromkeys(n for n, _ in found))}
    made = []
    for (name, stored), roles in sorted(found.items(), key=lambda item: order[item[0][0]]):
        family = FAMILIES.get(name)
        tables = "weights" in roles and stored.planes is not None
        source, about = (family.source, family.about) if family else ("", "")
        made.append(Entry(name, tuple(roles), stored, tables, source, about))
    return tuple(made)


def named(name: str, **sizes: Expr) -> tuple[Entry, ...]:
    """The entries of one format.

    Raises:
        InputError: there is no such format.
    """
    found = tuple(e for e in entries(**sizes) if e.name == name)
    if not found:
        names = [n for schemes in ROLES.values() for n in schemes]
        raise InputError(f"unknown format {clip(name)}{nearest(name, names)}")
    return found


def _parts(role: str, scheme: Scheme) -> tuple[tuple[str, Scheme], ...]:
    if scheme.keys is None:
        return ((role, scheme),)
    return (("keys", scheme.keys), ("values", scheme))
