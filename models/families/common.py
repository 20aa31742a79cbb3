"""What families share: how a configuration is read into a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from sympy import Expr, Integer, Symbol

from costgraph.errors import ModelError, clip, nearest
from costgraph.graph import Graph
from costgraph.models.blocks import Style
from costgraph.models.fields import Fields, divided
from costgraph.program import Program

#: Names of activation functions in configurations, and ours.
ACTIVATION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "relu": "relu",
        "relu2": "relu2",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
    }
)


class Model(Protocol):
    """What a family reads a configuration into: it makes the step graph."""

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""

    def symbolic(self) -> tuple[Model, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values.

        Raises:
            InputError: this model keeps no symbolic dimensions.
        """


@runtime_checkable
class Programmed(Protocol):
    """A model with phases of its own: an encoder, or an encoder with a decoder."""

    def program(self, name: str, style: Style) -> Program:
        """The program of the model."""


@dataclass(frozen=True)
class Reading:
    """What a family read: the model, and the context its attention is full for.

    ``window`` is the sliding window in tokens, or None without one. Up to that
    context a windowed layer attends everything, and counts are exact. ``scans``:
    the model scans over matrix states, in chunks for a prompt and token by
    token after it. ``notes`` are sentences that results rest on.
    """

    model: Model
    window: int | None = None
    scans: bool = False
    notes: tuple[str, ...] = ()


Family = Callable[[Fields], Reading]


def activation_of(fields: Fields, *keys: str, default: str | None = None) -> str:
    name = fields.word(*keys, default=default)
    if name not in ACTIVATION_NAMES:
        raise ModelError(
            f"{fields.name}: unknown activation {clip(name)}{nearest(name, ACTIVATION_NAMES)}"
        )
    return ACTIVATION_NAMES[name]


def heads_of(fields: Fields, d: int) -> tuple[int, int, Expr]:
    """(query heads, KV heads, head size); the head size may be given apart."""
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name}: 'num_attention_heads' = {heads} is not a multiple of "
            f"'num_key_value_heads' = {kv_heads}"
        )
    if fields.values.get("head_dim") is not None:
        return heads, kv_heads, Integer(fields.size("head_dim"))
    return heads, kv_heads, divided(fields, d, heads, "hidden size over heads")


def rotary_of(fields: Fields, dh: Expr, default: float, key: str = "partial_rotary_factor") -> Expr:
    share = fields.fraction(key, default)
    width = int(int(dh) * share)
    if width < 2 or width % 2:
        raise ModelError(f"{fields.name}: {key!r} = {share} of a head of {dh} is not an even width")
    return Integer(width)


def window_of(fields: Fields) -> int | None:
    if fields.values.get("sliding_window") is None:
        return None
    return fields.size("sliding_window")
