"""What sequences take of a server's memories, and what steps leave for them.

Weights and caches have a share of a device's memory, or less: live activations of the largest
step must fit beside them. A farther level of memory is all there for what is kept in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

from sympy import Expr, Integer, expand

from costgraph.asking.serving import rooms
from costgraph.compiling.capacity import at_level, room_of
from costgraph.compiling.mixing import stepping
from costgraph.errors import InputError
from costgraph.symbols import B, S, T, q
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

#: Share of a device's memory that servers give to weights and caches.
MEMORY_SHARE = rooms.MEMORY_SHARE
#: Parts into which room for caches is divided: whole numbers, which add up exactly.
WHOLE = 2**48
#: A step that reads no prompt: no tokens, to no position.
NOTHING = (0, 0)
LIVE = (
    "live activations of a step have the rest, and caches less where they need more: those of all "
    "that decode and of one prompt or chunk at the longest context, counted together"
)


@dataclass(frozen=True)
class Line:
    """Bytes against the number of sequences, and the bytes that there are.

    Attributes:
        size: that there are.
        once: what is needed without any sequence.
        each: what each adds.
        what: what is needed once, in words.
        where: what the bytes are that there are, in words.
    """

    size: float
    once: float
    each: float
    what: str
    where: str

    @property
    def most(self) -> int:
        """Sequences that fit; none where what is needed once does not."""
        return rooms.fitting(self.size, self.once, self.each)

    @property
    def taken(self) -> int:
        """Parts of :data:`WHOLE` that one sequence takes of what is left.

        Raises:
            InputError: nothing is left.
        """
        if self.once >= self.size:
            raise InputError(
                f"{self.what} alone exceed {self.where}: {self.once / 1e9:.4g} of "
                f"{self.size / 1e9:.4g} GB"
            )
        return ceil(self.each / (self.size - self.once) * WHOLE)


@dataclass(frozen=True)
class Unit:
    """What one unit of a server holds.

    Attributes:
        weights: byte.
        caches: byte of a sequence, over ``T``.
        decode: candidates for live activations of a decode step, over ``T``: what there is
            without any sequence, and what each adds.
        prompt: candidates for those of one prompt's chunk, over ``q`` and ``T``.
    """

    weights: Expr
    caches: Expr
    decode: tuple[tuple[Expr, Expr], ...]
    prompt: tuple[Expr, ...]

    def held(self, positions: int) -> float:
        """Byte of a sequence's caches at so many positions."""
        return _number(self.caches.xreplace({T: Integer(positions)}))

    def read(self, tokens: int, end: int) -> float:
        """Byte of live activations of a step that reads so many tokens of a prompt to its end."""
        at = {q: Integer(tokens), T: Integer(end)}
        return max((_number(e.xreplace(at)) for e in self.prompt), default=0.0) if tokens else 0.0


