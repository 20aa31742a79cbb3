"""ATen's recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call
from costgraph.models.traced.recurrent import Cell, layer
from costgraph.models.traced.value import Value

_KINDS = {
    "lstm": ("lstm", ""), "gru": ("gru", ""), "rnn_tanh": ("rnn", "tanh"),
    "rnn_relu": ("rnn", "relu"),
}  # fmt: skip


def _recurrent(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``(input, states, weights, biases, layers, dropout, train, both ways, batch first)``."""
    kind, activation = _KINDS[call.target]
    x, states, weights = low.value(call.args[0]), call.args[1], call.args[2]
    if not isinstance(weights, tuple) or not isinstance(call.args[3], bool):
        raise low.wrong("packed sequences are not supported")
    biased, layers, both, first = call.args[3], int(call.args[4]), call.args[7], call.args[8]
    ways = 2 if both else 1
    # Of each direction: two matrices, their biases, and an LSTM's projection of its state.
    each, rest = divmod(len(weights), layers * ways)
    if rest or each - (4 if biased else 2) not in (0, int(kind == "lstm")):
        raise low.wrong(f"{len(weights)} weights of {layers} layers")
    single = len(x.shape) == 2
    if single:
        x = low.reshape(x, (x.shape[0], Integer(1), x.shape[1]))
    elif first:
        x = low.transpose(x, (1, 0, 2))
    given = states if isinstance(states, tuple) else (states,)
    starts = [_per_layer(low, v) for v in given]
    ends: list[tuple[Value, ...]] = []
    for index in range(layers):
        at = index * ways
        cells = [
            _cell(low, kind, activation, weights[(at + d) * each : (at + d + 1) * each], biased)
            for d in range(ways)
        ]
        begin = [[s[at + d] for s in starts] for d in range(ways)]
        steps, last = layer(low, x, cells, begin)
        ends.append(last)
        # Directions side by side in the last axis: (T, B, D·H).
        turned = low.transpose(steps, (1, 2, 0, 3))
        x = low.reshape(turned, (*turned.shape[:2], turned.shape[2] * turned.shape[3]))
    if single:
        x = low.reshape(x, (x.shape[0], x.shape[2]))
    elif first:
        x = low.transpose(x, (1, 0, 2))
    last_states = tuple(_layers_joined(low, list(parts)) for parts in zip(*ends, strict=True))
    if single:
        last_states = tuple(low.reshape(v, (v.shape[0], v.shape[2])) for v in last_states)
    return (x, *last_states)


def _per_layer(low: Lowering, item: Any) -> list[Value]:
    """``(layers·directions, B, H)`` taken apart."""
    value = low.value(item)
    if len(value.shape) == 2:
        value = low.reshape(value, (value.shape[0], Integer(1), value.shape[1]))
    return [low.chosen(value, 0, i) for i in range(int(value.shape[0]))]


def _layers_joined(low: Lowering, parts: Sequence[Value]) -> Value:
    return parts[0] if len(parts) == 1 else low.join(parts, 0)


def _cell(low: Lowering, kind: str, activation: str, given: Sequence[Any], biased: bool) -> Cell:
    values = [low.value(v) for v in given]
    biases: tuple[Value | None, Value | None] = (values[2], values[3]) if biased else (None, None)
    cell = Cell(kind, values[0], values[1], *biases)
    if activation:
        cell = replace(cell, functions=(activation,))
    count = 4 if biased else 2
    return replace(cell, projection=values[count]) if len(values) > count else cell


def _single(low: Lowering, call: Call) -> tuple[Value, ...] | Value:
    """``(input, state or states, weights …)``: one step of a cell."""
    kind, activation = _KINDS[call.target.removesuffix("_cell")]
    x, states = low.value(call.args[0]), call.args[1]
    before = [low.value(s) for s in (states if isinstance(states, tuple) else (states,))]
    weights = [a for a in call.args[2:] if a is not None]
    cell = _cell(low, kind, activation, weights, len(weights) == 4)
    batch = (Integer(1),) if len(x.shape) == 1 else ()
    rows = low.reshape(x, (Integer(1), *batch, *x.shape))
    start = [low.reshape(s, (*batch, *s.shape)) for s in before]
    _, last = layer(low, rows, [cell], [start])
    made = tuple(low.reshape(v, s.shape) for v, s in zip(last, before, strict=True))
    return made if kind == "lstm" else made[0]


RULES: Mapping[str, Rule] = MappingProxyType(
    {**dict.fromkeys(_KINDS, _recurrent), **{f"{k}_cell": _single for k in _KINDS}}
)
