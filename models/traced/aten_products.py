"""ATen operators that are products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Mul

from costgraph.ir.dtypes import INT32
from costgraph.models.traced.aten_arguments import argument, optional
from costgraph.models.traced.einsum import einsum, is_projection
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call, Ref
from costgraph.models.traced.value import Value
from costgraph.ops.matmul import GroupedMatMul
from costgraph.ops.signal import Distances

_LETTERS = "abcdefghijklmnop"


def _linear(low: Lowering, call: Call) -> Value:
    x, w = low.value(call.args[0]), low.value(call.args[1])
    return low.linear(x, w, optional(low, call, 2, "bias"))


def _matmul(low: Lowering, call: Call) -> Value:
    return low.matmul(low.value(call.args[0]), low.value(call.args[1]))


def _int_matmul(low: Lowering, call: Call) -> Value:
    """8-bit operands, 32-bit sums."""
    return low.matmul(low.value(call.args[0]), low.value(call.args[1]), result=INT32)


def _added(low: Lowering, call: Call) -> Value:
    """``β·input + α·a·b``; factors of one cost nothing."""
    bias, a, b = (low.value(x) for x in call.args[:3])
    alpha, beta = argument(call, 4, "alpha", 1), argument(call, 3, "beta", 1)
    if alpha == beta == 1:
        return low.matmul(a, b, bias)
    product = low.apply("mul", low.matmul(a, b), low.value(alpha))
    return low.apply("add", product, low.apply("mul", bias, low.value(beta)))


def _einsum(low: Lowering, call: Call) -> Value:
    return einsum(low, call.args[0], [low.value(a) for a in call.args[1]])


def _outer(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    return einsum(low, "i,j->ij", [a, b])


def _tensordot(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    left, right = ([low.axis(v, i) for i in call.args[p]] for v, p in ((a, 2), (b, 3)))
    first = list(_LETTERS[: len(a.shape)])
    second = [c.upper() for c in _LETTERS[: len(b.shape)]]
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    kept = [c for i, c in enumerate(first) if i not in left]
    kept += [c for j, c in enumerate(second) if j not in right]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(kept)}"
    return einsum(low, equation, [a, b])


def _bilinear(low: Lowering, call: Call) -> Value:
    """``x · W_k · y`` for every ``k``: two products, and the bias."""
    x, y, w = (low.value(a) for a in call.args[:3])
    made = einsum(low, "...i,kij,...j->...k", [x, w, y])
    bias = optional(low, call, 3, "bias")
    return made if bias is None else low.apply("add", made, bias)


def _trilinear(low: Lowering, call: Call) -> Value:
    """``Σ a·b·c`` over ``sumdim``, each operand with axes of one put in."""
    values = [low.value(a) for a in call.args[:3]]
    rank = len(values[0].shape) + len(call.args[3])
    terms = []
    for given in call.args[3:6]:
        gone = {int(a) % rank for a in given}
        terms.append("".join(_LETTERS[a] for a in range(rank) if a not in gone))
    summed = {int(a) % rank for a in call.args[6]}
    out = "".join(_LETTERS[a] for a in range(rank) if a not in summed)
    return einsum(low, f"{','.join(terms)}->{out}", values)


def _distances(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    if float(argument(call, 2, "p", 2)) != 2:
        raise low.wrong("only Euclidean distances are supported")
    rank = max(len(a.shape), len(b.shape))
    if len(a.shape) != rank or len(b.shape) != rank:
        raise low.wrong("operands of different ranks")
    return low.emit(Distances(), a, b)


def _vectors(low: Lowering, call: Call) -> Value:
    """``dot``, ``mv`` and ``inner`` of vectors are matrix products, too."""
    return low.matmul(low.value(call.args[0]), low.value(call.args[1]))


def matrices(call: Call) -> list[str]:
    """Values that a call takes as the right-hand matrix of a product, ``(ic, oc)``."""
    place = {"matmul": 1, "mm": 1, "addmm": 2, "_int_mm": 1}.get(call.target)
    b: Any = None
    if call.target == "einsum" and len(call.args) > 1 and is_projection(str(call.args[0])):
        b = call.args[1][1]
    elif place is not None and len(call.args) > place:
        b = call.args[place]
    return [b.name] if isinstance(b, Ref) else []


def flat(low: Lowering, x: Value, axes: int) -> Value:
    """The last ``axes`` axes as one."""
    lead = x.shape[: len(x.shape) - axes]
    return low.reshape(x, (*lead, Mul(*x.shape[len(lead) :])))


def _grouped(low: Lowering, call: Call) -> Value:
    """Rows in groups, each times a matrix of its own; groups end where ``offs`` says."""
    a, b = low.value(call.args[0]), low.value(call.args[1])
    ends = argument(call, 2, "offs", None)
    if ends is None or len(a.shape) != 2 or len(b.shape) != 3:
        raise low.wrong("only rows in groups by matrices of their own are supported")
    return low.emit(GroupedMatMul(), a, b, low.value(ends))


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
        **dict.fromkeys(("addmm", "baddbmm"), _added),
        **dict.fromkeys(("outer", "ger"), _outer),
        **dict.fromkeys(("cdist", "_cdist_forward", "_euclidean_dist"), _distances),
        **dict.fromkeys(("dot", "vdot", "mv"), _vectors),
        "linear": _linear,
        "einsum": _einsum,
        "tensordot": _tensordot,
        "bilinear": _bilinear,
        "_trilinear": _trilinear,
        "_int_mm": _int_matmul,
        **dict.fromkeys(("_grouped_mm", "transformers.grouped_mm_fallback.default"), _grouped),
    }
)
