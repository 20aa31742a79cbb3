"""Phases: a step graph, what its symbols stand for, and how often it runs in a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from sympy import Expr, Integer, Symbol

from costgraph.formula.least import bound
from costgraph.formula.terms import Limit, Span
from costgraph.ir.graph import Graph
from costgraph.ir.resident import Resident
from costgraph.ir.tensor import Tensor
from costgraph.symbols import S, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class Phase:
    """A part of a request: a graph, what its symbols stand for, how often it runs.

    Attributes:
        name: ``prefill``, ``decode``, …
        graph: the step graph.
        bindings: symbols of the graph and their value in this phase. The
            context ``T`` stays free where the phase spans many contexts.
        span: contexts over which the phase steps, or None for a single step.
        tokens: expected tokens emitted per step and sequence.
        weight: executions per value of the span (below one where a step emits
            several tokens).
        resident: what stays in memory of other graphs.
        reach: positions that one sees at most, where the step's context ``T`` holds more
            (rows of other branches, segments that are gone); None where it does not. Limits
            on positions ask it.
        rounds: groups of sequences that pass through the graph in one step, one after the
            other, each on one unit of it at a time. Bindings are those of a group.
        paces: units that compute, and read their memory, so many times as fast as the device.
    """

    name: str
    graph: Graph
    bindings: tuple[tuple[Symbol, Expr], ...]
    span: Span | None = None
    tokens: Expr = ONE
    weight: Expr = ONE
    resident: tuple[Resident, ...] = ()
    rounds: Expr = ONE
    reach: Expr | None = None
    paces: tuple[tuple[str, Expr], ...] = ()

    def __repr__(self) -> str:
        return f"<Phase {self.name}: {self.graph!r}>"

    @cached_property
    def substitution(self) -> Mapping[Symbol, Expr]:
        """The bindings as a mapping."""
        return dict(self.bindings)

    def pace(self, unit: str) -> Expr:
        """How many times as fast as the device a unit is."""
        return dict(self.paces).get(unit, ONE)

    def weights(self) -> Iterator[tuple[Tensor, Expr]]:
        """All weights in memory with their counts."""
        return chain(self.graph.weights(), *(r.weights() for r in self.resident))

    @property
    def query(self) -> Expr:
        """Query positions per sequence in one step."""
        return self.substitution.get(q, q)

    @property
    def is_prompt(self) -> bool:
        """True where a decoder reads a whole prompt: as many positions as it attends, by ``S``."""
        whole = self.substitution.get(T) == self.query
        return self.span is None and whole and S in self.query.free_symbols

    @property
    def is_single_query(self) -> bool:
        """True when one step processes one position per sequence."""
        return bool(self.query == 1)

    @property
    def begins(self) -> tuple[Limit, ...]:
        """That no step of branches, or of an answer, stands in front of where it begins."""
        if self.reach is None or self.span is None:
            return ()
        first, symbol = self.span.lower, self.span.symbol
        return (
            Limit(
                first, symbol, "branches start behind what they share, answers behind their prompt"
            ),
        )

    @property
    def steps(self) -> Expr:
        """How often the graph runs in one request."""
        span = self.span
        return self.weight if span is None else self.weight * (span.upper - span.lower + 1)

    @property
    def generated(self) -> Expr:
        """Tokens that the phase emits in one request, per sequence."""
        # Zero times an expectation asks whether that is finite, which takes long.
        return self.tokens * self.steps if self.tokens != 0 else self.tokens

    @property
    def emitted(self) -> Expr:
        """Tokens that the phase emits at one context, per sequence."""
        return self.tokens * self.weight if self.tokens != 0 else self.tokens

    @property
    def walks_contexts(self) -> bool:
        """True where its steps go along contexts, ``T`` by ``T``."""
        return self.span is not None and self.span.symbol == T

    def at_end(self, expr: Expr) -> Expr:
        """``expr`` at the longest context of the phase, if it has several."""
        return expr if self.span is None else expr.xreplace({self.span.symbol: self.span.upper})

    def with_binding(self, symbol: Symbol, value: Expr) -> Phase:
        """The phase with ``value`` for a symbol wherever it is still free: in bindings, too.

        A symbol that is bound stays so: what it stands for takes the value.
        """
        bound = tuple((s, e.xreplace({symbol: value})) for s, e in self.bindings)
        fresh = () if symbol in self.substitution else ((symbol, value),)
        reach = None if self.reach is None else self.reach.xreplace({symbol: value})
        return replace(self, bindings=(*bound, *fresh), reach=reach)

    def with_prompt(self, length: Expr) -> Phase:
        """The phase with a prompt of ``length`` tokens in place of one of ``S``, in all of it."""

        def at(e: Expr) -> Expr:
            return e.xreplace({S: length})

        span = None if self.span is None else self.span.mapped(at)
        made = self.with_binding(S, length)
        return replace(made, span=span, tokens=at(self.tokens), weight=at(self.weight))

    def rewritten(self, f: Callable[[Graph], Graph]) -> Phase:
        """The phase with ``f`` applied to its graph and to those that stay in memory."""
        resident = tuple(replace(r, graph=f(r.graph)) for r in self.resident)
        return replace(self, graph=f(self.graph), resident=resident)

    def bind(self, expr: Expr) -> Expr:
        """``expr`` with this phase's bindings applied, clipped lengths folded."""
        return bound(expr, self.substitution)

    def limited(self, limit: Limit) -> Limit:
        """A limit of the program as it holds in this phase."""
        if self.reach is None:
            return limit.mapped(self.bind)
        values = {**self.substitution, T: self.reach}
        return limit.mapped(lambda e: bound(e, values))
