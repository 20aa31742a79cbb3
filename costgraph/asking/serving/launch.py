"""Commands that start a plan's servers, as text for three engines.

Flags are those that the engines' documentation lists (vLLM 0.8.5, SGLang's server arguments,
TensorRT-LLM 0.18.2); nothing is run. What an engine cannot be told is said in a comment.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from math import ceil

from costgraph.asking.serving.plans import Group, Plan
from costgraph.asking.serving.policies import ChunkedPrefill, PrefillFirst
from costgraph.asking.serving.steps import MEMORY_SHARE
from costgraph.asking.serving.ways import Traffic
from costgraph.errors import InputError, clip, nearest
from costgraph.quoting import visible

#: Precisions that engines make of a plain checkpoint, as they call them; others are checkpoints.
QUANTIZATION: dict[str, dict[str, str]] = {
    "vllm": {"fp8": "fp8"},
    "sglang": {"fp8": "fp8"},
    "tensorrt-llm": {},
}


def launch(plan: Plan, traffic: Traffic, model: str, engine: str) -> str:
    """The commands of a plan for an engine, one a kind of replica.

    Raises:
        InputError: the engine is none of :data:`ENGINES`.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {clip(engine)}{nearest(engine, ENGINES)}")
    longest = longest_of(traffic)
    lines = [f"# {visible(model)}: put the checkpoint's path or repository in its place"]
    if "lognormal" in (traffic.prompt.spread, traffic.generate.spread):
        lines.append(f"# requests of more than {longest} positions are refused")
    for i, group in enumerate(plan.groups):
        role = "" if not plan.pooled else ("prefill", "decode")[i]
        what = f"{role + ': ' if role else ''}{group.replicas} replicas of {group.way}"
        lines.append(f"# {what}, each at up to {group.most:.4g} requests/s")
        if plan.pooled and engine != "sglang":
            lines.append(f"# {engine}: connect the pools as its documentation says")
        if isinstance(group.policy, PrefillFirst):
            lines.append("# prompts are whole; the engine may run decodes in the same steps")
        precision = group.way.precision
        if precision != "native" and precision not in QUANTIZATION[engine]:
            lines.append(f"# needs a checkpoint in {precision}")
        words = ENGINES[engine](group, shlex.quote(model), longest, role)
        if precision in QUANTIZATION[engine]:
            words.append(f"--quantization {QUANTIZATION[engine][precision]}")
        lines.append(" \\\n    ".join(words))
        if engine == "tensorrt-llm" and isinstance(group.policy, ChunkedPrefill):
            lines.append("# and enable_chunked_prefill: true in its file of options")
    return "\n".join(lines) + "\n"


def longest_of(traffic: Traffic) -> int:
    """Positions that a server must allow; of log-normal lengths up to two deviations more."""
    found = 0.0
    for lengths in (traffic.prompt, traffic.generate):
        wide = 2 if lengths.spread == "lognormal" else 1
        found += lengths.mean * (1 + wide * lengths.width)
    return ceil(found)


def _vllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    # Steps must hold a whole prompt where they are not chunked, and a token of each sequence.
    chunked = isinstance(group.policy, ChunkedPrefill)
    tokens = group.policy.budget if isinstance(group.policy, ChunkedPrefill) else longest
    return [
        f"vllm serve {model}", f"--tensor-parallel-size {group.way.devices}",
        f"--max-model-len {longest}", f"--max-num-seqs {group.policy.limit}",
        f"--gpu-memory-utilization {MEMORY_SHARE}",
        "--enable-chunked-prefill" if chunked else "--no-enable-chunked-prefill",
        f"--max-num-batched-tokens {max(tokens, group.policy.limit)}",
    ]  # fmt: skip


def _sglang(group: Group, model: str, longest: int, role: str) -> list[str]:
    words = [
        f"python -m sglang.launch_server --model-path {model}", f"--tp-size {group.way.devices}",
        f"--max-running-requests {group.policy.limit}", f"--mem-fraction-static {MEMORY_SHARE}",
    ]  # fmt: skip
    if isinstance(group.policy, ChunkedPrefill):
        words += ["--enable-mixed-chunk", f"--chunked-prefill-size {group.policy.budget}"]
    else:
        words.append("--chunked-prefill-size -1")
    return [*words, *((f"--disaggregation-mode {role}",) if role else ())]


def _trtllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    tokens = group.policy.budget if isinstance(group.policy, ChunkedPrefill) else longest
    return [
        f"trtllm-serve {model} --backend pytorch", f"--tp_size {group.way.devices}",
        f"--max_batch_size {group.policy.limit}", f"--max_seq_len {longest}",
        f"--max_num_tokens {max(tokens, group.policy.limit)}",
    ]  # fmt: skip


ENGINES: dict[str, Callable[[Group, str, int, str], list[str]]] = {
    "vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm,
}  # fmt: skip
