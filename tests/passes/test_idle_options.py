"""Every option of every pass does something, or is refused, or nothing is done and that is said."""

from __future__ import annotations

import re
from functools import cache

import pytest

import costgraph as cg
from costgraph.errors import CostgraphError, PipelineError
from costgraph.passes import PASSES

DENOISER = "llada-8b"
#: Models of passes that are about some kinds alone; others run on a small decoder.
MODELS = {
    "slow-fast": DENOISER, "blocks": DENOISER, "feature-cache": DENOISER,
    "prune-tokens": "llava-1.5-7b", "merge-tokens": "vit-base-16",
    "jacobi": "tarflow-cifar", "refine": "t5-base",
}  # fmt: skip
#: With what a pass does something at all, where its options have no usual values.
BASES = {
    "quantize": "weights=int4,kv=int8", "low-rank": "ratio=1/2", "shrink": "ffn=0.5,heads=0.5",
    "parallel": "tp=2", "apar": "tree='1(2,3)'", "lora": "adapters=4",
    "disaggregate": "link=nvlink",
}  # fmt: skip
MACHINES = {
    "parallel": "2xh100", "overlap": "2xh100", "prefix-cache": "h100+epyc-9654",
    "turns": "h100+epyc-9654", "disaggregate": "2xh100",
}  # fmt: skip
WORDS = (
    "gpt2", "encoder", "fuse", "0.5", "2-3", "32", "64", "t2|1", "n2", "l1|2", "p10|p20",
    "0.5*12", "q_proj", "host", "pcie", "none", "2|6", "3|2|1", "l3", "3(1,1)", "50ms",
)  # fmt: skip
#: Searched by compiling many subnets: tests of their own.
SEARCHED = ("search-subnet",)
OPTIONS = [(n, k) for n, c in PASSES.items() if n not in SEARCHED for k in c.options()]
#: Options whose other values this model and machine do not tell apart.
ALIKE = {
    ("fuse", "reuse"), ("fold", "shortest"), ("recognise", "mask"), ("overlap", "by"),
}  # fmt: skip


@cache
def did(name: str, options: str):
    """What came of a pass, or None where it is refused; and whether it did anything."""
    model = MODELS.get(name, "qwen3-0.6b")
    try:
        made = cg.compile(model, MACHINES.get(name, "h100"), f"{name}{{{options}}}")
    except CostgraphError:
        return None, True
    program, (step,) = made.program, made.trace.steps
    said = tuple((m.rule, m.node, m.reason) for m in made.trace.misses)
    return (program.phases, program.limits, program.assumptions, said), bool(step.hits)


def values(spec, default):
    if spec.kind == "flag":
        return ["false" if default else "true"]
    found = [c for c in spec.choices if c != default]
    if spec.is_number:
        found += [v for v in ("1/2", "1/3", "2", "3", "5") if v != str(default)]
    return found or [w for w in WORDS if w != default]


def ways(spec):
    """Options under which one counts, the first way of each."""
    for under in spec.under or ("",):
        parts = []
        for one in filter(None, under.split("&")):
            key, unlike, value = re.split("(!?)=", one, maxsplit=1)
            parts.append((key, unlike, value.split("|")[0]))
        yield parts


def written(name, parts):
    found = []
    for key, unlike, value in parts:
        spec, default = PASSES[name].options()[key], getattr(PASSES[name], key.replace("-", "_"))
        if unlike:
            value = next(v for v in values(spec, default) if v != value)
        if str(default) != value:
            found.append(f"{key}={value}")
    return found


@pytest.mark.parametrize(("name", "key"), OPTIONS, ids=[f"{n}-{k}" for n, k in OPTIONS])
def test_an_option_changes_what_comes_out_or_is_refused_or_nothing_was_done(name, key):
    spec = PASSES[name].options()[key]
    default = getattr(PASSES[name], key.replace("-", "_"))
    for parts in ways(spec):
        around = [b for b in BASES.get(name, "").split(",") if b and not b.startswith(f"{key}=")]
        around += written(name, parts)
        before, _ = did(name, ",".join(around))
        tried = {v: did(name, ",".join((*around, f"{key}='{v}'"))) for v in values(spec, default)}
        silent = [
            v for v, (made, hits) in tried.items() if made is not None and made == before and hits
        ]
        told = [v for v, (made, _) in tried.items() if made is not None and made != before]
        if (name, key) not in ALIKE:
            assert told or not silent, f"{silent} of {key} say nothing beside {around}"


@pytest.mark.parametrize(
    ("name", "key"), [(n, k) for n, c in PASSES.items() for k, s in c.options().items() if s.under]
)
def test_an_option_is_refused_where_it_does_not_count(name, key):
    cls = PASSES[name]
    spec, default = cls.options()[key], getattr(cls, key.replace("-", "_"))
    for under in spec.under:
        for one in under.split("&"):
            other, _, chosen = re.split("(!?)=", one, maxsplit=1)
            choices = cls.options()[other].choices  # a condition names what there is
            assert not choices or set(chosen.split("|")) <= {*choices, "0"}
    if any(cls().holds(under) for under in spec.under):
        return  # it counts beside usual values; the test below has those that it does not
    value = (
        "1/3" if spec.kind == "probability" else "5" if spec.is_number else values(spec, default)[0]
    )
    with pytest.raises(PipelineError, match=f"{name}: {key} says nothing about .*it counts with"):
        cg.compile(MODELS.get(name, "gpt2"), "h100", f"{name}{{{key}={value}}}")


@pytest.mark.parametrize(
    "text",
    [
        "early-exit{distribution=uniform,p=0.9}", "early-exit{distribution=uniform,p=1/2}",
        "early-exit{distribution=schedule,p=0.3}", "early-exit{first=3}", "early-exit{low=3}",
        "early-exit{shares=p0|p10}", "early-exit{a=3}", "early-exit{together=4}",
        "early-exit{distribution=schedule,batch=all}",
        "early-exit{propagate=synchronised,batch=all}", "slow-fast{settled=0.5,slow=4}",
        "slow-fast{most=4}", "slow-fast{each=2}", "slow-fast{confident=0.3,fast=2}",
        "speculative{at-batch=64}", "speculative{at-context=100}", "speculative{acceptance=''}",
        "speculative{accepted=2,batch=sync}", "speculative{schedule=pearl,batch=sync}",
        "speculative{schedule=ahead,batch=sync}", "speculative{draft-on=separate}",
        "quantize{weights=int4,dynamic=false}", "quantize{weights=int4,outlier-index-bits=4}",
        "search-subnet{at-prompt=9}", "search-subnet{metric=ttft,at-context=9}",
        "search-subnet{metric=tpot,at-tokens=9}", "search-subnet{method=exact,seed=3}",
        "jacobi{each=n3|3,iterations=4}", "fuse{attention=none,split=4}",
    ],
)  # fmt: skip
def test_options_that_were_silent_are_refused(text):
    with pytest.raises(PipelineError, match=r"says nothing about|is empty"):
        cg.compile(MODELS.get(text.partition("{")[0], "gpt2"), "h100", text)
