"""Collectives between devices: time in the alpha-beta model, as formulas.

A message of ``m`` bytes between two devices takes ``alpha + m / beta`` seconds
(Hockney, Parallel Computing 20(3), 1994): ``alpha`` is the latency of a link,
``beta`` its bandwidth in one direction. A device sends to one and receives from
one other device at a time, both at full speed; reductions themselves are free.

The costs of the algorithms follow Thakur, Rabenseifner and Gropp, "Optimization of
Collective Communication Operations in MPICH", IJHPCA 19(1), 2005. ``n`` is always
the *whole* buffer: what every device holds before an all-reduce and after an
all-gather or broadcast, before a reduce-scatter, and what each device sends away
in an all-to-all, its own share included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sympy import Add, Expr, Integer, Min, ceiling, log

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.hardware.parts import Link
from costgraph.symbols import symbol

ZERO, ONE, TWO = Integer(0), Integer(1), Integer(2)


@dataclass(frozen=True)
class Messages:
    """What an exchange between devices costs along its critical path.

    Attributes:
        steps: messages sent one after the other.
        wire: bytes on the wire: of each step the largest message, added up.
        carried: bytes that the whole link could carry meanwhile, where an exchange can use
            a part of it only; None for ``wire``.
    """

    steps: Expr
    wire: Expr
    carried: Expr | None = None

    @property
    def load(self) -> Expr:
        """Bytes that the whole link could carry meanwhile."""
        return self.wire if self.carried is None else self.carried

    def time(self, alpha: Expr, beta: Expr) -> Expr:
        """Seconds: ``steps * alpha + load / beta``."""
        return self.steps * alpha + self.load / beta

    def over(self, share: Expr) -> Messages:
        """The same over a part of the link's bandwidth."""
        return self if share == 1 else Messages(self.steps, self.wire, self.load / share)

    def mapped(self, f: Callable[[Expr], Expr]) -> Messages:
        """``f`` applied to every amount."""
        return Messages(
            f(self.steps), f(self.wire), None if self.carried is None else f(self.carried)
        )

    def __add__(self, other: Messages) -> Messages:
        whole = self.carried is None and other.carried is None
        carried = None if whole else self.load + other.load
        return Messages(self.steps + other.steps, self.wire + other.wire, carried)


@dataclass(frozen=True)
class Hop:
    """One level of a group of devices: ``ranks`` of them joined by one kind of link.

    Attributes:
        link: the name of the link, as the device knows it.
        ranks: how many take part on this level.
        in_network: the switches of this level reduce on the way.
        share: the part of the link's bandwidth that a ring over this level can use
            (see :mod:`costgraph.hardware.wiring`).
    """

    link: str
    ranks: Expr
    in_network: bool = False
    share: Expr = Integer(1)


Algorithm = Callable[[Expr, Expr], Messages]


def rounds(p: Expr) -> Expr:
    """``ceil(log2 p)``: how often ``p`` devices can be halved; 0 for one device."""
    if p.is_Integer:  # exact, where a logarithm would be a float
        return Integer(int(p - 1).bit_length())
    return ceiling(log(p, 2))


def ring_reduce_scatter(n: Expr, p: Expr) -> Messages:
    """Each of ``p - 1`` steps passes ``n / p`` bytes to the next device in the ring."""
    return Messages(p - 1, n * (p - 1) / p)


def ring_all_gather(n: Expr, p: Expr) -> Messages:
    """Like the reduce-scatter: ``p - 1`` steps of ``n / p`` bytes."""
    return Messages(p - 1, n * (p - 1) / p)


def ring_all_reduce(n: Expr, p: Expr) -> Messages:
    """Reduce-scatter, then all-gather: ``2 (p - 1)`` steps, ``2 n (p - 1) / p`` bytes."""
    return ring_reduce_scatter(n, p) + ring_all_gather(n, p)


def tree_all_reduce(n: Expr, p: Expr) -> Messages:
    """Recursive doubling: ``log2 p`` steps, each exchanging the whole buffer.

    For ``p`` that is no power of two, a step before folds the surplus devices into
    others and a step after sends them the result.
    """
    extra = _surplus(p)
    return Messages(_floor_rounds(p) + extra, n * (_floor_rounds(p) + extra))


