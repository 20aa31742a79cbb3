"""Passes as values, pipelines as strings, and running them with checks in between.

A pipeline is written ``fuse,quantize{weights=int4,group=128},page-kv{block=16}``.
Parsing and printing round-trip. Option values are words, numbers (``16``,
``1/2``, ``0.8``) or symbols; nothing is ever evaluated as code.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sympy import Expr, Rational

from costgraph.errors import CostgraphError, PipelineError, VerifyError, clip, nearest
from costgraph.machine import Machine
from costgraph.program import Program
from costgraph.symbols import symbol
from costgraph.verify import verify_program

_ITEM = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:\{([^{}]*)\})?\s*")
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?(?:/\d{1,18})?\Z")
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

    ``kind`` is ``number`` (positive number or symbol), ``probability`` (number
    in [0, 1] or symbol), ``word`` (one of ``choices`` if given) or ``flag``.
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

    def __repr__(self) -> str:
        return f"<Step {self.made_by.spec()}: {len(self.hits)} hits, {len(self.misses)} misses>"


@dataclass(frozen=True)
class Trace:
    """Everything a pipeline did, step by step."""

    steps: tuple[Step, ...] = ()

    @property
    def misses(self) -> tuple[Miss, ...]:
        """All misses, in order."""
        return tuple(m for step in self.steps for m in step.misses)

    def __str__(self) -> str:
        from costgraph.export.trace import trace_text

        return trace_text(self)

    def __repr__(self) -> str:
        return f"<Trace {text_of(tuple(s.made_by for s in self.steps)) or 'of no passes'}>"

    def _repr_html_(self) -> str:
        from costgraph.export.notebook import text_html

        return text_html(str(self))


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
    """Run ``passes`` in order, verifying before the first and after each.

    Raises:
        VerifyError: a pass broke an invariant; the text names it and the
            passes before it.
        PipelineError: a pass cannot follow the ones before it.
    """
    verify_program(program)
    steps: list[Step] = []
    for given in passes:
        item = given
        if given.needs_tuning and resolve is not None:
            item = resolve(given, program, machine)
        try:
            outcome = item.run(program, machine)
            result = outcome.program.assuming(*item.assumptions)
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
