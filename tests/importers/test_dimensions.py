"""Names of dimensions: as symbols, as sizes, on the command line, and within slices."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sympy import Expr, Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import CostgraphError, InputError
from costgraph.models.traced.arithmetic import decided, is_arithmetic, size
from costgraph.models.traced.formats import Dimensions, dimension
from costgraph.symbols import B, S, T, symbol

DATA = Path(__file__).parent / "data"


# --- sizes as text


def _random(rng: random.Random, depth: int) -> tuple[str, str, str]:
    """One size as infix text, as calls, and as Python computes it."""
    if depth == 0 or rng.random() < 0.25:
        if rng.random() < 0.5:
            n = rng.randrange(1, 9)
            return str(n), f"Integer({n})", str(n)
        name = rng.choice("abc")
        return name, f"Symbol('{name}', positive=True, integer=True)", name
    kind = rng.choice(["Add", "Mul", "Max", "Min", "FloorDiv", "Mod", "Sub"])
    (i, j), (c, d), (p, q) = zip(*(_random(rng, depth - 1) for _ in range(2)), strict=True)
    if kind == "Sub":
        return f"({i} - {j})", f"Add({c}, Mul(Integer(-1), {d}))", f"({p} - {q})"
    if kind in ("Max", "Min"):
        f = kind.lower()
        return f"{f}({i}, {j})", f"{kind}({c}, {d})", f"{f}({p}, {q})"
    if kind in ("FloorDiv", "Mod"):
        n = rng.randrange(2, 6)
        sign = "//" if kind == "FloorDiv" else "%"
        return f"({i} {sign} {n})", f"{kind}({c}, Integer({n}))", f"({p} {sign} {n})"
    sign = "+" if kind == "Add" else "*"
    return f"({i} {sign} {j})", f"{kind}({c}, {d})", f"({p} {sign} {q})"


def test_sizes_have_the_value_that_python_computes():
    """Seeded: both notations, at random points."""
    rng = random.Random(3)
    for _ in range(150):
        infix, calls, python = _random(rng, 3)
        for text in (infix, calls):
            made = size(text, symbol)
            for _ in range(3):
                point = {n: rng.randrange(1, 50) for n in "abc"}
                found = made.xreplace({symbol(n): Integer(v) for n, v in point.items()})
                assert found.doit() == eval(python, {**point, "max": max, "min": min})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("past + 1", symbol("past") + 1),
        ("past+1", symbol("past") + 1),
        ("past_sequence_length + sequence_length", symbol("past_sequence_length") + S),
        ("2*batch", 2 * B),
        ("batch*seq", B * S),
        ("height/8", symbol("height") / 8),
        ("s72", symbol("s72")),
        ("encoder-length", symbol("encoder_length")),  # names hold hyphens
        ("input/length", symbol("input_length")),
        ("unk__17", symbol("unk_17")),
        ("model.dim", symbol("model_dim")),
        ("lambda", symbol("dim_lambda")),
        ("BW", symbol("dim_BW")),  # a machine's
        ("F_bf16", symbol("dim_F_bf16")),
        ("T", T),
    ],
)
def test_names_are_symbols_or_sizes(name, expected):
    assert Dimensions().named(name, "x") == expected


def test_parts_of_derived_names_may_be_given():
    dims = Dimensions({"past": "T - 1"})
    assert dims.named("past + 1", "x") == T
    dims.check("x")
    dims = Dimensions({"past + 1": 7, "past": 6})
    assert (dims.named("past + 1", "x"), dims.named("past", "x")) == (7, 6)


@pytest.mark.parametrize("value", ["", "a b", "T +", "__import__('os')", "9**99", True, 0, -1, 1.5])
def test_values_that_are_no_sizes_are_refused(value):
    with pytest.raises(InputError) as error:
        dimension(value, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["BW", "price", "F_bf16"])
def test_symbols_of_machines_are_no_dimensions(value):
    with pytest.raises(InputError, match="a symbol of machines"):
        dimension(value, "x")


def test_ranges_decide_minima_and_maxima():
    a, b = symbol("a"), symbol("b")
    spans = {a: (1, 200), b: (2, None)}
    for text, expected in (
        ("Max(0, 256 - a)", 256 - a),
        ("256 - Max(0, 256 - a)", a),
        ("Min(a, 200)", a),
        ("Max(1, b - 1)", b - 1),
        ("Min(a, 100)", "Min(100, a)"),
        ("Min(a, b)", "Min(a, b)"),
    ):
        assert str(decided(size(text, symbol), spans.__getitem__)) == str(expected)


def test_only_what_computes_is_arithmetic():
    assert not any(map(is_arithmetic, ["past", "12", "a-b", "a/b", "?", "", "a b", "1 + 2"]))
    assert all(map(is_arithmetic, ["a+1", "a - b", "a-1", "2*a", "a/2", "max(a, 1)"]))


# --- slices


def _sliced(tmp_path: Path, start: int, stop: int, step: int, sizes=("rows", 4)):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from costgraph.models.onnx_graph import from_onnx

    numbers = {"st": [start], "en": [stop], "ax": [0], "by": [step]}
    kept = [helper.make_tensor(n, TensorProto.INT64, [1], v) for n, v in numbers.items()]
    node = helper.make_node("Slice", ["x", *numbers], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [given], [made], kept)
    path = tmp_path / "slice.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return from_onnx(path, dims={"rows": "S"} if "rows" in sizes else None)


STARTS = (0, 1, 3, 512, -1, -4)
STOPS = (1, 2, 5, 512, 10**9, 2**31 - 1, 2**63 - 1, -1, -3)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("step", [1, 3])
def test_slices_of_symbolic_axes_are_as_long_as_pythons(start, stop, step, tmp_path):
    sizes = (1, 2, 3, 4, 5, 6, 9, 511, 512, 513, 1000)
    if not any(range(n)[start:stop:step] for n in sizes):
        return  # always empty: refused or not, nobody writes it
    program = _sliced(tmp_path, start, stop, step)
    (length, _) = program.graph.tensors[program.graph.outputs[0]].shape
    for n in sizes:
        point = {S: Integer(n)}
        expected = len(range(n)[start:stop:step])
        if any(limit.expr.xreplace(point) > limit.bound for limit in program.limits):
            assert expected == 0  # outside of what the graph holds for
            continue
        value: Expr = length.xreplace(point)
        assert value.doit() == expected


def test_a_table_cut_to_the_sequence_limits_the_sequence(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Slice", ["table", "zero", "length", "zero"], ["part"]),
        helper.make_node("Add", ["x", "part"], ["y"]),
    ]
    kept = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("table", TensorProto.FLOAT, [512, 8], [0.0] * 512 * 8),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    path = tmp_path / "table.onnx"
    graph = helper.make_graph(nodes, "g", [given], [made], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    compiled = cg.compile(path, "h100")
    assert compiled.latency.evaluate(B=1, S=512) > 0
    with pytest.raises(CostgraphError, match="S = 513 exceeds 512"):
        compiled.latency.evaluate(B=1, S=513)


# --- the command line


def _run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


POINT = {
    "formula": ("--metric", "latency"),
    "analyze": ("--phase", "forward", "--batch", "1", "--context", "8"),
    "draw": ("-o", "out.dot"),
    "report": ("-o", "out.html"),
    "explain": ("--metric", "latency", "--at", "B=1,T=8"),
    "regimes": ("--metric", "latency", "--at", "T=8"),
    "solve": ("--metric", "latency", "--at", "T=8", "--budget", "1 s"),
    "sweep": ("-B", "1", "-T", "8", "--metric", "latency"),
}


@pytest.mark.parametrize("command", POINT)
def test_every_command_takes_dimensions(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(DATA / "tiny-llama.pt2")
    target = (command, file, "--on", "h100", *POINT[command], "--dims", "s27=T")
    code, out, err = _run(capsys, *target)
    assert code == 0, err
    assert "taken as the sequence" not in err
    if command == "formula":
        assert "latency(B, T)" in out


def test_numbers_and_sizes_on_the_command_line(capsys):
    file = str(DATA / "tiny-llama.pt2")
    target = ("formula", file, "--on", "h100", "--metric", "flops")
    assert "flops(B) " in _run(capsys, *target, "--dims", "s27=128")[1]
    both = _run(capsys, *target, "--dims", "s23=2", "--dims", "s27=max(T, 4)+1")[1]
    assert "flops(T) " in both
    one = _run(capsys, *target, "--dims", "s23=2,s27=max(T, 4)+1")[1]
    assert one == both


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s27", "is not NAME=X"),
        ("=3", "is not NAME=X"),
        ("s27=", "is not NAME=X"),
        ("s27=1,s27=2", "given twice"),
        ("s2=S", "no dimension is called 's2'; did you mean 's27'"),
        ("s27=0", "must be from 1"),
        ("s27=a b", "not a symbol name"),
        ("s27=9**99", "no size|not a symbol"),
    ],
)
def test_wrong_dimensions_are_one_line(given, message, capsys):
    import re

    file = str(DATA / "tiny-llama.pt2")
    code, _, err = _run(capsys, "formula", file, "--on", "h100", "--dims", given)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_configurations_have_no_dimensions_to_name(capsys):
    code, _, err = _run(capsys, "formula", "gpt2", "--on", "h100", "--dims", "S=T")
    assert code == 2
    assert "dims are for exported graphs" in err
