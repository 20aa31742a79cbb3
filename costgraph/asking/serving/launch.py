"""Commands that start a plan's servers, as text for three engines.

Flags are those that the engines' documentation lists (vLLM's engine arguments, data and
expert-parallel deployment, draft models; SGLang's server arguments; the options of
``trtllm-serve``); nothing is run. What an engine cannot be told is said in a comment, and a plan
that it says it cannot run is refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.asking.serving.memory import MEMORY_SHARE
from costgraph.asking.serving.plans import Group, Plan, ServePlans
from costgraph.asking.serving.policies import ChunkedPrefill, PrefillFirst
from costgraph.asking.serving.ways import NODE, Traffic, drafting, longest_of
from costgraph.errors import InputError, clip, nearest
from costgraph.passes import PASSES
from costgraph.passes.decoding.drafts import SOURCES
from costgraph.passes.precision.formats import PRESETS, Preset
from costgraph.quoting import visible
from costgraph.rewriting.pipeline import parse

#: Precisions that engines make of a plain checkpoint, as they call them; others are checkpoints.
QUANTIZATION: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "vllm": {"fp8": "fp8"},
    "sglang": {"fp8": "fp8"},
    "tensorrt-llm": {},
})  # fmt: skip
#: How engines are told to keep caches in 8-bit floats; TensorRT-LLM reads it from a file.
CACHES: Mapping[str, str] = MappingProxyType({
    "vllm": "--kv-cache-dtype fp8", "sglang": "--kv-cache-dtype fp8_e4m3",
})  # fmt: skip
#: Engines with a flag for devices that share the positions of prompts and of their caches.
#: SGLang's splits prompts alone, among devices that split tensors: not what ``parallel`` counts.
CONTEXT = ("vllm", "tensorrt-llm")
#: Formats of caches that these are.
FLOATS = ("fp8", "e4m3")
#: Options of the pass ``speculative`` that say how often drafts are right, not how they are made.
GUESSED = ("alpha", "alphas", "acceptance", "accepted", "gain")


def first_launch(found: ServePlans, model: str, engine: str) -> str:
    """The commands of the best plan that an engine can be told, and why not of better ones.

    Raises:
        InputError: the engine is none of :data:`ENGINES`.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {clip(engine)}{nearest(engine, ENGINES)}")
    refused: dict[str, int] = {}
    commands = "# no plan has commands\n"
    for number, plan in enumerate(found.plans, 1):
        try:
            commands = launch(plan, found.traffic, model, engine)
        except InputError as why:
            refused.setdefault(str(why), number)
            continue
        if refused:
            commands = f"# commands of plan {number} of the table\n{commands}"
        break
    return "".join(f"# not of plan {n}: {visible(why)}\n" for why, n in refused.items()) + commands


