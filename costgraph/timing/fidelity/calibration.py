"""Calibration files: fitted parameters of a device, read and written strictly.

One TOML per device in ``hardware/calibrations``, and ``transfer.toml`` for
devices that were never fitted. A table ``[KIND."VARIANT"]`` holds the parameters
of one form; ``heldout`` its errors on unseen rows and the 10, 50 and 90 %
quantiles of measured over predicted time there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from costgraph.errors import HardwareError, clip, nearest
from costgraph.files import outside
from costgraph.quoting import toml_key, toml_text, visible
from costgraph.timing.fidelity.forms import FORMS, form_of

LARGEST_FILE = 2**20
#: The origin of parameters of all fitted devices together.
EVERY = "transfer"

#: Keys of a ``heldout`` table: errors in percent, quantiles as ratios.
HELDOUT = ("rows", "mean", "median", "q10", "q50", "q90")
#: Kinds whose kernels differ between frameworks and libraries.
APART = ("prefill", "decode", "exchange")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True)
class Fit:
    """Fitted parameters of one form.

    Attributes:
        kind: of the form.
        variant: data types and the like; a backend behind ``@``.
        values: every parameter of the form.
        errors: relative standard errors, where known.
        kernel: what ran, where it is not a library's usual kernel and says nothing of other
            devices (``triton``: untuned); only its own device takes the fit.
        origin: the device that it was fitted on; :data:`EVERY` for all of them together.
        heldout: see :data:`HELDOUT`.
    """

    kind: str
    variant: str
    values: Mapping[str, float]
    heldout: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    kernel: str = ""
    origin: str = ""

    def trust(self, moved: bool) -> str:
        """Whose parameters these are and how good: ``own h200 trtllm, median 5 %``.

        ``moved`` where they serve another device than their own.
        """
        library = self.variant.partition("@")[2]
        if not moved:
            name = f"own {self.origin}"
        elif self.origin == EVERY:
            name = "transferred from all fitted devices"
        else:
            name = f"transferred from {self.origin}"
        shown = " ".join(filter(None, (name, library, self.kernel and f"({self.kernel})")))
        return f"{shown}, median {self.heldout['median']:.0f} %"

    def quantile(self, name: str) -> float:
        """A quantile of measured over predicted time on unseen rows."""
        return self.heldout[name]


@dataclass(frozen=True)
class Calibration:
    """What was fitted for a device.

    Attributes:
        device: the device's name, or ``transfer``.
        provenance: where the timings come from.
        fits: by kind and variant.
        slope: by kind, how ``ec`` falls with the ridge point between devices (transfer only).
    """

    device: str
    provenance: str
    fits: Mapping[tuple[str, str], Fit]
    slope: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Calibration of {self.device}: {len(self.fits)} fits>"

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Frameworks and libraries whose attention or exchanges were fitted apart."""
        return tuple(sorted({v.partition("@")[2] for k, v in self.fits if k in APART and "@" in v}))

    @property
    def has_kernels(self) -> bool:
        """False where only exchanges with other devices were fitted."""
        return any(kind != "exchange" for kind, _ in self.fits)

    def find(self, kind: str, variants: tuple[str, ...]) -> Fit | None:
        """The fit of the first variant that there is."""
        for variant in variants:
            if (kind, variant) in self.fits:
                return self.fits[kind, variant]
        return None


def calibration_from(data: Mapping[str, Any], label: str) -> Calibration:
    """The calibration that a parsed file describes.

    Raises:
        HardwareError: a key is unknown or missing, or a value is out of range.
    """

    def fail(message: str) -> HardwareError:
        return HardwareError(f"{label}: {message}")

    known = ("device", "provenance", "slope", *FORMS)
    for key in data:
        if key not in known:
            raise fail(f"unknown key {clip(key)}{nearest(key, known)}")
    device, provenance = data.get("device"), data.get("provenance")
    if not isinstance(device, str) or not _NAME.match(device):
        raise fail(f"'device' must be the name of a device, not {clip(device)}")
    if not isinstance(provenance, str) or not provenance.strip():
        raise fail("'provenance' must say where the timings come from")
    fits = {}
    for kind in FORMS:
        tables = data.get(kind, {})
        if not isinstance(tables, dict):
            raise fail(f"[{kind}] must hold tables of parameters")
        for variant, table in tables.items():
            if not isinstance(table, dict):
                raise fail(f'[{kind}."{variant}"] must be a table')
            fits[kind, variant] = replace(_fit(kind, variant, table, fail), origin=device)
    slope = data.get("slope", {})
    if not isinstance(slope, dict):
        raise fail("[slope] must hold one number per kind")
    for kind, value in slope.items():
        if kind not in FORMS:
            raise fail(f"[slope]: unknown kind {clip(kind)}{nearest(kind, FORMS)}")
        ranged(value, f"slope.{kind}", fail, 0.0, 1.0)
    return Calibration(device, visible(provenance), fits, dict(slope))


