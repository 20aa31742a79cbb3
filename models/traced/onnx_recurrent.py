"""ONNX's recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import clip
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given
from costgraph.models.traced.quantized import UINT8, stored_with
from costgraph.models.traced.record import Call
from costgraph.models.traced.recurrent import GATES, Cell, layer, piece
from costgraph.models.traced.value import Value

#: Activations of a cell where the file states none.
_USUAL = {
    "lstm": ("Sigmoid", "Tanh", "Tanh"),
    "gru": ("Sigmoid", "Tanh"),
    "rnn": ("Tanh",),
}
#: Activations by ONNX's names in small letters.
_FUNCTIONS = {
    "sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "hardsigmoid": "hard_sigmoid",
    "softsign": "softsign", "softplus": "softplus", "elu": "elu", "leakyrelu": "leaky_relu",
}  # fmt: skip
_KINDS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "DynamicQuantizeLSTM": "lstm"}


def _recurrent(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``X (T, B, I)``, ``W (D, G·H, I)``, ``R (D, G·H, H)``, ``B (D, 2·G·H)``.

    Lengths per sequence do not count: all steps run, and the program says so.
    """
    kind = _KINDS[call.target]
    quantised = call.target == "DynamicQuantizeLSTM"
    x, w, r = (low.value(a) for a in call.args[:3])
    ways = int(w.shape[0])
    if given(call, 7):
        raise low.wrong("peepholes are not supported")
    for name in ("clip", "input_forget"):
        if attribute(call, name, 0):
            raise low.wrong(f"{name!r} is not supported")
    if given(call, 4):
        low.notes.append(f"{call.target} {clip(call.name)}: all steps count for every sequence")
    hidden = Integer(attribute(call, "hidden_size", 0)) or r.shape[2]
    wide = GATES[kind] * hidden
    biases = low.value(call.args[3]) if given(call, 3) else None
    if quantised:  # stored as (D, I, G·H), a scale per direction or per row
        w, r = (_narrow(low, call, v, p) for v, p in ((w, 8), (r, 10)))
    size = w.shape[1] if quantised else w.shape[2]
    rows_first = bool(attribute(call, "layout", 0))
    if rows_first:
        x = low.transpose(x, (1, 0, 2))
    cells, starts = [], []
    first = kind == "gru" and not attribute(call, "linear_before_reset", 0)
    for d in range(ways):
        cell_w = piece(low, w, d, ways, (wide, size))
        cell_r = piece(low, r, d, ways, (wide, hidden))
        pair: tuple[Value | None, Value | None] = (None, None)
        if biases is not None:
            first_bias, second = (
                piece(low, biases, 2 * d + i, 2 * ways, (wide,)) for i in range(2)
            )
            pair = (first_bias, second)
        narrow = UINT8 if quantised else None
        functions = _functions(low, call, kind, d)
        cells.append(Cell(kind, cell_w, cell_r, *pair, functions, narrow=narrow, reset_first=first))
        starts.append([_start(low, call, p, d, rows_first) for p in _states(kind)])
    steps, last = layer(low, x, cells, starts)
    # (D, T, B, H) as (T, D, B, H), or (B, T, D, H) where rows come first.
    result = low.transpose(steps, (2, 1, 0, 3) if rows_first else (1, 0, 2, 3))
    if rows_first:
        last = tuple(low.transpose(v, (1, 0, 2)) for v in last)
    return (result, *last)


def _functions(low: Lowering, call: Call, kind: str, way: int) -> tuple[str, ...]:
    """Activations of a direction's cell."""
    usual = _USUAL[kind]
    stated = call.attributes.get("activations") or ()
    named = stated[way * len(usual) : (way + 1) * len(usual)] or usual
    found = tuple(_FUNCTIONS.get(str(name).lower(), "") for name in named)
    if "" in found or len(found) != len(usual):
        raise low.wrong(f"its activations {clip(tuple(stated))} are not supported")
    return found


def _states(kind: str) -> tuple[int, ...]:
    return (5, 6) if kind == "lstm" else (5,)


def _start(low: Lowering, call: Call, place: int, way: int, rows_first: bool) -> Value | None:
    if not given(call, place):
        return None
    value = low.value(call.args[place])
    return low.chosen(value, 1 if rows_first else 0, way)


def _narrow(low: Lowering, call: Call, value: Value, scale: int) -> Value:
    scales = low.value(call.args[scale])
    size = scales.shape[0] if len(scales.shape) == 1 else scales.shape[0] * scales.shape[1]
    return stored_with(value, size, scales.dtype, low.value(call.args[scale + 1]).dtype)


RULES: Mapping[str, Rule] = MappingProxyType(dict.fromkeys(_KINDS, _recurrent))
