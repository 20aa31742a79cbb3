"""Kept answers: the same to the byte as fresh ones, and gone when anything they go by changes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from costgraph.cli import answers
from costgraph.cli.entry import _build_parser
from costgraph.files import kept, outside

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("answering.py")
MODEL = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 2048, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
KEY = "0" * 64


@pytest.fixture(scope="module")
def asked():
    """Gives the answers to cases, one after the other, as :mod:`tests.cli.answering` does."""
    warm = (
        "analyze gpt2 --on h100 --context 64",
        "compare gpt2 --on h100 --passes fuse --prompt 9",
    )
    with subprocess.Popen(
        [sys.executable, DRIVER, *warm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "\n"

        def answers_to(*cases):
            found = []
            for case in cases:
                case = dict(case)
                for path, text in case.pop("write", {}).items():
                    path.unlink() if text is None else path.write_text(text)
                process.stdin.write(json.dumps(case) + "\n")
                process.stdin.flush()
                found.append(json.loads(process.stdout.readline()))
            return found

        yield answers_to
        process.stdin.close()


def files(folder):
    return sorted(Path(folder).glob("*")) if Path(folder).exists() else []


# --- the same answer --------------------------------------------------------------------------

#: Commands, and how their output is: width of the terminal, encoding, environment.
FAMILY = [
    ("formula gpt2 --on h100", {}),
    ("formula gpt2 --on h100 --format json", {}),
    ("formula gpt2 --on h100 --format tex", {}),
    ("formula gpt2 --on h100 --detail summary", {"encoding": "ascii"}),
    ("formula gpt2 --on h100 --passes quantize --format json", {}),
    ("analyze gpt2 --on h100 --context 512", {}),
    ("analyze gpt2 --on h100 --context 512", {"terminal": (24, 60)}),
    ("analyze gpt2 --on h100 --context 512", {"terminal": (24, 140)}),
    ("analyze gpt2 --on h100 --context 512",
     {"terminal": (24, 140), "environment": {"NO_COLOR": "1"}}),
    ("analyze gpt2 --on h100 --context 512",
     {"terminal": (24, 140), "environment": {"COLUMNS": "100"}}),
    ("analyze gpt2 --on h100 --context 512", {"terminal": (24, 140), "encoding": "ascii"}),
    ("analyze gpt2 --on h100 --context 513", {}),
    ("analyze gpt2 --on h100 --phase prefill --prompt 64 --json --passes fuse", {}),
    ("compare gpt2 --on h100 --prompt 9 --passes  --passes fuse", {"terminal": (24, 60)}),
    ("compare gpt2 --on h100 --prompt 9 --passes  --passes fuse --json", {}),
    ("regimes gpt2 --on h100 --context 512", {}),
    ("solve gpt2 --on h100 --context 512 --budget 5_ms", {}),
    ("models gpt2", {}),
    ("hardware h100", {"terminal": (24, 60)}),
]  # fmt: skip


def test_a_kept_answer_is_the_fresh_one_to_the_byte(asked, tmp_path):
    folder = str(tmp_path / "kept")
    cases = []
    for line, how in FAMILY:
        case = {"argv": [a.replace("_", " ") for a in line.split(" ")], "place": str(tmp_path)}
        for where, only in (("", False), (folder, False), (folder, True)):
            cases.append({**case, **how, "folder": where, "kept": only})
    found = asked(*cases)
    for at, (line, how) in enumerate(FAMILY):
        plain, first, again = found[3 * at : 3 * at + 3]
        assert plain[0] == 0, (line, plain)
        assert plain[1], line
        assert first == plain, (line, how)
        assert again == plain, (line, how)
    answers = [p for p in files(folder) if b'"said": ' in p.read_bytes()]
    assert len(answers) == len({str(c) for c in FAMILY})
    assert any(errors for _, _, errors in found), "a remark beside the output is in the family"
    assert any("\x1b[" in text for _, text, _ in found), "so are colours"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("formula gpt2 --on nowhere", 2),
        ("analyze gpt2 --on h100", 2),
        ("formula --nope", 2),
        ("formula gpt2 --on h100 --no-cache", 0),
        ("formula gpt2 --on h100 --no-c", 0),
        ("formula --help", 0),
        ("draw gpt2 -o picture.dot", 0),
    ],
)
def test_what_is_not_kept(line, code, asked, tmp_path):
    case = {"argv": line.split(), "place": str(tmp_path)}
    folder = tmp_path / "kept"
    plain, first, again = asked(*({**case, "folder": f} for f in ("", str(folder), str(folder))))
    assert plain[0] == code
    assert plain == first == again
    assert not files(folder)


def test_an_answer_that_nobody_read_to_its_end_is_not_kept(asked, tmp_path):
    case = {"argv": ["passes"], "place": str(tmp_path), "folder": str(tmp_path / "kept")}
    assert asked({**case, "leaves": True}) == [[0, "", ""]]
    assert not files(tmp_path / "kept")
    whole, again = asked(case, {**case, "leaves": True, "kept": True})
    assert whole[0] == 0
    assert again == [0, "", ""]


def test_known_cases_load_neither_sympy_nor_the_parser(tmp_path):
    script = (
        "import sys\nfrom costgraph.cli import program\n"
        "try:\n    program()\nfinally:\n"
        "    print([m for m in ('sympy', 'numpy', 'argparse') if m in sys.modules])\n"
    )

    def run():
        return subprocess.run(
            [sys.executable, "-c", script, "formula", "gpt2", "--on", "h100"], text=True,
            capture_output=True, check=True, cwd=tmp_path,
            env={**os.environ, answers.VARIABLE: str(tmp_path)},
        ).stdout  # fmt: skip

    first, again = run(), run()
    assert "sympy" in first
    assert again.endswith("\n[]\n")
    assert again.rpartition("\n[")[0] == first.rpartition("\n[")[0]


# --- what an answer goes by ---------------------------------------------------------------------


def test_files_outside_are_part_of_the_question(asked, tmp_path):
    """Each step changes one thing that was looked at; the answer follows as without a folder."""
    place, folder = tmp_path / "place", str(tmp_path / "kept")
    (place / "m").mkdir(parents=True)
    config, device = place / "m" / "config.json", place / "d.toml"
    shutil.copy(ROOT / "hardware" / "devices" / "h100.toml", device)
    text = device.read_text()
    wider = json.dumps({**MODEL, "hidden_size": 128})
    index = place / "m" / "model.safetensors.index.json"
    ask = {"argv": ["analyze", "m", "--on", "./d.toml", "--context", "99"], "place": str(place)}
    name = {"argv": ["formula", "gpt2", "--on", "h100"], "place": str(place)}
    steps = [
        (ask, {config: json.dumps(MODEL)}),
        (ask, {config: wider}),
        (ask, {device: text.replace("3.35 TB/s", "2.5 TB/s")}),
        (ask, {index: json.dumps({"metadata": {"total_size": 12345}})}),
        (ask, {index: None}),
        (name, {}),
        (name, {place / "gpt2": wider}),  # a file of that name is nearer than the shipped model
        (name, {place / "gpt2": None}),
    ]
    cases = []
    for case, change in steps:
        cases.append({**case, "folder": "", "write": change})
        cases += [{**case, "folder": folder}, {**case, "folder": folder, "kept": True}]
    found = asked(*cases)
    answers_of = [found[3 * at : 3 * at + 3] for at in range(len(steps))]
    for (_, change), (plain, first, again) in zip(steps, answers_of, strict=True):
        assert plain[0] == 0, plain
        assert plain == first == again, change
    plain = [a[0] for a in answers_of]
    assert "3.35" in text
    for before, after in [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7)]:
        assert plain[before] != plain[after]
    assert plain[4] == plain[2]


def test_the_folder_where_one_is_belongs_to_files_named_from_it(asked, tmp_path):
    places = [tmp_path / n for n in "ab"]
    for place, width in zip(places, (64, 128), strict=True):
        place.mkdir()
        (place / "config.json").write_text(json.dumps({**MODEL, "hidden_size": width}))
    case = {"argv": ["formula", "config.json", "--on", "h100"], "folder": str(tmp_path / "kept")}
    found = asked(*({**case, "place": str(p)} for p in (*places, *places)))
    assert found[0] == found[2] != found[1] == found[3]


@pytest.mark.parametrize("name", ["stays", "size", "time", "new", "gone", "replaced", "deeper"])
def test_every_file_of_the_package_is_part_of_the_question(name, tmp_path, monkeypatch):
    (tmp_path / "inner" / "__pycache__").mkdir(parents=True)
    one, two = tmp_path / "one.py", tmp_path / "inner" / "two.toml"
    one.write_text("1")
    two.write_text("2")
    monkeypatch.setattr(answers, "_roots", lambda: [str(tmp_path), str(tmp_path / "inner")])
    before = answers._code()
    if name == "stays":
        (tmp_path / "inner" / "__pycache__" / "two.pyc").write_text("3")
    elif name == "size":
        one.write_text("11")
    elif name == "time":
        os.utime(one, ns=(1, 1))
    elif name == "new":
        (tmp_path / "three.py").write_text("")
    elif name == "gone":
        one.unlink()
    elif name == "replaced":  # of the same size and time
        when = one.stat().st_mtime_ns
        (tmp_path / "x").write_text("9")
        (tmp_path / "x").replace(one)
        os.utime(one, ns=(when, when))
    else:
        two.write_text("33")
    assert (answers._code() == before) == (name == "stays")


def test_every_module_lies_where_it_is_looked_for():
    roots = tuple(os.path.join(r, "") for r in answers._roots())
    here = [m.__file__ for n, m in list(sys.modules.items()) if n.split(".")[0] == "costgraph"]
    assert len(here) > 20
    assert [f for f in here if not str(f).startswith(roots)] == []


def test_what_is_installed_is_part_of_the_question(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/nowhere", "", os.getcwd()])
    before = answers._installed()
    assert list(before) == [str(tmp_path), "/nowhere"]
    (tmp_path / "sympy-9.dist-info").mkdir()
    assert answers._installed() != before


def test_only_folders_that_are_installed_into_hold_modules_that_are_known(tmp_path):
    """A library that is worked on, and files that happen to lie on the path, change unseen."""
    lib, site, work = os.path.dirname(os.__file__), "/v/lib/site-packages", str(tmp_path)
    assert answers._settled([lib, f"{lib}/lib-dynload", site, work]) == [
        lib, f"{lib}/lib-dynload", site,
    ]  # fmt: skip
    seen = answers._Seen(["/v/costgraph"], [site])
    for path in (f"{site}/x/config.json", "/v/costgraph/models/gpt2.json", f"{work}/config.json"):
        seen._look(path, "file")
    assert [p for p, _ in seen._looked] == [f"{site}/x/config.json", f"{work}/config.json"]


def test_every_variable_that_is_read_is_part_of_the_question(tmp_path):
    """Python's own reading at its start aside; where an answer is kept is no part of it."""
    script = (
        "import os, sys\nread = set()\nkind, get = type(os.environ), type(os.environ).__getitem__\n"
        "kind.__getitem__ = lambda self, name: (read.add(name), get(self, name))[1]\n"
        "kind.__contains__ = lambda self, name: (read.add(name), name in list(self))[1]\n"
        "sys.stdout.isatty = lambda: True\n"
        "from costgraph.cli import main\nmain(sys.argv[1:])\nprint(*sorted(read), file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "analyze", "gpt2", "--on", "h100", "--context", "99"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    read = set(found.stderr.split())
    assert {"COLUMNS", "NO_COLOR", "TERM"} <= read
    assert {n for n in read if not n.startswith(answers.ENVIRONMENT)} == set()


#: Calls that look for a file, in rooms that answers come from; what is told is not among them.
_PROBES = {"exists", "is_file", "is_dir", "isfile", "isdir", "lexists", "stat", "iterdir"}
_ALLOWED = {
    "models/catalog.py": {"isfile"},  # the package's own
    "hardware/loader.py": {"is_file"},  # the package's own
    "costgraph/timing/fidelity/calibration.py": {"is_file"},  # the package's own
    "costgraph/files/outside.py": {"stat"},
    "costgraph/files/writing.py": {"stat"},  # where something is written
}


def test_nobody_looks_for_a_file_unseen():
    rooms = ["models", "hardware", "passes"]
    rooms += [f"costgraph/{r}" for r in ("compiling", "counting", "files", "formula", "ir", "ops")]
    rooms += [f"costgraph/{r}" for r in ("rewriting", "timing", "showing/export")]
    found = {}
    for path in (p for room in rooms for p in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                told = isinstance(node.func.value, ast.Name) and node.func.value.id == "outside"
                if node.func.attr in _PROBES - _ALLOWED.get(name, set()) and not told:
                    found[name] = node.func.attr
    assert found == {"costgraph/files/kept.py": "stat"}


def test_files_that_are_opened_by_another_way_spoil_an_answer(tmp_path, monkeypatch):
    seen = answers._Seen([], [str(tmp_path / "known")])
    monkeypatch.setattr(seen, "_on", True)
    seen._heard("open", (str(tmp_path / "known" / "a"), "r", 0))
    seen._heard("open", (str(tmp_path / "b" / "__pycache__" / "a.pyc"), None, os.O_RDONLY))
    assert not seen._beyond
    seen._look(str(tmp_path / "c"), "file")
    seen._heard("open", (str(tmp_path / "c"), None, os.O_RDONLY))
    assert not seen._beyond
    for path, mode, flags in [("d", "r", 0), ("known/a", "w", os.O_WRONLY), ("c", None, os.O_RDWR)]:
        seen._beyond = False
        seen._heard("open", (str(tmp_path / path), mode, flags))
        assert seen._beyond


def test_who_watches_is_told_of_everything_that_is_looked_at(tmp_path):
    (tmp_path / "f").write_text("1")
    told = []
    with outside.watched(lambda path, state: told.append((os.path.basename(path), state))):
        assert outside.read_text(tmp_path / "f", 9) == "1"
        assert outside.is_file(tmp_path / "f")
        assert outside.is_folder(tmp_path)
        assert not outside.exists(tmp_path / "g\0")
        with pytest.raises(outside.InputError):
            outside.read_text(tmp_path / "h", 9)
    digest = outside.state_of(tmp_path / "f")
    assert len(digest) == 64
    assert told == [
        ("f", "file"), ("f", digest), ("f", "file"), (tmp_path.name, "folder"),
        ("g\0", "nothing"), ("h", "nothing"),
    ]  # fmt: skip


# --- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "HOME/.cache/costgraph"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/costgraph"),
        ({"XDG_CACHE_HOME": "x"}, "HOME/.cache/costgraph"),
        ({"XDG_CACHE_HOME": "/x", "COSTGRAPH_CACHE": "/y"}, "/y"),
        ({"COSTGRAPH_CACHE": ""}, None),
    ],
)
def test_where_answers_are_kept(environment, expected, monkeypatch, tmp_path):
    for name in ("XDG_CACHE_HOME", "COSTGRAPH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = answers.folder(["formula"])
    assert found == (expected and expected.replace("HOME", str(tmp_path)))
    for argv in ([], ["draw"], ["--version"], ["formula", "--no-cache"], ["formula", "--no"]):
        assert answers.folder(argv) is None


def test_every_command_of_which_answers_are_kept_exists_and_takes_the_option():
    choices = next(a for a in _build_parser()._actions if a.choices).choices
    assert choices.keys() >= answers.COMMANDS
    for name, command in choices.items():
        assert (answers.OPTION in command.format_help()) == (name in answers.COMMANDS)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _changed(path):
    path.write_bytes(path.read_bytes().replace(b"bit", b"byte", 1))


def _other(path):
    shutil.copy(next(p for p in path.parent.iterdir() if p != path), path)


def _linked(path):
    path.rename(path.with_name("x"))
    path.symlink_to("x")


DAMAGE = {
    "cut": _cut,
    "changed": _changed,
    "of another question": _other,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 99),
    "long": lambda path: path.write_bytes(b"x" * (kept.MOST_OF_ONE + 2000)),
    "writable by others": lambda path: path.chmod(0o666),
    "a link": _linked,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no answer": lambda path: (path.unlink(), kept.write(str(path.parent), path.stem, b"[1]")),
    "half an answer": lambda path: kept.write(str(path.parent), path.stem, b'{"said": [[0, "x"]]}'),
}


