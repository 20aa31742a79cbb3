"""Symbols in place of the dimensions of models whose layers are of few kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from sympy import Expr, Symbol

from costgraph.errors import InputError
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.layer import Layer
from costgraph.models.blocks.mla import LatentAttention
from costgraph.models.blocks.stack import Ends, Output, Segment
from costgraph.models.blocks.style import Norm
from costgraph.ops import Route
from costgraph.ops.pattern import Pattern
from costgraph.symbols import symbol

Part = TypeVar("Part")

_HEADS = {"d": "d", "heads": "H", "kv_heads": "Hk", "head_dim": "dh", "rotary": "dr"}
#: Names of dimensions by the part that holds them and its attribute.
NAMES: Mapping[type, Mapping[str, str]] = MappingProxyType(
    {
        Layer: {"d": "d"},
        Attention: {**_HEADS, "v_dim": "dv"},
        LatentAttention: {
            "d": "d",
            "heads": "H",
            "kv_rank": "Rk",
            "q_rank": "Rq",
            "rope_dim": "dr",
            "nope_dim": "dn",
            "v_dim": "dv",
        },
        FeedForward: {"d": "d", "width": "I"},
        Experts: {"d": "d", "width": "Ie", "experts": "E", "chosen": "Ek", "latent": "Re"},
        Heads: _HEADS,
        Bidirectional: {},
        CrossLayer: {"d": "d"},
        Ends: {"d": "d", "vocab": "V", "positions": "P"},
    }
)
#: Parts without dimensions, or with some that stay numbers.
PLAIN = (Norm, Output, Pattern, Route)
#: Numbers of layers by the segment that they are.
LAYERS: Mapping[str, str] = MappingProxyType(
    {"layers": "L", "decoder": "L", "dense": "Ld", "experts": "Lx", "encoder": "Le"}
)
#: Blocks inside others that have another name for a dimension.
INNER: Mapping[str, Mapping[str, str]] = MappingProxyType({"shared": {"I": "Is"}})


@dataclass
class Dimensions:
    """Hands out symbols for what parts of a model hold, and knows their values.

    Attributes:
        names: of further kinds of parts, as in :data:`NAMES`.
        values: of the symbols that were handed out, one for each.
    """

    names: Mapping[type, Mapping[str, str]] = field(default_factory=dict)
    values: dict[Symbol, Expr] = field(default_factory=dict)

    def named(self, short: str, value: Expr) -> Symbol:
        """The symbol ``short`` for a value.

        Raises:
            InputError: it stands for another one already.
        """
        made = symbol(short)
        if self.values.setdefault(made, value) != value:
            raise InputError(
                f"this model's layers differ ({short} is {self.values[made]} and {value}): its "
                "dimensions stay numbers"
            )
        return made

    def of(self, part: Part, renamed: Mapping[str, str] = MappingProxyType({})) -> Part:
        """A part of a model over symbols, with all in it.

        Raises:
            InputError: something in it is of a kind that keeps none.
        """
        short = {**NAMES, **self.names}.get(type(part))
        if short is None or not is_dataclass(part):
            words = re.findall("[A-Z]+[a-z0-9]*", type(part).__name__)
            raise InputError(
                "this model's dimensions stay numbers: no names are given to those of its part "
                f"'{' '.join(words).lower()}'"
            )
        changes: dict[str, Any] = {}
        for item in fields(part):
            value = getattr(part, item.name)
            if isinstance(value, Expr) and item.name in short:
                name = short[item.name]
                if item.name == "rotary" and value == getattr(part, "head_dim", None):
                    name = "dh"
                changes[item.name] = self.named(renamed.get(name, name), value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Segment):
                changes[item.name] = self.segments(value)
            elif is_dataclass(value) and not isinstance(value, PLAIN):
                changes[item.name] = self.of(value, INNER.get(item.name, renamed))
        made: Any = part  # a dataclass, which the type of a part does not say
        changed: Part = replace(made, **changes)
        return changed

    def segments(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Segments over symbols.

        Raises:
            InputError: their layers are of more kinds than have names.
        """
        for segment in segments:
            if segment.name not in LAYERS or segment.sets is not None:
                raise InputError(
                    f"this model's layers differ ({segment.name}): its dimensions stay numbers"
                )
        return tuple(
            replace(s, layer=self.of(s.layer), count=self.named(LAYERS[s.name], s.count))
            for s in segments
        )
