"""Passes as values, pipelines as strings, and running them with checks in between.

A pipeline is written ``fuse,quantize{weights=int4,group=128},page-kv{block=16}``; see
:mod:`costgraph.rewriting.grammar`. Parsing and printing round-trip. Option values are words,
texts, pipelines, numbers (``16``, ``1/2``, ``0.8``) or symbols; nothing is ever
evaluated as code.

A pipeline says what is done to a model, not when: passes run by their :class:`Stage`,
whatever the order in which they are written, so every order means the same. Only
passes of one stage run in the written order (of two ``quantize`` the first wins). A
program remembers the passes it went through, so that a program compiled once more
takes further passes as if all had been written together.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, Protocol, Self

from sympy import Expr, Integer, Rational

from costgraph.errors import CostgraphError, InputError, PipelineError, VerifyError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.ir.verify import verify_program
from costgraph.number import MOST, bounded, is_number, parse_number
from costgraph.rewriting import grammar
from costgraph.rewriting.choosing import Search
from costgraph.symbols import LEGEND, symbol
from costgraph.undone import Undone
from costgraph.views import view_text

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.|:-]*\Z")


class Stage(IntEnum):
    """When a pass runs: earlier stages first, and what a stage may rely on."""

    #: Operators of an imported graph become the operations of a model.
    RECOGNITION = 0
    #: Layers written out become regions.
    FOLDING = auto()
    #: The subnet that is searched for is found.
    SUBNETS = auto()
    #: The model gets its sizes.
    SHAPES = auto()
    #: Matrices of products become factors.
    FACTORS = auto()
    #: Tables of look-ups become cores.
    TABLES = auto()
    #: Positions see others; caches keep other rows, and operations choose them.
    CONTEXT = auto()
    #: Tokens leave between layers, whatever these see.
    LEAVING = auto()
    #: Layers read the caches of others.
    SHARING = auto()
    #: A request runs in other phases; operations are the model's own.
    PHASES = auto()
    #: Tensors get their formats; operations are the model's own, none is fused.
    FORMATS = auto()
    #: Products that are still in 16 bit get the format that serves them best.
    RECIPES = auto()
    #: Zeros of tensors are left out of what is stored, whatever their format.
    SPARSITY = auto()
    #: Products get adapters, which keep their own format.
    ADAPTERS = auto()
    #: Caches get their layout.
    CACHES = auto()
    #: Which layers run for which tokens.
    DEPTH = auto()
    #: Tensors and operations get the devices that hold and run them.
    PLACEMENT = auto()
    #: Which neurons and heads run, and which of them elsewhere.
    NEURONS = auto()
    #: Operations get the unit that runs them.
    UNITS = auto()
    #: What a device has no room for is kept elsewhere, or computed there.
    OFFLOADING = auto()
    #: Prompts find a part of themselves in a cache.
    PREFIXES = auto()
    #: Caches leave for other machines.
    HANDOVER = auto()
    #: Operations become kernels.
    KERNELS = auto()
    #: Kernels and exchanges run at the same time.
    OVERLAP = auto()
    #: Steps become rounds; models that work together are put together.
    DECODING = auto()
    #: Steps, or rounds, are run by several branches of a request at once.
    FORKING = auto()
    #: Requests follow one another with what they keep.
    TURNS = auto()


@dataclass(frozen=True)
class Miss:
    """Why a rule did not apply at a node."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a pass did: the new program, where it applied, where and why not."""

    program: Program
    hits: tuple[str, ...] = ()
    misses: tuple[Miss, ...] = ()


