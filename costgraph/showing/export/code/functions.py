"""Functions of a Python module as JavaScript: a page evaluates what Python does, not a copy.

Only a small part of Python is taken, and everything else is an error: functions of numbers,
texts, tuples and arrays; assignments, ``if``, ``for``, ``break`` and ``return``; arithmetic,
comparisons, conditional expressions, calls. Arithmetic works on arrays as NumPy's does:
every operation is a call of the small library ``arrays.js``.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterable
from types import ModuleType

from costgraph.errors import InputError

_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow",
}  # fmt: skip
_RELATIONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "===", ast.NotEq: "!==",
}  # fmt: skip
#: What Python has by itself, as ``arrays.js`` has it.
_BUILTINS = ("abs", "int", "len", "max", "min", "range", "round")
_SKIPPED = (ast.Import, ast.ImportFrom, ast.ClassDef)


def javascript_functions(*modules: ModuleType, library: str) -> str:
    """The functions and constants of modules, as an expression whose value holds them by name.

    Args:
        modules: whose files keep to what is taken.
        library: the text of ``arrays.js``, a definition of ``np``.

    Raises:
        InputError: one holds anything else.
    """
    body = [node for module in modules for node in ast.parse(inspect.getsource(module)).body]
    functions = [n.name for n in body if isinstance(n, ast.FunctionDef)]
    printer = _Printer(functions)
    parts = [printer.top(node) for node in body]
    constants = [t.id for n in body if isinstance(n, ast.Assign) for t in n.targets
                 if isinstance(t, ast.Name) and t.id in printer.constants]  # fmt: skip
    names = ", ".join([*constants, *functions])
    code = "\n".join(filter(None, parts))
    return f"(() => {{\n{library}\n{code}\nreturn {{ {names} }};\n}})()"


class _Printer:
    def __init__(self, functions: Iterable[str]) -> None:
        self.functions = frozenset(functions)
        self.constants: set[str] = set()

    def top(self, node: ast.stmt) -> str:
        """A statement of the module."""
        if isinstance(node, ast.FunctionDef):
            return self.function(node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            (target,) = node.targets
            assert isinstance(target, ast.Name)
            self.constants.add(target.id)
            return f"const {target.id} = {self.expression(node.value)};"
        known = isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)  # of a type
        if known or isinstance(node, _SKIPPED) or _is_text(node):
            return ""
        raise _refused(node)

    def function(self, node: ast.FunctionDef) -> str:
        given = node.args
        if given.vararg or given.kwarg or given.kwonlyargs or given.defaults or node.decorator_list:
            raise _refused(node)
        arguments = [a.arg for a in given.args]
        names = dict.fromkeys(
            n.id
            for x in ast.walk(node)
            for n in ([x.target] if isinstance(x, ast.AnnAssign | ast.AugAssign)
                      else x.targets if isinstance(x, ast.Assign) else [])
            for n in (n.elts if isinstance(n, ast.Tuple) else [n])
            if isinstance(n, ast.Name) and n.id not in arguments
        )  # fmt: skip
        told = [f"let {', '.join(names)};"] if names else []
        lines = [*told, *self.block(node.body)]
        inner = "\n".join(f"  {line}" for line in lines)
        return f"function {node.name}({', '.join(arguments)}) {{\n{inner}\n}}"

    def block(self, nodes: Iterable[ast.stmt]) -> list[str]:
        return [line for node in nodes for line in self.statement(node)]

    def statement(self, node: ast.stmt) -> list[str]:
        if _is_text(node):
            return []
        if isinstance(node, ast.Return) and node.value is not None:
            return [f"return {self.expression(node.value)};"]
        if isinstance(node, ast.Break):
            return ["break;"]
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return [f"{self.target(node.targets[0])} = {self.expression(node.value)};"]
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            return [f"{self.target(node.target)} = {self.expression(node.value)};"]
        if isinstance(node, ast.AugAssign):
            whole = ast.BinOp(_read(node.target), node.op, node.value)
            return [f"{self.target(node.target)} = {self.expression(whole)};"]
        if isinstance(node, ast.If):
            other = self.block(node.orelse)
            return [
                f"if ({self.expression(node.test)}) {{",
                *_inner(self.block(node.body)),
                *(["} else {", *_inner(other)] if other else []),
                "}",
            ]
        if isinstance(node, ast.For) and not node.orelse:
            each = f"for (const {self.target(node.target)} of {self.expression(node.iter)}) {{"
            return [each, *_inner(self.block(node.body)), "}"]
        raise _refused(node)

    def target(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Tuple):
            return f"[{', '.join(map(self.target, node.elts))}]"
        raise _refused(node)

    def expression(self, node: ast.expr) -> str:
        found = getattr(self, f"_{type(node).__name__.lower()}", None)
        if found is None:
            raise _refused(node)
        printed: Callable[[ast.expr], str] = found
        return printed(node)

    def _constant(self, node: ast.Constant) -> str:
        if isinstance(node.value, bool | int | float | str):
            return json.dumps(node.value)
        raise _refused(node)

    def _name(self, node: ast.Name) -> str:
        return f"np.{node.id}" if node.id in _BUILTINS else node.id

    def _attribute(self, node: ast.Attribute) -> str:
        return f"{self.expression(node.value)}.{node.attr}"

    def _call(self, node: ast.Call) -> str:
        if node.keywords or not isinstance(node.func, ast.Name | ast.Attribute):
            raise _refused(node)
        known = isinstance(node.func, ast.Attribute) or node.func.id in self.functions | {
            *_BUILTINS
        }
        if not known:
            raise _refused(node)
        return f"{self.expression(node.func)}({', '.join(map(self.expression, node.args))})"

    def _binop(self, node: ast.BinOp) -> str:
        if type(node.op) not in _BINARY:
            raise _refused(node)
        left, right = map(self.expression, (node.left, node.right))
        return f"np.{_BINARY[type(node.op)]}({left}, {right})"

    def _unaryop(self, node: ast.UnaryOp) -> str:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return f"-{self.expression(node.operand)}"
        if isinstance(node.op, ast.Not):
            return f"!({self.expression(node.operand)})"
        raise _refused(node)

    def _boolop(self, node: ast.BoolOp) -> str:
        sign = " && " if isinstance(node.op, ast.And) else " || "
        return f"({sign.join(map(self.expression, node.values))})"

    def _compare(self, node: ast.Compare) -> str:
        if len(node.ops) != 1 or type(node.ops[0]) not in _RELATIONS:
            raise _refused(node)
        left, right = map(self.expression, (node.left, node.comparators[0]))
        return f"{left} {_RELATIONS[type(node.ops[0])]} {right}"

    def _ifexp(self, node: ast.IfExp) -> str:
        test, yes, no = map(self.expression, (node.test, node.body, node.orelse))
        return f"({test} ? {yes} : {no})"

    def _tuple(self, node: ast.Tuple) -> str:
        return f"[{', '.join(map(self.expression, node.elts))}]"

    def _list(self, node: ast.List) -> str:
        return f"[{', '.join(map(self.expression, node.elts))}]"

    def _starred(self, node: ast.Starred) -> str:
        return f"...{self.expression(node.value)}"

    def _listcomp(self, node: ast.ListComp) -> str:
        (loop, *more) = node.generators
        if more or loop.ifs or not isinstance(loop.target, ast.Name):
            raise _refused(node)
        each = f"({loop.target.id}) => {self.expression(node.elt)}"
        return f"Array.from({self.expression(loop.iter)}, {each})"

    def _subscript(self, node: ast.Subscript) -> str:
        value = self.expression(node.value)
        if isinstance(node.slice, ast.Slice):
            if node.slice.step is not None:
                raise _refused(node)
            low = "0" if node.slice.lower is None else self.expression(node.slice.lower)
            high = "" if node.slice.upper is None else f", {self.expression(node.slice.upper)}"
            return f"{value}.slice({low}{high})"
        return f"{value}.at({self.expression(node.slice)})"


def _inner(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _is_text(node: ast.stmt) -> bool:
    """A docstring, which is left out."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _read(node: ast.expr) -> ast.expr:
    return ast.Name(node.id) if isinstance(node, ast.Name) else node


def _refused(node: ast.AST) -> InputError:
    place = f"line {getattr(node, 'lineno', '?')}"
    return InputError(f"{place}: {type(node).__name__} is no part of Python that is printed")