def binary_tree_all_reduce(n: Expr, p: Expr) -> Messages:
    """Reduce to one device and broadcast, along a binomial tree: ``2 ceil(log2 p)`` steps.

    Every step on the longest path carries the whole buffer.
    """
    return Messages(2 * rounds(p), 2 * n * rounds(p))


def halving_all_reduce(n: Expr, p: Expr) -> Messages:
    """Rabenseifner: recursive halving, then doubling; ``2 log2 p`` steps, ``2 n (p-1)/p`` bytes.

    For ``p`` a power of two; a fold before and after otherwise, as in
    :func:`tree_all_reduce`.
    """
    core = _power_below(p)
    extra = _surplus(p)
    return Messages(2 * _floor_rounds(p) + extra, 2 * n * (core - 1) / core + n * extra)


def tree_all_gather(n: Expr, p: Expr) -> Messages:
    """Bruck: ``ceil(log2 p)`` steps that double what a device has, ``n (p - 1) / p`` bytes."""
    return Messages(rounds(p), n * (p - 1) / p)


def tree_reduce_scatter(n: Expr, p: Expr) -> Messages:
    """The all-gather in reverse: ``ceil(log2 p)`` steps, ``n (p - 1) / p`` bytes."""
    return Messages(rounds(p), n * (p - 1) / p)


def tree_broadcast(n: Expr, p: Expr) -> Messages:
    """Binomial tree: ``ceil(log2 p)`` steps of the whole buffer."""
    return Messages(rounds(p), n * rounds(p))


def ring_broadcast(n: Expr, p: Expr) -> Messages:
    """Scatter along a binomial tree, then all-gather in a ring (van de Geijn).

    ``ceil(log2 p) + p - 1`` steps; the root sends ``n (p - 1) / p`` bytes in each part.
    """
    return Messages(rounds(p), n * (p - 1) / p) + ring_all_gather(n, p)


def pairwise_all_to_all(n: Expr, p: Expr) -> Messages:
    """``p - 1`` steps; each sends one other device its ``n / p`` bytes directly."""
    return Messages(p - 1, n * (p - 1) / p)


def bruck_all_to_all(n: Expr, p: Expr) -> Messages:
    """Bruck: ``log2 p`` steps of ``n / 2`` bytes each, for ``p`` a power of two.

    For other ``p``, ``ceil(log2 p)`` steps; step ``k`` carries the blocks whose number
    has bit ``k`` set.
    """
    if p.is_Integer:
        blocks = sum(bin(i).count("1") for i in range(int(p)))
        return Messages(rounds(p), n * blocks / p)
    return Messages(rounds(p), n * rounds(p) / 2)


def direct(n: Expr, p: Expr) -> Messages:
    """One message of ``n`` bytes from one device to another; nothing for one device."""
    return Messages(_if_many(p), n * _if_many(p))


def in_network_all_reduce(n: Expr, p: Expr) -> Messages:
    """The switch reduces: each device sends its buffer up and receives the sum, ``n`` bytes.

    Two steps; sending and receiving overlap, so the buffer crosses the link once
    (Graham et al., SHARP, COMHPC 2016; NVLink SHARP in NVSwitch systems).
    """
    return Messages(2 * _if_many(p), n * _if_many(p))


#: Algorithms by collective. The first is what large messages use.
ALGORITHMS: Mapping[str, Mapping[str, Algorithm]] = MappingProxyType(
    {
        "all-reduce": MappingProxyType(
            {
                "ring": ring_all_reduce,
                "tree": tree_all_reduce,
                "binary-tree": binary_tree_all_reduce,
                "halving": halving_all_reduce,
            }
        ),
        "all-gather": MappingProxyType({"ring": ring_all_gather, "tree": tree_all_gather}),
        "reduce-scatter": MappingProxyType(
            {"ring": ring_reduce_scatter, "tree": tree_reduce_scatter}
        ),
        "all-to-all": MappingProxyType({"ring": pairwise_all_to_all, "tree": bruck_all_to_all}),
        "broadcast": MappingProxyType({"ring": ring_broadcast, "tree": tree_broadcast}),
        "p2p": MappingProxyType({"direct": direct}),
    }
)

#: Algorithms that need a switch which computes; asked for by name only.
IN_NETWORK: Mapping[str, Mapping[str, Algorithm]] = MappingProxyType(
    {"all-reduce": MappingProxyType({"in-network": in_network_all_reduce})}
)


