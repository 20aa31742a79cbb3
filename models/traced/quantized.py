"""Quantised operators: numbers that are stored narrow, and products of them.

A tensor between a quantiser and a dequantiser is what an engine multiplies: weights
are read as they are stored, with their scales, and two narrow operands are multiplied
in their own type, as ``quantize`` would have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import FP32, INT32, DType, dtype, with_groups
from costgraph.models.traced.formats import format_of
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given, spatial
from costgraph.models.traced.record import Call, Source
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Fill
from costgraph.ops.conv import Conv
from costgraph.ops.maps import Map
from costgraph.ops.quant import QuantizeTo
from costgraph.ops.tokens import Embedding

UINT8 = format_of("uint8", "")
ONE = Integer(1)


# --- what both dialects share


def stored_with(x: Value, scales: Expr, scale: DType, zero: DType | None) -> Value:
    """A narrow weight in its format with scales: one per ``numel/scales`` elements."""
    if not _is_stored(x):
        return x
    assert x.source is not None
    kind = x.dtype
    if scales != 1:
        zero_bits = Integer(0) if zero is None else zero.bits
        kind = with_groups(kind, Mul(*x.shape) / scales, scale.bits, zero_bits)
    return replace(x, dtype=kind, source=replace(x.source, role="weight"), known=None)


def _is_stored(x: Value) -> bool:
    """True for an array that stands in the file."""
    return x.source is not None and x.source.role != "input" and len(x.shape) > 0


def dequantized(
    low: Lowering, x: Value, scales: Expr, scale: DType, zero: DType | None, kind: DType
) -> Value:
    """Narrow numbers read as wide ones."""
    narrow = stored_with(x, scales, scale, zero)
    if narrow.is_weight and narrow.dtype.bits >= kind.bits:
        # As wide as what it stands for (32-bit biases): made once, when a model is loaded.
        return replace(narrow, dtype=kind)
    made = low.call.results[0].name
    if narrow.is_weight and len(x.shape) == 2 and low.uses(x) == 1 and low.only_matrix(made):
        # The right-hand matrix of products alone: its stored order is nobody's concern.
        turned = replace(narrow, shape=(x.shape[1], x.shape[0]))
        return Value(low.label(), x.shape, kind, flip=turned, axes=(1, 0))
    return low.read_from(narrow, kind)


def quantized(low: Lowering, x: Value, kind: DType) -> Value:
    """Numbers stored narrow: 3 FLOP each; a weight is stored so beforehand."""
    if x.is_weight and low.uses(x) == 1:
        return replace(x, dtype=kind)
    if x.stored is not None and x.stored.dtype == kind:
        return x.stored
    return low.emit(Map("quantize", kind), x)


# --- ONNX


def _size(value: Value) -> Expr:
    return Mul(*value.shape)


def _operand_type(low: Lowering, call: Call, place: int) -> DType | None:
    return low.value(call.args[place]).dtype if given(call, place) else None


def _quantize(low: Lowering, call: Call) -> Value:
    """``QuantizeLinear``: divide, round, add the zero point."""
    kind = _operand_type(low, call, 2)
    if kind is None:
        named = attribute(call, "output_dtype", 0)
        kind = format_of(str(named), "QuantizeLinear") if isinstance(named, str) else UINT8
    return quantized(low, low.value(call.args[0]), kind)


def _dequantize(low: Lowering, call: Call) -> Value:
    """``DequantizeLinear``: subtract the zero point, multiply by the scale."""
    x, scale = low.value(call.args[0]), low.value(call.args[1])
    zero = _operand_type(low, call, 2)
    return dequantized(low, x, _size(scale), scale.dtype, zero, scale.dtype)


def _dynamic(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``DynamicQuantizeLinear``: the numbers, their scale and their zero point."""
    x = low.value(call.args[0])
    made = low.emit(QuantizeTo(UINT8), x)
    scale, zero = (low.emit(Fill((), kind), name=low.label(n)) for kind, n in
                   ((FP32, "scale"), (UINT8, "zero_point")))  # fmt: skip
    return made, scale, zero


