"""Commands of engines: with the flags of a plan, as each engine counts them."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from dataclasses import replace
from itertools import chain, product
from pathlib import Path

import pytest

from costgraph.asking.serving import Lengths, StepTimes
from costgraph.asking.serving.launch import ENGINES, first_launch, launch
from costgraph.asking.serving.plan import serve_plan
from costgraph.asking.serving.planner import Planner
from costgraph.asking.serving.plans import Plan
from costgraph.asking.serving.policies import ChunkedPrefill, PrefillFirst
from costgraph.asking.serving.ways import Traffic, degrees_of
from costgraph.errors import InputError
from tests.ways import shared_ways, way


@pytest.fixture(scope="module")
def ways():
    return [way(1), way(2)]


def test_commands_of_engines_are_shell_words(ways):
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    planner = Planner(traffic, ways, (2048,), (64,), 32)
    for plan in planner.plans():
        for engine in ENGINES:
            text = launch(plan, traffic, "a b; rm x", engine)
            words = shlex.split(text, comments=True)
            assert "a b; rm x" in words
            assert str(plan.groups[0].way.devices) in words
            assert "64" in words
    with pytest.raises(InputError, match="unknown engine"):
        launch(plan, traffic, "m", "vlm")


@pytest.mark.parametrize("precision", ["native", "fp8", "nvfp4"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_commands_hold_what_the_plan_asks_for(ways, engine, precision):
    """A whole prompt and a token of every sequence in a step; a precision is set, or said."""
    traffic = Traffic(30, Lengths(900), Lengths(128, "lognormal", 0.5), 0.5, 0.015)
    planner = Planner(traffic, [replace(w, precision=precision) for w in ways], (2048,), (512,), 32)
    for plan in planner.plans():
        text = launch(plan, traffic, "m", engine)
        longest = 900 + 256
        assert f"more than {longest} positions" in text
        sized = {"vllm": "--max-model-len", "tensorrt-llm": "--max_seq_len"}.get(engine)
        assert sized is None or f"{sized} {longest}" in text
        for name in ("max-num-batched-tokens", "max_num_tokens"):
            assert all(int(n) >= min(512, longest) for n in re.findall(rf"--{name} (\d+)", text))
        told = "--quantization fp8" in text or f"checkpoint in {precision}" in text
        assert told is (precision != "native")


@pytest.mark.parametrize(
    ("degrees", "flags"),
    [
        ((("tp", 4),), {
            "vllm": {"--tensor-parallel-size": "4"}, "sglang": {"--tp-size": "4"},
            "tensorrt-llm": {"--tp_size": "4"},
        }),
        ((("tp", 2), ("pp", 2)), {
            "vllm": {"--tensor-parallel-size": "2", "--pipeline-parallel-size": "2"},
            "sglang": {"--tp-size": "2", "--pp-size": "2"},
            "tensorrt-llm": {"--tp_size": "2", "--pp_size": "2"},
        }),
        ((("tp", 4), ("ep", 4)), {
            "vllm": {"--tensor-parallel-size": "4", "--enable-expert-parallel": None},
            "sglang": {"--tp-size": "4", "--ep-size": "4"},
            "tensorrt-llm": {"--tp_size": "4", "--ep_size": "4"},
        }),
        ((("tp", 2), ("dp", 2), ("ep", 4)), {
            "vllm": {"--data-parallel-size": "2", "--enable-expert-parallel": None,
                     "--tensor-parallel-size": "2"},
            "sglang": {"--tp-size": "4", "--dp-size": "2", "--ep-size": "4"},
        }),
        ((("tp", 2), ("cp", 2)), {
            "vllm": {"--tensor-parallel-size": "2", "--prefill-context-parallel-size": "2"},
            "tensorrt-llm": {"--tp_size": "2", "--cp_size": "2"},
        }),
        ((("ep", 4),), {
            "vllm": {"--data-parallel-size": "4", "--enable-expert-parallel": None,
                     "--tensor-parallel-size": "1"},
            "sglang": {"--tp-size": "4", "--dp-size": "4", "--ep-size": "4"},
            "tensorrt-llm": {"--tp_size": "4", "--ep_size": "4"},
        }),
    ],
)  # fmt: skip
def test_flags_share_a_model_as_the_plan_does(ways, degrees, flags):
    """All devices are used, as each engine counts them."""
    way = replace(ways[0], devices=4, degrees=degrees)
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    # SGLang has no chunks beside decodes in a pipeline.
    chunks = () if "pp" in dict(degrees) else (2048,)
    plan = Planner(traffic, [way], chunks, (64,), 32, pools=False).plans()[0]
    for engine, wanted in flags.items():
        text = launch(plan, traffic, "m", engine)
        words = shlex.split(text, comments=True)
        for flag, value in wanted.items():
            assert flag in words, (engine, flag)
            assert value is None or words[words.index(flag) + 1] == value
        if degrees == (("ep", 4),) and engine == "tensorrt-llm":
            assert "enable_attention_dp: true" in text
        assert ("--data-parallel-size" in words) is ("ep" in dict(degrees) and (
            dict(degrees).get("tp", 1) < 4)) or engine != "vllm"  # fmt: skip
    for engine in set(ENGINES) - set(flags):
        with pytest.raises(InputError, match=r"share the positions|replicas of attention"):
            launch(plan, traffic, "m", engine)


def numbers(text, *flags):
    """Values of the flags that a command has, in the order asked for."""
    words = shlex.split(text, comments=True)
    return [int(words[words.index(flag) + 1]) for flag in flags if flag in words]


@pytest.mark.parametrize("degrees", [(("ep", 4),), (("tp", 2), ("dp", 2), ("ep", 4))])
def test_schedulers_of_replicas_have_their_part_of_a_step(degrees):
    """The plan's step is that of all replicas; SGLang divides what it is told, others do not."""
    (way,) = shared_ways("qwen3-30b-a3b", 4, [degrees], 700)
    traffic, n = Traffic(40, Lengths(500), Lengths(128), 0.5, 0.05), way.times.replicas
    (plan,) = Planner(traffic, [way], (512,), (256,), 4, pools=False).plans()
    group = replace(plan.groups[0], policy=ChunkedPrefill(256, 512 * n))
    plan = replace(plan, groups=(group,))
    assert n == 4 // dict(degrees).get("tp", 1)
    text = launch(plan, traffic, "m", "vllm")
    assert numbers(text, "--max-num-seqs", "--max-num-batched-tokens") == [256 // n, 512]
    text = launch(plan, traffic, "m", "sglang")
    assert numbers(text, "--max-running-requests", "--chunked-prefill-size") == [256, 512 * n]
    if n == 4:
        text = launch(plan, traffic, "m", "tensorrt-llm")
        assert numbers(text, "--max_batch_size", "--max_num_tokens") == [64, 512]


def test_a_scheduler_of_a_pipeline_counts_the_sequences_of_all_its_groups():
    (way,) = shared_ways("llama-3.2-1b", 2, [(("pp", 2),)], 700)
    traffic = Traffic(40, Lengths(500), Lengths(128), 0.5, 0.05)
    (plan,) = Planner(traffic, [way], (512,), (32,), 2, pools=False).plans()
    group = replace(plan.groups[0], policy=PrefillFirst(32))
    for engine, flag, all_groups in (
        ("vllm", "--max-num-seqs", 64), ("sglang", "--max-running-requests", 64),
        ("tensorrt-llm", "--max_batch_size", 32),
    ):  # fmt: skip
        text = launch(replace(plan, groups=(group,)), traffic, "m", engine)
        assert numbers(text, flag) == [all_groups]
    # vLLM does not start with fewer tokens in a step than sequences.
    for policy, tokens in ((ChunkedPrefill(500, 512), 512), (PrefillFirst(2048), 2048)):
        group = replace(plan.groups[0], policy=policy)
        text = launch(replace(plan, groups=(group,)), traffic, "m", "vllm")
        most = 2 * policy.limit
        assert numbers(text, "--max-num-seqs", "--max-num-batched-tokens") == [most, most]
        assert f"sequences in the pipeline, {most}: the plan's steps have up to {tokens}" in text


@pytest.mark.parametrize(
    ("policy", "tokens"), [(ChunkedPrefill(400, 2048), 2048 + 3 * 400), (PrefillFirst(400), 1600)]
)
def test_steps_have_room_for_the_drafts_of_all_sequences(ways, policy, tokens):
    """Engines count the tokens that are verified; the plan one of each sequence."""
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    way = replace(ways[0], drafts="draft=llama-3.2-1b,gamma=3")
    plan = Planner(traffic, [way], (2048,), (64,), 32, pools=False).plans()[0]
    plan = replace(plan, groups=(replace(plan.groups[0], policy=policy),))
    assert numbers(launch(plan, traffic, "m", "vllm"), "--max-num-batched-tokens") == [tokens]


def test_drafts_are_told_or_refused(ways):
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)

    def plan(drafts):
        way = replace(ways[0], drafts=drafts)
        return Planner(traffic, [way], (2048,), (64,), 32, pools=False).plans()[0]

    text = launch(plan("draft=llama-3.2-1b,gamma=3"), traffic, "m", "vllm")
    words = shlex.split(text, comments=True)
    assert "# llama-3.2-1b: put the path" in text
    told = json.loads(words[words.index("--speculative-config") + 1])
    assert told == {
        "method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 3,
    }  # fmt: skip
    assert "--speculative-config" in launch(
        plan("draft=llama-3.2-1b,gamma=3,alpha=0.6"), traffic, "m", "vllm"
    )
    for drafts, engine in (
        ("draft=copy,gamma=3", "vllm"),
        ("draft=llama-3.2-1b", "sglang"),
        ("draft=llama-3.2-1b,gamma=3,tree=t2|1", "vllm"),
        ("draft=llama-3.2-1b,gamma=3,drafts=2", "vllm"),
        ("draft=llama-3.2-1b,gamma=3,schedule=pearl", "vllm"),
    ):
        with pytest.raises(InputError, match="no documented flags"):
            launch(plan(drafts), traffic, "m", engine)


