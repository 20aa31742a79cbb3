"""Steps of mixed work: a server's step as a formula over what is in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from sympy import Expr

from costgraph.counting.count import Item, Row, flat
from costgraph.counting.mixed import MixedRow, Part, aside, mixed_items
from costgraph.errors import InputError
from costgraph.formula import Formula, Term
from costgraph.formula.envelope import dominates
from costgraph.formula.least import renamed
from costgraph.formula.terms import Limit, merged
from costgraph.ir.cost import Cost, total
from costgraph.ir.mix import Group, Mix
from costgraph.ir.program import Phase, Program
from costgraph.ops import KVAppend
from costgraph.ops.fused import operations
from costgraph.ops.pattern import Kept
from costgraph.symbols import B, S, T, q
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

ASSUMED = "mixed step: weights are read once for all groups, products see the tokens of all"
ATTENTION = "attention runs once for the groups that decode and once for the others"
ROUNDS = (
    "sequences that decode draft and verify: a step is a round, drafts run before the "
    "verification, which prompts join; a request's rounds are its tokens over the expected number "
    "of one, in a simulation the next whole number"
)
EVICTED = (
    "caches that choose what stays choose behind every step, those of chunks included: a chunk "
    "finds what stayed of the tokens in front of it"
)
APART = (
    "{} of a request is in no step of the server: others have it, and what it takes comes before "
    "times to first tokens"
)
LOGITS = "every group has the logits of its last positions, of chunks within a prompt as well"


@dataclass(frozen=True)
class Stepping:
    """The phases that a server's steps are made of.

    Attributes:
        prefill: of prompts.
        decode: of decode steps, or of verifications where tokens are drafted.
        drafting: phases that draft before a verification, and how often each runs.
        reading: phases in which a draft reads what prompts read.
    """

    prefill: Phase
    decode: Phase
    drafting: tuple[tuple[Phase, Expr], ...] = ()
    reading: tuple[Phase, ...] = ()

    @property
    def tokens(self) -> Expr:
        """Tokens that one step emits for a sequence, on average."""
        return self.decode.tokens

    def of(self, group: Group) -> Phase:
        """The phase that a group of a mix is in."""
        return self.decode if group.decodes else self.prefill


def stepping(program: Program) -> Stepping:
    """What a server's steps run.

    Raises:
        InputError: the program's steps are not of this kind.
    """
    program.check_served()
    if not program.emits:
        raise InputError(
            f"{program.name} generates no tokens (it has {_named(program.phases)}): a server's "
            "steps are prompts and decode steps of a model that does; of others take the latency "
            "of a batch (costgraph formula, with B)"
        )
    emitting = [p for p in program.decoding if p.tokens != 0]
    prefill = [p for p in program.phases if p.name == "prefill"]
    if len(emitting) != 1 or len(prefill) != 1:
        raise InputError(
            f"{program.name}: steps of mixed work need one phase of prompts and one of decode "
            f"steps, not {_named(program.phases)}"
        )
    first, then = prefill[0], emitting[0]
    if S not in first.query.free_symbols and (ahead := _ahead(program, first)):
        raise InputError(
            f"{program.name} reads prompts in an encoder (it has {_named(ahead)} first): a "
            "server's steps are of models that decode behind the prompt itself; of others take the "
            "latency of a batch (costgraph formula, with B)"
        )
    drafting = tuple((p, p.weight / then.weight) for p in program.decoding if p.tokens == 0)
    reading = tuple(
        p for p in program.phases if p is not first and p.tokens == 0 and _reads(p)
    )  # fmt: skip
    if first.substitution.get(T) == S != first.query:
        raise InputError(
            f"{program.name}: prompts are cached in part in every request: of servers the share "
            "of them is told instead (serve-simulate --prefix-hits, or a trace's column cached)"
        )
    if not (_reads(first) and _steps(then) and all(_shift(p).is_number for p, _ in drafting)):
        raise InputError(
            f"{program.name}: prompts or decode steps are not of one token a position (drafts "
            "ahead of their verification, branches, prompts cached in part, or "
            "positions shared among devices): no steps of mixed work"
        )
    if any(p.rounds != 1 for p in (first, then, *reading)):
        raise InputError(f"{program.name}: groups in a pipeline are mixes already: use micro=1")
    return Stepping(first, then, drafting, reading)


def assumed(program: Program, attention: str = ATTENTION) -> tuple[str, ...]:
    """What steps of a program rest on, and how often ``attention`` runs in one."""
    found = stepping(program)
    caches = (op.keeps for op, _ in operations(found.prefill.graph) if isinstance(op, KVAppend))
    said = {
        f"{ASSUMED}; {attention}; {LOGITS}": True,
        ROUNDS: found.tokens != 1,
        EVICTED: any(isinstance(keeps, Kept) for keeps in caches),
    }
    ahead = _ahead(program, found.prefill)
    if apart := [p for p in ahead if all(p is not r for r in found.reading)]:
        said[APART.format(_named(apart))] = True
    return tuple(text for text, holds in said.items() if holds)


def _named(phases: Iterable[Phase]) -> str:
    """Phases by name: ``the phase forward``."""
    names = [p.name for p in phases]
    return f"the phase{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _ahead(program: Program, first: Phase) -> tuple[Phase, ...]:
    """What a request runs before the phase in which its prompt is read."""
    return tuple(takewhile(lambda p: p is not first, program.phases))


def _reads(phase: Phase) -> bool:
    """Whether a phase forwards every position of a prompt once."""
    return bool(phase.query == S and phase.substitution.get(T) == S)


def _steps(phase: Phase) -> bool:
    """Whether every step of a phase is alike, and as many tokens come out as are counted."""
    return bool(phase.query.is_number and phase.weight * phase.tokens == 1 and (
        _shift(phase).is_number if phase.tokens != 1 else T not in phase.substitution))  # fmt: skip


def _shift(phase: Phase) -> Expr:
    """Positions behind the context at which a round begins."""
    return phase.substitution.get(T, T) - T


def step_items(
    compiled: Compiled, mix: Mix, only: Collection[str] | None = None
) -> tuple[Item, ...]:
    """The counted operations of one step, groups told by the mix's own symbols.

    Where tokens are drafted, a group that decodes is one that drafts and verifies.

    Args:
        only: names of operations of the graphs of prompts and decodes; of what overlaps with
            one of them, all. None: every operation.

    Raises:
        InputError: the program has no such steps.
    """
    found, items = stepping(compiled.program), compiled.items
    parts = [_part(g, found.of(g)) for g in mix.groups]
    decode, prefill = (
        tuple(i for i in items[p.name] if only is None or any(r.name in only for r in flat((i,))))
        for p in (found.decode, found.prefill)
    )
    made = mixed_items(decode, prefill, parts)
    stepped, read = mix.where(True), mix.where(False)
    for phase, times in found.drafting if stepped else ():
        made += aside(items[phase.name], [_part(g, phase) for g in stepped], phase.name, times)
    for phase in found.reading if read else ():
        made += aside(items[phase.name], [_part(g, phase) for g in read], phase.name)
    return made


def _part(group: Group, phase: Phase) -> Part:
    if group.fullest is not None:
        sequences, new = group.fullest
        mean = replace(group, fullest=None)
        most = replace(mean, sequences=sequences, new=new)
        return replace(_part(most, phase), mean=_part(mean, phase))
    inside = {k: v for k, v in phase.bindings if k not in (q, T)}
    kept = replace(phase, bindings=tuple((k, v) for k, v in inside.items() if k != B))
    share = inside.get(B, B).xreplace({B: group.sequences})
    if not group.decodes:
        return Part(share, group.new, group.context, kept, steps=False)
    # A round's own tokens and positions, which a group counts as one step at its context.
    new, context = phase.query, group.context + _shift(phase)
    return Part(share, new, context, kept.with_binding(q, new))


def step_cost(compiled: Compiled, mix: Mix) -> Cost:
    """FLOP, bytes, launches and messages of one step on one device, exactly."""
    hidden, names = mix.apart
    found = flat(step_items(compiled, hidden))
    return total(row.total for row in found).mapped(lambda e: e.xreplace(names))


def step_terms(compiled: Compiled, mix: Mix) -> tuple[Term, ...]:
    """Seconds of one step."""
    return merged(operation_terms(compiled, mix))


def operation_terms(
    compiled: Compiled, mix: Mix, only: Collection[str] | None = None
) -> Iterator[Term]:
    """Seconds of one step operation by operation: nothing of two is added up.

    Args:
        only: names of operations; of what overlaps with one of them, all.
    """
    hidden, names = mix.apart
    decode = replace(stepping(compiled.program).decode, bindings=(), span=None)
    timing = compiled.timing_on(compiled.machine) or roofline.ideal(compiled.machine)

    def own(_: Phase, row: Row) -> Iterator[Term]:
        assert isinstance(row, MixedRow)
        assert row.phase is not None
        yield from timing(row.phase, row)

    for item in step_items(compiled, hidden, only):
        if only is None or any(row.name in only for row in flat((item,))):
            for term in roofline.step_terms(decode, (item,), compiled.machine, own):
                yield term.mapped(lambda e: renamed(e, names))


def mixed_step(compiled: Compiled, mix: Mix) -> Formula:
    """Seconds of one step of a mix, over the mix's symbols."""
    both = mix.where(True) and mix.where(False)
    joint = compiled.timing.mixes if both and compiled.timing is not None else ()
    setting = compiled.setting.assuming(*assumed(compiled.program), *joint)
    setting = setting.counting(*(s.name for s in mix.symbols))
    return Formula(
        "step", "s", step_terms(compiled, mix), None, tuple(_limits(compiled, mix)),
        compiled._rates if compiled.timing is None else {}, setting,
        tuple(x for group in mix.groups for x in compiled.program.stated_at(group.context)),
    )  # fmt: skip


def _limits(compiled: Compiled, mix: Mix) -> Iterator[Limit]:
    """The program's limits, and that nobody has more new tokens than positions."""
    found = stepping(compiled.program)
    for group in mix.groups:
        part = _part(group, found.of(group))
        values: dict[Expr, Expr] = {
            B: part.sequences,
            q: part.new,
            T: part.context,
            S: part.context,
        }
        for limit in compiled.program.limits:
            made = limit.mapped(lambda e, v=values: e.xreplace(v))  # type: ignore[misc]
            if not dominates(made.bound, made.expr):
                yield made
        if not group.decodes and not dominates(group.context, group.new):
            yield Limit(group.new, group.context, "a chunk ends where its context does")
