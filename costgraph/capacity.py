"""How large a batch fits."""

from __future__ import annotations

from sympy import Expr, Integer, Max, Min, floor

from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.sums import affine
from costgraph.symbols import B


def largest_batch(memory: Formula, capacity: Expr | int) -> Expr:
    """The largest whole ``B`` whose memory fits ``capacity`` byte, in closed form.

    Every candidate of the peak is ``c + k·B``, so the answer is
    ``max(0, ⌊min (M − c) / k⌋)`` over the candidates, in the symbols that are left.

    Raises:
        InputError: the memory is not affine in the batch.
    """
    if memory.unit != "byte" or memory.numerator is not None:
        raise InputError(f"{memory.name} is not an amount of memory")
    bounds: list[Expr] = []
    for term in memory.terms:
        if len(memory.terms) != 1 or term.count != 1 or term.span is not None:
            raise InputError(f"{memory.name} is not a single maximum")
        for arm in term.arms:
            line = affine(arm.expr, B)
            if line is None:
                raise InputError(f"{memory.name} is not affine in the batch")
            fixed, per_sequence = line
            if per_sequence != 0:
                bounds.append((capacity - fixed) / per_sequence)
    if not bounds:
        raise InputError(f"{memory.name} does not depend on the batch")
    return Max(Integer(0), floor(Min(*bounds, evaluate=False)), evaluate=False)
