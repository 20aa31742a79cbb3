"""Programs: step graphs and the phases that run them.

One graph of a forward step serves every phase; a phase binds its symbols:

* prefill: ``q = S``, ``T = S``, one step, which also emits token 1;
* decode: ``q = 1``; step ``i = 1 … N−1`` attends ``T = S + i`` positions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, takewhile
from typing import Any

from sympy import Add, Expr, Integer, Symbol, expand

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.terms import Limit, Span, Stated, beyond
from costgraph.ir.graph import Graph
from costgraph.ir.phase import Phase as Phase
from costgraph.ir.resident import Resident as Resident
from costgraph.ir.tensor import Tensor
from costgraph.symbols import K, N, S, T, q
from costgraph.views import view_text

ONE = Integer(1)


@dataclass(frozen=True)
class Program:
    """What passes transform: named phases over step graphs, and what they assume.

    Attributes:
        name: the model's name.
        phases: in the order in which a request runs through them.
        assumptions: sentences that every result rests on.
        limits: bounds outside which the graph does not describe the model.
        dims: values of symbolic model dimensions, where the graph keeps them.
        notes: remarks on how the model was read that change no result.
        history: the passes it went through, as they ran; see
            :func:`costgraph.rewriting.pipeline.history`.
        devices: how many run it together. Graphs are those of one device, or of one
            device of each stage.
        stages: how many stages of devices there are, one after the other.
        replicas: among how many replicas a step's sequences are dealt: ``B`` of a phase is bound
            to the mean of one.
        groups: how many groups of sequences are at work at once, where that is not a device
            each: in a row of devices one is at work on each group.
        reading: options that the model was read with, other than the usual ones.
        fixed: symbols that were given a value for good, see :meth:`fixing`.
        ahead: a module of the model that drafts tokens further ahead, as a program; no part
            of this one, and in memory only where speculation holds it.
        borrowed: names of weights that are those of another model in memory, as a draft
            head reads its target's embedding table.
        unserved: why no server on one machine runs these phases for its requests; empty
            where one can.
        context: the longest context that the model's file states. Where positions are rotated,
            the graph goes on beyond it: no limit of the graph, but servers refuse more.
        origin: the shipped configuration that it was read from; empty for other models.
    """

    name: str
    phases: tuple[Phase, ...]
    assumptions: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    dims: tuple[tuple[Symbol, Expr], ...] = ()
    notes: tuple[str, ...] = ()
    history: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    reading: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[Symbol, Expr], ...] = ()
    devices: Expr = ONE
    stages: int = 1
    replicas: Expr = ONE
    groups: Expr | None = None
    ahead: Program | None = field(default=None, compare=False, repr=False)
    borrowed: tuple[str, ...] = ()
    unserved: str = ""
    context: int | None = None
    origin: str = field(default="", compare=False)

    @property
    def stated(self) -> tuple[str, ...]:
        """What is said where lengths are open: up to where the file's statement reaches."""
        return tuple(x.asks for x in self.stated_at(ONE))

    def stated_at(self, positions: Expr) -> tuple[Stated, ...]:
        """So many positions against what the file states; nothing where it states none."""
        if self.context is None:
            return ()
        what = "prompt and answer have" if self.emits else "sequences have"
        return (Stated(positions, self.context, self.name, what),)

    def beyond(self, positions: int) -> str:
        """A sentence where a request of so many positions is more than the file states."""
        return beyond(self.stated_at(Integer(positions)), {})

    def beyond_at(self, values: Mapping[Symbol, Expr]) -> str:
        """A sentence where sizes have more positions than the file states, as far as they say."""
        known = set(values)
        return beyond((x for x in self.positions if x.expr.free_symbols <= known), values)

    @cached_property
    def positions(self) -> tuple[Stated, ...]:
        """Positions of a request in each of its phases, against what the file states.

        Of phases that step along contexts those of a step and, with the token that it emits,
        of the last one. Towers, which count rows of what they see, have none.
        """
        found: list[Expr] = []
        for phase in self.phases:
            at = phase.substitution.get(T, T) if phase.reach is None else phase.reach
            found.append(at)
            if phase.walks_contexts:
                found.append(phase.at_end(at) + 1)
        sized = (e for e in dict.fromkeys(map(expand, found)) if e.free_symbols & {S, N, T})
        return tuple(x for e in sized for x in self.stated_at(e))

    @property
    def width(self) -> Expr:
        """How many devices do what the graph says at the same time: those of one stage."""
        return self.devices / self.stages if self.groups is None else self.groups

    def phase(self, name: str) -> Phase:
        """The phase called ``name``.

        Raises:
            InputError: there is none.
        """
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise InputError(
            f"no phase {clip(name)} in {self.name!r}{nearest(name, [p.name for p in self.phases])}"
        )

    def contexts(self, prompt: int, generated: int) -> tuple[int, int] | None:
        """The first and the last context ``T`` of a request's decode steps; None without any.

        How ``T`` grows is the program's own: with the prompt (``S + 1 … S + N − 1``), or
        from the start token (``2 … N``) where a decoder attends an encoder's result. Every
        question about a whole request asks here. A request of one token has no decode
        step: then it is the context that the first would have.
        """
        spans = [p.span for p in self.decoding if p.span is not None]
        if not spans:
            return None
        values = {S: Integer(prompt), N: Integer(generated)}
        first = min(int(span.lower.xreplace(values)) for span in spans)
        last = max(int(span.upper.xreplace(values)) for span in spans)
        return first, max(first, last)

    @property
    def until_first_token(self) -> tuple[Phase, ...]:
        """Phases up to the first that emits tokens, and what else runs before the decode steps.

        What runs once before decoding starts (a draft that reads the prompt) belongs to
        the time until the first token, as engines do it: decode steps are then all that
        further tokens take. Steps that emit nothing yet (an outline) are in front as well.
        """
        emitting = (i for i, p in enumerate(self.phases) if p.tokens != 0)
        first = next(emitting, len(self.phases) - 1)
        walking = any(p.walks_contexts for p in self.phases[first + 1 :])
        after = takewhile(lambda p: walking and p.span is None, self.phases[first + 1 :])
        return (*self.phases[: first + 1], *after)

    @property
    def decoding(self) -> tuple[Phase, ...]:
        """Phases that step over contexts and follow the first token."""
        found = self._afterwards if self.emits else self.phases
        return tuple(p for p in found if p.walks_contexts)

    @property
    def _afterwards(self) -> tuple[Phase, ...]:
        """Phases that are not of those :attr:`until_first_token`."""
        before = {id(p) for p in self.until_first_token}
        return tuple(p for p in self.phases if id(p) not in before)

    @property
    def has_alike_steps(self) -> bool:
        """True where one decode step, of one or several phases, runs at every context."""
        found = self.decoding
        return bool(found) and all(p.span == found[0].span for p in found)

    def check_served(self) -> None:
        """Refuses programs that are not one request of a server.

        Raises:
            InputError: why.
        """
        if self.unserved:
            raise InputError(f"{self.name}: {self.unserved}: not a request of one server")

    @property
    def emits(self) -> bool:
        """True where the program generates tokens."""
        return any(p.tokens != 0 for p in self.phases)

    @property
    def after_first(self) -> Expr:
        """Tokens that follow what the time to the first token brings, per sequence."""
        if not self.decoding:
            return N - 1
        return expand(Add(*(p.generated for p in self._afterwards)))

    @property
    def asks_again(self) -> bool:
        """True where prompts follow the first token: the turns of a chat."""
        others = (p for p in self._afterwards if not p.walks_contexts)
        return bool(self.decoding) and any(p.tokens != 0 for p in others)

    @property
    def generated(self) -> Expr:
        """Tokens that a request generates, per sequence: ``N``, or several answers of ``N``."""
        return expand(Add(*(p.generated for p in self.phases)))

    def phase_for(self, given: Collection[str]) -> Phase:
        """The phase whose step a workload with these sizes means.

        With a context the last that steps over contexts, not one that runs between such
        steps at a length of its own; with a prompt, and where nothing steps, the first phase.
        """
        stepping = [
            p for p in self.phases
            if p.span is not None and not (p.walks_contexts and p.bind(T).is_number)
        ]  # fmt: skip
        if stepping and ("T" in given or "S" not in given):
            return stepping[-1]
        return self.phases[0]

    @property
    def graph(self) -> Graph:
        """The model's step graph: that of the first phase."""
        return self.phases[0].graph

    @property
    def extents(self) -> frozenset[Symbol]:
        """Symbols that say how long a request is and how often its phases run."""
        found: set[Symbol] = set()
        for phase in self.phases:
            found |= phase.weight.free_symbols | phase.tokens.free_symbols
            for _, value in phase.bindings:
                found |= value.free_symbols
            if phase.span is not None:
                found |= {phase.span.symbol} | phase.span.lower.free_symbols
                found |= phase.span.upper.free_symbols
        return frozenset(found)

    def weights(self) -> Iterator[tuple[Tensor, Expr]]:
        """Each of the model's weights once, with its count."""
        first = self.phases[0]
        return chain(first.graph.weights(), *(r.weights() for r in first.resident if r.part))

    def with_graphs(self, graphs: Mapping[str, Graph]) -> Program:
        """The program with other step graphs, by phase name."""
        phases = tuple(replace(p, graph=graphs.get(p.name, p.graph)) for p in self.phases)
        return replace(self, phases=phases)

    def rewritten(self, f: Callable[[Graph], Graph]) -> Program:
        """``f`` applied once to every step graph, resting ones included.

        Phases that shared a graph still do.
        """
        done: dict[int, Graph] = {}

        def new(graph: Graph) -> Graph:
            if id(graph) not in done:
                done[id(graph)] = f(graph)
            return done[id(graph)]

        return replace(self, phases=tuple(p.rewritten(new) for p in self.phases))

    def rewritten_by_step(self, f: Callable[[Graph, bool], Graph]) -> Program:
        """``f`` applied once to every step graph for steps of one token, and once for others.

        ``f`` is told whether it is for steps of one token; graphs that rest are for others.
        """
        done: dict[tuple[int, bool], Graph] = {}

        def new(graph: Graph, single: bool) -> Graph:
            key = (id(graph), single)
            if key not in done:
                done[key] = f(graph, single)
            return done[key]

        def phase(old: Phase) -> Phase:
            resident = tuple(replace(r, graph=new(r.graph, False)) for r in old.resident)
            return replace(old, graph=new(old.graph, old.is_single_query), resident=resident)

        return replace(self, phases=tuple(map(phase, self.phases)))

    def assuming(self, *sentences: str) -> Program:
        """The program with further assumptions, each kept once."""
        merged = tuple(dict.fromkeys((*self.assumptions, *sentences)))
        return replace(self, assumptions=merged)

    def fixing(self, values: Mapping[Symbol, Expr]) -> Program:
        """The program with numbers for symbols of its own: ``K`` steps, ``G`` image tokens.

        Raises:
            InputError: a request's own size (``B``, ``S``, ``N``, ``T``) is among them.
        """
        for symbol in values:
            if symbol.name in ("B", "S", "N", "T", "q"):
                raise InputError(
                    f"{symbol.name} is a size of each request: give it where a formula is evaluated"
                )

        def f(expr: Expr) -> Expr:
            return expr.xreplace(dict(values))

        def fixed(phase: Phase) -> Phase:
            span = None if phase.span is None else phase.span.mapped(f)
            for symbol, value in values.items():
                phase = phase.with_binding(symbol, value)
            return replace(phase, span=span, tokens=f(phase.tokens), weight=f(phase.weight))

        return replace(
            self,
            phases=tuple(fixed(p) for p in self.phases),
            limits=tuple(x.mapped(f) for x in self.limits),
            replicas=f(self.replicas),
            fixed=(*self.fixed, *values.items()),
        )

    def __repr__(self) -> str:
        phases = ", ".join(p.name for p in self.phases)
        return f"<Program {self.name}, phases: {phases}>"

    def _repr_html_(self) -> str:
        return view_text("program_html", self)


