"""Ways to run a model on the devices of a replica: how it is shared, narrowed, drafted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, log2
from typing import Any

from costgraph.asking.serving.memory import NOTHING
from costgraph.asking.serving.policies import Policy
from costgraph.asking.serving.pools import Transfer
from costgraph.asking.serving.queueing import second_moment
from costgraph.asking.serving.requests import Lengths
from costgraph.asking.serving.steps import StepTimes
from costgraph.errors import CostgraphError, InputError

#: Devices of a node: more of a replica are on several.
NODE = 8


@dataclass(frozen=True)
class Traffic:
    """What is asked of the servers.

    Attributes:
        rate: requests per second.
        prompt, generate: lengths.
        ttft, tpot: the largest means that are allowed, in seconds.
    """

    rate: float
    prompt: Lengths
    generate: Lengths
    ttft: float
    tpot: float

    def __post_init__(self) -> None:
        for name in ("rate", "ttft", "tpot"):
            if not 0 < getattr(self, name) < 1e12:
                raise InputError(
                    f"{name} must be above 0 and below 1e12, not {getattr(self, name):g}"
                )

    def looser(self, limit: str) -> Traffic:
        """With one limit, ``ttft`` or ``tpot``, a tenth looser."""
        return replace(self, **{limit: 1.1 * getattr(self, limit)})


@dataclass(frozen=True)
class Way:
    """One way to run the model on the devices of a replica.

    Attributes:
        device: its name.
        devices: of a replica.
        precision: ``native``, or a preset of the pass ``quantize``.
        times: seconds of its steps.
        price: dollars an hour of one device; None where none is known.
        degrees: of the pass ``parallel``: ``(("tp", 4), ("pp", 2))``.
        drafts: options of the pass ``speculative``; empty without.
    """

    device: str
    devices: int
    precision: str
    times: StepTimes = field(compare=False)
    price: float | None = None
    degrees: tuple[tuple[str, int], ...] = ()
    drafts: str = ""

    @property
    def shared(self) -> str:
        """How its devices share the model: ``tp 4, pp 2``."""
        return shared_by(self.degrees)

    @property
    def kind(self) -> tuple[str, str, str]:
        """What pools of one plan have in common: caches go from one to the other."""
        return self.device, self.precision, self.drafts

    @property
    def named(self) -> str:
        """:attr:`kind` in words: ``h100 fp8, drafting``."""
        return f"{self.device} {self.precision}{', drafting' if self.drafts else ''}"

    def __str__(self) -> str:
        shared = f" ({self.shared})" if [n for n, _ in self.degrees] not in ([], ["tp"]) else ""
        drafts = ", drafting" if self.drafts else ""
        return f"{self.devices}x{self.device} {self.precision}{shared}{drafts}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "device": self.device, "devices_per_replica": self.devices,
            "precision": self.precision, "parallel": dict(self.degrees),
            "speculative": self.drafts or None,
        }  # fmt: skip


def degrees_of(devices: int, experts: bool) -> Iterator[tuple[tuple[str, int], ...]]:
    """Ways to share a model among so many devices: tensors, positions, stages, whole experts.

    Positions (``cp``) are shared beside split tensors. Experts are shared by all devices of a
    stage, beside split tensors, replicas of attention (``dp``; ``ep`` alone) or replicas of
    split tensors. Replicas of a whole model (``dp`` of a dense one) are counted as such.
    """
    powers = [2**i for i in range(int(log2(devices)) + 1)]
    for stages in powers:
        share = devices // stages
        for split in (n for n in reversed(powers) if n <= share):
            rest = share // split
            yield _named(tp=split, cp=rest, pp=stages)
            if experts and share > 1:
                dp = rest if split > 1 else 1  # attention in replicas is what ep alone has
                yield _named(tp=split, dp=dp, ep=share, pp=stages)


def _named(**degrees: int) -> tuple[tuple[str, int], ...]:
    return tuple((name, n) for name, n in degrees.items() if n > 1)


def shared_by(degrees: tuple[tuple[str, int], ...]) -> str:
    """Degrees in words: ``tp 4, pp 2``."""
    return ", ".join(f"{name} {n}" for name, n in degrees)


def sizes_of(most: int) -> tuple[int, ...]:
    """Devices of a replica that are tried: powers of two within a node."""
    return tuple(2**i for i in range(int(log2(min(most, NODE))) + 1))


@dataclass(frozen=True)
class Wish:
    """What ways are made of.

    Attributes:
        model: as for :func:`costgraph.compile`.
        names: devices.
        precisions: ``native``, or presets of the pass ``quantize``.
        drafts: options of the pass ``speculative`` that are tried; empty text: none.
        passes: the pipeline of each replica.
        conventions: as for :func:`costgraph.compile`.
    """

    model: Any
    names: tuple[str, ...]
    precisions: tuple[str, ...]
    drafts: tuple[str, ...]
    passes: str
    conventions: Mapping[str, Any]

    def way(
        self,
        device: str,
        precision: str,
        drafts: str,
        degrees: tuple[tuple[str, int], ...],
        devices: int,
        longest: int,
        prompt: int | None = None,
    ) -> Way | CostgraphError:
        """A way to run the model, or why there is none.

        ``prompt`` is the length of all prompts, where they have one.
        """
        from costgraph.compiling.compilation import compile

        narrowed = "" if precision == "native" else f"quantize{{preset={precision}}}"
        drafting = f"speculative{{{drafts}}}" if drafts else ""
        text = ",".join(f"{name}={n}" for name, n in degrees)
        shared = f"parallel{{{text}}}" if degrees else ""
        pipeline = ",".join(p for p in (narrowed, self.passes, drafting, shared) if p)
        try:
            compiled = compile(self.model, place_of(device, devices), pipeline, **self.conventions)
            times = StepTimes.of(compiled, longest, prompt)
            times.room(1)
            if drafts and times.gain == 1:
                return InputError(f"speculative{{{drafts}}}: one token a step, as without drafts")
        except CostgraphError as error:
            if devices == 1:
                raise
            return error
        hour = (compiled.bound or compiled.machine).price.hour
        price = None if hour is None else float(hour)
        return Way(device, devices, precision, times, price, degrees, drafts)

    def ways(self, most: int, traffic: Traffic) -> tuple[list[Way], dict[str, str]]:
        """All ways with at most so many devices, and why others are none.

        Replicas over several nodes are tried where none within a node holds the model.
        """
        # Of answers that differ much, those that are there at a moment are longer than most.
        ahead = max(1 + traffic.generate.width, second_moment(traffic.generate) / 2)
        longest = ceil(traffic.prompt.mean + traffic.generate.mean * ahead)
        same = traffic.prompt.spread == "fixed"
        prompt = max(1, round(traffic.prompt.mean)) if same else None
        found: list[Way] = []
        left: dict[str, str] = {}
        for device, precision, drafts in product(self.names, self.precisions, self.drafts):
            experts: bool | None = None
            own: list[Way] = []
            over = (n for n in (2 * NODE, 4 * NODE, 8 * NODE) if n <= most)
            for devices in (*sizes_of(most), *over):
                if devices > NODE and any(held(w, traffic) for w in own):
                    break
                for degrees in degrees_of(devices, bool(experts)):
                    made = self.way(device, precision, drafts, degrees, devices, longest, prompt)
                    if isinstance(made, Way):
                        if experts is None:
                            experts = has_experts(made)
                        own.append(made)
                    else:
                        shared = f" ({shared_by(degrees)})" if degrees else ""
                        drafting = ", drafting" if drafts else ""
                        left[f"{devices}x{device} {precision}{shared}{drafting}"] = str(made)
            found += own
        return found, left


def drafting(options: str) -> Any:
    """The pass ``speculative`` with these options.

    Raises:
        PipelineError: they are none.
    """
    from costgraph.passes import PASSES
    from costgraph.rewriting.pipeline import parse

    (item,) = parse(f"speculative{{{options}}}", PASSES)
    return item


def has_experts(way: Way) -> bool:
    """Whether anything of the model can be shared as whole experts."""
    from costgraph.ops.experts import ExpertLinear
    from costgraph.ops.fused import operations

    phases = way.times.compiled.program.phases
    return any(isinstance(o, ExpertLinear) for p in phases for o, _ in operations(p.graph))


def held(way: Way, traffic: Traffic, policy: Policy | None = None) -> int:
    """Sequences of the mean request that a replica's group holds, whole lengths reserved.

    With a ``policy`` its steps fit beside them.
    """
    end = ceil(traffic.prompt.mean)
    read = NOTHING if policy is None else (policy.reads(end), end)
    return way.times.room(traffic.prompt.mean + traffic.generate.mean, read=read)


def between(device: str, times: StepTimes) -> Transfer | None:
    """The network between nodes of a device, which caches cross; None where none is known.

    Every device of a replica sends its own part.
    """
    from costgraph.hardware import load_system

    try:
        network = load_system(f"2x{NODE}x{device}").device.links.get("network")
    except CostgraphError:
        return None
    return Transfer.over(network, times)


def place_of(device: str, devices: int) -> str:
    """The system of so many devices, by name."""
    if devices <= NODE:
        return device if devices == 1 else f"{devices}x{device}"
    return f"{devices // NODE}x{NODE}x{device}"


def longest_of(traffic: Traffic) -> int:
    """Positions that a server must allow; of log-normal lengths up to two deviations more."""
    found = 0.0
    for lengths in (traffic.prompt, traffic.generate):
        wide = 2 if lengths.spread == "lognormal" else 1
        found += lengths.mean * (1 + wide * lengths.width)
    return ceil(found)


def lengths_of(given: Lengths | str | float) -> Lengths:
    """Lengths, from text or a number as well."""
    return given if isinstance(given, Lengths) else Lengths.of(given)
