"""Equal servers, and what it takes to bring caches from one kind to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from costgraph.asking.serving.caches import RESERVED, Growing, Paging, Reserving, Room
from costgraph.asking.serving.memory import LIVE, MEMORY_SHARE, WHOLE
from costgraph.asking.serving.policies import DecodeOnly, Policy
from costgraph.asking.serving.steps import StepTimes
from costgraph.errors import InputError
from costgraph.number import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from costgraph.hardware.machine import Link


@dataclass(frozen=True)
class Pool:
    """Equal servers.

    Attributes:
        times: seconds of their steps.
        policy: what they put into them.
        servers: how many; requests go to the one with the fewest.
        positions: positions of caches that each holds; None: what its memory has room for.
        paging: caches are given as they grow; None: for whole requests at the start.
        polls: a server that runs steps looks for new requests after every so many of them.
        prompt: tokens of the longest prompt; None: the longest context.
    """

    times: StepTimes
    policy: Policy
    servers: int = 1
    positions: int | None = None
    paging: Paging | None = None
    polls: int = 1
    prompt: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("servers", self.servers), ("polls", self.polls)):
            if least < 1:
                raise InputError(f"{name} of a pool are at least one, not {least}")
            whole(least, f"{name} of a pool")
        if self.paging is not None and self.policy.holds:
            raise InputError(
                f"caches of {self.policy.name} batches are held to their end: no paging"
            )
        if self.polls > 1 and self.policy.holds:
            raise InputError(
                f"{self.policy.name} batches take nobody before their end: no looks for new "
                "requests while decoding (polls)"
            )

    @property
    def lanes(self) -> int:
        """All servers, the groups of each that pass through its stages one behind another."""
        return self.servers * self.times.lanes

    @property
    def room(self) -> int:
        """What each server has for caches: positions, or parts of its memory."""
        return (WHOLE if self.positions is None else self.positions) // self.times.lanes

    def memory(self) -> Room:
        """Who may come, for one server."""
        return Reserving(self) if self.paging is None else Growing(self)

    @cached_property
    def grown(self) -> NDArray[np.int64]:
        """How much of the room sequences of 0, 1, 2 … positions take, in whole pages."""
        page = self.paging.page if self.paging else 1
        pages = -(-(self.times.longest + 1) // page)
        each = [self.takes(n * page) for n in range(1, pages + 1)]
        return np.concatenate(([0], np.repeat(np.array(each, np.int64), page)))

    def takes(self, positions: int) -> int:
        """How much of it a sequence of so many positions takes, in whole pages."""
        whole = positions if self.paging is None else self.paging.whole(positions)
        return self.times.taken(whole, self.reads) if self.positions is None else whole

    @cached_property
    def reads(self) -> tuple[int, int]:
        """The largest chunk of a prompt, or of caches to compute again: tokens, and its end."""
        if self.paging is not None and self.paging.swap is None:
            end = self.times.longest
            return (end if isinstance(self.policy, DecodeOnly) else self.policy.reads(end)), end
        end = self.prompt or self.times.longest
        return self.policy.reads(end), end

    def check(self, positions: int) -> None:
        """Refuse a request that no server has room for, or that is longer than its table."""
        if positions > self.times.longest:
            raise InputError(
                f"a request of {positions} positions is longer than the steps that are tabulated: "
                f"StepTimes(…, {positions}), not {self.times.longest}"
            )
        taken = self.takes(positions)
        if taken <= self.room:
            return
        if self.positions is None:
            times = f"{taken / self.room:.4g} times what weights and a step leave"
            room = f"the memory: its caches are {times}"
        else:
            room = f"the {self.room} of caches"
        pages = "" if self.paging is None else f" in pages of {self.paging.page}"
        raise InputError(f"a request of {positions} positions{pages} does not fit {room}")

    @property
    def assumed(self) -> tuple[str, ...]:
        """What its room rests on."""
        held = RESERVED if self.paging is None else self.paging.told
        if self.positions is not None:
            return (f"caches have {self.positions} positions; {held}",)
        return (f"weights and caches have {MEMORY_SHARE:.0%} of memory; {LIVE}; {held}",)


LINKS = (
    "caches on their way: a replica sends those of one request after the other and takes them in "
    "so, by the link of each of its devices; nothing else is on the links"
)


def apart_assumed(prompts: Pool, decodes: Pool) -> tuple[str, ...]:
    """What servers for prompts and servers that decode rest on together, each sentence once."""
    said = [*decodes.times.compiled.setting.assumptions, *decodes.times.assumed, *decodes.assumed]
    said.append(LINKS)
    if prompts.times.gain == 1 < decodes.times.gain:
        said.append(
            "the servers of prompts draft nothing, those that decode do: what a draft takes to "
            "read prompts is counted nowhere, in no first token either"
        )
    return tuple(dict.fromkeys(said))


@dataclass(frozen=True)
class Transfer:
    """Caches on their way over a link.

    Attributes:
        latency: seconds before the first byte arrives.
        bytes_per_second: of the link between two servers.
        position: byte of caches per position.
        held: byte of the caches of so many positions, where they are not in proportion: states
            that do not grow, windows that are full; see :meth:`.StepTimes.caches`.
    """

    latency: float
    bytes_per_second: float
    position: float
    held: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        if not (self.latency >= 0 and self.bytes_per_second > 0 and self.position >= 0):
            raise InputError(
                f"a link of {self.latency} s and {self.bytes_per_second} byte/s: times are at "
                "least zero, rates above"
            )

    @classmethod
    def over(cls, link: Link | None, times: StepTimes) -> Transfer | None:
        """Caches of these servers over a link; None where its bandwidth is not known."""
        if link is None or link.bandwidth is None:
            return None
        latency, rate = float(link.latency or 0), float(link.bandwidth)
        return cls(latency, rate, times.position(), times.caches)

    def moved(self, positions: float) -> float:
        """Byte of the caches of so many positions."""
        if self.held is None:
            return self.position * positions
        return self.held(ceil(positions))

    def seconds(self, positions: float) -> float:
        """Seconds for the caches of so many positions."""
        return self.latency + self.occupied(positions)

    def occupied(self, positions: float) -> float:
        """Seconds for which they keep the link from others."""
        return self.moved(positions) / self.bytes_per_second
