"""Seconds of a server's steps: the formulas of mixes, tabulated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from sympy import Expr, Integer, Rational, Symbol

from costgraph.asking.serving import dealt, forms
from costgraph.asking.serving.memory import MEMORY_SHARE, NOTHING, Memories
from costgraph.compiling.breakdown import unit_seconds
from costgraph.compiling.mixing import assumed as mixed_assumed
from costgraph.compiling.mixing import operation_terms, stepping
from costgraph.errors import InputError
from costgraph.formula import Formula, Term
from costgraph.formula.terms import merged
from costgraph.ir.mix import Group, Mix
from costgraph.number import whole
from costgraph.symbols import B, S, T, symbol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from costgraph.compiling.compiled import Compiled

#: Sequences that decode, their context, tokens of a chunk, and where the chunk ends.
c, C, P = symbol("c"), symbol("C"), symbol("P")
#: Sequences that decode, and tokens of chunks, on the replica that has most of them.
c_most, C_most = symbol("c_most"), symbol("C_most")
ONE = Integer(1)
ATTENTION = (
    "attention runs once for all sequences that decode, and for chunks of several prompts one "
    "after the other"
)
ASSUMED = (
    "sequences that decode count at their mean context, to the nearest token; no host time between "
    "steps"
)
SPREAD = (
    "replicas share a server's step: each sequence is whole on one of {}, a prompt's chunk on that "
    "with the fewest tokens; the step takes what the most decodes and the most tokens of any "
    "take on one, an upper bound; rows of experts are those of all replicas, but where one kernel "
    "exchanges them too; caches fill replicas evenly, and cross from one to one between pools; "
    "where a step's budget is short of one prompt, rates that closed forms stand are of chunks on "
    "one replica, lower estimates"
)


#: Sequences of a group at which the stages of a pipeline are weighed.
USUAL_BATCH = 32
LANES = (
    "a pipeline that serves has one group of sequences for each stage in flight (not the one batch "
    "at a time of micro=1), whose steps queue at the stages and overtake none: a prompt holds up "
    "the groups behind it; stages share every step as they share a decode step of "
    f"{USUAL_BATCH} sequences; in closed forms a step takes as long as the longest of the groups' "
    "steps, or the slowest stage as often as there are groups"
)


@dataclass(frozen=True)
class Path:
    """Decode steps in a row, of the same sequences.

    Attributes:
        row: seconds of steps added up over contexts 0, 1, 2 …
        start: mean context of the first step.
        pace: positions by which it grows with every step.
        most: steps that there are.
    """

    row: NDArray[np.float64]
    start: int
    pace: float
    most: int

    def seconds(self, steps: int) -> float:
        """Seconds of the first steps."""
        if self.pace == 1:
            return float(self.row[self.start - 1 + steps] - self.row[self.start - 1])
        last = self.start - 1 + steps * self.pace
        low = min(int(last), len(self.row) - 2)
        end = self.row[low] + (last - low) * (self.row[low + 1] - self.row[low])
        return float(end - self.row[self.start - 1]) / self.pace

    def steps(self, elapsed: float) -> int:
        """Steps until the one that is running after some seconds has ended."""
        if self.pace == 1:
            past = self.row[self.start - 1] + elapsed
            found = np.searchsorted(self.row[self.start : self.start + self.most], past, "left")
            return min(int(found) + 1, self.most)
        low, high = 0, self.most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(middle) < elapsed else (low, middle)
        return high


@dataclass
class StepTimes:
    """How long steps take, as :meth:`.Compiled.step` has it, kept once they were asked for.

    A step's terms are told apart by what they depend on, so that a table over one or two
    sizes serves each: attention of decodes over ``(c, T)``, that of a chunk over ``(C, P)``,
    everything else over ``(c, C)``.

    Attributes:
        compiled: the model on one replica's devices.
        longest: the largest context that is asked for.
        lanes: groups of sequences that are in flight one behind another, in a pipeline.
        stretch: what a slowest stage adds to the time through all stages.
        prompts: tokens of every prompt, where all have as many: what caches keep of a prompt
            depends on it.
        stages: shares of a step that stages and the links between them have, in order; empty:
            equal ones of as many stages as lanes.
    """

    compiled: Compiled
    longest: int
    lanes: int = 1
    stretch: float = 1.0
    prompts: int | None = None
    stages: tuple[float, ...] = ()
    _rows: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _single: dict[tuple[int, int], float] = field(default_factory=dict)
    _joint: dict[tuple[int, int, int], float] = field(default_factory=dict)
    _beside: dict[tuple[int, int], float] = field(default_factory=dict)
    _chunks: dict[tuple[int, int], float] = field(default_factory=dict)
    _whole: dict[tuple[int, int, int, int, int], float] = field(default_factory=dict)
    _caches: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, compiled: Compiled, longest: int, prompts: int | None = None) -> StepTimes:
        """Steps of a replica, a pipeline's as those of one of its groups."""
        lanes = compiled.program.stages
        if lanes == 1:
            return cls(compiled, longest, prompts=prompts)
        at: dict[Expr, Expr] = {B: Integer(USUAL_BATCH), T: Integer(max(1, longest // 2))}
        if prompts is not None:
            at[S] = Integer(prompts)
        each = unit_seconds(compiled, stepping(compiled.program).decode, at)
        whole = sum(each.values())
        stretch = max(1.0, lanes * max(each.values()) / whole)
        stages = tuple(seconds / whole for seconds in each.values())
        return cls(compiled, longest, lanes, stretch, prompts, stages)

    def __post_init__(self) -> None:
        stepping(self.compiled.program)  # no steps at all, before positions
        whole(self.longest, "the longest context")
        if not self.compiled.program.replicas.is_Integer:
            raise InputError(
                f"dp={self.compiled.program.replicas}: steps need a number of replicas"
            )
        at = {T: Integer(self.longest), S: Integer(self.longest)}
        for limit in self.compiled.program.limits:
            # What a prompt has at least is asked of prompts: contexts are longer.
            if not limit.bound.has(S) and (broken := limit.broken(at)):
                raise InputError(broken)

    def check(self, prompt: int) -> None:
        """Refuse a prompt that is too short for the model, such as for the images in it.

        Raises:
            InputError: it is.
        """
        for limit in self.compiled.program.limits:
            if broken := limit.broken({S: Integer(prompt)}):
                raise InputError(broken)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What its times and room rest on."""
        mixed, timing = mixed_assumed(self.compiled.program, ATTENTION), self.compiled.timing
        spread = (SPREAD.format(self.replicas),) if self.replicas > 1 else ()
        lanes = (LANES,) if self.lanes > 1 else ()
        return (*mixed, *(() if timing is None else timing.mixes), ASSUMED, *spread, *lanes)

    @property
    def passed(self) -> tuple[float, ...]:
        """Shares of a step that lanes take turns at; none where there is one lane."""
        if self.lanes == 1:
            return ()
        return self.stages or (1 / self.lanes,) * self.lanes

    @cached_property
    def replicas(self) -> int:
        """Among how many replicas the sequences of a step are dealt."""
        return self.memories.replicas

    def _fullest(self, sequences: Expr, new: Expr) -> tuple[Expr, Expr] | None:
        """What the fullest replica has, were all as full; None where there is one."""
        return None if self.replicas == 1 else (self.replicas * sequences, new)

    @cached_property
    def _decoding(self) -> Group:
        return Group(c, ONE, T, self._fullest(c_most, ONE))

    @cached_property
    def _chunk(self) -> Group:
        return Group(ONE, C, P, self._fullest(ONE, C_most))

    def _terms(self, mix: Mix, only: Collection[str] | None = None) -> tuple[Term, ...]:
        """What a step takes, operation by operation."""
        found: Iterable[Term] = operation_terms(self.compiled, mix, only)
        if own := self.memories.own:
            found = (t.mapped(lambda e: e.xreplace(own)) if S in t.symbols else t for t in found)
        if self.stretch == 1:
            return tuple(found)
        return tuple(replace(t, count=t.count * Rational(str(self.stretch))) for t in found)

    @cached_property
    def _decode_terms(self) -> tuple[Formula, Formula]:
        terms = self._terms(Mix((self._decoding,)))
        return _told(terms, T)

    @cached_property
    def _prompt_terms(self) -> tuple[Formula, Formula]:
        """What looks at positions, and the rest, of a chunk alone."""
        terms = self._terms(Mix((self._chunk,)))
        return _told(terms, P)

    @cached_property
    def _fresh(self) -> Formula:
        """What looks at positions, of a whole prompt: of equal sizes more is known to be less."""
        looking = {op for t in self._prompt_terms[0].terms for op in t.ops}
        context = C_most if self.replicas > 1 else C
        return _part(self._terms(Mix((replace(self._chunk, context=context),)), looking))

    @cached_property
    def _joint_terms(self) -> tuple[Formula, Formula, Formula | None]:
        """What decodes and a chunk share, what of decodes looks at positions beside a chunk; the
        whole step where its parts overlap."""
        terms = self._terms(Mix((self._decoding, self._chunk)))
        (decodes, _), (chunk, _) = _told(terms, T), _told(terms, P)
        if any(
            t.symbols & {T, c, c_most} and t.symbols & {P, C, C_most}
            for t in (*decodes.terms, *chunk.terms)
        ):
            return _part(()), _part(()), _part(terms)
        looking = {op for t in (*decodes.terms, *chunk.terms) for op in t.ops}
        return _part(t for t in terms if not looking.issuperset(t.ops)), decodes, None

    @cached_property
    def unmixed(self) -> str:
        """Why no prompt joins steps of decodes; empty where they do."""
        try:
            self._joint_terms  # noqa: B018
        except InputError as why:
            return str(why)
        return ""

    @cached_property
    def gain(self) -> float:
        """Tokens that a step emits for each sequence: above one where they are drafted."""
        return float(stepping(self.compiled.program).tokens)

    def row(self, decodes: int) -> NDArray[np.float64]:
        """Seconds of decode steps of so many sequences, added up over contexts 0, 1, 2 …

        The difference of two places is what the steps between them take.
        """
        found = self._rows.get(decodes)
        if found is None:
            attention, others = self._decode_terms
            contexts = np.arange(1, self.longest + 1)
            most = self._most(decodes)
            each = _at(others, c=decodes, c_most=most)
            each = each + _at(attention, c=decodes, c_most=most, T=contexts)
            each = np.broadcast_to(each, contexts.shape)
            found = self._rows[decodes] = np.concatenate(([0.0], np.cumsum(each)))
        return found

    def path(self, decodes: int, context: float, pace: float, most: int) -> Path:
        """Decode steps of so many sequences from a mean context on, as far as the table goes."""
        start = self.place(context)
        ahead = max(1, int((self.longest + 1 - start) / pace))
        return Path(self.row(decodes), start, pace, min(most, ahead))

    def decode(self, decodes: int, context: float) -> float:
        """Seconds of one decode step at a mean context."""
        key = (decodes, self.place(context))
        if key not in self._single:
            most = self._most(decodes)
            attention, others = (
                float(_at(part, c=decodes, c_most=most, T=key[1])) for part in self._decode_terms
            )
            self._single[key] = others + attention
        return self._single[key]

    def place(self, context: float) -> int:
        """The nearest context of a table."""
        return forms.placed(context, self.longest)

    def step(self, decodes: int, context: float, chunks: Sequence[tuple[int, int]]) -> float:
        """Seconds of one step.

        Args:
            decodes: sequences that decode; may be none.
            context: their mean context, the new token included.
            chunks: (tokens, position at which it ends) of each prompt's chunk.
        """
        return dealt.stepped(self, decodes, context, chunks)

    def _most(self, decodes: int) -> int:
        return dealt.fullest(decodes, self.replicas)

    def beside(self, decodes: int, context: float) -> float:
        """Seconds of what looks at positions, of decodes in a step with a prompt.

        Some libraries have kernels of their own for both at once.
        """
        key = (decodes, self.place(context))
        if key not in self._beside:
            most, beside = self._most(decodes), self._joint_terms[1]
            self._beside[key] = float(_at(beside, c=decodes, c_most=most, T=key[1]))
        return self._beside[key]

    @property
    def overlaps(self) -> bool:
        """Whether parts of decodes and of chunks run at the same time."""
        return self._joint_terms[2] is not None

    def together(self, decodes: int, context: float, tokens: int, end: int, most: int) -> float:
        """Seconds of a whole step, where parts overlap."""
        whole = self._joint_terms[2]
        assert whole is not None
        key = (decodes, self.place(context), tokens, end, most)
        if key not in self._whole:
            self._whole[key] = self._joined(whole, *key)
        return self._whole[key]

    def alone(self, tokens: int, most: int) -> float:
        """Seconds of what looks at no positions, of prompts without decodes.

        ``most`` of the tokens are on the replica that has most of them.
        """
        return self._shared(self._prompt_terms[1], 0, tokens, most)

    def shared(self, decodes: int, tokens: int, most: int) -> float:
        """Seconds of what looks at no positions, of decodes and prompts together."""
        return self._shared(self._joint_terms[0], decodes, tokens, most)

    def _shared(self, terms: Formula, decodes: int, tokens: int, most: int) -> float:
        key = (decodes, tokens, most)
        if key not in self._joint:
            self._joint[key] = self._joined(terms, decodes, 0, tokens, 0, most)
        return self._joint[key]

    def _joined(
        self, terms: Formula, decodes: int, context: int, tokens: int, end: int, most: int
    ) -> float:
        sequences = self._most(decodes)
        found = _at(terms, c=decodes, c_most=sequences, T=context, C=tokens, C_most=most, P=end)
        return float(found)

    def looking(self, tokens: int, end: int) -> float:
        """Seconds of what looks at positions, of a chunk; of a whole prompt its own kernels."""
        key = (tokens, end)
        if key not in self._chunks:
            terms = self._fresh if tokens == end else self._prompt_terms[0]
            self._chunks[key] = float(_at(terms, C=tokens, C_most=tokens, P=end))
        return self._chunks[key]

    @property
    def parts(self) -> tuple[tuple[Formula, ...], ...]:
        """The formulas behind all of these, for who evaluates them elsewhere.

        Where replicas share a step, over ``c_most`` and ``C_most`` as well, of the fullest.
        Of decode steps over ``c`` and ``T``: what looks at positions, and the rest; of prompts
        over ``C`` and ``P``: of a chunk the same two, and what looks at positions in a whole
        prompt; of both what they share and what looks at positions of decodes, or the whole step
        where :attr:`overlaps`.
        """
        shared, beside, whole = self._joint_terms
        both = shared if whole is None else whole
        return (
            self._decode_terms,
            (*self._prompt_terms, self._fresh),
            (both, beside),
        )

    def prompt(self, tokens: int) -> float:
        """Seconds of a whole prompt in a step of its own."""
        return self.step(0, 0, ((tokens, tokens),))

    def chunked(
        self, tokens: int, chunk: int, decodes: int = 0, context: float = 0, cached: int = 0
    ) -> float:
        """Seconds of a prompt in chunks, each in a step of ``decodes`` sequences.

        Its first ``cached`` tokens are not read.
        """
        return forms.chunked(self, tokens, chunk, decodes, context, cached)

    def position(self) -> float:
        """Byte of caches on each device that a further position of a sequence takes."""
        n, units = self.longest, self.memories.units
        return max(((u.held(2 * n) - u.held(n)) / n for u in units), default=0.0)

    def caches(self, positions: int) -> float:
        """Byte of a sequence's caches at so many positions, of the unit that holds most."""
        if positions not in self._caches:
            found = (unit.held(positions) for unit in self.memories.units)
            self._caches[positions] = max(found, default=0.0)
        return self._caches[positions]

    @cached_property
    def memories(self) -> Memories:
        """What sequences take of memory."""
        return Memories(self.compiled, self.lanes, self.prompts)

    def taken(self, context: int, read: tuple[int, int] = NOTHING) -> int:
        """Parts of :data:`.WHOLE` that a sequence takes; see :meth:`.Memories.taken`."""
        return self.memories.taken(context, read)

    def room(
        self, context: float, share: float = MEMORY_SHARE, read: tuple[int, int] = NOTHING
    ) -> int:
        """Sequences whose caches at a context fit beside all else; of one lane.

        All units, and farther levels of memory, are considered.

        Args:
            context: positions of each.
            share: of memory, for weights and caches.
            read: the largest chunk of a prompt; see :meth:`.Memories.taken`.

        Raises:
            InputError: the device's file states no capacity.
        """
        return self.memories.most(self.place(context), read, share) // self.lanes


def _told(terms: Iterable[Term], symbol: Symbol) -> tuple[Formula, Formula]:
    """The operations that depend on a symbol, with all of their terms, and the others."""
    every = list(terms)
    looking = {op for t in every if symbol in t.symbols for op in t.ops}
    own = [t for t in every if looking.issuperset(t.ops)]
    return _part(own), _part(t for t in every if t not in own)


def _part(terms: Iterable[Term]) -> Formula:
    return Formula("step", "s", merged(terms))


def _at(formula: Formula, **values: object) -> NDArray[np.float64] | float:
    """A part at sizes of which it may know only some."""
    if not formula.terms:
        return 0.0
    names = {s.name for s in formula.symbols}
    found: NDArray[np.float64] | float = formula.evaluate(
        **{k: v for k, v in values.items() if k in names}
    )
    return found
