"""Calibrated time of operations, as terms of a formula.

Which calibration a compile takes is decided in :mod:`costgraph.timing.fidelity.asked`, which
form an operation in :mod:`costgraph.timing.fidelity.classify`; what is said of its time stands in
:mod:`costgraph.timing.fidelity.said`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

from sympy import Add, Expr, Integer, cancel, expand

from costgraph.counting.count import Row
from costgraph.counting.mixed import MixedRow
from costgraph.errors import HardwareError
from costgraph.formula.envelope import dominates
from costgraph.formula.outline import link_of
from costgraph.formula.terms import Arm, Term, chained, make_term, overlapped
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.cost import Cost
from costgraph.ir.program import Phase
from costgraph.ir.tensor import MEMORY, level_of
from costgraph.ops.experts import ExpertLinear
from costgraph.timing import roofline
from costgraph.timing.fidelity import bands
from costgraph.timing.fidelity.alike import Kept, begins, once
from costgraph.timing.fidelity.calibration import Calibration, Fit
from costgraph.timing.fidelity.classify import LIGHT, Case, classify, main_node
from costgraph.timing.fidelity.exchanges import Part, libraries, parts
from costgraph.timing.fidelity.forms import Parts, further_queries
from costgraph.timing.fidelity.frameworks import Framework, exact, kernels, step_of
from costgraph.timing.fidelity.host import SUFFIX
from costgraph.timing.fidelity.labels import attended, packs, run_by
from costgraph.timing.fidelity.relatives import inherited
from costgraph.timing.fidelity.repeated import repeated, seen
from costgraph.timing.fidelity.said import BELOW, JOINT, assumptions, held_out, trust

ONE, ZERO = Integer(1), Integer(0)
#: What ``fidelity`` may be, and the quantile of the errors that each stands for.
FIDELITIES = {"ideal": "", "calibrated": "", "low": "q10", "median": "q50", "high": "q90"}


@dataclass(frozen=True)
class Calibrated:
    """A calibration at work on a device.

    Attributes:
        fidelity: a key of :data:`FIDELITIES`.
        machine: the device with its figures.
        own: its calibration; without one, parameters are transferred.
        framework: whose attention kernels and exchanges; an empty string pools all of them.
        file: the calibration file that was given in place of the shipped one.
        served: the framework, where it was timed as whole models: its parameters serve all
            operations but exchanges.
        host: seconds that the framework's host adds to every step (:mod:`.host`).
    """

    fidelity: str
    machine: Machine
    own: Calibration | None
    framework: str = ""
    file: str = ""
    served: Framework | None = None
    host: float = 0.0

    def __hash__(self) -> int:
        # Parameters are in mappings, which have none.
        return hash((self.name, self.machine, self.file))

    def __repr__(self) -> str:
        return f"<Calibrated {self.name} on {self.machine.name}>"

    @property
    def name(self) -> str:
        """The fidelity as it is asked for: ``calibrated@vllm``."""
        at = f"@{self.framework}{SUFFIX if self.host else ''}" if self.framework else ""
        return self.fidelity + at

    @property
    def band(self) -> str:
        """The quantile of errors that times are at; empty where they are as fitted."""
        return FIDELITIES[self.fidelity]

    @property
    def cautions(self) -> tuple[str, ...]:
        """What must be said beside every time: of the low band, that it is no bound."""
        return (BELOW,) if self.band == "q10" else ()

    def on(self, machine: Machine) -> roofline.Timing:
        """How operations take time on ``machine``: this device, or its symbols."""
        return once(lambda phase, row: self.terms(phase, row, machine), _kept(self, machine))

    def terms(self, phase: Phase, row: Row, machine: Machine) -> Iterator[Term]:
        """The terms of one operation: its floor, and the norm of its arms.

        Where only some of a step's tokens take part, costs are expected ones; what an
        execution pays besides is paid as often as there is one, and sizes are those of the
        tokens that it then has.
        """
        cost = row.cost.mapped(phase.bind)
        if level_of(row.unit):
            raise HardwareError(
                f"what computes in {level_of(row.unit)} is not calibrated; ask for fidelity ideal"
            )
        if phase.pace(row.unit) != 1:
            raise HardwareError(
                f"{row.unit}, of another pace than the host, is not calibrated; ask for fidelity "
                "ideal"
            )
        far = [level for level, *_ in cost.bytes if level != MEMORY]
        if far:
            raise HardwareError(
                f"reads of {far[0]} by {row.name!r} are not calibrated; ask for fidelity ideal"
            )
        if self.host and begins(phase, row):
            # Before the first operation: once a step.
            yield Term(ONE, (Arm(exact(self.host), "latency"),), (row.name,))
        arms = roofline.arms(cost, machine)
        executions = phase.bind(row.presence.executions)
        if not arms or executions == 0:
            return
        if cost.links:
            yield from self._exchange(phase, row, machine, arms)
            return
        if self.served is not None:
            yield from self._in_framework(self.served, phase, row, arms)
            return
        case, fit, _ = self.taken(phase, row)
        if case.long is not None:
            wide = self.fit(case.long)[1].values
            c = Add(*(a.expr for a in arms if a.resource.startswith("tensor:")))
            further = further_queries(
                {**case.features, "C": c}, {k: exact(v) for k, v in wide.items()}
            )
            few = {"C": c / case.features["q"], "further": further}
            case = replace(case, features=case.features | few)
        yield from self._timed(phase, row, machine, case, fit, arms)

    def taken(self, phase: Phase, row: Row) -> tuple[Case, Fit, bool]:
        """The case of an operation, the fit that it takes, and whether that is transferred."""
        case, fit, moved = self.fit(classify(seen(phase, row), row, self.machine))
        if isinstance(row, MixedRow) and row.beside and (joint := self._joint(case)) is not None:
            return replace(case, kind=joint.kind, long=None), joint, False
        return case, fit, moved

    def _in_framework(
        self, served: Framework, phase: Phase, row: Row, arms: Sequence[Arm]
    ) -> Iterator[Term]:
        """The terms of an operation of a framework (:mod:`.frameworks`)."""
        count, executions = phase.bind(row.count), phase.bind(row.presence.executions)
        if self.band:
            count *= exact(served.heldout[step_of(phase)][self.band])
        operands = row.graph.operands(row.node)
        types = [d for e, d in row.node.op.work(operands, row.node.outputs) if e is Engine.TENSOR]
        grouped = isinstance(main_node(row.node, operands)[0].op, ExpertLinear)
        dtype = types[0] if types else "bf16"
        slow, read = served.factors(self.machine, dtype, grouped)
        factors = {"memory": read}
        if types:
            engine, kind = self.machine.resolve(Engine.TENSOR, dtype)
            factors[f"{engine.value}:{kind}"] = slow
        slowed = [replace(a, expr=a.expr * factors.get(a.resource, ONE)) for a in arms]
        floor = served.launch(self.machine) * kernels(row.node.op) * executions
        made = (
            make_term(count, slowed, (row.name,)),
            make_term(count, (Arm(floor, "latency"),), (row.name,)),
        )
        yield from filter(None, made)

    def _exchange(
        self, phase: Phase, row: Row, machine: Machine, arms: Sequence[Arm]
    ) -> Iterator[Term]:
        """The terms of an exchange: its collectives one after the other.

        A collective that no fit serves takes the link's bandwidth and least latency. What an
        exchange reads and writes in memory passes meanwhile, as it did in the timings: it
        counts where it could exceed them.
        """
        executions, count = phase.bind(row.presence.executions), phase.bind(row.count)
        beside = [a for a in arms if not link_of(a.resource)]
        series: list[Term] = []
        for part in parts(phase, row, self.machine):
            series.extend(self._collective(part, machine, executions, row.name))
            beside.extend(
                Arm(messages.time(*roofline.rates(machine, link)), f"link:{link}")
                for link, messages in part.others
            )
        beside = self._exceeding(beside, [a for term in series for a in term.arms])
        if beside:
            made = overlapped(count, (chained(series, row.name), *beside))
            series, count = [] if made is None else [replace(made, ops=(row.name,))], ONE
        yield from (replace(term, count=count * term.count) for term in series)

    def _exceeding(self, arms: Sequence[Arm], fitted: Sequence[Arm]) -> list[Arm]:
        """The arms that could exceed all fitted ones.

        Decided on the device's figures, so that its symbols change nothing.
        """
        figures = self.machine.bindings()
        sizes = [a.expr.xreplace(figures) for a in fitted]

        def within(size: Expr) -> bool:
            return any(dominates(x, size) or _is_share(size, x) for x in sizes)

        return [a for a in arms if not within(a.expr.xreplace(figures))]

    def _collective(
        self, part: Part, machine: Machine, executions: Expr, name: str
    ) -> Iterator[Term]:
        """The terms of one collective, once."""
        alpha, beta = roofline.rates(machine, part.link)
        latency, moved = part.messages.steps * alpha, part.messages.load / beta
        resource = f"link:{part.link}"
        fit, _ = self.exchange_fit(part)
        if fit is None:
            times = self._moved_by(bands.UNTIMED[self.band]) if self.band else ONE
            yield Term(times, (Arm(latency + moved, resource),), (name,))
            return
        times = self._moved(fit) if self.band else ONE
        values = {k: exact(v) for k, v in fit.values.items()}
        made = repeated("exchange", {"A": latency, "V": moved}, values, executions)
        arms = (Arm(made.compute, "latency"), Arm(made.memory, resource))
        found = (
            make_term(times, arms, (name,), norm=exact(float(made.norm)), floor=made.floor),
            make_term(times, (Arm(made.floor, "latency"),), (name,)),
        )
        yield from filter(None, found)

    def exchange_fit(self, part: Part) -> tuple[Fit | None, bool]:
        """The fit that serves a collective, if any, and whether it is transferred."""
        found = None
        if self.own is not None:
            found = self.own.find("exchange", libraries(part.own, self.framework))
        if found is not None or not part.general or self.machine.kind != "gpu":
            return found, False
        general = libraries(part.general, self.framework)
        return inherited(self.machine, "fp16", "exchange", general), True

    def _timed(
        self,
        phase: Phase,
        row: Row,
        machine: Machine,
        case: Case,
        fit: Fit,
        arms: Sequence[Arm],
    ) -> Iterator[Term]:
        """The terms of one operation in one form."""
        executions = phase.bind(row.presence.executions)
        count = phase.bind(row.count)
        member = not case.floor and case.kind == "elementwise"
        if self.band:
            of = self.fit(case.block)[1] if member and case.block is not None else fit
            count *= self._moved(of)
        if member:
            yield Term(count, tuple(arms), (row.name,))
            return
        if case.kind == "host_elementwise":
            case = replace(case, features=_passes(row, row.cost.mapped(phase.bind), phase, machine))
            yield from self._on_host(count, case, fit, arms, executions, row.name, machine)
            return
        parts, combined = self._parts(case, fit, arms, executions)
        floor = parts.floor if case.floor else ZERO
        norm = None if parts.norm == math.inf else exact(float(parts.norm))
        made = (
            make_term(count, combined, (row.name,), norm=norm, floor=floor),
            make_term(count, (Arm(floor, "latency"),), (row.name,)),
        )
        yield from filter(None, made)

    def _moved(self, fit: Fit) -> Expr:
        """The factor of the band that is asked for."""
        return self._moved_by(fit.quantile(self.band))

    def _moved_by(self, quantile: float) -> Expr:
        """The factor of the band that is asked for, with this quantile of errors."""
        if self.served is not None:  # beside whole runs, which move by all of theirs
            return exact(quantile)
        return exact(bands.factor(self.band, quantile, self.machine.kind))

    def _parts(
        self, case: Case, fit: Fit, arms: Sequence[Arm], executions: Expr
    ) -> tuple[Parts, list[Arm]]:
        """The form's parts for an operation, and the arms to combine.

        ``arms`` are of all its executions in a step.
        """
        values: dict[str, Any] = {k: exact(v) for k, v in fit.values.items()}
        tensor = [a for a in arms if a.resource.startswith("tensor:")]
        memory = [a for a in arms if a.resource == "memory"]
        others = [a for a in arms if a not in tensor and a not in memory]
        features = {
            "C": Add(*(a.expr for a in tensor)),
            "M": Add(*(a.expr for a in memory)),
            # An operation of its own quantises: see "quantize".
            "Q": ZERO,
            "quant": ZERO,
            "further": ZERO,
            "resident": ZERO,
            **case.features,
        }
        if case.kind == "prefill" and packs(fit.variant, self.machine.instruction):
            features["heads"] = features["groups"]
        if case.kind == "quantize":
            moved = features["M"] / min(values["eq"], ONE)
            parts = Parts(values["tq"] * executions, ZERO, moved, 4)
        elif case.kind == "host_elementwise":
            # Passes take their time one after the other: no arm stands alone.
            features["C"] = Add(features["C"], *(a.expr for a in others)) - features["X"]
            parts = repeated(case.kind, features, values, executions)
            return parts, [Arm(features["M"], "memory")]
        else:
            if case.kind == "elementwise":
                features["C"], others = ZERO, others + tensor
            parts = repeated(case.kind, features, values, executions)
        name = tensor[0].resource if tensor else "latency"
        combined = [Arm(parts.compute, name), Arm(parts.memory, "memory")]
        # The fitted arms absorb vector work; it counts only where it could exceed them. They
        # are never below the work that they were fitted to, of which it often is a share.
        efficiency = values.get("ec", ONE) if features["further"] == ZERO else ONE
        fitted = [*combined, Arm(features["C"] / efficiency, name)]
        return parts, combined + self._exceeding(others, fitted)

    def _on_host(
        self,
        count: Expr,
        case: Case,
        fit: Fit,
        arms: Sequence[Arm],
        executions: Expr,
        name: str,
        machine: Machine,
    ) -> Iterator[Term]:
        """An element-wise operation of a host, its operands in the last cache up to its size.

        With ``A`` the time of its arithmetic and ``Z`` bytes of cache, the larger of
        ``A + M/(em·l2)`` and ``A + M/em − (1 − 1/l2)·Z/(em·BW)``: bytes beyond the
        cache come from memory. Never below ``M``: the roofline stays a lower bound.
        """
        parts, (bound,) = self._parts(case, fit, arms, executions)
        work, moved, faster = parts.compute, parts.memory, exact(fit.values["l2"])
        sizes = [t.capacity for t in self.machine.tiers.values() if t.capacity is not None]
        times = [Arm(work + moved, "memory")]
        if sizes:
            gain = (1 - 1 / faster) / exact(fit.values["em"])
            saved = executions * gain * max(sizes) / machine.memory.bandwidth
            near = Arm(work + moved / faster, "latency")
            times = [bound, near, Arm(work + moved - saved, "memory")]
        floor = [Arm(parts.floor, "latency")]
        yield from filter(None, (make_term(count, some, (name,)) for some in (times, floor)))

    def fit(self, case: Case) -> tuple[Case, Fit, bool]:
        """The case to time, its parameters, and whether they are transferred.

        The case changes where nothing was fitted for it: to a product, or to an
        element-wise operation.

        Raises:
            HardwareError: nothing was fitted for operations of this kind.
        """
        kind, variants = case.kind, case.variants
        if kind == "quantize":
            kind = "gemm"
        else:
            variants = self._preferred(
                case, run_by(kind, variants, self.framework, self.machine.instruction)
            )
        found = None if self.own is None else self.own.find(kind, variants)
        if found is not None:
            return case, found, False
        hosted = None if self.own is None else self.own.find(f"host_{kind}", variants)
        if hosted is not None:
            return replace(case, kind=hosted.kind), hosted, False
        gpu = self.machine.kind == "gpu"
        found = inherited(self.machine, case.dtype, kind, variants) if gpu else None
        if found is not None:
            return case, found, True
        if case.kind == "quantize":
            return self.fit(LIGHT)
        if case.product is not None:
            return self.fit(case.product)
        if not gpu:
            raise HardwareError(
                f"no calibration of {kind} operations for {self.machine.name!r}, and those "
                f"of GPUs do not carry over to it; {_how_to_calibrate(self.machine)}"
            )
        raise HardwareError(
            f"no calibration of {kind} operations ({', '.join(variants)}) to transfer"
        )

    def _joint(self, case: Case) -> Fit | None:
        """The fit of decodes in one kernel with a prompt's chunk; None where two kernels run."""
        if case.kind != "decode" or self.own is None:
            return None
        return self.own.find("beside", self._preferred(case, case.variants))

    def _preferred(self, case: Case, variants: tuple[str, ...]) -> tuple[str, ...]:
        """Variants, those of the framework in front, with its kernel for the case."""
        own = tuple(f"{v}@{self.framework}" for v in variants if self.framework)
        there, head = self.machine.instruction, case.features.get("dh")
        marked = (
            (attended(case.kind, v, self.framework, there, case.lone, head), v)
            for v in (*own, *variants)
        )
        return tuple(dict.fromkeys(chain.from_iterable(marked)))

    @property
    def mixes(self) -> tuple[str, ...]:
        """What is said of steps in which some sequences decode and others read a prompt."""
        fits = () if self.own is None or self.served is not None else self.own.fits.values()
        found = next((f for f in fits if f.kind == "beside"), None)
        return () if found is None else (f"{JOINT}: {held_out(found)} ({found.trust(False)})",)

    def assumptions(self, steps: Iterable[tuple[Phase, Sequence[Row]]]) -> tuple[str, ...]:
        """Sentences for the formulas: what was fitted, with its error on unseen data."""
        return assumptions(self, steps)

    def trust(self, phase: Phase, row: Row) -> str:
        """Which fit an operation takes and how good it is (:meth:`.Fit.trust`).

        :data:`.UNFITTED` where it takes the roofline's time, and empty if it takes none.
        Operations inside a block of experts take the roofline's as well; their errors are those
        of their block's fit.
        """
        return trust(self, phase, row)


