"""Files of ``torch.export.save``: read as data, without PyTorch, and never run."""

from __future__ import annotations

import contextlib
import io
import json
import random
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import CostgraphError, ModelError
from costgraph.files.archive import Archive
from costgraph.models.pt2_file import read_pt2
from costgraph.models.torch_export import from_torch, load_pt2, read_traced
from costgraph.models.traced.exported import read_exported
from costgraph.models.traced.formats import Dimensions
from costgraph.models.traced.inplace import functional
from costgraph.symbols import B, S, symbol
from tests.importers.crafted import CRAFTS, crafted, members, packed

DATA = Path(__file__).parent / "data"
LLAMA = DATA / "tiny-llama.pt2"
PROGRAM = "archive/models/model.json"


def document() -> dict:
    return json.loads(members(LLAMA.read_bytes())[PROGRAM])


def saved(tmp_path: Path, value: object, **others: bytes) -> Path:
    path = tmp_path / "made.pt2"
    path.write_bytes(packed({PROGRAM: json.dumps(value).encode(), **others}))
    return path


def test_a_file_is_the_program_it_was_saved_from():
    made = from_torch(read_traced(DATA / "tiny-llama.traced.json"), name="tiny-llama")
    assert load_pt2(LLAMA).graph == made.graph
    assert load_pt2(LLAMA, mask="compute", recognise=False).graph == (
        from_torch(
            read_traced(DATA / "tiny-llama.traced.json"), mask="compute", recognise=False
        ).graph
    )


def test_files_are_read_without_pytorch_and_in_little_time():
    code = (
        "import sys, time\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'onnx'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from costgraph.models.torch_export import load_pt2\n"
        f"print(len(load_pt2({str(LLAMA)!r}).graph.nodes), 'zarr' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.split() == [str(len(load_pt2(LLAMA).graph.nodes)), "False"]


def test_the_layout_before_2_8_is_read():
    pytest.importorskip("torch")  # its schemas say which argument is which
    program = load_pt2(DATA / "tiny-conv-2.6.pt2", name="tiny-conv")
    made = from_torch(read_traced(DATA / "tiny-conv.traced.json"), name="tiny-conv")
    assert exact_cost(program.graph).total_flops == exact_cost(made.graph).total_flops
    assert parameters(program.graph) == parameters(made.graph)
    assert [str(x.bound) for x in program.limits] == ["4096"]


# --- nothing in a file runs


def _python(path: str) -> None:
    load_pt2(path)


def _compiled(path: str) -> None:
    cg.compile(path, "h100", "fuse")


def _models(path: str) -> None:
    main(["models", path])


def _analyzed(path: str) -> None:
    arguments = ["--on", "h100", "--phase", "forward", "--batch", "2", "--prompt", "8"]
    main(["analyze", path, *arguments])


def _drafting(path: str) -> None:
    cg.compile("gpt2", "h100", f"speculative{{draft={path}}}")


def _drafting_command(path: str) -> None:
    main(["formula", "gpt2", "--on", "h100", "--passes", f"speculative{{draft={path}}}"])


WAYS = [_python, _compiled, _models, _analyzed, _drafting, _drafting_command]


@pytest.mark.parametrize("kind", CRAFTS)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__.strip("_"))
def test_no_crafted_file_runs_anything(kind, way, tmp_path, capsys):
    canary = tmp_path / "canary"
    path = tmp_path / "crafted.pt2"
    path.write_bytes(crafted(kind, LLAMA.read_bytes(), canary))
    try:
        way(str(path))
    except (CostgraphError, SystemExit) as error:
        text = str(error) if isinstance(error, CostgraphError) else capsys.readouterr().err
        assert text.strip().count("\n") == 0
        # Only code in a size stops the reading; and a program of one phase is no draft.
        assert kind == "code for a size" or "draft" in way.__name__
    assert not canary.exists()


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A file that PyTorch can load."""
    torch = pytest.importorskip("torch")
    from tests.importers.tiny_models import Encoder

    class Small(Encoder):
        def __init__(self) -> None:
            super().__init__(8, 8, 1)
            self.register_buffer("one", torch.ones(1), persistent=False)

        def forward(self, ids):
            return super().forward(ids) * self.one

    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros((2, 4), dtype=torch.int64),)
    made = io.BytesIO()
    torch.export.save(torch.export.export(Small().eval(), example, dynamic_shapes=shapes), made)
    return made.getvalue()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CRAFTS)
def test_the_crafted_files_are_live(kind, whole, tmp_path):
    """PyTorch's own loader runs them: what the test above shows is not their weakness."""
    import torch

    canary, path = tmp_path / "canary", tmp_path / "crafted.pt2"
    path.write_bytes(crafted(kind, whole, canary))
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert canary.exists()


