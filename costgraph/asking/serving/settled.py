"""A server's queue in steady state, as plain functions of numbers and arrays.

As :mod:`.forms`, printed for pages as well: who waits for a place, what first tokens wait for, and
the means that follow. What they mean stands in :mod:`.queueing`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from costgraph.asking.serving.forms import (
    RARE,
    Server,
    extra,
    joins,
    mixes,
    pace_at,
    rated,
    reading,
    turned,
)

#: Rounds in which the time of first tokens and the sequences that decode are made to agree.
ROUNDS = 8

Array = Any


def alone(q: Server) -> bool:
    """Whether one request at a time is served, to its end: an M/G/1 queue."""
    return q.servers * q.limit == 1 and q.times.lanes == 1


def single(q: Server, rate: float) -> tuple[Any, Any]:
    """:func:`steady` of a server that takes one request at a time (Pollaczek and Khinchine)."""
    own = q.through(0)
    answer = q.rounds * q.step(1) if q.rounds > 0 else 0.0
    taken = own + answer
    busy = rate * taken
    wait = busy * taken * (1 + q.varies) / (2 * (1 - busy))
    many = (1 - rate * answer, rate * answer, rate * wait, 0.0, q.step(1), busy)
    return many, (own, 0.0, 0.0, 0.0, own, 0, 0.0)


def regular(q: Server, load: float) -> float:
    """The wait for one of ``m`` places over that of a geometric queue: of an M/G/m over an M/M/m.

    With ``c²`` the squared coefficient of variation of the time in a place it is
    ``c² + (1 − c²)·D``, between those of an M/M/m and of an M/D/m queue, with
    ``D = (1 + (1 − ρ)·(m − 1)·(√(4 + 5·m) − 2)/(16·ρ·m))/2`` (Cosmetatos, Operational Research
    Quarterly 27, 1976).
    """
    m = q.servers * q.limit
    more = (1 - load) * (m - 1) * ((4 + 5 * m) ** 0.5 - 2) / (16 * max(load, 1e-9) * m)
    even = min((1 + more) / 2, 1.0)
    found: float = q.varies + (1 - q.varies) * even
    return found


def steady(q: Server, rate: float) -> tuple[Any, Any]:
    """The steady state at a rate below the largest, as ``places`` and ``first`` have it."""
    if alone(q):
        return single(q, rate)
    k = q.servers
    share = rate / k
    sample, found, plains, fulls, most, numbers = q.tables
    paces = pace_at(found, share)
    each = np.maximum(numbers / k, 1)
    pace = np.interp(each, sample, paces)
    # Beside more sequences than leave room for the prompts that come, fewer come through.
    come = np.interp(np.maximum((numbers - 1) / k, 1), sample, np.minimum(most / share, 1))
    full = np.interp(each, sample, fulls)
    crowded = mixes(q) and turned(q) >= RARE  # else hardly ever two in a step
    more = [rated(found, share, i) for i in (3, 4)] if crowded else []
    late = 0.0
    # What a first token waits for depends on how many decode, and they on it.
    for _ in range(ROUNDS):
        many = places(q, rate * come, pace, np.minimum(q.rounds * pace + late, q.rounds * full))
        inside = many[1] / k
        mean = max(1, round(min(inside, q.decoding))) if inside >= 0.5 else 0
        tau = np.interp(max(inside, 1), sample, paces)
        plain = np.interp(max(inside, 1), sample, plains)
        held = holding(q, max(mean, 1), share, tau, plain)
        crowd = [share * tau * held**2, plain + held + share * tau * held]
        if crowded:
            crowd = [np.interp(max(inside, 1), sample, x) for x in more]
        begun = first(q, share, mean, many[0], tau, held, crowd)
        last = late
        # Who has one token is gone when the prompt is done; in a step that all join, they wait.
        stays = q.further > 0 or joins(q, mean)
        late = share * begun[4] * held / max(1 - share * held, 1e-9) if stays else 0.0
        if abs(late - last) <= 1e-12 * late:
            break
    return waiting(q, rate, many, rate * come, pace, late, q.rounds * full), begun


def waiting(
    q: Server, rate: float, many: Any, come: Array, pace: Array, late: float, most: Array
) -> Any:
    """``many`` with who waits for a place: places are taken while prompts are read as well, and
    beside none the queue grows as the load has it."""
    if q.rounds <= 0:
        return many
    reads = q.through(max(round(min(many[1] / q.servers, q.decoding)), 0))
    stays = np.minimum(q.rounds * pace + late, most) + reads
    load = rate / (q.servers * q.largest)
    weights, above, waits = weighed(come, stays, min(load, 1 - 1e-9))
    whole = np.sum(weights) + above
    full = (weights[-1] + above) / whole
    return (*many[:2], waits / whole * regular(q, load), *many[3:5], full)


def holding(q: Server, c: int, rate: float, tau: float, plain: float) -> float:
    """``X``: seconds for which a prompt keeps ``c`` sequences from decoding, on average: what
    ``tau`` seconds of a step have more than one without prompts."""
    if not joins(q, c) or turned(q) < RARE:
        return extra(q, c)
    return max((tau - plain) / (rate * tau), 0.0)


def weighed(rate: Array, stays: Array, last: float) -> tuple[Array, float, float]:
    """Weights of the numbers from none to all places, of a geometric queue above, and its mean."""
    logs = np.log(np.maximum(rate * stays / np.arange(1, len(stays) + 1), 1e-300))
    logs = np.concatenate(([0.0], np.cumsum(logs)))
    weights = np.exp(logs - np.max(logs))
    above = weights[-1] * last / (1 - last)
    return weights, above, above / (1 - last)


def places(q: Server, rate: Array, pace: Array, stays: Array) -> tuple[float, ...]:
    """How many sequences decode, and who waits for a place.

    The share of time without any, their mean, the mean of those that wait, variance and mean of
    the pace that a sequence sees, and how often all places are taken.
    """
    m = len(pace)
    numbers = np.arange(1, m + 1)
    last = min(rate[-1] * q.rounds * pace[-1] / m, 1 - 1e-9)
    weights, above, waiting = weighed(rate, stays, last)
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


def first(
    q: Server, rate: float, mean: int, empty: float, tau: float, held: float, crowd: Array
) -> tuple[float, ...]:
    """What a first token waits for, with a place.

    Its own steps, up to so much of the step in progress, for prompts in front with a probability,
    and the time in which prompts come behind it; then sequences beside it, and seconds of their
    steps. ``held`` is what each prompt adds to a step on average; ``crowd``: the variance of its
    seconds, and those with one prompt more.
    """
    plain = q.step(max(mean, 1))
    running = q.through(mean)
    alone = q.own(mean)
    if joins(q, mean):
        varies, joined = crowd
        varies = varies + rate * tau * held**2 * (q.moment - 1)
        busy = min(rate * held, 1 - 1e-9)
        length = (1 - empty) * (tau + varies / (1 - busy**2) / tau)
        # Who comes in long steps finds more than the mean beside it.
        again = running - reading(q, mean, q.S, q.fresh) - q.longer(mean)
        mine = joined - busy * tau + again if mean > 0 else running
        return mine + busy * length, length, 0.0, 0.0, mine + busy * length, mean, tau
    busy = min(rate * alone, 1 - 1e-9)
    queue = rate * q.squared(mean) / (2 * (1 - busy))
    length = (1 - empty) * (plain if q.kind == "prefill-first" else tau)
    return running, length, queue, busy, running + queue + length / 2, mean, tau


def means(q: Server, rate: float) -> tuple[float, ...]:
    """Means at a rate, as :func:`means_of` has them."""
    many, begun = steady(q, rate)
    return means_of(q, rate, many, begun)


def means_of(q: Server, rate: float, many: Any, begun: Any) -> tuple[float, ...]:
    """Of a steady state: seconds to the first token, per token after it, and of the first for a
    place; sequences that decode."""
    place = many[2] / rate
    # Who comes to a server that only decodes waits for the step in progress, in no place yet.
    late = begun[1] / 2 if q.kind == "decode-only" else 0.0
    tpot = (many[1] / rate + late) / q.further if q.further > 0 else 0.0
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
