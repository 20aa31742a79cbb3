"""Passes as values, pipelines as strings, and running them with checks in between.

A pipeline is written ``fuse,quantize{weights=int4,group=128},page-kv{block=16}``; see
:mod:`costgraph.grammar`. Parsing and printing round-trip. Option values are words,
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
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, ClassVar

from sympy import Expr, Rational

from costgraph import grammar
from costgraph.errors import CostgraphError, PipelineError, VerifyError, clip, nearest
from costgraph.machine import Machine
from costgraph.program import Program
from costgraph.symbols import symbol
from costgraph.verify import verify_program

_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?(?:/\d{1,18})?\Z")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.|:-]*\Z")


class Stage(IntEnum):
    """When a pass runs: earlier stages first, and what a stage may rely on."""

    #: Operators of an imported graph become the operations of a model.
    RECOGNITION = 0
    #: Layers written out become regions.
    FOLDING = 1
    #: Tensors get their formats; operations are the model's own, none is fused.
    FORMATS = 2
    #: Caches get their layout.
    CACHES = 3
    #: Which layers run for which tokens.
    DEPTH = 4
    #: Operations become kernels.
    KERNELS = 5
    #: Steps become rounds; models that work together are put together.
    DECODING = 6


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

    ``kind`` is ``number`` (positive number or symbol), ``probability`` (number
    in [0, 1] or symbol), ``word`` (one of ``choices`` if given), ``text`` (a name, a path,
    anything printable), ``pipeline`` (passes, kept as their text) or ``flag``.
    """

    kind: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None


