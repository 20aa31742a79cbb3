"""Policies: which prompts and which decodes a server puts into its next step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from costgraph.asking.serving import forms
from costgraph.errors import InputError
from costgraph.number import whole


class Waiting(Protocol):
    """A request whose prompt is not done, with the tokens of it that are left.

    One that gave up its caches (``preempted`` times) has those that it made to read as well.
    """

    left: int
    preempted: int

    @property
    def prompt(self) -> int:
        """All tokens of the prompt."""


@dataclass(frozen=True)
class Step:
    """What runs next.

    Attributes:
        chunks: how many tokens of each of the first waiting prompts.
        decodes: whether the sequences that decode take part.
    """

    chunks: tuple[int, ...] = ()
    decodes: bool = True


@dataclass(frozen=True)
class Policy(ABC):
    """How a server fills its steps.

    Attributes:
        limit: sequences at a time, prompts in work included.
    """

    name: ClassVar[str]
    #: Finished sequences keep their places until all of their batch are done.
    holds: ClassVar[bool] = False
    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"a server runs at least one sequence at a time, not {self.limit}")
        whole(self.limit, "sequences at a time")

    @abstractmethod
    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        """What runs next, given admitted prompts in order and sequences that decode."""

    def reads(self, prompt: int) -> int:
        """Tokens of one prompt, of so many, that a step reads at most."""
        return prompt


@dataclass(frozen=True)
class StaticBatches(Policy):
    """A batch is taken when the last one is done, and ends with its longest answer."""

    name = "static"
    holds = True

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        if decoding or not waiting:
            return Step()
        return Step(tuple(w.left for w in waiting), decodes=False)


@dataclass(frozen=True)
class PrefillFirst(Policy):
    """Waiting prompts run before decode steps, each in a step of its own."""

    name = "prefill-first"

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        return Step((waiting[0].left,), decodes=False) if waiting else Step()


@dataclass(frozen=True)
class Continuous(Policy):
    """Whole prompts join the next decode step (Yu et al., ORCA, OSDI 2022)."""

    name = "continuous"

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        return Step(tuple(w.left for w in waiting))


@dataclass(frozen=True)
class Budgeted(Policy):
    """A policy whose steps have a budget of tokens.

    Attributes:
        budget: tokens in a step.
    """

    budget: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 1:
            raise InputError(f"a step has at least one token, not {self.budget}")
        whole(self.budget, "tokens of a step")

    def reads(self, prompt: int) -> int:
        return forms.chunk_of(prompt, self.budget)


def _filled(waiting: Sequence[Waiting], free: int) -> tuple[int, ...]:
    """Tokens of waiting prompts, in order, up to so many; one at least: prompts move on."""
    free = max(1, free)
    chunks: list[int] = []
    for w in waiting:
        if free <= 0:
            break
        chunks.append(min(free, w.left))
        free -= chunks[-1]
    return tuple(chunks)


@dataclass(frozen=True)
class ChunkedPrefill(Budgeted):
    """Decodes first; prompts fill a step up to a budget of tokens, decodes included.

    Agrawal et al., SARATHI, arXiv 2308.16369; vLLM's ``max_num_batched_tokens``.
    """

    name = "chunked"

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        return Step(_filled(waiting, self.budget - decoding))


@dataclass(frozen=True)
class PrefillBatches(Budgeted):
    """Waiting prompts run before decode steps, those that fit a budget of tokens in one step.

    SGLang's ``chunked-prefill-size`` without mixed chunks; longer prompts are cut to it.
    """

    name = "prefill-batches"

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        chunks = _filled(waiting, self.budget)
        return Step(chunks, decodes=False) if chunks else Step()


@dataclass(frozen=True)
class WholePrompts(Budgeted):
    """Whole prompts join the next decode step while they fit a budget of tokens.

    TensorRT-LLM's ``max_num_tokens`` without chunked context. A prompt that fits no step is
    run alone beside the decodes.
    """

    name = "whole-prompts"

    def reads(self, prompt: int) -> int:
        return prompt

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        free = self.budget - decoding
        chunks: list[int] = []
        for w in waiting:
            if chunks and w.left > free:
                break
            chunks.append(w.left)
            free -= w.left
        return Step(tuple(chunks))


@dataclass(frozen=True)
class DecodeOnly(Policy):
    """Prompts are done by other servers: decode steps run here.

    Caches that a sequence gave up are computed again here, in a step of their own.
    """

    name = "decode-only"

    def reads(self, prompt: int) -> int:
        return 0

    def step(self, waiting: Sequence[Waiting], decoding: int) -> Step:
        if waiting and not waiting[0].preempted:
            raise InputError("a server that only decodes was given a prompt that is not done")
        return Step((waiting[0].left,), decodes=False) if waiting else Step()


POLICIES: dict[str, type[Policy]] = {
    p.name: p for p in (
        StaticBatches, PrefillFirst, PrefillBatches, Continuous, WholePrompts, ChunkedPrefill,
    )
}  # fmt: skip
