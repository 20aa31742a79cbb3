"""Equal servers, and what it takes to bring caches from one kind to another."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.steps import WHOLE, StepTimes
from costgraph.errors import InputError


@dataclass(frozen=True)
class Pool:
    """Equal servers.

    Attributes:
        times: seconds of their steps.
        policy: what they put into them.
        servers: how many; requests go to the one with the fewest.
        positions: positions of caches that each holds; None: what its memory has room for.
    """

    times: StepTimes
    policy: Policy
    servers: int = 1
    positions: int | None = None

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise InputError(f"a pool has at least one server, not {self.servers}")

    @property
    def room(self) -> int:
        """What each server has for caches: positions, or parts of its memory."""
        return WHOLE if self.positions is None else self.positions

    def takes(self, positions: int) -> int:
        """How much of it a request takes."""
        return self.times.taken(positions) if self.positions is None else positions

    def check(self, positions: int) -> None:
        """Refuse a request that no server has room for."""
        taken = self.takes(positions)
        if taken <= self.room:
            return
        if self.positions is None:
            room = f"the memory: its caches are {taken / WHOLE:.4g} times what weights leave"
        else:
            room = f"the {self.room} of caches"
        raise InputError(f"a request of {positions} positions does not fit {room}")


@dataclass(frozen=True)
class Transfer:
    """Caches on their way from prompts to decodes.

    Attributes:
        latency: seconds before the first byte arrives.
        bytes_per_second: of the link between two servers.
        position: byte of caches per position.
    """

    latency: float
    bytes_per_second: float
    position: float

    def seconds(self, prompt: int) -> float:
        """Seconds for the caches of a prompt."""
        return self.latency + self.position * prompt / self.bytes_per_second