def launch(plan: Plan, traffic: Traffic, model: str, engine: str) -> str:
    """The commands of a plan for an engine, one a kind of replica.

    Raises:
        InputError: the engine is none of :data:`ENGINES`, or its documentation names no flags
            for how the plan drafts, or it refuses a plan's combination of them.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {clip(engine)}{nearest(engine, ENGINES)}")
    longest = longest_of(traffic)
    lines = [f"# {visible(model)}: put the checkpoint's path or repository in its place"]
    if "lognormal" in (traffic.prompt.spread, traffic.generate.spread):
        lines.append(f"# requests of more than {longest} positions are refused")
    beyond = plan.groups[0].way.times.compiled.program.beyond(longest)
    lines += [f"# {beyond}: the engine may refuse to start"] if beyond else []
    for i, group in enumerate(plan.groups):
        role = "" if not plan.pooled else ("prefill", "decode")[i]
        many = "replica" if group.replicas == 1 else "replicas"
        what = f"{role + ': ' if role else ''}{group.replicas} {many} of {group.way}"
        lines.append(f"# {what}, each at up to {group.most:.4g} requests/s")
        if plan.pooled and engine != "sglang":
            lines.append(f"# {engine}: connect the pools as its documentation says")
        if isinstance(group.policy, PrefillFirst):
            lines.append("# prompts are whole; the engine may run decodes in the same steps")
        if _context(group) > 1 and engine not in CONTEXT:
            raise InputError(
                f"{engine}: no documented flag is known for devices that share the positions of "
                f"prompts and of caches (cp {_context(group)}); {' and '.join(CONTEXT)} have one"
            )
        drafts = _drafts(group, engine)
        words = ENGINES[engine](group, shlex.quote(model), longest, role)
        formats, untold = _formats(group, engine)
        words += [*formats, *drafts]
        lines += [f"# {x}" for x in (*untold, *_untold(group, engine, longest))]
        if group.way.devices > NODE:
            lines.append(f"# {group.way.devices} devices: start it over nodes as {engine} says")
        lines.append(" \\\n    ".join(words))
        file = "in the file of --config (also --extra_llm_api_options)"
        lines += [f"# and {x} {file}" for x in _in_file(group, engine)]
    return "\n".join(lines) + "\n"


def _in_file(group: Group, engine: str) -> list[str]:
    """What an engine reads from a file of options, not from its command."""
    if engine != "tensorrt-llm":
        return []
    return [
        *(["enable_attention_dp: true"] if _split(group)[3] > 1 else []),
        *(["kv_cache_config: {dtype: fp8}"] if _caches(group) in FLOATS else []),
    ]


def _caches(group: Group) -> str:
    """Format of caches that the plan asks for, by its precision or as the model is read."""
    kept = _preset(group).kv
    if kept != Preset.kv:
        return kept
    return dict(group.way.times.compiled.setting.reading).get("kv", "")


def _preset(group: Group) -> Preset:
    return {**PRESETS, "native": Preset()}[group.way.precision]


def _formats(group: Group, engine: str) -> tuple[list[str], list[str]]:
    """Flags for the plan's precision and caches, and what has none."""
    preset = _preset(group)
    weights = next((n for n, p in PRESETS.items() if p == replace(preset, kv=Preset.kv)), "")
    caches = _caches(group)
    flags, untold = [], []
    if weights in QUANTIZATION[engine]:
        flags.append(f"--quantization {QUANTIZATION[engine][weights]}")
    elif preset != Preset():
        untold.append(f"needs a checkpoint in {group.way.precision}")
    if caches in FLOATS and engine in CACHES:
        flags.append(CACHES[engine])
    elif caches and caches not in FLOATS:
        untold.append(f"caches are {caches} in the plan: no flag is known")
    return flags, untold


def _untold(group: Group, engine: str, longest: int) -> Iterator[str]:
    """What the plan's numbers rest on and no flag says."""
    setting = group.way.times.compiled.setting
    told = {"fuse", "quantize", "speculative", "parallel"}
    for item in parse(setting.passes, PASSES):
        if item.name not in told:
            yield f"the numbers are for the pass {item.name}: no flag is known"
    for name, value in setting.reading:
        if name not in ("kv", "reserve"):
            yield f"the numbers are for {name} {value}: no flag is known"
    if group.way.times.lanes > 1 and engine == "tensorrt-llm":
        yield "sequences are of each of the pipeline's groups: see how the engine counts them"
    if _context(group) > 1:
        yield "not all models and attention kernels of the engine share positions"
    if engine == "vllm":
        share = f"{MEMORY_SHARE:.0%} of memory"
        yield f"activations of a step are within the {share}; in the plan caches may fill these"
        tokens, sequences = _vllm_sizes(group, longest)
        if tokens > (planned := _tokens(group, longest)):
            yield (
                f"it wants as many tokens in a step as sequences in the pipeline, {sequences}: "
                f"the plan's steps have up to {planned}"
            )
        if group.way.drafts:
            draft = visible(drafting(group.way.drafts).draft)
            yield f"{draft}: put the path or repository of its checkpoint in its place as well"
    if engine == "tensorrt-llm":
        share = f"{MEMORY_SHARE:.0%}"
        yield f"caches get {share} of what weights leave; in the plan both together have {share}"
    if engine == "sglang" and _split(group)[3] > 1:
        yield "attention in replicas: SGLang's documentation names DeepSeek-V2 and Qwen 2/3 MoE"


def _drafts(group: Group, engine: str) -> list[str]:
    """How an engine is told to draft."""
    if not group.way.drafts:
        return []
    item = drafting(group.way.drafts)
    own = item.draft in SOURCES or item.draft.startswith("eagle")
    plain = replace(drafting(f"gamma={item.gamma}"), draft=item.draft)
    other = item != replace(plain, **{n: getattr(item, n) for n in GUESSED})
    if engine != "vllm" or own or other or not str(item.gamma).isdigit():
        raise InputError(
            f"{engine}: no documented flags are known for drafts of {clip(group.way.drafts)}; a "
            "model that drafts a fixed number of tokens in turns has some in vllm"
        )
    if group.way.times.lanes > 1:
        raise InputError(f"{engine}: drafts in a pipeline are not supported, as it says")
    told = {
        "method": "draft_model", "model": item.draft, "num_speculative_tokens": int(item.gamma),
    }  # fmt: skip
    return [f"--speculative-config {shlex.quote(json.dumps(told))}"]


