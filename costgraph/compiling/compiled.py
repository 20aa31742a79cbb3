"""The Python surface: compile a model for a machine, then ask for formulas."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, Integer, expand

from costgraph.compiling.breakdown import break_down
from costgraph.compiling.capacity import fit, weights_fit
from costgraph.compiling.steps import Breakdown
from costgraph.counting.accounting import Accounting
from costgraph.counting.count import Item, Row, flat, held_on, held_parameters
from costgraph.errors import CostgraphError
from costgraph.formula import Formula, Term
from costgraph.formula.envelope import dominates
from costgraph.formula.least import bound
from costgraph.formula.terms import Limit, remade
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.metrics import PER_DEVICE, TIMELESS, metrics_of, require
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import inside
from costgraph.number import Number
from costgraph.rewriting import pipeline
from costgraph.rewriting.formats import lacking
from costgraph.rewriting.pipeline import Pass, Trace
from costgraph.setting import Setting
from costgraph.symbols import B
from costgraph.timing import roofline
from costgraph.undone import lines
from costgraph.units import format_quantity
from costgraph.views import view, view_text

if TYPE_CHECKING:
    from costgraph.asking.explaining import Explanation
    from costgraph.compiling.fits import Fit
    from costgraph.compiling.timeline import Timeline
    from costgraph.formula.naming import Named
    from costgraph.showing.draw import Drawing
    from costgraph.timing.fidelity.apply import Calibrated


@dataclass(frozen=True)
class Compiled:
    """A model compiled for a machine: every metric is a :class:`Formula`.

    Symbols: ``B`` sequences, ``S`` prompt tokens, ``N`` generated tokens, ``T``
    attended tokens (cached plus new).

    Attributes:
        program: the program after all passes.
        machine: the device, or one of several; symbolic if compiled so.
        accounting: the counting convention.
        passes: the pipeline that ran.
        trace: what each pass did.
        bound: the device with its figures, for breakdowns.
        twin: compiles the same over symbols for the model's dimensions.
        timing: how operations take time, where it is not the roofline's bound.
        system: the devices, with their figures; None for a device alone.
        told: whether its setting says what its numbers rest on, and what would hold it where
            it does not fit; finding that out takes as long as a formula.
    """

    program: Program
    machine: Machine
    accounting: Accounting
    passes: tuple[Pass, ...] = ()
    trace: Trace = field(default=Trace(), compare=False)
    bound: Machine | None = field(default=None, compare=False)
    twin: Callable[[], Compiled] | None = field(default=None, compare=False, repr=False)
    timing: Calibrated | None = field(default=None, compare=False)
    system: System | None = field(default=None, compare=False)
    told: bool = field(default=True, compare=False)

    # --- times ---------------------------------------------------------------

    @cached_property
    def ttft(self) -> Formula:
        """Time to first token in seconds over ``B``, ``S``: all that runs before decoding.

        The prefill, the encoder or vision tower in front of it, and the prefill of a draft.

        Raises:
            InputError: the model generates no tokens.
        """
        self._require_tokens("ttft")
        phases = self.phases_of("ttft")
        terms = tuple(
            replace(t, ops=_labelled(p, t.ops, phases))
            for p in phases
            for t in self._before_token(p)
        )
        return self._formula("ttft", "s", terms, self._limits(phases))

    def _before_token(self, phase: Phase) -> tuple[Term, ...]:
        """What a phase takes until the first token: all its steps, or one where it emits it."""
        if phase.tokens == 0:
            whole = phase if phase.span is not None or phase.weight != 1 else None
            return self._steps(phase.name) if whole is None else self._all_steps(phase)
        steps, span = self._steps(phase.name), phase.span
        if span is None:
            return steps
        first = {span.symbol: span.lower}
        return tuple(remade(t.mapped(lambda e: bound(e, first))) for t in steps)

    def _all_steps(self, phase: Phase) -> tuple[Term, ...]:
        """All steps of a phase in one request; operations without their phase's name."""
        made = roofline.spanned(phase, self._steps(phase.name))
        head = f"{phase.name}."
        return tuple(replace(t, ops=tuple(op.removeprefix(head) for op in t.ops)) for t in made)

    @cached_property
    def tpot(self) -> Formula:
        """Time per output token in seconds over ``B``, ``T``: a decode step at context ``T``.

        ``T`` counts the new token. Where steps emit several tokens, the time of
        one step over the expected tokens. Programs that have no decode step of one kind
        at every context (those that denoise, fork or join) have the mean over a request,
        over ``S`` and ``N``.

        Raises:
            InputError: the model generates no tokens.
        """
        self._require_tokens("tpot")
        if not self.program.has_alike_steps:
            phases = self.phases_of("tpot")
            tokens = expand(Add(*(p.generated for p in phases)))
            terms = tuple(
                replace(t, count=t.count / tokens, ops=_labelled(p, t.ops, phases))
                for p in phases
                for t in self._all_steps(p)
            )
            return self._formula("tpot", "s", terms, self._limits(phases))
        # Tokens per context: one, or one of each branch.
        tokens = expand(Add(*(p.emitted for p in self._decode)))
        terms = tuple(
            replace(t, count=t.count * p.weight / tokens, ops=_labelled(p, t.ops, self._decode))
            for p in self._decode
            for t in self._steps(p.name)
        )
        return self._formula("tpot", "s", terms, self._limits(self._decode, at_end=False))

    @cached_property
    def latency(self) -> Formula:
        """End-to-end seconds of a request over ``B``, ``S``, ``N``.

        Prefill emits token 1; decode step ``i = 1 … N−1`` attends ``T = S + i``.
        """
        return self._formula("latency", "s", self._request(self._steps))

    @cached_property
    def interval(self) -> Formula:
        """Seconds between two decode steps in steady state over ``B``, ``T``.

        What the busiest unit needs for one: where stages work on different groups of
        sequences at once, less than the time of a step. Of programs without decode steps,
        between two forward passes; where steps differ, the mean over a request's.
        """
        phases = self.phases_of("interval")
        timing = self.timing_on(self.machine)
        found = (
            (p, t)
            for p in phases
            for t in roofline.interval_terms(p, self.items[p.name], self.machine, timing)
        )
        if self._decode and not self.program.has_alike_steps:
            # The mean over the steps of a request, as of the time per token.
            steps = expand(Add(*(p.generated / p.tokens for p in phases if p.tokens != 0)))
            terms = tuple(
                replace(s, count=s.count / steps)
                for p, t in found
                for s in roofline.spanned(p, (t,))
            )
            return self._formula("interval", "s", terms, self._limits(phases))
        terms = tuple(
            replace(t, count=t.count * p.weight, ops=_labelled(p, t.ops, phases)) for p, t in found
        )
        limits = self.program.limits if self._decode else self._limits(phases)
        return self._formula("interval", "s", terms, limits)

    @cached_property
    def throughput(self) -> Formula:
        """Generated tokens per second over ``B``, ``S``, ``N``: ``B·N / latency``.

        Of several answers to a prompt (``samples``) all count.

        Raises:
            InputError: the model generates no tokens.
        """
        self._require_tokens("throughput")
        return Formula(
            "throughput",
            "token/s",
            self.latency.terms,
            B * self.program.generated,
            self.latency.limits,
            self._rates if self.timing is None else {},
            self.setting,
            self.latency.stated,
        )

    @cached_property
    def throughput_per_device(self) -> Formula:
        """Generated tokens per second over the devices of the system, those that idle included.

        Raises:
            InputError: the model generates no tokens.
        """
        count = self.program.devices
        if count.is_number and self.system is not None:
            count = Integer(self.system.devices)
        whole = self.throughput
        return replace(whole, name=PER_DEVICE, numerator=B * self.program.generated / count)

    def time(self, phase: str) -> Formula:
        """Seconds of one step of a phase (``prefill``, ``decode``)."""
        chosen = self.program.phase(phase)
        return self._formula(phase, "s", self._steps(phase), self._limits((chosen,), at_end=False))

    def step(self, *groups: tuple[Any, Any, Any]) -> Formula:
        """Seconds of one step of mixed work; see :mod:`.mixing`.

        Args:
            groups: (sequences, new tokens, positions with them) of each, whole numbers or
                names of symbols: ``step(("c", 1, "T"), (1, "C", "P"))`` decodes ``c``
                sequences at context ``T`` beside a chunk of ``C`` tokens that ends at ``P``.

        Raises:
            InputError: the program has no such steps, or a group is none.
        """
        from costgraph.compiling.mixing import mixed_step
        from costgraph.ir.mix import Mix

        return mixed_step(self, Mix.of(*groups))

    # --- energy and money ----------------------------------------------------

    @cached_property
    def energy(self) -> Formula:
        """Joules of a whole request over ``B``, ``S``, ``N``; see :mod:`.energy`.

        Raises:
            HardwareError: the machine states neither energies nor a board power.
        """
        from costgraph.compiling.energy import energy

        return energy(self)

    @cached_property
    def energy_per_token(self) -> Formula:
        """Joules per generated token over ``B``, ``S``, ``N``.

        Raises:
            InputError: the model generates no tokens.
        """
        self._require_tokens("energy_per_token")
        from costgraph.compiling.energy import energy_per_token

        return energy_per_token(self)

    @cached_property
    def cost_per_token(self) -> Formula:
        """USD per generated token over ``B``, ``S``, ``N``, and ``price`` if none is stated.

        Raises:
            InputError: the model generates no tokens.
        """
        self._require_tokens("cost_per_token")
        from costgraph.compiling.energy import cost_per_token

        return cost_per_token(self)

    # --- counts --------------------------------------------------------------

    @cached_property
    def flops(self) -> Formula:
        """FLOP of a whole request over ``B``, ``S``, ``N`` (exact)."""
        return self._counted("flops", "FLOP")

    @cached_property
    def bytes(self) -> Formula:
        """Bytes moved to and from memory by a whole request over ``B``, ``S``, ``N`` (exact)."""
        return self._counted("bytes", "byte")

    @cached_property
    def memory(self) -> Formula:
        """Peak bytes in memory over ``B``, ``S``, ``N``.

        Weights, caches at the longest context, and the peak of live activations
        (by liveness), in whichever phase needs most.
        """
        return self._formula("memory", "byte", roofline.memory_terms(self.program, self.accounting))

    @cached_property
    def farther(self) -> Mapping[str, Formula]:
        """Bytes that a request keeps in each farther level of memory, over ``B``, ``S``, ``N``."""
        return {
            level: self._formula(
                f"{level} memory", "byte", roofline.level_terms(self.program, level)
            )
            for level in roofline.levels(self.program)
        }

    @cached_property
    def parameters(self) -> Expr:
        """Number of parameters that are held, those of drafts and heads too, shared ones once."""
        return held_parameters(self.program)

    @property
    def parameters_on(self) -> str:
        """Whose they are where devices share the model; empty where they are all of it."""
        return held_on(self.program)

    def fit(self, **values: Any) -> Fit:
        """The memory that a workload needs, against the device's; see :mod:`.capacity`.

        Args:
            values: sizes of the workload; with ``T``, what a decode step there needs.
        """
        return fit(self, values)

    # --- structure -----------------------------------------------------------

    @cached_property
    def setting(self) -> Setting:
        """What every number of it is about."""
        timing, reserved = self.timing, (self.bound or self.machine).memory.reserved
        warning = weights_fit(self).warning
        reading = self.program.reading
        if reserved:
            reading = (*reading, ("reserve", format_quantity(float(reserved), "B")))
        if timing is not None and timing.file:
            reading = (*reading, ("calibration", timing.file))
        return Setting(
            model=self.program.name,
            hardware=self.place,
            passes=pipeline.text_of(self.trace.passes or self.passes),
            accounting=self.accounting.name,
            fidelity="ideal" if timing is None else timing.name,
            reading=reading,
            fixed=tuple((s.name, str(v)) for s, v in self.program.fixed),
            assumptions=self.assumptions if self.told else (),
            notes=self.program.notes,
            not_done=self.trace.undone,
            warnings=(warning,) if warning else (),
            cautions=self._cautions if timing is None else (*self._cautions, *timing.cautions),
            symbols=tuple(self._meanings().items()),
            whole=pipeline.whole_symbols(self.trace.passes or self.passes),
            zero=pipeline.zero_symbols(self.trace.passes or self.passes),
        )

    def _meanings(self) -> dict[str, str]:
        """What symbols stand for that passes bring, and those of a symbolic machine."""
        symbolic = self.bound is not None and self.bound != self.machine
        machine = self.machine.meanings() if symbolic else {}
        return {**machine, **pipeline.meanings(self.trace.passes or self.passes)}

    @property
    def place(self) -> str:
        """What it runs on, by name: the system, or the device where that is all there is."""
        return self.machine.name if self.system is None else self.system.name

    @property
    def _cautions(self) -> tuple[str, ...]:
        """A sentence where devices of the system have nothing to do."""
        count = 1 if self.system is None else self.system.devices
        used = self.program.devices
        if not used.is_number:
            some = f"{used} of the {count} devices of {self.place} run the model"
            return (f"{some}, any others idle",)
        if count == 1 or used != 1:
            return ()
        others = "the other one idles" if count == 2 else f"the other {count - 1} idle"
        return (
            f"one device of {self.place} runs the model, {others}: the pass parallel shares "
            "a model among devices",
        )

    def setting_of(self, unit: str) -> Setting:
        """The setting of a metric in ``unit``: amounts do not rest on how operations are timed."""
        if unit in TIMELESS:
            return replace(
                self.setting, assumptions=self.program.assumptions, cautions=self._cautions
            )
        return self.setting

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the program has; see :mod:`.metrics`."""
        return metrics_of(self.program)

    @property
    def graph(self) -> Graph:
        """The step graph of the first phase."""
        return self.program.graph

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that the formulas rest on."""
        steps = ((p, self.rows[p.name]) for p in self.program.phases)
        said = () if self.timing is None else self.timing.assumptions(steps)
        system = self.system
        joined = () if system is None or self.program.devices == 1 else system.notes
        host = () if system is None or system.host is None else system.host.notes
        own = (*self.machine.notes, *host)
        return (*self.program.assumptions, *joined, *own, *self._widened, *said)

    @cached_property
    def _widened(self) -> tuple[str, ...]:
        """Compute types that the machine lacks, and what products of them run in."""
        if self.system is None:
            return ()
        machine = self.system.device
        graphs = (g for phase in self.program.phases for g in phase.graph.walk())
        pairs = dict.fromkeys(pair for graph in graphs for pair in lacking(graph, machine))
        return tuple(
            f"{machine.name} lacks {stated}: products of {stated} operands run in {runs}; "
            "widening them is not counted"
            for stated, runs in pairs
        )

    @property
    def undone(self) -> tuple[str, ...]:
        """What the passes did not do, and why, a line for each pass and reason."""
        return tuple(lines(self.setting.not_done))

    def breakdown(
        self,
        phase: str,
        *,
        B: int = 1,
        T: int | None = None,
        S: int | None = None,
        **symbols: Number,
    ) -> Breakdown:
        """Per-operation rows of one step, with numbers.

        Args:
            phase: ``prefill`` or ``decode``.
            B: sequences.
            T: context of a decode step, the new token included.
            S: prompt tokens of a prefill.
            symbols: numbers for symbols that passes brought in.

        Returns:
            Rows with FLOP, bytes by role, arithmetic intensity, seconds and
            what bounds each, and totals.

        Raises:
            InputError: a symbol is missing, or a value is out of range.
        """
        return break_down(self, phase, {"B": B, "T": T, "S": S, **symbols})

    def timeline(
        self,
        phase: str,
        *,
        B: int = 1,
        T: int | None = None,
        S: int | None = None,
        **symbols: Number,
    ) -> Timeline:
        """When each operation of one step begins and ends, and what runs beside it.

        Arguments as of :meth:`breakdown`; ``timeline(…).chrome()`` is a trace that browsers
        and Perfetto show.

        Raises:
            InputError: as there, or groups of sequences are in several stages at once.
        """
        from costgraph.compiling.timeline import timeline

        return timeline(self, phase, {"B": B, "T": T, "S": S, **symbols})

    def readable(self, metric: str = "tpot", detail: str = "ops", **values: Any) -> Named:
        """A metric with its constants named and derived; see :mod:`.formula.naming`.

        Args:
            metric: any metric.
            detail: ``ops``: every group of operations; ``summary``: one line
                per resource, which bound the metric from both sides.
            values: numbers for some of its symbols.
        """
        from costgraph.formula.naming import named

        twin, why = None, ""
        if metric == "memory":
            why = "candidates of the peak are too many to compare in symbols"
        elif self.twin is None:
            why = "the model was given as a program, or is in symbols already"
        else:
            # Some families and passes keep no symbolic dimensions: no derivations then.
            try:
                twin = self.twin()
            except CostgraphError as error:
                why = str(error)
        dims = {} if twin is None else dict(twin.program.dims)
        other = None if twin is None else getattr(twin, metric)
        formula = getattr(self, metric)
        if values:
            formula, other = (f if f is None else f.bind(**values) for f in (formula, other))
        return replace(named(formula, detail, other, dims), underived=why)

    def explain(self, metric: str = "tpot", **values: Any) -> Explanation:
        """What bounds a metric at a point and what would change it; see :mod:`.explaining`."""
        found: Explanation = view("explain")(self, metric, **values)
        return found

    def draw(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Drawing:
        """A picture of the graph, saved to ``path`` if given; see :mod:`costgraph.showing.draw`."""
        drawing: Drawing = view("draw")(self, **options)
        if path is not None:
            drawing.save(path)
        return drawing

    # --- parts ---------------------------------------------------------------

    def _require_tokens(self, metric: str) -> None:
        require(self.program, metric)

    def phases_of(self, metric: str) -> tuple[Phase, ...]:
        """The phases that a time is about: of ``ttft``, ``tpot``, ``interval`` or a request."""
        if metric == "ttft":
            return self.program.until_first_token
        if metric == "tpot":
            return self._decode or self.program.phases
        if metric == "interval":
            return self._decode or self.program.phases
        return self.program.phases

    @property
    def _decode(self) -> tuple[Phase, ...]:
        return self.program.decoding

    @cached_property
    def rows(self) -> Mapping[str, tuple[Row, ...]]:
        """Counted rows by phase, in the graph's own symbols."""
        return {name: flat(items) for name, items in self.items.items()}

    @cached_property
    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Counted rows by phase as they overlap, in the graph's own symbols."""
        found: dict[str, tuple[Item, ...]] = {}
        shared: dict[tuple[int, bool], tuple[Item, ...]] = {}
        for phase in self.program.phases:
            sensitive = bool(self.accounting.rules) and phase.is_single_query
            key = (id(phase.graph), sensitive)
            if key not in shared:
                shared[key] = roofline.phase_items(phase, self.accounting)
            found[phase.name] = shared[key]
        return found

    def timing_on(self, machine: Machine) -> roofline.Timing | None:
        """How operations take time on the device or its symbols; None for the roofline."""
        return None if self.timing is None else self.timing.on(machine)

    @cached_property
    def _step_cache(self) -> dict[str, tuple[Term, ...]]:
        return {}

    def _steps(self, phase: str) -> tuple[Term, ...]:
        if phase not in self._step_cache:
            self._step_cache[phase] = roofline.step_terms(
                self.program.phase(phase),
                self.items[phase],
                self.machine,
                self.timing_on(self.machine),
            )
        return self._step_cache[phase]

    def _request(self, steps: Any) -> tuple[Term, ...]:
        return tuple(
            term
            for phase in self.program.phases
            for term in roofline.spanned(phase, steps(phase.name))
        )

    def _counted(self, name: str, unit: str) -> Formula:
        def steps(phase: str) -> tuple[Term, ...]:
            width = self.program.width
            return roofline.count_terms(self.program.phase(phase), self.rows[phase], name, width)

        return self._formula(name, unit, self._request(steps))

    @cached_property
    def _rates(self) -> Mapping[str, Expr]:
        rates: dict[str, Expr] = {
            f"{engine.value}:{kind}": peak for (engine, kind), peak in self.machine.peaks.items()
        }
        rates["memory"] = self.machine.memory.bandwidth
        for level, tier in self.machine.tiers.items():
            at = inside(level)
            rates |= {f"{at}/{e.value}:{kind}": peak for (e, kind), peak in tier.peaks.items()}
            if tier.bandwidth is not None:
                rates[f"{at}/memory"] = tier.bandwidth
        return rates

    def _limits(self, phases: tuple[Phase, ...], at_end: bool = True) -> tuple[Limit, ...]:
        """The program's limits in ``phases``, with ``at_end`` at their longest contexts.

        Those that are kept whatever the symbols are left out.
        """
        found: list[Limit] = []
        for limit in self.program.limits:
            for phase in phases:
                reached = phase.limited(limit)
                if at_end:
                    reached = reached.mapped(phase.at_end)
                if not dominates(reached.bound, reached.expr):
                    found.append(reached)
        if not at_end:
            found.extend(x for phase in phases for x in phase.begins)
        return tuple(dict.fromkeys(found))

    def _formula(
        self,
        name: str,
        unit: str,
        terms: tuple[Term, ...],
        limits: tuple[Limit, ...] | None = None,
    ) -> Formula:
        made = Formula(
            name,
            unit,
            terms,
            None,
            self._limits(self.program.phases) if limits is None else limits,
            self._rates if unit == "s" and self.timing is None else {},
            self.setting_of(unit),
        )
        mine = set(made.symbols)
        stated = tuple(x for x in self.program.positions if x.expr.free_symbols <= mine)
        return replace(made, stated=stated)

    def _repr_html_(self) -> str:
        return view_text("compiled_html", self)

    def __repr__(self) -> str:
        return f"<Compiled {self.setting.text()}>"


def _labelled(phase: Phase, ops: tuple[str, ...], among: Sequence[Phase]) -> tuple[str, ...]:
    """Operation names, with their phase where a formula takes several phases."""
    return ops if len(among) == 1 else tuple(f"{phase.name}.{op}" for op in ops)
