"""Cascades: a draft that a smaller one drafts for.

A round of the target takes ``γ`` tokens of its draft. Where the draft is speculated itself,
it writes them in *inner rounds*: a smaller draft writes, the draft verifies. An inner round
drafts no more than can be used: with ``n`` tokens left, ``min(γ', n − 1)`` and the draft's
own one behind them, so that none is cut off. How many tokens are left is then a Markov
chain that ends within ``γ`` rounds, and how often each round runs is a finite sum, exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sympy import Expr, Integer, expand

from costgraph.errors import PipelineError
from costgraph.passes.decoding.rounds import Check, Round, Steps

ONE, ZERO = Integer(1), Integer(0)
#: Most tokens that inner rounds write for one of the target, each place of them in a phase.
LONGEST = 16


@dataclass(frozen=True)
class Chunk:
    """Tokens that are drafted one after the other, and then verified.

    Attributes:
        tokens: how many.
        times: how often, on average over rounds of the target.
        behind: drafted tokens that stand in front of them already.
    """

    tokens: int
    times: Expr
    behind: Expr = ZERO

    def __post_init__(self) -> None:
        if self.tokens > LONGEST:
            raise PipelineError(
                f"gamma: each place of a draft that is speculated itself is a pass of its own; at "
                f"most {LONGEST}, not {self.tokens}"
            )


def inner_rounds(wanted: Iterable[Chunk], reach: Sequence[Expr]) -> tuple[Chunk, ...]:
    """The inner rounds that write the chunks, by what each drafts and where.

    Args:
        wanted: tokens that are asked for at a time.
        reach: probability that more than ``i`` drafts of an inner round are kept, one for
            each that it drafts at most.
    """
    found: dict[tuple[int, Expr], Expr] = {}
    for chunk in wanted:
        for left, times in _left(chunk.tokens, reach).items():
            drafts = min(len(reach), left - 1)
            key = (drafts, chunk.behind + chunk.tokens - left)
            found[key] = found.get(key, ZERO) + chunk.times * times
    return tuple(Chunk(n, expand(t), behind) for (n, behind), t in found.items() if t != 0)


def _left(tokens: int, reach: Sequence[Expr]) -> dict[int, Expr]:
    """How often an inner round begins with ``n`` tokens left: zero to once."""
    times = dict.fromkeys(range(tokens, 0, -1), ZERO)
    times[tokens] = ONE
    for left in range(tokens, 0, -1):
        drafts = min(len(reach), left - 1)
        # More than i tokens come out with the i-th of these; i + 1 of them where no more do.
        more = (ONE, *reach[:drafts], ZERO)
        for kept in range(drafts + 1):
            rest = left - kept - 1
            if rest > 0:
                times[rest] = expand(times[rest] + times[left] * (more[kept] - more[kept + 1]))
    return times


def round_of_inner(rounds: Sequence[Chunk], hit: Expr) -> Round:
    """All inner rounds within one round of the target, as one: steps and checks by place.

    A share ``hit`` of them has a draft.
    """
    written: dict[Expr, tuple[Expr, Expr]] = {}
    checks: dict[tuple[int, Expr], Expr] = {}

    def check(drafts: int, behind: Expr, times: Expr) -> None:
        checks[drafts, behind] = checks.get((drafts, behind), ZERO) + times

    for chunk in rounds:
        drafted = chunk.times if chunk.tokens == 0 else chunk.times * hit
        check(chunk.tokens, chunk.behind, drafted)
        if drafted != chunk.times:
            check(0, chunk.behind, chunk.times - drafted)
        for i in range(chunk.tokens):
            count, begins = written.get(chunk.behind + i, (ZERO, ZERO))
            begun = drafted if i == 0 else ZERO
            written[chunk.behind + i] = (count + drafted, begins + begun)
    steps = tuple(
        Steps(expand(count), ONE, behind, begins=expand(begins))
        for behind, (count, begins) in sorted(written.items())
        if count != 0
    )
    made = tuple(
        Check(expand(times), ONE + drafts, behind=behind)
        for (drafts, behind), times in sorted(checks.items(), key=lambda item: item[0][1])
        if times != 0
    )
    return Round(Integer(max(c.tokens for c in rounds)), ONE, steps, made)
