"""Low-rank adapters: beside the matrices, merged into them, many in one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import InputError, PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import DType
from costgraph.ir.program import Program
from costgraph.ir.tensor import Tensor
from costgraph.number import parse_number
from costgraph.ops.adapters import MIXES, AdapterIn, AdapterOut
from costgraph.ops.elementwise import Add
from costgraph.ops.experts import ExpertLinear, Routing
from costgraph.ops.linear import Linear
from costgraph.ops.quant import QuantExpertLinear, QuantizeTo
from costgraph.passes.factors.matrices import (
    Change,
    Product,
    is_wide,
    parse_on,
    rewrite_products,
    stores_more,
)
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import B

ONE, ZERO = Integer(1), Integer(0)
NONE = "none"
#: Queries and values, together with the keys where a model has them in one matrix.
USUAL = "q_proj|v_proj"
#: What an adapter can be merged into.
MERGES = (NONE, "weights", "zero-points")
#: Adapters whose popularity can be listed.
_MOST = 100_000


@dataclass(frozen=True)
class Lora(Pass):
    """Adds a low-rank product ``(x A) B`` to products with chosen matrices.

    Adapters stay as wide as the activations: the formats of the base are given by
    ``quantize``, whatever the order (QLoRA, LoftQ and LQ-LoRA are a narrow base with such
    adapters). Merged adapters are no operations: into weights where these are wide, into
    the zero points of groups where they are narrow (QA-LoRA).
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "low-rank adapters beside matrices, merged, or many in a batch"
    formula: ClassVar[str] = (
        "y = x W + (x A) B: 2·rows·r·(ic+oc) FLOP and r·(ic+oc) weights per matrix; of N equally "
        "likely adapters a batch of B reads N·(1 - (1 - 1/N)^B), and all N are in memory"
    )
    source: ClassVar[str] = (
        "LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314; QA-LoRA, arXiv 2309.14717; "
        "Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "adapters: the factor alpha/r is part of their second matrix",
    )
    stage: ClassVar[Stage] = Stage.ADAPTERS
    inherited: ClassVar[bool] = False

    rank: Expr = option("integer", Integer(16), "columns of the first matrix", minimum=1)
    on: str = option(
        "word", USUAL,
        "which matrices: parts of names, A|B, each optionally NAME:3 or NAME:0-3 for layers; "
        "'all': every product's but lm_head and routers",
    )  # fmt: skip
    merge: str = option(
        "word", NONE, "merged into the base: no operation is left of the adapter", choices=MERGES
    )
    adapters: Expr = option("integer", ONE, "adapters in memory that requests use", minimum=1)
    mix: str = option(
        "word", "drawn",
        "adapters of the requests of a batch: each draws its own, no two alike, all alike",
        choices=MIXES,
    )  # fmt: skip
    zipf: Expr = option(
        "number", ZERO, "drawn: the i-th adapter is 1/i^zipf as likely as the first", minimum=0,
        symbolic=False,
    )  # fmt: skip
    popularity: str = option(
        "text", "", "drawn: relative popularity of each adapter, 5|3|1|1, instead of zipf"
    )

    def __post_init__(self) -> None:
        parse_on(self.on)
        skewed = self.zipf != 0 or bool(self.popularity)
        if self.merge != NONE and (self.adapters != 1 or self.mix != "drawn" or skewed):
            raise InputError("one adapter can be merged, not several: leave merge out")
        if self.adapters == 1 and (self.mix != "drawn" or skewed):
            raise InputError("mix, zipf and popularity are of several adapters: state adapters")
        if skewed and self.mix != "drawn":
            raise InputError(f"zipf and popularity say how adapters are drawn, not {self.mix}")
        if self.zipf != 0 and self.popularity:
            raise InputError("zipf and popularity say the same thing: give one of them")
        if skewed and not isinstance(self.adapters, (int, Integer)):
            raise InputError("popularity and zipf need a number of adapters")
        if skewed and self.adapters > _MOST:
            raise InputError(f"popularity of more than {_MOST:,} adapters is too long")
        if self.popularity and len(self._shares()) != self.adapters:
            raise InputError(
                f"popularity lists {len(self._shares())} adapters, there are {self.adapters}"
            )

    def _shares(self) -> tuple[Expr, ...]:
        items = str(self.popularity).split("|") if self.popularity else []
        found = tuple(Rational(parse_number(item, "popularity")) for item in items)
        if any(share < 0 for share in found) or (found and not any(found)):
            raise InputError("popularity must be of numbers from 0, not all of them 0")
        return found

    def run(self, program: Program, system: System) -> Outcome:
        if self.merge != NONE:
            return self._merged(program)
        costs_more: dict[Miss, None] = {}

        def beside(product: Product) -> Change | str:
            made = self._beside(product)
            if not isinstance(made, str) and (why := stores_more(self.rank, *product.sizes)):
                costs_more[Miss(self.name, product.node.name, why)] = None
            return made

        made, hits, misses = rewrite_products(program, self.name, parse_on(self.on), beside)
        if hits and self.on == USUAL:  # which of the usual names a model has is its own matter
            misses = tuple(m for m in misses if m.node != program.name)
        if hits and self.adapters != 1:
            made = made.assuming(*self._said())
        return Outcome(made, hits, (*misses, *costs_more))

    # --- merged

    def _merged(self, program: Program) -> Outcome:
        """The program as it is, with the reason: or a refusal where merging is not defined.

        Raises:
            PipelineError: the base cannot take the adapter without being rounded again.
        """
        into: dict[str, None] = {}

        def check(product: Product) -> Change | str:
            format = product.weight.dtype
            wide = is_wide(format)
            takes = {
                "weights": wide,
                "zero-points": not wide and format.zero_bits != 0,
                NONE: True,
            }
            if not takes[self.merge]:
                why = "has no zero points to merge into"
                if self.merge == "weights":
                    why = "is narrow: what is merged into it would be rounded"
                ways = " or ".join(f"merge={how}" for how in takes if takes[how])
                raise PipelineError(
                    f"{self.name}: {product.weight.name}, stored as {format}, {why}; it takes "
                    f"{ways}"
                )
            into[product.weight.name] = None
            return _FOUND

        _, _, misses = rewrite_products(program, self.name, parse_on(self.on), check)
        said = tuple(m for m in misses if m.reason != _FOUND)
        if into:
            where = "the weights" if self.merge == "weights" else "the groups' zero points"
            shown = ", ".join(into)
            said = (
                Miss(self.name, program.name, f"merged into {where} of {shown}: it costs nothing"),
                *said,
            )
        return Outcome(program, (), said)

    # --- beside

    def _said(self) -> tuple[str, ...]:
        how = {
            "distinct": "no two requests of a batch use the same one, as long as there are enough",
            "identical": "all requests of a batch use the same one",
        }.get(self.mix)
        if how is None:
            how = "requests draw theirs independently, all equally likely"
            if self.zipf != 0:
                how = f"requests draw theirs independently, popularity falling as 1/i^{self.zipf}"
            elif self.popularity:
                how = "requests draw theirs independently, with the given popularity"
            how += "; the expected traffic stands inside the maxima: a lower bound of the mean time"
        return (
            f"adapters: {how}",
            "adapters: all are in memory; which request has which, 4 byte each, is not counted",
        )

    def _products(self, op: Linear, wide: DType | None) -> tuple[Linear, Linear]:
        """The two products of an adapter beside ``op``; ``wide``: what a narrow operand makes."""
        if isinstance(op, ExpertLinear):
            down = ExpertLinear(contract=op.contract, routing=op.routing)
            if wide is not None:
                down = QuantExpertLinear(contract=op.contract, routing=op.routing, result=wide)
            return down, ExpertLinear(split=op.split, routing=op.routing)
        zipf = None if self.zipf == 0 else self.zipf
        routing = Routing(popularity=self._shares(), zipf=zipf)
        return (
            AdapterIn(contract=op.contract, mix=self.mix, routing=routing),
            AdapterOut(split=op.split, mix=self.mix, routing=routing),
        )

    def _beside(self, product: Product) -> Change | str:
        others = [f"{n!r} ({kind})" for n, kind in product.users if kind not in _TAKES]
        if others:
            return f"{product.weight.name} is also what {', '.join(others)} computes with"
        node, graph, op = product.node, product.graph, product.op
        if node.origin.made_by == self.name:
            return "its matrix is an adapter's"
        result = node.outputs[0]
        x = _before_narrowing(product)
        if self.adapters != 1 and product.of_experts:
            return "several adapters of experts: no kernel groups by both"
        if self.adapters != 1 and x.shape[0] != B:
            return (
                f"rows of {x.name} are not one request each: whose adapter they take is not known"
            )
        oc, ic = product.sizes
        wide = result.dtype
        pair = (product.matrix(".lora_a", self.rank, ic), product.matrix(".lora_b", oc, self.rank))
        if not product.of_experts:
            pair = (_stack(pair[0], self.adapters), _stack(pair[1], self.adapters))
        first, second = (replace(w, dtype=wide) for w in pair)
        numbers = graph.operands(node)[2:3] if product.of_experts else ()
        down, up = self._products(op, None if x.dtype == wide else wide)
        inside = product.made(f"{node.name}_lora_a", down, (x, first, *numbers), self.name)
        added = product.made(
            f"{node.name}_lora_b", up, (inside.outputs[0], second, *numbers), self.name
        )
        # The sum takes the name that others know the result by.
        base = result.renamed(f"{result.name}_base")
        while base.name in product.taken:
            base = base.renamed(f"{base.name}_")
        product.taken.add(base.name)
        total = product.made(f"{node.name}_lora_add", Add(), (base, added.outputs[0]), self.name)
        return Change(
            (
                replace(node, outputs=(base,)),
                inside,
                added,
                replace(total, outputs=(total.outputs[0].renamed(result.name),)),
            ),
            (first, second),
        )


#: Why nothing is rewritten where an adapter is merged.
_FOUND = "merged"
#: Uses of a matrix beside which an adapter makes sense: as a table, the rows stay as they are.
_TAKES = frozenset({Linear.kind, ExpertLinear.kind, "embedding"})


def _stack(matrix: Tensor, count: Expr) -> Tensor:
    return replace(matrix, shape=(count, *matrix.shape))


def _before_narrowing(product: Product) -> Tensor:
    """The operand of a product, before it was narrowed for it, where that is in memory."""
    maker = product.graph.producer.get(product.x.name)
    if maker is not None and isinstance(maker.op, QuantizeTo):
        return product.graph.tensors[maker.inputs[0]]
    return product.x
