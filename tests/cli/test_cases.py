"""Kept cases answer other values as the whole program does, to the last digit, without sympy."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

import costgraph as cg
from costgraph.asking import comparison
from costgraph.cli import cases as kept_cases
from costgraph.cli import main
from costgraph.cli.cases import Cases
from costgraph.compiling import compilation
from costgraph.compiling.breakdown import kept_step
from costgraph.compiling.steps import step_of
from costgraph.formula.evaluate import source_of
from costgraph.formula.trees import Unknown, tree_of, value_of

#: Model, device, passes, fidelity, and sizes of a step of each of its phases.
FAMILIES = [
    ("llama-2-7b", "a6000", "", "ideal", {"prefill": "S", "decode": "T"}),
    ("mixtral-8x7b", "h200", "fuse", "calibrated", {}),
    ("deepseek-v2-lite", "h200", "fuse", "ideal", {"decode": "T"}),
    ("gemma-2-9b", "h200", "fuse,quantize{preset=w4a16}", "ideal", {"decode": "T"}),
    ("whisper-large-v3", "h100", "", "ideal", {"encode": "S", "decode": "ST"}),
    ("dit-xl-2", "h100", "fuse", "ideal", {"denoise": ""}),
    ("mamba-2.8b", "h100", "", "low", {}),
    ("llama-3-8b", "h100", "speculative{draft=llama-3.2-1b,alpha=acc}", "ideal", {}),
]


@pytest.mark.parametrize(("model", "device", "passes", "fidelity", "steps"), FAMILIES)
def test_a_tree_is_its_formula_to_the_last_bit(model, device, passes, fidelity, steps):
    seed = random.Random(model)
    made = cg.compile(model, device, passes, fidelity=fidelity)
    for metric in set(made.metrics) - {"energy", "energy_per_token", "cost_per_token"}:
        formula = getattr(made, metric)
        tree = json.loads(json.dumps(tree_of(source_of(*formula.computed))))
        for _ in range(2):
            at = {s.name: seed.randint(2, 99) for s in formula.symbols}
            at |= {"acc": 0.75} if "acc" in at else {}
            found = value_of(tree, [at[s.name] for s in formula.symbols])
            whole = formula(**at)
            assert float(found) == whole
            assert isinstance(whole, float) or found == whole
    for phase, sizes in steps.items():
        case = json.loads(json.dumps(kept_step(made, phase)))
        for _ in range(2):
            at = {"B": seed.randint(1, 9), **{n: seed.randint(100, 400) for n in sizes}}
            assert step_of(case, at).to_dict() == made.breakdown(phase, **at).to_dict()


def test_only_operations_of_formulas_are_read_and_computed():
    for text in (
        "lambda x0: x0.__class__", "lambda x0: open(x0)", "lambda x0: x1", "1", "lambda x0: 'a'",
        "lambda x0: [x0 for t in x0]", "lambda x0: x0 and 1", "lambda x0: math.fsum(x0)",
    ):  # fmt: skip
        with pytest.raises(Unknown):
            tree_of(text)
    for tree in (["open", 1], ["__import__", 1], "1", [], None, {"a": 1}):
        with pytest.raises(Unknown):
            value_of(tree, [1])


class Store:
    """Cases of one session, as they stand in files."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def cases(self) -> Cases:
        return Cases(lambda q: json.loads(self.texts.get(json.dumps(q, default=str), "null")))

    def run(self, capsys, line: list[str]) -> tuple[str, bool]:
        cases = self.cases()
        assert main(line, None, cases) == 0
        if cases.made is not None:
            question, case = cases.made
            self.texts[json.dumps(question, default=str)] = json.dumps(case)
        return capsys.readouterr().out, cases.answered


LINES = [
    ["formula", "llama-3-8b", "--on", "h100", "--passes", "fuse", "--metric", "latency",
     "--at", "B={0},S={1},N={0}"],
    ["formula", "llama-3-8b", "--on", "h100", "--fidelity", "calibrated", "--at", "B={0},T={1}"],
    ["formula", "llama-3-8b", "--on", "8xh100", "--passes", "parallel{{tp=8}}", "--metric",
     "memory", "--at", "B={0},S={1},N={0}"],
    ["formula", "dit-xl-2", "--on", "h100", "--metric", "flops", "--at", "B={0}", "--set",
     "K={1}"],
    ["analyze", "llama-3-8b", "--on", "h100", "--passes", "fuse", "-B", "{0}", "-T", "{1}"],
    ["analyze", "dit-xl-2", "--on", "h100", "--phase", "denoise", "--set", "B={0}"],
]  # fmt: skip


