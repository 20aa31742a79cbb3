"""Matrices of products as two narrow ones (ASVD, SVD-LLM, LASER)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, ceiling, floor

from costgraph.errors import InputError
from costgraph.formula.least import least
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear
from costgraph.passes.factors.matrices import (
    Change,
    Product,
    is_wide,
    parse_on,
    rewrite_products,
    stores_more,
)
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ONE = Integer(1)
DEFAULT = "none"


@dataclass(frozen=True)
class LowRank(Pass):
    """Stores matrices of products as two factors of a smaller rank.

    ``W (m × n)`` becomes ``A (m × k)`` times ``B (k × n)``: two products with an intermediate
    of ``k`` per row. Formats come after it, so ``quantize`` narrows the factors; other
    matrices get other ranks by another ``low-rank`` in the same pipeline.
    """

    name: ClassVar[str] = "low-rank"
    title: ClassVar[str] = "store matrices of products as two factors of smaller rank"
    formula: ClassVar[str] = (
        "W (m×n) -> A (m×k)·B (k×n): FLOP 2·rows·k·(m+n), weights k·(m+n); "
        "ratio ρ: k = ⌊ρ·m·n/(m+n)⌋; fewer of both while k < m·n/(m+n)"
    )
    source: ClassVar[str] = (
        "ASVD, arXiv 2312.05821; SVD-LLM, arXiv 2403.07378; LASER, arXiv 2312.13558 (which "
        "multiplies its factors out again: as published it costs what the matrix costs)"
    )
    stage: ClassVar[Stage] = Stage.FACTORS
    inherited: ClassVar[bool] = False

    rank: Expr | str = option(
        "integer", DEFAULT, "columns of the first factor", minimum=1, choices=(DEFAULT,)
    )
    ratio: Expr | str = option(
        "number", DEFAULT, "parameters kept of each matrix (ASVD)", maximum=1, choices=(DEFAULT,)
    )
    fraction: Expr | str = option(
        "number", DEFAULT, "rank kept of the most that each matrix can have (LASER)", maximum=1,
        choices=(DEFAULT,),
    )  # fmt: skip
    align: Expr = option(
        "integer", ONE, "ranks are rounded up to multiples of it", minimum=1, symbolic=False
    )
    on: str = option(
        "word", "all",
        "which matrices: parts of names, A|B, each optionally NAME:3 or NAME:0-3 for layers; "
        "'all': every product's but lm_head and routers",
    )  # fmt: skip

    def __post_init__(self) -> None:
        parse_on(self.on)
        given = [n for n in ("rank", "ratio", "fraction") if getattr(self, n) != DEFAULT]
        if self.align != 1 and "rank" in given:
            raise InputError("align rounds what ratio and fraction give: a rank is what it says")
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} say the same thing: give one of them")

    def run(self, program: Program, system: System) -> Outcome:
        if self.rank == self.ratio == self.fraction == DEFAULT:
            miss = Miss(self.name, program.name, "no rank given: state a rank, ratio or fraction")
            return Outcome(program, (), (miss,))
        costs_more: dict[Miss, None] = {}
        most: list[Expr] = []

        def factored(product: Product) -> Change | str:
            made = self._factored(product)
            if isinstance(made, str):
                return made
            m, n = product.sizes
            k = made.weights[0].shape[-2]
            most.append(least(m, n))
            if why := stores_more(k, m, n):
                costs_more[Miss(self.name, product.node.name, why)] = None
            return made

        made, hits, misses = rewrite_products(program, self.name, parse_on(self.on), factored)
        if isinstance(self.rank, Expr) and self.rank.free_symbols and most:
            limit = Limit(self.rank, least(*most), "the rank of the narrowest matrix")
            made = replace(made, limits=(*made.limits, limit))
        return Outcome(made, hits, (*misses, *costs_more))

    def rank_of(self, m: Expr, n: Expr) -> Expr:
        """The columns of the first factor of a matrix ``m × n``."""
        if isinstance(self.rank, Expr):
            return self.rank
        # Of symbols the whole number below is left out: a formula stays a polynomial.
        wanted = m * n / (m + n) if isinstance(self.ratio, Expr) else least(m, n)
        share = self.ratio if isinstance(self.ratio, Expr) else self.fraction
        assert isinstance(share, Expr)
        wanted = share * wanted
        if not wanted.is_number:
            return wanted
        return self.align * ceiling(max(ONE, floor(wanted)) / self.align)

    def _factored(self, product: Product) -> Change | str:
        if product.node.origin.made_by == self.name:
            return "its matrix is a factor already"
        others = [f"{n!r} ({kind})" for n, kind in product.users if kind not in _PRODUCTS]
        if others:
            return f"{product.weight.name} is needed whole by {', '.join(others)}"
        if not is_wide(product.weight.dtype):
            return f"stored as {product.weight.dtype}: its factors would not be"
        m, n = product.sizes
        k = self.rank_of(m, n)
        if (k >= least(m, n)) == True:  # noqa: E712
            return f"a rank of {k} is no less than that of {m} × {n}"
        op, node = product.op, product.node
        first, second = product.matrix(".in", k, n), product.matrix(".out", m, k)
        rest = product.graph.operands(node)[2:]
        numbers = rest[:1] if product.of_experts else ()
        if isinstance(op, ExpertLinear):
            narrow: Linear = ExpertLinear(contract=op.contract, routing=op.routing)
        else:
            narrow = Linear(contract=op.contract)
        inside = product.made(f"{node.name}_in", narrow, (product.x, first, *numbers), self.name)
        outer = replace(op, contract=1)
        inputs = (inside.output, second.name, *(t.name for t in rest))
        last = replace(node, op=outer, inputs=inputs, origin=inside.origin)
        return Change((inside, last), (first, second))


#: Operations that take a product of factors as they take a matrix.
_PRODUCTS = frozenset({Linear.kind, ExpertLinear.kind})