def option(kind: str, default: Any, help: str, **more: Any) -> Any:
    """A dataclass field that is an option of a pass."""
    return dataclasses.field(default=default, metadata={"option": Option(kind, help, **more)})


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of programs. Subclasses are frozen dataclasses of options.

    Class attributes: ``name`` (kebab case), ``title`` (one line), ``formula``
    (what it changes, as text), ``source`` and ``assumptions`` (sentences), ``stage``
    (when it runs) and ``inherited``: whether a draft that is loaded for the model gets
    the pass as well, as it does unless its options describe one model alone.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    stage: ClassVar[Stage] = Stage.KERNELS
    inherited: ClassVar[bool] = True
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    assumptions: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return False

    def prepared(self, program: Program, machine: Machine) -> Pass:
        """The pass with everything done that does not depend on what is searched for."""
        return self

    @abstractmethod
    def run(self, program: Program, machine: Machine) -> Outcome:
        """The rewritten program. ``machine`` states what the target offers."""

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """The options by their written name."""
        return {
            f.name.replace("_", "-"): f.metadata["option"]
            for f in dataclasses.fields(cls)
            if "option" in f.metadata
        }

    def spec(self) -> str:
        """The pass as pipeline text; options at their default are left out."""
        parts = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if "option" in f.metadata and value != f.default:
                shown = str(value).lower() if isinstance(value, bool) else str(value)
                parts.append(f"{f.name.replace('_', '-')}={grammar.quoted(shown)}")
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
        machine: for which it ran.
        place: its place among the passes as they were written, from 0.
    """

    made_by: Pass
    before: Program
    after: Program
    hits: tuple[str, ...]
    misses: tuple[Miss, ...]
    machine: Machine
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

    def __str__(self) -> str:
        from costgraph.export.trace import trace_text

        return trace_text(self)

    def __repr__(self) -> str:
        return f"<Trace {text_of(self.passes) or 'of no passes'}>"

    def _repr_html_(self) -> str:
        from costgraph.export.notebook import text_html

        return text_html(str(self))


def parse(text: str, known: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """The passes that ``text`` names.

    Raises:
        PipelineError: the text does not parse, or names something unknown.
    """
    return tuple(_make(item, known) for item in grammar.read(text))


def text_of(passes: tuple[Pass, ...]) -> str:
    """The pipeline text of ``passes``; :func:`parse` gives them back."""
    return ",".join(p.spec() for p in passes)


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
        return known[name](**values)
    except CostgraphError as error:
        raise PipelineError(f"{_at(item)}{name}: {error}") from None


def _at(place: grammar.Item | grammar.Given) -> str:
    return f"pipeline, character {place.at}: "


def _value(where: str, spec: Option, text: str) -> Any:
    if spec.kind == "flag":
        if text not in ("true", "false"):
            raise PipelineError(f"{where} must be true or false, not {clip(text)}")
        return text == "true"
    if spec.kind == "text" or (spec.choices and text in spec.choices):
        return text
    if spec.kind == "word":
        if spec.choices:
            raise PipelineError(f"{where}: unknown {clip(text)}{nearest(text, spec.choices)}")
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
    if _NUMBER.match(text):
        whole, _, denominator = text.partition("/")
        if denominator and int(denominator.split(".")[0]) == 0:
            raise PipelineError(f"{where}: {clip(text)} divides by zero")
        value = Rational(whole) / Rational(denominator or "1")
        if spec.kind == "probability" and not 0 <= value <= 1:
            raise PipelineError(f"{where} must be in [0, 1], not {text}")
        minimum = spec.minimum
        if spec.kind == "number" and minimum is None and value <= 0:
            raise PipelineError(f"{where} must be positive, not {text}")
        if minimum is not None and value < minimum:
            raise PipelineError(f"{where} must be at least {minimum}, not {text}")
        if spec.kind in ("number", "integer") and value > 10**12:
            raise PipelineError(f"{where}: {clip(text)} is beyond 1e12")
        if spec.kind == "integer" and not value.is_Integer:
            raise PipelineError(f"{where} must be a whole number, not {text}")
        return value
    if text in ("inf", "nan", "infinity"):
        raise PipelineError(f"{where} must be a finite number, not {text}")
    try:
        return symbol(text)
    except CostgraphError:
        raise PipelineError(
            f"{where}: {clip(text)} is neither a number nor a symbol name"
        ) from None


#: Decides the options of a pass that wait for a search.
Resolve = Callable[[Pass, Program, Machine], Pass]


def run(
    program: Program,
    passes: tuple[Pass, ...],
    machine: Machine,
    resolve: Resolve | None = None,
) -> tuple[Program, Trace]:
    """Run ``passes`` by stage, verifying before the first and after each.

    Passes that the program went through already count as written before ``passes``:
    from the first that would run elsewhere in the order, or that ran for another
    machine, they run again.

    Raises:
        VerifyError: a pass broke an invariant; the text names it and the
            passes before it.
        PipelineError: a pass does not fit the program.
    """
    past = history(program)
    written = (*Trace(past).passes, *passes)
    order = sorted(range(len(written)), key=lambda place: (written[place].stage, place))
    steps: list[Step] = []
    for step, place in zip(past, order, strict=False):
        if step.made_by != written[place] or step.machine != machine:
            break
        steps.append(replace(step, place=place))
    if len(steps) == len(order):
        if not past:
            verify_program(program)
        return program, Trace(tuple(steps))
    program = steps[-1].after if steps else past[0].before if past else program
    verify_program(program)
    for place in order[len(steps) :]:
        program = replace(program, history=tuple(steps))
        steps.append(_step(written[place], program, machine, resolve, place))
        program = steps[-1].after
    return replace(program, history=tuple(steps)), Trace(tuple(steps))


def history(program: Program) -> tuple[Step, ...]:
    """The passes that made ``program`` what it is, as they ran.

    None where its phases were changed by other means since.
    """
    steps = program.history
    return steps if steps and steps[-1].after.phases is program.phases else ()


def _step(
    given: Pass, program: Program, machine: Machine, resolve: Resolve | None, place: int
) -> Step:
    item = given
    if given.needs_tuning and resolve is not None:
        item = resolve(given, program, machine)
    try:
        outcome = item.run(program, machine)
        # What a pass rests on matters where it did something.
        result = outcome.program.assuming(*(item.assumptions if outcome.hits else ()))
        if result.phases != program.phases:
            verify_program(result)
    except VerifyError as error:
        before = ", ".join(s.made_by.name for s in program.history) or "none"
        raise VerifyError(
            f"after pass {item.name!r} (passes before it: {before}): {error}"
        ) from error
    return Step(item, program, result, outcome.hits, outcome.misses, machine, place)
