"""The pass ``transformer-engine``: of each product the faster of FP8 and 16 bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ops.linear import Linear
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.sizes import Sizes

ONE = Integer(1)
BEST, ALL = "best", "all"
#: Rows and columns of an FP8 product are multiples of this.
ALIGNED = 16


@dataclass(frozen=True)
class TransformerEngine(Pass):
    """FP8 or 16 bit for each kind of product in the layers, whichever takes less time.

    What FP8 costs beside the product is counted: the largest absolute value, scaling and
    rounding of every activation, in a kernel that reads and writes it (current scaling).
    """

    name: ClassVar[str] = "transformer-engine"
    title: ClassVar[str] = "choose FP8 or 16 bit for each product, with the scales it takes"
    formula: ClassVar[str] = (
        "each product: min over legal formats of Max(FLOP/F, bytes/BW) + scales"
    )
    source: ClassVar[str] = (
        "NVIDIA, Transformer Engine documentation (FP8 recipes; operands in multiples of 16); "
        "Micikevicius et al., arXiv 2209.05433"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "transformer-engine: weights are stored as their products read them; embedding and "
        "output layer stay in 16 bit",
    )
    stage: ClassVar[Stage] = Stage.RECIPES

    products: str = option(
        "word", BEST, "what runs in FP8: names of products, A|B, 'all' that may, or the 'best' of "
        "these",
    )  # fmt: skip
    at_batch: Expr = option(
        "integer", ONE, "batch at which 'best' is decided", minimum=1, symbolic=False
    )
    at_prompt: Expr = option(
        "integer", Integer(512), "prompt at which 'best' is decided", minimum=1, symbolic=False
    )
    at_tokens: Expr = option(
        "integer",
        Integer(128),
        "tokens generated at which 'best' is decided",
        minimum=1,
        symbolic=False,
    )

    #: How 'best' was decided; no option.
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        """True while it is open which products run in FP8."""
        return self.products == BEST

    def search(self, program: Program, system: System) -> Search:
        """Tries each kind of product by itself, by the time of a request."""
        names = [n for n, legal in _legal(program).items() if legal]
        plain = (yield replace(self, products="none")).formula("latency")
        sizes = Sizes.of(self, [plain], instead="or say products=all")
        seconds = sizes.evaluate(plain)
        chosen = []
        for name in names:
            if sizes.evaluate((yield replace(self, products=name)).formula("latency")) < seconds:
                chosen.append(name)
        note = f"{self.name}: decided at {sizes}: FP8 for {', '.join(chosen) or 'nothing'}"
        return replace(self, products="|".join(chosen) or "none", note=note)

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError(
                f"{self.name}: 'best' needs a machine to be decided on; use compile"
            )
        device, legal = system.device, _legal(program)
        misses = [
            Miss(
                self.name, name, f"not in 16 bit before, or its sizes are no multiples of {ALIGNED}"
            )
            for name, may in legal.items()
            if not may
        ]
        if (Engine.TENSOR, "fp8") not in device.peaks:
            reason = f"{device.name} multiplies no FP8: everything stays in 16 bit"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        may = [name for name, fits in legal.items() if fits]
        wanted = (
            may if self.products == ALL else [n for n in self.products.split("|") if n != "none"]
        )
        for name in wanted:
            if name not in may:
                known = ", ".join(may) or "none"
                raise PipelineError(f"{self.name}: no product {name!r} may run in FP8; of {known}")
        if not wanted:
            reason = self.note or "no product runs in FP8"
            return Outcome(program, (), (*misses, Miss(self.name, program.name, reason)))
        kept = [name for name in legal if name not in wanted]
        keep = "|".join(["lm_head", "embed", "positions", "router", *kept])
        narrow = Quantize(weights="fp8", activations="fp8", keep=keep)
        outcome = narrow.run(program, system)
        made = outcome.program.assuming(*narrow.assumptions, *filter(None, (self.note,)))
        return Outcome(made, outcome.hits, (*misses, *outcome.misses))


def _legal(program: Program) -> dict[str, bool]:
    """Products with weights in layers, by name, and whether FP8 takes them: in 16 bit, by size."""
    found: dict[str, bool] = {}
    for phase in program.phases:
        for node, graph in _products(phase.graph):
            weight = graph.operands(node)[1]
            fits = all(not s.is_Integer or s % ALIGNED == 0 for s in weight.shape[-2:])
            fits = fits and weight.dtype.bits == 16
            found[node.name] = found.get(node.name, True) and fits
    return found


def _products(graph: Graph) -> Iterator[tuple[Node, Graph]]:
    for inner in graph.walk():
        if inner is not graph:
            yield from ((n, inner) for n in inner.nodes if isinstance(n.op, Linear))
