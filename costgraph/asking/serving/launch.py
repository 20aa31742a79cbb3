"""Commands that start a plan's servers, as text for three engines.

Flags are those that the engines' documentation lists (vLLM's engine arguments, expert-parallel
deployment and speculative decoding; SGLang's server arguments; ``trtllm-serve`` 1.0); nothing is
run. What an engine cannot be told is said in a comment, and a plan that it cannot run is refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from math import ceil

from costgraph.asking.serving.plans import Group, Plan
from costgraph.asking.serving.policies import ChunkedPrefill, PrefillFirst
from costgraph.asking.serving.steps import MEMORY_SHARE
from costgraph.asking.serving.ways import NODE, Traffic, drafting
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
        InputError: the engine is none of :data:`ENGINES`, or its documentation names no flags
            for how the plan drafts.
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
        words += _drafts(group, engine)
        if group.way.devices > NODE:
            lines.append(f"# {group.way.devices} devices: start it over nodes as {engine} says")
        lines.append(" \\\n    ".join(words))
        lines += [f"# and {x} in its file of options" for x in _in_file(group, engine)]
    return "\n".join(lines) + "\n"


def _in_file(group: Group, engine: str) -> list[str]:
    """What an engine reads from a file of options, not from its command."""
    if engine != "tensorrt-llm":
        return []
    replicated = "ep" in dict(group.way.degrees) and "tp" not in dict(group.way.degrees)
    chunked = isinstance(group.policy, ChunkedPrefill)
    return [
        *(["enable_chunked_prefill: true"] if chunked else []),
        *(["enable_attention_dp: true"] if replicated else []),
    ]


def _drafts(group: Group, engine: str) -> list[str]:
    """How an engine is told to draft."""
    if not group.way.drafts:
        return []
    item = drafting(group.way.drafts)
    names = {"skip", "heads", "blockwise", "pass", "copy", "phrases", "lookahead", "jacobi", "mtp"}
    own = item.draft in names or item.draft.startswith("eagle")
    if engine != "vllm" or own or not str(item.gamma).isdigit():
        raise InputError(
            f"{engine}: no documented flags are known for drafts of {clip(group.way.drafts)}; a "
            "model that drafts a fixed number of tokens has some in vllm"
        )
    told = {"model": item.draft, "num_speculative_tokens": int(item.gamma)}
    return [f"--speculative-config {shlex.quote(json.dumps(told))}"]


def longest_of(traffic: Traffic) -> int:
    """Positions that a server must allow; of log-normal lengths up to two deviations more."""
    found = 0.0
    for lengths in (traffic.prompt, traffic.generate):
        wide = 2 if lengths.spread == "lognormal" else 1
        found += lengths.mean * (1 + wide * lengths.width)
    return ceil(found)


def _split(group: Group) -> tuple[int, int, int, int]:
    """Devices that split tensors, stages, devices that share experts, replicas of attention."""
    degrees = dict(group.way.degrees)
    split, staged, experts = (degrees.get(n, 1) for n in ("tp", "pp", "ep"))
    if not degrees:
        split = group.way.devices
    replicas = group.way.devices // (split * staged)
    return split, staged, experts, replicas


def _vllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    # Steps must hold a whole prompt where they are not chunked, and a token of each sequence.
    chunked = isinstance(group.policy, ChunkedPrefill)
    tokens = group.policy.budget if isinstance(group.policy, ChunkedPrefill) else longest
    split, staged, experts, replicas = _split(group)
    return [
        f"vllm serve {model}", f"--tensor-parallel-size {split}",
        *([f"--pipeline-parallel-size {staged}"] if staged > 1 else []),
        *([f"--data-parallel-size {replicas}"] if replicas > 1 else []),
        *(["--enable-expert-parallel"] if experts > 1 else []),
        f"--max-model-len {longest}", f"--max-num-seqs {seats(group)}",
        f"--gpu-memory-utilization {MEMORY_SHARE}",
        "--enable-chunked-prefill" if chunked else "--no-enable-chunked-prefill",
        f"--max-num-batched-tokens {max(tokens, seats(group))}",
    ]  # fmt: skip


def _sglang(group: Group, model: str, longest: int, role: str) -> list[str]:
    split, staged, experts, replicas = _split(group)
    words = [
        f"python -m sglang.launch_server --model-path {model}", f"--tp-size {split * replicas}",
        *([f"--pp-size {staged}"] if staged > 1 else []),
        *([f"--dp-size {replicas}", "--enable-dp-attention"] if replicas > 1 else []),
        *([f"--ep-size {experts}"] if experts > 1 else []),
        f"--max-running-requests {group.policy.limit * group.way.times.lanes}",
        f"--mem-fraction-static {MEMORY_SHARE}",
    ]  # fmt: skip
    if isinstance(group.policy, ChunkedPrefill):
        words += ["--enable-mixed-chunk", f"--chunked-prefill-size {group.policy.budget}"]
    else:
        words.append("--chunked-prefill-size -1")
    return [*words, *((f"--disaggregation-mode {role}",) if role else ())]


def _trtllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    tokens = group.policy.budget if isinstance(group.policy, ChunkedPrefill) else longest
    split, staged, experts, replicas = _split(group)
    return [
        f"trtllm-serve {model} --backend pytorch", f"--tp_size {split * replicas}",
        *([f"--pp_size {staged}"] if staged > 1 else []),
        *([f"--ep_size {experts}"] if experts > 1 else []),
        f"--max_batch_size {seats(group)}", f"--max_seq_len {longest}",
        f"--max_num_tokens {max(tokens, seats(group))}",
    ]  # fmt: skip


def seats(group: Group) -> int:
    """Sequences at a time of one scheduler: of a pipeline's groups, or a replica of attention."""
    return -(-group.policy.limit // _split(group)[3])


ENGINES: dict[str, Callable[[Group, str, int, str], list[str]]] = {
    "vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm,
}  # fmt: skip
