"""A server of ``g`` GPUs as formulas: one GPU's share of the model, and all-reduces.

There is no pass for tensor parallelism. One GPU's share is a configuration with
heads, feed-forward width, vocabulary and experts divided (key/value heads at least
one; of routed experts split over GPUs, each holds ``E/ep`` and each token meets
``k/ep`` of them there on average), plus two all-reduces of the hidden states a layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import costgraph as cg
from costgraph.asking.serving import Serving, shared_tpot
from costgraph.compiling.compiled import Compiled
from costgraph.counting.footprint import cache_bytes, footprint
from costgraph.errors import InputError
from costgraph.models.catalog import CONFIGS, find
from costgraph.timing.fidelity.apply import calibrated
from costgraph.timing.fidelity.calibration import shipped
from costgraph.timing.fidelity.forms import form_of, value

#: Share of a device's memory that servers give to weights and caches.
MEMORY_SHARE = 0.9
DIVIDED = ("num_attention_heads", "intermediate_size", "ffn_dim", "vocab_size")
EXPERT_WIDTHS = ("moe_intermediate_size",)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
#: Families whose ``intermediate_size`` is an expert's width.
EXPERTS_ONLY = ("gpt_oss", "minimax_m2")


@cache
def read_config(model: str) -> dict[str, Any]:
    """A shipped configuration."""
    return json.loads((CONFIGS / f"{find(model)}.json").read_text())


def share(config: dict[str, Any], tp: int, moe_tp: int, moe_ep: int) -> dict[str, Any]:
    """The configuration of one GPU's share.

    Raises:
        InputError: a size does not divide.
    """
    made = dict(config)
    by = dict.fromkeys(DIVIDED, tp) | dict.fromkeys(EXPERT_WIDTHS, moe_tp)
    by |= dict.fromkeys(EXPERTS, moe_ep) | {"num_experts_per_tok": moe_ep}
    by |= {"experts_per_token": moe_ep}
    if config["model_type"] in EXPERTS_ONLY:
        by["intermediate_size"] = moe_tp
    if "head_dim" not in made and "kv_lora_rank" not in made:
        made["head_dim"] = made["hidden_size"] // made["num_attention_heads"]
    for name, parts in by.items():
        if made.get(name) is None:
            continue
        if made[name] % parts:
            raise InputError(f"{name} = {made[name]} does not divide by {parts}")
        made[name] //= parts
    if "kv_lora_rank" in made:
        made["num_key_value_heads"] = made["num_attention_heads"]
    elif "num_key_value_heads" in made:
        made["num_key_value_heads"] = max(1, made["num_key_value_heads"] // tp)
    if moe_ep > 1 and "n_group" in made:
        made |= {"n_group": 1, "topk_group": 1}
    made.pop("quantization_config", None)
    return made


@dataclass(frozen=True)
class Server:
    """A model on ``gpus`` GPUs of a device, at a fidelity.

    Attributes:
        fidelity: ``ideal``, ``calibrated``, or ``framework``: calibrated with the
            framework's attention kernels where they were measured.
        passes: pipeline text.
    """

    model: str
    device: str
    passes: str
    gpus: int
    moe_tp: int
    moe_ep: int
    fidelity: str
    framework: str

    @cached_property
    def serving(self) -> Serving:
        compiled = _compiled(
            self.model, self.device, self.passes, self.gpus, self.moe_tp, self.moe_ep
        )
        if self.fidelity == "ideal":
            return Serving(compiled)
        wanted = "calibrated"
        if self.fidelity == "framework":
            own = shipped(self.device)
            if own is not None and self.framework in own.frameworks:
                wanted += f"@{self.framework}"
        timing = calibrated(wanted, compiled.machine, self.device)
        return Serving(replace(compiled, timing=timing))

    @property
    def compiled(self) -> Compiled:
        return self.serving.compiled

    def prefill(self, S: int) -> float:
        """``P`` in seconds."""
        return float(self.serving.prefill(S=S)) + self.reduces(S)

    def step(self, c: int, S: int, N: int) -> float:
        """A mean decode step in seconds."""
        return float(self.serving.step(c=c, S=S, N=N)) + self.reduces(c)

    def reduces(self, tokens: int) -> float:
        """Seconds of a step's all-reduces: two of the hidden states per layer."""
        if self.gpus == 1:
            return 0.0
        config = read_config(self.model)
        size = 2 * config["hidden_size"] * tokens
        link = float(self.compiled.machine.link("nvlink").bandwidth)
        once = all_reduce(self.fidelity, self.device, self.framework, self.gpus, size, link)
        return 2 * config["num_hidden_layers"] * once

    def room(self, S: int, N: int) -> int:
        """Requests whose caches fit beside the weights.

        TensorRT-LLM reserves a request's whole length; others hold what there is,
        on average half of the answer.
        """
        reserved = S + N if self.framework == "trtllm" else S + N // 2
        graph = self.compiled.graph
        weights = float(footprint(graph).weights)
        cache = float(cache_bytes(graph).subs({cg.symbols.B: 1, cg.symbols.T: reserved}))
        memory = MEMORY_SHARE * float(self.compiled.machine.memory.capacity)
        return int((memory - weights) // cache)


@cache
def _compiled(
    model: str, device: str, passes: str, gpus: int, moe_tp: int, moe_ep: int
) -> Compiled:
    return cg.compile(share(read_config(model), gpus, moe_tp, moe_ep), device, passes)


#: Fitted all-reduces in CUDA graphs by framework.
REDUCES = {"trtllm": "trtllm", "vllm": "vllm-graph", "sglang": "sglang-graph"}


def all_reduce(
    fidelity: str, device: str, framework: str, gpus: int, size: int, link: float
) -> float:
    """Seconds to reduce ``size`` bytes: a ring over the link, or the fitted form.

    Raises:
        InputError: none was measured.
    """
    wire = 2 * (gpus - 1) / gpus * size / link
    if fidelity == "ideal":
        return wire
    own = shipped(device)
    names = (REDUCES.get(framework, "nccl"), "vllm-graph", "nccl")
    kinds = tuple(f"{gpus}-gpus@{name}" for name in names)
    found = None if own is None else own.find("allreduce", kinds)
    if found is None:
        raise InputError(f"no all-reduce of {gpus} GPUs was measured on {device}")
    return float(value(form_of("allreduce").build({"V": wire}, found.values)))


@dataclass(frozen=True)
class Prediction:
    """Seconds that a server takes for a run; ``batch`` requests are in flight."""

    step: float
    prefill: float
    batch: int
    c: int
    S: int
    N: int

    def tpot(self, share: float = 1.0) -> float:
        """With ``share`` of the other requests' prefills between two tokens."""
        return self.step + share * (self.batch - 1) * self.prefill / (self.N - 1)

    @property
    def shared(self) -> float:
        """With every prompt in a decode step."""
        return shared_tpot(self.step, self.prefill, self.batch, self.N)

    @property
    def latency(self) -> float:
        """Arrival to last token, waiting for room in memory included."""
        own = (self.N - 1) * self.step + self.batch * self.prefill
        return own * self.c / self.batch

    @property
    def least(self) -> float:
        """No request is faster at an ideal prediction's seconds, however steps overlap.

        Decode steps of fewer requests advance fewer; prompts take their products' time
        (below 512 tokens they could share the weights' transfer, so none is asked).
        """
        prompts = self.c * self.prefill if self.S >= 512 else 0.0
        return max((self.N - 1) * self.step * self.c / self.batch, prompts)

    @property
    def ttft(self) -> tuple[float, float]:
        """Least, and with all requests in step."""
        return self.prefill, self.prefill * (self.batch + 1) / 2


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
    return Prediction(made.step(batch, S, N), made.prefill(S), batch, c, S, N)
