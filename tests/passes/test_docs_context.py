"""The examples of docs/context.md run, and its numbers come out again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import costgraph as cg
import costgraph.ops.pattern as patterns
from costgraph.counting.footprint import cache_bytes
from costgraph.symbols import B, T, q
from tests.pages import run_examples

TEXT = (Path(__file__).parents[2] / "docs" / "context.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def space() -> dict:
    return run_examples(TEXT, "docs/context.md", 4)


def test_contexts_are_as_told(space):
    assert f"# {float(space['a'].lower):.0f} < T" in TEXT
    assert f"# {float(space['b'].lower):.0f} < T" in TEXT
    still = cg.compile("llama-3.1-8b", "h100", "fuse,window{rotate=false}").tpot
    (c,) = cg.wins(space["plain"].tpot, still, "T", B=8)
    assert f"{c.lower} < T" in TEXT
    assert f"# {float(space['again'] / space['kept']):.1f}" in TEXT


def test_the_closed_form_is_as_told(space):
    lower = space["pays"].lower
    names = {s.name: s for s in lower.free_symbols}
    k, w = names["k"], names["w"]
    told = (262920 * k + 5167869 * w + 29059648) / (4 * (65342 - 97 * w))
    assert (lower - told).equals(0)
    assert f"beyond {65342 // 97} pays" in TEXT
    assert f"{float(told.xreplace({k: 2048, w: 128})):,.0f} tokens" in TEXT
    index = cg.compile("deepseek-v3", "h200", "fuse,index", mla="absorbed").tpot
    for batch, many in ((1, "at one sequence"), (64, "at 64 sequences")):
        (found,) = cg.wins(space["dense"], index, "T", B=batch)
        assert f"{many} {float(found.lower):,.0f}" in TEXT


def test_the_table_comes_out_again(space):
    found = re.findall(r"^\| `(.+?)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert len(found) == 12

    def measured(passes: str) -> tuple[float, ...]:
        c = cg.compile("llama-3.1-8b", "h100", passes)
        graph = next(p.graph for p in c.program.phases if p.name == "decode")
        cache = cache_bytes(graph).xreplace({B: 1, q: 1, T: 32768})
        step, prompt = c.tpot(B=8, T=32768), c.ttft(B=1, S=32768)
        return float(step), float(prompt), float(cache)

    plain = measured("fuse")
    for passes, *told in found:
        shares = [x / y for x, y in zip(measured(f"fuse,{passes}"), plain, strict=True)]
        assert [f"{x:.3f}" for x in shares] == told


def test_what_transformer_xl_projects_anew_is_as_told(space):
    assert f"That is {100 * float(space['share']):.1f} % of its FLOP" in TEXT


def test_where_native_sparse_attention_pays_is_as_told():
    plain, made = (cg.compile("llama-3.1-8b", "h100", p) for p in ("fuse", "fuse,nsa"))
    first, *_ = cg.wins(plain.tpot, made.tpot, "T", B=8)
    assert "about 2,900 positions" in TEXT
    assert 2850 < first.lower < 2950
    (prompts,) = cg.wins(plain.ttft, made.ttft, "S", B=1)
    assert f"{float(prompts.lower):,.0f} tokens on" in TEXT


def test_every_pattern_is_told():
    held = {n for n in patterns.__all__ if isinstance(getattr(patterns, n), type)}
    around = {"Pattern", "InContext", "Kept", "Full", "Dense", "Branches", "Parted", "Hit"}
    assert set(re.findall(r"^\| `([A-Z]\w+)", TEXT, re.MULTILINE)) == held - around