def _split(group: Group) -> tuple[int, int, int, int]:
    """Devices that split tensors, stages, devices that share experts, replicas of attention."""
    degrees = dict(group.way.degrees)
    split, staged, experts = (degrees.get(n, 1) for n in ("tp", "pp", "ep"))
    if not degrees:
        split = group.way.devices
    replicas = group.way.devices // (split * staged * _context(group))
    return split, staged, experts, replicas


def _context(group: Group) -> int:
    """Devices that share the positions of a sequence."""
    return dict(group.way.degrees).get("cp", 1)


def _vllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    chunked = isinstance(group.policy, ChunkedPrefill)
    split, staged, experts, replicas = _split(group)
    tokens, sequences = _vllm_sizes(group, longest)
    return [
        f"vllm serve {model}", f"--tensor-parallel-size {split}",
        *([f"--pipeline-parallel-size {staged}"] if staged > 1 else []),
        *([f"--prefill-context-parallel-size {_context(group)}"] if _context(group) > 1 else []),
        *([f"--data-parallel-size {replicas}"] if replicas > 1 else []),
        *(["--enable-expert-parallel"] if experts > 1 else []),
        f"--max-model-len {longest}",
        f"--max-num-seqs {sequences}",
        f"--gpu-memory-utilization {MEMORY_SHARE}",
        "--enable-chunked-prefill" if chunked else "--no-enable-chunked-prefill",
        f"--max-num-batched-tokens {tokens}",
    ]  # fmt: skip


def _vllm_sizes(group: Group, longest: int) -> tuple[int, int]:
    """Tokens of a step, and sequences: its scheduler counts those of every group of a pipeline.

    It refuses fewer tokens than sequences.
    """
    sequences = seats(group) * group.way.times.lanes
    return max(_tokens(group, longest), sequences), sequences


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
        if staged > 1:
            raise InputError(
                "sglang: it refuses --enable-mixed-chunk with --pp-size: no command for chunks "
                "beside decodes in a pipeline"
            )
        words += ["--enable-mixed-chunk", f"--chunked-prefill-size {group.policy.budget}"]
    else:
        words.append("--chunked-prefill-size -1")
    return [*words, *((f"--disaggregation-mode {role}",) if role else ())]


def _trtllm(group: Group, model: str, longest: int, role: str) -> list[str]:
    chunked = isinstance(group.policy, ChunkedPrefill)
    split, staged, experts, replicas = _split(group)
    context = _context(group)
    if replicas > 1 and split > 1:
        raise InputError(
            "tensorrt-llm: enable_attention_dp makes replicas of attention of one device each: no "
            f"command for {replicas} replicas of {split}"
        )
    return [
        f"trtllm-serve {model} --backend pytorch", f"--tp_size {split * replicas}",
        *([f"--pp_size {staged}"] if staged > 1 else []),
        *([f"--cp_size {context}"] if context > 1 else []),
        *([f"--ep_size {experts}"] if experts > 1 else []),
        f"--max_batch_size {seats(group)}", f"--max_seq_len {longest}",
        f"--max_num_tokens {_tokens(group, longest)}",
        *(["--enable_chunked_prefill"] if chunked else []),
    ]  # fmt: skip


def seats(group: Group) -> int:
    """Sequences in a step of one scheduler, which each replica of attention has."""
    return -(-group.policy.limit // _split(group)[3])


def _tokens(group: Group, longest: int) -> int:
    """Tokens in a step of one scheduler: its part of the plan's, which has one of each sequence.

    Engines count drafts too. Steps that are not chunked must hold a whole prompt.
    """
    drafted = int(drafting(group.way.drafts).gamma) if group.way.drafts else 0
    if isinstance(group.policy, ChunkedPrefill):
        budget = -(-group.policy.budget // _split(group)[3])
        return max(budget, seats(group)) + drafted * seats(group)
    return max(longest, (1 + drafted) * seats(group))


ENGINES: dict[str, Callable[[Group, str, int, str], list[str]]] = {
    "vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm,
}  # fmt: skip
