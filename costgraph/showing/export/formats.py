"""Number formats as tables or JSON: bits by what they are for, and what machines run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr

from costgraph.hardware.machine import Machine
from costgraph.passes.precision.catalogue import TYPES, Entry, entries, named, runs_in
from costgraph.showing.export.records import print_data
from costgraph.showing.export.terminal import print_table

NONE = "–"
_NOTE = (
    "bits per element over rows of 4096, cached heads of 128 and cached tokens of 4096 elements;\n"
    "a format that stands beside 16-bit operands alone is expanded to 16 bit"
)


def list_formats(machines: Sequence[Machine], how: str) -> None:
    """Every format, with what each machine runs a product of two such operands in."""
    if print_data([e.to_dict(tuple(machines)) for e in entries()], how):
        return
    head, rows = format_table(entries(), machines)
    print_table(head, rows, optional=("besides", "zero", "scale", "payload", "for"))
    print(f"\n{_NOTE}")


def show_format(name: str, machines: Sequence[Machine], how: str) -> None:
    """One format in all its roles.

    Raises:
        InputError: there is none of the name.
    """
    found = named(name)
    if print_data([e.to_dict(tuple(machines)) for e in found], how):
        return
    first = found[0]
    print(f"{name}: {first.about or 'a format of plain elements and scales'}")
    if first.source:
        print(f"source: {first.source}")
    for entry in found:
        print(f"\n{', '.join(entry.roles)}: {bits(entry.stored.bits_per_element)} bits per element")
        for part, value in entry.stored.parts.items():
            print(f"    {part}: {bits(value)}")
        if entry.stored.recent is not None:
            print(f"    the last {entry.stored.recent.rows} tokens stay in 16 bit")
    print(f"\ncomputes in: {first.computes or 'nothing; it is expanded to 16 bit'}")
    for machine in machines:
        print(f"    on {machine.name}: {runs(first, machine)}")
    if first.tables:
        print("kernel=tables takes it")
    print(f"\n{_NOTE}")


def list_types(machines: Sequence[Machine], how: str) -> None:
    """What each machine multiplies in, and what it widens every other type to."""
    found = [(m, {t: runs_in(m, t) for t in TYPES}) for m in machines]
    data = [
        {"name": m.name, "kind": m.kind, "runs": {t: r or None for t, r in types.items()}}
        for m, types in found
    ]
    if print_data(data, how):
        return
    rows = [
        (m.name, *("native" if t == r else f"→ {r}" if r else NONE for t, r in types.items()))
        for m, types in found
    ]
    print_table(("machine", *TYPES), rows)


def format_table(
    found: Sequence[Entry], machines: Sequence[Machine]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of formats."""
    head = ("format", "for", "bits", "payload", "scale", "zero", "besides", "computes in")
    rows = []
    for entry in found:
        parts = dict(entry.stored.parts)
        plain = [parts.pop(p, None) for p in ("payload", "scale", "zero")]
        besides = [f"{bits(value)} {part}" for part, value in parts.items()]
        if entry.stored.recent is not None:
            besides.append(f"last {entry.stored.recent.rows} tokens in 16 bit")
        rows.append(
            (
                entry.name,
                ", ".join(entry.roles),
                bits(entry.stored.bits_per_element),
                *(NONE if p is None else bits(p) for p in plain),
                "; ".join(besides) or NONE,
                entry.computes or "16 bit",
                *(runs(entry, machine) for machine in machines),
            )
        )
    return (*head, *(m.name for m in machines)), rows


def runs(entry: Entry, machine: Machine) -> str:
    """What two such operands run in on a machine; widened where an arrow stands."""
    type_ = entry.runs(machine)
    if not type_:
        return NONE
    return type_ if type_ == entry.computes else f"→ {type_}"


def bits(value: Expr) -> str:
    """Bits as decimals, exact where six places are enough."""
    number: Any = float(value)
    return f"{number:.6f}".rstrip("0").rstrip(".")
