"""Commands that start a plan's servers, as text for three engines.

Flags are those that the engines' documentation lists (vLLM 0.8, SGLang, TensorRT-LLM 0.18);
nothing is run. What an engine cannot be told is said in a comment.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from costgraph.asking.serving.plan import Group, Plan, Traffic
from costgraph.asking.serving.policies import ChunkedPrefill
from costgraph.asking.serving.steps import MEMORY_SHARE
from costgraph.errors import InputError, clip, nearest

#: Precisions as engines call them; others are checkpoints of their own.
QUANTIZATION = {"fp8": "fp8"}


def launch(plan: Plan, traffic: Traffic, model: str, engine: str) -> str:
    """The commands of a plan for an engine, one a kind of replica.

    Raises:
        InputError: the engine is none of :data:`ENGINES`.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {clip(engine)}{nearest(engine, ENGINES)}")
    longest = round(traffic.prompt.mean + traffic.generate.mean)
    lines = []
    for i, group in enumerate(plan.groups):
        role = "" if not plan.pooled else ("prefill", "decode")[i]
        what = f"{role + ': ' if role else ''}{group.replicas} replicas of {group.way}"
        lines.append(f"# {what}, each at up to {group.most:.4g} requests/s")
        if plan.pooled and engine != "sglang":
            lines.append(f"# {engine}: connect the pools as its documentation says")
        if group.way.precision not in ("native", *QUANTIZATION):
            lines.append(f"# needs a checkpoint in {group.way.precision}")
        lines.append(ENGINES[engine](group, shlex.quote(model), longest, role))
    return "\n".join(lines) + "\n"


def _vllm(group: Group, model: str, longest: int, role: str) -> str:
    words = [
        f"vllm serve {model}", f"--tensor-parallel-size {group.way.devices}",
        f"--max-num-seqs {group.policy.limit}", f"--gpu-memory-utilization {MEMORY_SHARE}",
    ]  # fmt: skip
    if isinstance(group.policy, ChunkedPrefill):
        words += ["--enable-chunked-prefill", f"--max-num-batched-tokens {group.policy.budget}"]
    else:
        words += ["--no-enable-chunked-prefill", f"--max-num-batched-tokens {longest}"]
    return _joined(words, group, "--quantization")


def _sglang(group: Group, model: str, longest: int, role: str) -> str:
    words = [
        f"python -m sglang.launch_server --model-path {model}", f"--tp-size {group.way.devices}",
        f"--max-running-requests {group.policy.limit}",
    ]  # fmt: skip
    if isinstance(group.policy, ChunkedPrefill):
        words += ["--enable-mixed-chunk", f"--chunked-prefill-size {group.policy.budget}"]
    else:
        words += ["--chunked-prefill-size -1"]
    if role:
        words.append(f"--disaggregation-mode {role}")
    return _joined(words, group, "--quantization")


def _trtllm(group: Group, model: str, longest: int, role: str) -> str:
    words = [
        f"trtllm-serve {model} --backend pytorch", f"--tp_size {group.way.devices}",
        f"--max_batch_size {group.policy.limit}", f"--max_seq_len {longest}",
    ]  # fmt: skip
    chunk = group.policy.budget if isinstance(group.policy, ChunkedPrefill) else longest
    words.append(f"--max_num_tokens {chunk}")
    text = _joined(words, group, "")
    if isinstance(group.policy, ChunkedPrefill):
        text += "\n# and enable_chunked_prefill: true in its file of options"
    return text


def _joined(words: list[str], group: Group, flag: str) -> str:
    if group.way.precision in QUANTIZATION and flag:
        words.append(f"{flag} {QUANTIZATION[group.way.precision]}")
    return " \\\n    ".join(words)


ENGINES: dict[str, Callable[[Group, str, int, str], str]] = {
    "vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm,
}  # fmt: skip
