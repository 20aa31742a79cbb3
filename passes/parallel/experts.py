"""Expert parallelism: whole experts over the devices of a group.

Each device holds ``E/ep`` experts. Tokens are replicated in the group (tensor parallelism:
every device computes its experts' share of the sum), or each device has tokens of its own
(replicas of the attention): then a row of every token goes to the devices of its experts and
back, once to each device that has any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from sympy import Add, Expr, Integer, Min, Mul, binomial, divisors, log, sqrt

from costgraph.errors import PipelineError
from costgraph.formula.least import least
from costgraph.hardware.links import Hop
from costgraph.ir.tensor import Tensor
from costgraph.ops.experts import Routing
from costgraph.passes.parallel.places import UnevenError, part

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class Spread:
    """Experts over a group of devices.

    Attributes:
        ranks: how many devices share the experts.
        hops: the levels that they span.
        ways: how many of the devices hold each token of the step (tensor-parallel ranks,
            each of which sends its part of them).
        replicas: how many of the devices have tokens of their own.
        busiest: rows are those of the device that has the most.
    """

    ranks: Expr
    hops: tuple[Hop, ...]
    ways: Expr = ONE
    replicas: Expr = ONE
    busiest: bool = False

    def share(self, routing: Routing, weights: Tensor, numbers: Tensor) -> Share:
        """What a device has of experts ``(E, …)``, whose numbers every token chose ``(…, k)``."""
        *rows, chosen = numbers.shape
        tokens = Mul(self.replicas, *rows) if self.busiest else None
        hops = tuple(hop.ranks for hop in self.hops) or (self.ranks,)
        return share(routing, weights.shape[0], chosen, hops, tokens)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that the results rest on."""
        found = []
        if self.exchanges:
            found.append(
                "experts over devices: a row goes once to each node with experts of its token, "
                "and there once to each device"
            )
        if self.busiest:
            found.append(
                "experts over devices: the busiest has at most the rows stated, on average over "
                "choices: an upper bound of the expected maximum"
            )
            found.append(
                "experts over devices: FLOP, bytes and energy of all devices count each as the "
                "busiest, an upper bound; exchanges are those of the mean"
            )
        else:
            found.append(
                "experts over devices: rows are the expected ones of the device whose experts are "
                "chosen most; chance loads one device more (load=busiest bounds that)"
            )
        return tuple(found)

    @property
    def exchanges(self) -> bool:
        """Whether rows of tokens travel: not where every device has all tokens."""
        return bool(self.replicas != 1)


@dataclass(frozen=True)
class Share:
    """The experts of one device: of the busiest, where they differ.

    Attributes:
        experts: how many it holds.
        chosen: how many of a token's experts are among them, on average.
        routing: how tokens choose these.
        sends: how many rows a token's device sends on each level, innermost first, those that
            others hand on included.
    """

    experts: Expr
    chosen: Expr
    routing: Routing
    sends: tuple[Expr, ...]


@lru_cache(maxsize=64)
def share(
    routing: Routing,
    experts: Expr,
    chosen: Expr,
    levels: tuple[Expr, ...],
    tokens: Expr | None = None,
) -> Share:
    """What one device of a group holds of ``experts``, of which a token chooses ``chosen``.

    ``levels`` are the numbers of devices on each level of the group, innermost first.

    With a popularity, experts lie in their order, and the device is the one whose experts
    are chosen most: the others wait for it. With ``tokens``, how many choose at once, its rows
    are at most those of the fullest device (see :func:`fullest`).

    Raises:
        UnevenExpertsError: the experts do not divide.
    """
    ranks: Expr = Mul(*levels)
    mine = _held(experts, ranks)
    if not routing.is_skewed:
        sends = _sends(levels, lambda groups: distinct_ranks(experts, chosen, groups))
        held = Share(mine, chosen / ranks, routing, sends)
        if tokens is None:
            return held
        spread = chosen / ranks * (1 - 1 / ranks) * (experts - chosen) / (experts - 1)
        most = fullest(held.chosen, spread, least(chosen, mine), tokens, ranks, even=True)
        return replace(held, chosen=most, routing=_known(routing, mine, chosen / experts))
    if not ranks.is_Integer:
        raise PipelineError(
            f"experts of different popularity are spread over a number of devices, not over {ranks}"
        )
    chances = routing.shares(experts, chosen)
    count = int(mine)
    groups = [chances[i : i + count] for i in range(0, len(chances), count)]
    busiest = max(groups, key=lambda g: Add(*g))

    def met(number: Expr) -> Expr:
        each = len(chances) // int(number)
        parts = (chances[i : i + each] for i in range(0, len(chances), each))
        return Add(*(ONE - Mul(*(1 - p for p in part)) for part in parts))

    local = replace(routing, popularity=(), zipf=None, chances=busiest)
    rows: Expr = Add(*busiest)
    if tokens is not None:
        bound = least(chosen, mine)
        means: list[Expr] = [Add(*g) for g in groups]
        spread = max(m * (bound - m) for m in means)
        rows = fullest(rows, spread, bound, tokens, ranks)
    return Share(mine, rows, local, _sends(levels, met))