@dataclass(frozen=True)
class Option:
    """How an option of a pass is read and explained.

    Attributes:
        kind: ``number`` (a positive number), ``integer`` (a whole one),
            ``probability`` (in [0, 1]), ``word`` (one of ``choices`` if given), ``text``
            (a name, a path, anything printable), ``pipeline`` (passes, kept as their
            text) or ``flag``.
        help: one line.
        choices: words that are allowed, for numbers besides them.
        minimum: least number; positive without one.
        maximum: largest number: work that grows with it is done when the pass runs.
        symbolic: a symbol may stand in place of a number.
        refused: words that mean something elsewhere, with why they make no sense here.
        zero: the formula over a symbol in its place holds where that is zero, and comes to
            what the pass does with the number 0; without it where the range has zero.
        under: what other options must be for this one to say something, one of them at
            least: ``NAME=value|value``, ``NAME!=value``, or several such joined by ``&``.
            Without any it always does.
    """

    kind: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int = MOST
    symbolic: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    zero: bool | None = None
    under: tuple[str, ...] = ()

    def unknown(self, value: str) -> str:
        """Why a word is none of the choices, in one line."""
        if value in self.refused:
            return self.refused[value]
        return f"unknown {clip(value)}{nearest(value, self.choices)}"

    @property
    def may_be_zero(self) -> bool:
        """Whether a symbol in its place may be zero."""
        return self.kind == "probability" if self.zero is None else self.zero

    @property
    def is_number(self) -> bool:
        """True for options whose value is a number or stands for one."""
        return self.kind in ("number", "integer", "probability")


