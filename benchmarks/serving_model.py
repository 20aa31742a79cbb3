"""A server of several GPUs as formulas: the pass ``parallel`` on a system of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import costgraph as cg
from costgraph.asking.serving import Serving, shared_tpot
from costgraph.asking.serving.memory import MEMORY_SHARE, Memories
from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError
from costgraph.models.catalog import CONFIGS, find
from costgraph.timing.fidelity.asked import calibrated
from costgraph.timing.fidelity.calibration import shipped

#: GPUs in a node of the servers.
NODE = 8


@cache
def read_config(model: str) -> Mapping[str, Any]:
    """A shipped configuration without its formats: those of a run stand in its passes."""
    config = json.loads((CONFIGS / f"{find(model)}.json").read_text())
    config.pop("quantization_config", None)
    return config


@dataclass(frozen=True)
class Layout:
    """How a model is split over GPUs: attention ``tp`` times ``dp``, experts ``ep`` times the rest.

    Attributes:
        tp: GPUs that split every tensor of attention.
        dp: replicas of it, each with its requests.
        ep: devices that share whole experts; the others split each of them.
    """

    tp: int
    dp: int
    ep: int

    @property
    def gpus(self) -> int:
        return self.tp * self.dp

    @property
    def is_mixed(self) -> bool:
        """Experts are split both ways, which the pass does not do: it shares them whole."""
        return 1 < self.ep < self.gpus

    @property
    def launched(self) -> Layout | None:
        """The split of a configuration whose rows state it multiplied by itself; None elsewhere.

        InferenceMAX starts such servers on one node (``multinode: false``), with ``tp n`` and
        ``ep n``, with or without attention in n replicas (``dp-attn``). Rows made of its runs
        state ``tp n²`` or ``dp n²`` beside experts split n by n, or ``tp n`` beside ``dp n`` and
        ``ep n²``.
        """
        n = self.ep if self.is_mixed else self.tp
        if n == 1 or n * n != self.gpus or not (self.is_mixed or self.dp > 1):
            return None
        return Layout(1, n, n) if self.dp > 1 else Layout(n, 1, n)

    @property
    def system(self) -> str:
        """Counts of a system's name."""
        if self.gpus <= NODE:
            return f"{self.gpus}x" if self.gpus > 1 else ""
        return f"{self.gpus // NODE}x{NODE}x"

    @property
    def passes(self) -> str:
        if self.gpus == 1:
            return ""
        # Experts of replicas are shared: the pass knows no replicas of attention alone.
        shared = self.gpus if self.ep > 1 or self.dp > 1 else 1
        degrees = (("tp", self.tp), ("dp", self.dp), ("ep", shared))
        return ",parallel{" + ",".join(f"{n}={x}" for n, x in degrees if x > 1) + "}"


@dataclass(frozen=True)
class Server:
    """A model on GPUs of a device, at a fidelity.

    Attributes:
        fidelity: ``ideal``, ``calibrated``, or with the framework's attention kernels and
            all-reduces where they were measured: ``framework`` for calibrated times, and the
            bands ``low``, ``median``, ``high``.
        passes: pipeline text, but for what splits the model.
        layout: how it is split.
    """

    model: str
    device: str
    passes: str
    layout: Layout
    fidelity: str
    framework: str

    @cached_property
    def serving(self) -> Serving:
        made = compiled(self.model, self.device, self.passes, self.layout)
        if self.fidelity == "ideal":
            return Serving(made)
        wanted = "calibrated" if self.fidelity == "framework" else self.fidelity
        if self.fidelity != "calibrated":
            own = shipped(self.device)
            if own is not None and self.framework in own.frameworks:
                wanted += f"@{self.framework}"
        return Serving(replace(made, timing=calibrated(wanted, made.machine, self.device)))

    @property
    def compiled(self) -> Compiled:
        return self.serving.compiled

    def prefill(self, S: int) -> float:
        """``P`` in seconds: of one prompt on every replica."""
        return float(self.compiled.ttft(B=self.layout.dp, S=S))

    def step(self, c: int, S: int, N: int) -> float:
        """A mean decode step in seconds."""
        return float(self.serving.step(c=c, S=S, N=N))

    @cached_property
    def memories(self) -> Memories:
        """What requests take of memory, as the serving layer counts it."""
        return Memories(self.compiled)

    def room(self, S: int, N: int) -> int:
        """Requests whose caches fit beside the weights and a decode step, on all replicas.

        TensorRT-LLM reserves a request's whole length; others hold what there is,
        on average half of the answer.
        """
        reserved = S + N if self.framework == "trtllm" else S + N // 2
        return self.memories.most(reserved)


@cache
def compiled(model: str, device: str, passes: str, layout: Layout) -> Compiled:
    """The program of one GPU."""
    config = dict(read_config(model))
    return cg.compile(config, layout.system + device, passes + layout.passes)


@dataclass(frozen=True)
class Prediction:
    """Seconds that a server takes for a run; ``batch`` requests are in flight.

    ``replicas`` take a prompt each at the same time.
    """

    step: float
    prefill: float
    batch: int
    c: int
    S: int
    N: int
    replicas: int = 1

    @property
    def share(self) -> float:
        """Seconds for which one prompt keeps the server."""
        return self.prefill / self.replicas

    def tpot(self, share: float = 1.0) -> float:
        """With ``share`` of the other requests' prefills between two tokens."""
        others = max(self.batch - self.replicas, 0)
        return self.step + share * others * self.share / (self.N - 1)

    @property
    def shared(self) -> float:
        """With every prompt in a decode step."""
        return shared_tpot(self.step, self.share, self.batch, self.N)

    @property
    def latency(self) -> float:
        """Arrival to last token, waiting for room in memory included."""
        own = (self.N - 1) * self.step + self.batch * self.share
        return own * self.c / self.batch

    @property
    def least(self) -> float:
        """No request is faster at an ideal prediction's seconds, however steps overlap.

        Decode steps of fewer requests advance fewer; prompts take their products' time
        (below 512 tokens they could share the weights' transfer, so none is asked).
        """
        prompts = self.c * self.share if self.S >= 512 else 0.0
        return max((self.N - 1) * self.step * self.c / self.batch, prompts)

    @property
    def ttft(self) -> tuple[float, float]:
        """Least, and with all requests in step."""
        return self.prefill, self.share * (self.batch + 1) / 2


@cache
def server(*key: Any) -> Server:
    """One object per server, so that formulas are derived once."""
    return Server(*key)


def predict(made: Server, c: int, S: int, N: int) -> Prediction:
    """A run of ``c`` requests in flight.

    Raises:
        InputError: the weights and one request do not fit in memory.
    """
    batch = min(c, made.room(S, N))
    if batch < 1:
        raise InputError(f"weights do not fit {MEMORY_SHARE:.0%} of the memory")
    return Prediction(made.step(batch, S, N), made.prefill(S), batch, c, S, N, made.layout.dp)