def test_damaged_and_foreign_entries_are_ignored_and_written_anew(asked, tmp_path):
    first = {"argv": ["formats", "fp8"], "place": str(tmp_path), "folder": str(tmp_path / "kept")}
    other = {**first, "argv": ["formats", "int8"]}
    right = asked(first, other)
    assert right[0][0] == 0
    entries = {p: p.read_bytes() for p in files(tmp_path / "kept")}
    path = next(p for p, data in entries.items() if b"fp8" in data)
    for name, damage in DAMAGE.items():
        damage(path)
        healed = name != "a folder"  # is left where it is: no file takes its place
        found = asked({**first, "kept": True}, first, {**first, "kept": healed})
        assert found == [[70, "", ""], right[0], right[0]], name
        if healed:
            assert path.read_bytes() == entries[path], name
        else:
            path.rmdir()
            path.write_bytes(entries[path])


def test_a_folder_that_cannot_be_written_is_no_error(asked, tmp_path):
    (tmp_path / "file").write_text("")
    case = {"argv": ["formats", "fp8"], "place": str(tmp_path)}
    plain, *others = asked(
        *({**case, "folder": f} for f in ("", "/proc/x", str(tmp_path / "file")))
    )
    assert plain[0] == 0
    assert all(o == plain for o in others)