def test_only_the_programs_json_is_opened(tmp_path, monkeypatch):
    contents = members(LLAMA.read_bytes())
    contents["archive/data/weights/weight_0"] = b"x" * 100
    contents["archive/data/sample_inputs/model.pt"] = b"x" * 100
    path = tmp_path / "x.pt2"
    path.write_bytes(packed(contents))
    opened = []
    real = Archive.read
    monkeypatch.setattr(
        Archive, "read", lambda self, name, most: opened.append(name) or real(self, name, most)
    )
    load_pt2(path)
    assert opened == [PROGRAM, "archive/data/weights/model_weights_config.json"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "Symbol('s0').__class__",
        "[x for x in (1,)]",
        "9**9**9",
        "Pow(Symbol('s0'), Integer(10000))",
        "Add(" * 200 + "Integer(1)" + ")" * 200,
        "Mul(" + ", ".join(["Add(Symbol('a'), Symbol('b'))"] * 30) + ")",
        "Integer(" + "9" * 5000 + ")",
        "FloorDiv(Symbol('s0'), Integer(0))",
        "f'{1}'",
        "Symbol(3)",
        "",
    ],
)
def test_sizes_are_arithmetic_and_nothing_else(text, tmp_path):
    value = document()
    meta = next(iter(value["graph_module"]["graph"]["tensor_values"].values()))
    meta["sizes"][0] = {"as_expr": {"expr_str": text}}
    with pytest.raises(CostgraphError) as error:
        load_pt2(saved(tmp_path, value))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# --- what is not understood


def _changed(path: list, new: object):
    def change(value: dict) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = new

    return change


GRAPH = ["graph_module", "graph"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed(["schema_version"], {"major": 9, "minor": 0}), r"version 9\.0 .*; 8 is under"),
        (_changed(["schema_version"], 8), "states no version"),
        (_changed(["graph_module"], []), "not a program"),
        (_changed([*GRAPH, "nodes", 3, "inputs", 0, "arg"], {"as_magic": 1}), "'as_magic'"),
        (_changed([*GRAPH, "nodes", 3, "inputs", 0, "arg"], {}), "not a program"),
        (_changed([*GRAPH, "nodes", 9, "target"], "torch.ops.other.thing.default"), "other.thing"),
        (_changed([*GRAPH, "nodes", 9, "target"], "os.system"), "os.system"),
        (_changed([*GRAPH, "tensor_values", "linear_21", "dtype"], 99), "unknown type"),
        (_changed([*GRAPH, "tensor_values", "ids", "dtype"], 0), "unknown type"),
        (
            _changed([*GRAPH, "tensor_values", "linear_21", "sizes"], [{"as_int": -1}]),
            "a dimension of -1",
        ),
        (_changed(["range_constraints", "s23", "max_val"], "x"), ""),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(change, message, tmp_path):
    value = document()
    change(value)
    if not message:
        load_pt2(saved(tmp_path, value))
        return
    with pytest.raises(ModelError, match=message) as error:
        load_pt2(saved(tmp_path, value))
    assert "\n" not in str(error.value)


