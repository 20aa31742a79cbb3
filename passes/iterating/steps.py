"""Denoising programs: their phase, and how many steps they take."""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr

from costgraph.errors import PipelineError
from costgraph.ir.program import Phase, Program
from costgraph.symbols import K


def denoising_phase(program: Program, name: str) -> Phase:
    """The phase in which a language model fills in its whole answer, step by step.

    Raises:
        PipelineError: the program does not denoise text, or does so in parts already.
    """
    if not program.emits or program.decoding:
        raise PipelineError(f"{name}: {program.name} does not write its answer by denoising")
    if len(program.phases) != 1:
        raise PipelineError(f"{name}: the steps of {program.name} are in parts already")
    return program.phases[0]


def in_steps(program: Program, steps: Expr, name: str) -> Program:
    """The program with ``steps`` for its ``K`` denoising steps.

    Raises:
        PipelineError: it has no ``K``, or it is decided already.
    """
    if not program.emits or not any(K in p.steps.free_symbols for p in program.phases):
        raise PipelineError(
            f"{name}: {program.name} has no number K of denoising steps of text to decide"
        )
    values = {K: steps}
    phases = tuple(
        replace(p, weight=p.weight.xreplace(values), tokens=p.tokens.xreplace(values))
        for p in program.phases
    )
    limits = tuple(x.mapped(lambda e: e.xreplace(values)) for x in program.limits)
    return replace(program, phases=phases, limits=limits)
