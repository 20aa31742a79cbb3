"""One server, event by event: a process of SimPy that admits, steps and lets go.

A server that only decodes runs many steps as one event, and is woken where a request arrives.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from costgraph.asking.serving.caches import Room, Running
from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.pools import Pool
from costgraph.asking.serving.served import Served, Span
from costgraph.asking.serving.steps import StepTimes

#: Requests after which whoever watches is told.
WATCHED = 64


@dataclass
class Server:
    """One replica: its queue, and what decodes.

    Attributes:
        env: SimPy's environment.
        number: which of all servers it is.
        times: seconds of its steps.
        policy: what it puts into them.
        pool: whose servers are like it.
        room: for caches.
        hands_on: where requests go after their first token; None: they decode here.
        stages: of a pipeline, which its groups share: one step at a time is at each.
        load: requests that it has, waiting ones included.
    """

    env: Any
    number: int
    pool: Pool
    tally: Tally
    hands_on: Callable[[Served], None] | None = None
    stages: Sequence[Any] = ()
    queue: deque[Served] = field(default_factory=deque)
    prompts: list[Served] = field(default_factory=list)
    running: dict[int, Running] = field(default_factory=dict)
    ends: list[tuple[int, int]] = field(default_factory=list)
    width: int = 0
    pace: float = 0.0
    contexts: float = 0.0
    count: int = 0
    steps: int = 0
    process: Any = None
    idle: Any = None
    resting: bool = False
    stepping: bool = False
    load: int = 0
    moving: float = 0.0
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = self.pool.memory()

    @property
    def times(self) -> StepTimes:
        """Seconds of its steps."""
        return self.pool.times

    @property
    def policy(self) -> Policy:
        """What it puts into them."""
        return self.pool.policy

    def give(self, served: Served) -> None:
        """A request arrives, with or without its prompt done."""
        self.pool.check(served.reserved)
        served.servers += (self.number,)
        self.queue.append(served)
        self.load += 1
        if self.resting:
            self.resting = False
            self.idle.succeed()
        elif self.stepping and self._admissible():
            self.stepping = False
            self.process.interrupt()

    def _admissible(self) -> bool:
        if not self.queue or len(self.prompts) + self.width >= self.policy.limit:
            return False
        if self.policy.holds and self.width:
            return False
        return self.room.admits(self.queue[0], self.running.values(), self.steps)

    def _admit(self) -> None:
        while self._admissible():
            served = self.queue.popleft()
            if served.begun != served.begun:
                served.begun = self.env.now
            self.room.enter(served)
            if served.left:
                self.prompts.append(served)
            else:
                self._decodes(served)

    def _decodes(self, served: Served) -> None:
        """Its prompt is done, and the first of its tokens is there."""
        rest = served.request.generate - served.made
        need = ceil(rest / self.times.gain)
        self.count += 1
        made = Running(served, self.steps, self.steps + need, served.goal, rest / need)
        self.running[self.count] = made
        self.width += 1
        self.pace += made.pace
        self.contexts += made.context
        heapq.heappush(self.ends, (made.end, self.count))

    def run(self) -> Generator[Any, Any, None]:
        """The server's life, as a process of SimPy."""
        while True:
            self._admit()
            if self.moving:
                seconds, self.moving = self.moving, 0.0
                yield self.env.timeout(seconds)
                span = Span(self.number, self.env.now - seconds, seconds, 0, 0, 0)
                self.tally.step(span, seconds)
            if not self.prompts and not self.width:
                self.resting, self.idle = True, self.env.event()
                yield self.idle
                continue
            plan = self.policy.step(self.prompts, self.width)
            if self.width and plan.decodes and not self.room.steps(
                self.running.values(), self.steps, 1
            ):  # fmt: skip
                self._preempt()
                continue
            if plan.chunks:
                yield from self._mixed(plan.chunks, plan.decodes)
            else:
                yield from self._decode_run()

    def _pass(self, seconds: float) -> Generator[Any, Any, float]:
        """A step, here or on all stages one after the other; the seconds of work in it.

        Nobody overtakes: who follows a prompt is as slow as that.
        """
        if not self.stages:
            yield self.env.timeout(seconds)
            return seconds
        work = seconds / self.times.stretch  # the slowest stage shows by itself
        for stage, share in zip(self.stages, self.times.passed, strict=True):
            with stage.request() as turn:
                yield turn
                yield self.env.timeout(share * work)
        return work

    def _decode_run(self) -> Generator[Any, Any, None]:
        """Decode steps up to the next end, or to the step in which a request arrives.

        On stages that are shared one step, or those up to the next look for requests.
        """
        import simpy

        most = max(1, self._next_end() - self.steps)
        if self.stages:
            most = min(most, self.pool.polls - self.steps % self.pool.polls)
        most = self.room.steps(self.running.values(), self.steps, most)
        pace = self.pace / self.width
        path = self.times.path(self.width, self.contexts / self.width, pace, most)
        begun, whole, done = self.env.now, path.seconds(path.most), path.most
        if self.stages:
            work = 0.0
            for i in range(done):
                work += yield from self._pass(path.seconds(i + 1) - path.seconds(i))
            self._advance(done, begun, work)
            return
        self.stepping = True
        try:
            yield self.env.timeout(whole)
        except simpy.Interrupt:
            # The step that is running ends first, and those until the server looks.
            done = path.steps(self.env.now - begun)
            behind = (self.steps + done) % self.pool.polls
            done = min(done + (self.pool.polls - behind if behind else 0), path.most)
            whole = path.seconds(done)
            rest = begun + whole - self.env.now
            if rest > 0:
                yield self.env.timeout(rest)
        self.stepping = False
        self._advance(done, begun, whole)

    def _mixed(self, chunks: Sequence[int], decodes: bool) -> Generator[Any, Any, None]:
        taken = [(s, n) for s, n in zip(self.prompts, chunks, strict=False)]
        width = self.width if decodes else 0
        parts = [(n, s.goal - s.left + n) for s, n in taken]
        seconds = self.times.step(width, self.contexts / width if width else 0, parts)
        begun = self.env.now
        work = yield from self._pass(seconds)
        for served, n in taken:
            served.left -= n
        finished = [s for s, _ in taken if not s.left]
        self.prompts = [s for s in self.prompts if s.left]
        tokens = sum(n for _, n in taken)
        if width:
            self._advance(1, begun, work, tokens)
        else:
            self.tally.step(Span(self.number, begun, self.env.now - begun, 1, 0, tokens), work)
        for served in finished:
            self._begin(served)

    def _begin(self, served: Served) -> None:
        """A prompt is done, and makes a token."""
        if self.pool.paging is not None:
            self.room.leave(served)  # it grows from here
        served.made += 1
        if served.made == 1:
            served.first = self.env.now
        if served.made >= served.request.generate:
            self._gone(served)
        elif self.hands_on is not None:
            self.load -= 1
            if self.pool.paging is None:
                self.room.leave(served)
            self.hands_on(served)
        else:
            self._decodes(served)

    def _advance(self, steps: int, begun: float, work: float, tokens: int = 0) -> None:
        span = Span(self.number, begun, self.env.now - begun, steps, self.width, tokens)
        self.steps += steps
        self.contexts += steps * self.pace
        self.tally.step(span, work)
        while self.running and self._next_end() <= self.steps:
            _, number = heapq.heappop(self.ends)
            running = self.running.pop(number)
            if not self.policy.holds:
                self._drop(running)
            running.served.made = running.served.request.generate
            self._gone(running.served)
        if not self.running:
            self.width, self.pace, self.contexts = 0, 0.0, 0.0

    def _next_end(self) -> int:
        """The step at which the first of those that decode ends; ends of others are forgotten."""
        while self.ends[0][1] not in self.running:
            heapq.heappop(self.ends)
        return self.ends[0][0]

    def _drop(self, running: Running) -> None:
        """It takes part in decode steps no more."""
        self.width -= 1
        self.pace -= running.pace
        self.contexts -= running.context + running.pace * (self.steps - running.since)

    def _preempt(self) -> None:
        """The sequence that was admitted last gives up its caches and waits in front."""
        number = next(reversed(self.running))
        running = self.running.pop(number)
        self._drop(running)
        served = running.served
        served.made += running.made(self.steps)
        served.preempted += 1
        self.tally.preemptions += 1
        assert self.pool.paging is not None
        swap = self.pool.paging.swap
        if swap is None:
            served.left = served.goal - served.request.cached
        else:
            # Out now, and in before it goes on.
            self.moving += 2 * swap.seconds(served.goal)
        self.queue.appendleft(served)

    def _gone(self, served: Served) -> None:
        served.done = self.env.now
        if self.pool.paging is None:
            self.room.leave(served)
        self.load -= 1
        self.tally.leave(served)


@dataclass
class Tally:
    """Counts on the way: requests in the system over time, steps, what follows a departure."""

    env: Any
    then: Callable[[], None] | None = None
    served: list[Served] = field(default_factory=list)
    inside: int = 0
    area: float = 0.0
    at: float = 0.0
    busy: float = 0.0
    steps: int = 0
    preemptions: int = 0
    spans: list[Span] | None = None
    watched: Callable[[int], None] | None = None

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
        if self.watched is not None and len(self.served) % WATCHED == 0:
            self.watched(len(self.served))
        if self.then is not None:
            self.then()

    def step(self, span: Span, work: float) -> None:
        """Steps were run, with so many seconds of work: the rest waited for stages."""
        self.busy += work
        self.steps += span.steps
        if self.spans is not None:
            self.spans.append(span)