COMPARED = [
    ("text", ["compare", "gpt2", "--on", "h100,a100", "--passes", "", "--passes", "fuse,quantize",
              "-B", "{0}", "-S", "{1}", "-N", "{0}"]),
    ("latex", ["compare", "dit-xl-2", "--on", "h100", "--passes", "fuse", "--set", "K={1}"]),
    ("csv", ["compare", "whisper-tiny", "--on", "h100", "--passes", "", "-S", "{1}", "-N", "{0}"]),
    ("json", ["compare", "llama-3-8b", "--on", "h100", "--passes",
              "speculative{{draft=llama-3.2-1b,alpha=acc}}", "-N", "{1}", "--set", "acc=0.{0}"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "line"), [*((h, x) for x in LINES for h in ("text", "json", "csv")), *COMPARED]
)
def test_other_values_are_answered_as_the_whole_program_does(capsys, monkeypatch, line, how):
    def at(*values: int) -> list[str]:
        return [*(word.format(*values) for word in line), "--format", how]

    store = Store()
    assert store.run(capsys, at(2, 99))[1] is False
    assert main(at(3, 177)) == 0
    whole = capsys.readouterr().out

    def refuses(*given: object, **more: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(compilation, "compile", refuses)
    monkeypatch.setattr(comparison, "compile", refuses)
    assert store.run(capsys, at(3, 177)) == (whole, True)
    if how == "text":  # in another format it is another question
        with pytest.raises(AssertionError, match="compiled"):
            store.run(capsys, [*at(3, 177)[:-1], "json"])
    other = ["--reserve", "1%"]
    with pytest.raises(AssertionError, match="compiled"):
        store.run(capsys, [*at(3, 177), *other])


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("B=1,T=99", "B=1,T=5000", "T = 5000 exceeds 1024"),
        ("B=1,T=99", "B=1,T=1.5", ""),
        ("B=1,T=99", "B=900000,T=99", "does not fit"),
        ("B=1,T=99", "B=1", "no value for T"),
        ("B=1,T=99", "B=1,T=9,S=9", "no symbol 'S'"),
    ],
)
def test_what_is_unusual_is_left_to_the_whole_program(capsys, first, then, words):
    store = Store()
    line = ["formula", "gpt2", "--on", "h100", "--at"]
    store.run(capsys, [*line, first])
    assert len(store.texts) == 1

    def said(run) -> tuple[object, str]:
        try:
            code: object = run()
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return code, found.out + found.err

    whole = said(lambda: main([*line, then]))
    cases = store.cases()
    assert said(lambda: main([*line, then], None, cases)) == whole
    assert words in whole[1]
    assert cases.answered == (words == "")


def test_no_sympy_is_imported_for_a_known_case(tmp_path):
    script = (
        "import sys\nfrom costgraph.cli import program\ntry:\n    program()\n"
        "except SystemExit as end:\n    print(end.code, 'sympy' in sys.modules, file=sys.stderr)"
    )

    def run(*line: str) -> tuple[str, str]:
        found = subprocess.run(
            [sys.executable, "-c", script, *line], capture_output=True, text=True, check=True,
            env={"PATH": "", "HOME": str(tmp_path), "COSTGRAPH_CACHE": str(tmp_path / "kept")},
        )  # fmt: skip
        return found.stdout, found.stderr

    both = ("compare", "gpt2", "--on", "h100", "--passes", "fuse", "-S", "99")
    assert run(*both)[1] == "0 True\n"
    assert run(*both, "-B", "2") == (run(*both, "-B", "2", "--no-cache")[0], "0 False\n")
    line = ("formula", "gpt2", "--on", "h100", "--at")
    assert run(*line, "B=1,T=9")[1] == "0 True\n"
    text, told = run(*line, "B=2,T=9")
    assert told == "0 False\n"
    assert text == run(*line, "B=2,T=9", "--no-cache")[0]
    path = next(p for p in (tmp_path / "kept").iterdir() if b'"sizes"' in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"tree"', b'"treo"'))
    assert run(*line, "B=3,T=9")[1] == "0 True\n"


def test_a_question_is_everything_but_the_values():
    from costgraph.cli.entry import _build_parser

    def asked(text: str) -> object:
        found = _build_parser().parse_args(text.split())
        found.cases = None
        return kept_cases.question(found)

    base = "formula gpt2 --on h100 --at B=1,T=9"
    assert asked(base) == asked("formula gpt2 --on h100 --at B=2 --set T=8")
    for other in (
        "formula gpt2 --on h200 --at B=1,T=9", "formula gpt2 --on h100 --at B=1,T=9 --json",
        "formula gpt2 --on h100 --at B=1,S=9", "formula gpt2 --on h100 --at B=1,T=9 --passes fuse",
        "formula gpt2 --on h100 --at B=1,T=9 --fidelity low",
        "formula gpt2 --on h100 --at B=1,T=9 --metric ttft", "analyze gpt2 --on h100 -B 1 -T 9",
    ):  # fmt: skip
        assert asked(other) != asked(base)
