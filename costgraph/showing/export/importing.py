"""What reading an exported graph found, as text and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from costgraph.models.account import Account
from costgraph.quoting import visible
from costgraph.showing.export.table import plain_table, si


def account_text(found: Account) -> str:
    """An account for a reader."""
    return "\n".join(visible(part) for line in _lines(found) for part in line.split("\n"))


def _lines(found: Account) -> Iterator[str]:
    yield f"{found.name}: {found.calls} operators ({found.dialect})"
    yield f"constants folded: {found.constants} operators gave nothing but known numbers"
    dims = ", ".join(f"{name} → {size}" for name, size in found.dims)
    yield f"dimensions: {dims or 'all are numbers'}"
    if found.program is None:
        yield f"unknown: {', '.join(f'{target} ×{n}' for target, n in found.unknown)}"
        yield "FLOP understood: nothing is counted while an operator has no cost rule"
        return
    yield "unknown: none"
    yield f"phases: {', '.join(p.name for p in found.program.phases)}"
    yield f"layers folded: {', '.join(found.layers) or 'none'}"
    yield f"recognised: {_counted(found.patterns) or 'nothing'}"
    yield f"by rules: {_counted(found.rules) or 'none: nothing was written out'}"
    for why, n in found.missed:
        yield f"nearly: {why} ({n})"
    at = ", ".join(f"{name}={value}" for name, value in found.at)
    yield ""
    head = ("part", "operations", "FLOP", "share")
    total = found.flop or 1
    shown = [
        (p.name, str(p.operations), si(p.flop), _percent(p.flop / total))
        for p in found.parts
        if p.flop
    ]
    yield plain_table(head, shown)
    yield ""
    share = found.understood
    said = "no arithmetic" if share is None else _percent(share)
    yield f"FLOP understood: {said}{f' (one step at {at})' if at else ''}"
    for text in (*found.program.assumptions, *found.program.notes):
        yield f"note: {text}"


def _counted(items: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} {n}" for name, n in items)


def _percent(share: float) -> str:
    """Rounded down: 100 % is all."""
    return f"{int(1000 * share) / 10:.1f} %"


def account_object(found: Account) -> dict[str, Any]:
    """An account as plain values."""
    program = found.program
    return {
        "model": found.name,
        "dialect": found.dialect,
        "operators": found.calls,
        "constants": found.constants,
        "dims": {name: str(size) for name, size in found.dims},
        "unknown": dict(found.unknown),
        "phases": [] if program is None else [p.name for p in program.phases],
        "layers": list(found.layers),
        "recognised": dict(found.patterns),
        "rules": dict(found.rules),
        "missed": dict(found.missed),
        "parts": [
            {"part": p.name, "operations": p.operations, "flop": p.flop, "understood": p.understood}
            for p in found.parts
        ],
        "at": dict(found.at),
        "flop": None if program is None else found.flop,
        "understood": found.understood,
        "assumptions": [] if program is None else list(program.assumptions),
        "notes": [] if program is None else list(program.notes),
    }