def _weight(low: Lowering, call: Call, place: int, scale: int | None, zero: int) -> Value:
    """A narrow weight operand with the scales that stand beside it."""
    x = low.value(call.args[place])
    if scale is None or not given(call, scale):
        return stored_with(x, ONE, FP32, None)
    scales = low.value(call.args[scale])
    return stored_with(x, _size(scales), scales.dtype, _operand_type(low, call, zero))


def _matmul_integer(low: Lowering, call: Call) -> Value:
    """``MatMulInteger``: 8-bit operands, 32-bit sums."""
    b = _weight(low, call, 1, None, 3)
    return low.matmul(low.value(call.args[0]), b, name=low.module(), result=INT32)


def _matmul_to_float(low: Lowering, call: Call) -> Value:
    """``MatMulIntegerToFloat``: the sums times both scales."""
    b = _weight(low, call, 1, 3, 5)
    scale = low.value(call.args[2]).dtype
    bias = low.value(call.args[6]) if given(call, 6) else None
    return low.matmul(low.value(call.args[0]), b, bias, name=low.module(), result=scale)


def _dynamic_matmul(low: Lowering, call: Call) -> Value:
    """``DynamicQuantizeMatMul``: the rows are quantised at run time."""
    x, b = low.value(call.args[0]), _weight(low, call, 1, 2, 3)
    bias = low.value(call.args[4]) if given(call, 4) else None
    rows = low.emit(QuantizeTo(UINT8), x, name=low.label("quantize"))
    return low.matmul(rows, b, bias, name=low.module(), result=x.dtype)


def _qlinear_matmul(low: Lowering, call: Call) -> Value:
    kind = low.value(call.args[7]).dtype
    b = _weight(low, call, 3, 4, 5)
    a = low.value(call.args[0])
    return low.matmul(a, b, name=low.module(), result=FP32, narrow=kind)


def _qgemm(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), _weight(low, call, 3, 4, 5)
    bias = stored_with(low.value(call.args[6]), ONE, FP32, None) if given(call, 6) else None
    kind = _operand_type(low, call, 8)
    if attribute(call, "transA", 0):
        a = low.transpose(a, (1, 0))
    if attribute(call, "transB", 0):
        return low.linear(a, b, bias, result=FP32, narrow=kind)
    return low.matmul(a, b, bias, name=low.module(), result=FP32, narrow=kind)


def _conv(low: Lowering, call: Call, operands: list[Value], result: DType) -> Conv:
    x, w = operands[:2]
    stride, dilation, pads = spatial(low, call, x.shape[2:], w.shape[2:])
    padding = tuple((a + b) / 2 for a, b in pads)
    groups = Integer(attribute(call, "group", 1))
    return Conv(stride, padding, dilation, groups, len(operands) == 3, result)


def _conv_integer(low: Lowering, call: Call) -> Value:
    operands = [low.value(call.args[0]), _weight(low, call, 1, None, 3)]
    return low.convolved(_conv(low, call, operands, INT32), operands)


def _qlinear_conv(low: Lowering, call: Call) -> Value:
    operands = [low.value(call.args[0]), _weight(low, call, 3, 4, 5)]
    if given(call, 8):
        operands.append(stored_with(low.value(call.args[8]), ONE, FP32, None))
    kind = low.value(call.args[7]).dtype
    return low.convolved(_conv(low, call, operands, FP32), operands, narrow=kind)


def _packed(low: Lowering, call: Call, bits: int) -> DType:
    """The format of weights that are packed in blocks, scales and zero points beside them."""
    block = Integer(call.attributes["block_size"])
    scale = low.value(call.args[2]).dtype
    zero = Integer(bits) if given(call, 3) else Integer(0)
    base = dtype(f"int{bits}")
    return with_groups(base, block, scale.bits, zero)


def _matmul_bits(low: Lowering, call: Call) -> Value:
    """``MatMulNBits``: packed weights ``(N, K)`` in blocks along ``K``."""
    x, w = low.value(call.args[0]), low.value(call.args[1])
    rows, columns = Integer(call.attributes["N"]), Integer(call.attributes["K"])
    kind = _packed(low, call, int(attribute(call, "bits", 4)))
    bias = low.value(call.args[5]) if given(call, 5) else None
    return low.linear(x, _unpacked(w, (rows, columns), kind), bias)