def autoregressive(
    name: str,
    graph: Graph,
    assumptions: tuple[str, ...] = (),
    limits: tuple[Limit, ...] = (),
    dims: tuple[tuple[Symbol, Expr], ...] = (),
    decode_graph: Graph | None = None,
) -> Program:
    """Prefill of ``S`` tokens, then ``N − 1`` decode steps, of one step graph.

    With a ``decode_graph``, decode steps run another form of the same model (absorbed
    latent attention, scans token by token): its weights and caches are the same, in memory once.
    """
    prefill = Phase("prefill", graph, ((q, S), (T, S)))
    decode = Phase("decode", decode_graph or graph, ((q, ONE),), Span(T, S + 1, S + N - 1))
    return Program(name, (prefill, decode), assumptions, limits, dims)


def single_pass(
    name: str,
    graph: Graph,
    assumptions: tuple[str, ...] = (),
    limits: tuple[Limit, ...] = (),
    dims: tuple[tuple[Symbol, Expr], ...] = (),
) -> Program:
    """One pass, ``forward``, over sequences of ``S`` tokens, which emits none."""
    phase = Phase("forward", graph, ((q, S), (T, S)), tokens=Integer(0))
    return Program(name, (phase,), assumptions, limits, dims)


def denoising(
    name: str,
    graph: Graph,
    assumptions: tuple[str, ...] = (),
    limits: tuple[Limit, ...] = (),
    dims: tuple[tuple[Symbol, Expr], ...] = (),
) -> Program:
    """``K`` steps over the whole sequence, prompt and answer: ``q = T = S + N``.

    Each step emits ``N / K`` tokens; nothing is cached between steps (diffusion
    language models, Nie et al., arXiv 2502.09992).
    """
    whole = S + N
    phase = Phase("denoise", graph, ((q, whole), (T, whole)), None, N / K, K)
    return Program(name, (phase,), assumptions, limits, dims)
