"""Mixes: what one step of a server processes, group by group.

A step need not be ``B`` equal sequences: decodes of several lengths, a chunk of a prompt
that rides along, prompts whose beginning is cached already. Each group is some sequences of
which every one brings so many new tokens and sees so many positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

from sympy import Add, Dummy, Expr, Integer, Symbol

from costgraph.errors import InputError, clip
from costgraph.number import whole
from costgraph.symbols import symbol

Size: TypeAlias = "int | str | Expr"


@dataclass(frozen=True)
class Group:
    """Equal sequences in a step.

    Attributes:
        sequences: how many.
        new: tokens that each of them processes in the step.
        context: positions that its last token sees, cached ones and new ones.
        fullest: where replicas share the step, sequences and their new tokens, were all
            replicas as full as the one that has most of the group; None: each has the mean.
    """

    sequences: Expr
    new: Expr
    context: Expr
    fullest: tuple[Expr, Expr] | None = None

    def __post_init__(self) -> None:
        if self.new.is_number and self.context.is_number and self.new > self.context:
            raise InputError(f"{self.new} new tokens need a context as long, not {self.context}")

    @property
    def tokens(self) -> Expr:
        """Tokens that the group processes."""
        return self.sequences * self.new

    @property
    def decodes(self) -> bool:
        """Each sequence brings one token, behind others."""
        return bool(self.new == 1 and self.context != 1)

    def __str__(self) -> str:
        return f"{self.sequences} × {self.new} at {self.context}"


@dataclass(frozen=True)
class Mix:
    """The groups of one step."""

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError("a step needs a group of sequences")

    @classmethod
    def of(cls, *groups: tuple[Size, Size, Size]) -> Mix:
        """Groups of (sequences, new tokens, context): whole numbers, or names of symbols.

        Raises:
            InputError: a size is no whole number above zero, or a group has more new
                tokens than positions.
        """
        return cls(tuple(Group(*(_size(x) for x in group)) for group in groups))

    @property
    def tokens(self) -> Expr:
        """Tokens of the whole step."""
        return Add(*(g.tokens for g in self.groups))

    @property
    def sequences(self) -> Expr:
        """Sequences of the whole step."""
        return Add(*(g.sequences for g in self.groups))

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """What sizes are left as, by name."""
        found: set[Symbol] = set()
        for g in self.groups:
            for size in (g.sequences, g.new, g.context, *(g.fullest or ())):
                found |= size.free_symbols
        return tuple(sorted(found, key=lambda s: s.name))

    @cached_property
    def apart(self) -> tuple[Mix, dict[Expr, Expr]]:
        """The mix over symbols that no graph has, and what they stand for."""
        names = {s: _hidden(s) for s in self.symbols}

        def f(e: Expr) -> Expr:
            return e.xreplace(names)

        groups = tuple(
            Group(
                f(g.sequences), f(g.new), f(g.context),
                None if g.fullest is None else (f(g.fullest[0]), f(g.fullest[1])),
            )
            for g in self.groups
        )  # fmt: skip
        return Mix(groups), {dummy: s for s, dummy in names.items()}

    def where(self, decodes: bool) -> tuple[Group, ...]:
        """The groups that decode, or those that do not."""
        return tuple(g for g in self.groups if g.decodes is decodes)

    def __str__(self) -> str:
        return ", ".join(str(g) for g in self.groups)


@lru_cache(maxsize=64)
def _hidden(symbol: Symbol) -> Dummy:
    """What stands for a mix's symbol while a step is counted.

    The same one in every mix: what was derived of it once (proofs, above all) is known again.
    """
    return Dummy(symbol.name, positive=True)


def _size(given: Size) -> Expr:
    if isinstance(given, Expr):
        return given
    if isinstance(given, str):
        if not given.isidentifier():
            raise InputError(f"{clip(given)} is no name of a symbol")
        return symbol(given)
    return Integer(whole(given, "a size of a group"))
