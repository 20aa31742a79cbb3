"""Every reader of files from outside: what it opens, how much of it, and what it says."""

from __future__ import annotations

import ast
import gzip
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from costgraph.asking.sweeping.grid import open_sweep
from costgraph.errors import CostgraphError, ModelError
from costgraph.files import outside
from costgraph.hardware import load_hardware
from costgraph.models import load_model
from costgraph.models.torch_export import read_traced
from costgraph.timing.fidelity.calibration import load_calibration
from costgraph.timing.fidelity.first_token import load_first_token
from costgraph.timing.fidelity.frameworks import load_framework
from costgraph.timing.fidelity.table import read_table

ROOT = Path(__file__).parents[2]

#: A reader by the suffix of the files that it takes.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configurations": (".json", load_model),
    "ONNX": (".onnx", load_model),
    "pt2": (".pt2", load_model),
    "traces": (".traced.json", read_traced),
    "devices": (".toml", load_hardware),
    "calibrations": (".toml", load_calibration),
    "frameworks": (".toml", load_framework),
    "servers": (".toml", load_first_token),
    "timings": (".csv", read_table),
    "compressed timings": (".csv.gz", read_table),
    "sweeps": (".nc", open_sweep),
}


@pytest.fixture(params=READERS)
def reader(request) -> tuple[str, Callable[[Path], object]]:
    if request.param == "ONNX":
        pytest.importorskip("onnx")
    if request.param == "sweeps":
        pytest.importorskip("xarray")
    return READERS[request.param]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A reader that waits for a pipe or reads without end fails instead of hanging."""

    def late(*_: object) -> None:
        raise TimeoutError("a reader did not come to an end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(read: Callable[[Path], object], path: Path, message: str) -> None:
    with pytest.raises(CostgraphError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_pipe_is_refused_and_not_waited_for(reader, tmp_path):
    suffix, read = reader
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    refused(read, path, "a pipe, not a regular file")


def test_devices_are_refused(reader, tmp_path):
    suffix, read = reader
    path = tmp_path / f"x{suffix}"
    path.symlink_to("/dev/zero")
    refused(read, path, "a device, not a regular file")


def test_sockets_are_refused(reader, tmp_path, monkeypatch):
    suffix, read = reader
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"x{suffix}")
        refused(read, Path(f"x{suffix}"), "a socket, not a regular file")


def test_directories_are_no_files(reader, tmp_path):
    suffix, read = reader
    path = tmp_path / f"x{suffix}"
    path.mkdir()
    # A directory with a configuration is a model; an empty one is neither that nor a store.
    refused(read, path, "no such file|is a directory|no Zarr store")


def test_what_is_not_there_is_said(reader, tmp_path):
    suffix, read = reader
    refused(read, tmp_path / f"x{suffix}", "no such file")


def test_a_file_in_place_of_a_directory_is_said(reader, tmp_path):
    suffix, read = reader
    (tmp_path / "file").write_text("")
    refused(read, tmp_path / "file" / f"x{suffix}", "no such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_said(reader, tmp_path):
    suffix, read = reader
    path = tmp_path / f"x{suffix}"
    path.write_text("{}")
    path.chmod(0)
    refused(read, path, "not readable")


def test_files_beyond_the_limit_are_not_read(reader, tmp_path):
    suffix, read = reader
    if suffix == ".nc":
        pytest.skip("a store is read piece by piece")
    path = tmp_path / f"x{suffix}"
    with path.open("wb") as file:
        file.truncate(2**43)  # sparse: nothing is written
    refused(read, path, "larger than")


def test_noise_is_refused_in_one_line(reader, tmp_path):
    suffix, read = reader
    path = tmp_path / f"x{suffix}"
    for noise in (b"\xff\xfe\x00\x80", b"\x00" * 25, b"\x1b[31m\xe2\x80\xae", b"PK\x03\x04"):
        path.write_bytes(noise * 9)
        refused(read, path, "x")


@pytest.mark.parametrize("bytes_", [2**26, 2**30])
def test_a_compressed_bomb_is_unpacked_to_the_limit_only(bytes_, tmp_path):
    path = tmp_path / "x.csv.gz"
    part = gzip.compress(b"0" * 2**22)
    path.write_bytes(part * (bytes_ // 2**22))  # members follow one another
    refused(read_table, path, "unpacks to more than 32 MiB")


@pytest.mark.parametrize("cut", [1, 5, 12, -1, -9])
def test_damaged_compression_is_said(cut, tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"hw,dtype\n" * 1000)[:cut])
    refused(read_table, path, "not readable")


def test_tables_of_very_many_rows_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("hw,dtype,m,n,k,seconds\n" + "a\n" * 500_002)
    refused(read_table, path, "more than 500000 rows")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "not readable as JSON"),
        ('{"a": [' + "[]," * 9_000_000 + "0]}", "parts|larger"),
        ('{"a": NaN', "not readable as JSON"),
        ("\ufeff{", "not readable as JSON"),
    ],
)
def test_json_of_any_kind_is_read_or_refused(text, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message) as error:
        outside.read_json(path, 2**25, "", ModelError)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert outside.read_json(path, 100) == {"a": 1}


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"0" * 100)
    real = os.fstat

    class Small:
        def __init__(self, found: os.stat_result) -> None:
            self.st_mode, self.st_size = found.st_mode, 10

    monkeypatch.setattr(outside.os, "fstat", lambda handle: Small(real(handle)))
    with pytest.raises(CostgraphError, match="larger than 50 byte"):
        outside.read_bytes(path, 50)


def test_names_from_a_network_open_nothing_beyond_their_folders(tmp_path):
    inside, beyond = tmp_path / "in" / "a", tmp_path / "b"
    inside.parent.mkdir()
    for path in (inside, beyond):
        path.write_bytes(b"x")
    (inside.parent / "link").symlink_to(beyond)
    with outside.confined(inside.parent):
        assert outside.read_bytes(inside, 9) == b"x"
        for path in (beyond, inside.parent / ".." / "b", inside.parent / "link", "/dev/null"):
            with pytest.raises(CostgraphError, match="files are not read"):
                outside.read_bytes(path, 9)
    assert outside.read_bytes(beyond, 9) == b"x"


# --- nobody else opens files

#: Calls that open or load a file, and who may: this module, writers, and readers of
#: the operating system's own files and of the package's.
_READS = {"open", "read_text", "read_bytes", "load", "loads", "ZipFile", "GzipFile"}
_ALLOWED = {
    "costgraph/files/outside.py": {"open", "read_bytes", "read_text", "loads", "GzipFile"},
    "costgraph/files/archive.py": {"ZipFile", "open"},
    "costgraph/timing/fidelity/kernels.py": {"open"},  # /proc
    "costgraph/timing/fidelity/measure.py": {"read_text"},  # /sys
    "costgraph/showing/report/page.py": {"read_text"},  # the package's own
    "models/catalog.py": {"loads"},  # the package's own, read by outside.package_text
    "costgraph/showing/report/load.py": {"read_text"},  # the package's own
    "costgraph/cli/showing.py": {"read_text"},  # the function of outside.py
    "passes/papers.py": {"loads"},  # the package's own, read by outside.package_text
    "passes/quality.py": {"loads"},  # the package's own, read by outside.package_text
    "costgraph/cli/output.py": {"open"},  # /dev/null
    "costgraph/files/kept.py": {"open"},  # what it wrote itself
    "costgraph/cli/answers.py": {"loads"},  # the same, read by files/kept.py
    "costgraph/files/writing.py": {"open"},  # to flush what was written
    "costgraph/asking/sweeping/export.py": {"open"},  # writes
    "costgraph/asking/sweeping/run.py": {"loads"},  # between processes of one sweep
    "costgraph/asking/sweeping/store.py": {"open"},  # appends
}
_HOLDERS = {"json", "tomllib", "pickle", "np", "numpy", "yaml", "torch", "marshal", "os", "zipfile"}


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in _READS:
            yield node.func.id
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _READS:
            owner = node.func.value
            # json.load is a reader; lowering.load or an archive's own open is not.
            known = isinstance(owner, ast.Name) and owner.id in _HOLDERS
            ours = isinstance(owner, ast.Name) and owner.id == "outside"
            if known or (node.func.attr not in ("load", "loads") and not ours):
                yield node.func.attr


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.AST]:
    """The package's modules, parsed."""
    rooms = ("costgraph", "models", "passes", "hardware")
    paths = [p for room in rooms for p in sorted((ROOT / room).rglob("*.py"))]
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text(encoding="utf-8")) for p in paths}


def test_no_other_module_opens_a_file(modules):
    found = {name: set(_calls(tree)) - _ALLOWED.get(name, set()) for name, tree in modules.items()}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_nothing_evaluates_text_but_the_formulas_own_code(modules):
    """What is evaluated was made from formulas, whose symbols have checked names."""
    names = {"eval", "exec", "sympify", "parse_expr", "Unpickler", "import_string"}
    found = set()
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                strict = any(k.arg == "strict" for k in node.keywords)  # takes no text
                if name in names and not strict:
                    found.add(path)
    formula = "costgraph/formula"
    assert found == {f"{formula}/{m}.py" for m in ("evaluate", "vector_numba", "vector_numpy")}
