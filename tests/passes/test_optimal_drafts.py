"""What is left open is decided on every kind of target, and zero drafts are looked at whole."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.errors import CostgraphError, PipelineError

ENCODED = [("whisper-large-v3", "whisper-tiny"), ("t5-base", "skip"), ("bart-large", "skip")]


@pytest.mark.parametrize(("model", "draft"), ENCODED)
def test_lengths_are_decided_behind_an_encoder(model, draft):
    text = f"fuse,speculative{{draft={draft},alpha=0.9,gamma="
    best = cg.compile(model, "a100", text + "optimal,at-prompt=640,at-context=100}")
    gamma = int(best.passes[-1].gamma)
    (note,) = (s for s in best.assumptions if s.startswith("gamma = "))
    assert "decided at B=1, T=100, S=640" in note
    at = {"B": 1, "T": 100, "S": 640}
    times = {
        g: cg.compile(model, "a100", f"{text}{g}}}").tpot.evaluate(**at)
        for g in (0, gamma - 1, gamma, gamma + 1)
        if g >= 0
    }
    assert min(times, key=times.__getitem__) == gamma > 0
    # As decided, the text is one that is read again.
    again = cg.compile(model, "a100", best.passes)
    assert again.tpot.evaluate(**at) == times[gamma]


def test_a_source_that_nobody_gave_leaves_room():
    text = "fuse,speculative{draft=whisper-tiny,gamma=optimal"
    for more, words in ((",at-prompt=1501", "no positions beyond"), (",at-context=9", "T=9")):
        if "positions" in words:
            with pytest.raises(CostgraphError, match=words):
                cg.compile("whisper-large-v3", "a100", f"{text}{more}}}")
        else:
            made = cg.compile("whisper-large-v3", "a100", f"{text}{more}}}")
            assert any(words in s and "S=1024" in s for s in made.assumptions)


def test_a_prompt_that_no_step_depends_on_is_refused():
    for model in ("gpt2", "llava-1.5-7b"):
        made = cg.compile(model, "a100", "speculative{gamma=optimal,alpha=0.9}")
        assert any("decided at B=1, T=" in s and "S=" not in s for s in made.assumptions)
        with pytest.raises(PipelineError, match="at-prompt: what is compared depends on no S"):
            cg.compile(model, "a100", "speculative{gamma=optimal,at-prompt=9}")


def test_a_step_with_symbols_of_other_passes_decides_nothing():
    with pytest.raises(PipelineError, match="depends on grp"):
        cg.compile("gpt2", "a100", "quantize{weights=int4,group=grp},speculative{gamma=optimal}")


def test_no_drafts_leave_the_target_where_it_is_put():
    far = "speculative{draft=qwen3-0.6b,target-at=ddr,gamma="
    near = cg.compile("qwen3-8b", "h100", "speculative{draft=qwen3-0.6b,gamma=0}")
    none = cg.compile("qwen3-8b", "h100", far + "0}")
    at = {"B": 1, "T": 500}
    assert near.tpot == cg.compile("qwen3-8b", "h100").tpot
    # Every weight comes over a link of 64 GB/s; a table of which a row is looked up stays.
    size = sum(
        float(t.bytes * n) for t, n in none.program.weights() if t.level == "ddr"
    )  # shapes are numbers
    assert none.tpot.evaluate(**at) == pytest.approx(size / 64e9, rel=0.01)
    best = cg.compile("qwen3-8b", "h100", far + "optimal}")
    chosen = int(best.passes[-1].gamma)
    times = [cg.compile("qwen3-8b", "h100", f"{far}{g}}}").tpot.evaluate(B=1, T=2048) for g in
             (0, chosen - 1, chosen, chosen + 1)]  # fmt: skip
    assert min(times) == times[2] < times[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gamma=0,draft=nosuch", "unknown model 'nosuch'"),
        ("gamma=0,target-at=foo", "no memory level 'foo'"),
        ("gamma=0,target-at=nvme", "no bandwidth of nvme"),
        ("gamma=0,share=encoder", "share: only a draft that is a model"),
        ("gamma=0,draft-on=separate", "draft-on"),
        ("gamma=0,draft=copy,schedule=pearl", "token by token"),
        ("gamma=0,alphas=p80,alpha=1/2", "exclude"),
        ("gamma=0,draft=gpt2,inherit=nosuch", "no draft gets"),
        ("gamma=0,drafts=2,stop=1/2", "exclude one another"),
        ("gamma=0,layers=900", "layers"),
        ("tree=optimal,nodes=0,draft=nosuch", "unknown model"),
        ("tree=optimal,nodes=0,accepted=2", "accepted says"),
        ("draft=lookahead,window=w1|n1|g1,hit=1/2", "hit says nothing"),
        ("draft=jacobi,gamma=1,layers=3", "layers: only"),
    ],
)
def test_options_are_looked_at_where_nothing_is_drafted(text, words):
    with pytest.raises(CostgraphError, match=words):
        cg.compile("gpt2", "h100", f"speculative{{{text}}}")


@pytest.mark.parametrize(
    "text",
    ["gamma=0", "gamma=0,drafts=8", "gamma=0,draft=heads", "gamma=0,draft=eagle",
     "gamma=0,stop=1/2",
     "gamma=0,draft=copy,hit=1/2", "gamma=0,schedule=pearl", "tree=optimal,nodes=0",
     "draft=lookahead,window=w1|n1|g1", "draft=jacobi,gamma=1", "draft=copy,hit=0",
     "draft=copy,hit=0,tree=t2|1",
     "gamma=0,draft=phrases,phrases=8", "gamma=0,schedule=stairs"],
)  # fmt: skip
def test_nothing_drafted_is_plain_in_every_metric(text):
    plain = cg.compile("opt-125m", "h100", "fuse")
    made = cg.compile("opt-125m", "h100", f"fuse,speculative{{{text}}}")
    for metric in ("tpot", "latency", "memory", "flops", "bytes"):
        assert getattr(made, metric) == getattr(plain, metric), metric
