"""Finding parts that repeat in a row among operations in order."""

from __future__ import annotations

from collections import Counter, defaultdict

from costgraph.rewriting.runs import Run, runs_of

#: Least number of operations in a part.
SHORTEST = 2
#: Candidate periods that the search tries.
_PERIODS = 24
_ROUNDS = 3


def find_runs(
    signatures: list[str], wiring: list[tuple[int | str, ...]], shortest: int = SHORTEST
) -> tuple[Run, ...]:
    """Parts that repeat in a row, the ones that save most first chosen, in order.

    Args:
        signatures: equal for operations that are alike.
        wiring: operands of each operation: positions, or texts for outside ones.
        shortest: least number of operations in a part.
    """
    gaps: Counter[int] = Counter()
    names: dict[object, int] = {}
    shades = [names.setdefault(s, len(names)) for s in signatures]
    for _ in range(_ROUNDS + 1):
        gaps += _gaps(shades)
        shades = _refined(shades, wiring)
    chosen = [p for p, _ in sorted(gaps.items(), key=lambda i: (-i[1], i[0]))[:_PERIODS]]
    found = [
        run
        for period in sorted(chosen)
        if period >= shortest
        for run in _runs_of(period, signatures, wiring)
    ]
    taken = [False] * len(signatures)
    result = []
    for run in sorted(found, key=lambda r: (-(r.copies - 1) * r.period, r.period, r.start)):
        span = slice(run.start, run.start + run.copies * run.period)
        if not any(taken[span]):
            taken[span] = [True] * (run.copies * run.period)
            result.append(run)
    return tuple(sorted(result, key=lambda r: r.start))


def _gaps(shades: list[int]) -> Counter[int]:
    """How often each distance lies between an operation and the few before it that are alike.

    A part may hold several alike operations; its period is then a sum of gaps.
    """
    gaps: Counter[int] = Counter()
    recent: dict[int, list[int]] = defaultdict(list)
    for index, shade in enumerate(shades):
        earlier = recent[shade]
        gaps.update(index - before for before in earlier)
        earlier.append(index)
        del earlier[:-8]
    return gaps


def _refined(shades: list[int], wiring: list[tuple[int | str, ...]]) -> list[int]:
    """A finer division: alike operations with alike operands and users stay together."""
    users: list[list[int]] = [[] for _ in shades]
    for index, operands in enumerate(wiring):
        for operand in operands:
            if isinstance(operand, int):
                users[operand].append(shades[index])
    names: dict[object, int] = {}
    return [
        names.setdefault(
            (
                shade,
                tuple(shades[o] if isinstance(o, int) else o for o in wiring[index]),
                tuple(sorted(users[index])),
            ),
            len(names),
        )
        for index, shade in enumerate(shades)
    ]


def _runs_of(period: int, signatures: list[str], wiring: list[tuple[int | str, ...]]) -> list[Run]:
    return runs_of(
        len(signatures),
        period,
        lambda start, index: _alike(start, index, period, signatures, wiring),
    )


def _alike(
    start: int,
    index: int,
    period: int,
    signatures: list[str],
    wiring: list[tuple[int | str, ...]],
) -> bool:
    if signatures[index] != signatures[index + period]:
        return False
    a, b = wiring[index], wiring[index + period]
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if x == y and (isinstance(x, str) or x < start):
            continue
        if isinstance(y, str):
            return False
        if isinstance(x, int) and y - x == period:
            continue
        entering = isinstance(x, str) or x < start
        # The first part may take its start from anywhere before it.
        if not (entering and index - start < period and start <= y < start + period):
            return False
    return True
