"""Operations at the edges of a model: look-ups, views, and choosing a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Add as Sum
from sympy import Expr

from costgraph.ir.cost import ONE, Access, Work
from costgraph.ir.dtypes import INT64, DType
from costgraph.ir.op import Op, Spec, Tensors, expansion, read, require, require_same, write


@dataclass(frozen=True)
class Embedding(Op):
    """Gathers rows of ``table (V, d)`` by ``ids (…)``: result ``(…, d)``.

    No arithmetic but the conversion of rows stored narrower than the result. Only the
    gathered rows are read: one per index (an upper bound where indices repeat).
    """

    kind: ClassVar[str] = "embedding"
    converted: ClassVar[tuple[int, ...]] = (1,)
    #: Format of the result where it is not the table's (tables stored narrower).
    result: DType | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes indices and a table")
        ids, table = inputs
        require(len(table.shape) == 2, self, "{} is not a table", table)
        return (Spec((*ids.shape, table.shape[1]), self.result or table.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return expansion(inputs[1], outputs[0], outputs[0].numel)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        ids, table = inputs
        gathered = ids.numel * table.shape[1] * table.dtype.bytes_per_element
        gathered += table.dtype.beside(table.shape)
        return (read(ids), read(table, gathered), write(outputs[0]))


@dataclass(frozen=True)
class Split(Op):
    """Views of the parts of the last dimension, each with its own trailing shape.

    ``parts`` are trailing shapes whose sizes add up to the last dimension of
    the operand. Free: the results share the operand's memory.
    """

    kind: ClassVar[str] = "split"
    is_view: ClassVar[bool] = True
    parts: tuple[tuple[Expr, ...], ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        specs = tuple(Spec((*x.shape[:-1], *part), x.dtype) for part in self.parts)
        sizes = Sum(*(s.named("").numel for s in specs))
        require_same(self, sizes, x.numel, "parts and size of {}", x)
        return specs

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Concat(Op):
    """Operands side by side in the last dimension; no arithmetic, but the copy moves."""

    kind: ClassVar[str] = "concat"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2, self, "takes two operands or more")
        first = inputs[0]
        for other in inputs[1:]:
            require(len(other.shape) == len(first.shape), self, "{} beside {}", first, other)
            for a, b in zip(first.shape[:-1], other.shape[:-1], strict=True):
                require_same(self, a, b, "shapes of {} and {}", first, other)
        width = Sum(*(t.shape[-1] for t in inputs))
        return (Spec((*first.shape[:-1], width), first.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class SelectLast(Op):
    """A view of the last ``count`` positions of ``x (B, q, d)``: those that need logits."""

    kind: ClassVar[str] = "select"
    is_view: ClassVar[bool] = True
    count: Expr = ONE

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 3, self, "takes one (B, q, d) operand")
        b, _, d = inputs[0].shape
        return (Spec((b, self.count, d), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Sample(Op):
    """Chooses a token per row of logits ``(B, n, V)``: result ``(B, n)``.

    Named, and free by convention: its cost depends on the sampler and is small
    beside the projection that made the logits.
    """

    kind: ClassVar[str] = "sample"
    is_view: ClassVar[bool] = True

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes logits")
        return (Spec(inputs[0].shape[:-1], INT64),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}
