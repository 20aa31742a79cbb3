"""Text of a :class:`~costgraph.formula.dag.Dag` in a language: the part all share.

A writer turns nodes into expressions and gives a name to what is used more than
once. Languages differ in the small methods below; the defaults are Python's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from costgraph.formula.dag import Dag

ADD, MUL, UNARY, POW, ATOM = range(1, 6)
CONDITION = 0
_RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
# Longer results are broken into lines.
_LONG = 80
_LEAVES = frozenset(("num", "sym", "var", "bool", *_RELATIONS, "and", "or", "not"))


class Writer:
    """Expressions and statements in Python (``math`` only).

    Args:
        dag: what to write.
        names: a safe name for each free symbol, by its name.
        taken: further names that must not be given to temporaries.
    """

    indent = "    "
    power = "**"
    words = {"and": " and ", "or": " or ", "not": "not "}

    def __init__(self, dag: Dag, names: Mapping[str, str], taken: Collection[str] = ()) -> None:
        self.dag = dag
        self.names = names
        self.helpers: set[str] = set()
        self._temporaries: dict[int, str] = {}
        self._taken = {*names.values(), *taken}

    # --- what a language may change --------------------------------------------

    def number(self, value: Fraction | float) -> str:
        """A constant; whole numbers stay whole."""
        if isinstance(value, Fraction) and value.denominator == 1 and abs(value) < 2**1000:
            return str(value.numerator)
        return repr(float(value))

    def call(self, function: str, arguments: list[str]) -> str:
        """A call of ``max``, ``min``, ``sqrt``, ``exp``, ``log``, ``abs`` or ``trunc``."""
        name = {"trunc": "int", "sqrt": "math.sqrt", "exp": "math.exp", "log": "math.log"}
        return f"{name.get(function, function)}({', '.join(arguments)})"

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        """The quotient of two nodes, rounded up or down."""
        over = self.text(bottom, UNARY)
        if up:
            return f"(-(-{self.text(top, POW)} // {over}))"
        return f"({self.text(top, UNARY)} // {over})"

    def ratio(self, top: int, bottom: int) -> str:
        """A quotient that is not a node of its own."""
        divisor = self.dag.nodes[bottom]
        if divisor.op == "num" and divisor.value == 1:
            return self.text(top)
        return f"{self.text(top, MUL)}/{self.text(bottom, POW)}"

    def raised(self, base: int, exponent: int) -> str:
        """A power."""
        return f"{self.text(base, ATOM)}{self.power}{self.text(exponent, ATOM)}"

    def select(self, condition: str, then: str, otherwise: str) -> str:
        """A choice."""
        return f"({then} if {condition} else {otherwise})"

    def envelope(self, bounds: list[str], arms: list[tuple[str, str]]) -> str:
        """The sum of the largest of affine arms."""
        self.helpers.add("sum_max")
        pairs = ", ".join(f"({a}, {b})" for a, b in arms)
        return f"sum_max({', '.join(bounds)}, ({pairs}))"

    def assign(self, name: str, value: str) -> str:
        """A statement that gives a temporary its value."""
        return f"{name} = {value}"

    def loop(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        """Statements that add up ``value`` over whole values of ``index``."""
        return [
            f"{total} = 0",
            f"for {index} in range(int({bounds[0]}), int({bounds[1]}) + 1):",
            *(self.indent + line for line in body),
            f"{self.indent}{total} += {value}",
        ]

    def smooth(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        """Like :meth:`loop`, of a summand that may be integrated."""
        return self.loop(total, index, bounds, body, value)

    def variable(self, index: str) -> str:
        """The name of a running index."""
        return index

    # --- shared --------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name that nothing else has."""
        name = stem
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def statements(self) -> tuple[list[str], list[str]]:
        """(statements, one expression per output)."""
        dag = self.dag
        uses = dag.used()
        inside: dict[int, set[int]] = {}
        for index, node in enumerate(dag.nodes):
            if node.op == "loop" and uses[index]:
                inside[index] = dag.depending_on(node.args[2])
                self._temporaries[node.args[2]] = self.fresh(str(dag.nodes[node.args[2]].value))
        varying: set[int] = set().union(*inside.values()) if inside else set()
        hoisted = {a for i in varying if uses[i] for a in dag.nodes[i].args if a not in varying}
        lines: list[str] = []
        for index, node in enumerate(dag.nodes):
            if not uses[index] or index in varying:
                continue
            if node.op == "loop":
                lines += self._loop(index, sorted(inside[index]), uses)
            elif node.op not in _LEAVES and (uses[index] > 1 or index in hoisted):
                lines.append(self._named(index))
        return lines, [self.result(root) for root in dag.outputs]

    def _named(self, index: int) -> str:
        value = self._text(index)[0]
        name = self._temporaries[index] = self.fresh(f"v{len(self._temporaries) + 1}")
        return self.assign(name, value)

    def _loop(self, index: int, body: Iterable[int], uses: list[int]) -> list[str]:
        lower, upper, variable, summand = self.dag.nodes[index].args
        bounds = [self.text(lower), self.text(upper)]
        lines = [
            self._named(i)
            for i in body
            if uses[i] > 1 and self.dag.nodes[i].op not in _LEAVES and i != index
        ]
        value = self.text(summand)
        total = self._temporaries[index] = self.fresh(f"v{len(self._temporaries) + 1}")
        made = self.smooth if self.dag.nodes[index].value == "smooth" else self.loop
        return made(total, self._temporaries[variable], bounds, lines, value)

    def text(self, index: int, level: int = CONDITION) -> str:
        """A node as an expression, in parentheses where ``level`` binds tighter."""
        name = self._temporaries.get(index)
        if name is not None:
            return name
        text, own = self._text(index)
        return text if own >= level else f"({text})"

    def _text(self, index: int) -> tuple[str, int]:
        node = self.dag.nodes[index]
        op, args = node.op, node.args
        if op == "num":
            assert isinstance(node.value, (Fraction, float))
            text = self.number(node.value)
            return text, UNARY if text.startswith("-") else ATOM
        if op == "sym":
            return self.names[str(node.value)], ATOM
        if op == "add":
            return self._add(args), ADD
        if op == "mul":
            return self._mul(*args), MUL
        if op == "div":
            return self.ratio(*args), MUL
        if op == "pow":
            return self.raised(*args), POW
        if op in ("ceildiv", "floordiv"):
            return self.rounded(op == "ceildiv", *args), ATOM
        if op == "select":
            return self.select(*(self.text(a) for a in args)), ATOM
        if op == "envelope":
            shown = [self.text(a) for a in args]
            return self.envelope(shown[:2], list(zip(shown[2::2], shown[3::2], strict=True))), ATOM
        if op in _RELATIONS or op in ("and", "or", "not", "bool"):
            return self.condition(op, [self.text(a, ADD) for a in args], node.value), CONDITION
        return self.call(op, [self.text(a) for a in args]), ATOM

    def condition(self, op: str, parts: list[str], value: object) -> str:
        """A relation or a combination of conditions."""
        if op == "bool":
            return self.truth(value == "true")
        if op in _RELATIONS:
            return f"{parts[0]} {self.relation(_RELATIONS[op])} {parts[1]}"
        if op == "not":
            return f"{self.words['not']}{parts[0]}"
        return self.words[op].join(parts)

    def relation(self, sign: str) -> str:
        """The sign of a relation."""
        return sign

    def truth(self, value: bool) -> str:
        """A constant condition."""
        return str(value)

    def _add(self, args: tuple[int, ...]) -> str:
        return "".join(f" {sign} {text}" if sign else text for sign, text in self._summands(args))

    def _summands(self, args: tuple[int, ...]) -> list[tuple[str, str]]:
        """(sign, text) of each operand of a sum; the first has no sign."""
        found: list[tuple[str, str]] = []
        for index in args:
            negated = self._negated(index)
            if negated is None:
                found.append(("+" if found else "", self.text(index, ADD)))
            elif found:
                found.append(("-", negated))
            else:
                first = f"-{negated}" if self._is_number(index) else self.minus(negated)
                found.append(("", first))
        return found

    def result(self, index: int) -> str:
        """An output; a long sum in parentheses, one summand a line."""
        text = self.text(index)
        node = self.dag.nodes[index]
        if len(text) <= _LONG or node.op != "add" or index in self._temporaries:
            return text
        pad = self.indent * 2
        lines = f"(\n{pad}"
        for sign, summand in self._summands(node.args):
            lines += f" {sign}\n{pad}{summand}" if sign else summand
        return f"{lines}\n{self.indent})"

    def _is_number(self, index: int) -> bool:
        return self.dag.nodes[index].op == "num"

    def _negated(self, index: int) -> str | None:
        """The text of ``−x`` if a node is visibly negative."""
        if index in self._temporaries:
            return None
        node = self.dag.nodes[index]
        if node.op == "num" and _number(node.value) < 0:
            return self.number(-_number(node.value))
        if node.op == "mul" and node.args[0] not in self._temporaries:
            first = self.dag.nodes[node.args[0]]
            if first.op == "num" and _number(first.value) < 0:
                value = -_number(first.value)
                factor = "" if value == 1 else self.number(value) + "*"
                return factor + self.text(node.args[1], MUL)
        return None

    def minus(self, text: str) -> str:
        """A product with a minus sign in front."""
        return f"-{text}"

    def _mul(self, a: int, b: int) -> str:
        node = self.dag.nodes[a]
        if node.op == "num" and node.value == -1:
            return self.minus(self.text(b, MUL))
        return f"{self.text(a, MUL)}*{self.text(b, MUL)}"


def _number(value: object) -> Fraction | float:
    assert isinstance(value, (Fraction, float))
    return value


class DoubleWriter(Writer):
    """What C and its like share: one number type, ``?:`` and ``&&``."""

    words = {"and": " && ", "or": " || ", "not": "!"}

    def number(self, value: Fraction | float) -> str:
        return repr(float(value))

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        name = "ceil" if up else "floor"
        return f"{name}({self.ratio(top, bottom)})"

    def select(self, condition: str, then: str, otherwise: str) -> str:
        return f"({condition} ? {then} : {otherwise})"

    def condition(self, op: str, parts: list[str], value: object) -> str:
        shown = super().condition(op, parts, value)
        return shown if op != "not" else f"!({parts[0]})"