#: By collective, the algorithms of the fewest steps and of the fewest bytes.
_LEAST: Mapping[str, tuple[Algorithm, Algorithm]] = MappingProxyType(
    {
        "all-reduce": (tree_all_reduce, ring_all_reduce),
        "all-gather": (tree_all_gather, ring_all_gather),
        "reduce-scatter": (tree_reduce_scatter, ring_reduce_scatter),
        "all-to-all": (bruck_all_to_all, pairwise_all_to_all),
        "broadcast": (tree_broadcast, tree_broadcast),
        "p2p": (direct, direct),
    }
)


def steps(kind: str, algorithm: str, bytes: Expr | int, devices: Expr | int) -> Messages:
    """Steps and bytes on the wire of a collective.

    Args:
        kind: a key of :data:`ALGORITHMS`.
        algorithm: one of that collective's algorithms.
        bytes: size of the whole buffer; a number or an expression.
        devices: how many take part; a whole number of at least 1, or an expression.

    Raises:
        InputError: an unknown name, or a size that is not positive.
    """
    table = {**_table(kind), **IN_NETWORK.get(kind, {})}
    if algorithm not in table:
        raise InputError(f"{kind}: unknown algorithm {clip(algorithm)}{nearest(algorithm, table)}")
    n, p = _amount("bytes", bytes), _devices(devices)
    return Messages(ZERO, ZERO) if p == 1 else table[algorithm](n, p)


def least(kind: str, bytes: Expr, devices: Expr, in_network: bool = False) -> Messages:
    """The fewest steps and the fewest bytes that any algorithm needs, each by itself.

    No algorithm is faster than both together allow. ``in_network`` admits the algorithms
    that need a switch which computes.

    Args:
        kind: a key of :data:`ALGORITHMS`.
        bytes: size of the whole buffer.
        devices: how many take part; as an expression it is taken for a power of two.
        in_network: the switches reduce on the way.
    """
    if devices == 1:
        return Messages(ZERO, ZERO)
    table = dict(_table(kind))
    if in_network:
        table |= IN_NETWORK.get(kind, {})
    if not devices.is_number:  # of which is known which is least, whatever the degree
        by_steps, by_wire = (a(bytes, devices) for a in _LEAST[kind])
        if not (in_network and kind in IN_NETWORK):
            return Messages(by_steps.steps, by_wire.wire)
        switched = IN_NETWORK[kind]["in-network"](bytes, devices)
        return Messages(Min(by_steps.steps, switched.steps), switched.wire)
    found = [algorithm(ONE, devices) for algorithm in table.values()]
    return Messages(min(m.steps for m in found), bytes * min(m.wire for m in found))


def collective(
    kind: str,
    algorithm: str,
    bytes: Expr | int,
    devices: Expr | int,
    link: Link | None = None,
) -> Expr:
    """Seconds that a collective takes, as a sympy expression.

    Args:
        kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all``,
            ``broadcast`` or ``p2p``.
        algorithm: ``ring``, ``tree`` …, see :data:`ALGORITHMS` and :data:`IN_NETWORK`,
            or ``best`` for the fastest of the former: the smallest of numbers, or their
            ``Min`` while symbols are free.
        bytes: size of the whole buffer (see the module's text); number or expression.
        devices: how many take part; a number, or an expression, which the tree
            algorithms then take for a power of two.
        link: the connection; without one, ``alpha`` and ``beta`` stay symbols. A link
            that states no latency counts none.

    Raises:
        InputError: an unknown name, or a size that is not positive.
        HardwareError: more devices than the link joins.
    """
    _fits(devices, link)
    alpha, beta = _rates(link)
    if algorithm != "best":
        return steps(kind, algorithm, bytes, devices).time(alpha, beta)
    times = [steps(kind, a, bytes, devices).time(alpha, beta) for a in _table(kind)]
    if all(t.is_number for t in times):
        return min(times, key=lambda t: (float(t), str(t)))
    return Min(*times, evaluate=False) if len(set(times)) > 1 else times[0]


def fastest(kind: str, bytes: int, devices: int, link: Link) -> tuple[str, Expr]:
    """The fastest algorithm and its time in seconds, for numbers.

    Raises:
        InputError: an unknown collective, or a size that is not a positive number.
        HardwareError: more devices than the link joins.
    """
    times = [(a, collective(kind, a, bytes, devices, link)) for a in _table(kind)]
    if not all(t.is_number for _, t in times):
        raise InputError("fastest: bytes, devices and the link must be numbers")
    return min(times, key=lambda pair: float(pair[1]))


