"""Expert parallelism: whole experts over the devices of a group.

Each device holds ``E/ep`` experts. Tokens are replicated in the group (tensor parallelism:
every device computes its experts' share of the sum), or each device has tokens of its own
(replicas of the attention): then a row of every token goes to the devices of its experts and
back, once to each device that has any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from sympy import Add, Expr, Integer, Mul, binomial

from costgraph.errors import PipelineError
from costgraph.links import Hop
from costgraph.ops.experts import Routing
from costgraph.passes.parallel.places import part

ONE = Integer(1)


@dataclass(frozen=True)
class Spread:
    """Experts over a group of devices.

    Attributes:
        ranks: how many devices share the experts.
        hops: the levels that they span.
        ways: how many of the devices hold each token of the step (tensor-parallel ranks,
            each of which sends its part of them).
        replicas: how many of the devices have tokens of their own.
    """

    ranks: Expr
    hops: tuple[Hop, ...]
    ways: Expr = ONE
    replicas: Expr = ONE

    @property
    def exchanges(self) -> bool:
        """Whether rows of tokens travel: not where every device has all tokens."""
        return self.replicas != 1


@dataclass(frozen=True)
class Share:
    """The experts of one device: of the busiest, where they differ.

    Attributes:
        experts: how many it holds.
        chosen: how many of a token's experts are among them, on average.
        routing: how tokens choose these.
        ranks: on how many devices a token's experts are, on average.
    """

    experts: Expr
    chosen: Expr
    routing: Routing
    ranks: Expr


@lru_cache(maxsize=64)
def share(routing: Routing, experts: Expr, chosen: Expr, ranks: Expr) -> Share:
    """What one of ``ranks`` devices holds of ``experts``, of which a token chooses ``chosen``.

    With a popularity, experts lie in their order, and the device is the one whose experts
    are chosen most: the others wait for it.

    Raises:
        UnevenError: the experts do not divide.
    """
    mine = part(experts, ranks, "experts")
    if not routing.is_skewed:
        return Share(mine, chosen / ranks, routing, distinct_ranks(experts, chosen, ranks))
    if not ranks.is_Integer:
        raise PipelineError(
            f"experts of different popularity are spread over a number of devices, not over {ranks}"
        )
    chances = routing.shares(experts, chosen)
    count = int(mine)
    groups = [chances[i : i + count] for i in range(0, len(chances), count)]
    busiest = max(groups, key=lambda g: Add(*g))
    meets: Expr = Add(*(ONE - Mul(*(1 - p for p in group)) for group in groups))
    local = replace(routing, popularity=(), zipf=None, chances=busiest)
    return Share(mine, Add(*busiest), local, meets)


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
