"""Spreadsheets: formulas for a cell, as Excel and LibreOffice Calc understand them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.dag import Dag
from costgraph.formula.lower import lower
from costgraph.formula.writer import ATOM, Writer
from costgraph.showing.export.code.header import commented, signature

if TYPE_CHECKING:
    from costgraph.formula import Formula

#: Characters that Excel accepts in one formula.
LONGEST = 8192

# With cells for intermediate values, longer texts get one.
_LONG = 2000

_CELL = re.compile(r"\$?([A-Za-z]{1,3})\$?([1-9][0-9]{0,6})\Z")
# Names that a spreadsheet reads as a cell, a row or a column.
_REFERENCE = re.compile(r"([A-Za-z]{1,3}[0-9]+|[Rr][0-9]*([Cc][0-9]*)?|[Cc][0-9]*)\Z")
_CALLS = {"sqrt": "SQRT", "exp": "EXP", "log": "LN", "abs": "ABS", "trunc": "TRUNC"}


def excel_source(
    formulas: Sequence[Formula], name: str | None, cells: Mapping[str, str], at: str | None
) -> str:
    """Cell formulas; see :func:`costgraph.showing.export.code.source`.

    Without ``at``: a comment, then one line ``=…`` per result. With it, lines
    ``CELL<tab>=…``: shared values first, the results last.

    Raises:
        InputError: an unusable cell, or a formula longer than Excel accepts.
    """
    symbols = {s.name for f in formulas for s in f.symbols}
    for symbol, cell in cells.items():
        if symbol not in symbols:
            raise InputError(f"no symbol {clip(symbol)} to place{nearest(symbol, symbols)}")
        if not _CELL.match(cell):
            raise InputError(f"{symbol}: {clip(cell)} is not a cell; write it like B2 or $B$2")
    reserved = {"R", "C", "TRUE", "FALSE", *(s for s in symbols if _REFERENCE.match(s))}
    if name is not None and _REFERENCE.match(name):
        reserved.add(name)
    made = signature(formulas, name, reserved, fold_case=True, given=cells)
    dag, _ = lower(formulas)
    writer = ExcelWriter(dag, made.names, at)
    lines, results = writer.statements()
    comment = list(made.comment)
    if writer.rows:
        comment.append("Sums run over row numbers: their bounds must lie from 1 to 1048576.")
    for place, result in enumerate(results):
        if at is None:
            lines.append(f"={result}")
            continue
        cell = writer.place()
        lines.append(f"{cell}\t={result}")
        comment.append(f"Result {place + 1} of {len(results)} is in {cell}.")
    for line in lines:
        length = len(line.split("\t")[-1])
        if length > LONGEST:
            hint = "" if at else ": give `at`, a first cell for intermediate values"
            raise InputError(
                f"{made.name}: a formula of {length} characters, "
                f"more than the {LONGEST} that Excel accepts{hint}"
            )
    return commented(comment, "#") + "".join(f"{line}\n" for line in lines)


class ExcelWriter(Writer):
    """Expressions of a spreadsheet; shared values only go to cells of their own."""

    power = "^"

    def __init__(self, dag: Dag, names: Mapping[str, str], at: str | None) -> None:
        super().__init__(dag, names)
        self.rows = False
        self._column, self._row = "", 0
        if at is not None:
            found = _CELL.match(at)
            if not found:
                raise InputError(f"{clip(at)} is not a cell; write it like D1")
            self._column, self._row = found[1].upper(), int(found[2])
        self._inside = False
        self._ranges: dict[int, str] = {}

    def place(self) -> str:
        """The next free cell of the column."""
        cell = f"{self._column}{self._row}"
        self._row += 1
        return cell

    def statements(self) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        if self._column:
            uses = self.dag.used()
            varying: set[int] = set()
            for node in self.dag.nodes:
                if node.op == "loop":
                    varying |= self.dag.depending_on(node.args[2])
            leaves = ("num", "sym", "var", "bool")
            for index, node in enumerate(self.dag.nodes):
                if not uses[index] or index in varying or node.op in leaves:
                    continue
                text = self._text(index)[0]
                own = uses[index] > 1 or node.op in ("loop", "envelope") or len(text) > _LONG
                if own and index not in self.dag.outputs:
                    cell = self.place()
                    self._temporaries[index] = cell
                    lines.append(f"{cell}\t={text}")
        return lines, [self.text(root) for root in self.dag.outputs]

    def number(self, value: Fraction | float) -> str:
        number = float(value)
        whole = number.is_integer() and abs(number) < 1e15
        return str(int(number)) if whole else repr(number).upper()

    def call(self, function: str, arguments: list[str]) -> str:
        if function not in ("max", "min"):
            return f"{_CALLS[function]}({', '.join(arguments)})"
        if not self._inside:
            return f"{function.upper()}({', '.join(arguments)})"
        # MAX would take the largest of all rows at once.
        sign = "+" if function == "max" else "-"
        shown = arguments[0]
        for other in arguments[1:]:
            shown = f"(({shown})+({other}){sign}ABS(({shown})-({other})))/2"
        return f"({shown})"

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        if up:
            return f"(-INT(-({self.ratio(top, bottom)})))"
        return f"INT({self.ratio(top, bottom)})"

    def select(self, condition: str, then: str, otherwise: str) -> str:
        if self._inside:
            return f"(({condition})*({then})+(1-({condition}))*({otherwise}))"
        return f"IF({condition}, {then}, {otherwise})"

    def condition(self, op: str, parts: list[str], value: object) -> str:
        if op in ("and", "or") and self._inside:
            sign = ")*(" if op == "and" else ")+("
            return f"(({sign.join(parts)}))>0"
        if op == "not" and self._inside:
            return f"(1-({parts[0]}))>0"
        if op in ("and", "or", "not"):
            return f"{op.upper()}({', '.join(parts)})"
        return super().condition(op, parts, value)

    def relation(self, sign: str) -> str:
        return {"==": "=", "!=": "<>"}.get(sign, sign)

    def truth(self, value: bool) -> str:
        return "TRUE()" if value else "FALSE()"

    def minus(self, text: str) -> str:
        # A leading minus binds tighter than ^ here: -x^2 would be (-x)^2.
        return f"-1*{text}"

    def envelope(self, bounds: list[str], arms: list[tuple[str, str]]) -> str:
        rows = self._rows(*bounds)
        self._inside = True
        summand = self.call("max", [f"({a})+({b})*{rows}" for a, b in arms])
        self._inside = False
        return self._sum(bounds, summand)

    def _rows(self, low: str, high: str) -> str:
        self.rows = True
        return f'ROW(INDIRECT("A"&({low})&":A"&({high})))'

    def _sum(self, bounds: list[str], summand: str) -> str:
        return f"IF(({bounds[1]})<({bounds[0]}), 0, SUMPRODUCT({summand}))"

    def _text(self, index: int) -> tuple[str, int]:
        node = self.dag.nodes[index]
        if node.op == "var":
            return self._ranges[index], ATOM
        if node.op != "loop":
            return super()._text(index)
        lower, upper, variable, summand = node.args
        bounds = [self.text(lower), self.text(upper)]
        self._ranges[variable] = self._rows(*bounds)
        self._inside = True
        value = self.text(summand)
        self._inside = False
        return self._sum(bounds, value), ATOM
