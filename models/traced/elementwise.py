"""Element-wise work, constants folded and masks followed; values that come from places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import DType
from costgraph.ir.op import same
from costgraph.models.traced.attend import pattern_of
from costgraph.models.traced.formats import BOOL
from costgraph.models.traced.known import computed
from costgraph.models.traced.laws import (
    Ramp,
    Shown,
    cast,
    constant_of,
    law_of,
    mapped,
    masking,
    triangle,
)
from costgraph.models.traced.seen import Seen, seen
from costgraph.models.traced.value import Value
from costgraph.models.traced.viewing import Viewing
from costgraph.ops import Activation, Add, Multiply, Scale
from costgraph.ops.arrays import Cast, Fill, Triangle
from costgraph.ops.bias import ScoreBias
from costgraph.ops.maps import FUNCTIONS, Cumulate, Map

ONE = Integer(1)
ZERO = Integer(0)
#: Element-wise functions with an operation of their own.
_ACTIVATIONS = frozenset({"relu", "silu", "gelu", "gelu_tanh", "quick_gelu", "sigmoid", "tanh"})
#: Powers that take no logarithm.
_POWERS = {2.0: "square", 3.0: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "isnan"})


class Arithmetic(Viewing):
    """Reading a graph: functions of values, element by element."""

    def filled(self, shape: Sequence[Expr], dtype: DType, number: Any = None) -> Value:
        """A tensor of one number throughout; of any numbers where it is None."""
        exact = Integer(number) if isinstance(number, int) else number
        if number is not None and Mul(*shape) == 1:
            return self.constant((exact,), tuple(shape), dtype)
        made = self.emit(Fill(tuple(shape), dtype))
        return made if number is None else replace(made, law=Ramp(exact))

    def ramp(self, length: Expr, start: Any, step: Any, dtype: DType) -> Value:
        """``start``, ``start + step``, … along one axis."""
        made = self.emit(Fill((length,), dtype))
        return replace(made, law=Ramp(Integer(0) + start, ((-1, Integer(0) + step),)))

    def triangle(self, x: Value, upper: bool, diagonal: Expr) -> Value:
        """The lower or upper triangle of the last two axes."""
        made = self.emit(Triangle(upper, diagonal), x)
        return replace(made, law=triangle(x, upper, diagonal))

    def cumulate(self, x: Value, axis: int, plain_sum: bool) -> Value:
        """A running sum or product along an axis."""
        made = self.emit(Cumulate(), x)
        constant = constant_of(x) if plain_sum else None
        if constant is None:
            return made
        back = self.axis(x, axis) - len(x.shape)
        steps = ((back, Integer(0) + constant),) if constant != 0 else ()
        return replace(made, law=Ramp(constant, steps))

    # --- functions

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` in another format."""
        if x.dtype == dtype:
            return x
        made = self._cast(x, dtype)
        return made if x.law is None else replace(made, law=cast(x.law, dtype == BOOL))

    def _cast(self, x: Value, dtype: DType) -> Value:
        if x.known is not None:
            if dtype.compute.startswith("int") and any(isinstance(n, float) for n in x.known):
                whole = tuple(Integer(int(n)) if isinstance(n, float) else n for n in x.known)
                return replace(self.constant(whole, x.shape), dtype=dtype)
            return replace(x, dtype=dtype, name=self._fresh("constant"), source=None)
        return self.emit(Cast(dtype), x)

    def apply(self, function: str, *operands: Value, result: DType | None = None) -> Value:
        """``function`` element by element, constants folded."""
        folded = self._folded(function, operands, result)
        if folded is not None:
            return folded
        law = mapped(function, operands)
        if function == "add" and result in (None, operands[0].dtype, operands[1].dtype):
            masked = self._biased(operands)
            if masked is not None:
                return replace(masked, law=law)
        made = self._applied(function, operands, result)
        return made if law is None else replace(made, law=law)

    def _applied(self, function: str, operands: Sequence[Value], result: DType | None) -> Value:
        if any(v.dtype.name.startswith("complex") for v in operands):
            return self._complex(function, operands, result)
        numbers = [v.number if len(v.shape) <= 1 else None for v in operands]
        if len(operands) == 2 and (numbers[0] is None) != (numbers[1] is None):
            return self._with_number(function, operands, numbers, result)
        first = operands[0]
        kind = result or (BOOL if function in _COMPARISONS else first.dtype)
        if function == "where":
            kind = result or operands[1].dtype
        if len(operands) == 1 and function in _ACTIVATIONS and kind == first.dtype:
            return self.emit(Activation(function), first)
        if len(operands) == 2 and function in ("add", "mul"):
            a, b = operands
            if len(b.shape) > len(a.shape) or (
                len(a.shape) == len(b.shape) and b.source is None and a.source is not None
            ):
                a, b = b, a
            tail = a.shape[len(a.shape) - len(b.shape) :]
            fits = all(same(x, y) for x, y in zip(tail, b.shape, strict=True))
            if fits and b.shape and a.dtype == kind == b.dtype:
                return self.emit(Add() if function == "add" else Multiply(), a, b)
        if function not in FUNCTIONS:
            raise self.wrong(f"the function {function!r} has no cost")
        return self.emit(Map(function, kind if kind != first.dtype else None), *operands)

    def _complex(self, function: str, operands: Sequence[Value], result: DType | None) -> Value:
        parts = {"mul": "complex_mul", "add": "complex_add", "sub": "complex_add",
                 "neg": "complex_add", "abs": "complex_abs"}.get(function)  # fmt: skip
        if parts is None:
            raise self.wrong(f"{function!r} of complex numbers has no cost")
        tensors = [v for v in operands if v.number is None]
        if len(tensors) < len(operands):
            parts = "complex_add"  # by a number: two operations
        kind = result if result is not None and result != tensors[0].dtype else None
        return self.emit(Map(parts, kind), *tensors)

    def _folded(
        self, function: str, operands: Sequence[Value], result: DType | None
    ) -> Value | None:
        known = [v.known for v in operands if v.known is not None]
        if len(known) != len(operands):
            return None
        longest = max(operands, key=lambda v: (len(v.known or ()), len(v.shape)))
        made = computed(function, known)
        if made is None or len(made) != len(longest.known or ()):
            return None
        kind = result or (BOOL if function in _COMPARISONS else operands[-1].dtype)
        return self.constant(made, longest.shape, kind)

    def _with_number(
        self,
        function: str,
        operands: Sequence[Value],
        numbers: Sequence[Any],
        result: DType | None,
    ) -> Value:
        """``x ∘ c`` or ``c ∘ x``."""
        behind = numbers[1] is not None
        x, c = (operands[0], numbers[1]) if behind else (operands[1], numbers[0])
        # A vector of one number may still add an axis.
        rank = max(len(v.shape) for v in operands)
        if rank > len(x.shape):
            x = self.reshape(x, (ONE,) * (rank - len(x.shape)) + x.shape)
        kind = result if result is not None and result != x.dtype else None
        if function in _COMPARISONS:
            return self.emit(Map("compare_constant", BOOL), x)
        if function in ("mul", "div") and (function == "mul" or behind):
            if c == 1 and kind is None:
                return x
            return self.emit(Scale(), x) if kind is None else self.emit(Map("scale", kind), x)
        if function == "div":
            return self.emit(Map("reciprocal" if c == 1 else "constant_div", kind), x)
        if function in ("add", "sub"):
            if c == 0 and kind is None and behind:
                return x
            return self.emit(Map("add_constant", kind), x)
        if function == "pow" and behind:
            if c == 1 and kind is None:
                return x
            exponent = float(c) if isinstance(c, (float, int, Integer)) else None
            name = "pow_constant" if exponent is None else _POWERS.get(exponent, "pow_constant")
            return self.emit(Map(name, kind), x)
        if function in ("max", "min", "mod", "floor_div"):
            return self.emit(Map("compare_constant", result or x.dtype), x)
        return self.emit(Map(function, kind), *operands)

    # --- choices and masks

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, else ``b``."""
        folded = self._folded("where", (condition, a, b), None)
        if folded is not None:
            return folded
        law = mapped("where", (condition, a, b))
        hiding = None if law is not None else masking((condition, a, b))
        if hiding is not None:
            masked = self.masked(*hiding, condition)
            if masked is not None:
                return masked
        made = self._where(condition, a, b)
        return made if law is None else replace(made, law=law)

    def _where(self, condition: Value, a: Value, b: Value) -> Value:
        kind = a.dtype if a.number is None else b.dtype
        tensors = [v for v in (condition, a, b) if v.number is None or len(v.shape) > 1]
        return self.emit(Map("where", kind if kind != tensors[0].dtype else None), *tensors)

    def _biased(self, operands: Sequence[Value]) -> Value | None:
        """Scores with a mask of places added to them; None where it is no such sum."""
        for x, mask in (operands, operands[::-1]):
            law = law_of(mask)
            if isinstance(law, Shown) and law.form == "addend" and law.within:
                return None if isinstance(law_of(x), Shown) else self.masked(x, law, mask)
        return None

    def masked(self, x: Value, law: Shown, mask: Value) -> Value | None:
        """``x (…, q, T)`` with what ``mask`` does not show hidden; None if it does not fit."""
        if len(x.shape) < 2 or not x.dtype.is_float or not _covers(x.shape, mask.shape):
            return None
        left, data = seen(law, *x.shape[-2:]), law.rest
        if left is None:
            left, data = Seen(), (mask,)
        if left == Seen() and not data:
            return x
        return self.emit(ScoreBias(pattern_of(self.mask, left)), x, *data)


def _covers(shape: Sequence[Expr], other: Sequence[Expr]) -> bool:
    """True if ``other`` repeats to ``shape``."""
    pairs = zip(reversed(shape), reversed(other), strict=False)
    return len(other) <= len(shape) and all(b == 1 or same(a, b) for a, b in pairs)
