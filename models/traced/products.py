"""Products of matrices and convolutions, by weights as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sympy import Expr, Integer

from costgraph.ir.dtypes import DType
from costgraph.ir.op import Op, same
from costgraph.models.traced.elementwise import Arithmetic
from costgraph.models.traced.formats import FP64
from costgraph.models.traced.value import Value
from costgraph.ops import Linear
from costgraph.ops.conv import Conv
from costgraph.ops.matmul import MatMul
from costgraph.ops.quant import NarrowResult, QuantLinear

ONE = Integer(1)
ZERO = Integer(0)


class Products(Arithmetic):
    """Reading a graph: products of values."""

    def matmul(
        self,
        a: Value,
        b: Value,
        bias: Value | None = None,
        name: str = "",
        result: DType | None = None,
        narrow: DType | None = None,
    ) -> Value:
        """``a · b (+ bias)`` over the last two axes; by a weight matrix it is a :class:`Linear`.

        Narrow operands are multiplied as they are stored. ``result`` is the format of
        the sums where it is not that of ``a``; ``narrow`` the one they are stored in.
        """
        self.countable(a, b)
        if len(a.shape) == 1:
            row = self.matmul(self.reshape(a, (ONE, *a.shape)), b, bias, name, result, narrow)
            if len(b.shape) == 1:
                return self.reshape(row, ())
            return self.reshape(row, (*row.shape[:-2], row.shape[-1]))
        if len(b.shape) == 1:
            tall = self.reshape(b, (*b.shape, ONE))
            column = self.matmul(a, tall, bias, name, result, narrow)
            return self.reshape(column, column.shape[:-1])
        weight = self._as_weight(b)
        if weight is not None:
            return self._linear(a, weight, b.shape[1], bias, name, result, narrow)
        if a.stored is not None and b.stored is not None:
            a, b, result = a.stored, b.stored, result or a.dtype
        op: Op = MatMul(result)
        if narrow is not None:
            op = NarrowResult(op, narrow)
        made = self.emit(op, a, b, name=name or self.label())
        return made if bias is None else self.apply("add", made, bias)

    def linear(
        self,
        x: Value,
        w: Value,
        bias: Value | None = None,
        result: DType | None = None,
        narrow: DType | None = None,
    ) -> Value:
        """``x Wᵀ (+ b)`` with ``W (oc, ic)``."""
        self.countable(x, w)
        if w.narrow.is_weight:
            name, weight = self.module(), self.tensor(w.narrow)
            return self._linear(x, weight, w.shape[0], bias, name, result, narrow)
        turned = self.transpose(w, (1, 0))
        return self.matmul(x, turned, bias, result=result, narrow=narrow)

    def _linear(
        self,
        x: Value,
        weight: str,
        oc: Expr,
        bias: Value | None,
        name: str,
        result: DType | None,
        narrow: DType | None,
    ) -> Value:
        simple = bias is not None and len(bias.shape) == 1 and same(bias.shape[0], oc)
        rows = x
        if x.stored is not None and not self._builder.tensor(weight).dtype.is_float:
            rows, result = x.stored, result or x.dtype
        operands = [self.tensor(rows), weight]
        if simple and bias is not None:
            operands.append(self.tensor(bias.narrow))
        op: Op = Linear(simple) if result is None else QuantLinear(simple, result=result)
        if narrow is not None:
            op = NarrowResult(op, narrow)
        made = self._builder.add(name or self.module(), op, *operands)
        self._made.add(made)
        tensor = self._builder.tensor(made)
        value = Value(made, tensor.shape, tensor.dtype)
        return value if simple or bias is None else self.apply("add", value, bias)

    def convolved(self, op: Conv, operands: Sequence[Value], narrow: DType | None = None) -> Value:
        """A convolution of ``x``, weight and bias; narrow operands as they are stored."""
        self.countable(*operands)
        x, *rest = operands
        if len(x.shape) > 1 and len(rest[0].shape) > 1:
            self.decide(x.shape[1], rest[0].shape[1] * op.groups)
        rest = [v.narrow for v in rest]
        if x.stored is not None and not rest[0].dtype.is_float:
            op, x = replace(op, result=op.result or x.dtype), x.stored
        whole: Op = op if narrow is None else NarrowResult(op, narrow)
        return self.emit(whole, x, *rest, name=self.module())

    def _as_weight(self, b: Value) -> str | None:
        """The weight ``(oc, ic)`` whose transpose ``b`` is, if it is one."""
        if len(b.shape) != 2:
            return None
        if b.flip is not None and b.flip.narrow.is_weight:
            return self.tensor(b.flip.narrow)
        if not b.is_weight or not self.only_matrix(b.name):
            return None
        # Used as a right-hand matrix only: its stored order is nobody's concern.
        self._made.add(b.name)
        return self._declare(b, (b.shape[1], b.shape[0]))

    def countable(self, *operands: Value) -> None:
        """Refuses products in formats that no engine is described for."""
        if any(v.dtype == FP64 for v in operands):
            raise self.wrong("products of float64 have no rule: no machine states a peak for them")
