"""First tokens of loaded servers: a form per framework, fitted to whole runs, on request only.

The mean time to first token of a closed loop with ``c`` requests in flight:

    TTFT = h0 + a·P·c^g + b·step

with ``P`` the seconds of one prompt alone and ``step`` those of a mean decode step, both
calibrated. ``h0`` is what stands before a server's first step (HTTP, tokens, scheduling), ``b``
how many steps pass before a request is seen, and ``c^g`` the wait behind other prompts, of which
a run's mean holds the burst at its start. Four values a framework, in ``hardware/servers``; no
kernel's timing tells of them, so nothing but :attr:`.Serving.ttft_served` takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.files import outside
from costgraph.quoting import toml_text, visible
from costgraph.timing.fidelity.calibration import (
    HELDOUT,
    LARGEST_FILE,
    folder_of,
    heldout_of,
    ranged,
    shown_number,
)

#: Parameters: limits, and what each is.
PARAMETERS: Mapping[str, tuple[float, float, str]] = {
    "h0": (0.0, 10.0, "seconds before a server's first step"),
    "a": (0.0, 100.0, "prompts that one waits for at one request in flight"),
    "g": (0.0, 1.5, "exponent of the requests in flight"),
    "b": (0.0, 100.0, "decode steps before a request is seen"),
}


@dataclass(frozen=True)
class FirstToken:
    """What was fitted for a framework's servers.

    Attributes:
        framework: whose.
        provenance: which runs.
        values: of :data:`PARAMETERS`.
        heldout: errors on models left out, as :data:`.calibration.HELDOUT`.
    """

    framework: str
    provenance: str
    values: Mapping[str, float]
    heldout: Mapping[str, float]

    def seconds(self, prefill: Any, step: Any, c: Any) -> Any:
        """The form, over numbers or arrays."""
        v = self.values
        return v["h0"] + v["a"] * prefill * c ** v["g"] + v["b"] * step

    @property
    def said(self) -> str:
        """What must be said beside it."""
        v, held = self.values, self.heldout
        return (
            f"mean time to first token as servers of {self.framework} had it in closed loops: "
            f"h0 + a·P·c^g + b·step with h0 = {1e3 * v['h0']:.3g} ms, a = {v['a']:.3g}, "
            f"g = {v['g']:.2g}, b = {v['b']:.2g}, fitted to {self.provenance}; mean/median error "
            f"of models left out: {held['mean']:.0f}/{held['median']:.0f} %, half of the runs took "
            f"{held['q50']:.2g} of it or more, one in ten under {held['q10']:.2g} or over "
            f"{held['q90']:.2g}"
        )


def first_token_from(data: Mapping[str, Any], label: str) -> FirstToken:
    """The form that a parsed file describes.

    Raises:
        HardwareError: a key is unknown or missing, or a value is out of range.
    """

    def fail(message: str) -> HardwareError:
        return HardwareError(f"{label}: {message}")

    known = ("framework", "provenance", "first_token")
    for key in data:
        if key not in known:
            raise fail(f"unknown key {clip(key)}{nearest(key, known)}")
    texts = [data.get(key) for key in known[:2]]
    for key, text in zip(known, texts, strict=False):
        if not isinstance(text, str) or not text.strip():
            raise fail(f"{key!r} must be a text")
    table = data.get("first_token")
    if not isinstance(table, dict):
        raise fail("needs a table [first_token]")
    for key in table:
        if key not in (*PARAMETERS, "heldout"):
            raise fail(f"unknown key {clip(key)} in [first_token]{nearest(key, PARAMETERS)}")
    values = {}
    for key, (low, high, meaning) in PARAMETERS.items():
        if key not in table:
            raise fail(f"[first_token] lacks {key!r} ({meaning})")
        values[key] = ranged(table[key], f"first_token.{key}", fail, low, high)
    held = heldout_of(table.get("heldout"), "first_token", fail)
    return FirstToken(visible(str(texts[0])), visible(str(texts[1])), values, held)


def first_token_text(made: FirstToken) -> str:
    """The file of a form; :func:`first_token_from` reads it back."""
    held = ", ".join(f"{k} = {shown_number(made.heldout[k])}" for k in HELDOUT)
    return "\n".join([
        f"framework = {toml_text(made.framework)}",
        f"provenance = {toml_text(made.provenance)}",
        "",
        "[first_token]",
        *(f"{k} = {shown_number(made.values[k])}" for k in PARAMETERS),
        f"heldout = {{ {held} }}",
        "",
    ])  # fmt: skip


def served_frameworks() -> tuple[str, ...]:
    """Frameworks whose first tokens were fitted."""
    return tuple(sorted(p.stem for p in folder_of("servers").glob("*.toml")))


@lru_cache(maxsize=8)
def first_token(framework: str) -> FirstToken:
    """The form of a framework.

    Raises:
        InputError: none was fitted for it.
    """
    known = served_frameworks()
    if framework not in known:
        what = f"of {clip(framework)}" if framework else "without a framework's name"
        raise InputError(
            f"first tokens of loaded servers were fitted by framework, none {what}: ask for "
            f"fidelity {', '.join(f'calibrated@{name}' for name in known)}"
        )
    return load_first_token(folder_of("servers") / f"{framework}.toml")


def load_first_token(path: Path) -> FirstToken:
    """The form in a file.

    Raises:
        HardwareError: the file cannot be read or breaks the schema.
    """
    data = outside.read_toml(path, LARGEST_FILE, "a file of servers", HardwareError)
    return first_token_from(data, visible(path.name))