def option(kind: str, default: Any, help: str, **more: Any) -> Any:
    """A dataclass field that is an option of a pass."""
    return dataclasses.field(default=default, metadata={"option": Option(kind, help, **more)})


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of programs. Subclasses are frozen dataclasses of options.

    Class attributes: ``name`` (kebab case), ``title`` (one line), ``formula``
    (what it changes, as text), ``source`` and ``assumptions`` (sentences), ``stage``
    (when it runs), ``inherited``: whether a draft that is loaded for the model gets
    the pass as well, as it does unless its options describe one model alone, and ``once``:
    whether a pipeline that has it twice is refused.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    stage: ClassVar[Stage] = Stage.KERNELS
    inherited: ClassVar[bool] = True
    once: ClassVar[bool] = False
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    assumptions: ClassVar[tuple[str, ...]] = ()

    @property
    def nested(self) -> Mapping[str, tuple[Pass, ...]]:
        """Passes that options hold, by the option: their symbols are explained as well."""
        return {}

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return False

    def choices(self, program: Program, system: System) -> tuple[Pass, ...]:
        """Every way to decide the open options, where there are finitely many; else nothing."""
        return ()

    def search(self, program: Program, system: System) -> Search:
        """How open options are decided; see :mod:`costgraph.rewriting.choosing`.

        Raises:
            PipelineError: there are none.
        """
        raise PipelineError(f"{self.name}: nothing to decide by search")

    def prepared(self, program: Program, system: System) -> Pass:
        """The pass with everything done that does not depend on what is searched for."""
        return self

    @abstractmethod
    def run(self, program: Program, system: System) -> Outcome:
        """The rewritten program. ``system`` states what the target offers."""

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """The options by their written name."""
        return {
            f.name.replace("_", "-"): f.metadata["option"]
            for f in dataclasses.fields(cls)
            if "option" in f.metadata
        }

    @property
    def symbols(self) -> Mapping[str, str]:
        """The option that each symbol stands in, by the symbol's name."""
        found: dict[str, str] = {}
        for name, spec in self.options().items():
            value = getattr(self, name.replace("-", "_"))
            if spec.is_number and isinstance(value, Expr):
                found |= dict.fromkeys(sorted(s.name for s in value.free_symbols), name)
        return found

    def meaning(self, option_name: str) -> str:
        """What an option is, as legends have it."""
        return f"{self.name}, {option_name}: {self.options()[option_name].help}"

    def checked(self) -> Self:
        """The pass with exact numbers, however it was made.

        Raises:
            PipelineError: an option has a value that it does not take.
        """
        exact: dict[str, Expr] = {}
        for name, spec in self.options().items():
            field_name = name.replace("-", "_")
            value = getattr(self, field_name)
            where = f"{self.name}: {name}"
            if spec.kind == "flag" and not isinstance(value, bool):
                raise PipelineError(f"{where} must be True or False, not {clip(value)}")
            if spec.kind in ("word", "text", "pipeline") and not isinstance(value, str):
                raise PipelineError(f"{where} must be a {spec.kind}, not {clip(value)}")
            if isinstance(value, str) and spec.choices and value not in spec.choices:
                raise PipelineError(f"{where}: {spec.unknown(value)}")
            if spec.is_number and not (isinstance(value, str) and spec.choices):
                number = checked(where, spec, value)
                if number is not value:
                    exact[field_name] = number
        made = dataclasses.replace(self, **exact) if exact else self
        made.refuse_idle(
            f.name.replace("_", "-")
            for f in dataclasses.fields(made)
            if "option" in f.metadata and getattr(made, f.name) != f.default
        )
        return made

    def refuse_idle(self, given: Iterable[str]) -> None:
        """Refuses options, by their written names, that say nothing beside the others.

        Raises:
            PipelineError: the first of them, and with what it would say something.
        """
        options = self.options()
        for name in given:
            under = options[name].under
            if under and not any(self.holds(condition) for condition in under):
                # The nearest way: one that takes the fewest changes.
                wrong = min(
                    ([c for c in u.split("&") if not self.holds(c)] for u in under), key=len
                )
                counts = ", or ".join(u.replace("&", " and ") for u in under)
                other = re.split("!?=", wrong[0])[0]
                shown = self._written(other) or "none"
                raise PipelineError(
                    f"{self.name}: {name} says nothing about {other}={shown}: it counts with "
                    f"{counts}"
                )

    def holds(self, condition: str) -> bool:
        """Whether other options are as a condition of :attr:`Option.under` has it."""
        for one in condition.split("&"):
            name, unlike, values = re.split("(!?)=", one, maxsplit=1)
            if (self._written(name) in values.split("|")) == bool(unlike):
                return False
        return True

    def _written(self, name: str) -> str:
        """The value of an option as text."""
        return str(getattr(self, name.replace("-", "_")))

    def spec(self) -> str:
        """The pass as pipeline text; options at their default are left out."""
        parts = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if "option" in f.metadata and value != f.default:
                parts.append(f"{f.name.replace('_', '-')}={grammar.quoted(typed(value))}")
        return self.name + (f"{{{','.join(parts)}}}" if parts else "")

    def __str__(self) -> str:
        return self.spec()


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline as it ran.

    Attributes:
        made_by: the pass, its searched options decided.
        before, after: the program.
        hits, misses: where it applied, where not and why.
        system: for which it ran.
        place: its place among the passes as they were written, from 0.
    """

    made_by: Pass
    before: Program
    after: Program
    hits: tuple[str, ...]
    misses: tuple[Miss, ...]
    system: System
    place: int

    def __repr__(self) -> str:
        return f"<Step {self.made_by.spec()}: {len(self.hits)} hits, {len(self.misses)} misses>"


@dataclass(frozen=True)
class Trace:
    """Everything a pipeline did, step by step, in the order in which the passes ran."""

    steps: tuple[Step, ...] = ()

    @property
    def misses(self) -> tuple[Miss, ...]:
        """All misses, in order."""
        return tuple(m for step in self.steps for m in step.misses)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes in the order in which they were written."""
        return tuple(s.made_by for s in sorted(self.steps, key=lambda s: s.place))

    @property
    def undone(self) -> tuple[Undone, ...]:
        """Every reason for what was not done, in the order of the text, each once.

        A pass that did nothing and missed nothing found nothing to work on: it says so.
        """
        found: dict[Undone, None] = {}
        for step in sorted(self.steps, key=lambda s: s.place):
            spec, did, name = step.made_by.spec(), bool(step.hits), step.before.name
            for miss in step.misses:
                whole = miss.node == name
                found[Undone(spec, did, miss.rule, miss.node, miss.reason, whole)] = None
            if not did and not step.misses:
                reason = f"nothing in {name} is as it needs it"
                found[Undone(spec, did, "", name, reason, True)] = None
        return tuple(found)

    def __str__(self) -> str:
        return view_text("trace_text", self)

    def __repr__(self) -> str:
        return f"<Trace {text_of(self.passes) or 'of no passes'}>"

    def _repr_html_(self) -> str:
        return view_text("text_html", str(self))


