"""The tables and the example of docs/drafts.md are what the tool says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.models.ahead import own_parameters
from costgraph.passes.decoding.drafts import SOURCES

TEXT = (Path(__file__).parents[2] / "docs" / "drafts.md").read_text(encoding="utf-8")
AT = {"B": 1, "T": 1024}


def rows(name):
    table = re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", TEXT)
    return [[c.strip() for c in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


def plain_or_short(count):
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.{3 if letter == 'B' else 4}g}{letter}"
    return str(int(count))


def three(value):
    return f"{value:.3g}"


def costs(options):
    """The four figures of a row: parameters beside, c, verification, least acceptance."""
    plain = cg.compile("llama-2-7b", "h100", "fuse")
    step = plain.tpot.evaluate(**AT)
    made = cg.compile("llama-2-7b", "h100", f"fuse,speculative{{{options},gamma=4,alpha=a}}")
    draft = [p for p in made.program.phases if p.name == "draft"]
    verify = made.time("verify").evaluate(**AT) / step
    own = 0
    drafting = 0.0
    if draft:
        known = {t.name: t.numel for t, _ in plain.program.weights()}
        tables = {n: known[n] for n in ("embed.weight", "lm_head.weight")}
        if not options.startswith("draft=skip"):
            found = draft[0].graph.weights()
            own = sum(int(t.numel * n - tables.get(t.name, 0)) for t, n in found)
        if options == "draft=pass":  # the rest of its weights are the target's
            own -= sum(int(t.numel * n) for t, n in plain.program.weights()) - sum(tables.values())
        runs = 1 if options.split("=")[1] in ("heads", "blockwise", "pass") else 4
        drafting = runs * made.time("draft").evaluate(**AT) / step
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        faster = made.tpot.evaluate(**AT, a=middle) < step
        low, high = (low, middle) if faster else (middle, high)
    return [plain_or_short(own), three(drafting / 4), f"{verify:.3f}", three(high)]


@pytest.mark.parametrize("row", rows("costs"), ids=lambda row: row[0])
def test_the_table_of_costs_holds(row):
    assert row[1:] == costs(row[0].strip("`"))


@pytest.mark.parametrize("row", rows("far"), ids=lambda row: row[0])
def test_the_table_of_loaded_targets_holds(row):
    def compiled(text):
        return cg.compile("llama-2-13b", "h100", "fuse" + (f",{text}" if text else ""))

    made = compiled(row[0].strip("`") if row[0].startswith("`") else "")
    step, alone = (
        c.tpot.evaluate(**AT) for c in (made, compiled("speculative{target-at=ddr,gamma=0}"))
    )
    memory = made.memory.evaluate(B=1, S=1024, N=256)
    assert row[1:] == [f"{step * 1e3:.4g} ms", f"{memory / 1e9:.3g} GB", f"{alone / step:.3g}"]


@pytest.mark.parametrize("row", rows("cascades"), ids=lambda row: row[0])
def test_the_table_of_cascades_holds(row):
    def compiled(text):
        return cg.compile("llama-3.1-70b", "h200", "fuse,quantize{preset=fp8}" + text)

    made, alone = compiled(f",speculative{{{row[0].strip('`')}}}"), compiled("")
    times = [{"B": b, "T": 1024} for b in (1, 16, 64)]
    gains = [alone.tpot.evaluate(**at) / made.tpot.evaluate(**at) for at in times]
    memory = made.memory.evaluate(B=1, S=1024, N=256)
    assert row[1:] == [*map(three, gains), f"{memory / 1e9:.3g} GB"]


def test_from_where_on_an_inner_draft_pays():
    outer = "fuse,quantize{preset=fp8},speculative{draft=llama-3.1-8b,gamma=6,alpha=17/20"
    inner = ",draft-passes='speculative{draft=llama-3.2-1b,gamma=3,alpha=b}'"
    plain, made = (cg.compile("llama-3.1-70b", "h200", outer + x + "}").tpot for x in ("", inner))
    (pays,) = cg.wins(plain, made, "b", B=1, T=1024)
    assert f"pays from an acceptance of {three(float(pays.lower))} on" in TEXT


@pytest.mark.parametrize("row", rows("modules"), ids=lambda row: row[0])
def test_the_table_of_modules_holds(row):
    program = cg.load_model(row[0])
    own = own_parameters(program.ahead)
    made = cg.compile(row[0], "h200", "fuse,speculative{draft=mtp,gamma=1}")
    plain = cg.compile(row[0], "h200", "fuse").tpot
    at = {s.name: {**AT, "T": 600}[s.name] for s in plain.symbols}
    c = made.time("draft").evaluate(**at) / plain.evaluate(**at)
    share = float(own / parameters(program)) * 100
    assert row[1:] == [plain_or_short(int(own)), f"{share:.3g} %", three(c)]


def test_every_source_is_told():
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE))))
    assert told >= set(SOURCES) - {"lookahead", "jacobi"}


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    space: dict = {}
    exec(compile(block, "docs/drafts.md", "exec"), space)
    (interval,) = space["pays"]
    assert f"{float(interval.lower):.3g}" in block
