"""The forms of a server's queue, as plain functions of numbers and arrays.

:class:`.Queue` and :class:`.StepTimes` evaluate them, and pages do: this file keeps to the part of
Python that ``costgraph/showing/export/code/functions.py`` prints as JavaScript. What they mean
stands in :mod:`.queueing` and :mod:`.steps`; :mod:`.settled` has those of the steady state,
:mod:`.odds` and :mod:`.rooms` those of prompts in a step and of memory.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from costgraph.asking.serving.odds import longest, shares

#: Numbers of sequences at which steps are taken; those between are interpolated.
SAMPLES = 25
#: Points of a step's time over the prompts in it, and numbers of prompts at which it is taken.
POINTS = 12
FEW = 12
#: Standard deviations above the mean up to which numbers of prompts are told apart.
FAR = 4
#: Prompts in a step of full places from which it counts that several join.
RARE = 0.1
#: Seconds of a step that is never full.
ENDLESS = 1e9
#: Halvings in search of the sequences that decode at the largest rate.
HALVINGS = 50
#: Load up to which quantiles of first tokens are given, and their means are no lower estimates.
HONEST = 0.6

Array = Any


class Server(Protocol):
    """A queue as the forms see it; names are those of :class:`.Queue`."""

    @property
    def times(self) -> Any: ...
    @property
    def servers(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def budget(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def S(self) -> int: ...
    @property
    def fresh(self) -> int: ...
    @property
    def further(self) -> float: ...
    @property
    def rounds(self) -> float: ...
    @property
    def decoding(self) -> float: ...
    @property
    def largest(self) -> float: ...
    @property
    def context(self) -> float: ...
    @property
    def moment(self) -> float: ...
    @property
    def varies(self) -> float: ...
    @property
    def parts(self) -> Any: ...
    @property
    def tables(self) -> Any: ...
    def step(self, c: int) -> float: ...
    def through(self, c: int) -> float: ...
    def own(self, c: int) -> float: ...
    def longer(self, c: int) -> float: ...
    def squared(self, c: int) -> float: ...


# --- steps


def placed(context: float, longest: int) -> int:
    """The nearest context of a table."""
    return min(max(round(context), 1), longest)


def chunked(t: Any, tokens: int, chunk: int, decodes: int, context: float, cached: int) -> float:
    """Seconds of a prompt in chunks, each in a step of so many sequences; some of it is cached."""
    total = 0.0
    start = cached
    for end in [*range(cached + chunk, tokens, chunk), tokens]:
        total += t.step(decodes, context, ((end - start, end),))
        start = end
    return total


# --- what prompts take


def free(q: Server, c: int) -> int:
    """Tokens of a prompt that one step takes beside ``c`` sequences."""
    if q.kind == "chunked":
        return max(1, q.budget - c)
    return q.fresh


def mixes(q: Server) -> bool:
    """Whether prompts run beside sequences that decode."""
    return q.kind == "chunked" or q.kind == "continuous"


def joins(q: Server, c: int) -> bool:
    """Whether all prompts that wait join the next step, as a rule."""
    if q.kind == "chunked":
        return 2 * free(q, c) >= 3 * q.fresh
    return q.kind == "continuous"


def through(q: Server, c: int) -> float:
    """``G``: seconds of the steps in which a prompt runs beside ``c`` sequences, of all lengths."""
    total = 0.0
    for tokens, fresh, share in q.parts:
        total += share * reading(q, c, tokens, fresh)
    return total


def reading(q: Server, c: int, tokens: int, fresh: int) -> float:
    """Seconds of the steps in which a prompt of so many tokens runs, of which some are fresh."""
    if q.kind == "decode-only":
        return 0.0
    if q.kind == "prefill-first":
        found: float = q.times.step(0, 0, ((fresh, tokens),))
        return found
    room = free(q, c) if q.kind == "chunked" else fresh
    return chunked(q.times, tokens, room, c, q.context, tokens - fresh)


def extra(q: Server, c: int) -> float:
    """``X(c)``: seconds for which a prompt keeps ``c`` sequences from decoding."""
    if q.kind == "decode-only":
        return 0.0
    if q.kind == "prefill-first":
        return q.through(c)
    if joins(q, c):
        return q.through(c) - q.step(c)
    return q.own(c) - q.fresh / free(q, c) * q.step(c)


def own(q: Server, c: int) -> float:
    """``Q``: seconds that prompts in a row need each: several may share a step."""
    if q.kind == "decode-only":
        return 0.0
    if q.kind == "prefill-first":
        return q.through(c)
    if joins(q, c):
        return extra(q, c)
    # Steps are full: each takes so many tokens of prompts in a row.
    room = free(q, c)
    total = 0.0
    for tokens, fresh, share in q.parts:
        ends = [*range(tokens - fresh + room, tokens, room), tokens]
        one = 0.0
        for end in ends:
            one += q.times.step(c, q.context, ((room, max(room, end)),))
        total += share * one / len(ends) * fresh / room
    return total


def longer(q: Server, c: int) -> float:
    """Seconds that a prompt which joins steps adds to them, above one of mean length, on average.

    What looks at positions grows faster than tokens; the rest is of the step's tokens together.
    """
    if not joins(q, c) or q.times.overlaps:
        return 0.0
    total = 0.0
    for tokens, fresh, share in q.parts:
        total += share * q.times.looking(fresh, tokens)
    more: float = total - q.times.looking(q.fresh, q.S)
    return more


def squared(q: Server, c: int) -> float:
    """Mean of the square of ``Q``: in several steps prompts take as long as they are."""
    if q.kind != "prefill-first":
        return q.moment * q.own(c) ** 2
    total = 0.0
    for tokens, fresh, share in q.parts:
        total += share * reading(q, c, tokens, fresh) ** 2
    return total


# --- the queue


def further_of(generate: float) -> float:
    """Tokens after the first."""
    return max(generate - 1, 0.0)


def context_of(prompt: float, generate: float, moment: float) -> float:
    """Mean context of sequences that decode: long answers are there longer."""
    return prompt + generate * moment / 2


def fits(q: Server, c: int) -> float:
    """Prompts that one step takes beside ``c`` sequences."""
    if q.kind == "chunked":
        return min(free(q, c) / q.fresh, q.limit)
    return q.limit


def turned(q: Server) -> float:
    """Prompts in a step where all places are taken: each place is one in a step of its request."""
    return q.limit / (q.rounds + 1)


def beside(q: Server, c: int, prompts: float) -> float:
    """Seconds of a step of ``c`` sequences and so many prompts, of the last one perhaps a part."""
    whole = int(prompts)
    chunks = [(q.fresh, q.S) for _ in range(whole)]
    rest = round((prompts - whole) * q.fresh)
    if rest > 0:
        chunks = [*chunks, (rest, q.S - q.fresh + rest)]
    if c == 0 and len(chunks) == 0:
        return 0.0
    found: float = q.times.step(c, q.context, chunks) + prompts * q.longer(c)
    return found


def crowds(q: Server, c: int, mean: float) -> tuple[Array, Array]:
    """Numbers of prompts in a step of ``c`` sequences, with seconds of it: 0, 1, 2 … up to what
    fits or is far above a mean."""
    numbers, each = upto(min(fits(q, c), mean + FAR * mean**0.5 + 2))
    seconds = np.array([beside(q, c, n) for n in numbers])
    return each, np.interp(each, numbers, seconds)


def upto(end: float) -> tuple[Array, Array]:
    """Numbers of prompts at which steps are taken, few where there are many, and every one."""
    last = int(np.ceil(end))
    each = np.arange(0, last + 1)
    asked = each
    if last > FEW:
        asked = np.concatenate(([0.0], np.unique(np.rint(np.geomspace(1, last, FEW)))))
    return np.minimum(asked, end), np.minimum(each, end)


def speeds(q: Server, c: int) -> tuple[Array, Array, float, Array, Array]:
    """Steps a second of ``c`` sequences at rates of prompts, for straight lines between them.

    A rate of ``λ`` brings ``x = λ·τ`` prompts into each step of ``τ(x)`` seconds. Then the
    seconds of a step that is full of prompts; at the rates the variance of a step's seconds, and
    those of a step that one more prompt joins: the first may cost far more than others.
    """
    plain = q.step(c)
    if not mixes(q) or fits(q, c) < 1 or turned(q) < RARE:
        each, held = q.own(c), extra(q, c)
        if each > 0 and q.times.lanes > 1:
            return followed(q, c)
        if each <= 0:
            flat = np.array([1 / plain, 1 / plain])
            return np.array([0.0, ENDLESS]), flat, ENDLESS, 0 * flat, 1 / flat
        slowest = max(1 - held / each, 1e-9) / plain
        alone = np.array([plain + held, plain + held])
        paces = np.array([1 / plain, slowest])
        return np.array([0.0, 1 / each]), paces, 1 / slowest, 0 * alone, alone
    most = 2 * turned(q) + 2
    top = min(fits(q, c), most)
    each, taken = crowds(q, c, top)
    means = (np.arange(0, POINTS + 1) / POINTS) ** 2 * top
    parts = [longest(shares(q.limit, mean, each), q.times.lanes) for mean in means]
    seconds = np.array([np.dot(part, taken) for part in parts])
    squares = np.array([np.dot(part, taken**2) for part in parts])
    after = np.concatenate((taken[1:], [2 * taken[-1] - taken[-2]]))
    joined = np.array([np.dot(part, after) for part in parts])
    full = seconds[-1] if fits(q, c) <= most else ENDLESS
    return means / seconds, 1 / seconds, full, np.maximum(squares - seconds**2, 0.0), joined


def followed(q: Server, c: int) -> tuple[Array, Array, float, Array, Array]:
    """As :func:`speeds`, of a pipeline's groups where a step has one prompt, or a part of one.

    Steps of all groups follow one another through the stages and none overtakes: each takes as
    long as the longest of them. A share of ``x`` of steps has prompts.
    """
    part = np.arange(0, POINTS + 1) / POINTS
    seconds = slowed(q, c, part)
    paces = 1 / seconds if mixes(q) else np.maximum(1 - part, 1e-9) / seconds
    rates = part / (steps_of(q, c) * seconds)
    return rates, paces, 1 / paces[-1], 0 * seconds, 0 * seconds + seconds[-1]


def steps_of(q: Server, c: int) -> float:
    """Steps of a prompt, the last one perhaps a part, where each has one prompt."""
    steps: float = q.fresh / free(q, c) if mixes(q) and not joins(q, c) else 1.0
    return steps


def slowed(q: Server, c: int, part: Any) -> Any:
    """Seconds of a step of a pipeline's groups, of which a share has a prompt or a part of one.

    Alone among the groups it passes the stages without their slowest one's wait.
    """
    plain = q.step(c)
    slow = plain + extra(q, c) if joins(q, c) else q.own(c) / steps_of(q, c)
    more = max(slow / q.times.stretch - plain, 0.0)
    return plain + more * (1 - (1 - part) ** q.times.lanes)


def stable(q: Server) -> tuple[float, float, float]:
    """The rate below which a server's queue does not grow without end, in requests per second.

    And the sequences that decode there, and the seconds of a step: ``λ* = c/(R·τ)``. Places that
    prompts hold while they are read have no sequence that decodes, so where a step's budget is
    short of prompts ``c`` is far below the places.
    """
    m = q.limit
    if m == 1 and q.times.lanes == 1:
        # Alone from its first step to its last.
        answer = q.rounds * q.step(1) if q.rounds > 0 else 0.0
        rate = 1 / (q.through(0) + answer)
        return rate, rate * answer, q.step(1) if q.rounds > 0 else 0.0
    if not mixes(q):
        taken = q.rounds * q.step(m) + m * extra(q, m)
        prompts = q.own(m)
        if q.times.lanes > 1 and prompts > 0:
            taken = (q.rounds + m) * slowed(q, m, m / (q.rounds + m))
        rate = m / taken if taken > 0 else np.inf
        rate = min(rate, 1 / prompts) if prompts > 0 else rate
        return rate, m, m / (rate * q.rounds) if q.rounds > 0 else 0.0
    if q.rounds == 0:
        if not joins(q, 0):
            return min(1 / q.own(0), m / q.through(0)), 0.0, 0.0
        most = fits(q, 0)
        return most / beside(q, 0, most), 0.0, 0.0
    low = 0.0
    high = 1.0 * m
    for _ in range(HALVINGS):
        c = (low + high) / 2
        if held_places(q, c) < m:
            low = c
        else:
            high = c
    many = low
    c = max(round(many), 1)
    x = many / q.rounds
    if fits(q, c) >= 1:
        mean = min(fits(q, c), x)
        each, taken = turns(q, many + x, mean)
        tau = np.dot(longest(shares(q.limit, mean, each), q.times.lanes), taken)
    else:
        tau = read(q, c, x)
        if q.times.lanes > 1:
            tau = max(tau, slowed(q, c, min(x * steps_of(q, c), 1.0)))
    # What one place serves, others do not lessen.
    rate = max(x / tau, 1 / (q.through(0) + q.rounds * q.step(1)))
    return rate, many, x / rate


def turns(q: Server, taking: float, mean: float) -> tuple[Array, Array]:
    """As :func:`crowds`, of steps in which so many places take part: those that have no prompt in
    it decode."""
    most = fits(q, max(round(taking - mean), 0))
    numbers, each = upto(min(most, taking, mean + FAR * mean**0.5 + 2))
    seconds = np.array([varied(q, max(round(taking - n), 0), n) for n in numbers])
    return each, np.interp(each, numbers, seconds)


def varied(q: Server, c: int, prompts: float) -> float:
    """:func:`beside`, over lengths of prompts: where steps turn from memory to compute a mean over
    tokens is more than what mean tokens take. Of several their spread is that of one by the root
    of how many there are."""
    found = beside(q, c, prompts)
    if prompts == 0 or len(q.parts) == 1 or q.times.overlaps or q.times.replicas > 1:
        return found
    mean = prompts * q.fresh
    total = 0.0
    for _, fresh, share in q.parts:
        total += share * weighing(q, c, mean + prompts**0.5 * (fresh - q.fresh))
    more: float = total - weighing(q, c, mean)
    return found + more


def weighing(q: Server, c: int, tokens: float) -> float:
    """What products of a step take that has so many tokens of prompts beside ``c`` sequences."""
    even = max(round(tokens), 1)
    found: float = q.times.shared(c, even, even) if c > 0 else q.times.alone(even, even)
    return found


def read(q: Server, c: int, x: float) -> float:
    """Mean seconds of a step of ``c`` sequences where prompts take several steps: those that are
    alone have the steps of one, and the more there are the more steps are full."""
    room = free(q, c) / q.fresh
    full = min(x / room, 1.0)
    plain = q.step(c)
    steps = 0.0
    for _, fresh, share in q.parts:
        steps += share * np.ceil(fresh / free(q, c))
    single = plain + x * (q.through(c) - steps * plain)
    seconds: float = (1 - full) * single + full * ((1 - full) * plain + full * q.own(c) * room)
    return seconds


def held_places(q: Server, c: float) -> float:
    """Places that are taken while ``c`` sequences decode: theirs and those of prompts being read.

    A prompt is read in as many steps as it fills, and waits for those in front (M/D/1).
    """
    x = c / q.rounds
    if q.kind != "chunked":
        return c + x
    room = max(q.budget - c, 1.0)
    load = x * q.fresh / room
    if load >= 1:
        return np.inf
    others = (1 - 1 / q.limit) * q.moment
    steps = 0.0
    for _, fresh, share in q.parts:
        steps += share * max(1.0, fresh / room)
    return c + x * (steps + others * max(1.0, q.fresh / room) * load / (2 * (1 - load)))


def sampled(q: Server) -> tuple[Array, Any, Array, Array, Array, Array]:
    """Numbers of sequences, the speeds of steps of so many, seconds of one without and one full of
    prompts, prompts that steps have room for in a second, and all places."""
    sample = np.unique(np.rint(np.geomspace(1, q.limit, SAMPLES)))
    found = [speeds(q, int(c)) for c in sample]
    most = np.array([x[0][-1] for x in found])
    plains = np.array([q.step(int(c)) for c in sample])
    fulls = np.array([x[2] for x in found])
    return sample, found, plains, fulls, most, np.arange(1, q.servers * q.limit + 1)


def pace_at(found: Any, rate: float) -> Array:
    """Seconds of steps of the numbers of sequences that are sampled, at a rate of prompts."""
    return 1 / np.maximum(rated(found, rate, 1), 1e-9)


def rated(found: Any, rate: float, which: int) -> Array:
    """What :func:`speeds` has of the numbers of sequences that are sampled, at a rate."""
    return np.array([np.interp(rate, x[0], x[which]) for x in found])


def chunk_of(prompt: int, budget: int) -> int:
    """Tokens of one prompt that a step with a budget reads at most."""
    return min(prompt, budget)