def hierarchical(
    kind: str,
    bytes: Expr | int,
    devices: Expr | int,
    nodes: Expr | int,
    inner: Link | None = None,
    outer: Link | None = None,
    algorithm: str = "ring",
) -> Expr:
    """Seconds of a collective over ``nodes`` servers of ``devices`` devices each.

    All-reduce: reduce-scatter within the node, all-reduce of each device's share
    across nodes (every device with its peers, over a link of its own), all-gather
    within. All-gather and reduce-scatter: across nodes and within, the share across.
    Broadcast: across nodes, then within. All-to-all: one exchange within the node,
    one across, every byte passing both (Thakur, Rabenseifner and Gropp 2005; Cho et
    al., BlueConnect, MLSys 2019).

    Without links, ``alpha`` and ``beta`` (inner), ``alpha_net`` and ``beta_net``
    (outer) stay symbols. With one node this is the flat collective.

    Raises:
        InputError: an unknown name, a size that is not positive, or a point-to-point
            message, which has no hierarchy.
        HardwareError: more devices than a link joins.
    """
    _table(kind)
    if kind == "p2p":
        raise InputError("a point-to-point message crosses one link: use collective('p2p', …)")
    _fits(devices, inner)
    n, p, c = _amount("bytes", bytes), _devices(devices), _devices(nodes)
    near, far = _rates(inner), _rates(outer, "_net")

    def within(what: str, size: Expr) -> Expr:
        return steps(what, algorithm, size, p).time(*near)

    def across(what: str, size: Expr) -> Expr:
        return steps(what, algorithm, size, c).time(*far)

    if kind == "all-reduce":
        return Add(
            within("reduce-scatter", n), across("all-reduce", n / p), within("all-gather", n)
        )
    if kind == "all-gather":
        return across("all-gather", n / p) + within("all-gather", n)
    if kind == "reduce-scatter":
        return within("reduce-scatter", n) + across("reduce-scatter", n / p)
    return across(kind, n) + within(kind, n)


# --- parts --------------------------------------------------------------------------


def _table(kind: str) -> Mapping[str, Algorithm]:
    if not isinstance(kind, str) or kind not in ALGORITHMS:
        raise InputError(f"unknown collective {clip(kind)}{nearest(str(kind), ALGORITHMS)}")
    return ALGORITHMS[kind]


def _amount(what: str, value: Expr | int) -> Expr:
    if isinstance(value, bool) or not isinstance(value, (int, Expr)):
        raise InputError(f"{what} must be a whole number or an expression, not {clip(value)}")
    number = Integer(value) if isinstance(value, int) else value
    if number.is_number and not number > 0:
        raise InputError(f"{what} must be positive, not {clip(value)}")
    return number


def _devices(value: Expr | int) -> Expr:
    number = _amount("devices", value)
    if number.is_number and not number.is_Integer:
        raise InputError(f"devices must be a whole number, not {clip(value)}")
    return number


def _fits(devices: Expr | int, link: Link | None) -> None:
    if link is None or link.devices is None:
        return
    p = _devices(devices)
    if p.is_number and link.devices.is_number and p > link.devices:
        raise HardwareError(
            f"{p} devices, but the link joins {link.devices}: use hierarchical(…) over nodes"
        )


def _rates(link: Link | None, suffix: str = "") -> tuple[Expr, Expr]:
    if link is None:
        return symbol(f"alpha{suffix}"), symbol(f"beta{suffix}")
    return (ZERO if link.latency is None else link.latency), link.bandwidth


def _floor_rounds(p: Expr) -> Expr:
    """``floor(log2 p)``; for symbols, ``log2 p``: devices come in powers of two."""
    return Integer(int(p).bit_length() - 1) if p.is_Integer else log(p, 2)


def _power_below(p: Expr) -> Expr:
    """The largest power of two that ``p`` reaches; for symbols ``p`` itself."""
    return TWO ** _floor_rounds(p) if p.is_Integer else p


def _surplus(p: Expr) -> Expr:
    """2 extra steps (fold and unfold) where ``p`` is no power of two; 0 for symbols."""
    return TWO if p.is_Integer and _power_below(p) != p else ZERO


def _if_many(p: Expr) -> Expr:
    """1 for two devices or more, 0 for one."""
    return Min(ONE, p - 1)