def test_commands_are_of_the_first_plan_that_an_engine_can_be_told(ways):
    """The plans are shown whatever an engine refuses, and why it does."""
    found = serve_plan(
        "llama-3.2-1b", "h100", rate=5, prompt=500, generate=60, ttft=1, tpot=0.05, devices=1,
        front=False, chunks=(2048,), limits=(64,), pools=False,
        speculative=("draft=llama-3.2-1b,gamma=2",),
    )  # fmt: skip
    drafting = next(p for p in found.plans if p.groups[0].way.drafts)
    plain = next(p for p in found.plans if not p.groups[0].way.drafts)
    both = replace(found, plans=(drafting, plain))
    text = first_launch(both, "m", "sglang")
    assert "# not of plan 1: sglang: no documented flags" in text
    assert "# commands of plan 2 of the table" in text
    assert text.endswith(launch(plain, found.traffic, "m", "sglang"))
    assert first_launch(both, "m", "vllm") == launch(drafting, found.traffic, "m", "vllm")
    none = first_launch(replace(found, plans=(drafting,)), "m", "sglang")
    assert none.splitlines()[-1] == "# no plan has commands"
    with pytest.raises(InputError, match="unknown engine"):
        first_launch(both, "m", "vlm")


def test_every_flag_stands_on_the_page(ways):
    """Flags of all ways to share and both policies are those that the page says were looked up."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    plans = []
    made = (Planner(traffic, ways[:1], chunks, (64,), 32).plans() for chunks in ((), (2048,)))
    for plan in chain.from_iterable(made):
        for degrees, drafts in product(degrees_of(4, True), ("", "draft=llama-3.2-1b,gamma=3")):
            one = {"devices": 4, "degrees": degrees, "precision": "fp8kv8", "drafts": drafts}
            groups = (replace(g, way=replace(g.way, **one)) for g in plan.groups)
            plans.append(replace(plan, groups=tuple(groups)))
    for engine, name in (("vllm", "vLLM"), ("sglang", "SGLang"), ("tensorrt-llm", "TensorRT-LLM")):
        row = re.search(rf"^\| {name} \| `.*$", page, re.M)[0].split("|")[2]
        listed, shown = set(re.findall(r"`(--[\w-]+)`", row)), set()
        for plan in plans:
            with suppress(InputError):
                shown |= set(re.findall(r"--[\w-]+", launch(plan, traffic, "m", engine)))
        # The older name of --config is told beside it.
        assert shown - {"--extra_llm_api_options"} == listed, engine


#: What a model is read and rewritten with; and what each engine is told of it, or its comment.
TOLD = [
    ({"kv": "fp8"}, {
        "vllm": "--kv-cache-dtype fp8\n", "sglang": "--kv-cache-dtype fp8_e4m3",
        "tensorrt-llm": "kv_cache_config: {dtype: fp8}",
    }),
    ({"precisions": ("fp8kv8",)}, {
        "vllm": "--quantization fp8 \\\n    --kv-cache-dtype fp8\n",
        "sglang": "--quantization fp8 \\\n    --kv-cache-dtype fp8_e4m3",
        "tensorrt-llm": "# needs a checkpoint in fp8kv8",
    }),
    ({"precisions": ("w4a16",)}, dict.fromkeys(ENGINES, "# needs a checkpoint in w4a16")),
    ({"kv": "int4"}, dict.fromkeys(ENGINES, "# caches are int4 in the plan: no flag is known")),
    ({"weights": "int8"}, dict.fromkeys(ENGINES, "# the numbers are for weights int8")),
    ({"passes": "fuse,page-kv"}, dict.fromkeys(ENGINES, "# the numbers are for the pass page-kv")),
]  # fmt: skip


@pytest.mark.parametrize(("given", "told"), TOLD)
def test_commands_say_what_they_do_not_tell(given, told):
    found = serve_plan(
        "llama-3.2-1b", "h100", rate=5, prompt=500, generate=60, ttft=1, tpot=0.05, devices=1,
        front=False, chunks=(2048,), limits=(64,), pools=False, **given,
    )  # fmt: skip
    for engine, text in told.items():
        assert text in launch(found.best, found.traffic, "m", engine)


def test_commands_that_engines_refuse_are_refused(ways):
    """SGLang has no chunks beside decodes in a pipeline, vLLM no drafts in one."""
    traffic = Traffic(30, Lengths(900), Lengths(128), 0.5, 0.015)
    times = StepTimes(ways[0].times.compiled, 1100, lanes=2)
    way = replace(ways[0], devices=2, degrees=(("pp", 2),), times=times)
    group = Planner(traffic, [way], (2048,), (64,), 32).group(way, ("chunked",), traffic)
    plan = Plan((group,), 1.0, 1.0)
    with pytest.raises(InputError, match="refuses --enable-mixed-chunk"):
        launch(plan, traffic, "m", "sglang")
    assert "each of the pipeline's groups" in launch(plan, traffic, "m", "tensorrt-llm")
    drafting = replace(group, way=replace(way, drafts="draft=llama-3.2-1b,gamma=3"))
    with pytest.raises(InputError, match="drafts in a pipeline"):
        launch(replace(plan, groups=(drafting,)), traffic, "m", "vllm")
