"""Models whose layers were chosen one by one: Llama-Nemotron's neural architecture search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Attention, FeedForward, Layer, Maker, Norm, Style
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.stack import Repeatable
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.experts import (
    attention_of,
    ends_of,
    feed_forward_of,
    layers_of,
    stacked,
)
from costgraph.models.fields import Fields
from costgraph.ops import Add
from costgraph.symbols import B, q

RMS = Norm()


@dataclass(frozen=True)
class Half:
    """A norm, the channel block of a layer and its residual addition: no attention."""

    d: Expr
    block: Block
    norm: Norm = RMS

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of the block."""
        return self.block.operands(style)

    def graph(self, style: Style) -> Graph:
        """Hidden state in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        made = self.block.add(m, m.norm("mlp_norm", x, self.d, self.norm))
        return m.build(m.add("mlp_add", Add(), made, x))


@dataclass(frozen=True)
class Linear:
    """One matrix in place of a block."""

    d: Expr
    bias: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the product; ``x (B, q, d)`` to ``(B, q, d)``."""
        return m.linear("linear_proj", x, self.d, self.d, self.bias)


def _width(mult: float, d: int) -> int:
    """The published rule: two thirds of ``mult`` times ``d``, up to a multiple of 256."""
    return math.ceil(int(2 * mult * d / 3) / 256) * 256


def _part(fields: Fields, block: Any, key: str, index: int) -> Mapping[str, Any]:
    found = block.get(key) if isinstance(block, Mapping) else None
    if not isinstance(found, Mapping):
        raise ModelError(f"{fields.name}: 'block_configs': layer {index} has no {key!r}")
    known = _KNOWN[key]
    for name, value in found.items():
        if value and name not in known:
            raise ModelError(
                f"{fields.name}: 'block_configs': layer {index}: {name!r} = {clip(value)} is not "
                "understood"
            )
    return found


#: What a layer's description may set.
_KNOWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "attention": frozenset({"n_heads_in_group", "no_op", "replace_with_linear"}),
        "ffn": frozenset({"ffn_mult", "no_op", "replace_with_linear", "intermediate_size"}),
    }
)


def _nas(fields: Fields) -> Reading:
    """Llama's layers, each with heads and width of its own, or without one of its blocks."""
    blocks, count = fields.values.get("block_configs"), layers_of(fields)
    if not isinstance(blocks, list) or len(blocks) != count:
        raise ModelError(f"{fields.name}: 'block_configs' must be a list of {count} objects")
    d = fields.size("hidden_size")
    bias = fields.flag("attention_bias", False)
    heads = fields.size("num_attention_heads")
    names: list[str] = []
    layers: dict[str, Repeatable] = {}
    for index, block in enumerate(blocks):
        at, ffn = (_part(fields, block, key, index) for key in ("attention", "ffn"))
        mixer, mixed = _mixer(fields, at, heads, bias, index)
        channel, fed = _channel(fields, ffn, d, index)
        name = f"{mixed}_{fed}"
        if mixer is not None:
            layers[name] = Layer(Integer(d), mixer, channel)
        elif channel is not None:
            layers[name] = Half(Integer(d), channel)
        else:  # neither block: the layer is the identity
            continue
        names.append(name)
    if not names:
        raise ModelError(f"{fields.name}: 'block_configs' leaves no block in any layer")
    return Reading(stacked(ends_of(fields), names, layers))


def _mixer(
    fields: Fields, at: Mapping[str, Any], heads: int, bias: bool, index: int
) -> tuple[Attention | Linear | None, str]:
    if at.get("no_op"):
        return None, "none"
    if at.get("replace_with_linear"):
        return Linear(Integer(fields.size("hidden_size")), bias), "linear"
    group = at.get("n_heads_in_group")
    if type(group) is not int or group < 1 or heads % group:
        raise ModelError(
            f"{fields.name}: 'block_configs': layer {index}: 'n_heads_in_group' = {clip(group)} "
            f"of {heads} heads"
        )
    found = fields.with_values(num_key_value_heads=heads // group)
    return attention_of(found, qkv_bias=bias, out_bias=bias), f"group{group}"


def _channel(
    fields: Fields, ffn: Mapping[str, Any], d: int, index: int
) -> tuple[FeedForward | Linear | None, str]:
    if ffn.get("no_op"):
        return None, "none"
    if ffn.get("replace_with_linear"):
        return Linear(Integer(d), fields.flag("mlp_bias", False)), "linear"
    mult, width = ffn.get("ffn_mult"), ffn.get("intermediate_size")
    if width is None:
        if isinstance(mult, bool) or not isinstance(mult, (int, float)) or not 0 < mult < 1000:
            raise ModelError(
                f"{fields.name}: 'block_configs': layer {index}: 'ffn_mult' = {clip(mult)}"
            )
        width = _width(mult, d)
    if type(width) is not int or width < 1:
        raise ModelError(
            f"{fields.name}: 'block_configs': layer {index}: 'intermediate_size' = {clip(width)}"
        )
    feed = feed_forward_of(fields, width)
    return replace(feed, bias=fields.flag("mlp_bias", False)), f"ffn{width}"


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"nemotron-nas": _nas, "deci": _nas})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"DeciLMForCausalLM": "nemotron-nas"})