def ranged(value: Any, where: str, fail: Any, low: float, high: float) -> float:
    """A number within limits; else what ``fail`` makes of the message is raised."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise fail(f"{where} must be a number from {low:g} to {high:g}, not {clip(value)}")
    return float(value)


def heldout_of(table: Any, where: str, fail: Any) -> dict[str, float]:
    """Errors on unseen rows: the keys of :data:`HELDOUT`, quantiles in order."""
    if not isinstance(table, dict) or set(table) != set(HELDOUT):
        raise fail(f"[{where}] needs heldout = {{ {', '.join(HELDOUT)} }}")
    held = {k: ranged(v, f"{where}.heldout.{k}", fail, 0.0, 1e9) for k, v in table.items()}
    if not 0 < held["q10"] <= held["q50"] <= held["q90"]:
        raise fail(f"[{where}]: the quantiles q10, q50, q90 must be positive and rise")
    return held


def _fit(kind: str, variant: str, table: Mapping[str, Any], fail: Any) -> Fit:
    where = f'{kind}."{variant}"'
    names = [p.name for p in form_of(kind).parameters]
    for key in table:
        if key not in (*names, "heldout", "stderr", "kernel"):
            raise fail(f"unknown key {clip(key)} in [{where}]{nearest(key, names)}")
    values = {}
    for p in form_of(kind).parameters:
        if p.name not in table:
            raise fail(f"[{where}] lacks parameter {p.name!r} ({p.meaning})")
        values[p.name] = ranged(
            table[p.name], f"{where}.{p.name}", fail, p.low * 0.999, p.high * 1.001
        )
    held = heldout_of(table.get("heldout"), where, fail)
    stderr = table.get("stderr", {})
    if not isinstance(stderr, dict) or not set(stderr) <= set(names):
        raise fail(f"[{where}]: stderr must hold parameters' relative standard errors")
    errors = {k: ranged(v, f"{where}.stderr.{k}", fail, 0.0, 1e9) for k, v in stderr.items()}
    kernel = table.get("kernel", "")
    if not isinstance(kernel, str) or (kernel and not _NAME.match(kernel)):
        raise fail(f"[{where}]: kernel must be a short name, not {clip(kernel)}")
    return Fit(kind, variant, values, held, errors, kernel)


def calibration_text(made: Calibration) -> str:
    """The file of a calibration; :func:`calibration_from` reads it back."""
    lines = [f"device = {toml_text(made.device)}", f"provenance = {toml_text(made.provenance)}"]
    if made.slope:
        pairs = (f"{toml_key(k)} = {shown_number(v)}" for k, v in sorted(made.slope.items()))
        lines += ["", "# ec = ec1 * (ridge point / 300 FLOP/byte)^-slope", "[slope]", *pairs]
    for (kind, variant), fit in sorted(made.fits.items()):
        lines += ["", f"[{kind}.{toml_text(variant)}]"]
        lines += [f"{name} = {shown_number(value)}" for name, value in fit.values.items()]
        held = ", ".join(f"{k} = {shown_number(fit.heldout[k])}" for k in HELDOUT)
        lines.append(f"heldout = {{ {held} }}")
        if fit.kernel:
            lines.append(f"kernel = {toml_text(fit.kernel)}")
        if fit.errors:
            text = ", ".join(f"{k} = {shown_number(v)}" for k, v in fit.errors.items())
            lines.append(f"stderr = {{ {text} }}")
    return "\n".join(lines) + "\n"


def shown_number(value: float) -> str:
    """A fitted value in a file: five digits, of whole numbers all."""
    if not math.isfinite(value):
        return "1e9"
    return str(int(value)) if value == int(value) and value < 1e6 else f"{value:.5g}"


def load_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        HardwareError: the file cannot be read or breaks the schema.
    """
    data = outside.read_toml(path, LARGEST_FILE, "a calibration file", HardwareError)
    return calibration_from(data, visible(path.name))


def folder_of(what: str) -> Path:
    """Where shipped files of one kind are, beside those of devices."""
    import costgraph.hardware

    return Path(next(iter(costgraph.hardware.__path__))) / what


def calibrated_devices() -> list[str]:
    """Names of the devices with a shipped calibration."""
    return sorted(p.stem for p in folder_of("calibrations").glob("*.toml") if p.stem != EVERY)


@lru_cache(maxsize=64)
def shipped(name: str) -> Calibration | None:
    """The shipped calibration of a device, if there is one."""
    path = folder_of("calibrations") / f"{name}.toml"
    if not _NAME.match(name) or name == EVERY or not path.is_file():
        return None
    return load_calibration(path)


@lru_cache(maxsize=1)
def transfer() -> Calibration:
    """Parameters for devices that were never fitted."""
    return load_calibration(folder_of("calibrations") / f"{EVERY}.toml")
