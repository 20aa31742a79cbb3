"""Shares of tensors in farther levels of memory, as options write them: ``host:0.6|disk:0.1``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError, clip, nearest
from costgraph.hardware.systems import HOST, STORAGE, System, link_to
from costgraph.rewriting.pipeline import Option, number

ONE = Integer(1)
#: Words for levels of memory, besides their own names.
WORDS: Mapping[str, str] = MappingProxyType({"host": HOST, "disk": STORAGE})
_SHARE = Option("probability", "a share in a level of memory")
#: A share of a tensor in each level, by the level's name.
Shares = tuple[tuple[str, Expr], ...]


def parse(where: str, text: str) -> Shares:
    """The shares that a text gives: ``host:0.6|disk:0.1``, or ``host`` for everything.

    Shares are numbers or symbols; those that are zero are left out.

    Raises:
        PipelineError: it is no such text, or more than everything is away.
    """
    if not text or text == "device":
        return ()
    found: dict[str, Expr] = {}
    for part in text.split("|"):
        word, colon, amount = part.partition(":")
        level = WORDS.get(word, word)
        if not word or (colon and not amount):
            raise PipelineError(f"{where}: write level:share, host:0.6|disk:0.1, not {clip(part)}")
        if level in found:
            raise PipelineError(f"{where}: {clip(word)} is given twice")
        found[level] = number(where, _SHARE, amount) if colon else ONE
    total = away(tuple(found.items()))
    if total.is_number and total > 1:
        raise PipelineError(f"{where}: the shares add up to {total}, more than everything")
    return tuple((level, share) for level, share in found.items() if share != 0)


def away(shares: Shares) -> Expr:
    """The share that is in farther levels, all of them together."""
    return Add(*(share for _, share in shares))


def text_of(shares: Shares) -> str:
    """The shares as :func:`parse` reads them."""
    back = {level: word for word, level in WORDS.items()}
    return "|".join(f"{back.get(level, level)}:{share}" for level, share in shares) or "device"


def level_named(made_by: str, option: str, word: str, system: System) -> str:
    """The level of memory that an option names: a word for it, or its own name.

    Raises:
        PipelineError: the device does not reach it.
    """
    level = WORDS.get(word, word)
    check_levels(made_by, {level: option}, system)
    return level


def check_levels(made_by: str, levels: Mapping[str, str], system: System) -> None:
    """Refuses levels that a device does not reach.

    Args:
        made_by: the pass.
        levels: the option that names each level.
        system: what the program runs on.

    Raises:
        PipelineError: which, and what would be right.
    """
    device = system.device
    for level, option in levels.items():
        if level in device.tiers:
            continue
        if level == HOST:
            hint = f": name its host ({device.name}+epyc-9654), or state [tiers.{HOST}]"
        elif level == STORAGE:
            hint = f": state [tiers.{level}] of the device, or [storage] of a system file"
        else:
            hint = nearest(level, [*WORDS, *device.tiers])
        raise PipelineError(
            f"{made_by}: {option}: {system.name} states no memory level {clip(level)}{hint}"
        )
    if any(not link_to(device, x) and device.tiers[x].bandwidth is None for x in levels):
        raise PipelineError(
            f"{made_by}: {device.name} states no link to its host; state [links.pcie]"
        )