def test_the_folder_is_bounded_and_the_longest_unused_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST_OF_ALL", 500)
    (tmp_path / "of-the-user").write_bytes(bytes(5000))
    keys = [f"{n:064x}" for n in range(5)]
    for at, key in enumerate(keys):
        kept.write(str(tmp_path), key, b"x" * 35)  # 100 bytes with the digest
        os.utime(tmp_path / f"{key}.answer", ns=(at, at))
    assert kept.read(str(tmp_path), keys[0]) is not None  # used last now
    kept.write(str(tmp_path), "f" * 64, b"x" * 35)
    there = {p.stem for p in tmp_path.glob("*.answer")}
    assert there == {keys[0], keys[2], keys[3], keys[4], "f" * 64}
    assert (tmp_path / "of-the-user").exists()
    kept.write(str(tmp_path), KEY, bytes(kept.MOST_OF_ONE + 1))
    assert kept.read(str(tmp_path), KEY) == b"x" * 35  # keys[0] is that key: too long is left


def test_writers_at_once_leave_one_whole_text(tmp_path):
    texts = [bytes([n]) * 50_000 for n in range(1, 5)]
    read, stop = set(), threading.Event()

    def write(text):
        for _ in range(25):
            kept.write(str(tmp_path), KEY, text)

    def look():
        while not stop.is_set():
            read.add(kept.read(str(tmp_path), KEY))

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=write, args=(t,)) for t in texts]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert read <= {None, *texts}
    assert kept.read(str(tmp_path), KEY) in texts
    assert [p.name for p in tmp_path.iterdir()] == [f"{KEY}.answer"]
