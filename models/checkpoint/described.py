"""What a checkpoint says of itself: rules that give matrices their formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costgraph.errors import ModelError, clip
from costgraph.ir.dtypes import DType
from costgraph.models.checkpoint.layout import Layout, Operand
from costgraph.models.checkpoint.names import Pattern
from costgraph.models.fields import Fields

#: Kinds of matrices: projections in layers, those of experts, routers, projections around
#: the layers, the one to logits, look-up tables, and everything of a vision tower.
LAYERS, EXPERTS, ROUTER, ENDS, HEAD, EMBED, EYES = (
    "layers", "experts", "router", "ends", "head", "embed", "eyes",
)  # fmt: skip
#: Every linear module of a model class but the projection to logits.
LINEARS = frozenset((LAYERS, EXPERTS, ENDS, EYES))
#: The linear modules of the decoder's layers.
IN_LAYERS = frozenset((LAYERS, EXPERTS))
#: What counts the checkpoint all the same, for every refusal.
INSTEAD = "quantization='ignore' (--quantization ignore) counts the original"


@dataclass(frozen=True)
class Rule:
    """How the matrices that ``targets`` name are stored; without any those of ``kinds``, and all
    in reach where it is None.

    ``operand`` says how what they multiply is narrowed; None leaves it wide, and a
    ``layout`` of None leaves the matrices wide.
    """

    layout: Layout | None
    operand: Operand | None = None
    targets: tuple[Pattern, ...] = ()
    kinds: frozenset[str] | None = None


@dataclass(frozen=True)
class Described:
    """The formats of a checkpoint, as its description gives them.

    Attributes:
        key: where in the configuration it stands.
        method: who made it: ``gptq``, ``fp8`` …
        rules: the first one that names a matrix decides.
        reach: kinds of matrices that a rule without targets means.
        kept: names that stay wide, whatever the rules say.
        kv: format of the caches; None leaves it.
        assumed: sentences on what the description does not say.
        converts: every linear module is converted, routers among them where they are one.
    """

    key: str
    method: str
    rules: tuple[Rule, ...]
    reach: frozenset[str] = IN_LAYERS
    kept: tuple[Pattern, ...] = ()
    kv: DType | None = None
    assumed: tuple[str, ...] = ()
    converts: bool = False

    def shown(self, used: tuple[str, ...]) -> str:
        """The formats by name, those that some matrix has, each once."""
        names = []
        for rule in self.rules:
            if rule.layout is not None and rule.layout.name in used:
                shown = rule.layout.name
                if rule.operand is not None:
                    how = "" if rule.operand.dynamic else "static "
                    shown += f" times {how}{rule.operand.base.name}"
                names.append(shown)
        names += [f"caches {self.kv}"] if self.kv is not None else []
        return ", ".join(dict.fromkeys(names))


def finished(stated: Fields, harmless: frozenset[str]) -> None:
    """Refuses a description of which something was not understood.

    What is null, false or empty says nothing.

    Raises:
        ModelError: naming the first key that nothing read.
    """
    for key in stated.unread:
        value = stated.values[key]
        if key in harmless or value is None or value is False or value in ("", [], {}):
            continue
        raise ModelError(f"{stated.name}: {key!r} = {clip(value, 60)} is not understood; {INSTEAD}")


def chosen(stated: Fields, key: str, known: Mapping[str, object], default: str) -> str:
    """The word under ``key``, one of ``known``.

    Raises:
        ModelError: it is another.
    """
    value = stated.word(key, default=default)
    if value not in known:
        raise ModelError(
            f"{stated.name}: {key!r} = {clip(value)}: {', '.join(known)} would be understood; "
            f"{INSTEAD}"
        )
    return value


def width(stated: Fields, key: str, known: tuple[int, ...], default: int | None = None) -> int:
    """The number under ``key``, one of ``known``.

    Raises:
        ModelError: it is another.
    """
    value = stated.size(key, default=default)
    if value not in known:
        raise ModelError(
            f"{stated.name}: {key!r} = {value}: {', '.join(map(str, known))} would be "
            f"understood; {INSTEAD}"
        )
    return value


def group_of(stated: Fields, key: str, default: int | None) -> int | None:
    """Elements per scale under ``key``; None, from -1, for a whole row."""
    if stated.values.get(key) == -1:
        return None
    if stated.values.get(key) is None:
        return default
    return stated.size(key)
