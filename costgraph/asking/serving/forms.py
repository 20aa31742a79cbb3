"""The forms of a server's queue and memory, as plain functions of numbers and arrays.

:class:`.Queue`, :class:`.StepTimes` and :class:`.Memories` evaluate them, and pages do: this file
keeps to the part of Python that ``costgraph/showing/export/code/functions.py`` prints as
JavaScript. What they mean stands in :mod:`.queueing`, :mod:`.steps` and :mod:`.memory`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

#: Rounds in which the time of first tokens and the sequences that decode are made to agree.
ROUNDS = 8
#: Numbers of sequences at which steps are taken; those between are interpolated.
SAMPLES = 25
#: Load up to which quantiles of first tokens are given, and their means are no lower estimates.
HONEST = 0.6
#: Share of a device's memory that servers give to weights and caches (vLLM's default).
MEMORY_SHARE = 0.9
#: Sequences where nothing limits them.
MANY = 2147483648

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
    def context(self) -> float: ...
    @property
    def moment(self) -> float: ...
    @property
    def tables(self) -> Any: ...
    def step(self, c: int) -> float: ...
    def through(self, c: int) -> float: ...
    def own(self, c: int) -> float: ...


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


def joins(q: Server, c: int) -> bool:
    """Whether all prompts that wait join the next step, as a rule."""
    if q.kind == "chunked":
        return 2 * free(q, c) >= 3 * q.fresh
    return q.kind == "continuous"


def through(q: Server, c: int) -> float:
    """``G``: seconds of the steps in which a prompt runs beside ``c`` sequences."""
    if q.kind == "decode-only":
        return 0.0
    if q.kind == "prefill-first":
        found: float = q.times.step(0, 0, ((q.fresh, q.S),))
        return found
    return chunked(q.times, q.S, free(q, c), c, q.context, q.S - q.fresh)


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
    ends = [*range(q.S - q.fresh + room, q.S, room), q.S]
    total = 0.0
    for end in ends:
        total += q.times.step(c, q.context, ((room, max(room, end)),))
    return total / len(ends) * q.fresh / room


# --- the queue


def further_of(generate: float) -> float:
    """Tokens after the first."""
    return max(generate - 1, 0.0)


def context_of(prompt: float, generate: float, moment: float) -> float:
    """Mean context of sequences that decode: long answers are there longer."""
    return prompt + generate * moment / 2


def stable(q: Server) -> tuple[float, float]:
    """Requests per second below which a server's queue does not grow without end.

    By its places for sequences that decode, and by its time for prompts: the smaller counts.
    """
    m = q.limit
    taken = q.rounds * q.step(m) + m * extra(q, m)
    prompts = q.own(m)
    if joins(q, m):
        prompts = max(prompts, crowded(q))
    return m / taken if taken > 0 else np.inf, 1 / prompts if prompts > 0 else np.inf


def crowded(q: Server) -> float:
    """Seconds of a step for each prompt in it, where all places are taken and several join.

    One prompt beside decodes may cost next to nothing while weights are read; many together do
    not. Each place is a prompt's in one of its request's steps. Zero where they come one by one.
    """
    many = q.limit / (q.rounds + 1)
    c = max(int(q.limit - many), 0)
    if q.kind == "chunked":
        many = min(many, free(q, c) / q.fresh)
    if many <= 1:
        return 0.0
    whole = int(many)
    rest = round((many - whole) * q.fresh)
    chunks = [(q.fresh, q.S) for _ in range(whole)]
    if rest > 0:
        chunks = [*chunks, (rest, q.S - q.fresh + rest)]
    found: float = q.times.step(c, q.context, chunks)
    return found / many


def sampled(q: Server) -> tuple[Array, Array, Array, Array]:
    """Numbers of sequences, and the steps and prompts beside them; all places."""
    sample = np.unique(np.rint(np.geomspace(1, q.limit, SAMPLES)))
    steps = np.array([q.step(int(c)) for c in sample])
    extras = np.array([extra(q, int(c)) for c in sample])
    return sample, steps, extras, np.arange(1, q.servers * q.limit + 1)


def steady(q: Server, rate: float) -> tuple[Any, Any]:
    """The steady state at a rate below the largest, as ``places`` and ``first`` have it."""
    k = q.servers
    share = rate / k
    sample, steps, extras, numbers = q.tables
    paces = steps / np.maximum(1 - share * extras, 1e-9)
    pace = np.interp(np.maximum(numbers / k, 1), sample, paces)
    late = 0.0
    # What a first token waits for depends on how many decode, and they on it.
    for _ in range(ROUNDS):
        many = places(q, rate, pace, late)
        inside = many[1] / k
        mean = max(1, round(inside)) if inside >= 0.5 else 0
        tau = np.interp(max(inside, 1), sample, paces)
        begun = first(q, share, mean, many[0], tau)
        held = extra(q, max(mean, 1))
        last = late
        # Who has one token is gone when the prompt is done; in a step that all join, they wait.
        stays = q.further > 0 or joins(q, mean)
        late = share * begun[4] * held / max(1 - share * held, 1e-9) if stays else 0.0
        if abs(late - last) <= 1e-12 * late:
            break
    return many, begun


def places(q: Server, rate: float, pace: Array, late: float) -> tuple[float, ...]:
    """How many sequences decode, and who waits for a place.

    The share of time without any, their mean, the mean of those that wait, variance and mean of
    the pace that a sequence sees, and how often all places are taken.
    """
    m = len(pace)
    numbers = np.arange(1, m + 1)
    ratios = rate * (q.rounds * pace + late) / numbers
    last = min(rate * q.rounds * pace[-1] / m, 1 - 1e-9)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.maximum(ratios, 1e-300)))))
    weights = np.exp(logs - np.max(logs))
    # The geometric queue above the limit, its number and its mean.
    above = weights[-1] * last / (1 - last)
    waiting = weights[-1] * last / (1 - last) ** 2
    whole = np.sum(weights) + above
    inside = (np.dot(weights, np.arange(0, m + 1)) + above * m) / whole
    # What a sequence sees of the number there: as often as sequences are there.
    seen = weights[1:] * numbers
    seen = np.concatenate((seen[:-1], [seen[-1] + above * m]))
    seen = seen / max(np.sum(seen), 1e-300)
    mean = np.dot(seen, pace)
    variance = max(np.dot(seen, pace**2) - mean**2, 0.0)
    # Without others on a replica: of k, that with the fewest.
    empty = np.sum(weights[: q.servers]) / whole
    full = (weights[-1] + above) / whole
    return empty, inside, waiting / whole, variance, mean, full


def first(q: Server, rate: float, mean: int, empty: float, tau: float) -> tuple[float, ...]:
    """What a first token waits for, with a place.

    Its own steps, up to so much of the step in progress, for prompts in front with a probability,
    and the time in which prompts come behind it.
    """
    plain = q.step(max(mean, 1))
    running = q.through(mean)
    alone = q.own(mean)
    if joins(q, mean):
        held = extra(q, max(mean, 1))
        busy = min(rate * held, 1 - 1e-9)
        length = (1 - empty) * (tau + rate * held**2 / (1 - busy**2))
        mine = plain + held if mean > 0 else running
        return mine + busy * length, length, 0.0, 0.0, mine + busy * length
    busy = min(rate * alone, 1 - 1e-9)
    queue = rate * q.moment * alone**2 / (2 * (1 - busy))
    length = (1 - empty) * (plain if q.kind == "prefill-first" else tau)
    return running, length, queue, busy, running + queue + length / 2


def means(q: Server, rate: float) -> tuple[float, ...]:
    """Means at a rate, as :func:`means_of` has them."""
    many, begun = steady(q, rate)
    return means_of(q, rate, many, begun)


def means_of(q: Server, rate: float, many: Any, begun: Any) -> tuple[float, ...]:
    """Of a steady state: seconds to the first token, per token after it, and of the first for a
    place; sequences that decode."""
    place = many[2] / rate
    tpot = many[1] / (rate * q.further) if q.further > 0 else 0.0
    return begun[0] + begun[1] / 2 + begun[2] + place, tpot, place, many[1]


def batches(rate: float, seconds: float, batch: float) -> tuple[float, float, float]:
    """A server that takes so many requests at a time, and no others until they are done.

    The largest rate, the load, and the mean wait (M/D/1: of single requests; of more at a time
    there is none, since it hangs on how a batch is filled).
    """
    largest = batch / seconds
    load = rate / largest
    wait = load * seconds / (2 * (1 - load)) if batch == 1 and load < 1 else np.nan
    return largest, load, wait


def chunk_of(prompt: int, budget: int) -> int:
    """Tokens of one prompt that a step with a budget reads at most."""
    return min(prompt, budget)


# --- memory: bytes that there are, that are needed once, and that each sequence adds


def caching(size: float, share: float, weights: float, caches: float) -> tuple[float, float, float]:
    """Weights and caches in a share of a memory."""
    return share * size, weights, caches


def living(
    size: float, weights: float, once: float, each: float, chunk: float, caches: float, lanes: int
) -> tuple[float, float, float]:
    """All of a memory, with live activations of a step that reads a chunk."""
    return size, weights + once + chunk, caches + each / lanes


def fitting(size: float, once: float, each: float) -> int:
    """Sequences that fit; none where what is needed once does not."""
    if once > size:
        return 0
    return int((size - once) / each) if each > 0 else MANY
