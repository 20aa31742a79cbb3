"""Assumptions, notes and resting parts stand beside every number."""

from __future__ import annotations

import json
from typing import Any

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.showing.report import report

MODEL = "gpt-oss-20b"  # routing, a file that names no data type, keys that play no part
ASSUMED = "what is not narrow is counted in 16 bit"
NOTED = "play no part: 'experts_per_token'"
COMMANDS = (
    ["formula", MODEL, "--on", "h100"],
    ["analyze", MODEL, "--on", "h100", "--context", "100"],
    ["analyze", MODEL, "--on", "h100", "--phase", "prefill", "--prompt", "100"],
    ["compare", MODEL, "--on", "h100", "--passes", "fuse"],
    ["search", MODEL, "--on", "h100", "-B", "1:8"],
    ["explain", MODEL, "--on", "h100", "--at", "B=1,T=100"],
    ["regimes", MODEL, "--on", "h100", "--at", "T=100"],
    ["regimes", MODEL, "--on", "h100", "--over", "B,T"],
    ["solve", MODEL, "--on", "h100", "--at", "T=100", "--budget", "10ms"],
    [
        "reliability",
        MODEL,
        "--on",
        "2xh100",
        "--passes",
        "parallel{tp=2}",
        "--link",
        "nvlink",
        "--channel",
        "exponential:90 GB/s",
        "--at",
        "B=1,S=9,N=9",
    ],
)


def texts(value: Any) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        return [t for v in value.values() for t in texts(v)]
    if isinstance(value, list):
        return [t for v in value for t in texts(v)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join((c[0], *c[4:6])))
def test_text_and_json_say_what_numbers_rest_on(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(command)
    captured = capsys.readouterr()
    assert ASSUMED in captured.out
    assert NOTED in captured.out + captured.err
    main([*command, *(["--format", "json"] if command[0] == "formula" else ["--json"])])
    found = " ".join(texts(json.loads(capsys.readouterr().out)))
    assert ASSUMED in found
    assert NOTED in found


def test_datasets_reports_and_code_say_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    data = cg.sweep(MODEL, "h100", metrics=["tpot"], B=1, T=[1, 2])
    assert ASSUMED in data.attrs["assumptions"]
    assert NOTED in data.attrs["notes"]
    main(["sweep", MODEL, "--on", "h100", "-T", "1,2"])
    assert ASSUMED in capsys.readouterr().out
    assert ASSUMED in report(MODEL, "h100").html
    assert ASSUMED in cg.compile(MODEL, "h100").tpot.code("python")


#: A model, passes, and the phases of a request; parts rest during each.
RESTING = (
    ("qwen2.5-vl-7b", "", {"S": 600, "G": 256}),
    ("whisper-small", "", {"S": 1000}),
    ("t5-base", "fuse", {"S": 300}),
    ("llama-2-13b", "speculative{draft=llama-2-7b}", {"S": 300}),
    ("llama-2-13b", "speculative{draft=heads},fuse", {"S": 300}),
    ("llama-3-8b", "", {"S": 300}),
)


@pytest.mark.parametrize(("name", "passes", "point"), RESTING)
def test_memory_of_a_step_holds_what_rests(name: str, passes: str, point: dict[str, int]) -> None:
    made = cg.compile(name, "h100", passes)
    for phase in made.program.phases:
        # Memory of a request is that of its phases at their longest contexts.
        last = made.program.contexts(point["S"], 40)
        context = last[1] if last and phase.span is not None else None
        table = made.breakdown(phase.name, B=2, T=context, **point)
        totals = table.totals
        parts = ("weight_bytes", "kv_bytes", "activation_bytes")
        assert totals["memory_bytes"] == sum(totals[p] for p in parts)
        assert (totals["resident_bytes"] > 0) == bool(phase.resident)
        if "speculative" not in passes:
            assert totals["parameters"] == made.parameters
    peaks = [
        made.breakdown(p.name, B=2, T=last[1] if last and p.span else None, **point).totals
        for p in made.program.phases
    ]
    whole = {s.name: {"B": 2, "N": 40, **point}[s.name] for s in made.memory.symbols}
    largest = max(t["memory_bytes"] for t in peaks)
    assert made.memory(**whole) == pytest.approx(largest, rel=1e-12)
