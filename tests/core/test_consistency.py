"""One quantity is one number, whoever is asked: for every class of models.

The same metrics at the same point through Python, the commands, the report's data and
printed code. What a command cannot be asked for a class, it must refuse, not answer.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.compiling.breakdown import symbols_of
from costgraph.ir.metrics import COUNTED, PER_DEVICE
from costgraph.showing.report import report

DATA = Path(__file__).parents[1] / "importers" / "data"
NODE = shutil.which("node")
DEVICE, PASSES = "h100", "fuse"
#: A model of each class, and the sizes that it has beside the batch.
CLASSES = {
    "dense": ("llama-3.2-1b", {"S": 96, "N": 7, "T": 101}),
    "mixture of experts": ("mixtral-8x7b", {"S": 96, "N": 7, "T": 101}),
    "latent attention": ("deepseek-v2-lite", {"S": 96, "N": 7, "T": 101}),
    "hybrid": ("zamba2-default", {"S": 96, "N": 7, "T": 101}),
    "multimodal": ("qwen2.5-vl-7b", {"S": 300, "N": 7, "T": 303, "G": 256}),
    "encoder-decoder": ("t5-small", {"S": 96, "N": 7, "T": 6}),
    "encoder": ("bert-base", {"S": 96}),
    "diffusion": ("flux-1-dev", {"S": 77, "G": 1024, "K": 4}),
    "vision": ("vit-base-16", {}),
    "imported": (str(DATA / "tiny-llama.onnx"), {"S": 48}),
}
BATCH = 3


def printed(capsys, *line: str) -> str:
    assert main(list(line)) == 0
    return capsys.readouterr().out


def near(value: float):
    return pytest.approx(value, rel=1e-9)


@pytest.fixture(params=CLASSES)
def case(request):
    """The model, its compiled form, the values of its symbols and every metric in Python."""
    model, sizes = CLASSES[request.param]
    if model.endswith(".onnx"):
        pytest.importorskip("onnx")
    compiled = cg.compile(model, DEVICE, PASSES)
    values = {"B": BATCH, **sizes}
    expected = {}
    for metric in COUNTED:
        if metric not in compiled.metrics:
            continue
        formula = getattr(compiled, metric)
        at = {s.name: values[s.name] for s in formula.symbols}
        expected[metric] = float(formula.evaluate(**at))
    return model, compiled, values, expected


def sets(values: dict[str, int], known: str) -> list[str]:
    """``--set`` for the symbols that a command has no option of its own for."""
    return [x for k, v in values.items() if k not in known for x in ("--set", f"{k}={v}")]


@pytest.mark.slow
def test_one_quantity_is_one_number(case, capsys, tmp_path):
    model, compiled, values, expected = case
    target = [model, "--on", DEVICE, "--passes", PASSES]
    flags = [x for k in "SNT" if k in values for x in (f"-{k}", str(values[k]))]
    tokens = "tpot" in expected

    # search, at one batch
    objective = "throughput" if tokens else "latency"
    line = ["search", *target, "-B", str(BATCH), *flags, *sets(values, "BSNT"), "--metric",
            objective, "--limit", "memory=none", "--json"]  # fmt: skip
    (candidate,) = json.loads(printed(capsys, *line))["candidates"]
    assert candidate["batch"] == BATCH
    own = {PER_DEVICE: near(expected["throughput"])} if tokens else {}
    assert candidate["values"] == {m: near(v) for m, v in expected.items()} | own

    # sweep, as a table
    pytest.importorskip("xarray")
    path = tmp_path / "out.csv"
    line = ["sweep", *target, "-B", str(BATCH), *flags, *sets(values, "BSNT"), "-o", str(path)]
    printed(capsys, *line)
    (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert {m: float(row[m]) for m in expected} == {m: near(v) for m, v in expected.items()}
    assert set(row) >= {"model", "hardware", "passes", "accounting", "fidelity"}

    # compare
    names = {"S": "--prompt", "N": "--generate", "G": "--images"}
    sizes = [x for k, o in names.items() if k in values for x in (o, str(values[k]))]
    rest = sets({k: v for k, v in values.items() if k != "T"}, "BSNG")
    line = ["compare", *target, "--batch", str(BATCH), *sizes, *rest, "--json"]
    (column,) = json.loads(printed(capsys, *line))["pipelines"]
    for metric in ("ttft", "latency", "throughput", "memory"):
        assert column[metric] == (near(expected[metric]) if metric in expected else None)

    # analyze, a step of each phase
    for phase in compiled.program.phases:
        at = {s.name: values[s.name] for s in symbols_of(compiled, phase)}
        options = {**names, "B": "--batch", "T": "--context"}
        sizes = [x for k, v in at.items() if k in options for x in (options[k], str(v))]
        step = ["analyze", *target, "--phase", phase.name, *sizes, *sets(at, "".join(options))]
        totals = json.loads(printed(capsys, *step, "--json"))["totals"]
        formula = compiled.time(phase.name)
        wanted = formula.evaluate(**{s.name: at[s.name] for s in formula.symbols})
        assert totals["seconds"] == near(float(wanted))
        if phase.span is not None:
            assert totals["seconds"] == near(expected["tpot"])
        if len(compiled.program.phases) == 1:
            runs = float(
                phase.weight.xreplace({s: values[s.name] for s in phase.weight.free_symbols})
            )
            for ours, theirs in (("flops", "flops"), ("bytes", "bytes"), ("latency", "seconds")):
                assert expected[ours] == near(runs * totals[theirs])
            assert expected["memory"] == near(totals["memory_bytes"])

    # explain
    metric = "ttft" if tokens else "latency"
    formula = getattr(compiled, metric)
    at = ",".join(f"{s.name}={values[s.name]}" for s in formula.symbols)
    found = json.loads(
        printed(capsys, "explain", *target, "--metric", metric, "--at", at, "--json")
    )
    assert found["value"] == near(expected[metric])

    # printed code
    for metric, value in expected.items():
        formula = getattr(compiled, metric)
        given = [values[s.name] for s in formula.symbols]
        text = formula.code("python")
        if metric == "latency":  # the command prints the same
            line = ["formula", *target, "--metric", metric, "--format", "python"]
            assert printed(capsys, *line) == text
        code: dict = {}
        exec(text, code)
        assert float((code.get(metric) or code[f"{metric}_"])(*given)) == near(value)


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_report_and_printed_javascript_say_the_same(case, tmp_path):
    model, compiled, values, expected = case
    page = report(model, DEVICE, [PASSES], **values).html
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    )
    functions = re.search(r"const FUNCTIONS = \[.*?\n\];\n", page, re.S)[0]
    (variant,) = data["variants"][0]
    # The report shows what the program has, and asks for nothing else.
    shown = [name for name, _ in variant["metrics"]]
    assert [m for m in shown if m in COUNTED] == list(expected)
    assert {m for m in shown if "token" in m} == (
        {"energy_per_token", "cost_per_token"} if "tpot" in expected else set()
    )
    assert {c["name"] for c in data["controls"]} - {"price"} == set(values)
    start = {c["name"]: c["value"] for c in data["controls"]} | data["devices"][0]["figures"]
    assert {k: start[k] for k in values} == values
    script = [
        functions,
        f"const at = {json.dumps(start)}, call = {json.dumps(variant['function'])};",
        "const found = FUNCTIONS[call.code](...call.args.map((n) => at[n]));",
        "const printed = [];",
    ]
    for metric in expected:
        formula = getattr(compiled, metric)
        given = ", ".join(str(values[s.name]) for s in formula.symbols)
        source = formula.code("javascript", name="f").replace("export ", "")
        script.append(f"printed.push((() => {{ {source}\nreturn f({given}); }})());")
    script.append("console.log(JSON.stringify([found, printed]));")
    file = tmp_path / "values.js"
    file.write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run([NODE, str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, printed_values = json.loads(done.stdout)
    by_name = dict(zip(shown, found, strict=False))
    for metric, again in zip(expected, printed_values, strict=True):
        assert by_name[metric] == near(expected[metric]), metric
        assert again == near(expected[metric]), metric
