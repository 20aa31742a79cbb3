"""One server, event by event: a process of SimPy that admits, steps and lets go.

A server that only decodes runs many steps as one event, and is woken where a request arrives.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.pools import Pool
from costgraph.asking.serving.served import Served
from costgraph.asking.serving.steps import StepTimes


@dataclass
class Server:
    """One replica: its queue, and what decodes.

    Attributes:
        env: SimPy's environment.
        times: seconds of its steps.
        policy: what it puts into them.
        pool: whose caches it has room for.
        hands_on: where requests go after their first token; None: they decode here.
    """

    env: Any
    times: StepTimes
    policy: Policy
    pool: Pool
    tally: Tally
    hands_on: Any = None
    queue: deque[Served] = field(default_factory=deque)
    prompts: list[Served] = field(default_factory=list)
    ends: list[tuple[int, int, Served]] = field(default_factory=list)
    width: int = 0
    contexts: float = 0.0
    reserved: int = 0
    count: int = 0
    process: Any = None
    idle: Any = None
    resting: bool = False
    stepping: bool = False
    load: int = 0

    def give(self, served: Served) -> None:
        """A request arrives, with or without its prompt done."""
        self.pool.check(served.reserved)
        self.queue.append(served)
        self.load += 1
        if self.resting:
            self.resting = False
            self.idle.succeed()
        elif self.stepping and self._admissible():
            self.stepping = False
            self.process.interrupt()

    @property
    def decoding(self) -> int:
        """Sequences in a decode step, those that only keep their place included."""
        return self.width

    def _admissible(self) -> bool:
        if not self.queue or len(self.prompts) + self.width >= self.policy.limit:
            return False
        if self.policy.holds and self.width:
            return False
        return self.reserved + self.pool.takes(self.queue[0].reserved) <= self.pool.room

    def _admit(self) -> None:
        while self._admissible():
            served = self.queue.popleft()
            self.reserved += self.pool.takes(served.reserved)
            if served.left:
                self.prompts.append(served)
            else:
                self._decodes(served)

    def _decodes(self, served: Served) -> None:
        self.width += 1
        self.count += 1
        self.contexts += served.prompt + 1
        heapq.heappush(self.ends, (self._steps + served.request.generate - 1, self.count, served))

    _steps: int = 0

    def run(self) -> Generator[Any, Any, None]:
        """The server's life, as a process of SimPy."""
        import simpy

        while True:
            self._admit()
            if not self.prompts and not self.width:
                self.resting, self.idle = True, self.env.event()
                yield self.idle
                continue
            plan = self.policy.step(self.prompts, self.width)
            if plan.chunks:
                yield from self._mixed(plan.chunks, plan.decodes)
                continue
            most = self.ends[0][0] - self._steps
            row, start = self.times.row(self.width), self.times.place(self.contexts / self.width)
            most = min(most, max(1, self.times.longest + 1 - start))
            begun, whole = self.env.now, float(row[start - 1 + most] - row[start - 1])
            done = most
            self.stepping = True
            try:
                yield self.env.timeout(whole)
            except simpy.Interrupt:
                # The step that is running ends first.
                past = row[start - 1] + (self.env.now - begun)
                done = int(np.searchsorted(row[start : start + most], past, "left")) + 1
                done = min(done, most)
                whole = float(row[start - 1 + done] - row[start - 1])
                rest = begun + whole - self.env.now
                if rest > 0:
                    yield self.env.timeout(rest)
            self.stepping = False
            self._advance(done, whole)

    def _mixed(self, chunks: Sequence[int], decodes: bool) -> Generator[Any, Any, None]:
        taken = [(s, n) for s, n in zip(self.prompts, chunks, strict=False)]
        width = self.width if decodes else 0
        parts = [(n, s.prompt - s.left + n) for s, n in taken]
        seconds = self.times.step(width, self.contexts / width if width else 0, parts)
        yield self.env.timeout(seconds)
        for served, n in taken:
            served.left -= n
        finished = [s for s, _ in taken if not s.left]
        self.prompts = [s for s in self.prompts if s.left]
        if width:
            self._advance(1, seconds)
        else:
            self.tally.step(seconds, 1)
        for served in finished:
            served.first = self.env.now
            if served.request.generate == 1:
                self._leave(served)
            elif self.hands_on is not None:
                self.reserved -= self.pool.takes(served.reserved)
                self.load -= 1
                self.hands_on(served)
            else:
                self._decodes(served)

    def _advance(self, steps: int, seconds: float) -> None:
        self._steps += steps
        self.contexts += steps * self.width
        self.tally.step(seconds, steps)
        while self.ends and self.ends[0][0] <= self._steps:
            _, _, served = heapq.heappop(self.ends)
            if not self.policy.holds:
                self.width -= 1
                self.contexts -= served.reserved
            self._leave(served)
        if not self.ends:
            self.width, self.contexts = 0, 0.0

    def _leave(self, served: Served) -> None:
        served.done = self.env.now
        self.reserved -= self.pool.takes(served.reserved)
        self.load -= 1
        self.tally.leave(served)


@dataclass
class Tally:
    """Counts on the way: requests in the system over time, steps, what follows a departure."""

    env: Any
    then: Any = None
    served: list[Served] = field(default_factory=list)
    inside: int = 0
    area: float = 0.0
    at: float = 0.0
    busy: float = 0.0
    steps: int = 0

    def _move(self, by: int) -> None:
        self.area += self.inside * (self.env.now - self.at)
        self.at = self.env.now
        self.inside += by

    def enter(self) -> None:
        """A request arrives."""
        self._move(1)

    def leave(self, served: Served) -> None:
        """A request has its last token."""
        self._move(-1)
        self.served.append(served)
        if self.then is not None:
            self.then()

    def step(self, seconds: float, count: int) -> None:
        """Steps were run."""
        self.busy += seconds
        self.steps += count
