"""A nested formula in outline: bodies too long for a line get a name of their own.

A reader sees ``max(t1, t2)`` and, below, what ``t1`` and ``t2`` are; a short body stays
where it is, as in ``max(a + b, c)``. Every printer shows the same outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sympy import Expr, Symbol

from costgraph.formula.terms import Arm, Term, chained, collected
from costgraph.symbols import symbol

#: Expressions in a body that still stands inside its maximum.
SHORT = 2
#: The resource of floors.
LATENCY = "latency"
#: In front of a level of memory where it stands for a unit: what computes there.
INSIDE = "@"


@dataclass(frozen=True)
class Body:
    """A body under a name: ``symbol`` is the sum of ``terms``; ``name`` says whose it is."""

    symbol: Symbol
    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Reference(Arm):
    """A body in its maximum, by its name alone; ``resource`` says whose it is."""


@dataclass(frozen=True)
class Outline:
    """Terms in which names stand for long bodies, and what those are, outer ones first."""

    terms: tuple[Term, ...]
    bodies: tuple[Body, ...]


def kind_of(resource: str) -> str:
    """A resource without the unit that it belongs to: ``memory`` of ``stage 1/memory``.

    Those of a farther level of memory are kinds of their own: ``@ddr/memory``.
    """
    start = resource.find(INSIDE)
    return resource.rpartition("/")[2] if start < 0 else resource[start:]


def unit_of(resource: str) -> str:
    """The unit that a resource belongs to; empty for the device's own."""
    return resource.removesuffix(kind_of(resource)).removesuffix("/")


def split_level(resource: str) -> tuple[str, str]:
    """The level of memory that a kind of resource belongs to, and what it is there.

    No level for the device's own: ``("", "memory")``, ``("ddr", "memory")``.
    """
    level, _, kind = resource.rpartition("/")
    return level.removeprefix(INSIDE), kind


def link_of(resource: str) -> str:
    """The link that a resource is; empty if it is none."""
    head, _, name = kind_of(resource).partition(":")
    return name if head == "link" else ""


def rate_of(rates: Mapping[str, Expr], resource: str) -> Expr | None:
    """The rate of a resource: its unit's own, or that of the device."""
    return rates.get(resource, rates.get(kind_of(resource)))


def outlined(terms: Iterable[Term], taken: Iterable[Symbol] = ()) -> Outline:
    """Terms as readers see them: collected on every level, long bodies under names.

    Resources lose their units: which unit works stands in the names of the bodies.

    Args:
        terms: of a formula.
        taken: symbols that no body may be called.
    """
    maker = _Maker({s.name for s in taken})
    shown = tuple(maker.term(t) for t in collected(_unit_free(t) for t in terms))
    # Bodies are numbered level by level, as they are read.
    while maker.waiting:
        name, label, chain = maker.waiting.pop(0)
        inner = tuple(maker.term(t) for t in chain)
        maker.bodies.append(Body(name, label, inner))
    return Outline(shown, tuple(maker.bodies))


def _unit_free(term: Term) -> Term:
    arms = tuple(
        chained(collected(_unit_free(t) for t in a.chain), a.resource)
        if a.chain
        else replace(a, resource=kind_of(a.resource))
        for a in term.arms
    )
    return replace(term, arms=arms)


@dataclass
class _Maker:
    """Hands out names; equal bodies share one."""

    taken: set[str]
    bodies: list[Body] = field(default_factory=list)
    waiting: list[tuple[Symbol, str, tuple[Term, ...]]] = field(default_factory=list)
    known: dict[tuple[str, tuple[Term, ...]], Symbol] = field(default_factory=dict)

    def term(self, term: Term) -> Term:
        if not term.is_nested:
            return term
        return replace(term, arms=tuple(self._arm(a) for a in term.arms))

    def _arm(self, arm: Arm) -> Arm:
        if not arm.chain or _leaves(arm) <= SHORT:
            return arm
        key = (arm.resource, arm.chain)
        if key not in self.known:
            number = len(self.known) + 1
            while f"t{number}" in self.taken:
                number += 1
            self.taken.add(f"t{number}")
            self.known[key] = symbol(f"t{number}")
            self.waiting.append((self.known[key], arm.resource, arm.chain))
        return Reference(self.known[key], arm.resource)


def _leaves(arm: Arm) -> int:
    return sum(1 for _ in arm.leaves)


def label_of(arm: Arm, alone: bool) -> str:
    """What stands before an arm among others: whose body it is, or which link.

    Nothing where the arm stands ``alone``, or its rate says what it is.
    """
    if alone:
        return ""
    body = arm.chain or isinstance(arm, Reference)
    return arm.resource if body else link_of(arm.resource)
