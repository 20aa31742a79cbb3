"""What questions take: options of reading, values of symbols, one device or several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sympy import Expr, Symbol

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.formula import exact
from costgraph.formula.limits import takes
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.number import for_zero
from costgraph.symbols import SIZES

if TYPE_CHECKING:
    from costgraph.compiling.compilation import Hardware
    from costgraph.compiling.compiled import Compiled
    from costgraph.rewriting.pipeline import Pass

    #: A pipeline: its text, a pass, or a list of those.
    Passes = str | Pass | Sequence[str | Pass]


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a model is read, and what is left: values of symbols.

    Everything that takes a model and values takes both as keywords, and takes them apart
    here.
    """
    from costgraph.models import OPTIONS

    reading = {k: v for k, v in options.items() if k in OPTIONS}
    return reading, {k: v for k, v in options.items() if k not in reading}


def devices_of(hardware: Hardware | Sequence[Hardware]) -> list[Hardware]:
    """One device or several, as a list."""
    if isinstance(hardware, (str, os.PathLike, Machine, System)):
        return [hardware]
    return list(hardware)


def passes_of(passes: Passes) -> tuple[Pass, ...]:
    """A pipeline as passes; without one the passes are not even loaded.

    Raises:
        InputError: it is no text, no pass and no list of those.
        PipelineError: a text does not parse, or names something unknown.
    """
    from costgraph.rewriting.pipeline import Pass, parse

    if isinstance(passes, Pass):
        return (passes,)
    if not isinstance(passes, (str, Sequence)):
        raise InputError(
            f"passes are a text ('fuse,quantize{{weights=int4}}'), passes, or a list of those, "
            f"not {clip(passes)}"
        )
    if not isinstance(passes, str):
        return tuple(found for item in passes for found in passes_of(item))
    if not passes.strip():
        return ()
    from costgraph.passes import PASSES

    return parse(passes, PASSES)


def pipelines_of(pipelines: Passes | Sequence[Passes]) -> list[str | tuple[Pass, ...]]:
    """One pipeline, or a list of several, each as its text or as passes.

    Raises:
        InputError: one is no pipeline, see :func:`passes_of`.
    """
    from costgraph.rewriting.pipeline import Pass

    one = isinstance(pipelines, (str, Pass)) or not isinstance(pipelines, Sequence)
    every: list[Any] = [pipelines] if one else list(pipelines)  # type: ignore[arg-type]
    return [item if isinstance(item, str) else passes_of(item) for item in every]


def fixing(compiled: Compiled, values: Mapping[str, Any]) -> Program:
    """The program with numbers for symbols of its own.

    Raises:
        InputError: there is no such symbol, or a value is no positive number.
    """
    from costgraph.models import OPTIONS

    program = compiled.program
    known = {s.name: s for f in (compiled.latency, compiled.memory) for s in f.symbols}
    fixed: dict[Symbol, Expr] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"{program.name} has no option or symbol {clip(name)}"
                f"{nearest(name, {*known, *OPTIONS})}"
            )
        fixed[known[name]] = exact(value)
        if not takes(compiled.setting, name, fixed[known[name]]):
            said = for_zero(name, value, SIZES)
            raise InputError(f"{name} must be positive, not {clip(value)}{said}")
    return program.fixing(fixed)
