"""Writes the shipped calibrations from the measured timings (see fidelity.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fidelity import DEVICES, by_card
from fidelity_exchanges import any_ranks, carried_over, strangers
from fidelity_mixed import scored

from costgraph.files.writing import write_whole
from costgraph.timing.fidelity.calibration import Calibration, Fit, calibration_text
from costgraph.timing.fidelity.fit import errors, fit
from costgraph.timing.fidelity.labels import HOST_SYNC, unmarked
from costgraph.timing.fidelity.study import (
    Study,
    crossfit,
    evenly,
    fitted_for,
    form_model,
    leave_one_out,
    transferred,
)

FOLDER = Path(__file__).parent.parent / "hardware" / "calibrations"
SOURCE = (
    "published timings: NVIDIA aiconfigurator 095f58a (Apache-2.0), vidur 7d47513 (MIT), "
    "LLMCompass 2e015fd (BSD-3-Clause), InferSim f2293da (Apache-2.0), APEX (MIT), "
    "LLMServingSim (MIT)"
)


#: Devices whose parameters others take, by the name of the device that takes them, of a kind.
Relatives = Callable[[str], Mapping[str, Sequence[str]]]


def quantiles(ratio: np.ndarray) -> dict[str, float]:
    low, mid, high = np.quantile(ratio, (0.1, 0.5, 0.9))
    return {"q10": float(low), "q50": float(mid), "q90": float(high)}


def summary(predicted: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    mean, median = errors(predicted, seconds)
    return {"rows": len(seconds), "mean": mean, "median": median,
            **quantiles(seconds / predicted)}  # fmt: skip


def groups(s: Study) -> dict[tuple[str, str, str], Fit]:
    """A fit per device and variant, with errors of rows that folds left out."""
    made = fit(form_model(s.form), s.form.parameters, s.f, s.seconds, s.labels)
    unseen, _ = crossfit(s)
    found: dict[tuple[str, str, str], Fit] = {}
    for label in np.unique(s.labels["group"]):
        m = s.labels["group"] == label
        device, variant = str(s.labels["device"][m][0]), str(s.labels["variant"][m][0])
        values, stderr = fitted_for(s, made, m)
        held = summary(unseen[m], s.seconds[m])
        (ran,) = np.unique(s.labels["kernel"][m])
        kernel = str(ran).removeprefix(variant).removeprefix("@")
        add(found, {(device, s.kind, variant): Fit(s.kind, variant, values, held, stderr, kernel)})
    return found


#: Seconds of a launch in a graph (H100, H200, B200, A100: 2.5 to 5 us), for rows that
#: contain a host's launch and wait.
LAUNCH = 4e-6


def launched(own: dict[tuple[str, str], Fit]) -> dict[tuple[str, str], Fit]:
    """Products timed by a host's clock only, with the floor of a launch in a graph."""
    return {
        (kind, plain): replace(f, variant=plain, values={**f.values, "t0": LAUNCH})
        for (kind, variant), f in own.items()
        if variant.endswith(HOST_SYNC)
        and (plain := variant.removesuffix(HOST_SYNC))
        and (kind, plain) not in own
    }


def add(fits: dict, more: Mapping) -> None:  # type: ignore[type-arg]
    """Adds fits to others.

    Raises:
        ValueError: one would overwrite another.
    """
    for key in fits.keys() & more.keys():
        raise ValueError(f"two fits of {' '.join(key)}: no calibration may be overwritten")
    fits |= more


def write_all(studies: dict[str, Study], light: Study, relatives: Relatives) -> None:
    """Every device's file, and the file for devices that were never fitted."""
    found: dict[tuple[str, str, str], Fit] = {}
    for s in (*studies.values(), light):
        add(found, groups(s))
    # Beside chunks as the files that are there time them.
    add(found, beside())
    for name in sorted(set(DEVICES.values())):
        own: dict[tuple[str, str], Fit] = {}
        for (device, kind, variant), f in found.items():
            if DEVICES.get(device, device) == name:
                add(own, {(kind, variant): f})
        made = Calibration(name, SOURCE, own | launched(own))
        write_whole(FOLDER / f"{name}.toml", calibration_text(made).encode())
    # One device tells nothing of others.
    several = [s for s in (*studies.values(), light) if len(np.unique(s.labels["device"])) > 1]
    transfer = calibration_text(general(several, relatives))
    write_whole(FOLDER / "transfer.toml", transfer.encode())


def beside() -> dict[tuple[str, str, str], Fit]:
    """A fit of mixed batches per device, of vLLM and of all frameworks: no other was timed."""
    found: dict[tuple[str, str, str], Fit] = {}
    for s in scored():
        held = summary(s.together[s.kept_back], s.seconds[s.kept_back])
        for variant in ("bf16-bf16", "bf16-bf16@vllm"):
            add(found, {(s.device, "beside", variant): Fit("beside", variant, s.values, held)})
    return found


def exchanges(s: Study, relatives: Relatives) -> dict[tuple[str, str], Fit]:
    """Fits of exchanges that serve other devices, and other numbers of devices."""
    s = carried_over(s)
    loose = any_ranks(s)
    found: dict[tuple[str, str], Fit] = {}
    for seen, unseen in (
        (s, leave_one_out(s, by_card(relatives(s.kind)))),
        (loose, strangers(loose)),
    ):
        model, parameters = transferred(seen.form)
        made = fit(model, parameters, seen.f, seen.seconds, seen.labels)
        for variant in np.unique(seen.labels["variant"]):
            m = seen.labels["variant"] == variant
            values, _ = fitted_for(seen, made, m)
            held = summary(unseen[m], seen.seconds[m])
            add(found, {(seen.kind, str(variant)): Fit(seen.kind, str(variant), values, held)})
    return found


def general(studies: list[Study], relatives: Relatives) -> Calibration:
    """Parameters per variant over all devices, with errors of devices left out."""
    fits: dict[tuple[str, str], Fit] = {}
    slope: dict[str, float] = {}
    for s in studies:
        if s.kind == "exchange":
            add(fits, exchanges(s, relatives))
            continue
        s = s.where(s.kernel_timed)
        model, parameters = transferred(s.form)
        even = s.where(evenly(s))
        made = fit(model, parameters, even.f, even.seconds, even.labels)
        unseen = leave_one_out(s, relatives(s.kind))
        for variant in np.unique(s.labels["variant"]):
            m = s.labels["variant"] == variant
            # Of the usual kernel, whatever the errors of the others.
            ran = s.labels["kernel"] == unmarked(str(variant))
            if not (m & ran).any():
                continue
            values, _ = fitted_for(s, made, m & ran)
            if "slope" in values:
                slope[s.kind] = values.pop("slope")
            held = summary(unseen[m], s.seconds[m])
            add(fits, {(s.kind, str(variant)): Fit(s.kind, str(variant), values, held)})
    return Calibration("transfer", f"every device of the {SOURCE}", fits, slope)
