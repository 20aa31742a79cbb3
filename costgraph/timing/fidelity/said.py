"""What is said of calibrated times: which fits serve, with which errors, and what none serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from costgraph.counting.count import Row
from costgraph.ir.program import Phase
from costgraph.timing.fidelity import bands
from costgraph.timing.fidelity.alike import Kept, Likeness
from costgraph.timing.fidelity.calibration import Fit
from costgraph.timing.fidelity.classify import Case
from costgraph.timing.fidelity.exchanges import parts, served
from costgraph.timing.fidelity.frameworks import step_of
from costgraph.timing.fidelity.labels import alike, stand_in, types_of

if TYPE_CHECKING:
    from costgraph.timing.fidelity.apply import Calibrated

#: Said of steps with a few queries per sequence. Timings of vLLM 0.19 on an RTX 4090 and an
#: RTX PRO 6000 (LLMServingSim's profiles): sequences with one query beside a prefill chunk, and
#: chunks of 16 tokens alone, against decode steps of the same caches.
FEW_QUERIES = (
    "few queries over a cache are timed as kernels that pack them into one tile and split the "
    "cache; FlashAttention 2 does neither and takes 4 to 7 times as long for their attention"
)
#: Said of steps of decodes and chunks of prompts where their attention was timed together.
JOINT = (
    "attention of decodes beside a prompt is one kernel with the prompt's (FlashAttention 2, "
    "vLLM 0.19): a block per query head, its cache not split"
)
#: Said of calibrated times.
IN_SEQUENCE = (
    "calibrated times are of kernels in sequence, operands read from memory (not L2); "
    "sums over contexts by quadrature within 1e-9"
)
#: Said of those of a framework that was timed as whole models.
WHOLE_RUNS = (
    "fitted to whole runs: each operation is a launch and the larger of its arms, weights "
    "multiplied as their format is stored"
)
#: Said of the low band, which is a factor of times and bound by nothing.
BELOW = "times of the low band may lie below the lower bound, which 'ideal' is"
#: Said where a host's time counts.
HOSTED = (
    "every step takes {} ms of {}'s host besides, counted with its first operation: fitted to "
    "serving runs on one node"
)
#: Said of exchanges that no timing tells of.
UNTIMED = (
    "no timings serve {}: counted at the link's bandwidth and least latency, a lower bound "
    "(exchanges that were timed took 3.7 times that in the median)"
)
#: The same in a band, which moves them by the errors of those that were timed.
UNTIMED_IN_BAND = (
    "no timings serve {}: the link's bandwidth and least latency, at the same quantile of what "
    "timed exchanges took over that (1.7 to 16 times, 3.7 in the median)"
)
#: Said where a framework's servers run other kernels than were timed.
OTHER_KERNELS = (
    "{} {}: timed with kernels alone that servers of {} do not run; they take the fit of {}, at "
    "their own bytes and peak"
)
#: Said where an operation's own data type was not timed.
OTHER_TYPE = "no timings of {} {} serve {}: it takes the fit of {}, at its own bytes and peak"
#: The fit of an operation that nothing was fitted for.
UNFITTED = "ideal: no fit"


@dataclass(frozen=True)
class _Said:
    """What is said of one operation: by its subject, and what only some operations ask for.

    Attributes:
        shown: fits with their errors.
        steps: errors of whole steps.
        untimed: collectives that no timings serve.
        few: its queries are few.
        others, types: kernels and data types of others that its fit is of.
    """

    shown: tuple[tuple[str, str], ...] = ()
    steps: tuple[tuple[str, str], ...] = ()
    untimed: tuple[str, ...] = ()
    few: bool = False
    others: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


@lru_cache(maxsize=8)
def _kept(timing: Calibrated) -> Kept[_Said]:
    """What is said of operations, which programs have in common."""
    return Kept()


def assumptions(
    timing: Calibrated, steps: Iterable[tuple[Phase, Sequence[Row]]]
) -> tuple[str, ...]:
    """Sentences for the formulas: what was fitted, with its error on unseen data."""
    likeness, kept = Likeness(), _kept(timing)
    found = dict.fromkeys(
        kept.of(likeness.of(phase, row), partial(_said, timing, phase, row))
        for phase, rows in steps
        for row in rows
    )
    shown = {name: text for said in found for name, text in said.shown}
    whole_steps = {name: text for said in found for name, text in said.steps}
    untimed, others, types = (
        dict.fromkeys(text for said in found for text in getattr(said, name))
        for name in ("untimed", "others", "types")
    )
    unserved = UNTIMED_IN_BAND if timing.band else UNTIMED
    errors_of = {"whole step": whole_steps, "operation": shown}
    errors_said = (
        f"mean/median error per {what}: {'; '.join(said.values())}"
        for what, said in errors_of.items()
        if said
    )
    return (
        "; ".join((_words(timing), *errors_said)),
        IN_SEQUENCE if timing.served is None else WHOLE_RUNS,
        *((FEW_QUERIES,) if any(said.few for said in found) else ()),
        *others,
        *types,
        *([HOSTED.format(f"{1e3 * timing.host:.2g}", timing.framework)] if timing.host else ()),
        *([unserved.format(", ".join(untimed))] if untimed else ()),
        *(() if others else _without_framework(timing, shown.values())),
    )


def _said(timing: Calibrated, phase: Phase, row: Row) -> _Said:
    """What is said of an operation."""
    shown: dict[str, str] = {}
    untimed: list[str] = []
    for part in parts(phase, row, timing.machine):
        fit, moved = timing.exchange_fit(part)
        if fit is None:
            untimed.append(part.name)
        else:
            shown[part.name] = f"{served(part, fit, moved)}: {held_out(fit)}"
    if row.cost.links or not (row.cost.bytes or row.cost.flops):
        return _Said(tuple(shown.items()), untimed=tuple(untimed))
    if timing.served is not None:
        step = step_of(phase)
        errors = _percent(timing.served.heldout[step])
        trusted = timing.served.trust(timing.machine, step).partition(",")[0]
        return _Said(steps=((step, f"{step} of {trusted}, runs kept back: {errors}"),))
    found = timing.taken(phase, row)
    long = found[0].long
    cases = [found] if long is None else [found, timing.fit(long)]
    others, types = [], []
    for case, fit, moved in cases:
        if not case.floor and case.kind == "elementwise":
            continue
        passed = _passed_over(timing, case, fit)
        if passed is not None:
            others.append(OTHER_KERNELS.format(case.kind, passed, timing.framework, fit.variant))
        if (wanted := _missing(case, fit, passed)) is not None:
            types.append(OTHER_TYPE.format(case.kind, wanted, timing.machine.name, fit.variant))
        key = f"{case.kind} {fit.variant}"
        how = "transferred, devices left out" if moved else "fitted, held out"
        shown[key] = f"{key} {how}: {held_out(fit)} ({fit.trust(moved)})"
    return _Said(
        tuple(shown.items()), few=long is not None, others=tuple(others), types=tuple(types)
    )


def trust(timing: Calibrated, phase: Phase, row: Row) -> str:
    """Which fit an operation takes and how good it is; see :meth:`.Calibrated.trust`."""
    if row.cost.links:
        found = [timing.exchange_fit(part) for part in parts(phase, row, timing.machine)]
        said = (UNFITTED if f is None else f.trust(moved) for f, moved in found)
        return "; ".join(dict.fromkeys(said))
    if not row.cost.bytes and not row.cost.flops:
        return ""
    if timing.served is not None:
        return timing.served.trust(timing.machine, step_of(phase))
    case, fit, moved = timing.taken(phase, row)
    if not case.floor and case.kind == "elementwise":
        if case.block is None:
            return UNFITTED
        _, fit, moved = timing.fit(case.block)
    if case.long is None:
        return fit.trust(moved)
    _, wide, lent = timing.fit(case.long)
    return f"{fit.trust(moved)}; further queries: {wide.trust(lent)}"


def _missing(case: Case, fit: Fit, passed: str | None) -> str | None:
    """The variant that an operation would take, where its fit is one of another data type."""
    if case.kind not in ("gemm", "moe", "prefill", "decode", "mla"):
        return None
    wanted = case.variants[0]
    if passed == wanted:
        return None  # said as kernels of others
    return None if types_of(fit.variant) in alike(wanted) else wanted


def _passed_over(timing: Calibrated, case: Case, fit: Fit) -> str | None:
    """The variant for which a fit stands in because the framework runs another kernel."""
    there = timing.machine.instruction
    for variant in case.variants:
        if fit.variant == variant:
            return None
        if stand_in(case.kind, variant, timing.framework, there) == fit.variant:
            return variant
    return None


def _words(timing: Calibrated) -> str:
    """What the times are."""
    if not timing.band:
        of = "" if timing.served is None else f" of whole runs of {timing.served.name}"
        return f"calibrated: forms fitted on measured timings{of}"
    quantile = "the median" if timing.band == "q50" else f"the {timing.band[1:]} % quantile"
    if timing.served is not None:
        return (
            f"{timing.fidelity} band: every operation at {quantile} of the errors of whole runs "
            f"of {timing.served.name}, exchanges at that of their own"
        )
    if not bands.combine(timing.machine.kind):
        return f"{timing.fidelity} band: every operation at {quantile} of its errors"
    return (
        f"{timing.fidelity} band of a whole model: every operation at the square root of "
        f"{quantile} of its errors, times {bands.RUNS[timing.band]} (runs of served models)"
    )


def _without_framework(timing: Calibrated, used: Iterable[str]) -> tuple[str, ...]:
    if (
        not timing.framework
        or timing.served is not None
        or any(f"@{timing.framework} " in text for text in used)
    ):
        return ()
    but = " but its host's time" if timing.host else ""
    return (f"nothing here has timings of {timing.framework} alone: its name changes nothing{but}",)


def held_out(fit: Fit) -> str:
    """Its mean and median error on rows that it did not see."""
    return _percent(fit.heldout)


def _percent(heldout: Mapping[str, float]) -> str:
    return f"{heldout['mean']:.0f}/{heldout['median']:.0f} %"
