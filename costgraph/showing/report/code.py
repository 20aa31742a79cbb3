"""JavaScript of a report: expressions gathered, each computed once, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sympy import Expr, Integer

from costgraph.formula import Formula, Term
from costgraph.formula.terms import Arm
from costgraph.showing.export.code.javascript import javascript_source

ONE = Integer(1)


@dataclass
class Scripts:
    """The distinct functions of a page; equal ones are written once."""

    texts: list[str] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, formulas: Sequence[Formula]) -> dict[str, object]:
        """A function of the formulas: its index and the names of its arguments in order."""
        text = _function(formulas)
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        names = sorted({s.name for f in formulas for s in f.symbols})
        return {"code": self._known[text], "args": names}

    def source(self) -> str:
        """All functions as one array, the value of a constant ``FUNCTIONS``."""
        return "const FUNCTIONS = [\n" + ",\n".join(self.texts) + "\n];\n"


@dataclass
class Values:
    """Expressions in order of appearance, each kept once."""

    found: dict[Expr, int] = field(default_factory=dict)

    def index(self, expr: Expr) -> int:
        """The place of an expression among the results."""
        return self.found.setdefault(expr, len(self.found))

    def formulas(self) -> tuple[Formula, ...]:
        """One formula per expression, in order."""
        return tuple(
            Formula("value", "FLOP", () if e == 0 else (Term(ONE, (Arm(e, "value"),)),))
            for e in self.found
        )


def _function(formulas: Sequence[Formula]) -> str:
    """A function expression that returns an array of the formulas' values."""
    text = javascript_source(formulas, "values", module=False)
    code = "\n".join(line for line in text.splitlines() if line and not line.startswith("//"))
    if "</" in code or "<!--" in code:  # comments are the only place for text from outside
        raise AssertionError("generated code must not contain markup")
    return f"(() => {{\n{code}\nreturn values;\n}})()"