def _zipped(contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as target:
        for name, data in contents.items():
            target.writestr(name, data)
    return whole.getvalue()


def _encrypted() -> bytes:
    data = bytearray(_zipped({PROGRAM: b"{}"}))
    for place in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
        data[place] |= 1
    return bytes(data)


ARCHIVES = {
    "nothing": (lambda: b"", "no ZIP archive"),
    "no archive": (lambda: b"PK\x03\x04 and no more", "no ZIP archive"),
    "text": (lambda: b"{}", "no ZIP archive"),
    "a list of members beyond the file": (
        lambda: _zipped({"a": b""})[:-22] + b"PK\x05\x06" + b"\xff" * 18,
        "ZIP|long",
    ),
    "encrypted": (lambda: _encrypted(), "damaged: .*encrypted"),
    "another compression": (lambda: _zipped({PROGRAM: b"{}"}, zipfile.ZIP_LZMA), "unknown way"),
    "no program": (lambda: _zipped({"archive/data/weights/weight_0": b""}), "no member models"),
    "compiled code": (
        lambda: _zipped({"a/data/aotinductor/x.so": b""}),
        "compiled code only",
    ),
    "several programs": (
        lambda: _zipped({"a/models/one.json": b"{}", "a/models/two.json": b"{}"}),
        "several programs: 'one', 'two'",
    ),
    "no JSON": (lambda: _zipped({PROGRAM: b"{"}), "not readable as JSON"),
    "a list": (lambda: _zipped({PROGRAM: b"[]"}), "not a program"),
    "deep JSON": (lambda: _zipped({PROGRAM: b"[" * 100_000}), "nested too deeply"),
    "a long number": (lambda: _zipped({PROGRAM: b"1" * 10_000}), "not readable as JSON"),
    "a bomb": (
        lambda: _zipped({PROGRAM: b" " * (2**27 + 1)}, zipfile.ZIP_DEFLATED),
        "is larger than 128 MiB",
    ),
    "many parts": (lambda: _zipped({PROGRAM: b"[" + b"[]," * 8_000_001}), "parts"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_are_none_are_refused_in_one_line(kind, tmp_path):
    made, message = ARCHIVES[kind]
    path = tmp_path / "x.pt2"
    path.write_bytes(made())
    with pytest.raises(ModelError, match=message) as error:
        load_pt2(path)
    assert "\n" not in str(error.value)
    assert "x.pt2" in str(error.value)


def test_two_members_of_one_name_are_refused(tmp_path):
    data = packed({PROGRAM: b"{}", PROGRAM.replace("model.", "modem."): b"{}"})
    path = tmp_path / "x.pt2"
    path.write_bytes(data.replace(b"modem.", b"model."))
    with pytest.raises(ModelError, match="two members have one name"):
        load_pt2(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    """Seeded: bytes changed, ends cut off."""
    rng = random.Random(5)
    whole = LLAMA.read_bytes()
    path = tmp_path / "x.pt2"
    said = []
    for _ in range(60):
        data = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load_pt2(path)
        except CostgraphError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in text for text in said)


def writing() -> dict:
    """The program with some of its calls writing into their operands."""
    value = document()
    for node in value["graph_module"]["graph"]["nodes"]:
        for name in ("add", "mul"):
            if node["target"] == f"torch.ops.aten.{name}.Tensor":
                node["target"] = f"torch.ops.aten.{name}_.Tensor"
    return value


@pytest.mark.parametrize("made", [document, writing], ids=lambda f: f.__name__)
def test_changed_documents_are_refused_or_read(made):
    """Seeded: any part of the JSON replaced by something of another kind."""
    rng = random.Random(7)
    odd = [None, True, -1, 2**70, 1e308, "", "as_int", "x" * 500, [], {}, [[]], {"as_int": 3}]
    text, said = json.dumps(made()), []
    for _ in range(60):
        value = json.loads(text)
        place = value["graph_module"]
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = rng.choice(list(keys))
            inner = place[key]
            if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.1:
                place[key] = rng.choice(odd)
                break
            place = inner
        try:
            traced = functional(read_exported(value, Dimensions(), "changed"))
            from_torch(traced, recognise=False)
        except CostgraphError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in text for text in said)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.pt2"
    path.write_bytes(ARCHIVES["a bomb"][0]())
    tracemalloc.start()
    with pytest.raises(ModelError, match="larger than"):
        read_pt2(path, Dimensions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 2**27


# --- dimensions


def test_dimensions_of_a_file_go_by_pytorchs_names():
    program = load_pt2(LLAMA)
    assert {B, S} <= exact_cost(program.graph).total_flops.free_symbols
    assert len([n for n in program.notes if "taken as" in n]) == 2
    named = load_pt2(LLAMA, {"s23": "B", "s27": "past + 1"})
    assert named.notes == ()
    assert named.graph.tensors["ids"].shape == (B, symbol("past") + 1)
    with pytest.raises(ModelError, match="no dimension is called 's2'"):
        load_pt2(LLAMA, {"s2": "S"})


def test_bounds_of_the_export_are_limits(tmp_path):
    value = document()
    value["range_constraints"]["s27"]["max_val"] = 200
    path = saved(tmp_path, value)
    compiled = cg.compile(path, "h100")
    compiled.latency.evaluate(B=1, S=200)
    with pytest.raises(CostgraphError, match="200"):
        compiled.latency.evaluate(B=1, S=201)
    with pytest.raises(ModelError, match="exported up to 200, not 300"):
        load_pt2(path, {"s27": 300})
