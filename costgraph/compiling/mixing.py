"""Steps of mixed work: a server's step as a formula over what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sympy import Expr

from costgraph.counting.count import Item, Row, flat
from costgraph.counting.mixed import MixedRow, Part, mixed_items
from costgraph.errors import InputError
from costgraph.formula import Formula, Term
from costgraph.formula.envelope import dominates
from costgraph.formula.terms import Limit, merged
from costgraph.ir.cost import Cost, total
from costgraph.ir.mix import Group, Mix
from costgraph.ir.program import Phase, Program
from costgraph.symbols import B, S, T, q
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

ASSUMED = (
    "mixed step: weights are read once for all groups, products see the tokens of all; attention "
    "runs once for the groups that decode and once for the others"
)
LOGITS = "every group has the logits of its last positions, of chunks within a prompt as well"


def phases_of_steps(program: Program) -> tuple[Phase, Phase]:
    """The phases of a prompt and of decode steps.

    Raises:
        InputError: the program's steps are not of this kind.
    """
    program.check_served()
    decode = program.decoding
    prefill = [p for p in program.phases if p.name == "prefill"]
    if len(decode) != 1 or len(prefill) != 1:
        raise InputError(
            f"{program.name}: steps of mixed work need one phase of prompts and one of decode "
            f"steps, not {', '.join(p.name for p in program.phases)}"
        )
    first, then = prefill[0], decode[0]
    plain = then.weight == 1 and then.tokens == 1 and T not in then.substitution
    if not (plain and first.query == S and first.substitution.get(T) == S and then.query == 1):
        raise InputError(
            f"{program.name}: prompts or decode steps are not of one token a position (drafts, "
            "branches, an encoder, prompts cached in part, or positions shared among devices): no "
            "steps of mixed work"
        )
    if first.rounds != 1 or then.rounds != 1:
        raise InputError(f"{program.name}: groups in a pipeline are mixes already: use micro=1")
    return first, then


def step_items(compiled: Compiled, mix: Mix) -> tuple[Item, ...]:
    """The counted operations of one step, groups told by the mix's own symbols.

    Raises:
        InputError: the program has no such steps.
    """
    prefill, decode = phases_of_steps(compiled.program)
    parts = [_part(g, decode if g.decodes else prefill) for g in mix.groups]
    return mixed_items(compiled.items[decode.name], compiled.items[prefill.name], parts)


def _part(group: Group, phase: Phase) -> Part:
    inside = {k: v for k, v in phase.bindings if k not in (q, T)}
    kept = replace(phase, bindings=tuple((k, v) for k, v in inside.items() if k != B))
    share = inside.get(B, B).xreplace({B: group.sequences})
    if group.decodes:
        kept = kept.with_binding(q, group.new)
    return Part(share, group.new, group.context, kept)


def step_cost(compiled: Compiled, mix: Mix) -> Cost:
    """FLOP, bytes, launches and messages of one step on one device, exactly."""
    hidden, names = mix.apart
    found = flat(step_items(compiled, hidden))
    return total(row.total for row in found).mapped(lambda e: e.xreplace(names))


def step_terms(compiled: Compiled, mix: Mix) -> tuple[Term, ...]:
    """Seconds of one step."""
    hidden, names = mix.apart
    items = step_items(compiled, hidden)
    _, decode = phases_of_steps(compiled.program)
    timing = compiled.timing_on(compiled.machine) or roofline.ideal(compiled.machine)

    def own(_: Phase, row: Row) -> Iterator[Term]:
        assert isinstance(row, MixedRow)
        assert row.phase is not None
        yield from timing(row.phase, row)

    made = roofline.step_terms(
        replace(decode, bindings=(), span=None), items, compiled.machine, own
    )
    return merged(t.mapped(lambda e: e.xreplace(names)) for t in made)


def mixed_step(compiled: Compiled, mix: Mix) -> Formula:
    """Seconds of one step of a mix, over the mix's symbols."""
    setting = compiled.setting.assuming(f"{ASSUMED}; {LOGITS}")
    setting = setting.counting(*(s.name for s in mix.symbols))
    return Formula(
        "step", "s", step_terms(compiled, mix), None, tuple(_limits(compiled, mix)),
        compiled._rates if compiled.timing is None else {}, setting,
    )  # fmt: skip


def _limits(compiled: Compiled, mix: Mix) -> Iterator[Limit]:
    """The program's limits, and that nobody has more new tokens than positions."""
    prefill, decode = phases_of_steps(compiled.program)
    for group in mix.groups:
        part = _part(group, decode if group.decodes else prefill)
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