def _matmul_bnb(low: Lowering, call: Call) -> Value:
    """``MatMulBnb4``: weights ``(N, K)`` in 4-bit code-book formats."""
    x, w = low.value(call.args[0]), low.value(call.args[1])
    rows, columns = Integer(call.attributes["N"]), Integer(call.attributes["K"])
    base = dtype("nf4" if attribute(call, "quant_type", 1) == 1 else "fp4")
    scale = low.value(call.args[2]).dtype
    kind = with_groups(base, Integer(call.attributes["block_size"]), scale.bits)
    return low.linear(x, _unpacked(w, (rows, columns), kind))


def _unpacked(w: Value, shape: tuple[Expr, ...], kind: DType) -> Value:
    source = Source(w.name, shape, kind.name, "weight")
    return Value(w.name, shape, kind, source=source)


def _gather_packed(low: Lowering, call: Call) -> Value:
    """``GatherBlockQuantized``: rows of a table that is stored in blocks."""
    table, indices = low.value(call.args[0]), low.value(call.args[1])
    if attribute(call, "gather_axis", 0) != 0 or len(table.shape) != 2:
        raise low.wrong("rows of a matrix alone are supported")
    bits = int(attribute(call, "bits", 4))
    width = table.shape[1] * (Integer(8) / bits if table.dtype.bits == 8 and bits < 8 else 1)
    kind = _packed(low, call, bits)
    scale = low.value(call.args[2]).dtype
    rows = _unpacked(table, (table.shape[0], width), kind)
    return low.emit(Embedding(scale), indices, rows, name=low.module())


def _between(function: str, places: tuple[int, ...]) -> Rule:
    """An element-wise operator between dequantisers and a quantiser."""

    def rule(low: Lowering, call: Call) -> Value:
        wide = [dequantized(low, low.value(call.args[p]), ONE, FP32, None, FP32) for p in places]
        kind = low.value(call.args[places[0]]).dtype
        return low.emit(Map("quantize", kind), low.apply(function, *wide))

    return rule


ONNX_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
        "DynamicQuantizeLinear": _dynamic,
        "MatMulInteger": _matmul_integer,
        "MatMulIntegerToFloat": _matmul_to_float,
        "DynamicQuantizeMatMul": _dynamic_matmul,
        "QLinearMatMul": _qlinear_matmul,
        "QGemm": _qgemm,
        "ConvInteger": _conv_integer,
        "QLinearConv": _qlinear_conv,
        "QLinearAdd": _between("add", (0, 3)),
        "QLinearMul": _between("mul", (0, 3)),
        "QLinearSigmoid": _between("sigmoid", (0,)),
        "QLinearLeakyRelu": _between("leaky_relu", (0,)),
        "MatMulNBits": _matmul_bits,
        "MatMulBnb4": _matmul_bnb,
        "GatherBlockQuantized": _gather_packed,
    }
)


# --- programs of PyTorch's quantisation (the namespace quantized_decomposed)


def _torch_quantize(low: Lowering, call: Call) -> Value:
    kind = call.results[0].dtype
    if kind is None:
        raise low.wrong("the trace does not state its result")
    return quantized(low, low.value(call.args[0]), format_of(kind, call.name))


def _torch_dequantize(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), call.results[0].dtype
    if kind is None:
        raise low.wrong("the trace does not state its result")
    # Per tensor the scale is a number or a scalar; per channel and per group an array.
    scale = low.value(call.args[1])
    zero = low.value(call.args[2]).dtype if call.args[2] is not None else None
    many = "per_channel" in call.target
    wide = format_of(kind, call.name)
    return dequantized(low, x, _size(scale) if many else ONE, scale.dtype, zero, wide)


_KINDS = ("per_tensor", "per_channel", "per_channel_group", "per_token")
_SUFFIXES = ("default", "tensor", "tensor2")
TORCH_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        f"quantized_decomposed.{verb}_{kind}.{suffix}": rule
        for verb, rule in (("quantize", _torch_quantize), ("dequantize", _torch_dequantize))
        for kind in _KINDS
        for suffix in _SUFFIXES
    }
)
