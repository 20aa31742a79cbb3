"""Rooms: what may import what. Data flows one way, and so do imports."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from costgraph.views import VIEWS, view

ROOT = Path(__file__).parents[2]
#: From the lowest: a room imports from those before it, and never from those behind it.
#: ``ground`` are the modules of ``costgraph/`` itself.
ROOMS = (
    "ground", "files", "formula", "hardware", "ir", "ops", "counting", "rewriting", "timing",
    "models", "passes", "compiling", "asking", "showing", "face", "cli",
)  # fmt: skip
#: Views of a compiled model are annotated with what they give, and load nothing.
ANNOTATED = {
    ("compiling.compiled", "asking.explaining"),
    ("compiling.compiled", "showing.draw"),
}


def modules() -> dict[str, Path]:
    """Every module by its name below ``costgraph``."""
    found = {}
    for top in ("costgraph", "passes", "models", "hardware"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if top == "costgraph" else parts
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    first = module.partition(".")[0]
    if module in ("", "__main__"):
        return "face" if not module else "cli"
    return first if MODULES[first].name == "__init__.py" else "ground"


class Imports(ast.NodeVisitor):
    """Every import of the package in a file: at its top, in functions, for types alone."""

    def __init__(self, module: str) -> None:
        self.module, self.for_types = module, False
        self.found: list[tuple[str, bool]] = []

    def visit_If(self, node: ast.If) -> None:
        was = self.for_types
        self.for_types = was or getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in node.body:
            self.visit(child)
        self.for_types = was
        for child in node.orelse:
            self.visit(child)

    def add(self, name: str) -> None:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        self.found.append((name, self.for_types))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "costgraph":
                self.add(alias.name.partition(".")[2])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self.module} imports relatively"
        if (node.module or "").split(".")[0] == "costgraph":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                self.add(f"{base}.{alias.name}".lstrip("."))


@cache
def text(module: str) -> str:
    return MODULES[module].read_text(encoding="utf-8")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(text(module))


# Not made while tests are collected, which every worker does.
@cache
def imports() -> tuple[tuple[str, str, bool], ...]:
    found: list[tuple[str, str, bool]] = []
    for module in MODULES:
        visitor = Imports(module)
        visitor.visit(tree(module))
        found += ((module, *one) for one in visitor.found)
    return tuple(found)


def test_every_module_stands_in_a_room():
    assert {room(m) for m in MODULES} == set(ROOMS)
    assert len(imports()) > 1000


def test_no_room_imports_from_one_above_it():
    """So that there is no circle of rooms either, whenever an import runs."""
    up = {
        (module, other)
        for module, other, _ in imports()
        if ROOMS.index(room(module)) < ROOMS.index(room(other))
    }
    assert up == ANNOTATED
    assert all(t for m, other, t in imports() if (m, other) in ANNOTATED)


def test_modules_of_a_room_that_load_each_other_form_no_circle():
    """Imports at the top of files, of all modules."""
    edges: dict[str, set[str]] = {m: set() for m in MODULES}
    for module in MODULES:
        visitor = Imports(module)
        for node in tree(module).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                visitor.visit(node)
        edges[module] |= {other for other, _ in visitor.found} - {module}
    left = dict(edges)
    while True:
        free = [m for m, others in left.items() if not others & left.keys()]
        if not free:
            break
        for m in free:
            del left[m]
    circle = {m: sorted(others & left.keys()) for m, others in left.items()}
    assert not circle


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_every_view_has_its_function_and_a_user(name):
    assert callable(view(name))
    call = re.compile(rf'view(_text)?\(\s*"{name}"')
    assert any(call.search(text(m)) for m in MODULES), f"nothing shows {name}"


def test_every_package_is_installed():
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    there = {f"costgraph.{m}".rstrip(".") for m, p in MODULES.items() if p.name == "__init__.py"}
    assert sorted(listed) == sorted(there)


def test_changes_that_round_to_none_are_shown_without_a_sign():
    """``+.1%`` makes ``-0.0%`` of a loss too small to show; ``+z.1%`` does not."""
    signed = re.compile(r"\{[^{}\"]*:\+[^z{}][^{}]*\}")
    paths = [*MODULES.values(), *(ROOT / "docs" / "tools").rglob("*.py")]
    found = {path: signed.findall(path.read_text(encoding="utf-8")) for path in paths}
    assert not {path.name: texts for path, texts in found.items() if texts}