def parse(text: str, known: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """The passes that ``text`` names.

    Raises:
        PipelineError: the text does not parse, or names something unknown.
    """
    return tuple(_make(item, known) for item in grammar.read(text))


def text_of(passes: tuple[Pass, ...]) -> str:
    """The pipeline text of ``passes``; :func:`parse` gives them back."""
    return ",".join(p.spec() for p in passes)


def meanings(passes: Iterable[Pass]) -> dict[str, str]:
    """What symbols in options of ``passes`` stand for; the first to use one explains it."""
    found: dict[str, str] = {}
    for item in passes:
        for name, option_name in item.symbols.items():
            found.setdefault(name, item.meaning(option_name))
        for option_name, inner in item.nested.items():
            for name, said in meanings(inner).items():
                found.setdefault(name, f"{item.name}, {option_name}: {said}")
    return found


def whole_symbols(passes: Iterable[Pass]) -> tuple[str, ...]:
    """Symbols in options of ``passes`` that take whole numbers; all others are real."""
    found: dict[str, None] = {}
    for item in passes:
        for name, option_name in item.symbols.items():
            if item.options()[option_name].kind == "integer":
                found[name] = None
        for inner in item.nested.values():
            found |= dict.fromkeys(whole_symbols(inner))
    return tuple(found)


def zero_symbols(passes: Iterable[Pass]) -> tuple[str, ...]:
    """Symbols in options of ``passes`` that may be zero wherever they stand."""
    found: dict[str, bool] = {}
    for item in passes:
        options = item.options()
        stand = [*item.symbols.items()]
        for option_name, spec in options.items():
            value = getattr(item, option_name.replace("-", "_"))
            if spec.is_number and isinstance(value, Expr):
                stand += ((s.name, option_name) for s in value.free_symbols)
        for name, option_name in stand:
            found[name] = options[option_name].may_be_zero and found.get(name, True)
        for inner in item.nested.values():
            known = set(zero_symbols(inner))
            for name in meanings(inner):
                found[name] = name in known and found.get(name, True)
    return tuple(name for name, may in found.items() if may)


def _make(item: grammar.Item, known: Mapping[str, type[Pass]]) -> Pass:
    name = item.name
    if name not in known:
        raise PipelineError(f"{_at(item)}unknown pass {clip(name)}{nearest(name, known)}")
    options = known[name].options()
    values: dict[str, Any] = {}
    for given in item.options:
        key = given.name
        if key not in options:
            raise PipelineError(
                f"{_at(given)}{name}: unknown option {clip(key)}{nearest(key, options)}"
            )
        attribute = key.replace("-", "_")
        if attribute in values:
            raise PipelineError(f"{_at(given)}{name}: option {key!r} is given twice")
        where = f"{_at(given)}{name}: {key}"
        if options[key].kind == "pipeline":
            try:
                values[attribute] = text_of(parse(given.value, known))
            except PipelineError as error:
                raise PipelineError(f"{where}: {error}") from None
        else:
            values[attribute] = _value(where, options[key], given.value)
    try:
        made = known[name](**values)
    except CostgraphError as error:
        raise PipelineError(f"{_at(item)}{name}: {error}") from None
    try:
        made.refuse_idle(given.name for given in item.options)
    except PipelineError as error:
        raise PipelineError(f"{_at(item)}{error}") from None
    return made


def _at(place: grammar.Item | grammar.Given) -> str:
    return f"pipeline, character {place.at}: "


def typed(value: object) -> str:
    """A value of an option as a pipeline has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(where: str, spec: Option, text: str) -> Any:
    if spec.kind == "flag":
        if text not in ("true", "false"):
            raise PipelineError(f"{where} must be true or false, not {clip(text)}")
        return text == "true"
    if not text:
        raise PipelineError(f"{where} is empty: give a value, or leave the option out")
    if spec.kind == "text" or (spec.choices and text in spec.choices):
        return text
    if spec.kind == "word":
        if spec.choices:
            raise PipelineError(f"{where}: {spec.unknown(text)}")
        if not _WORD.match(text):
            raise PipelineError(
                f"{where}: {clip(text)} is not a word: a letter, then letters, digits and _.|:-"
            )
        return text
    return number(where, spec, text)


def number(where: str, spec: Option, text: str) -> Expr:
    """A number or symbol from text, checked against the option's range.

    Raises:
        PipelineError: it is neither, or out of range.
    """
    if is_number(text):
        try:
            value = parse_number(text, where)
        except InputError as error:
            raise PipelineError(str(error)) from None
        return checked(where, spec, Rational(value))
    if text in ("inf", "nan", "infinity"):
        raise PipelineError(f"{where} must be a finite number, not {text}")
    try:
        return checked(where, spec, symbol(text))
    except InputError as error:
        if isinstance(error, PipelineError):
            raise
        raise PipelineError(
            f"{where}: {clip(text)} is neither a number nor a symbol name"
        ) from None


def checked(where: str, spec: Option, value: Any) -> Expr:
    """A value of a numeric option, from text or from Python, within the option's range.

    Raises:
        PipelineError: it is out of range, or a symbol where a number is needed.
    """
    if isinstance(value, Expr) and not value.is_number:
        if not spec.symbolic:
            raise PipelineError(f"{where} must be a number here, not {clip(str(value))}")
        _check_names(where, value, LEGEND)
        return value
    try:
        # A float of Python means the decimal that it is written as.
        found = bounded(Fraction(float.__repr__(value)) if _is_finite(value) else value, where)
    except InputError as error:
        raise PipelineError(str(error)) from None
    shown = clip(str(found))[1:-1]
    if spec.kind == "probability":
        if not 0 <= found <= 1:
            raise PipelineError(f"{where} must be in [0, 1], not {shown}")
        return Rational(found)
    if spec.minimum is None and found <= 0:
        raise PipelineError(f"{where} must be positive, not {shown}")
    if spec.minimum is not None and found < spec.minimum:
        raise PipelineError(f"{where} must be at least {spec.minimum}, not {shown}")
    if found > spec.maximum:
        raise PipelineError(f"{where} must be at most {spec.maximum}, not {shown}")
    if spec.kind == "integer" and found.denominator != 1:
        raise PipelineError(f"{where} must be a whole number, not {shown}")
    return Rational(found)


def _check_names(where: str, value: Expr, meanings: Mapping[str, str]) -> None:
    """Refuses symbols that stand for something else.

    Raises:
        PipelineError: what the first of them means.
    """
    for name in sorted(s.name for s in value.free_symbols if s.name in meanings):
        raise PipelineError(
            f"{where}: {name} means something else ({meanings[name]}): give the symbol another "
            f"name, such as {name}_{where.rpartition(' ')[2].replace('-', '_')}"
        )


def _check_symbols(item: Pass, program: Program, system: System) -> None:
    """Refuses symbols of options that the model or the device gives another meaning.

    Raises:
        PipelineError: which, and what it means.
    """
    meanings = {s.name: f"a figure of {system.device.name}" for s in system.device.bindings()}
    meanings |= {s.name: f"a dimension of {program.name}" for s, _ in program.dims}
    for name, option_name in item.symbols.items():
        _check_names(f"{item.name}: {option_name}", symbol(name), meanings)


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


class Resolve(Protocol):
    """Decides the options of a pass that wait for a search."""

    def __call__(
        self, item: Pass, *, program: Program, system: System, later: tuple[Pass, ...]
    ) -> Pass:
        """The pass as decided; ``later`` are the passes that run after it."""
        ...


def run(
    program: Program,
    passes: tuple[Pass, ...],
    system: System,
    resolve: Resolve | None = None,
) -> tuple[Program, Trace]:
    """Run ``passes`` by stage, verifying before the first and after each.

    Passes that the program went through already count as written before ``passes``:
    from the first that would run elsewhere in the order, or that ran for another
    system, they run again.

    Raises:
        VerifyError: a pass broke an invariant; the text names it and the
            passes before it.
        PipelineError: a pass does not fit the program.
    """
    past = history(program)
    written = (*Trace(past).passes, *(item.checked() for item in passes))
    for index, item in enumerate(written):
        if item.once and any(other.name == item.name for other in written[:index]):
            raise PipelineError(f"{item.name} stands twice in the pipeline: give one")
    order = sorted(range(len(written)), key=lambda place: (written[place].stage, place))
    steps: list[Step] = []
    for step, place in zip(past, order, strict=False):
        if step.made_by != written[place] or step.system != system:
            break
        steps.append(replace(step, place=place))
    if len(steps) == len(order):
        if not past:
            verify_program(program)
        return program, Trace(tuple(steps))
    program = steps[-1].after if steps else past[0].before if past else program
    verify_program(program)
    for at in range(len(steps), len(order)):
        program = replace(program, history=tuple(steps))
        decide = None
        if resolve is not None:
            later = tuple(written[place] for place in order[at + 1 :])
            decide = partial(resolve, program=program, system=system, later=later)
        steps.append(_step(written[order[at]], program, system, decide, order[at]))
        program = steps[-1].after
    return replace(program, history=tuple(steps)), Trace(tuple(steps))


def history(program: Program) -> tuple[Step, ...]:
    """The passes that made ``program`` what it is, as they ran.

    None where its phases were changed by other means since.
    """
    steps = program.history
    return steps if steps and steps[-1].after.phases is program.phases else ()


def _step(
    given: Pass,
    program: Program,
    system: System,
    decide: Callable[[Pass], Pass] | None,
    place: int,
) -> Step:
    item = given
    if given.needs_tuning and decide is not None:
        item = decide(given)
    try:
        _check_symbols(item, program, system)
        outcome = item.run(program, system)
        # What a pass rests on matters where it did something.
        result = outcome.program.assuming(*(item.assumptions if outcome.hits else ()))
        result = _limited(result, item, program)
        if result.phases != program.phases:
            verify_program(result)
    except VerifyError as error:
        before = ", ".join(s.made_by.name for s in program.history) or "none"
        raise VerifyError(
            f"after pass {item.name!r} (passes before it: {before}): {error}"
        ) from error
    return Step(item, program, result, outcome.hits, outcome.misses, system, place)


def limits_of(made_by: str, name: str, spec: Option, value: object) -> tuple[Limit, ...]:
    """The range of an option as limits on the symbol that stands in place of its number.

    Symbols are positive: only a least value of one or more says something.
    """
    if not (isinstance(value, Expr) and value.free_symbols):
        return ()
    why = f"{name} of {made_by}"
    most = 1 if spec.kind == "probability" else spec.maximum
    least = (Limit(Integer(spec.minimum), value, why),) if spec.minimum else ()
    return (*least, Limit(value, Integer(most), why)) if most < MOST else least


def _limited(program: Program, item: Pass, before: Program) -> Program:
    """The program with limits that tell which pass they are of, those of its options too."""
    said = {(x.expr, x.bound) for x in program.limits}  # by the pass, in its own words
    limits = (
        limit
        for name, spec in item.options().items()
        if spec.is_number
        for limit in limits_of(item.name, name, spec, getattr(item, name.replace("-", "_")))
        if (limit.expr, limit.bound) not in said
    )
    added = (
        x if x in before.limits or x.of else replace(x, of=item.name)
        for x in (*program.limits, *limits)
    )
    return replace(program, limits=tuple(dict.fromkeys(added)))