@dataclass(frozen=True)
class Memories:
    """Every memory of a server: those of its units, and farther levels.

    Attributes:
        compiled: the model on one replica's devices.
        lanes: groups of sequences in flight, of which one is in a step at each unit.
        prompts: tokens of every prompt, where all have as many.
    """

    compiled: Compiled
    lanes: int = 1
    prompts: int | None = None
    _most: dict[tuple[int, tuple[int, int], float], int] = field(
        default_factory=dict, compare=False
    )
    _taken: dict[tuple[int, tuple[int, int]], int] = field(default_factory=dict, compare=False)
    _reads: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict, compare=False)

    def taken(self, context: int, read: tuple[int, int] = NOTHING) -> int:
        """Parts of :data:`WHOLE` room that a sequence takes at a context; of the fullest memory.

        Args:
            context: its positions.
            read: tokens of the largest chunk of a prompt, and the position at which it ends.

        Raises:
            InputError: the device's file states no capacity, or nothing is left for caches.
        """
        key = context, read
        if key not in self._taken:
            taken = max(line.taken for line in self.lines(context, read))
            # One that no replica has room for does not fit, however many there are.
            self._taken[key] = taken if taken > WHOLE else ceil(taken / self.replicas)
        return self._taken[key]

    @property
    def replicas(self) -> int:
        """Replicas that share steps: a memory is one replica's, and lines count its sequences."""
        return int(self.compiled.program.replicas)

    def most(
        self, context: int, read: tuple[int, int] = NOTHING, share: float = MEMORY_SHARE
    ) -> int:
        """Sequences that there is room for at a context, of all lanes.

        Raises:
            InputError: the device's file states no capacity.
        """
        key = context, read, share
        if key not in self._most:
            self._most[key] = self.replicas * min(line.most for line in self.lines(*key))
        return self._most[key]

    def lines(
        self, context: int, read: tuple[int, int], share: float = MEMORY_SHARE
    ) -> tuple[Line, ...]:
        """What is asked of each memory: a share for weights and caches, all for everything."""
        return (*self._near(context, read, share), *self._far(context))

    @cached_property
    def _capacity(self) -> float:
        found = room_of(self.compiled)
        if found is None:
            raise InputError(f"{self.compiled.place} states no capacity: no batch limit follows")
        return found

    @property
    def own(self) -> dict[Expr, Expr]:
        """Values of sizes that all requests have in common."""
        return {} if self.prompts is None else {S: Integer(self.prompts)}

    @property
    def _sequences(self) -> tuple[dict[Expr, Expr], dict[Expr, Expr]]:
        """One sequence, and two, on every replica."""
        one, two = ({B: Integer(b * self.replicas), **self.own} for b in (1, 2))
        return one, two

    @property
    def asks_prompt(self) -> bool:
        """Whether what a sequence takes hangs on the length of its own prompt, not known here."""
        return any(unit.caches.has(S) for unit in self.units)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What each unit holds; of those that hold the same, one."""
        found, accounting = stepping(self.compiled.program), self.compiled.accounting
        kept = ((s, e) for s, e in found.prefill.bindings if s not in (q, T))
        chunk = replace(found.prefill, bindings=tuple(kept))
        prompts = {
            held.unit: held.activations
            for held in roofline.memory_parts(chunk, accounting, at_end=False)
        }
        one, two = self._sequences
        made = []
        for held in roofline.memory_parts(found.decode, accounting, at_end=False):
            each = [(x.xreplace(one), x.xreplace(two)) for x in held.activations]
            lines = dict.fromkeys((expand(2 * a - b), expand(b - a)) for a, b in each)
            read = tuple(dict.fromkeys(x.xreplace(one) for x in prompts.get(held.unit, ())))
            weights = held.weights.xreplace(self.own)
            made.append(Unit(weights, held.caches.xreplace(one), tuple(lines), read))
        return tuple(dict.fromkeys(made))

    def _near(self, context: int, read: tuple[int, int], share: float) -> Iterator[Line]:
        def at(expr: Expr) -> float:
            return _number(expr.xreplace({T: Integer(context)}))

        reading = f" that reads {read[0]} tokens of a prompt" if read[0] else ""
        for unit, chunk in zip(self.units, self._read(read), strict=True):
            one, size, weights = unit.held(context), self._capacity, at(unit.weights)
            caching = rooms.caching(size, share, weights, one)
            yield Line(*caching, "weights", f"{share:.0%} of memory")
            for once, each in unit.decode:
                living = rooms.living(size, weights, at(once), at(each), chunk, one, self.lanes)
                what = f"weights and live activations of a step{reading}"
                yield Line(*living, what, "memory")

    def _read(self, read: tuple[int, int]) -> tuple[float, ...]:
        if read not in self._reads:
            self._reads[read] = tuple(u.read(*read) for u in self.units)
        return self._reads[read]

    def _far(self, context: int) -> Iterator[Line]:
        at = {T: Integer(context)}
        for level, size, once, each in self.far:
            yield Line(size, float(once.xreplace(at)), float(each.xreplace(at)), "weights", level)

    @cached_property
    def far(self) -> tuple[tuple[str, float, Expr, Expr], ...]:
        """Farther levels: name, size, what is needed once and by each sequence, over ``T``."""
        decode, found = stepping(self.compiled.program).decode, []
        for level in self.compiled.farther:
            size = at_level(self.compiled, level)
            if size is None:
                continue
            need = roofline.level_memory(decode, level, at_end=False)
            one, two = (need.xreplace(at) for at in self._sequences)
            found.append((level, size, 2 * one - two, two - one))
        return tuple(found)


def _number(expr: Expr) -> float:
    """A size as a number.

    Raises:
        InputError: a symbol of a pass is left in it.
    """
    if expr.has(S):
        raise InputError(
            "what a sequence takes of memory depends on the length of its own prompt (S), which is "
            "not followed: of what chooses rows of a prompt (snap-kv) servers are told where all "
            "prompts are equally long"
        )
    if not expr.is_number:
        names = sorted(s.name for s in expr.free_symbols)
        raise InputError(
            f"what a sequence takes of memory depends on {', '.join(names)}: give a number, "
            f"{' '.join(f'--set {name}=…' for name in names)} "
            f"(of compile: {', '.join(f'{name}=…' for name in names)})"
        )
    return float(expr)