def _sends(levels: tuple[Expr, ...], met: Callable[[Expr], Expr]) -> tuple[Expr, ...]:
    """Rows that one of a token's devices sends on each level; ``met`` of equal groups has experts.

    Of ``G`` groups of a level a row goes to ``met(G)``, each as likely the sender's own, and
    comes into each over the level outside: ``met(G)·(G − 1)/G`` minus the same of that level.
    """
    groups = [Mul(*levels[i:]) for i in range(len(levels) + 1)]
    reached = [met(g) * (g - 1) / g for g in groups[:-1]] + [ZERO]
    return tuple(inner - outer for inner, outer in pairwise(reached))


class UnevenExpertsError(UnevenError):
    """Experts that the devices do not divide."""


def _held(experts: Expr, ranks: Expr) -> Expr:
    """Experts of one device.

    Raises:
        UnevenExpertsError: they do not divide; names the nearest degrees that do.
    """
    try:
        return part(experts, ranks, "experts")
    except UnevenError as error:
        ways = [d for d in divisors(experts) if d > 1]
        near = [*[d for d in ways if d < ranks][-1:], *[d for d in ways if d > ranks][:1]]
        named = f"; the nearest that do: {' and '.join(map(str, near))}" if near else ""
        raise UnevenExpertsError(f"{error}{named}") from None


def _known(routing: Routing, experts: Expr, chance: Expr) -> Routing:
    """Routing that counts the experts touched by their own chance, whatever the rows are."""
    if not experts.is_Integer or not chance.is_number:
        raise PipelineError("load=busiest needs numbers of experts and of devices, not symbols")
    return replace(routing, chances=(chance,) * int(experts))


def fullest(
    mean: Expr, variance: Expr, most: Expr, tokens: Expr, ranks: Expr, even: bool = False
) -> Expr:
    """Rows per token at the fullest of ``ranks`` devices: no less than the expected ones.

    Of a token a device has ``mean`` rows on average, with ``variance``, and at most ``most``;
    tokens choose independently of each other. So the rows of ``n`` tokens are sub-gamma, and the
    expected maximum over ``p`` devices is at most ``n·mean + √(2·n·variance·ln p) +
    most·ln p/3`` (Boucheron, Lugosi and Massart, Concentration Inequalities, corollary 2.6 with
    Bernstein's bound). Where all devices are alike (``even``), it is also at most ``n·mean +
    √(n·variance·(p − 1))`` (Aven, J. Appl. Prob. 22, 1985). It is never more than ``n·most``.
    """
    tail = sqrt(2 * variance * log(ranks) / tokens) + most * log(ranks) / (3 * tokens)
    bounds = [most, mean + tail]
    if even:
        bounds.append(mean + sqrt(variance * (ranks - 1) / tokens))
    return Min(*bounds)


def distinct_ranks(experts: Expr, chosen: Expr, ranks: Expr) -> Expr:
    """On how many of ``ranks`` devices the experts of one token are, on average.

    A token chooses ``k`` different ones of ``E``: it misses a device of ``E/p`` experts with
    probability ``C(E − E/p, k) / C(E, k)``, whatever the popularity is balanced.
    """
    mine = experts / ranks
    if experts.is_Integer and chosen.is_Integer and mine.is_Integer:
        missed: Expr = binomial(experts - mine, chosen) / binomial(experts, chosen)
        return ranks * (1 - missed)
    if chosen.is_Integer:
        missed = Mul(*((experts - mine - i) / (experts - i) for i in range(int(chosen))))
        return ranks * (1 - missed)
    return ranks * (1 - (1 - ONE / ranks) ** chosen)
