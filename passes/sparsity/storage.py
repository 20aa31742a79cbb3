"""Storage of matrices with zeros, and which units multiply it as it is."""

from __future__ import annotations

from sympy import Expr, Integer, Rational

from costgraph.errors import HardwareError
from costgraph.hardware.machine import WIDENING, Engine, Machine
from costgraph.ir.dtypes import Sparsity

ZERO, ONE, HALF = Integer(0), Integer(1), Rational(1, 2)

#: Storage by name, with the bits that locate an element where it is stored.
STORAGE: dict[str, Expr] = {
    # Values, their columns, and where each row starts: cuSPARSE, 32-bit indices.
    "csr": Integer(32),
    # Values and their places in a tile of at most 2^16 elements (Flash-LLM, arXiv 2309.10285).
    "tiled-csl": Integer(16),
    # Values, and one bit per element.
    "bitmap": ZERO,
    # Two of each four, with a place of two bits each (NVIDIA, arXiv 2104.08378).
    "2:4": Integer(2),
}
#: Bits of the number that says where a row of CSR starts.
POINTER = Integer(32)


def stored(
    layout: str,
    sparsity: Expr,
    index_bits: Expr,
    shape: tuple[Expr, ...],
    rates: tuple[tuple[str, Expr], ...] = (),
    skips: bool = False,
) -> Sparsity:
    """How a matrix ``(…, oc, ic)`` of which a share ``sparsity`` are zeros is stored."""
    flags = ZERO
    if layout == "bitmap":
        flags = ONE
    elif layout == "csr":  # oc + 1 pointers for oc·ic elements
        flags = POINTER * (shape[-2] + 1) / (shape[-2] * shape[-1])
    return Sparsity(layout, 1 - sparsity, index_bits, flags, rates, skips)


def sparse_rates(machine: Machine) -> tuple[tuple[str, Expr], ...]:
    """Stated compute types whose work runs in one that takes 2:4 matrices, with the rate."""
    found = []
    for dtype in WIDENING:
        try:
            engine, executing = machine.resolve(Engine.TENSOR, dtype)
        except HardwareError:
            continue
        if engine is Engine.TENSOR and executing in machine.sparsity:
            found.append((dtype, machine.sparsity[executing]))
    return tuple(found)