@lru_cache(maxsize=8)
def _kept(timing: Calibrated, machine: Machine) -> Kept[tuple[str, tuple[Term, ...]]]:
    """Times of operations on a machine, which programs have in common."""
    return Kept()


def _is_share(a: Expr, b: Expr) -> bool:
    """Whether ``a`` is ``b`` times a number up to one, whatever the signs of their terms.

    So are the exponentials of attention of its products: both count pairs of a query and a key,
    ``C·P − C²/2`` in a chunk, which no look at signs compares.
    """
    (x, one), (y, other) = _primitive(a), _primitive(b)
    return bool(one == other and x <= y)


@lru_cache(maxsize=4096)
def _primitive(expr: Expr) -> tuple[Expr, Expr]:
    """The number in front of an expression, and the rest."""
    number, rest = expand(expr).as_content_primitive()
    return number, rest


def _how_to_calibrate(machine: Machine) -> str:
    """The commands that make a calibration of a device that is no GPU."""
    tables = f"costgraph calibrate --from TIMINGS.csv --device {machine.name}"
    if machine.kind == "cpu":
        return f"measure it there (costgraph calibrate --this-machine) or fit timings ({tables})"
    return f"fit timings of it ({tables}; columns: docs/fidelity.md)"


def _passes(row: Row, cost: Cost, phase: Phase, machine: Machine) -> dict[str, Any]:
    """Passes over the result that arithmetic makes, and seconds of special functions."""
    special = (
        flops / machine.peaks[machine.resolve(engine, dtype)]
        for (engine, dtype), flops in cost.flops.items()
        if engine is Engine.SPECIAL
    )
    made = Add(*(phase.bind(t.numel) for t in row.node.outputs))
    results = made * phase.bind(row.presence.share)
    return {"X": Add(*special), "passes": cancel(cost.total_flops / results)}
