"""Every pass of the context stage through every command: all answer, and none with a traceback."""

from __future__ import annotations

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import Stage

MODEL = "llama-3.2-1b"
#: Tokens of images leave models that see.
SEEING = {"merge-tokens", "prune-tokens"}
NAMES = sorted({n for n, p in PASSES.items() if p.stage is Stage.CONTEXT} - SEEING)
#: An answer of these has several kinds of steps, and its sums a test of their own.
SEVERAL = {"memory-slots", "memory-tokens"}
CONTEXTS = {
    "window", "evict", "index", "select", "nsa", "snap-kv", "landmark", "retrieve", "recur",
    "knn-memory",
}  # fmt: skip


def test_all_passes_of_the_stage_are_here():
    assert set(NAMES) >= CONTEXTS


def asks_prompt(name: str) -> list[str]:
    """What a step depends on besides batch and context."""
    found = cg.compile(MODEL, "h100", name).tpot.symbols
    return ["--at", ",".join(["B=2", *(["S=900"] if "S" in {s.name for s in found} else [])])]


@pytest.mark.parametrize("name", NAMES)
def test_commands_answer(name, capsys, tmp_path):
    given, on = asks_prompt(name), ["--on", "h100", "--passes", f"fuse,{name}"]
    point = [given[0], f"{given[1]},T=1000"]
    prompt = ["--prompt", "900"] if "S=" in given[1] else []
    picture, table = tmp_path / "a.svg", tmp_path / "a.csv"
    commands = [
        ["solve", MODEL, *on, "--metric", "tpot", "--budget", "5 ms", "--over", "T", *given],
        ["regimes", MODEL, *on, "--over", "T", *given],
        ["explain", MODEL, *on, *point],
        ["draw", MODEL, *on, "--batch", "1", "--context", "990", *prompt, "-o", str(picture)],
        ["sweep", MODEL, *on, "-B", "1,8", "-S", "512", "-N", "20", "-o", str(table)],
        ["passes", name],
    ]
    for command in commands:
        assert main(command) == 0, command
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        assert out.out or command[0] in ("draw", "sweep"), command
    assert picture.stat().st_size > 1000
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SEVERAL])
def test_calibrated_sums_are_the_loop(name):
    c = cg.compile(MODEL, "h100", f"fuse,{name}", fidelity="calibrated")
    given = {"S": 300} if "S" in {s.name for s in c.tpot.symbols} else {}
    (decode,) = c.program.decoding
    symbols = {s.name: s for s in decode.span.lower.free_symbols}
    begin = int(decode.span.lower.xreplace({symbols["S"]: Integer(300)}))
    steps = sum(c.tpot.evaluate(B=2, T=begin + i, **given) for i in range(20))
    whole = c.latency.evaluate(B=2, S=300, N=21)
    assert whole == pytest.approx(c.ttft.evaluate(B=2, S=300) + steps, rel=1e-6)
