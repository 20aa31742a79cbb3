"""Passes as values, pipelines as strings, and running them with checks in between.

A pipeline is written ``fuse,quantize{weights=int4,group=128},page-kv{block=16}``.
Parsing and printing round-trip. Option values are words, numbers (``16``,
``1/2``, ``0.8``) or symbols; nothing is ever evaluated as code.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Self

from sympy import Expr, Integer, Rational

from costgraph.errors import CostgraphError, InputError, PipelineError, VerifyError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.machine import Machine
from costgraph.number import MOST, bounded, is_number, parse_number
from costgraph.program import Program
from costgraph.symbols import symbol
from costgraph.verify import verify_program

_ITEM = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:\{([^{}]*)\})?\s*")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.|:-]{0,79}\Z")


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
            ``probability`` (in [0, 1]), ``word`` (one of ``choices`` if given) or ``flag``.
        help: one line.
        choices: words that are allowed, for numbers besides them.
        minimum: least number; positive without one.
        maximum: largest number: work that grows with it is done when the pass runs.
        symbolic: a symbol may stand in place of a number.
    """

    kind: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int = MOST
    symbolic: bool = True

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
    (what it changes, as text), ``source`` and ``assumptions`` (sentences).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    assumptions: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_tuning(self) -> bool:
        """True while an option waits for a search over compiled programs."""
        return False

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
            if spec.kind == "word" and not isinstance(value, str):
                raise PipelineError(f"{where} must be a word, not {clip(value)}")
            if isinstance(value, str) and spec.choices and value not in spec.choices:
                raise PipelineError(f"{where}: unknown {clip(value)}{nearest(value, spec.choices)}")
            if spec.is_number and not (isinstance(value, str) and spec.choices):
                number = checked(where, spec, value)
                if number is not value:
                    exact[field_name] = number
        return dataclasses.replace(self, **exact) if exact else self

    def spec(self) -> str:
        """The pass as pipeline text; options at their default are left out."""
        parts = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if "option" in f.metadata and value != f.default:
                shown = str(value).lower() if isinstance(value, bool) else str(value)
                parts.append(f"{f.name.replace('_', '-')}={shown}")
        return self.name + (f"{{{','.join(parts)}}}" if parts else "")

    def __str__(self) -> str:
        return self.spec()


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline as it ran."""

    made_by: Pass
    before: Program
    after: Program
    hits: tuple[str, ...]
    misses: tuple[Miss, ...]


@dataclass(frozen=True)
class Trace:
    """Everything a pipeline did, step by step."""

    steps: tuple[Step, ...] = ()

    @property
    def misses(self) -> tuple[Miss, ...]:
        """All misses, in order."""
        return tuple(m for step in self.steps for m in step.misses)


def parse(text: str, known: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """The passes that ``text`` names.

    Raises:
        PipelineError: the text does not parse, or names something unknown.
    """
    if not isinstance(text, str):
        raise PipelineError(f"a pipeline is a text, not {clip(text)}")
    if len(text) > 4000:
        raise PipelineError(f"a pipeline of {len(text)} characters is too long (4000 at most)")
    passes: list[Pass] = []
    position = 0
    while position < len(text):
        if not text[position:].strip() and not passes:
            break
        match = _ITEM.match(text, position)
        if match is None:
            raise PipelineError(
                f"pipeline: expected a pass name at {clip(text[position:], 40)}; "
                "write name{option=value,…},name…"
            )
        name, body = match.groups()
        passes.append(_make(name, body, known))
        position = match.end()
        if position < len(text):
            if text[position] != "," or not text[position + 1 :].strip():
                raise PipelineError(
                    f"pipeline: expected ',' and a pass after {name!r}, "
                    f"not {clip(text[position:], 40)}"
                )
            position += 1
    return tuple(passes)


def text_of(passes: tuple[Pass, ...]) -> str:
    """The pipeline text of ``passes``; :func:`parse` gives them back."""
    return ",".join(p.spec() for p in passes)


def _make(name: str, body: str | None, known: Mapping[str, type[Pass]]) -> Pass:
    if name not in known:
        raise PipelineError(f"unknown pass {clip(name)}{nearest(name, known)}")
    cls = known[name]
    options = cls.options()
    values: dict[str, Any] = {}
    for part in (body or "").split(","):
        if not part.strip():
            if (body or "").strip():
                raise PipelineError(f"{name}: empty option in {clip('{' + (body or '') + '}')}")
            continue
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if key not in options:
            raise PipelineError(f"{name}: unknown option {clip(key)}{nearest(key, options)}")
        field_name = key.replace("-", "_")
        if not equals:
            raise PipelineError(f"{name}: option {key!r} needs a value: {key}=…")
        if field_name in values:
            raise PipelineError(f"{name}: option {key!r} is given twice")
        values[field_name] = _value(f"{name}: {key}", options[key], value)
    try:
        return cls(**values)
    except CostgraphError as error:
        raise PipelineError(f"{name}: {error}") from None


def _value(where: str, spec: Option, text: str) -> Any:
    if spec.kind == "flag":
        if text not in ("true", "false"):
            raise PipelineError(f"{where} must be true or false, not {clip(text)}")
        return text == "true"
    if spec.choices and text in spec.choices:
        return text
    if spec.kind == "word":
        if spec.choices:
            raise PipelineError(f"{where}: unknown {clip(text)}{nearest(text, spec.choices)}")
        if not _WORD.match(text):
            raise PipelineError(f"{where}: {clip(text)} is not a word")
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


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


#: Decides the options of a pass that wait for a search.
Resolve = Callable[[Pass, Program, Machine], Pass]


def run(
    program: Program,
    passes: tuple[Pass, ...],
    machine: Machine,
    resolve: Resolve | None = None,
) -> tuple[Program, Trace]:
    """Run ``passes`` in order, verifying before the first and after each.

    Raises:
        VerifyError: a pass broke an invariant; the text names it and the
            passes before it.
        PipelineError: a pass cannot follow the ones before it.
    """
    verify_program(program)
    steps: list[Step] = []
    for given in passes:
        item = given.checked()
        if item.needs_tuning and resolve is not None:
            item = resolve(item, program, machine)
        try:
            outcome = item.run(program, machine)
            result = outcome.program.assuming(*item.assumptions)
            result = _limited(result, item)
            if result.phases != program.phases:
                verify_program(result)
        except VerifyError as error:
            before = ", ".join(s.made_by.name for s in steps) or "none"
            raise VerifyError(
                f"after pass {item.name!r} (passes before it: {before}): {error}"
            ) from error
        steps.append(Step(item, program, result, outcome.hits, outcome.misses))
        program = result
    return program, Trace(tuple(steps))


def _limited(program: Program, item: Pass) -> Program:
    """The program with probabilities that are symbols kept to at most one."""
    symbols = [
        getattr(item, name.replace("-", "_"))
        for name, spec in item.options().items()
        if spec.kind == "probability"
    ]
    limits = (
        Limit(s, Integer(1), f"a probability of {item.name}") for s in symbols if s.free_symbols
    )
    return replace(program, limits=tuple(dict.fromkeys((*program.limits, *limits))))
